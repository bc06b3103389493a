"""Notebook 04, LoRA: count, forward, backward, merge, and two ways to break it."""

import numpy as np

from ...methods.lora import count, delta, lora_backward, lora_forward
from ..slips import Case
from .exercise import blank, broken, draw, predict


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


def cases(reference, names, **paths):
    """Two sets of shapes, one rectangular and one square, with the named arguments."""
    args = [arrays(seed, *shape) for seed, shape in enumerate(SHAPES)]
    return [Case({n: a[n] for n in names}, reference, adapter="B", **paths) for a in args]


def forward_cases():
    """For y = f(x, W, s, A, B)."""
    return cases(forward, ("x", "W", "s", "A", "B"), two_paths=("y",), rows=("x",))


def backward_cases():
    """For dx, dA, dB = f(dy, x, W, s, A, B)."""
    names = ("dy", "x", "W", "s", "A", "B")
    paths = dict(rows=("dy", "x"), summed=("dA", "dB"), two_paths=("dx",))
    return cases(backward, names, **paths)


def merge_cases():
    """For W' = f(W, s, A, B)."""
    return cases(merge, ("W", "s", "A", "B"), two_paths=("W'",))


def first_dA():
    """The largest entry of dA where B = 0."""
    start = {**arrays(0, *SHAPES[0]), "B": np.zeros((10, 4))}
    return float(np.abs(backward(**start)["dA"]).max())


EXERCISES = (
    predict(
        "lora_count",
        "How many numbers does LoRA of rank 4 train on a linear of 64 inputs and 128 outputs?",
        (
            "A is (r, I) and B is (O, r).",
            "r·I numbers in A and O·r in B.",
            "4 · (64 + 128).",
        ),
        number=lambda: count(64, 128, 4),
        because="r (I + O): 9 % of the 8,192 numbers in W.",
        near={
            64 * 128: "that is all of W: full fine-tuning",
            4 * 64: "that is A alone: B trains too",
            4 * 128: "that is B alone, as in LoRA-FA: in LoRA A trains too",
            4 * 64 * 128: "that is a product: add the numbers of A and of B",
        },
    ),
    predict(
        "lora_first_step",
        "How large is ‖dA‖ at the very first step, with B = 0?",
        (
            "Which matrix stands between A and the output?",
            "dA = dzᵀ x with dz = s·dy B.",
            "B = 0, so dz = 0.",
        ),
        number=first_dA,
        because="dA = s (dy B)ᵀ x, and B is zero: only B moves at the first step.",
    ),
    blank(
        "lora_forward",
        "y = x Wᵀ + s (x Aᵀ) Bᵀ on plain arrays: x, W, s, A, B -> y",
        (
            "Add two paths from x to y: one through W, one through A and then B.",
            "Compute x Aᵀ first: it has r columns. Never compute B A.",
            "x @ W.T + s * ((x @ A.T) @ B.T)",
        ),
        forward_cases,
    ),
    blank(
        "lora_backward",
        "Every gradient of LoRA: dy, x, W, s, A, B -> dx, dA, dB",
        (
            "y = x Wᵀ + s·(x Aᵀ) Bᵀ. Where does s go in the derivative by A?",
            "Call the middle z = x Aᵀ. First compute dz, then what dz gives to A.",
            "dz = s·dy B; dA = dzᵀ x; dB = s·dyᵀ z; dx = dy W + dz A.",
        ),
        backward_cases,
    ),
    blank(
        "lora_merge",
        "One matrix that does it all: W, s, A, B -> W'",
        (
            "Write y = x W'ᵀ and compare it with the forward pass.",
            "ΔW must have W's shape, (O, I): which of B A and A B has it?",
            "W + s * (B @ A)",
        ),
        merge_cases,
    ),
    broken(
        "lora_break",
        "Leave the scale out of your lora_backward, and see the check name it",
        (
            "Start from a right lora_backward: dy, x, W, s, A, B -> dx, dA, dB.",
            "The scale comes from y = … + s·z Bᵀ.",
            "Write dz = dy @ B, and leave the rest.",
        ),
        backward_cases,
        slip="scale missing",
    ),
    broken(
        "lora_blind",
        "Break dA so that no check which starts at B = 0 can see it",
        (
            "What is dA at B = 0, whatever you multiply it by?",
            "Any wrong factor of dA will do.",
            "Return dx, 3 * dA, dB.",
        ),
        backward_cases,
        unseen=lambda case: {"B": np.zeros_like(case.args["B"])},
    ),
)
