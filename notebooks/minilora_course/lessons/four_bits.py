"""Notebook 15, a base in four bits: levels, codes and scales, and LoRA's pair on such a weight."""

from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from minilora.formats.forms import NF4
from minilora.methods.lora import lora_backward, lora_forward

from ..slips import Case, Slips
from .exercise import blank, blank_pair, both, broken, draw, number, predict, rank, rows, widths
from .held import holds_floats


def quantise(w, levels):
    """The nearest level to w / absmax, in each row of w (n, b).   codes (n, b), absmax (n, 1)."""
    absmax = np.abs(w).max(1, keepdims=True)
    return {"codes": nearest(w / absmax, levels), "absmax": absmax}


def nearest(z, levels):
    """The index of the level that is nearest to each number."""
    return np.abs(z[..., None] - levels).argmin(-1)


def dequantise(codes, absmax, levels):
    """w = level[code] · absmax."""
    return {"w": levels[codes] * absmax}


def by_quantiles(quantile, below, above, edge):
    """0 and quantiles at equal steps of probability on both sides of it, scaled to end at 1."""
    down, up = (halves(quantile, count, edge) for count in (below, above))
    return {"levels": scaled([*-np.array(down[::-1]), 0, *up])}


def halves(quantile, count, edge):
    """Quantiles above 0, rising to that of the probability `edge`."""
    return [quantile(p) for p in np.linspace(0.5, edge, count + 1)[1:]]


def scaled(levels):
    """Levels whose largest size is 1."""
    return np.array(levels) / np.abs(levels).max()


def no_zero(quantile, below, above, edge):
    """As many levels in equal steps of probability over both sides at once."""
    steps = np.linspace(1 - edge, edge, below + above + 1)
    return {"levels": scaled([quantile(p) for p in steps])}


def equal_steps(below, above):
    """Levels in equal steps of w, on each side of 0."""
    return np.concatenate([np.linspace(-1, 0, below + 1), np.linspace(0, 1, above + 1)[1:]])


def second(absmax, levels, size, less=True, more=True):
    """The dequantised scales: quantised in blocks, after their mean was subtracted.

    less, more: is the mean taken away, and added again?
    """
    mean = absmax.mean()
    found = quantise((absmax - less * mean).reshape(-1, size), levels)
    w = dequantise(found["codes"], found["absmax"], levels)["w"]
    return {"absmax": w.ravel() + more * mean}


def pair_forward(x, codes, absmax, levels, s, A, B):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ, W = level[codes] · absmax."""
    W = dequantise(codes, absmax, levels)["w"].reshape(len(B), -1)
    return lora_forward(x, W, s, A, B)[0], (x, codes, absmax, levels, s, A, B)


def pair_backward(dy, cache):
    """dx, dA, dB in their places: W is dequantised again."""
    x, codes, absmax, levels, s, A, B = cache
    W = dequantise(codes, absmax, levels)["w"].reshape(len(B), -1)
    dx, _, _, dA, dB, *_ = lora_backward(dy, lora_forward(x, W, s, A, B)[1])
    return dx, None, None, None, None, dA, dB


def some_levels(rng, count):
    """Rising, from -1 to 1, in unequal steps."""
    steps = np.cumsum(0.3 + rng.random(count))
    return 2 * (steps - steps[0]) / (steps[-1] - steps[0]) - 1


def quantise_cases(rng):
    """For codes, absmax = f(w, levels)."""
    slips: Slips = {
        "absmax is the largest size of a block: a negative weight may have it": _with_scale(
            lambda w: w.max(1, keepdims=True)
        ),
        "each block has an absmax of its own": _with_scale(
            lambda w: np.full((len(w), 1), np.abs(w).max())
        ),
        "w is divided by the absmax of its block before a level is looked for": lambda w, levels: [
            {"codes": nearest(w, levels)}
        ],
        "the nearest level may lie on either side: not always the lower, not always the upper": (
            _one_sided
        ),
        "a code is the index of a level, not the level": lambda w, levels: [
            {"codes": levels[quantise(w, levels)["codes"]]}
        ],
        "the levels are not equally far apart: look for the nearest one": lambda w, levels: [
            {"codes": np.rint((w / np.abs(w).max(1, keepdims=True) + 1) / 2 * (len(levels) - 1))}
        ],
    }
    cases = []
    for _ in range(3):
        w = draw(rng, w=(rows(rng), widths(rng, 1)[0]))["w"] * (1 + 9 * rng.random((1, 1)))
        w[:3] *= np.array([[0.1], [1], [-5]])  # blocks of different sizes
        w[np.arange(2), [0, 1]] = [-4 * np.abs(w[0]).max(), 4 * np.abs(w[1]).max()]
        cases.append(Case({"w": w, "levels": some_levels(rng, 16)}, quantise, slips=slips))
    return cases


def _with_scale(scale):
    """The outputs with another scale instead of absmax."""
    return lambda w, levels: [{"codes": nearest(w / scale(w), levels), "absmax": scale(w)}]


def _one_sided(w, levels):
    z = w / np.abs(w).max(1, keepdims=True)
    places = (np.searchsorted(levels, z, side) for side in ("right", "left"))
    shifted = [n - 1 + up for n, up in zip(places, (0, 1))]
    return [{"codes": np.clip(codes, 0, len(levels) - 1)} for codes in shifted]


def dequantise_cases(rng):
    """For w = f(codes, absmax, levels)."""
    slips: Slips = {
        "absmax is missing: a level is a share of it": lambda codes, absmax, levels: [
            {"w": levels[codes]},
            {"w": levels[codes] / absmax},
        ],
        "a code is the index of a level, not a level": lambda codes, absmax, levels: [
            {"w": codes * absmax}
        ],
        "the levels are not equally far apart: look them up by their index": (
            lambda codes, absmax, levels: [
                {"w": np.linspace(-1, 1, len(levels))[codes] * absmax},
                {"w": codes / (len(levels) - 1) * absmax},
            ]
        ),
    }
    cases = []
    for _ in range(2):
        n, b, levels = rows(rng), widths(rng, 1)[0], some_levels(rng, 16)
        args = {"codes": rng.integers(0, 16, (n, b)), "absmax": 0.5 + rng.random((n, 1))}
        cases.append(Case({**args, "levels": levels}, dequantise, slips=slips))
    return cases


def level_cases(rng):
    """For levels = f(quantile, below, above, edge)."""
    slips: Slips = {
        "the largest level is 1: divide by it": lambda quantile, below, above, edge: [
            {"levels": by_quantiles(quantile, below, above, edge)["levels"] * quantile(edge)}
        ],
        "no level is exactly 0: begin each half at the probability 1/2": lambda **a: [no_zero(**a)],
        "0 is there twice: both halves begin at it": lambda quantile, below, above, edge: [
            {"levels": np.sort([0, *by_quantiles(quantile, below, above, edge)["levels"]])}
        ],
        "the steps are equal in probability, not in the level": lambda below, above, **_: [
            {"levels": equal_steps(below, above)},
            {"levels": np.linspace(-1, 1, below + above + 1)},
        ],
        "the halves are exchanged: `below` levels are negative": (
            lambda quantile, below, above, edge: [by_quantiles(quantile, above, below, edge)]
        ),
        "levels rise from -1 to 1": lambda **a: [
            {"levels": by_quantiles(**a)["levels"][::-1]},
        ],
    }  # fmt: skip
    cases = []
    for below, above, width in ((7, 8, 0.7), (3, 4, 1.1), (2, 5, 1.9)):
        args = {"quantile": quantile_of(width), "below": below, "above": above}
        args["edge"] = number(rng, 0.9, 0.98)
        cases.append(Case(args, by_quantiles, slips=slips))
    return cases


@cache
def quantile_of(width):
    """The quantiles of a distribution around 0 that is not quite a normal one: a function of p."""
    normal = np.vectorize(NormalDist(0, width).inv_cdf, otypes=[float])
    return lambda p: normal(p) * (1 + 0.1 * abs(2 * p - 1))


def second_cases(rng):
    """For absmax, as it is read back = f(absmax, levels, size)."""
    slips: Slips = {
        "all scales are above 0: if the mean is not subtracted, half of the levels are unused": (
            lambda **a: [second(**a, less=False, more=False)]
        ),
        "the mean was subtracted and is not added again": lambda **a: [second(**a, more=False)],
        "the mean is added, but was not subtracted": lambda **a: [second(**a, less=False)],
        "each block of scales has a scale of its own": lambda absmax, levels, size: [
            second(absmax, levels, len(absmax))
        ],
        "the mean is one number for all scales, not one for each block": (
            lambda absmax, levels, size: [
                {
                    "absmax": np.ravel(
                        [second(a, levels, size)["absmax"] for a in absmax.reshape(-1, size)]
                    )
                }
            ]
        ),
        "these are the given scales: they were not quantised": lambda absmax, **_: [
            {"absmax": absmax}
        ],
    }
    cases = []
    for _ in range(2):
        size, n = widths(rng, 1)[0], rows(rng)
        absmax = (1 + 0.2 * rng.random(n * size)) * np.repeat(1 + rng.random(n), size)
        args = {"absmax": absmax, "levels": some_levels(rng, 12), "size": size}
        cases.append(Case(args, second, slips=slips))
    return cases


KEPT = "W in the cache"  # an output of the pair: 0, or 1 where it keeps what has W's size in floats
KEEPS_W = (
    "the cache holds W in full precision, or what has as many numbers: keep codes and absmax, and "
    "make W again in backward"
)


def pair_cases(rng):
    """For y, dx, None, …, dA, dB, and whether W is kept: f(dy, x, codes, absmax, …, s, A, B)."""

    def reference(dy, **args):
        y, cache = pair_forward(**args)
        grads = dict(zip((f"d{name}" for name in args), pair_backward(dy, cache)))
        return {"y": y, **grads, KEPT: 0.0}

    slips: Slips = {KEEPS_W: lambda **_: [{KEPT: 1.0}]}
    paths: dict[str, Any] = dict(
        rows=("dy", "x"), summed=("dA", "dB"), two_paths=("y", "dx"), adapter="B"
    )
    cases = []
    for s in rng.permutation([2.0, 5.0]):
        M, (I, O), r = rows(rng), widths(rng, 2), rank(rng)
        a = draw(rng, dy=(M, O), x=(M, I), A=(r, I), B=(O, r))
        # a block is as long as a column of W, so W is not read off without its shape; below 15,
        # since the pair is also called with each argument made larger by 1
        codes, absmax = rng.integers(0, 15, (I, O)), 0.5 + rng.random((I, 1))
        args = {"dy": a["dy"], "x": a["x"], "codes": codes, "absmax": absmax}
        args |= {"levels": some_levels(rng, 16), "s": float(s), "A": a["A"], "B": a["B"]}
        cases.append(Case(args, reference, slips=slips, **paths))
    return cases


def without_W(forward, backward):
    """As `both`, and whether the cache holds as many floats in one array as W has."""
    run = both(forward, backward)

    def run_and_look(dy, x, codes, *args):
        outputs = run(dy, x, codes, *args)
        return (*outputs, float(holds_floats(forward(x, codes, *args)[1], codes.size)))

    return run_and_look


EXERCISES = (
    predict(
        "four_bytes",
        "How many bytes does W (576, 576) take in 4 bits, with a float32 scale per 64 weights?",
        (
            "Two weights share a byte.",
            "A block of 64 weights has 32 bytes of codes, and one scale of 4 bytes.",
        ),
        number=lambda: 576 * 576 // 2 + 4 * 576 * 576 // 64,
        because="36 bytes a block of 64: 4.5 bits a weight, 7.1 times less than float32.",
        near={
            576 * 576 / 2: "that is the codes alone: each block has a scale, too",
            576 * 576 / 2 + 576 * 576 / 64: "a scale in float32 has 4 bytes",
            576 * 576 + 4 * 576 * 576 / 64: "a code has 4 bits: two of them are a byte",
            4 * 576 * 576: "that is W in float32",
        },
    ),
    predict(
        "four_bits",
        "How many bits does a weight take, with 8-bit scales, 256 of which share a float32?",
        (
            "Add three parts: the code, its share of an 8-bit scale, its share of a float32.",
            "64 weights share a scale; how many weights share the float32?",
        ),
        number=lambda: 8 * (NF4().size((256, 64 * 16)) - 4) / (256 * 64 * 16),
        because="4 + 8/64 + 32/(64·256): 0.127 bits for scales in place of 0.5.",
        near={
            4.5: "that is with the scales in float32",
            4 + 8 / 64: "the float32 that 256 scales share is missing",
            4 + 8 / 64 + 32 / 256: "the float32 is shared by 256 scales, each of 64 weights",
            4.13: "give three digits after the point",
        },
        tolerance=2e-4,
    ),
    blank(
        "four_quantise",
        "Blocks to codes: w (n, b), levels (L,) -> codes (n, b), absmax (n, 1)",
        (
            "Divide each block by its absmax. Which level is nearest to each number?",
            "A new axis compares each number with all levels; then argmin.",
        ),
        quantise_cases,
    ),
    blank(
        "four_dequantise",
        "Codes to blocks: codes (n, b), absmax (n, 1), levels (L,) -> w (n, b)",
        (
            "A code is the index of a level.",
            "Levels lie between -1 and 1: what was each block divided by?",
        ),
        dequantise_cases,
    ),
    blank(
        "four_levels",
        "Levels at quantiles: quantile, below, above, edge -> levels (below + 1 + above,)",
        (
            "Each half begins at the probability 1/2, whose quantile is 0, and ends at edge.",
            "np.linspace(0.5, edge, above + 1) begins with the level 0: leave it out of one half.",
        ),
        level_cases,
    ),
    blank(
        "four_second",
        "Scales in 8 bits, dequantised again: absmax (n,), levels (L,), size -> absmax (n,)",
        (
            "All scales are positive. How do you turn them into numbers on both sides of 0?",
            "Subtract the mean, use your two functions on blocks, and add the mean again.",
        ),
        second_cases,
    ),
    blank_pair(
        "four_pair",
        "LoRA on a W in 4 bits, as a pair that keeps no W: forward(x, codes, absmax, levels, s, A, "
        "B) -> y, cache; backward(dy, cache) -> dx, None, None, None, None, dA, dB",
        (
            "dx = dy W + dz A, as before: which W, and from which arrays is it computed?",
            "Keep only the arguments. Backward dequantises again: .reshape(len(B), -1).",
        ),
        pair_cases,
        package=(pair_forward, pair_backward),
        through=without_W,
    ),
    broken(
        "four_break",
        "Levels without a 0: equal steps of probability over both sides at once",
        (
            "From the probability 1 - edge to edge, in one go.",
            "As many levels as before: below + 1 + above. The largest is 1 here, too.",
        ),
        level_cases,
        wanted=no_zero,
    ),
)
