"""The engine room: what makes a page fast stands here, behind one table.

A page is a file of ops/ or methods/: plain NumPy, the definition of correct. A function of a page
may have a twin in `twins.py`: the same name and arguments, and a cache of the same names, shapes
and bytes. The twin runs where every array among its arguments is float32, and always on arrays of
shape alone. The page's own function runs for all else, where Numba is not installed, and inside
`with plain():`. The environment variable MINILORA_KERNELS chooses for the whole process: numpy
(the pages) or numba.

twins.py: each twin, written with kernels, and the table of all twins · kernels.py: each kernel's
Numba file, and what it allocates for arrays of shape alone · the other files: the kernels, which
alone import Numba.
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


def or_page(twin: Callable, page: Callable) -> Callable:
    """The twin where it fits the arguments, else the page's function.

    The first argument is looked at here, the others by the kernels, which raise Unfit, or
    ValueError for shapes that they do not serve. So nothing is spent where all fit. No twin has
    written anything then. Of a gradient to add to (`add_to`) a page knows nothing.
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
    """Set up the heap as the first kernel would; called before weights are loaded."""
    if on():
        heap.set_up()
