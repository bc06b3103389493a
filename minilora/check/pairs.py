"""A reader's own pair: is every gradient right, and if not, which known slip is it?"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from ..gradcheck import agrees, derivative, has_shape
from ..support.pair_form import GradientError, PairRun, are_right, name_of, run_pair
from .slips import OVER, PATHS, SLIPS
from .verdict import Verdict, show
from .words import agree, constant_ratio, describe, times

MOST_ENTRIES = 20_000  # each entry of a wrong gradient costs four forward passes


def check_pair(
    forward: Callable,
    backward: Callable,
    *arrays: Any,
    frozen: str | Iterable[str] = (),
    seed: int = 0,
) -> Verdict:
    """Is backward(dout, cache) the derivative of forward(*arrays) -> (out, cache)?

    A forward may return out alone: then backward is called as backward(dout, *arrays), and may
    leave out the frozen gradients. It asks what `gradcheck` asks, and answers with a Verdict, which
    a script prints. A wrong gradient is described, and the known slip that it looks like is named.
    Raises ValueError for more than 20,000 numbers, which `gradcheck` takes; where the call is
    wrong; and where it leaves nothing to check.
    """
    count = sum(a.size for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f")
    if count > MOST_ENTRIES:
        raise ValueError(f"check_pair: got {count:,} numbers, wanted at most {MOST_ENTRIES:,}")
    try:
        run = run_pair(*_with_cache(forward, backward, frozen), arrays, frozen, seed)
        return show(_judged(run))
    except GradientError as fault:
        title, _, words = str(fault).partition(": ")
        slip = "dtype" if "wanted float64" in words else None
        words += ": is the return missing?" if words.startswith("it returned None, ") else ""
        return show(Verdict(title, "failed", words, (), slip, hints_in_all=0))


# ---- a forward that returns its output alone


@dataclass(frozen=True)
class Alone:
    """Stands in the place of a cache: forward's arguments."""

    args: tuple


def _with_cache(forward, backward, frozen) -> tuple[Callable, Callable]:
    """The pair, with forward's arguments as the cache where forward returns its output alone."""

    @functools.wraps(forward)
    def with_cache(*args):
        returned = forward(*args)
        alone = isinstance(returned, np.ndarray | np.generic | float)
        return (returned, Alone(args)) if alone else returned

    @functools.wraps(backward)
    def from_cache(dout, cache):
        if not isinstance(cache, Alone):
            return backward(dout, cache)
        return _for_each(_call(forward, backward, dout, cache.args), forward, cache.args, frozen)

    with_cache.__name__, from_cache.__name__ = name_of(forward), name_of(backward)
    return with_cache, from_cache


def _call(forward, backward, dout, args):
    """backward(dout, and those of forward's arguments that it takes); or (dout, all in a tuple)."""
    try:
        names = list(inspect.signature(forward).parameters)
        _, *wanted = inspect.signature(backward).parameters
        if wanted and set(wanted) <= set(names):
            return backward(dout, *(args[names.index(name)] for name in wanted))
        inspect.signature(backward).bind(dout, *args)
    except (TypeError, ValueError):  # it takes another number of arguments
        return backward(dout, args)
    return backward(dout, *args)


def _for_each(grads, forward, args, frozen):
    """The gradients with None for each argument that has none, where these were left out."""
    given = list(grads) if isinstance(grads, tuple | list) else [grads]
    frozen = (frozen,) if isinstance(frozen, str) else frozen
    with contextlib.suppress(ValueError):  # some compiled functions have no signature
        names = list(inspect.signature(forward).parameters)
        floats = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in args]
        has_one = [is_float and n not in frozen for is_float, n in zip(floats, names)]
        if grads is not None and len(given) == sum(has_one):
            return tuple(given.pop(0) if has else None for has in has_one)
    return grads


# ---- what is wrong


def _judged(run: PairRun) -> Verdict:
    wrong = [n for n in run.grads if not (has_shape(run, n) and agrees(run, n, 1e-7))]
    right = [f"d{n}" for n in run.grads if n not in wrong]
    if not wrong:
        words = f"{are_right(right)}, by finite differences"
        return Verdict(run.title, "passed", words, hints_in_all=0)
    if any(_moves_in_steps(run, n) for n in run.grads):
        raise GradientError(
            f"{name_of(run.forward)}: a part of it is computed in float32 or less, so its output "
            "moves in steps, which have no derivative; wanted float64, as the arguments are"
        )
    name, *_ = wrong
    got, true = run.grads[name], _derivatives(run, name)
    notes = describe(f"d{name}", got, true)
    slip, words = _looks_like(got, true, run)
    if _swapped(run, wrong, true):
        slip, words = "swapped", SLIPS["swapped"]
    if words:
        words = words.format(name=f"d{name}", s="", over=OVER, paths=PATHS)
        notes += (("looks like", words),)
    others = f" ({are_right(right)})" if right else ""
    return Verdict(run.title, "failed", f"d{name} is wrong{others}", notes, slip, (), 0)


def _derivatives(run, name) -> np.ndarray:
    """The right gradient of one argument, by finite differences."""
    true = np.empty(run.args[name].shape)
    for place in np.ndindex(true.shape):
        true[place] = derivative(run, name, place)
    return true


def _moves_in_steps(run, name) -> bool:
    """Does the output of very close arguments bend as no smooth function does?"""
    a, scale = run.args[name], np.abs(run.dout * run.out).sum()
    size = np.abs(a).max(initial=0.0)

    def bend(h):
        moves = (h * size * run.rng.uniform(-1, 1, a.shape) for _ in range(4))
        here = run.loss(name, a)
        return max(abs(run.loss(name, a + m) - 2 * here + run.loss(name, a - m)) for m in moves)

    wide, close = bend(1e-6), bend(1e-6 / 16)
    return wide > 1e-11 * scale and close > wide / 64  # a smooth one: wide / 256


def _swapped(run, wrong, true) -> bool:
    """Are the wrong gradients right ones in another order?   true: of the first of them."""
    shapes = {n: run.args[n].shape for n in wrong}
    rights = {wrong[0]: true}
    for order in list(permutations(wrong))[1:] if len(wrong) <= 4 else []:
        if any(run.grads[n].shape != shapes[other] for n, other in zip(wrong, order)):
            continue
        rights |= {n: _derivatives(run, n) for n in wrong if n not in rights}
        if all(agree(run.grads[n], rights[other], 1e-6) for n, other in zip(wrong, order)):
            return True
    return False


def _looks_like(got, true, run) -> tuple[str | None, str]:
    """The known slip that gives this gradient, as far as one can know without knowing the pair;
    and in words what it looks like: the ratio to the right one first.
    """
    ratio = 0.0 if agree(got, true, 1e-6) else constant_ratio(got, true)
    if agree(got, true, 1e-3) and not ratio:
        rounded = np.array_equal(got, got.astype(np.float32))  # as all of float16 are
        small = "as of float32 or float16" if rounded else "as of a missing or misplaced eps"
        says = f"{{name}} is right to a few digits only, with a small error, {small}"
        return ("dtype" if rounded else None), says
    rows = len(run.dout) if run.dout.ndim > 1 else 1
    slip = _slip_by_ratio(ratio, rows, run.args) or _slip_by_form(got, true, run)
    words = [SLIPS[slip]] if slip and not (ratio and slip == "sign") else []
    if ratio:
        as_mean = (
            ", as a mean over 2 rows would be" if rows == 2 and times(ratio) == "half of" else ""
        )
        words.insert(0, f"{{name}} is {times(ratio)} the right one{as_mean}")
    return slip, ": ".join(words)


def _slip_by_ratio(ratio, rows, args) -> str | None:
    scales = [a for a in args.values() if isinstance(a, int | float) and a not in (0, 1, -1)]
    for slip, wanted in (
        *(("scale missing", 1 / s) for s in scales),
        *(("scale twice", s) for s in scales),
        *(("no sum", 1 / rows) for _ in range(rows > 2)),  # half is more often only a half
        ("sign", -1),
    ):
        if agree(ratio, wanted, 1e-6):
            return slip
    return None


def _slip_by_form(got, true, run) -> str | None:
    dout, matrices = run.dout, [a for a in run.args.values() if np.ndim(a) == 2]
    paths = [dout @ a for a in matrices if dout.shape[1:] == a.shape[:1]]
    # where a path is all there is, it is no part
    paths = [path for path in paths if path.shape == true.shape and not agree(path, true, 1e-3)]
    if got.ndim == true.ndim + 1 and agree(got.sum(0), true, 1e-6):
        return "no sum"
    if true.ndim == 2 and agree(got, true.T, 1e-6):
        return "transposed"
    if any(agree(got, part, 1e-6) for path in paths for part in (path, true - path)):
        return "path missing"
    if any(agree(got, p, 1e-6) for path in paths for p in (true - 2 * path, 2 * path - true)):
        return "sign"
    return None
