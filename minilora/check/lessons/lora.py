"""Notebook 04, LoRA: count, forward, backward, merge, and two slips to put in."""

import numpy as np

from ...methods.lora import count, delta, lora_backward, lora_forward
from ..slips import Case
from .exercise import Exercise, draw


def forward(x, W, s, A, B):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ."""
    return {"y": lora_forward(x, W, s, A, B)[0]}


def backward(dy, x, W, s, A, B):
    """dx, dA, dB."""
    dx, _, _, dA, dB, *_ = lora_backward(dy, lora_forward(x, W, s, A, B)[1])
    return {"dx": dx, "dA": dA, "dB": dB}


def merge(W, s, A, B):
    """W' = W + s B A."""
    return {"W'": W + delta(s, A, B)}


SHAPES = ((6, 16, 10, 4, 16.0), (6, 5, 5, 5, 2.0))  # M rows (2 sequences of 3), I, O, r, s


def arrays(seed, M, I, O, r, s):
    """dy, x, W, s, A, B: B away from zero, as it is after the first step."""
    a = draw(seed, dy=(M, O), x=(M, I), W=(O, I), A=(r, I), B=(O, r))
    return {"dy": a["dy"], "x": a["x"], "W": a["W"], "s": s, "A": a["A"], "B": a["B"]}


def cases(reference, names, **known):
    """The two sets of shapes, a rectangular one and a square one, with the named arguments."""
    given = [arrays(seed, *shape) for seed, shape in enumerate(SHAPES)]
    return [Case({n: g[n] for n in names}, reference, adapter="B", **known) for g in given]


def forward_cases():
    """For y = f(x, W, s, A, B)."""
    return cases(forward, ("x", "W", "s", "A", "B"), two_paths=("y",), rows=("x",))


def backward_cases():
    """For dx, dA, dB = f(dy, x, W, s, A, B)."""
    return cases(
        backward,
        ("dy", "x", "W", "s", "A", "B"),
        rows=("dy", "x"),
        summed=("dA", "dB"),
        two_paths=("dx",),
    )


def merge_cases():
    """For W' = f(W, s, A, B)."""
    return cases(merge, ("W", "s", "A", "B"), two_paths=("W'",))


BACKWARD_HINTS = (
    "y = x Wᵀ + s·(x Aᵀ) Bᵀ. Where does s go when you differentiate by A?",
    "Name the middle: z = x Aᵀ. First dz, the gradient that reaches z; then what z does with A.",
    "dz = s·dy B; dA = dzᵀ x; dB = s·dyᵀ z; dx = dy W + dz A.",
)

EXERCISES = (
    Exercise(
        "lora_count",
        4,
        "predict",
        "How many numbers does LoRA of rank 4 train on a linear of 64 inputs and 128 outputs?",
        (
            "A is (r, I) and B is (O, r).",
            "r·I numbers in A and O·r in B.",
            "4 · (64 + 128).",
        ),
        number=lambda: count(64, 128, 4),
        because="r (I + O): of the 8,192 in W it is 9 in a hundred.",
        near=lambda: {
            64 * 128: "all of W: that is full fine-tuning",
            4 * 64: "A alone: B trains too",
            4 * 128: "B alone, as in LoRA-FA: in LoRA A trains too",
            4 * 64 * 128: "a product where a sum belongs: A and B stand side by side",
        },
    ),
    Exercise(
        "lora_first_step",
        4,
        "predict",
        "How large is ‖dA‖ at the very first step, with B = 0?",
        (
            "Which matrix stands between A and the output?",
            "dA = dzᵀ x with dz = s·dy B.",
            "B = 0, so dz = 0.",
        ),
        number=lambda: float(
            np.abs(backward(**{**arrays(0, *SHAPES[0]), "B": np.zeros((10, 4))})["dA"]).max()
        ),
        because="dA = s (dy B)ᵀ x, and B is zero: only B moves at the first step.",
    ),
    Exercise(
        "lora_forward",
        4,
        "blank",
        "y = x Wᵀ + s (x Aᵀ) Bᵀ on plain arrays: x, W, s, A, B -> y",
        (
            "Two paths from x to y, added: one through W, one through A and then B.",
            "Go down first: x Aᵀ has r columns. Never form B A.",
            "x @ W.T + s * ((x @ A.T) @ B.T)",
        ),
        cases=forward_cases,
    ),
    Exercise(
        "lora_backward",
        4,
        "blank",
        "Every gradient of LoRA: dy, x, W, s, A, B -> dx, dA, dB",
        BACKWARD_HINTS,
        cases=backward_cases,
    ),
    Exercise(
        "lora_merge",
        4,
        "blank",
        "One matrix that does it all: W, s, A, B -> W'",
        (
            "Write y = x W'ᵀ and compare it with the forward pass.",
            "ΔW must have W's shape, (O, I): which of B A and A B has it?",
            "W + s * (B @ A)",
        ),
        cases=merge_cases,
    ),
    Exercise(
        "lora_break",
        4,
        "break",
        "Leave the scale out of your lora_backward, and see the check name it",
        (
            "Start from a right lora_backward: dy, x, W, s, A, B -> dx, dA, dB.",
            "The scale comes in with y = … + s·z Bᵀ.",
            "Write dz = dy @ B, and leave the rest.",
        ),
        cases=backward_cases,
        slip="scale missing",
    ),
    Exercise(
        "lora_blind",
        4,
        "break",
        "Break dA so that no check which starts at B = 0 can see it",
        (
            "What is dA at B = 0, whatever you multiply it by?",
            "Any wrong factor in front of dA will do.",
            "Return dx, 3 * dA, dB.",
        ),
        cases=backward_cases,
        unseen=lambda case: {"B": np.zeros_like(case.args["B"])},
    ),
)
