"""Sums along rows, in an order that is written down here.

LLVM sums in vectors only where it may choose the order, and its choice depends on what is compiled
together and what comes from the cache on disk. So these sums state their order: term k goes to the
partial sum k mod 32, as if zeros stood behind the end of the row. Then the second half of the
partial sums is added to the first half, until one number is left.
"""

import functools

import numpy as np
from numba import float32, types
from numba.core import cgutils

from .llvm import (
    INT,
    INT32,
    constant,
    int_vector,
    intrinsic_or,
    load,
    loop,
    masks,
    multiply_add,
    vector,
)

PARTS = 32  # partial sums: two of LLVM's vectors, so that an addition need not wait for the last


def _codegen(context, b, signature, values):
    """Σ of the products of the arguments, one row or several, each (n,) and contiguous."""
    rows = [context.make_array(k)(context, b, v) for k, v in zip(signature.args, values)]
    (size,) = cgutils.unpack_tuple(b, rows[0].shape, 1)
    whole = b.sub(size, b.srem(size, INT(PARTS)))

    def add(k, sums, mask=None):
        terms = [load(b, b.gep(row.data, [k]), mask, PARTS) for row in rows]
        if len(terms) == 1:
            return [b.fadd(*sums, *terms)]
        return [multiply_add(b, functools.reduce(b.fmul, terms[:-1]), terms[-1], *sums)]

    def add_rest(k, sums):
        return add(k, sums, *masks(b, b.sub(size, k), 1, PARTS))

    sums = loop(b, whole, [constant(0.0, vector(PARTS))], add, PARTS)
    (sums,) = loop(b, size, sums, add_rest, PARTS, start=whole)
    for half in (16, 8, 4, 2, 1):
        halves = (int_vector(range(i, i + half)) for i in (0, half))
        sums = b.fadd(*(b.shuffle_vector(sums, sums, places) for places in halves))
    return b.extract_element(sums, INT32(0))


def _typed(*rows):
    """What Numba needs for these types; None, an error, unless all are contiguous float32 rows."""
    allowed = (types.Array(float32, 1, "C"), types.Array(float32, 1, "C", readonly=True))
    return (float32(*rows), _codegen) if all(row in allowed for row in rows) else None


@intrinsic_or(np.sum)
def total(typing, x):
    """Σ x.   x (n,), float32."""
    return _typed(x)


@intrinsic_or(np.dot)
def dot(typing, x, y):
    """Σ x y.   x, y (n,), float32."""
    return _typed(x, y)


def plain_dot3(x, y, z):
    """Σ x y z."""
    return np.dot(x * y, z)


@intrinsic_or(plain_dot3)
def dot3(typing, x, y, z):
    """Σ (x y) z.   x, y, z (n,), float32."""
    return _typed(x, y, z)
