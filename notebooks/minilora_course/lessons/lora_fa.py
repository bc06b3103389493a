"""Notebook 05, LoRA-FA: what is kept, a backward without x, a step with A frozen."""

import numpy as np

from minilora.methods.lora_fa import lora_fa_backward, lora_fa_forward

from ..slips import Case
from .exercise import blank, broken, draw, number, old_and_step, predict, rank, widths
from .lora import arrays, shapes


def backward(dy, z, W, s, A, B):
    """dx, dA = None, dB: from z = x Aᵀ alone."""
    dx, _, _, dA, dB, *_ = lora_fa_backward(dy, (z, W, s, A, B, False))
    return {"dx": dx, "dA": dA, "dB": dB}


def without_the_adapters_path(dy, z, W, s, A, B):
    """dx through W alone."""
    return {**backward(dy, z, W, s, A, B), "dx": dy @ W}


def backward_cases(rng):
    """For dx, dA, dB = f(dy, z, W, s, A, B)."""
    cases = []
    for shape in shapes(rng):
        a = arrays(rng, *shape)
        args = {"dy": a["dy"], "z": a["x"] @ a["A"].T} | {n: a[n] for n in ("W", "s", "A", "B")}
        rows, summed = ("dy", "z"), ("dB",)
        cases.append(Case(args, backward, rows, summed, adapter="B", two_paths=("dx",)))
    return cases


def step(A, B, dA, dB, lr):
    """A, B after a step of plain gradient descent with A frozen."""
    return {"A": A, "B": B - lr * dB}


def step_cases(rng):
    """For A, B = f(A, B, dA, dB, lr)."""
    cases = []
    for _ in range(3):
        (I, O), r = widths(rng, 2), rank(rng)
        a = draw(rng, A=(r, I), B=(O, r), dA=(r, I), dB=(O, r))
        args = {**a, "lr": number(rng, 0.05, 0.5)}
        cases.append(Case(args, step, **old_and_step("B")))
    return cases


def kept_numbers(rows, I, r):
    """How many numbers of activations the pair keeps."""
    a = arrays(np.random.default_rng(0), rows, I, I, r, 2.0)
    _, (z, *_) = lora_fa_forward(a["x"], a["W"], a["s"], a["A"], a["B"])
    return z.size


EXERCISES = (
    predict(
        "lora_fa_kept",
        "32 sequences of 25 tokens, 128 inputs, rank 4: how many numbers are kept for backward?",
        (
            "Count rows first: M = N·T.",
            "What does dB = s·dyᵀ z read, beside dy?",
        ),
        number=lambda: kept_numbers(800, 128, 4),
        because="z = x Aᵀ alone: M·r numbers. LoRA keeps x as well, M·I = 102,400 more.",
        near={
            800 * 128: "that is x: LoRA-FA's backward does not read it",
            800 * 132: "that is what LoRA keeps: x and z",
            32 * 4: "that counts sequences: a row is a token, M = N·T",
            800 * 128 + 128 * 4: "that counts x and A: A is a weight, not kept for backward",
        },
    ),
    blank(
        "lora_fa_backward",
        "Backward without x: dy, z, W, s, A, B -> dx, None, dB",
        (
            "x is not among the arguments. Which gradient needs x?",
            "dB reads dy and z. dx reads dy and the weights: both of its paths stay.",
        ),
        backward_cases,
    ),
    blank(
        "lora_fa_step",
        "One step of plain gradient descent: A, B, dA, dB, lr -> A, B",
        (
            "You are given dA. Do you need it?",
            "The optimizer does not touch A: no gradient, no decay, no moments.",
        ),
        step_cases,
    ),
    broken(
        "lora_fa_break",
        "Forget the adapter's path in dx: dy, z, W, s, A, B -> dx, None, dB",
        (
            "x reaches y twice: through W, and through A and B.",
            "The gradient of x still passes through a frozen A.",
        ),
        backward_cases,
        wanted=without_the_adapters_path,
    ),
)
