"""Notebook 04, LoRA: count, forward, backward, merge, and two ways to break it."""

import numpy as np

from minilora.methods.lora import count, delta, lora_backward, lora_forward

from ..slips import Case
from .exercise import Unseen, blank, broken, draw, predict, rank, rows, widths


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


def shapes(rng):
    """M rows, I, O, r and s, three times: the last has I = O = r."""
    sides = [[*widths(rng, 2), rank(rng)] for _ in range(2)] + [widths(rng, 1) * 3]
    scales = rng.choice([2.0, 4.0, 8.0, 16.0], 3, replace=False)
    return [(rows(rng), *side, float(s)) for side, s in zip(sides, scales)]


def arrays(rng, M, I, O, r, s):
    """dy, x, W, s, A, B: B away from zero, as it is after the first step."""
    a = draw(rng, dy=(M, O), x=(M, I), W=(O, I), A=(r, I), B=(O, r))
    return {"dy": a["dy"], "x": a["x"], "W": a["W"], "s": s, "A": a["A"], "B": a["B"]}


def cases(rng, reference, names, **paths):
    """Two sets of rectangular shapes and a square one, with the named arguments."""
    args = [arrays(rng, *shape) for shape in shapes(rng)]
    return [Case({n: a[n] for n in names}, reference, adapter="B", **paths) for a in args]


def forward_cases(rng):
    """For y = f(x, W, s, A, B)."""
    slips = {
        "s scales the adapter's path alone, not x Wᵀ": lambda x, W, s, A, B: [
            {"y": s * forward(x, W, 1.0, A, B)["y"]}
        ]
    }
    names, paths = ("x", "W", "s", "A", "B"), dict(two_paths=("y",), rows=("x",))
    return cases(rng, forward, names, slips=slips, **paths)


def backward_cases(rng):
    """For dx, dA, dB = f(dy, x, W, s, A, B)."""
    names = ("dy", "x", "W", "s", "A", "B")
    paths = dict(rows=("dy", "x"), summed=("dA", "dB"), two_paths=("dx",))
    return cases(rng, backward, names, **paths)


def merge_cases(rng):
    """For W' = f(W, s, A, B)."""
    return cases(rng, merge, ("W", "s", "A", "B"), two_paths=("W'",))


def first_dA():
    """The largest entry of dA where B = 0."""
    start = {**arrays(np.random.default_rng(0), 6, 16, 10, 4, 2.0), "B": np.zeros((10, 4))}
    return float(np.abs(backward(**start)["dA"]).max())


EXERCISES = (
    predict(
        "lora_count",
        "How many numbers does LoRA of rank 4 train on a linear of 64 inputs and 128 outputs?",
        (
            "A is (r, I) and B is (O, r).",
            "r·I numbers in A and O·r in B.",
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
            "Which matrix is between A and the output?",
            "dA = dzᵀ x with dz = s·dy B.",
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
        ),
        forward_cases,
    ),
    blank(
        "lora_backward",
        "Every gradient of LoRA: dy, x, W, s, A, B -> dx, dA, dB",
        (
            "y = x Wᵀ + s·(x Aᵀ) Bᵀ. Where is s in the derivative with respect to A?",
            "Call the middle z = x Aᵀ. First compute dz, then dA from dz.",
        ),
        backward_cases,
    ),
    blank(
        "lora_merge",
        "One matrix that does it all: W, s, A, B -> W'",
        (
            "Write y = x W'ᵀ and compare it with the forward pass.",
            "ΔW must have W's shape, (O, I): which of B A and A B has it?",
        ),
        merge_cases,
    ),
    broken(
        "lora_break",
        "Leave the scale out of your lora_backward, and see how the check names the slip",
        (
            "Start from a right lora_backward: dy, x, W, s, A, B -> dx, dA, dB.",
            "The scale comes from y = … + s·z Bᵀ.",
        ),
        backward_cases,
        slip="scale missing",
    ),
    broken(
        "lora_blind",
        "Break dA so that a check at B = 0 cannot see it",
        (
            "What is dA at B = 0, whatever you multiply it by?",
            "Any wrong factor of dA is enough.",
        ),
        backward_cases,
        unseen=Unseen(lambda case: {"B": np.zeros_like(case.args["B"])}, "dA"),
    ),
)
