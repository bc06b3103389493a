"""Notebook 01, the tape: two backwards to write, the bytes of caches to count."""

from typing import Any

import numpy as np

from minilora.ops import linear, mul

from ..slips import Case
from .exercise import blank, broken, draw, predict, rows, widths


def mul_backward(dy, a, b):
    """da, db of y = a b."""
    return dict(zip(("da", "db"), mul.backward(dy, (a, b))))


def linear_backward(dy, x, W):
    """dx, dW of y = x Wᵀ."""
    return dict(zip(("dx", "dW"), linear.backward(dy, (x, W))))


def mul_cases(rng):
    """For da, db = f(dy, a, b)."""
    shapes = tuple(widths(rng, 2)), (rows(rng), *widths(rng, 1)), (4, 4)
    slips = {
        "dy is missing: it multiplies both": lambda dy, a, b: [{"da": b}, {"db": a}],
        "da reads b, and db reads a": lambda dy, a, b: [{"da": dy * a}, {"db": dy * b}],
    }
    return [Case(draw(rng, dy=n, a=n, b=n), mul_backward, slips=slips) for n in shapes]


def linear_cases(rng):
    """For dx, dW = f(dy, x, W): the last W is square."""
    shapes = [(rows(rng), *widths(rng, 2)), (rows(rng), *widths(rng, 2)), (8, 5, 5)]
    return [
        Case(
            draw(rng, dy=(M, O), x=(M, I), W=(O, I)),
            linear_backward,
            rows=("dy", "x"),
            summed=("dW",),
        )
        for M, I, O in shapes
    ]


def by(caches, key):
    """The bytes for each op if arrays with the same key count once.   caches: lists of arrays."""
    seen: set[Any] = set()
    found = []
    for arrays in caches:
        new = {key(a): a.nbytes for a in arrays if key(a) not in seen}
        seen.update(new)
        found.append(sum(new.values()))
    return {"bytes": np.array(found)}


def kept(caches):
    """For each op the bytes of the arrays that it is the first to keep: see `by`."""
    return by(caches, id)


def twice_in_one(caches):
    """`kept`, and an array that one op has twice counts twice."""
    first = [{id(a) for c in caches[:i] for a in c} for i in range(len(caches))]
    new = [sum(a.nbytes for a in c if id(a) not in seen) for c, seen in zip(caches, first)]
    return {"bytes": np.array(new)}


KEPT = {
    "an array that an earlier op keeps is in memory already: it counts once": lambda caches: [
        {"bytes": np.array([sum({id(a): a.nbytes for a in c}.values()) for c in caches])},
        {"bytes": np.array([sum(a.nbytes for a in c) for c in caches])},
    ],
    "one op has an array twice, as in error * error: it counts once": lambda caches: [
        twice_in_one(caches)
    ],
    "two arrays of one shape are two arrays: compare by `is` or id, not by shape or numbers": (
        lambda caches: [by(caches, key) for key in (np.shape, np.ndarray.tobytes)]
    ),
    "the exercise asks for bytes: a number of float64 has 8": lambda caches: [
        {"bytes": kept(caches)["bytes"] / 8}
    ],
    "the exercise asks for the bytes of each op, not for the sum so far": lambda caches: [
        {"bytes": kept(caches)["bytes"].cumsum()}
    ],
}


def kept_cases(rng):
    """For bytes = f(caches): shared arrays, one twice in an op, equal numbers in two arrays."""
    cases = []
    for I, O in (widths(rng, 2), widths(rng, 2)):
        M = rows(rng)
        x, h, e, W = (np.round(rng.random(n)) for n in [(M, I), (M, I), (M, O), (O, I)])
        caches = [[x, W], [h], [h, W.copy()], [], [e, e], [e.copy(), x]]
        cases.append(Case({"caches": caches}, kept, slips=KEPT))
    return cases


EXERCISES = (
    predict(
        "tape_bytes",
        "a and b are 100 x 100 in float64: how many bytes does the cache of a · b hold?",
        (
            "What does backward read? da = dy · b.",
            "And db = dy · a: it reads both inputs, and not the output.",
        ),
        number=lambda: sum(a.nbytes for a in mul.forward(*np.ones((2, 100, 100)))[1]),
        because="backward reads a and b: two arrays of 80,000 bytes.",
        near={
            80_000: "that is one array: da reads b, and db reads a",
            240_000: "that is the output as well: backward does not read it",
            20_000: "that is the count of numbers: in float64 each has 8 bytes",
            80_000 / 2: "that is one array in float32",
        },
    ),
    blank(
        "tape_kept",
        "Bytes that each op is the first to keep: caches (a list of arrays for each op) -> a list",
        (
            "Go through the ops in order, and remember the id of each array that you have seen.",
            "An op's new arrays, each once, have its bytes: a.nbytes.",
        ),
        kept_cases,
    ),
    blank(
        "mul_backward",
        "Both gradients of y = a · b, element by element: dy, a, b -> da, db",
        (
            "Hold b fixed: y is a times a constant.",
            "a's gradient is dy times the factor of a.",
        ),
        mul_cases,
    ),
    blank(
        "linear_backward",
        "Both gradients of y = x Wᵀ: dy, x, W -> dx, dW",
        (
            "A gradient has its argument's shape: (M, I) and (O, I).",
            "Only one product of dy (M, O) and W is (M, I). In dW the sum runs over the rows.",
        ),
        linear_cases,
    ),
    broken(
        "linear_break",
        "Leave out the sum over rows in dW: dy, x, W -> dx, dW",
        (
            "All rows use W, so its gradient is a sum over the rows.",
            "A mean, or one row alone, has the right shape and the wrong numbers.",
        ),
        linear_cases,
        slip="no sum",
    ),
)
