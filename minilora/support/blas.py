"""How many threads the BLAS library computes with. Its sums depend on their number."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THREADS = "scipy_openblas_get_num_threads64_"  # OpenBLAS as NumPy's wheels on PyPI bring it


def threads() -> int | None:
    """The number of threads of NumPy's BLAS now; None if the library does not say it."""
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in folder.glob("*openblas*"):
        with contextlib.suppress(OSError, AttributeError):
            function: Callable[[], Any] = getattr(ctypes.CDLL(str(path)), THREADS)
            return int(function())
    return None
