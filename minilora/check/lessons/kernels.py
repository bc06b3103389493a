"""Notebook 09, kernels: what a product could reach, the tile in registers, how it is timed."""

import numpy as np

from ..slips import Case
from .exercise import blank, broken, draw, number, predict, rows, widths


def roof(peak, bandwidth, intensity):
    """The rate that a machine allows at so many operations a byte: the lower of its two roofs."""
    return {"rate": np.minimum(peak, bandwidth * intensity)}


def roof_cases(rng):
    """For rate = f(peak, bandwidth, intensity): numbers, below the ridge and above it."""
    cases = []
    for low, high in ((0.1, 0.8), (1.2, 5.0), (0.1, 0.8), (1.2, 5.0)):
        peak, speed = number(rng, 50, 300), number(rng, 5, 50)
        intensity = peak / speed * rng.uniform(low, high)
        cases.append(Case({"peak": peak, "bandwidth": speed, "intensity": intensity}, roof))
    return cases


def tile(a, b):
    """y = Σ_k a_k b_kᵀ: a sum of outer products."""
    return {"y": a.T @ b}


def last_step(a, b):
    """What the last step alone puts into y."""
    return {"y": np.outer(a[-1], b[-1])}


def tile_cases(rng):
    """For y = f(a, b): a (K, R), b (K, C), one row for each step k."""
    shapes = [(rows(rng), *widths(rng, 2)), (rows(rng), *widths(rng, 2)), (8, 5, 5)]
    sums = dict(rows=("a", "b"), summed=("y",), over="all steps k")
    return [Case(draw(rng, a=(K, R), b=(K, C)), tile, **sums) for K, R, C in shapes]


def times_faster(mine, theirs):
    """The median of the rounds' ratios."""
    return {"ratio": np.median(theirs / mine)}


def times_cases(rng):
    """For ratio = f(mine, theirs): seconds of each round; in some, other work was running."""
    cases = []
    for count in widths(rng, 3):
        noise = draw(rng, mine=(count,), theirs=(count,))
        busy = rng.permutation([6, 3, 1.5] + [1] * (count - 3))  # other work that slows both
        mine, theirs = (busy * (1 + 0.1 * noise[n] ** 2) for n in ("mine", "theirs"))
        theirs[rng.integers(count)] *= 9  # and once only one of them
        args = {"mine": 2e-3 * mine, "theirs": number(rng, 3e-3, 8e-3) * theirs}
        cases.append(Case(args, times_faster))
    return cases


EXERCISES = (
    predict(
        "kernel_intensity",
        "x and w are 600 x 600 in float32 and y = x w: how many operations for each byte that must "
        "move, if each number moves once?",
        (
            "A multiplication and an addition are two operations: 2·600³ of them.",
            "x and w are read, y is written: 3·600² numbers of four bytes.",
            "2·600³ / (4·3·600²).",
        ),
        number=lambda: 2 * 600**3 / (4 * 3 * 600**2),
        because="2n³ operations on 12n² bytes, n/6: the larger the product, the less it waits.",
        near={
            200: "that is operations for each number: a number has four bytes",
            50: "a multiplication and an addition are two operations",
            150: "y must be written, too",
        },
    ),
    blank(
        "kernel_roof",
        "The two roofs: peak, bandwidth, intensity -> operations a second",
        (
            "`bandwidth` bytes arrive each second, and each byte allows `intensity` operations.",
            "The rate is limited by the bytes that arrive, and by what the processor can do.",
            "np.minimum(peak, bandwidth * intensity)",
        ),
        roof_cases,
    ),
    blank(
        "kernel_tile",
        "A tile: a (K, R), b (K, C) -> y (R, C), one step k after the other",
        (
            "Step k multiplies each number of a[k] with each of b[k]: np.outer.",
            "The block y stays where it is, and each step adds to it.",
            "y = np.zeros((R, C)), then for each k: y += np.outer(a[k], b[k])",
        ),
        tile_cases,
    ),
    broken(
        "kernel_break",
        "Write = where += is meant: a (K, R), b (K, C) -> y (R, C)",
        (
            "Start from the right tile.",
            "What is in y after the last step, if each step replaces it?",
            "np.outer(a[-1], b[-1])",
        ),
        tile_cases,
        wanted=last_step,
    ),
    blank(
        "kernel_ratio",
        "Seconds of two ways, round by round: mine, theirs -> how many times as fast mine is",
        (
            "In one round the machine is equally busy for both ways: divide within the round.",
            "A round with other work must not count for more than one round.",
            "np.median(theirs / mine)",
        ),
        times_cases,
    ),
)
