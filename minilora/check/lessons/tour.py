"""Notebook 00, the tour: what is trained, and the step by which it moves."""

from ...methods.lora import count
from ..slips import Case
from .exercise import Exercise, draw


def step(w, dw, lr):
    """w' = w - lr dw."""
    return {"w'": w - lr * dw}


def without_rate(w, dw, lr):
    """The rate forgotten."""
    return {"w'": w - dw}


def step_cases():
    """For w' = f(w, dw, lr)."""
    return [
        Case({**draw(i, w=shape, dw=shape), "lr": 0.1}, step)
        for i, shape in enumerate([(3, 4), (5,)])
    ]


EXERCISES = (
    Exercise(
        "tour_count",
        0,
        "predict",
        "Two weights of 128 x 128 and 64 x 128 get LoRA of rank 4: how many numbers are trained?",
        (
            "Each weight (O, I) gets two thin matrices.",
            "One is r x I, the other O x r: r (I + O) numbers.",
            "4 · (128 + 128) + 4 · (64 + 128).",
        ),
        number=lambda: count(128, 128, 4) + count(128, 64, 4),
        because="r (I + O) for each; the two weights themselves have 24,576.",
        near=lambda: {
            128 * 128 + 64 * 128: "that is full fine-tuning: all of the two weights",
            4 * (128 + 64): "that is LoRA-FA's: one of the two thin matrices each",
        },
    ),
    Exercise(
        "tour_step",
        0,
        "blank",
        "One step of gradient descent: w, dw, lr -> w'",
        (
            "dw says in which direction the loss grows.",
            "The loss is to fall: go against dw, and not all the way.",
            "w - lr * dw",
        ),
        cases=step_cases,
    ),
    Exercise(
        "tour_break",
        0,
        "break",
        "Forget the learning rate: w, dw, lr -> w'",
        (
            "Start from the right step.",
            "A step without a rate goes all the way along the gradient.",
            "w - dw",
        ),
        cases=step_cases,
        wanted=without_rate,
    ),
)
