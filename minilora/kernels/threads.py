"""The one place that sets up threads and memory; importing it does both, before the first kernel.

Numba can run its loops on three pools. On two cores a parallel call costs 1 to 4 us on TBB or
OpenMP and about 70 us on its own work queue; and OpenMP's idle threads spin on the cores that
NumPy's BLAS wants. So TBB, where it is installed.
"""

import contextlib
import ctypes
import os
import sys

import numba

settings = vars(numba.config)  # made at run time, so that a type checker knows none of its names
settings["THREADING_LAYER_PRIORITY"] = ["tbb", "omp", "workqueue"]


def _preload_tbb() -> None:
    """Let the loader find the TBB that pip puts into <prefix>/lib, where it does not look."""
    with contextlib.suppress(OSError):  # another platform, or no TBB: Numba takes the next pool
        path = os.path.join(sys.prefix, "lib", "libtbb.so.12")
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays below 256 MB for the next ones.

    By default it gives it back to the system, which clears each page anew when it is next touched:
    for arrays of a megabyte or more that costs several times what the kernels do.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            trim_threshold, mmap_threshold = -1, -3
            libc = ctypes.CDLL(None)
            libc.mallopt(mmap_threshold, 1 << 28)
            libc.mallopt(trim_threshold, (1 << 31) - 1)
            _ask_for_large_pages(libc)


def _ask_for_large_pages(libc) -> None:
    """Let the heap's next gigabyte be made of pages of 2 MB, not 4 KB, as it comes to be used.

    The processor remembers where some 2,000 pages are; a step touches more of the small ones than
    that. Four blocks, each below the threshold above, make the heap grow; freed, they stay its
    free end, and none of it is memory before it is written to.
    """
    size, large, advice = (1 << 28) - 4096, 1 << 21, 14  # MADV_HUGEPAGE
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for block in [libc.malloc(size) for _ in range(4)]:
        if block:
            start = -(-block // large) * large
            libc.madvise(start, block + size - start, advice)
            libc.free(block)


def num_threads() -> int:
    """How many threads a large kernel is cut for: NUMBA_NUM_THREADS, else the cores allowed."""
    return settings["NUMBA_NUM_THREADS"]


_preload_tbb()
_keep_freed_memory()
THREADS = num_threads()
