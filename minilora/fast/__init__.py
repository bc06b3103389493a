"""Fast versions of the pages' functions, and the table that lists them.

A page is a file of ops/ or methods/ in plain NumPy. It defines the correct result. A function of a
page may have a twin in `twins.py`: the same name and arguments, and a cache of the same names,
shapes and bytes. The twin runs if all its array arguments are float32, and always on shape-only
arrays. In all other cases, without Numba, and inside `with plain():` the page's own function runs.
The environment variable MINILORA_KERNELS chooses for the whole process: numpy (the pages) or numba.

twins.py: each twin, written with kernels, and the table of all twins · kernels.py: each kernel's
Numba file, and what it allocates for shape-only arrays · the other files: the kernels; only these
import Numba.
"""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import numpy as np

from .. import engine
from ..support.meta import Meta
from . import heap
from .kernels import Unfit

FLOAT32 = np.dtype(np.float32)
_plain: ContextVar[bool] = ContextVar("minilora_plain", default=False)


@contextlib.contextmanager
def plain(only: bool = True) -> Iterator[None]:
    """Inside, the pages run their own functions: no twin and no Numba code runs.

    only=False turns the twins on again for a block. It also applies to the lab's workers, but not
    to a thread that is started inside, because a thread has its own context.
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
    """Do twins run for float32 arrays here?"""
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


def or_page(twin: Callable, page: Callable) -> Callable:
    """The twin if it fits the arguments, else the page's function.

    The first argument is checked here, the others by the kernels: they raise Unfit, or ValueError
    for unsupported shapes, before the twin writes anything. So no check is added if all arguments
    fit. A page has no `add_to`, so the gradient is added here.
    """
    compiled = backend() != "numpy"

    @functools.wraps(twin)
    def chosen(*given, **named):
        first = given[0] if given else None
        if type(first) is np.ndarray:
            fits = first.dtype == FLOAT32 and compiled and not _plain.get()
        else:
            fits = type(first) is Meta
        if fits:
            try:
                return twin(*given, **named)
            except (Unfit, ValueError):
                pass
        add_to = named.pop("add_to", None)
        answer = page(*given, **named)
        return answer if add_to is None else (engine.add(add_to, answer[0]), *answer[1:])

    return chosen


def prepare_memory() -> None:
    """Set up the heap before weights are loaded; else the first kernel does it."""
    if on():
        heap.set_up()
