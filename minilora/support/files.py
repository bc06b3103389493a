"""Where the data lies, reading JSON with care, writing files whole or not at all, and the error for
a misspelt name.
"""

import contextlib
import difflib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
KINDS = {  # what JSON holds -> how an error calls it
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def data_folder() -> Path:
    """The checkout's data/, or the copy inside an installed package.

    Raises FileNotFoundError if neither holds words/.
    """
    places = [PACKAGE.parent / "data", PACKAGE / "_data"]
    for folder in places:
        if (folder / "words").is_dir():
            return folder
    raise FileNotFoundError(f"data: no words/ in {places[0]} nor in {places[1]}")


def make_folder(path: str | Path) -> Path:
    """A folder that can be written into, made where it is not there: to know before hours of work.

    Raises OSError.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        return path


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, without a byte order mark.

    Raises FileNotFoundError, or ValueError naming the line that is no UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line}: not UTF-8") from None


def read_json(path: str | Path, wanted: Any = dict) -> Any:
    """What a JSON file holds, of the kind `wanted`: see `check_kind`.

    Raises FileNotFoundError, or ValueError naming the place that is not as wanted.
    """
    found = parse_json(path, read_text(path))
    check_kind(path, "it", found, wanted)
    return found


def parse_json(place: str | Path, text: str) -> Any:
    """What a JSON text holds; raises ValueError naming its place."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{place}: not JSON: too many brackets in each other") from None
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None


def check_kind(path: str | Path, name: str, value: Any, wanted: Any) -> None:
    """Raises ValueError, naming file and place, unless a value out of JSON is of this kind.

    wanted: bool, int, float (a whole number too), str, list, dict; [kind]: a list of them;
    {"name": kind}: an object that has these names; {str: kind}: an object of nothing else.
    """
    kind = wanted if isinstance(wanted, type) else type(wanted)
    fits = isinstance(value, int | float if kind is float else kind)
    if not fits or isinstance(value, bool) != (kind is bool):
        raise ValueError(f"{path}: {name} is {value!r:.80}, wanted {KINDS[kind]}")
    if isinstance(wanted, list):
        for i, item in enumerate(value):
            check_kind(path, f"{name}[{i}]", item, wanted[0])
    if isinstance(wanted, dict):
        inside = dict.fromkeys(value, wanted[str]) if str in wanted else wanted
        for key, inner in inside.items():
            place = key if name == "it" else f"{name}.{key}"
            if key not in value:
                raise ValueError(f"{path}: no {place} in it")
            check_kind(path, place, value[key], inner)


def write_atomically(path: str | Path, data: bytes) -> None:
    """The file at `path` becomes `data`, or stays as it was: never a part of either.

    Raises OSError, with the old file whole and nothing left beside it.
    """
    write_together({path: data})


def write_json(path: str | Path, value: Any) -> None:
    """Make a file at path hold a value as JSON, whole: a record that people read, too."""
    write_atomically(path, json.dumps(value, indent=1).encode() + b"\n")


def write_together(files: Mapping[Any, bytes]) -> None:
    """Path -> bytes: every file becomes its bytes, whole.

    All are written beside their places under other names and flushed to the disk before the first
    is renamed: no full disk, and no kill but one between the renamings, mixes old and new.
    Raises OSError.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            path = Path(path)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            staged[temporary] = path
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in staged.items():
            os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in staged.values()}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last through a power cut, where the system can (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # some network file systems refuse; the file itself is already safe
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def find(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """table[name]; raises ValueError with the nearest right names: see `nearest`."""
    if name not in table:
        raise nearest(what, name, table)
    return table[name]


def nearest(what: str, got: str, choices: Iterable[str]) -> ValueError:
    """The error for a name that is not among `choices`: it names the likeliest, then all. Raise it.

    nearest("task", "pastt", TASKS)  ->  unknown task 'pastt'; did you mean 'past'? (past, plural)
    """
    choices = list(choices)
    if not choices:
        return ValueError(f"unknown {what} {got!r}; there is none")
    close = difflib.get_close_matches(str(got), choices, n=2)
    listed = ", ".join(choices)
    if not close:
        return ValueError(f"unknown {what} {got!r}; wanted one of: {listed}")
    guess = " or ".join(map(repr, close))
    return ValueError(f"unknown {what} {got!r}; did you mean {guess}? ({listed})")
