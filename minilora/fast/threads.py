"""The one place that sets up threads; importing it does, before the first kernel.

Numba can run its loops on three pools. On two cores a parallel call costs 1 to 4 us on TBB or
OpenMP and about 70 us on its own work queue; and OpenMP's idle threads spin on the cores that
NumPy's BLAS wants. So TBB, where it is installed.
"""

import contextlib
import ctypes
import os
import sys

import numba

from . import heap

settings = vars(numba.config)  # made at run time, so that a type checker knows none of its names
settings["THREADING_LAYER_PRIORITY"] = ["tbb", "omp", "workqueue"]


def _preload_tbb() -> None:
    """Let the loader find the TBB that pip puts into <prefix>/lib, where it does not look."""
    with contextlib.suppress(OSError):  # another platform, or no TBB: Numba takes the next pool
        path = os.path.join(sys.prefix, "lib", "libtbb.so.12")
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def num_threads() -> int:
    """How many threads a large kernel is cut for: NUMBA_NUM_THREADS, else the cores allowed."""
    return settings["NUMBA_NUM_THREADS"]


_preload_tbb()
heap.set_up()
THREADS = num_threads()
