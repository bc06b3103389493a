"""Where the data lies, checked JSON, files written whole, and the error for a misspelt name."""

import contextlib
import difflib
import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .values import MOST, is_finite, shown

PACKAGE = Path(__file__).resolve().parents[1]
DEEPEST = 64  # levels of brackets in a JSON text
TOO_DEEP = "too many brackets inside one another"
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
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{place}: not JSON: {TOO_DEEP}") from None
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    inner, depth = [[value]], 0
    while inner := [child for parent in inner for child in _brackets(parent)]:
        if (depth := depth + 1) > DEEPEST:
            raise ValueError(f"{place}: not JSON of ours: {TOO_DEEP}")
    return value


def _brackets(value):
    """The lists and objects directly inside a value."""
    inside = value.values() if isinstance(value, dict) else value
    return (
        [v for v in inside if isinstance(v, dict | list)] if isinstance(value, dict | list) else []
    )


@dataclass(frozen=True)
class Within:
    """A kind for `check_kind`: a number of at least `least` and at most `most`."""

    kind: type
    least: float
    most: float = math.inf

    def __str__(self):
        if self.most == math.inf:
            return f" of at least {self.least:g}"
        return f" from {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class OneOf:
    """Another kind: what is of one of these; None stands for null."""

    kinds: tuple[Any, ...]

    def __init__(self, *kinds: Any):
        object.__setattr__(self, "kinds", kinds)


def check_kind(path: str | Path, name: str, value: Any, wanted: Any) -> None:
    """Raises ValueError, with the file and the place in it, if a JSON value is of another kind.

    wanted: bool; int (of 64 bits); float (finite; a whole number is allowed too); str; list; dict;
    object: anything; [kind]: a list of such values; (kind, kind): a list of exactly these;
    {"name": kind}: an object with at least these names, but for those that end in "?";
    {str: kind}: an object all of whose values are of this kind; Within, OneOf.
    """
    if isinstance(wanted, OneOf):
        _check_one_of(path, name, value, wanted)
        return
    if wanted is object:
        return
    within, wanted = (wanted, wanted.kind) if isinstance(wanted, Within) else (None, wanted)
    kind = wanted if isinstance(wanted, type) else type(wanted)
    kind = list if kind is tuple else kind
    fits = isinstance(value, int | float if kind is float else kind)
    fits = fits and isinstance(value, bool) == (kind is bool)
    if not fits or not _in_range(value, kind, within):
        bounds = " that is finite and of 64 bits" if fits else ""
        bounds = str(within) if within else bounds
        raise ValueError(f"{path}: {name} is {shown(value)}, wanted {KINDS[kind]}{bounds}")
    if isinstance(wanted, tuple) and len(value) != len(wanted):
        raise ValueError(f"{path}: {name} has {len(value)} entries, wanted {len(wanted)}")
    if isinstance(wanted, list | tuple):
        kinds = wanted if isinstance(wanted, tuple) else wanted * len(value)
        for i, (item, inner) in enumerate(zip(value, kinds, strict=True)):
            check_kind(path, f"{name}[{i}]", item, inner)
    if isinstance(wanted, dict):
        inside = dict.fromkeys(value, wanted[str]) if str in wanted else wanted
        for key, inner in inside.items():
            place = key if name == "it" else f"{name}.{key}"
            if key.removesuffix("?") in value:
                check_kind(path, place.removesuffix("?"), value[key.removesuffix("?")], inner)
            elif not key.endswith("?"):
                raise ValueError(f"{path}: no {place} in it")


def _in_range(value, kind, within):
    """A number that a computer's numbers can hold, within the bounds if there are some."""
    if kind not in (int, float):
        return True
    if not (is_finite(value) if kind is float else abs(value) <= MOST):
        return False
    return within is None or within.least <= value <= within.most


def _check_one_of(path, name, value, wanted):
    """Raises what the last kind has to say if none of them fits."""
    for kind in wanted.kinds:
        if kind is None and value is None:
            return
        if kind is not None:
            try:
                check_kind(path, name, value, kind)
                return
            except ValueError as error:
                last = error
    raise last


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
