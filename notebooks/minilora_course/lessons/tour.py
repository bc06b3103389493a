"""Notebook 00, the tour: what is trained, and the step by which it moves."""

from minilora.methods.lora import count

from ..slips import Case
from .exercise import blank, broken, draw, number, old_and_step, predict, rows, widths


def step(w, dw, lr):
    """w' = w - lr dw."""
    return {"w'": w - lr * dw}


def without_rate(w, dw, lr):
    """The learning rate forgotten."""
    return {"w'": w - dw}


def step_cases(rng):
    """For w' = f(w, dw, lr)."""
    shapes = tuple(widths(rng, 2)), (rows(rng),), (3, 2, 4)
    args = [{**draw(rng, w=n, dw=n), "lr": number(rng, 0.05, 0.5)} for n in shapes]
    return [Case(a, step, **old_and_step("w'")) for a in args]


EXERCISES = (
    predict(
        "tour_count",
        "Two weights of 128 x 128 and 64 x 128 get LoRA of rank 4: how many numbers are trained?",
        (
            "Each weight (O, I) gets two thin matrices.",
            "One is r x I, the other O x r: r (I + O) numbers.",
        ),
        number=lambda: count(128, 128, 4) + count(128, 64, 4),
        because="r (I + O) for each weight; the two weights themselves have 24,576 numbers.",
        near={
            128 * 128 + 64 * 128: "that is full fine-tuning: all numbers of the two weights",
            128 + 128 + 64 + 128: "the rank is missing: r (I + O) for each weight",
            4 * (128 + 64): "that is LoRA-FA's count: one thin matrix for each weight",
        },
    ),
    blank(
        "tour_step",
        "One step of gradient descent: w, dw, lr -> w'",
        (
            "dw is the direction in which the loss grows.",
            "The loss must fall: go against dw, by a small step.",
        ),
        step_cases,
    ),
    broken(
        "tour_break",
        "Forget the learning rate: w, dw, lr -> w'",
        (
            "Start from the right step.",
            "Without a learning rate the step is the whole gradient.",
        ),
        step_cases,
        wanted=without_rate,
    ),
)
