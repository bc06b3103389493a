"""What the numbers depend on: the processor, the kernels, the libraries, the environment."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import fast as kernels

LIBRARIES = ("numpy", "numba", "llvmlite", "tbb", "torch", "transformers", "peft")
VARIABLES = ("OPENBLAS_", "MKL_", "OMP_", "NUMBA_", "MINILORA_", "KMP_")


def facts() -> dict[str, Any]:
    """Of this process, as plain data."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "kernels": kernel_names(),
        "blas": blas(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
        "load": load(),
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if found := re.search(r"model name\s*: (.*)", text):
            return found[1]
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Library -> version, of those that are installed."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def kernel_names() -> dict[str, Any]:
    """The backend, and for Numba its tile, its instruction set, its threads."""
    if not kernels.compiled():
        return {"backend": "numpy"}
    import llvmlite.binding as llvm

    from ..fast import threads, tile

    return {
        "backend": kernels.backend(),
        "tile": f"{tile.MR} x {tile.NR}",
        "target": llvm.get_host_cpu_name(),
        "threads": threads.THREADS,
    }


def blas() -> dict[str, Any]:
    """NumPy's BLAS: its name, its version, and for OpenBLAS the kernels that it chose."""
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    found = {"name": build.get("name"), "version": build.get("version")}
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in folder.glob("*openblas*"):
        with contextlib.suppress(OSError, AttributeError):
            corename = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
            corename.restype = ctypes.c_char_p
            found["kernels"] = corename().decode()
    return found


def load() -> float | None:
    """How many processes wanted to run in the last minute, on average."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def resident() -> dict[str, int]:
    """Bytes of memory that this process holds now, and the most it held; empty off Linux."""
    found = {}
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text()
        for name, field in (("now", "VmRSS"), ("peak", "VmHWM")):
            if line := re.search(rf"{field}:\s+(\d+) kB", text):
                found[name] = int(line[1]) * 1024
    return found


def forget_peak() -> None:
    """Let the peak be counted from now on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def page_faults() -> int:
    """How many pages of memory this process was given so far; 0 where the system does not say."""
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return 0
