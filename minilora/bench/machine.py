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

from .. import fast

LIBRARIES = ("numpy", "numba", "llvmlite", "tbb", "torch", "transformers", "peft")
VARIABLES = ("OPENBLAS_", "MKL_", "OMP_", "NUMBA_", "MINILORA_", "KMP_")


def facts() -> dict[str, Any]:
    """The machine as this process sees it, as plain data."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "kernels": kernels(),
        "blas": blas(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # of the last minute
    }


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


def kernels() -> dict[str, Any]:
    """The backend; for Numba also its tile, its instruction set and its threads."""
    if fast.backend() == "numpy":
        return {"backend": "numpy"}
    import llvmlite.binding as llvm

    from ..fast import threads, tile

    return {
        "backend": fast.backend(),
        "tile": f"{tile.MR} x {tile.NR}",
        "target": llvm.get_host_cpu_name(),
        "threads": threads.THREADS,
    }


def blas() -> dict[str, Any]:
    """NumPy's BLAS: its name, its version, and for OpenBLAS the kernels that it chose."""
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    about = {"name": build.get("name"), "version": build.get("version")}
    folder = Path(np.__file__).parent.parent / "numpy.libs"
    for path in folder.glob("*openblas*"):
        with contextlib.suppress(OSError, AttributeError):
            corename = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
            corename.restype = ctypes.c_char_p
            about["kernels"] = corename().decode()
    return about


def resident() -> dict[str, int]:
    """Bytes of memory that this process holds now, and the most that it held; {} off Linux."""
    nbytes = {}
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text()
        for name, field in (("now", "VmRSS"), ("peak", "VmHWM")):
            if line := re.search(rf"{field}:\s+(\d+) kB", text):
                nbytes[name] = int(line[1]) * 1024
    return nbytes


def forget_peak() -> None:
    """Count the peak of memory from now on (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def page_faults() -> int:
    """How many pages of memory this process was given so far; 0 where the system does not say."""
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return 0
