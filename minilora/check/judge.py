"""A reader's function against the right outputs: what is wrong, where, and which slip it is."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..support.pair_form import and_list, are_right
from .slips import SLIPS, Case, Outputs, agree, recognise

Notes = tuple[tuple[str, str], ...]  # (label, words)


class Judgement(NamedTuple):
    """What there is to say of an answer: the part of a Verdict that no exercise has a share in."""

    status: str  # "passed", "failed", or "open"
    says: str
    notes: Notes = ()
    slip: str | None = None


def judge(function: Callable, cases: Sequence[Case]) -> Judgement:
    """Run a reader's function on every case, and say what is wrong first."""
    runs: list[tuple[Case, Outputs]] = []
    stopped: list[Judgement] = []
    for case in cases:
        outputs = run_case(function, case)
        if isinstance(outputs, Judgement):
            stopped.append(outputs)
        else:
            runs.append((case, outputs))
    for case, outputs in runs:
        wrong = [name for name, true in case.true.items() if not agree(outputs[name], true)]
        if wrong:
            judgement = _wrong(case, outputs, wrong, runs)
            also = tuple(("other shapes", other.says) for other in stopped[:1])
            return judgement._replace(notes=judgement.notes + also)
    if stopped:
        return stopped[0]
    names = [name for name, true in cases[0].true.items() if true is not None]
    return Judgement("passed", f"{are_right(names)}, in float64, on {len(cases)} sets of shapes")


def run_case(function, case) -> Outputs | Judgement:
    """The function's outputs by name, or what stopped it."""
    args = {n: np.copy(a) if isinstance(a, np.ndarray) else a for n, a in case.args.items()}
    names = list(case.true)
    try:
        returned = function(*args.values())
    except NotImplementedError:
        return Judgement("open", "not written yet")
    except Exception as error:  # a reader's function may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].line
        shapes = ", ".join(f"{n} {np.shape(a)}" for n, a in args.items() if np.ndim(a))
        message = str(error).splitlines()[:1] or [""]
        where = (("in the line", line),) if line else ()
        says = f"it raised {type(error).__name__}: {message[0]}"
        return Judgement("failed", says, (*where, ("shapes", shapes)))
    if returned is None or returned is ...:
        return Judgement("open", "not written yet")
    outputs = returned if isinstance(returned, tuple) else (returned,)
    if len(outputs) != len(names):
        says = f"it returned {len(outputs)} values, wanted {len(names)}: {', '.join(names)}"
        return Judgement("failed", says)
    for name, a in args.items():
        if isinstance(a, np.ndarray) and not np.array_equal(a, case.args[name]):
            says = f"it wrote into its argument {name}: make a new array instead"
            return Judgement("failed", says)
    return dict(zip(names, outputs))


def _wrong(case, outputs, wrong, runs) -> Judgement:
    """The first wrong output: its shape, its worst entry, the slip."""
    name, true = wrong[0], case.true
    right = [n for n in true if n not in wrong and true[n] is not None]
    others = f" ({are_right(right)})" if right else ""
    also = (
        f", and so {'is' if len(wrong) == 2 else 'are'} {and_list(wrong[1:])}" if wrong[1:] else ""
    )
    notes = describe(name, outputs[name], true[name])
    slip = recognise(runs, name)
    if slip:
        s = f" = {case.args['s']:g}" if "s" in case.args else ""
        notes += (("looks like", SLIPS[slip].says.format(name=name, s=s)),)
    return Judgement("failed", f"{name} is wrong{others}{also}", notes, slip)


def describe(name: str, got: Any, true: Any) -> Notes:
    """Shape and worst entry of a wrong output."""
    if true is None:
        return (("wanted", f"None: {name} is not needed"), ("got", _kind(got)))
    if got is None or np.asarray(got).dtype.kind not in "fiu":
        return (("wanted", _kind(true)), ("got", "None" if got is None else type(got).__name__))
    same = np.shape(got) == np.shape(true)
    shape = f"expected {np.shape(true)}, got {np.shape(got)}  {'✓' if same else '✗'}"
    if not same:
        return (("shape", shape),)
    got, true = np.asarray(got, np.float64), np.asarray(true)
    gaps = np.abs(got - true)
    place = np.unravel_index(np.argmax(np.where(np.isnan(gaps), np.inf, gaps)), true.shape)
    yours, expected = float(got[place]), float(true[place])
    ratio = yours / expected if expected and np.isfinite(yours) else 0
    words = f"yours {yours:.4g}, expected {expected:.4g}"
    words += f" (ratio {fraction(ratio)})" if ratio else ""
    where = f"{name}{[int(i) for i in place]}" if place else name
    worst = ("worst", f"{where}: {words}")
    return (("shape", shape), worst) if place else (worst,)


def _kind(a) -> str:
    if np.ndim(a):
        return f"an array {np.shape(a)}"
    return f"the number {a:.6g}" if isinstance(a, int | float | np.number) else type(a).__name__


def fraction(ratio: float) -> str:
    """A ratio as 16 or 1/16 where it is one, else in three digits; close to 1 in seven."""
    size, sign = abs(ratio), "-" if ratio < 0 else ""
    for text, value in (("", size), ("1/", 1 / size if size > 1e-9 else 0.0)):
        if round(value) and abs(round(value) / value - 1) < 1e-6:
            return f"{sign}{text}{round(value)}"
    return f"{ratio:.7g}" if abs(ratio - 1) < 1e-3 else f"{ratio:.3g}"
