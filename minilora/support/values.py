"""Settings as plain Python numbers, or a one-line error that says what was wanted."""

import math
from typing import Any

import numpy as np


def whole(what: str, value, least: int = 0) -> int:
    """value as an int of at least `least`; raises ValueError that begins with `what`."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{what} is {value!r}, wanted a whole number of at least {least}")
    return int(value)


def number(what: str, value, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """value as a finite float >= least and > above; raises ValueError that begins with `what`.

    The result is a Python float: a np.float64 would turn float32 arrays into float64.
    """
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < least or value <= above:
        bound = f" above {above:g}" if above > -math.inf else ""
        bound = f" of at least {least:g}" if least > -math.inf else bound
        raise ValueError(f"{what} is {value!r}, wanted a finite number{bound}")
    return float(value)


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, anything else as it is.

    JSON cannot store a np.float64, and it would turn float32 arrays into float64.
    """
    return value.item() if isinstance(value, np.generic) else value
