"""Call a reader's function on some arguments, and keep what it returned or what stopped it.

While it runs, no variable of the functions that call it holds a right output, nor an exercise,
which could compute one: what is right is computed afterwards, in `judge`.
"""

import contextlib
import copy
import dis
import functools
import inspect
import io
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minilora
from minilora.check.words import Notes

IDLE = {"RESUME", "NOP", "CACHE", "POP_TOP", "RETURN_VALUE", "COPY_FREE_VARS", "MAKE_CELL"}


# files that no reader wrote: both packages, Python's library, and what is installed
NOT_THEIRS = (
    *(str(Path(file).parent) for file in (__file__, minilora.__file__)),
    *map(sysconfig.get_path, ("stdlib", "purelib")),
)


class Fault(NamedTuple):
    """Why there are no outputs to compare."""

    status: str  # "failed", or "open": nothing is written yet
    says: str
    notes: Notes = ()


class WrongForm(Exception):
    """What the code that runs a reader's functions says of a form that it cannot use."""


def call_each(
    function: Callable, sets: Sequence[dict[str, Any]], silent: bool = False
) -> list[Any]:
    """What a function returned for each set of arguments, or the Fault that stopped it.

    sets: name -> argument, in the order in which the function takes them. What the function prints
    is shown for the first set alone; silent: for none.
    """
    returned = []
    for i, args in enumerate(sets):
        seen = contextlib.nullcontext() if i == 0 and not silent else unseen()
        with seen:
            returned.append(call(function, args))
    return returned


def unseen() -> contextlib.AbstractContextManager[Any]:
    """Inside, what is printed is dropped."""
    return contextlib.redirect_stdout(io.StringIO())


def is_blank(function: Callable) -> bool:
    """Has a function no statement but a docstring, `...`, pass or return None?"""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and all(
        i.opname in IDLE or ("CONST" in i.opname and i.argval in (None, ...))
        for i in dis.get_instructions(code)
    )


def call(function: Callable, args: dict[str, Any]) -> Any:
    """What a function returned for one set of arguments, or the Fault that stopped it."""
    given = {n: np.copy(a) if isinstance(a, np.ndarray) else a for n, a in args.items()}
    try:
        returned = function(*given.values())
    except NotImplementedError:
        return Fault("open", "not written yet")
    except WrongForm as error:
        return Fault("failed", str(error))
    except Exception as error:  # a reader's function may raise anything
        return _raised(error, args)
    if returned is ... or (returned is None and is_blank(function)):
        return Fault("open", "not written yet")
    if returned is None:
        return Fault("failed", "it returned None: is the return missing?")
    for name, a in given.items():
        if isinstance(a, np.ndarray) and not np.array_equal(a, args[name]):
            return Fault("failed", f"it wrote into its argument {name}: make a new array instead")
    try:
        return copy.deepcopy(returned)  # the next call may write into these arrays
    except Exception:  # a generator, a lock: no output in any case
        return returned


def _raised(error, args) -> Fault:
    """An error in words: where it was raised, and what was passed."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call above
    lines = [f.line for f in frames if f.line and not f.filename.startswith(NOT_THEIRS)]
    notes = [("in the line", line) for line in lines[-1:]]
    if frames:
        arrays = ((n, a) for n, a in args.items() if isinstance(a, np.ndarray) and a.ndim)
        shapes = ", ".join(f"{n} {a.shape}" for n, a in arrays)
        notes += [("shapes", shapes)] if shapes else []
    else:
        notes.append(("arguments", f"it is called with {len(args)}: {', '.join(args)}"))
    if "truth value of an array" in str(error):
        words = "min, max and if take one number; np.minimum, np.maximum, np.where take arrays"
        notes.append(("arrays", words))
    message = str(error).splitlines()[:1] or [""]
    return Fault("failed", f"it raised {type(error).__name__}: {message[0]}", tuple(notes))
