"""A reader's function against the right outputs: what is wrong, where, and which slip it is."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .slips import SLIPS, Case, Outputs, agree, recognise

Found = tuple[str, str, list[tuple[str, str]], str | None]  # status, says, notes, slip


def judge(function: Callable, cases: Sequence[Case]) -> Found:
    """Run a reader's function on every case and say what is wrong, the first thing first."""
    answered: list[tuple[Case, Outputs]] = []
    trouble: Found | None = None
    for case in cases:
        got, found = _answer(function, case)
        if got is not None:
            answered.append((case, got))
        trouble = trouble or found
    for case, got in answered:
        wrong = [name for name, true in case.true.items() if not agree(got[name], true)]
        if wrong:
            status, says, notes, slip = _wrong(case, got, wrong, answered)
            stopped = [("other shapes", trouble[1])] if trouble else []
            return status, says, [*notes, *stopped], slip
    return trouble or ("passed", _right(cases), [], None)


def _answer(function, case) -> tuple[Outputs | None, Found | None]:
    """What the function gives for a case, by name; or what stopped it."""
    given = {n: np.copy(a) if isinstance(a, np.ndarray) else a for n, a in case.args.items()}
    names = list(case.true)
    try:
        out = function(*given.values())
    except NotImplementedError:
        return None, ("open", "not written yet", [], None)
    except Exception as error:  # a reader's function may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].line or ""
        notes = [("in the line", line)] if line else []
        shapes = ", ".join(f"{n} {np.shape(a)}" for n, a in given.items() if np.ndim(a))
        says = (
            f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        return None, ("failed", says, [*notes, ("shapes", shapes)], None)
    if out is None or out is ...:
        return None, ("open", "not written yet", [], None)
    values = out if isinstance(out, tuple) else (out,)
    if len(values) != len(names):
        says = f"it returned {len(values)} values, wanted {len(names)}: {', '.join(names)}"
        return None, ("failed", says, [], None)
    for name, a in given.items():
        if isinstance(a, np.ndarray) and not np.array_equal(a, case.args[name]):
            says = f"it wrote into its argument {name}: make a new array instead"
            return None, ("failed", says, [], None)
    return dict(zip(names, values)), None


def _right(cases) -> str:
    names = [name for name, true in cases[0].true.items() if true is not None]
    verb = "is" if len(names) == 1 else "are"
    return f"{_and(names)} {verb} right, in float64, on {len(cases)} sets of shapes"


def _wrong(case, got, wrong, answered) -> Found:
    """The first wrong output: shape, worst entry, slip."""
    name, true = wrong[0], case.true
    right = [n for n in true if n not in wrong and true[n] is not None]
    others = f" ({_and(right)} {'is' if len(right) == 1 else 'are'} right)" if right else ""
    also = f", and so {'is' if len(wrong) == 2 else 'are'} {_and(wrong[1:])}" if wrong[1:] else ""
    notes = describe(name, got[name], true[name])
    slip = recognise(answered, name)
    if slip:
        s = f" = {case.args['s']:g}" if "s" in case.args else ""
        notes.append(("looks like", SLIPS[slip].says.format(name=name, s=s)))
    return "failed", f"{name} is wrong{others}{also}", notes, slip


def describe(name: str, got: Any, true: Any) -> list[tuple[str, str]]:
    """Shape and worst entry of a wrong output, as notes."""
    if true is None:
        return [("wanted", f"None: nothing asks for {name}"), ("got", _shape(got))]
    if got is None:
        return [("wanted", _shape(true)), ("got", "None")]
    if np.asarray(got).dtype.kind not in "fiu":
        return [("wanted", _shape(true)), ("got", type(got).__name__)]
    if np.shape(got) != np.shape(true):
        return [("shape", f"expected {np.shape(true)}, got {np.shape(got)}  ✗")]
    notes = (
        [("shape", f"expected {np.shape(true)}, got {np.shape(got)}  ✓")] if np.ndim(true) else []
    )
    gap = np.abs(np.asarray(got, np.float64) - true)
    place = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), np.shape(true))
    mine, wanted = float(np.asarray(got)[place]), float(np.asarray(true)[place])
    where = f"{name}{[int(i) for i in place]}" if place else name
    notes.append(
        ("worst", f"{where}: yours {mine:.4g}, expected {wanted:.4g}{_ratio(mine, wanted)}")
    )
    return notes


def _shape(a) -> str:
    return f"an array {np.shape(a)}" if np.ndim(a) else f"the number {a:.6g}"


def _ratio(mine, wanted) -> str:
    """The ratio of the two, as a fraction where it is one."""
    if not wanted or not mine or not np.isfinite(mine):
        return ""
    ratio = mine / wanted
    for text, value in ((f"{round(ratio)}", ratio), (f"1/{round(1 / ratio)}", 1 / ratio)):
        if round(value) and abs(round(value) / value - 1) < 1e-6:
            return f" (ratio {text})"
    return f" (ratio {ratio:.3g})"


def _and(names) -> str:
    """dx, dA and dB."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
