"""The engine room: what makes a page fast stands here, behind one table.

A page is a file of ops/ or methods/ (and AdamW): plain NumPy, the definition of correct. A
function of a page may have a twin in `twins.py`: the same name and arguments, and a cache of the
same names, shapes and bytes. `twin` gives the twin for float32 and for arrays of shape alone. It
gives the page's own function for all else, where Numba is not installed, and inside `with
plain():`. The environment variable MINILORA_KERNELS chooses for the whole process: numpy (the
pages) or numba.

twins.py: each twin, written with kernels · kernels.py: each kernel's Numba file, and what it
allocates for arrays of shape alone · the other files: the kernels, which alone import Numba.
"""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..support.meta import Meta
from . import heap
from .twins import TWINS

PACKAGE = __package__.removesuffix("fast")  # "minilora."
FLOAT32 = np.dtype(np.float32)
_plain: ContextVar[bool] = ContextVar("minilora_plain", default=False)


@contextlib.contextmanager
def plain(only: bool = True) -> Iterator[None]:
    """Inside, every function of a page is the page's own: no twin answers and no Numba code runs.

    only=False turns the twins on again for a block. The lab's workers are told, too. A thread that
    is started inside is not told, as it has a context of its own.
    """
    token = _plain.set(only)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Are the twins turned off here by `plain`?"""
    return _plain.get()


def on() -> bool:
    """Do twins answer for float32 here?"""
    return not _plain.get() and backend() != "numpy"


@functools.cache
def backend() -> str:
    """ "numba" or "numpy": MINILORA_KERNELS if it is set, else Numba if it is installed.

    Raises ValueError for another value, and for Numba where it is not installed.
    """
    asked = os.environ.get("MINILORA_KERNELS", "")
    if asked not in ("", "numba", "numpy"):
        raise ValueError(f"MINILORA_KERNELS: got {asked!r}, wanted 'numba' or 'numpy'")
    installed = importlib.util.find_spec("numba") is not None
    if asked == "numba" and not installed:
        raise ValueError("MINILORA_KERNELS=numba, but Numba is not installed: pip install numba")
    return asked or ("numba" if installed else "numpy")


def answers(first: Any) -> bool:
    """Do twins answer for arrays like `first`: of shape alone, or float32 where they are on?"""
    if type(first) is Meta:
        return True
    return type(first) is np.ndarray and first.dtype == FLOAT32 and on()


def twin_of(function: Callable) -> Callable | None:
    """The twin of a page's function; None for one without, and for a reader's own function."""
    module, name = getattr(function, "__module__", None) or "", getattr(function, "__name__", "")
    return TWINS.get((module.removeprefix(PACKAGE), name)) if module.startswith(PACKAGE) else None


def twin(function: Callable, first: Any) -> Callable:
    """The twin of a page's function where it answers for arrays like `first`, else the function."""
    fast = twin_of(function)
    return fast if fast and answers(first) else function


def bind(function: Callable) -> Callable:
    """A page's function that is no op, such as AdamW: its twin answers where it can."""

    fast = twin_of(function)

    @functools.wraps(function)
    def bound(first, *rest, **named):
        chosen = fast if fast and answers(first) else function
        return chosen(first, *rest, **named)

    return bound


def prepare_memory() -> None:
    """Set up the heap as the first kernel would; called before weights are loaded."""
    if on():
        heap.set_up()
