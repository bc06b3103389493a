"""What is said of a wrong array: its shape, its worst entry, the ratio to the right one."""

from typing import Any

import numpy as np

Notes = tuple[tuple[str, str], ...]  # (label, words)

EXACT = 1e-9  # relative to the largest entry: float64, whatever the order of a sum


def numbers(a: Any) -> np.ndarray | None:
    """An output of any shape as an array of numbers; None if it is no array of numbers."""
    try:
        a = np.asarray(a)
    except Exception:  # rows of different lengths; an object with a life of its own
        return None
    if a.dtype.kind == "c" and np.abs(a.imag).max(initial=0) <= EXACT * np.abs(a).max(initial=0):
        a = a.real
    return a if a.dtype.kind in "fiu" else None


def agree(got: Any, wanted: Any, tolerance: float) -> bool:
    """Do two outputs have one shape and one value, relative to the largest entry?"""
    if got is None or wanted is None:
        return got is None and wanted is None
    got, wanted = numbers(got), np.asarray(wanted, np.float64)
    if got is None or got.shape != wanted.shape:
        return False
    size = np.abs(wanted).max(initial=0.0)
    gaps = np.abs(got.astype(np.float64) - wanted)
    return bool(np.all(gaps <= tolerance * (size + 1e-12)))


def describe(name: str, got: Any, true: Any) -> Notes:
    """Shape and worst entry of a wrong output."""
    if true is None:
        return (("wanted", f"None: {name} is not needed"), ("got", kind_of(got)))
    given = numbers(got)
    if got is None or given is None:
        return (("wanted", kind_of(true)), ("got", kind_of(got)))
    same = given.shape == np.shape(true)
    shape = f"expected {np.shape(true)}, got {given.shape}  {'✓' if same else '✗'}"
    if not same:
        return (("shape", shape),)
    got, true = given.astype(np.float64), np.asarray(true)
    gaps = np.abs(got - true)
    place = np.unravel_index(np.argmax(np.where(np.isnan(gaps), np.inf, gaps)), true.shape)
    yours, expected = float(got[place]), float(true[place])
    is_rounding = abs(expected) <= EXACT * np.abs(true).max()
    ratio = 0 if is_rounding or not np.isfinite(yours) else yours / expected
    words = f"yours {yours:.4g}, expected {expected:.4g}"
    words += f" (ratio {fraction(ratio)})" if ratio else ""
    where = f"{name}{[int(i) for i in place]}" if place else name
    worst = ("worst", f"{where}: {words}")
    notes = (("shape", shape), worst) if place else (worst,)
    nan = (("nan", "no number: it comes from 0 · inf, inf - inf or 0 / 0"),)
    return notes + nan if np.isnan(yours) else notes


def kind_of(a: Any) -> str:
    """What a value is, in words."""
    if isinstance(a, np.ndarray) and a.ndim:
        return f"an array {a.shape}" + ("" if a.dtype.kind in "fiu" else f" of {a.dtype}")
    if isinstance(a, int | float | np.number) and not isinstance(a, bool):
        return f"the number {a:.6g}"
    return "None" if a is None else f"a {type(a).__name__}"


def constant_ratio(got: Any, true: Any) -> float:
    """The number by which every entry is multiplied; 0 if there is no such number."""
    got = numbers(got)
    if got is None or true is None or got.shape != np.shape(true) or not np.any(true):
        return 0.0
    ratio = float((got * true).sum() / np.square(true).sum())
    return ratio if np.isfinite(ratio) and agree(got, ratio * true, 1e-6) else 0.0


def times(ratio: float) -> str:
    """A ratio in words, before "the right one": half of, 3 times."""
    text = fraction(ratio)
    plain = {"1/2": "half of", "2": "twice", "-1": "minus"}
    return plain.get(text, f"{text} of" if "/" in text else f"{text} times")


def fraction(ratio: float) -> str:
    """A ratio as 16 or 1/16 where it is one, else in three digits; close to 1 in seven."""
    size, sign = abs(ratio), "-" if ratio < 0 else ""
    for text, value in (("", size), ("1/", 1 / size if size > 1e-9 else 0.0)):
        if round(value) and abs(round(value) / value - 1) < 1e-6:
            return f"{sign}{text}{round(value)}"
    return f"{ratio:.7g}" if abs(ratio - 1) < 1e-3 else f"{ratio:.3g}"
