"""The general check: a reader's own pair, forward and backward, every gradient in float64."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..gradcheck import STEP
from .judge import describe
from .slips import SLIPS, agree
from .verdict import Verdict

MOST_ENTRIES = 20_000  # each entry costs four forward passes


def check_pair(forward: Callable, backward: Callable, *args: Any, seed: int = 0) -> Verdict:
    """Is backward(dout, cache) the derivative of forward(*args) -> (out, cache)? A Verdict.

    Every float array is cast to float64 and every entry of it moved, by the five-point stencil; a
    gradient of None says that its argument is frozen. Start away from zeros: where B = 0 a wrong
    dA looks right. Raises ValueError for more than 20,000 entries: `gradcheck` takes those.
    """
    values = [_wide(a) for a in args]
    count = sum(a.size for a in values if _trains(a))
    if count > MOST_ENTRIES:
        raise ValueError(f"check_pair: {count:,} entries, wanted at most {MOST_ENTRIES:,}")
    names = _names(forward, len(values))
    out, cache = forward(*values)
    dout = np.asarray(np.random.default_rng(seed).standard_normal(np.shape(out)))
    grads = backward(dout.copy(), cache)
    title = backward.__name__
    if not isinstance(grads, tuple) or len(grads) < len(values):
        got = len(grads) if isinstance(grads, tuple) else f"a {type(grads).__name__}"
        says = f"it returned {got}, wanted a tuple of {len(values)}, one an argument"
        return Verdict(title, "failed", says, hints_in_all=0)
    checked = [i for i, g in enumerate(grads[: len(values)]) if g is not None]
    true = {i: _numeric(forward, values, i, dout) for i in checked if _trains(values[i])}
    wrong = [i for i in checked if not agree(grads[i], true.get(i), 1e-6)]
    right = ", ".join(f"d{names[i]}" for i in checked if i not in wrong)
    if not wrong:
        says = f"{right} {'is' if len(checked) == 1 else 'are'} right, by finite differences"
        return Verdict(title, "passed", says, hints_in_all=0)
    i = wrong[0]
    name = f"d{names[i]}"
    notes = describe(name, grads[i], true.get(i))
    slip = (
        _recognise(np.asarray(grads[i]), true[i], dict(zip(names, values)), dout)
        if i in true
        else None
    )
    if slip:
        notes.append(("looks like", SLIPS[slip].says.format(name=name, s="")))
    others = f" ({right} {'is' if ',' not in right else 'are'} right)" if right else ""
    return Verdict(title, "failed", f"{name} is wrong{others}", tuple(notes), slip, (), 0)


def _wide(a):
    return a.astype(np.float64) if _trains(a) else a


def _trains(a) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def _names(forward, count) -> list[str]:
    given = list(inspect.signature(forward).parameters)[:count]
    return given + [f"[argument {i}]" for i in range(len(given), count)]


def _numeric(forward, values, i, dout) -> np.ndarray:
    """∂<dout, out>/∂values[i], entry by entry."""
    grad = np.empty(values[i].shape)
    for place in np.ndindex(grad.shape):

        def at(t, place=place):
            moved = values[i].copy()
            moved[place] += t
            return float((dout * forward(*values[:i], moved, *values[i + 1 :])[0]).sum())

        h = STEP
        grad[place] = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    return grad


def _recognise(got, true, given, dout) -> str | None:
    """A slip that needs no knowledge of what the pair computes."""
    numbers = [n for n in given.values() if isinstance(n, int | float) and n not in (0, 1)]
    matrices = [a for a in given.values() if np.ndim(a) == 2]
    through = [
        dout @ a
        for a in matrices
        if (len(dout), a.shape[1]) == true.shape and dout.shape[1:] == a.shape[:1]
    ]
    tries = [
        *(("scale missing", true / n) for n in numbers),
        *(("scale twice", true * n) for n in numbers),
        *(("transposed", true.T) for _ in range(true.ndim == 2)),
        *(("path missing", part) for base in through for part in (base, true - base)),
    ]
    for slip, value in tries:
        if agree(got, value, 1e-6) and not agree(value, true, 1e-6):
            return slip
    per_row = got.ndim == true.ndim + 1 and agree(got.sum(0), true, 1e-6)
    mean = np.ndim(dout) > 1 and len(dout) > 1 and agree(got * len(dout), true, 1e-6)
    return "no sum" if per_row or mean else None
