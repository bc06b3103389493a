"""The seconds that this process spent on compiling kernels, or on reading them from the disk.

They do not count as time of a training step.
"""

import contextlib
import time
from collections.abc import Iterator

_open: list[float] = []  # the start times of the open blocks
seconds = 0.0


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Count the time inside; blocks within blocks count once."""
    global seconds
    _open.append(time.perf_counter())
    try:
        yield
    finally:
        start = _open.pop()
        if not _open:
            seconds += time.perf_counter() - start


def now() -> float:
    """time.perf_counter() without the seconds spent on kernels."""
    return time.perf_counter() - seconds
