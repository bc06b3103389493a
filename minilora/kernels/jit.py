"""What the Numba files share: how kernels are compiled, how they are cut into tasks, exp and max.

Compiled code is kept on disk. Numba notices a change of the file that a kernel stands in, not of
what it calls: after an edit here or in tile.py, delete `__pycache__/*.nb*`.
"""

import math

import numpy as np
from llvmlite import ir
from numba import boolean, config, float32, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import threads

# Sums may be reordered and products fused. NaN and inf are passed on: a trainer stops at them.
FASTMATH = {"contract", "reassoc", "arcp", "nsz"}
OPTIONS = dict(cache=True, error_model="numpy", nogil=True)

flag, count, number = boolean, int64, float32


def compiled(*signature, parallel=False, fastmath=FASTMATH):
    """njit, cached on disk. With a signature: compiled at import, once, for arrays of all layouts."""
    return njit(*signature, parallel=parallel, fastmath=fastmath, **OPTIONS)


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


WHOLE = (
    256  # flat arrays are cut after whole vectors: then the same few numbers at the very end are
)
# done one by one, which rounds differently, whatever the number of tasks


@compiled()
def portion(size, t, cut, whole):
    """Start and stop of task t's share of `size` things, one of `cut` shares, in units of `whole`."""
    share = -(-size // (whole * cut)) * whole
    return min(t * share, size), min((t + 1) * share, size)


LOG2E = np.float32(1 / math.log(2))
LN2_HIGH = np.float32(0.693359375)  # ten bits: its product with a small whole number is exact
LN2_LOW = np.float32(math.log(2) - 0.693359375)
ROUNDER = np.float32(
    1.5 * 2**23
)  # adding it leaves no bits for a fraction, and the whole part in the low bits
SHIFT, BIAS = np.int32(23), np.int32(127 << 23)
LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)
NOTHING, INFINITY, ONE = np.float32(0), np.float32(math.inf), np.float32(1)
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))


@compiled(fastmath={"contract"})  # reordering would undo the rounding
def exp(x):
    """eˣ = 2ⁿ eʳ for a float32, n whole, |r| <= ln 2 / 2; 0 below -87, inf above 88.

    Written out because math.exp is a call, which LLVM cannot turn into vector code.
    """
    shifted = x * LOG2E + ROUNDER
    n = shifted - ROUNDER
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    e = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    power = np.int32(np.int32(np.float32(shifted).view(np.int32) << SHIFT) + BIAS).view(np.float32)
    if x < LOWEST:
        return NOTHING
    if x > HIGHEST:
        return INFINITY
    return e * power


def _maximum():
    if config.DISABLE_JIT:
        return np.maximum

    @intrinsic
    def maximum(typing, a, b):
        def codegen(context, builder, signature, values):
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
            return builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.maximum.f32"), values
            )

        return float32(float32, float32), codegen

    return maximum


maximum = (
    _maximum()
)  # of two float32, NaN if either is; unlike max(), LLVM turns a loop of it into vector code
