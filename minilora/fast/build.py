"""Compile the kernels before the first one runs, and say so.

Numba keeps compiled code on disk. So this happens once per installation and processor; later runs
read the code in a second.
"""

import importlib
import sys
from pathlib import Path

from ..support.terminal import bar
from .jit import portion
from .threads import settings

FILES = ("unpacked", "matmul", "packed", "pointwise", "softmax", "gated", "attention", "adam")


def compile_missing() -> None:
    """Compile the files without compiled code on disk; show one line on stderr, and a bar."""
    folder = cache_folder()
    missing = [name for name in FILES if folder and not any(folder.glob(f"{name}.*.nbi"))]
    if not missing or settings["DISABLE_JIT"]:
        return
    print(
        "minilora: compiling its kernels for this processor. This happens once; later runs read "
        f"them from {folder}",
        file=sys.stderr,
        flush=True,
    )
    quiet = False if "ipykernel" in sys.modules else None  # None: silent if stderr is a file
    for name in bar(iterable=missing, desc="compiling", unit="file", disable=quiet, leave=False):
        importlib.import_module(f".{name}", __package__)


def cache_folder() -> Path | None:
    """Where Numba keeps the compiled code of this folder's files; None if it keeps none."""
    path = getattr(getattr(portion, "_cache", None), "cache_path", None)
    return Path(path) if path else None
