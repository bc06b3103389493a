"""How the Numba files compile their kernels and divide the work into tasks."""

import functools

import numpy as np
from numba import boolean, float32, int64, njit, prange, types

from . import clock, disk, threads
from .llvm import by_address
from .threads import settings

# A product may be fused with the sum that uses it, and a division may become a product with the
# reciprocal. Sums are never reordered ("reassoc"): LLVM would choose an order that depends on what
# is compiled together and what comes from the cache on disk. sums.py states an order instead. NaN
# and inf are kept, because training stops when it meets them.
FASTMATH = {"contract", "arcp", "nsz"}


disk.delete_outdated()


def compiled(signature=None, fast=FASTMATH, parallel=False):
    """Decorator: njit, whose compiled code is kept on the disk.

    With a signature a function is compiled at import, for all its callers.
    fast=False: each operation is rounded separately, also when a fast kernel calls the function.
    """
    how = njit(error_model="numpy", nogil=True, parallel=parallel, fastmath=fast)

    def decorated(function):
        kernel = how(function)
        if settings["DISABLE_JIT"]:
            return refusing(kernel, signature or ())
        disk.keep(kernel)
        if signature is not None:
            kernel.compile(signature)
            kernel.disable_compile()
        return kernel

    return decorated


def refusing(kernel, signature):
    """A kernel in plain Python that refuses arrays of another dtype, as compiled code does."""
    kinds = [kind.dtype if isinstance(kind, types.Array) else None for kind in signature]

    @functools.wraps(kernel)
    def checked(*arguments):
        for a, kind in zip(arguments, kinds):
            if kind and not (isinstance(a, np.ndarray) and a.dtype == str(kind)):
                raise TypeError(f"{kernel.__name__}: got {getattr(a, 'dtype', a)}, wanted {kind}")
        return kernel(*arguments)

    return checked


def read(ndim, layout="C", dtype=float32):
    """The type of an array that is only read, and may be read-only. Layout "A": any strides."""
    return types.Array(dtype, ndim, layout, readonly=True)


def write(ndim, layout="C"):
    """The type of an array that is written to."""
    return types.Array(float32, ndim, layout)


# Types of groups of arguments.
TASK = int64, int64  # t, n_tasks: the number of this task, and how many tasks there are
PLACE = int64, int64  # row, column
SIZES = int64, int64, int64  # depth, rows, columns
PRODUCT = read(2, "A"), read(2, "A"), write(2, "A"), boolean  # a, b, c, add

ONE = np.float32(1)
# Flat arrays are divided at multiples of 256 numbers, which are whole vectors. Then the numbers at
# the very end, which are processed one by one and may round differently, are always the same ones.
CHUNK = 256


def tasks(work, grain):
    """The number of tasks: 1 if there is less work than the grain, else one for each thread."""
    return 1 if work < grain else threads.THREADS


def run(share, arguments, n_tasks):
    """Do all tasks of a kernel; share(*arguments, t, n_tasks) does task t.

    A single task runs on the calling thread, because starting threads takes time.
    """
    if n_tasks == 1:
        share(*arguments, 0, 1)
    else:
        loop = _on_threads(share)
        with threads.turn():
            loop(*arguments, n_tasks)


@functools.cache
def _on_threads(share):
    """A parallel loop over the tasks of a share, compiled when it is first used.

    The loop calls the share by its address. So the same machine code runs when it is the only task
    and when it is one of several: the bits are the same.
    """
    if settings["DISABLE_JIT"]:
        return lambda *given: [share(*given[:-1], t, given[-1]) for t in range(given[-1])]
    source = share.py_func.__code__
    arguments = ", ".join(source.co_varnames[: source.co_argcount - 2])
    lines = (
        f"def loop({arguments}, n_tasks):",
        "    for t in prange(n_tasks):",
        f"        call({arguments}, t, n_tasks)",
    )
    names = {"prange": prange, "call": by_address(share)}
    # Numba names the code on the disk after the function, and its file and line.
    exec(compile("\n".join(lines), source.co_filename, "exec"), names)
    loop = names["loop"]
    loop.__module__, loop.__qualname__ = share.__module__, f"{share.__name__}_on_threads"
    loop.__code__ = loop.__code__.replace(
        co_name=loop.__qualname__, co_firstlineno=source.co_firstlineno
    )
    with clock.running():
        return compiled((*share.signatures[0][:-2], int64), parallel=True)(loop)


@compiled()
def portion(size, t, n_tasks, multiple):
    """Start and stop of task t's portion of `size` items; portions are multiples of `multiple`."""
    share = -(-size // (multiple * n_tasks)) * multiple
    return min(t * share, size), min((t + 1) * share, size)


def contiguous(array, shape):
    """The array, or a contiguous copy if it is not contiguous or must be broadcast to the shape.

    Raises ValueError if it cannot be broadcast.
    """
    if array.shape != shape:
        array = np.broadcast_to(array, shape)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def integers(array):
    """The array as contiguous int64. Raises TypeError if its numbers may have fractions."""
    return array.astype(np.int64, "C", "same_kind", copy=False)


@compiled((int64, int64))
def aligned_empty(rows, cols):
    """An uninitialised array that starts at a cache line; else each vector would span two lines."""
    buffer = np.empty(rows * cols + 16, np.float32)
    start = (-buffer.ctypes.data % 64) // 4
    return buffer[start : start + rows * cols].reshape(rows, cols)
