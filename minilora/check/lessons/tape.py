"""Notebook 01, the tape: two pairs to write, a cache to weigh."""

import numpy as np

from ...ops import linear, mul
from ..slips import Case
from .exercise import Exercise, draw


def mul_backward(dy, a, b):
    """da, db of y = a b."""
    return dict(zip(("da", "db"), mul.backward(dy, (a, b))))


def linear_backward(dy, x, W):
    """dx, dW of y = x Wᵀ."""
    return dict(zip(("dx", "dW"), linear.backward(dy, (x, W))))


def mul_cases():
    """For da, db = f(dy, a, b)."""
    return [Case(draw(i, dy=n, a=n, b=n), mul_backward) for i, n in enumerate([(3, 4), (2, 5)])]


def linear_cases():
    """For dx, dW = f(dy, x, W)."""
    return [
        Case(
            draw(i, dy=(M, O), x=(M, I), W=(O, I)),
            linear_backward,
            rows=("dy", "x"),
            summed=("dW",),
        )
        for i, (M, I, O) in enumerate([(6, 5, 4), (6, 3, 3)])
    ]


EXERCISES = (
    Exercise(
        "tape_bytes",
        1,
        "predict",
        "a and b are 100 x 100 in float64: how many bytes does the cache of a · b hold?",
        (
            "What does backward read? da = dy · b.",
            "And db = dy · a: both inputs, and not the output.",
            "Two arrays of 10,000 numbers of 8 bytes.",
        ),
        number=lambda: sum(a.nbytes for a in mul.forward(*np.ones((2, 100, 100)))[1]),
        because="backward reads a and b: two arrays of 80,000 bytes.",
        near=lambda: {
            80_000: "one array: da reads b, and db reads a",
            240_000: "the output as well: backward does not read it",
            20_000: "those are numbers: float64 has 8 bytes each",
            80_000 / 2: "that is float32, and one array",
        },
    ),
    Exercise(
        "mul_backward",
        1,
        "blank",
        "Both gradients of y = a · b, element by element: dy, a, b -> da, db",
        (
            "Hold b fixed: y is a times a constant.",
            "dy is handed on, times what stood beside a.",
            "dy * b, dy * a",
        ),
        cases=mul_cases,
    ),
    Exercise(
        "linear_backward",
        1,
        "blank",
        "Both gradients of y = x Wᵀ: dy, x, W -> dx, dW",
        (
            "A gradient has its primal's shape: (M, I) and (O, I).",
            "Only one way to multiply dy (M, O) with W gives (M, I). For dW the rows must go.",
            "dy @ W, dy.T @ x",
        ),
        cases=linear_cases,
    ),
    Exercise(
        "linear_break",
        1,
        "break",
        "Leave out the sum over rows in dW: dy, x, W -> dx, dW",
        (
            "W serves every row, so its gradient is a sum over the rows.",
            "A mean, or one row alone, has the right shape and the wrong numbers.",
            "dy @ W, dy.T @ x / len(x)",
        ),
        cases=linear_cases,
        slip="no sum",
    ),
)
