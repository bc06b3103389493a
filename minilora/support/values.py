"""Check settings: they become plain Python numbers, or an error says what was wanted."""

import math
from typing import Any

import numpy as np

MOST = 2**64 - 1  # the largest whole number of 64 bits


def whole(what: str, value, least: int = 0) -> int:
    """value as an int of at least `least`; raises ValueError that begins with `what`."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{what} is {shown(value)}, wanted a whole number of at least {least}")
    if value > MOST:  # a file may contain any number
        raise ValueError(f"{what} is above {MOST}, wanted a whole number of 64 bits")
    return int(value)


def number(what: str, value, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """value as a finite float >= least and > above; raises ValueError that begins with `what`.

    The result is a Python float: a np.float64 would turn float32 arrays into float64.
    """
    if not is_finite(value) or value < least or value <= above:
        bound = f" above {above:g}" if above > -math.inf else ""
        bound = f" of at least {least:g}" if least > -math.inf else bound
        raise ValueError(f"{what} is {shown(value)}, wanted a finite number{bound}")
    return float(value)


def is_finite(value: Any) -> bool:
    """Is it a number, Python's or NumPy's, that a float can hold?"""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def shown(value: Any) -> str:
    """The beginning of a value as it is written in Python."""
    return f"{value!r:.80}"


def named(value: Any) -> str:
    """A wrong argument in an error: a text as it is written, anything else by its type."""
    return shown(value) if isinstance(value, str) else f"a {type(value).__name__}"


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, anything else as it is.

    JSON cannot store a np.float64, and it would turn float32 arrays into float64.
    """
    return value.item() if isinstance(value, np.generic) else value
