"""Facts about this machine, for records: its processor, libraries and memory.

And the error for an array that does not fit into memory.
"""

import contextlib
import importlib.metadata
import math
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from .plots import human

LIBRARIES = ("numpy", "numba", "llvmlite", "tbb", "torch", "transformers", "peft", "jax")


def processor() -> str:
    """The processor's name, as the system reports it."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if line := re.search(r"model name\s*: (.*)", text):
            return line[1]
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Library -> version, of those that are installed."""
    installed = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def resident() -> dict[str, int]:
    """Bytes of memory that this process holds "now", and its "peak" so far; {} except on Linux."""
    nbytes = {}
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text()
        for name, field in (("now", "VmRSS"), ("peak", "VmHWM")):
            if line := re.search(rf"{field}:\s+(\d+) kB", text):
                nbytes[name] = int(line[1]) * 1024
    return nbytes


def forget_peak() -> None:
    """Reset this process's peak of memory. Does nothing except on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def allocating(what: str) -> Iterator[None]:
    """In the with block, or in a function that it decorates, an array that cannot be allocated
    raises a MemoryError such as "attach: rank is too large: an array of 477 GiB, …".
    """
    try:
        yield
    except (MemoryError, ValueError) as error:
        shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
        size = "too many bytes to count"
        if shape and dtype:  # NumPy's MemoryError has them
            size = f"{human(math.prod(shape) * dtype.itemsize)}, {shape} of {dtype},"
        elif not str(error).startswith(("array is too big", "Maximum allowed dimension")):
            raise
        words = f"{what} is too large: an array of {size} does not fit into memory"
        raise MemoryError(words) from None
