"""Notebook 02, a Llama: the norm, causal attention, and what happens without the mask."""

import math

import numpy as np

from ...ops import attention, rmsnorm
from ..slips import Case
from .exercise import Exercise, draw


def norm(x, g, eps):
    """y = g x / √(mean x² + eps)."""
    return {"y": rmsnorm.forward(x, g, eps)[0]}


def one_head(q, k, v):
    """Causal attention of one head: q, k, v (T, D) -> o (T, D)."""
    return {"o": attention.forward(*(a[None, :, None] for a in (q, k, v)))[0][0, :, 0]}


def without_mask(q, k, v):
    """Every place sees every other."""
    scores = np.exp(q @ k.T / math.sqrt(q.shape[1]))
    return {"o": scores / scores.sum(1, keepdims=True) @ v}


def attention_cases():
    """For o = f(q, k, v)."""
    return [Case(draw(i, q=n, k=n, v=n), one_head) for i, n in enumerate([(5, 8), (7, 4)])]


def norm_cases():
    """For y = f(x, g, eps)."""
    return [
        Case({**draw(i, x=(M, C), g=(C,)), "eps": 1e-5}, norm)
        for i, (M, C) in enumerate([(4, 6), (3, 9)])
    ]


EXERCISES = (
    Exercise(
        "llama_kv",
        2,
        "predict",
        "Width 128, 4 query heads of 32 and 2 key heads: how many numbers has k_proj's weight?",
        (
            "k_proj maps the width to all key heads side by side.",
            "2 heads of 32 are 64 outputs.",
            "64 · 128.",
        ),
        number=lambda: 2 * 32 * 128,
        because="G·D outputs, C inputs: half of q_proj's, since two query heads share a key head.",
        near=lambda: {
            128 * 128: "that is q_proj's: the key heads are fewer",
            32 * 128: "one head of the two",
        },
    ),
    Exercise(
        "llama_norm",
        2,
        "blank",
        "RMSNorm: x (M, C), g (C,), eps -> y (M, C)",
        (
            "Each row is divided by its root mean square; no mean is subtracted.",
            "eps goes under the root; g multiplies each column.",
            "g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps)",
        ),
        cases=norm_cases,
    ),
    Exercise(
        "llama_attention",
        2,
        "blank",
        "Causal attention of one head: q, k, v (T, D) -> o (T, D)",
        (
            "Scores q kᵀ/√D, a softmax over each row, times v.",
            "Place t may not see what comes after it: those scores are -inf before the softmax.",
            "np.where(np.tri(len(q)), q @ k.T / np.sqrt(q.shape[1]), -np.inf)",
        ),
        cases=attention_cases,
    ),
    Exercise(
        "llama_break",
        2,
        "break",
        "Attention without the mask: q, k, v (T, D) -> o (T, D)",
        (
            "Start from your attention.",
            "Leave the np.where out.",
            "The softmax of q @ k.T / np.sqrt(D), times v.",
        ),
        cases=attention_cases,
        wanted=without_mask,
    ),
)
