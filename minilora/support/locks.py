"""Locks between processes: only one at a time writes to a file or a folder."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .files import make_folder

NAME = ".lock"  # the lock's file inside a folder


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Only one process at a time runs the with block for the file at `path`; others wait.

    The lock is another file beside it, because the file itself may be replaced. Raises OSError.
    """
    path = Path(path)
    with _locked(path.with_name(f".{path.name}{NAME}"), wait=True):
        yield


@contextlib.contextmanager
def using(folder: str | Path, file: str | Path | None = None) -> Iterator[None]:
    """In the with block only this process may write into the folder, and to `file` if it is given.

    Missing folders are made. Raises ValueError if another process is using one of the two, OSError
    if no file can be written there.
    """
    places = {folder: make_folder(folder) / NAME}
    if file:
        places[file] = make_folder(Path(file).parent) / f".{Path(file).name}{NAME}"
    with contextlib.ExitStack() as stack:
        for what, place in places.items():
            try:
                stack.enter_context(_locked(place, wait=False))
            except BlockingIOError:
                raise ValueError(
                    f"{what}: another process is writing there; wanted another place"
                ) from None
        yield


@contextlib.contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file at `path`. The system releases it when the process ends, however it ends.

    Raises BlockingIOError if another process holds it and wait is False.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, wait)
            # the last holder may have removed this file: then lock the one that is there now
            if _same(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            path.unlink()
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    """Is the open file still the file at this path?"""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _lock(handle: int, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
