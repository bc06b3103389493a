"""Notebook 09, kernels: what a product could reach, the tile in registers, how it is timed."""

from collections import OrderedDict

import numpy as np

from ..slips import Case, Slips
from .exercise import blank, broken, draw, number, predict, rows, widths


def roof(peak, bandwidth, intensity):
    """The highest rate of a machine at an intensity: the lower of its two roofs."""
    return {"rate": np.minimum(peak, bandwidth * intensity)}


def roof_cases(rng):
    """For rate = f(peak, bandwidth, intensity): numbers, below the ridge and above it."""
    slips: Slips = {
        "the lower of the two is the roof": lambda peak, bandwidth, intensity: [
            {"rate": np.maximum(peak, bandwidth * intensity)}
        ],
        "peak and bandwidth have different units: first bandwidth · intensity": (
            lambda peak, bandwidth, intensity: [{"rate": np.minimum(peak, bandwidth) * intensity}]
        ),
    }
    cases = []
    for i, (low, high) in enumerate(((0.1, 0.8), (1.2, 5.0), (0.1, 0.8), (1.2, 5.0))):
        peak, speed = number(rng, 50, 300), number(rng, 5, 50)
        if i > 1:  # either number may be the larger one
            peak, speed = speed, peak
        intensity = peak / speed * rng.uniform(low, high)
        args = {"peak": peak, "bandwidth": speed, "intensity": intensity}
        cases.append(Case(args, roof, slips=slips))
    return cases


def tile(a, b):
    """y = Σ_k a_k b_kᵀ: a sum of outer products."""
    return {"y": a.T @ b}


def last_step(a, b):
    """What the last step alone writes into y."""
    return {"y": np.outer(a[-1], b[-1])}


def tile_cases(rng):
    """For y = f(a, b): a (K, R), b (K, C), one row for each step k."""
    shapes = [(rows(rng), *widths(rng, 2)), (rows(rng), *widths(rng, 2)), (8, 5, 5)]
    args = [draw(rng, a=(K, R), b=(K, C)) for K, R, C in shapes]
    return [Case(a, tile, rows=("a", "b"), summed=("y",), over="all steps k") for a in args]


def times_faster(mine, theirs):
    """The median of the rounds' ratios."""
    return {"ratio": np.median(theirs / mine)}


def times_cases(rng):
    """For ratio = f(mine, theirs): seconds of each round; in some, other work was running."""
    slips: Slips = {  # an odd round may be the median of one way alone, and counts much in a mean
        "the ratio is upside down: half the seconds is twice as fast": lambda mine, theirs: [
            {"ratio": np.median(mine / theirs)}
        ],
        "the ratio of the medians: divide within each round first": lambda mine, theirs: [
            {"ratio": np.median(theirs) / np.median(mine)}
        ],
        "the mean of the ratios: one odd round moves it, but not the median": (
            lambda mine, theirs: [{"ratio": np.mean(theirs / mine)}]
        ),
    }
    cases = []
    for count in widths(rng, 3):
        noise = draw(rng, mine=(count,), theirs=(count,))
        busy = rng.permutation([6, 3, 1.5] + [1] * (count - 3))  # other work that slows both
        mine, theirs = (busy * (1 + 0.1 * noise[n] ** 2) for n in ("mine", "theirs"))
        theirs[rng.integers(count)] *= 9  # and once only one of them
        args = {"mine": 2e-3 * mine, "theirs": number(rng, 3e-3, 8e-3) * theirs}
        cases.append(Case(args, times_faster, slips=slips))
    return cases


def blocked(x, w, height, width):
    """y = x w, whatever the blocks."""
    return {"y": x @ w}


def blocked_cases(rng):
    """For y = f(x, w, height, width): the last blocks are smaller."""

    def whole_blocks_only(x, w, height, width):
        y = x @ w
        y[len(x) // height * height :] = 0
        y[:, w.shape[1] // width * width :] = 0
        return [{"y": y}]

    slips = {"the last blocks are missing: they are smaller than the others": whole_blocks_only}
    cases = []
    for height, width in [(4, 2), (2, 8)]:  # no width divides by them
        M, (K, N) = rows(rng) + 1, widths(rng, 2)
        arrays = draw(rng, x=(M, K), w=(K, N))
        cases.append(Case({**arrays, "height": height, "width": width}, blocked, slips=slips))
    return cases


def count_fetched(places, lines, newest=True):
    """How many lines a cache that holds `lines` of them fetches for these places."""
    cache: OrderedDict[int, None] = OrderedDict()
    count = 0
    for place in places:
        line = int(place) // 16
        count += line not in cache
        cache[line] = None
        if newest:
            cache.move_to_end(line)
        if len(cache) > lines:
            cache.popitem(last=False)
    return count


def fetched(places, lines):
    """The number of lines fetched."""
    return {"lines fetched": count_fetched(places, lines)}


def fetched_cases(rng):
    """For lines fetched = f(places, lines): once with an array, once with a list."""

    def oldest_out(places, lines):
        return [{"lines fetched": count_fetched(places, lines, newest=False)}]

    slips = {
        "a line that is used again is the newest again: evict the least recently used": oldest_out
    }
    cases = []
    for lines in (3, 5):
        args = {"places": rng.integers(0, 16 * 8, 200 + rows(rng)), "lines": lines}
        while oldest_out(**args) == [fetched(**args)]:  # the order makes no difference to these
            args["places"] = rng.integers(0, 16 * 8, 200 + rows(rng))
        cases.append(Case(args, fetched, slips=slips))
    return [cases[0], cases[1].but(places=cases[1].args["places"].tolist())]


EXERCISES = (
    predict(
        "kernel_intensity",
        "x and w are 600 x 600 in float32 and y = x w: how many operations for each byte that must "
        "move, if each number moves once?",
        (
            "A multiplication and an addition are two operations: 2·600³ of them.",
            "x and w are read, y is written: 3·600² numbers of four bytes.",
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
        ),
        roof_cases,
    ),
    blank(
        "kernel_tile",
        "A tile: a (K, R), b (K, C) -> y (R, C), one step k after the other",
        (
            "Step k multiplies each number of a[k] with each of b[k]: np.outer.",
            "The block y stays where it is, and each step adds to it.",
        ),
        tile_cases,
    ),
    broken(
        "kernel_break",
        "Write = instead of +=: a (K, R), b (K, C) -> y (R, C)",
        (
            "Start from the right tile.",
            "What is in y after the last step, if each step replaces it?",
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
        ),
        times_cases,
    ),
    blank(
        "kernel_fetched",
        "A cache that holds `lines` lines of 16 numbers: places, lines -> how many are fetched",
        (
            "place // 16 is the line. A line in the cache is not fetched.",
            "A line that is used becomes the newest. Beyond `lines`, the oldest leaves. "
            "A dict keeps an order.",
        ),
        fetched_cases,
        package=count_fetched,
    ),
    blank(
        "kernel_blocked",
        "A product in blocks: x (M, K), w (K, N), height, width -> y (M, N)",
        (
            "y[i : i + height, j : j + width] is a tile of some rows of x and columns of w.",
            "Your kernel_tile takes a (K, R): the rows of x, transposed.",
        ),
        blocked_cases,
    ),
)
