"""How the C library's heap is set up for arrays: kept when they are freed, and in large pages.

Before the weights are loaded, so that they lie in such pages too: decoding, which reads them all
for each token, is a tenth faster for it.
"""

import contextlib
import ctypes
import functools
import os


@functools.cache  # once a process
def set_up() -> None:
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
