"""What a record says of the machine that made it: the processor, the libraries, the memory.

And the error where its memory is too small.
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
    """The processor's name, as the system gives it."""
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
    """Bytes of memory that this process holds "now", and its "peak" so far; {} where not Linux."""
    nbytes = {}
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text()
        for name, field in (("now", "VmRSS"), ("peak", "VmHWM")):
            if line := re.search(rf"{field}:\s+(\d+) kB", text):
                nbytes[name] = int(line[1]) * 1024
    return nbytes


def forget_peak() -> None:
    """Start to measure the peak of memory anew. It does nothing where the system is not Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def allocating(what: str) -> Iterator[None]:
    """In the with block, or in a function that it decorates, an array that cannot be made is a
    MemoryError in our words: "attach: rank is too large: an array of 477 GiB, …".
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
