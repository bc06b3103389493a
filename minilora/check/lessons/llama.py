"""Notebook 02, a Llama: the norm, causal attention, and what happens without the mask."""

import math

import numpy as np

from ...ops import attention, rmsnorm
from ..slips import Case
from .exercise import blank, broken, draw, number, predict, rows, widths


def norm(x, g, eps):
    """y = g x / √(mean x² + eps)."""
    return {"y": rmsnorm.forward(x, g, eps)[0]}


def one_head(q, k, v):
    """Causal attention of one head: q, k, v (T, D) -> o (T, D)."""
    spans = np.array([[0, len(q), 0, len(k)]])
    return {"o": attention.forward(*(a[:, None] for a in (q, k, v)), spans)[0][:, 0]}


def without_mask(q, k, v):
    """Every place sees every other."""
    scores = np.exp(q @ k.T / math.sqrt(q.shape[1]))
    return {"o": scores / scores.sum(1, keepdims=True) @ v}


def masked_by(mask, root=None, weigh=None):
    """Attention with another mask, another root or another way to weigh, for `Case.slips`."""

    def wrong(q, k, v):
        scores = q @ k.T / math.sqrt(q.shape[1] if root is None else root(q))
        e = np.exp(np.where(mask(len(q)), scores, -np.inf))
        return [{"o": w @ v} for w in (weigh(e) if weigh else [e / e.sum(1, keepdims=True)])]

    return wrong


def _unmasked(T):
    return np.ones((T, T))


ATTENTION_SLIPS = {
    "the mask is missing: each place sees what comes after it": masked_by(_unmasked),
    "the mask came after the softmax: the weights of a row no longer add up to 1": masked_by(
        _unmasked, weigh=lambda e: [np.tril(e / e.sum(1, keepdims=True))]
    ),
    "the mask hides what came before: it is to hide what comes later": masked_by(
        lambda T: np.tri(T).T
    ),
    "the scores are divided by √D, the root of the columns of q": masked_by(
        np.tri, root=lambda q: len(q)
    ),
    "the division of the scores by √D is missing": masked_by(np.tri, root=lambda q: 1),
    "a softmax is of each row: the weights of a row add up to 1": masked_by(
        np.tri, weigh=lambda e: [e / e.sum(), e / e.sum(0), e / e.sum(1)]
    ),
    "there is no mask, and a softmax is of each row": masked_by(
        _unmasked, weigh=lambda e: [e / e.sum(), e / e.sum(0), e / e.sum(1)]
    ),
}


def attention_cases(rng):
    """For o = f(q, k, v)."""
    shapes = [(rows(rng), *widths(rng, 1)) for _ in range(2)] + [(6, 6)]
    return [Case(draw(rng, q=n, k=n, v=n), one_head, slips=ATTENTION_SLIPS) for n in shapes]


def eps_elsewhere(x, g, eps):
    """eps left out; beside the root, its square or its root under it; on the sum; as a floor."""
    square = (x**2).mean(1, keepdims=True)
    roots = [
        np.sqrt(square),
        np.sqrt(square) + eps,
        np.sqrt(square + eps**2),
        np.sqrt(square + np.sqrt(eps)),
        np.sqrt(square + eps / x.shape[1]),
        np.sqrt(square + 1e-5),  # a number in place of the argument
        np.sqrt(square + 1e-6),
        np.sqrt(np.maximum(square, eps)),
        np.sqrt(square) + np.sqrt(eps),
    ]
    return [{"y": g * x / root} for root in roots] + [{"y": g * x / roots[0] + eps}]


NORM_SLIPS = {
    "epsilon": eps_elsewhere,
    "the mean runs over all numbers: it is of each row": lambda x, g, eps: [
        {"y": g * x / np.sqrt((x**2).mean() + eps)}
    ],
    "it has the mean of x², not the sum": lambda x, g, eps: [
        {"y": g * x / np.sqrt((x**2).sum(1, keepdims=True) + eps)}
    ],
    "no mean is subtracted: that is LayerNorm": lambda x, g, eps: [
        {"y": g * (a - a.mean(1, keepdims=True)) / np.sqrt((b**2).mean(1, keepdims=True) + eps)}
        for a, b in ((x, x), (x, x - x.mean(1, keepdims=True)))
    ],
    "the square root is missing": lambda x, g, eps: [
        {"y": g * x / ((x**2).mean(1, keepdims=True) + eps)}
    ],
}


def norm_cases(rng):
    """For y = f(x, g, eps): eps is large, so that its place matters."""
    return [
        Case(
            {**draw(rng, x=(rows(rng), C), g=(C,)), "eps": number(rng, 0.05, 0.5)},
            norm,
            slips=NORM_SLIPS,
        )
        for C in widths(rng, 3)
    ]


EXERCISES = (
    predict(
        "llama_kv",
        "Width 128, 4 query heads of 32 and 2 key heads: how many numbers has k_proj's weight?",
        (
            "k_proj maps the width to all key heads side by side.",
            "2 heads of 32 are 64 outputs.",
        ),
        number=lambda: 2 * 32 * 128,
        because="G·D outputs, C inputs: half of q_proj's, since two query heads share a key head.",
        near={
            128 * 128: "that is q_proj's weight: there are fewer key heads",
            32 * 128: "that is one of the two key heads",
        },
    ),
    blank(
        "llama_norm",
        "RMSNorm: x (M, C), g (C,), eps -> y (M, C)",
        (
            "Each row is divided by its root mean square; no mean is subtracted.",
            "eps goes under the root; g multiplies each column. "
            "keepdims=True keeps a mean as a column.",
        ),
        norm_cases,
    ),
    blank(
        "llama_attention",
        "Causal attention of one head: q, k, v (T, D) -> o (T, D)",
        (
            "The scores are q kᵀ/√D. A softmax over each row, times v.",
            "Place t may not see the places after it: set those scores to -inf before the softmax. "
            "np.tri(T) is 1 where a place may look.",
        ),
        attention_cases,
    ),
    broken(
        "llama_break",
        "Attention without the mask: q, k, v (T, D) -> o (T, D)",
        (
            "Start from your attention.",
            "Leave out the mask, and nothing else.",
        ),
        attention_cases,
        wanted=without_mask,
    ),
)
