"""What the Numba files share: how kernels are compiled, and how they are cut into tasks."""

import contextlib
import time
from pathlib import Path

import numpy as np
from numba import boolean, float32, int64, njit, types

from . import threads

# A product may be fused with the sum that takes it, and a division become a product with the
# reciprocal, but nothing is done in another order than it is bracketed ("reassoc"): LLVM would
# choose one by what was compiled together and what came from the disk. For sums in vectors there
# is sums.py. NaN and inf are passed on: a trainer stops at them.
FASTMATH = {"contract", "arcp", "nsz"}


def _drop_outdated() -> None:
    """Delete compiled code that is older than any file of this folder.

    Numba keeps it on disk, and looks only at the file that a kernel stands in, not at the tile.
    """
    here = Path(__file__).parent
    with contextlib.suppress(OSError):  # a folder that is not ours to write
        newest = max(path.stat().st_mtime for path in here.glob("*.py"))
        for index in (here / "__pycache__").glob("*.nbi"):
            if index.stat().st_mtime < newest <= time.time():
                index.unlink(missing_ok=True)


_drop_outdated()

flag, count, number = boolean, int64, float32
SHARE = count, count  # the number of a task, of how many
PLACE = count, count  # row and column
SIZES = count, count, count  # depth, rows, columns
ONE = np.float32(1)


def compiled(signature=None, parallel=False, fast=FASTMATH):
    """njit, cached on disk. With a signature: compiled at import, once, whoever calls it.

    So a share done by the only task and one done by a thread give the same, to the last bit.
    fast=False: each operation rounded where it stands, also inside a fast kernel.
    """
    return njit(
        signature,
        cache=True,
        error_model="numpy",
        nogil=True,
        parallel=parallel,
        fastmath=fast,
    )


def read(ndim, layout="C", dtype=float32):
    """The type of an array that is only read, and may be read-only. "A": of any strides."""
    return types.Array(dtype, ndim, layout, readonly=True)


def write(ndim, layout="C"):
    """The type of an array that is written to."""
    return types.Array(float32, ndim, layout)


def dense(array, shape):
    """The array itself where it has that shape and is contiguous, else a copy, broadcast to it.

    Raises ValueError where it cannot be broadcast.
    """
    if array.shape != shape:
        array = np.broadcast_to(array, shape)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def tasks(work, grain):
    """Into how many tasks to cut some work: one where it is below the grain, else one a thread."""
    return 1 if work < grain else threads.THREADS


# Flat arrays are cut after whole vectors: then the same few numbers at the very end are done one by
# one, which may round differently, whatever the number of tasks.
WHOLE = 256


@compiled((count, count))
def room(rows, cols):
    """An array of that shape, from a cache line on: else each vector would lie in two."""
    numbers = np.empty(rows * cols + 16, np.float32)
    start = (-numbers.ctypes.data % 64) // 4
    return numbers[start : start + rows * cols].reshape(rows, cols)


@compiled()
def portion(size, t, cut, whole):
    """Start and stop of task t's share of `size` things, of `cut` shares, in units of `whole`."""
    share = -(-size // (whole * cut)) * whole
    return min(t * share, size), min((t + 1) * share, size)
