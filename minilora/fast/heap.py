"""Sets up the C library's heap for arrays: freed memory is kept, and pages are large.

This should happen before the weights are loaded. Then the weights lie in large pages too, and
decoding, which reads all of them for each token, is faster.
"""

import contextlib
import ctypes
import functools
import os


@functools.cache  # once a process
def set_up() -> None:
    """Make the C library (glibc only) reuse the memory of freed arrays below 256 MB.

    By default it returns this memory to the system, and the system clears each page again at the
    next use. For arrays of a megabyte or more that costs several times the kernel's own time.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            trim_threshold, mmap_threshold = -1, -3
            libc = ctypes.CDLL(None)
            libc.mallopt(mmap_threshold, 1 << 28)
            libc.mallopt(trim_threshold, (1 << 31) - 1)
            _request_large_pages(libc)


def _request_large_pages(libc) -> None:
    """Ask the system to use pages of 2 MB instead of 4 KB for the heap's next gigabyte.

    The processor keeps the addresses of about 2,000 pages; a training step uses more small pages
    than that. The heap grows by four blocks, each below the threshold above. They are freed at
    once and remain the free end of the heap. They take no memory before something is written.
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
