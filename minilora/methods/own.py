"""Techniques from outside the package: FILE.py:METHOD, and those that installed packages offer.

A file's record is in METHODS once the file was read. Another process is given FILES to `read`.
"""

import importlib.metadata
import re
import sys
import traceback
import types
import warnings
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

from ..support.files import find, read_text
from .base import Method

GROUP = "minilora.methods"  # the entry points of installed packages
PLACE = re.compile(r".+\.py(:\w*)?")
FILES: dict[str, tuple[str, str]] = {}  # technique -> FILE.py:METHOD, the text of the file


def is_place(name: Any) -> bool:
    """Is it FILE.py:METHOD, or FILE.py, whose technique is called METHOD?"""
    return isinstance(name, str) and bool(PLACE.fullmatch(name))


def read(place: str, text: str | None = None) -> Method:
    """The record at FILE.py:METHOD; METHODS has it from now on.

    text: what the file contains; None: it is read. Raises FileNotFoundError; ValueError for a file
    that cannot be run, or whose METHOD is no technique with a name of its own.
    """
    from . import METHODS

    start, _, name = place.rpartition(".py")
    path = Path(f"{start}.py").absolute()
    text = read_text(path) if text is None else text
    file = f"{path}:{name[1:] or 'METHOD'}", text
    if file not in FILES.values():
        records = {k: v for k, v in _run(str(path), text).items() if isinstance(v, Method)}
        record = find(f"technique in {path}", name[1:] or "METHOD", records)
        _check(file[0], record, {method for method in METHODS if spelled(method) != file[0]})
        METHODS[record.name], FILES[record.name] = record, file
    return next(METHODS[method] for method, known in FILES.items() if known == file)


def _run(path, text) -> dict[str, Any]:
    """The names in a file after it was run. Files beside it can be imported."""
    module = sys.modules[path] = types.ModuleType(path)  # a dataclass in the file asks for it
    sys.path += {str(Path(path).parent)}.difference(sys.path)
    try:
        exec(compile(text, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # whatever the reader's own code raises
        where = blame(error) or f"{path}: "
        raise ValueError(f"{where}{type(error).__name__}: {error}") from None
    return vars(module)


def _check(place, record, taken: Container[str]) -> None:
    """Raises ValueError unless it is a technique with a name of its own."""
    if not isinstance(record, Method):
        raise ValueError(f"{place} is a {type(record).__name__}, wanted a Method")
    if not record.name.isidentifier() or record.name in taken:
        raise ValueError(f"{place}: its name {record.name!r} is taken or no name, wanted another")
    if isinstance(record.trains, str):
        raise ValueError(f"{place}: trains is {record.trains!r}, wanted {(record.trains,)!r}")


def add_installed(methods: dict[str, Method]) -> None:
    """Add the techniques of entry points; a faulty one is left out, with a warning."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            record = entry.load()
            _check(entry.value, record, methods)
            methods[record.name] = record
        except Exception as error:  # whatever another package's code raises
            warnings.warn(f"{entry.value}: left out: {type(error).__name__}: {error}", stacklevel=2)


def spelled(method: str) -> str:
    """How a command line names a technique: FILE.py:METHOD for one of a file, else its name."""
    return FILES.get(method, (method,))[0]


def version(method: str) -> dict[str, str]:
    """{"source": the CRC-32 of a technique's own file}; {} for a technique without one."""
    text = FILES[method][1] if method in FILES else ""
    return {"source": f"{zlib.crc32(text.encode()):08x}"} if text else {}


def blame(error: BaseException) -> str:
    """Where in a technique's file an error arose, here or in a worker; "" elsewhere."""
    text = "".join(traceback.format_exception(error))
    steps = re.findall(r'File "(.+)", line (\d+), in (\S+)', text)
    mine = [step for step in steps if step[0] in sys.modules]  # a module is named by its path
    return "{} line {}, in {}: ".format(*mine[-1]) if mine else ""
