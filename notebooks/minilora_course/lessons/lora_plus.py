"""Notebook 08, LoRA+: which factor gets the ratio, and how the best single rate falls."""

from minilora.methods.lora_plus import lr_scale

from ..slips import Case, Slips
from .exercise import blank, broken, draw, number, old_and_step, predict, rank, widths


def step(A, B, dA, dB, lr, ratio):
    """A', B' after a step of plain gradient descent: A at lr, B at ratio·lr."""
    rates = {"A": lr} | {n: lr * factor for n, factor in lr_scale({"ratio": ratio}).items()}
    return {"A'": A - rates["A"] * dA, "B'": B - rates["B"] * dB}


def ratio_on_a(A, B, dA, dB, lr, ratio):
    """The ratio on A; A slowed down instead."""
    return [{"A'": A - ratio * lr * dA}, {"A'": A - lr / ratio * dA}]


def without_ratio(A, B, dA, dB, lr, ratio):
    """Both at the rate lr: plain LoRA."""
    return [{"A'": A - lr * dA, "B'": B - lr * dB}]


def exchanged(A, B, dA, dB, lr, ratio):
    """The ratio on A instead of B."""
    return {"A'": A - ratio * lr * dA, "B'": B - lr * dB}


def step_cases(rng):
    """For A', B' = f(A, B, dA, dB, lr, ratio)."""
    cases = []
    slips: Slips = {
        "ratio on A": ratio_on_a,
        "ratio missing": without_ratio,
        "B's rate is ratio times lr, not lr / ratio": lambda **a: [
            {"B'": step(**a | {"ratio": 1 / a["ratio"]})["B'"]}
        ],
    }
    for _ in range(3):
        (I, O), r = widths(rng, 2), rank(rng)
        a = draw(rng, A=(r, I), B=(O, r), dA=(r, I), dB=(O, r))
        args = {**a, "lr": number(rng, 0.01, 0.05), "ratio": number(rng, 4, 20)}
        cases.append(Case(args, step, slips=slips, **old_and_step("A'", "B'")))
    return cases


EXERCISES = (
    predict(
        "lora_plus_width",
        "Gradient descent: the best single rate is 0.1 at width 64. What is it at width 1024?",
        (
            "It is of the order of 1 over z² + n b² at the end. How does that grow with n?",
            "z² + n b² is about 2 √n |y|, and the width is 16 times as large.",
        ),
        number=lambda: 0.1 * (1024 / 64) ** -0.5,
        because="1/√n: z grows as n to the power 1/4, so z² + n b² grows as √n, here 4 times.",
        near={
            0.1 / 16: "that is 1/n: it would be so if z stayed of order one",
            0.1 / 2: "that is n to the power -1/4, as b falls: the rate goes with z² + n b²",
            0.1: "that is no change: at a greater width this rate diverges",
            0.1 * 4: "that is √n times as large: divide",
        },
    ),
    blank(
        "lora_plus_step",
        "One step of plain gradient descent: A, B, dA, dB, lr, ratio -> A', B'",
        (
            "A (r, I) is the down-projection, which reads x; B (O, r) comes after it.",
            "A sums over all inputs, so its steps count for more: the larger rate is B's.",
        ),
        step_cases,
    ),
    broken(
        "lora_plus_break",
        "Give the ratio to A: A, B, dA, dB, lr, ratio -> A', B'",
        (
            "Start from the right step.",
            "Exchange the two rates.",
        ),
        step_cases,
        wanted=exchanged,
    ),
)
