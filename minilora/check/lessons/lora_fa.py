"""Notebook 05, LoRA-FA: what is kept, the backward that never sees x, a step with A frozen."""

from typing import Any

from ...methods.lora_fa import lora_fa_backward, lora_fa_forward
from ..slips import Case
from .exercise import Exercise, draw
from .lora import SHAPES, arrays


def backward(dy, z, W, s, A, B):
    """dx, dA = None, dB: from z = x Aᵀ alone."""
    dx, _, _, dA, dB, *_ = lora_fa_backward(dy, (z, W, s, A, B, 0.0, None))
    return {"dx": dx, "dA": dA, "dB": dB}


def backward_cases():
    """For dx, dA, dB = f(dy, z, W, s, A, B)."""
    found = []
    for seed, shape in enumerate(SHAPES):
        a = arrays(seed, *shape)
        args = {"dy": a["dy"], "z": a["x"] @ a["A"].T} | {n: a[n] for n in ("W", "s", "A", "B")}
        known: dict[str, Any] = dict(
            rows=("dy", "z"), summed=("dB",), adapter="B", two_paths=("dx",)
        )
        found.append(Case(args, backward, **known))
    return found


def step(A, B, dA, dB, lr):
    """A, B after a step of plain gradient descent with A frozen."""
    return {"A": A, "B": B - lr * dB}


def moved(A, B, dA, dB, lr):
    """A moves too; or A instead of B."""
    return [{"A": A - lr * dA, "B": B - lr * dB}, {"A": A - lr * dA, "B": B}]


def step_cases():
    """For A, B = f(A, B, dA, dB, lr)."""
    draws = [
        draw(i, A=(r, I), B=(O, r), dA=(r, I), dB=(O, r))
        for i, (r, I, O) in enumerate([(4, 16, 10), (3, 5, 7)])
    ]
    return [Case({**a, "lr": 0.1}, step, slips={"frozen moved": moved}) for a in draws]


def kept_numbers(rows, I, r):
    """(LoRA-FA's, LoRA's): numbers in the arrays that one pair keeps, W, A and B left out."""
    a = arrays(0, rows, I, I, r, 2.0)
    given = [a[n] for n in ("x", "W", "s", "A", "B")]
    return lora_fa_forward(*given)[1][0].size, rows * (I + r)


EXERCISES = (
    Exercise(
        "lora_fa_kept",
        5,
        "predict",
        "32 rows of 25 tokens, 128 inputs, rank 4: how many numbers are kept for backward?",
        (
            "Count rows first: M = N·T.",
            "What does dB = s·dyᵀ z read, beside dy?",
            "z = x Aᵀ: M rows of r numbers, 800 · 4.",
        ),
        number=lambda: kept_numbers(800, 128, 4)[0],
        because="z = x Aᵀ alone: M·r numbers. LoRA keeps x as well, M·I = 102,400 more.",
        near=lambda: {
            800 * 128: "that is x: nothing in LoRA-FA's backward reads it",
            800 * 132: "that is what LoRA keeps: x and z",
            32 * 4: "batch without sequence: a row is a token, M = N·T",
            800 * 128 + 128 * 4: "A and W are weights, held once, not kept for backward",
        },
    ),
    Exercise(
        "lora_fa_backward",
        5,
        "blank",
        "Backward without x: dy, z, W, s, A, B -> dx, None, dB",
        (
            "The arguments say it: there is no x. Which gradient needed it?",
            "dB reads dy and z. dx reads dy and the weights: both of its paths stay.",
            "dy @ W + s * (dy @ B) @ A, None, s * dy.T @ z",
        ),
        cases=backward_cases,
    ),
    Exercise(
        "lora_fa_step",
        5,
        "blank",
        "One step of plain gradient descent: A, B, dA, dB, lr -> A, B",
        (
            "You are handed dA. Is it wanted?",
            "The optimizer may not see A at all: no gradient, no decay, no moments.",
            "A, B - lr * dB",
        ),
        cases=step_cases,
    ),
    Exercise(
        "lora_fa_break",
        5,
        "break",
        "Forget the adapter's path in dx: dy, z, W, s, A, B -> dx, None, dB",
        (
            "x reaches y twice: through W, and through A and B.",
            "A frozen A still passes gradient on to x.",
            "Return dy @ W as dx.",
        ),
        cases=backward_cases,
        slip="path missing",
    ),
)
