"""Where the data lies, writing a file whole or not at all, and the error for a misspelt name."""

import contextlib
import difflib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_folder() -> Path:
    """The checkout's data/, or the copy inside an installed package.

    Raises FileNotFoundError if neither holds words/.
    """
    places = [PACKAGE.parent / "data", PACKAGE / "_data"]
    for folder in places:
        if (folder / "words").is_dir():
            return folder
    raise FileNotFoundError(f"data: no words/ in {places[0]} nor in {places[1]}")


def write_atomically(path: str | Path, data: bytes) -> None:
    """The file at `path` becomes `data`, or stays as it was: never a part of either.

    Written beside it under another name, flushed to the disk, then renamed over it.
    Raises OSError, with the old file whole and nothing left beside it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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


def nearest(what: str, got: str, choices: Iterable[str]) -> ValueError:
    """The error for a name that is not among `choices`: it names the likeliest, then all. Raise it.

    nearest("task", "pastt", TASKS)  ->  unknown task 'pastt'; did you mean 'past'? (past, plural)
    """
    choices = list(choices)
    close = difflib.get_close_matches(str(got), choices, n=2)
    listed = ", ".join(choices)
    if not close:
        return ValueError(f"unknown {what} {got!r}; wanted one of: {listed}")
    guess = " or ".join(map(repr, close))
    return ValueError(f"unknown {what} {got!r}; did you mean {guess}? ({listed})")
