"""Techniques from outside the package: FILE.py:METHOD, and those that installed packages offer.

A file's record is in METHODS from the moment when the file is read, so that all that asks by name
knows it; another process is told by `files` and `load`.
"""

import importlib.metadata
import re
import sys
import traceback
import types
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..support.files import find, read_text
from .base import Method

GROUP = "minilora.methods"  # the entry points of installed packages
_PLACE = re.compile(r"(.+\.py)(?::(\w*))?")  # FILE.py:METHOD, or FILE.py, whose name is METHOD
_files: dict[str, tuple[str, str]] = {}  # technique -> FILE.py:METHOD, and the text of the file


def is_place(name: Any) -> bool:
    """Does a text name a file's technique, as FILE.py:METHOD?"""
    return isinstance(name, str) and bool(_PLACE.fullmatch(name))


def load(place: str, text: str | None = None) -> Method:
    """The record in a file; METHODS has it from now on.

    place: FILE.py:METHOD. text: what is in the file; None: it is read.
    Raises FileNotFoundError; ValueError, with the line, for a file that cannot be run, and where
    its METHOD is no technique with a name of its own.
    """
    from . import METHODS

    path, name = _PLACE.fullmatch(place).groups("METHOD")  # type: ignore[union-attr]
    text, path = read_text(path) if text is None else text, str(Path(path).absolute())
    place = f"{path}:{name}"
    known = {method: record for method, record in METHODS.items() if _place(method) != place}
    if (place, text) not in _files.values():
        names = _run(path, text)
        records = {key: value for key, value in names.items() if isinstance(value, Method)}
        record = _checked(place, find(f"technique in {path}", name, records), known)
        METHODS[record.name], _files[record.name] = record, (place, text)
    return next(METHODS[method] for method, file in _files.items() if file == (place, text))


def _run(path, text) -> dict[str, Any]:
    """The names in a file after it was run. Files beside it can be imported."""
    # the module is known to Python, which a dataclass in the file asks for
    module = sys.modules[path] = types.ModuleType(path)
    module.__file__ = path
    if (folder := str(Path(path).parent)) not in sys.path:
        sys.path.append(folder)
    try:
        exec(compile(text, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # whatever the reader's own code raises
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        else:
            steps = traceback.extract_tb(error.__traceback__)
            lines = [step.lineno for step in steps if step.filename == path]
        what = error.msg if isinstance(error, SyntaxError) else error
        where = f"line {lines[-1]}: " if lines else ""
        raise ValueError(f"{path}: {where}{type(error).__name__}: {what}") from None
    return vars(module)


def _checked(place, record, known: Mapping[str, Method]) -> Method:
    """The record; raises ValueError unless it is a technique with a name of its own."""
    if not isinstance(record, Method):
        raise ValueError(f"{place} is a {type(record).__name__}, wanted a Method")
    if not record.name.isidentifier():
        raise ValueError(f"{place}: its name is {record.name!r}, wanted one such as my_method")
    if isinstance(record.trains, str):
        raise ValueError(f"{place}: trains is {record.trains!r}, wanted {(record.trains,)!r}")
    if record.name in known:
        whose = _place(record.name) or "minilora"
        raise ValueError(f"{place}: its name {record.name!r} is taken by {whose}, wanted another")
    return record


def installed(known: Mapping[str, Method]) -> dict[str, Method]:
    """Name -> record, of the entry points minilora.methods; a faulty one is left out, with a
    warning. known: the techniques whose names are taken.
    """
    found: dict[str, Method] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            record = _checked(entry.value, entry.load(), {**known, **found})
        except Exception as error:  # whatever another package's code raises
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"{entry.name}, a technique of a package: left out, {what}", stacklevel=2)
        else:
            found[record.name] = record
    return found


def files() -> list[tuple[str, str]]:
    """FILE.py:METHOD and the file's text, of every technique that was read from a file."""
    return [*_files.values()]


def _place(method: str) -> str:
    """FILE.py:METHOD of a technique that was read from a file; "" for another."""
    return _files.get(method, ("", ""))[0]


def version(method: str) -> str:
    """The CRC-32 of the file that a technique was read from; "" for another technique."""
    return f"{zlib.crc32(_files[method][1].encode()):08x}" if method in _files else ""


def spelled(method: str) -> str:
    """How a command line names a technique: FILE.py:METHOD for one of a file, else its name."""
    return _place(method) or method


def blame(error: BaseException) -> str:
    """Where in a technique's file an error arose, here or in a worker.

    "mine.py line 12, in init: "; "" where it arose elsewhere.
    """
    found = ""
    for line in "".join(traceback.format_exception(error)).splitlines():
        step = re.match(r'\W*File "(.+)", line (\d+), in (\w+)', line)
        if step and step[1] in (place.rpartition(":")[0] for place, _ in files()):
            found = f"{Path(step[1]).name} line {step[2]}, in {step[3]}: "
    return found
