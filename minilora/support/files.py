"""Where the data lies, checked JSON, files written whole, and the error for a misspelt name."""

import contextlib
import difflib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
KINDS = {  # a Python type -> what an error calls it
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def data_folder() -> Path:
    """The folder data/ of the checkout, or its copy inside an installed package.

    Raises FileNotFoundError if neither contains words/.
    """
    places = [PACKAGE.parent / "data", PACKAGE / "_data"]
    for folder in places:
        if (folder / "words").is_dir():
            return folder
    raise FileNotFoundError(f"data: no words/ in {places[0]} nor in {places[1]}")


def make_folder(path: str | Path) -> Path:
    """Make a folder if it is missing, and test that a file can be written into it.

    A command calls this before hours of work. Raises OSError.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        return path


def read_text(path: str | Path) -> str:
    """The contents of a text file in UTF-8, without a byte order mark.

    Raises FileNotFoundError, or ValueError with the first line that is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line}: not UTF-8") from None


def read_json(path: str | Path, wanted: Any = dict) -> Any:
    """The value in a JSON file, which must be of the kind `wanted`: see `check_kind`.

    Raises FileNotFoundError, or ValueError with the place in the file that is wrong.
    """
    value = parse_json(path, read_text(path))
    check_kind(path, "it", value, wanted)
    return value


def parse_json(place: str | Path, text: str | bytes) -> Any:
    """The value of a JSON text; raises ValueError that begins with `place`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{place}: not JSON: too many brackets inside one another") from None
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None


def check_kind(path: str | Path, name: str, value: Any, wanted: Any) -> None:
    """Raises ValueError, with the file and the place in it, if a JSON value is of another kind.

    wanted: bool, int, float (a whole number is allowed too), str, list, dict; [kind]: a list of
    such values; {"name": kind}: an object with at least these names; {str: kind}: an object all of
    whose values are of this kind.
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


@contextlib.contextmanager
def errors_at(place: str | Path, without: str = "") -> Iterator[None]:
    """A ValueError raised in the with block is raised again: `place` replaces the prefix `without`.

    with errors_at("a/config.json", "config: "): …   config: rank is 0  ->  a/config.json: rank is 0
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {str(error).removeprefix(without)}") from None


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace the file at `path` by one with these bytes; see `write_together`. Raises OSError."""
    write_together({path: data})


def write_json(path: str | Path, value: Any) -> None:
    """Replace the file at `path` by a value as JSON, indented for people to read."""
    write_atomically(path, json.dumps(value, indent=1).encode() + b"\n")


def write_together(files: Mapping[Any, bytes]) -> None:
    """Replace several files: path -> bytes. No file ever holds a part of its old or new bytes.

    All bytes are first written to temporary files and flushed to the disk; then these are renamed.
    A full disk leaves every old file as it was. Old and new files can be mixed only if the process
    is killed between two renamings. Raises OSError, after removing the temporary files.
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
    except BaseException:  # also KeyboardInterrupt
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in staged.values()}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Flush the renamings in a folder to the disk. Windows has no such call."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # some network file systems do not allow it; the files themselves are already flushed
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def find(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """table[name]; raises ValueError with the most similar names: see `nearest`."""
    if name not in table:
        raise nearest(what, name, table)
    return table[name]


def nearest(what: str, got: str, choices: Iterable[str]) -> ValueError:
    """The error to raise for a name that is not in `choices`: the most similar names, then all.

    nearest("task", "pastt", TASKS)  ->  unknown task 'pastt'; did you mean 'past'? (past, plural)
    """
    choices = list(choices)
    if not choices:
        return ValueError(f"unknown {what} {got!r}; there is none")
    similar = difflib.get_close_matches(str(got), choices, n=2)
    listed = ", ".join(choices)
    if not similar:
        return ValueError(f"unknown {what} {got!r}; wanted one of: {listed}")
    guess = " or ".join(map(repr, similar))
    return ValueError(f"unknown {what} {got!r}; did you mean {guess}? ({listed})")
