"""Techniques from outside the package: FILE.py:METHOD, and those that installed packages offer.

After a file is read, its record is in METHODS. Another process gets FILES, and calls `read`.
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
    """The technique at FILE.py:METHOD, which is also added to METHODS.

    text: the contents of the file; None: read them. Raises FileNotFoundError, and ValueError if the
    file cannot be run or METHOD is not a technique with a unique name.
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
    """Run a file -> the names that it defines. It can import files from its folder."""
    module = sys.modules[path] = types.ModuleType(path)  # a dataclass in the file looks it up
    sys.path += {str(Path(path).parent)}.difference(sys.path)
    try:
        exec(compile(text, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # any error of the user's code
        where = blame(error) or f"{path}: "
        raise ValueError(f"{where}{type(error).__name__}: {error}") from None
    return vars(module)


def _check(place, record, taken: Container[str]) -> None:
    """Raises ValueError unless it is a technique with a unique name."""
    if not isinstance(record, Method):
        raise ValueError(f"{place} is a {type(record).__name__}, wanted a Method")
    if not record.name.isidentifier() or record.name in taken:
        raise ValueError(f"{place}: its name {record.name!r} is taken or invalid, wanted another")
    if isinstance(record.trains, str):
        raise ValueError(f"{place}: trains is {record.trains!r}, wanted {(record.trains,)!r}")


def add_installed(methods: dict[str, Method]) -> None:
    """Add the techniques of entry points; a faulty one is left out, with a warning."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            record = entry.load()
            _check(entry.value, record, methods)
            methods[record.name] = record
        except Exception as error:  # any error of another package's code
            warnings.warn(f"{entry.value}: left out: {type(error).__name__}: {error}", stacklevel=2)


def spelled(method: str) -> str:
    """How a command line names a technique: FILE.py:METHOD for one of a file, else its name."""
    return FILES.get(method, (method,))[0]


def version(method: str) -> dict[str, str]:
    """{"source": the CRC-32 of a technique's own file}; {} for a technique without one."""
    text = FILES[method][1] if method in FILES else ""
    return {"source": f"{zlib.crc32(text.encode()):08x}"} if text else {}


def blame(error: BaseException) -> str:
    """Where in a technique's file an error was raised, here or in a worker; "" if elsewhere."""
    text = "".join(traceback.format_exception(error))
    steps = re.findall(r'File "(.+)", line (\d+), in (\S+)', text)
    mine = [step for step in steps if step[0] in sys.modules]  # a module is named by its path
    return "{} line {}, in {}: ".format(*mine[-1]) if mine else ""
