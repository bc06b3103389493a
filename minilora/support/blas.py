"""NumPy's BLAS library: its kernels, and its number of threads, which changes its sums."""

import contextlib
import ctypes
from pathlib import Path
from typing import Any

import numpy as np


def threads() -> int | None:
    """The number of threads of NumPy's BLAS now; None if the library does not tell it."""
    return _answer("scipy_openblas_get_num_threads64_", ctypes.c_int)


def kernels() -> str | None:
    """The processor for which OpenBLAS chose its kernels; None if the library does not tell it."""
    name = _answer("scipy_openblas_get_corename64_", ctypes.c_char_p)
    return name.decode() if name else None


def _answer(function: str, kind: Any) -> Any:
    """What a function of the OpenBLAS in NumPy's wheels returns; None for another library."""
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in folder.glob("*openblas*"):
        with contextlib.suppress(OSError, AttributeError):
            call = getattr(ctypes.CDLL(str(path)), function)
            call.restype = kind
            return call()
    return None
