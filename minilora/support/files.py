"""The data folder, checked JSON, atomic writes, and the error for a misspelt name."""

import contextlib
import difflib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .kinds import check_kind

PACKAGE = Path(__file__).resolve().parents[1]
MOST_TEXT, MOST_JSON = 1 << 28, 1 << 25  # bytes of a file; JSON may need 32 times as much memory
DEEPEST = 64  # levels of brackets in a JSON text
TOO_DEEP = "its brackets are nested too deeply"


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


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """The contents of a text file in UTF-8, without a byte order mark.

    Raises FileNotFoundError; ValueError if it is not a regular file of at most `most` bytes, or is
    not UTF-8, with the number of the first wrong line.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_size > most:
                raise ValueError(f"{path}: wanted a file of at most {most} bytes of text")
            return file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, wanted a file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line}: not UTF-8") from None


def _without_waiting(path, flags):
    """An opener for `open` that does not wait until another process writes into a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: str | Path, wanted: Any = dict, most: int = MOST_JSON) -> Any:
    """The value in a JSON file, which must be of the kind `wanted`: see `check_kind`.

    Raises FileNotFoundError, or ValueError with the place in the file that is wrong; it may have
    `most` bytes.
    """
    value = parse_json(path, read_text(path, most))
    check_kind(path, "it", value, wanted)
    return value


def parse_json(place: str | Path, text: str | bytes, most: int = MOST_JSON) -> Any:
    """The value of a JSON text of `most` characters at most; ValueError begins with `place`."""
    if len(text) > most:
        raise ValueError(f"{place}: JSON of {len(text):,} characters, wanted at most {most:,}")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{place}: not JSON: {TOO_DEEP}") from None
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    inner, depth = [[value]], 0
    while inner := [child for parent in inner for child in _brackets(parent)]:
        if (depth := depth + 1) > DEEPEST:
            raise ValueError(f"{place}: JSON is refused: {TOO_DEEP}")
    return value


def _brackets(value):
    """The lists and objects directly inside a list or an object."""
    inside = value.values() if isinstance(value, dict) else value
    return [v for v in inside if isinstance(v, dict | list)]


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
    is killed between two renamings. Raises OSError that names the file, after removing the
    temporary files. Those that a killed process left behind are removed, too, a day later.
    """
    for folder in {Path(path).parent for path in files}:
        _remove_old_temporaries(folder)
    staged: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            path = Path(path)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            staged[temporary] = path
            with naming(path), open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in staged.items():
            os.replace(temporary, path)
    except BaseException as error:  # also KeyboardInterrupt
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:  # a full disk
            places = ", ".join(map(str, files))
            raise OSError(error.errno, f"{error.strerror}: {places:.200}") from None
        raise
    for folder in {path.parent for path in staged.values()}:
        _sync_folder(folder)


@contextlib.contextmanager
def replacing(folder: str | Path, remove: Collection[str] = ()) -> Iterator[Path]:
    """Yield a new folder inside `folder`; at the end, its files replace those of the same names.

    First, in each subfolder that both have, files named in `remove` and empty folders are deleted;
    a user's other files stay.
    After an error or a kill before the end, `folder` has only its old files.
    """
    folder = Path(folder)
    new = folder / ".unfinished"
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir()
    try:
        yield new
        for part in [path for path in new.iterdir() if path.is_dir()]:
            _clear(folder / part.name, remove)
        for path in sorted(new.rglob("*")):  # a folder comes before its contents
            place = folder / path.relative_to(new)
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                os.replace(path, place)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _clear(folder, names):
    """Remove the files of these names, and then the empty folders."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder's contents come before it
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif path.name in names:
            path.unlink()


@contextlib.contextmanager
def optional_files(*paths: str | Path) -> Iterator[None]:
    """In the with block figures and the like are written; if that fails, only a warning says why.

    Files at `paths` are removed first: they are of an earlier run.
    """
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:  # a full disk, or whatever the library that draws raises
        said = f"not written, and the run goes on: {', '.join(map(str, paths))}"
        warnings.warn(f"{said}: {str(error) or type(error).__name__}", stacklevel=3)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add this file's name to an OSError; the error of a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _remove_old_temporaries(folder: Path) -> None:
    """Remove temporary files of `write_together` that are older than a day."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*.????????.tmp"):
            if time.time() - path.stat().st_mtime > 86_400:  # seconds
                path.unlink(missing_ok=True)


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
        return ValueError(f"unknown {what} {got!r:.80}; wanted one of: {listed}")
    guess = " or ".join(map(repr, similar))
    return ValueError(f"unknown {what} {got!r:.80}; did you mean {guess}? ({listed})")
