"""Check a JSON value against a form: the error names the first place that is wrong."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .terminal import printable
from .values import MOST, is_finite, shown

KINDS = {  # a Python type -> what an error calls it
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Within:
    """A kind for `check_kind`: a number of at least `least` and at most `most`."""

    kind: type
    least: float
    most: float = math.inf

    def __str__(self):
        if self.most == math.inf:
            return f" of at least {self.least:g}"
        return f" from {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class OneOf:
    """A kind for `check_kind`: a value of one of these kinds; None stands for null."""

    kinds: tuple[Any, ...]

    def __init__(self, *kinds: Any):
        object.__setattr__(self, "kinds", kinds)


def check_kind(path: str | Path, name: str, value: Any, wanted: Any) -> None:
    """Raises ValueError, with the file and the place in it, if a JSON value is of another kind.

    wanted: bool; int (of 64 bits); float (finite; a whole number is allowed too); str; list; dict;
    object: anything; [kind]: a list of such values; (kind, kind): a list of exactly these;
    {"name": kind}: an object with at least these names; one that ends in "?" may be missing;
    {str: kind}: an object whose values are all of this kind; Within, OneOf.
    """
    if isinstance(wanted, OneOf):
        _check_one_of(path, name, value, wanted)
        return
    if wanted is object:
        return
    within, wanted = (wanted, wanted.kind) if isinstance(wanted, Within) else (None, wanted)
    kind = wanted if isinstance(wanted, type) else type(wanted)
    kind = list if kind is tuple else kind
    fits = isinstance(value, int | float if kind is float else kind)
    fits = fits and isinstance(value, bool) == (kind is bool)
    if not fits or not _in_range(value, kind, within):
        bounds = " that is finite and of 64 bits" if fits else ""
        bounds = str(within) if within else bounds
        raise ValueError(f"{path}: {name} is {shown(value)}, wanted {KINDS[kind]}{bounds}")
    if isinstance(wanted, tuple) and len(value) != len(wanted):
        raise ValueError(f"{path}: {name} has {len(value)} entries, wanted {len(wanted)}")
    if isinstance(wanted, list | tuple):
        kinds = wanted if isinstance(wanted, tuple) else wanted * len(value)
        for i, (item, inner) in enumerate(zip(value, kinds, strict=True)):
            check_kind(path, f"{name}[{i}]", item, inner)
    if isinstance(wanted, dict):
        inside = dict.fromkeys(value, wanted[str]) if str in wanted else wanted
        for key, inner in inside.items():
            place = printable(key if name == "it" else f"{name}.{key}")
            if key.removesuffix("?") in value:
                check_kind(path, place.removesuffix("?"), value[key.removesuffix("?")], inner)
            elif not key.endswith("?"):
                raise ValueError(f"{path}: no {place} in it")


def _in_range(value, kind, within):
    """Is a number finite (an int: of 64 bits), and within the bounds, if there are any?"""
    if kind not in (int, float):
        return True
    if not (is_finite(value) if kind is float else abs(value) <= MOST):
        return False
    return within is None or within.least <= value <= within.most


def _check_one_of(path, name, value, wanted):
    """Raises the error of the last kind if no kind fits."""
    for kind in wanted.kinds:
        if kind is None and value is None:
            return
        if kind is not None:
            try:
                check_kind(path, name, value, kind)
                return
            except ValueError as error:
                last = error
    raise last
