"""A reader's own pair: is every gradient right, and if not, which known slip is it?"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..gradcheck import agrees, derivative, has_shape
from ..support.pair_form import GradientError, PairRun, are_right, run_pair
from .judge import describe, fraction
from .slips import SLIPS, agree
from .verdict import Verdict, show

MOST_ENTRIES = 20_000  # each entry of a wrong gradient costs four forward passes


def check_pair(
    forward: Callable,
    backward: Callable,
    *arrays: Any,
    frozen: str | Iterable[str] = (),
    seed: int = 0,
) -> Verdict:
    """Is backward(dout, cache) the derivative of forward(*arrays) -> (out, cache)?

    It asks what `gradcheck` asks, and answers with a Verdict, which a script prints. A wrong
    gradient is described, and the known slip that it looks like is named.
    Raises ValueError for more than 20,000 numbers, which `gradcheck` takes; where the call is
    wrong; and where it leaves nothing to check.
    """
    count = sum(a.size for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f")
    if count > MOST_ENTRIES:
        raise ValueError(f"check_pair: got {count:,} numbers, wanted at most {MOST_ENTRIES:,}")
    try:
        return show(_judged(run_pair(forward, backward, arrays, frozen, seed)))
    except GradientError as fault:
        title, _, words = str(fault).partition(": ")
        return show(Verdict(title, "failed", words, hints_in_all=0))


def _judged(run: PairRun) -> Verdict:
    wrong = [n for n in run.grads if not (has_shape(run, n) and agrees(run, n, 1e-7))]
    right = [f"d{n}" for n in run.grads if n not in wrong]
    if not wrong:
        words = f"{are_right(right)}, by finite differences"
        return Verdict(run.title, "passed", words, hints_in_all=0)
    name, *_ = wrong
    got, true = run.grads[name], np.empty(run.args[name].shape)
    for place in np.ndindex(true.shape):
        true[place] = derivative(run, name, place)
    notes = describe(f"d{name}", got, true)
    slip, words = _looks_like(got, true, run)
    if words:
        notes += (("looks like", words.format(name=f"d{name}", s="")),)
    others = f" ({are_right(right)})" if right else ""
    return Verdict(run.title, "failed", f"d{name} is wrong{others}", notes, slip, (), 0)


def _looks_like(got, true, run) -> tuple[str | None, str]:
    """The known slip that gives this gradient, as far as one can know without knowing the pair;
    and in words what it looks like: the ratio to the right one first.
    """
    if agree(got, true, 1e-6):  # wrong by too little to look like anything
        return None, ""
    ratio = _constant_ratio(got, true)
    rows = len(run.dout) if run.dout.ndim > 1 else 1
    slip = _slip_by_ratio(ratio, rows, run.args) or _slip_by_form(got, true, run)
    words = [SLIPS[slip].says] if slip else []
    if ratio:
        text = fraction(ratio)
        plain = {"1/2": "half of", "2": "twice", "-1": "minus"}
        times = plain.get(text, f"{text} of" if "/" in text else f"{text} times")
        as_mean = f", as a mean over {rows} rows would be" if text == "1/2" and rows == 2 else ""
        words.insert(0, f"{{name}} is {times} the right one{as_mean}")
    return slip, ": ".join(words)


def _constant_ratio(got, true) -> float:
    """What every entry is multiplied by, or 0 where that is not one number."""
    if got.shape != true.shape or not true.any():
        return 0.0
    ratio = float((got * true).sum() / (true**2).sum())
    return ratio if agree(got, ratio * true, 1e-6) else 0.0


def _slip_by_ratio(ratio, rows, args) -> str | None:
    scales = [a for a in args.values() if isinstance(a, int | float) and a not in (0, 1)]
    for slip, wanted in (
        *(("scale missing", 1 / s) for s in scales),
        *(("scale twice", s) for s in scales),
        *(("no sum", 1 / rows) for _ in range(rows > 2)),  # half is more often only a half
    ):
        if agree(ratio, wanted, 1e-6):
            return slip
    return None


def _slip_by_form(got, true, run) -> str | None:
    dout, matrices = run.dout, [a for a in run.args.values() if np.ndim(a) == 2]
    paths = [dout @ a for a in matrices if dout.shape[1:] == a.shape[:1]]
    paths = [path for path in paths if path.shape == true.shape]
    if got.ndim == true.ndim + 1 and agree(got.sum(0), true, 1e-6):
        return "no sum"
    if true.ndim == 2 and agree(got, true.T, 1e-6):
        return "transposed"
    if any(agree(got, part, 1e-6) for path in paths for part in (path, true - path)):
        return "path missing"
    return None
