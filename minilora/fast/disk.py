"""Compiled code on the disk: Numba's files with a checksum; a file is read only if it is right.

Numba keeps the compiled code of each function in two kinds of files: an index (.nbi) and data
(.nbc). It runs their contents without a check. Here a damaged file is deleted and its function
compiled again; a read-only folder is used if it has the code; if no folder is writable, the code
stays in memory. The worst case is a recompile and one warning.
"""

import contextlib
import functools
import glob
import hashlib
import os
import time
import warnings
import zlib
from pathlib import Path
from typing import Any, ClassVar

from numba.core import caching

from .threads import settings

HERE = Path(__file__).parent
CRC = 4  # bytes at the end of a file


def delete_outdated() -> None:
    """Delete compiled code that is older than any file of this folder.

    Numba checks only the kernel's own file, not the files of the functions that the kernel calls.
    """
    elsewhere = settings["CACHE_DIR"]  # NUMBA_CACHE_DIR
    folders = Path(elsewhere).glob(f"{HERE.name}_*") if elsewhere else [HERE / "__pycache__"]
    with contextlib.suppress(OSError):  # this user may not write to the folder
        for index in (path for folder in folders for path in folder.glob("*.nbi")):
            if index.stat().st_mtime < _newest() <= time.time():
                index.unlink(missing_ok=True)


def keep(kernel: Any) -> None:
    """Let Numba keep a function's compiled code on the disk, if some folder is writable."""
    try:
        kernel._cache = _Kept(kernel.py_func)
    except RuntimeError:  # Numba has found no folder
        _warn(
            f"no folder for compiled kernels is writable (neither {HERE} nor the user's own), so "
            "each process compiles them again; wanted one, which NUMBA_CACHE_DIR can name"
        )


@functools.cache
def _newest() -> float:
    """When a source was last changed."""
    return max(path.stat().st_mtime for path in HERE.glob("*.py"))


@functools.cache
def _contents() -> str:
    """A hash of all sources: the times of files are wrong after a clock was set back."""
    texts = (path.read_bytes() for path in sorted(HERE.glob("*.py")))
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


@functools.cache
def _warn(text: str) -> None:
    """Once in a process."""
    warnings.warn(text, stacklevel=4)


class _Damaged(ValueError):
    pass


class _Files(caching.IndexDataCacheFile):
    """Numba's files, each with the CRC-32 of its bytes at its end; unpickling stops before it."""

    @contextlib.contextmanager
    def _open_for_write(self, filepath):
        with super()._open_for_write(filepath) as file:
            yield (sealed := _Sealed(file))
            file.write(sealed.crc.to_bytes(CRC, "little"))

    def _load_index(self):
        _check(self._index_path)
        return super()._load_index()

    def _load_data(self, name):
        _check(self._data_path(name))
        return super()._load_data(name)


class _Sealed:
    """A file to write to that computes the CRC-32."""

    def __init__(self, file):
        self.file, self.crc = file, 0

    def write(self, data):
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)


def _check(path):
    with contextlib.suppress(FileNotFoundError):
        data = Path(path).read_bytes()
        if len(data) < CRC or zlib.crc32(data[:-CRC]).to_bytes(CRC, "little") != data[-CRC:]:
            raise _Damaged(f"{path} is damaged")


class _Package(caching.InTreeCacheLocator):
    """The package's own folder. A read-only one is used if it has compiled code of this file that
    is not older than the sources.
    """

    @classmethod
    def from_function(cls, py_func, py_file):
        if found := super().from_function(py_func, py_file):
            return found
        self = cls(py_func, py_file)
        indexes = Path(self.get_cache_path()).glob(f"{Path(py_file).stem}.*.nbi")
        return self if any(path.stat().st_mtime >= _newest() for path in indexes) else None


class _Places(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar = [
        _Package if locator is caching.InTreeCacheLocator else locator
        for locator in caching.CompileResultCacheImpl._locator_classes
    ]


class _Kept(caching.FunctionCache):
    """Numba's cache of one function. A faulty file or disk causes a warning, not an error."""

    _impl_class = _Places

    def __init__(self, py_func):
        super().__init__(py_func)
        place = self._impl.locator
        stamp = place.get_source_stamp(), _contents()
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # any error, since unpickling may raise any
            self._delete()
            _warn(f"damaged files of compiled kernels in {self._cache_path}: compiling")
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(
                f"compiled kernels cannot be kept in {self._cache_path} ({error.strerror}), so "
                "each process compiles them again"
            )

    def _delete(self):
        files = glob.escape(os.path.join(self._cache_path, self._impl.filename_base))
        for path in glob.glob(f"{files}.*nb[ci]"):
            with contextlib.suppress(OSError):
                os.unlink(path)
