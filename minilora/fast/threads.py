"""Sets up Numba's threads when it is imported, before the first kernel is compiled.

Numba can run its parallel loops on three thread pools: TBB, OpenMP and its own work queue. TBB is
preferred. On two cores a parallel call takes 1 to 4 us on TBB or OpenMP, but about 70 us on the
work queue. And OpenMP's idle threads keep the cores busy that NumPy's BLAS needs.
"""

import contextlib
import ctypes
import os
import sys
import threading

import numba

from . import heap

_TURN, _NO_TURNS = threading.Lock(), contextlib.nullcontext()
settings = vars(numba.config)  # a dict, because a type checker does not know numba.config's names
settings["THREADING_LAYER_PRIORITY"] = ["tbb", "omp", "workqueue"]


def _preload_tbb() -> None:
    """Load the TBB that pip installs into <prefix>/lib, where the dynamic loader does not look."""
    with contextlib.suppress(OSError):  # no TBB here: Numba takes the next pool
        path = os.path.join(sys.prefix, "lib", "libtbb.so.12")
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def num_threads() -> int:
    """The number of threads of a large kernel: NUMBA_NUM_THREADS, else the number of cores."""
    return settings["NUMBA_NUM_THREADS"]


def turn() -> contextlib.AbstractContextManager:
    """A lock for a parallel loop. Numba's own work queue ends the process if two threads use it at
    once, so threads take turns; with the other pools nothing is locked.
    """
    several = settings["DISABLE_JIT"] or numba.threading_layer() in ("tbb", "omp")
    return _NO_TURNS if several else _TURN


_preload_tbb()
heap.set_up()
THREADS = num_threads()
