"""Sums along rows, in an order that is written down here.

LLVM sums in vectors only where it may choose the order, and its choice depends on what is compiled
together and what comes from the cache on disk. So these sums state their order: term k goes to the
partial sum k mod 32, in four vectors of eight. What remains goes to one vector of four, and what
remains then is added one by one. The four vectors are added one after the other or, where the
terms are products, in pairs. This is the order that LLVM chose when the results of `data/` were
made; so they are reproduced to the last bit.
"""

import functools

import numpy as np
from numba import float32, types
from numba.core import cgutils

from .llvm import (
    FLOAT,
    INT,
    INT32,
    constant,
    int_vector,
    intrinsic_or,
    load,
    loop,
    multiply_add,
    vector,
)

STAGES = (8, 4), (4, 1), (1, 1)  # lanes of a vector, number of vectors


def _sum(b, size, add, in_pairs):
    """The sum of `size` terms; add(k, lanes, old) is old + a vector of the terms from k on."""
    total, done = cgutils.alloca_once(b, FLOAT), cgutils.alloca_once(b, INT)
    b.store(constant(0.0, FLOAT), total)
    b.store(INT(0), done)
    for lanes, vectors in STAGES:
        start, step = b.load(done), lanes * vectors
        left = b.sub(size, start)
        span = b.sub(left, b.srem(left, INT(step)))
        with b.if_then(b.icmp_signed(">", span, INT(0))):
            sums = [constant(0.0, vector(lanes))] * vectors
            sums[0] = b.insert_element(sums[0], b.load(total), INT32(0))

            def add_terms(k, sums, start=start, lanes=lanes):
                k = b.add(start, k)
                return [add(b.add(k, INT(lanes * v)), lanes, old) for v, old in enumerate(sums)]

            b.store(_fold(b, loop(b, span, sums, add_terms, step), in_pairs), total)
            b.store(b.add(start, span), done)
    return b.load(total)


def _fold(b, sums, in_pairs):
    """The sum of all numbers of some vectors: first the vectors are added, then halves of one."""
    if in_pairs and len(sums) > 1:
        sums = [b.fadd(x, y) for x, y in zip(sums[::2], sums[1::2])]
    folded = functools.reduce(b.fadd, sums)
    half = folded.type.count // 2
    while half:
        lower, upper = (
            b.shuffle_vector(folded, folded, int_vector([*range(i, i + half)] * 2))
            for i in (0, half)
        )
        folded = b.fadd(lower, upper)
        half //= 2
    return b.extract_element(folded, INT32(0))


def _codegen(context, b, signature, values):
    """Σ of the products of the arguments, one row or several, each (n,) and contiguous."""
    rows = [context.make_array(k)(context, b, v) for k, v in zip(signature.args, values)]

    def add(k, lanes, old):
        *others, last = [load(b, b.gep(row.data, [k]), lanes=lanes) for row in rows]
        if not others:
            return b.fadd(old, last)
        return multiply_add(b, functools.reduce(b.fmul, others), last, old)

    (size,) = cgutils.unpack_tuple(b, rows[0].shape, 1)
    return _sum(b, size, add, in_pairs=len(rows) > 1)


def _typed(*rows):
    """Numba's answer for these types; None, an error, if one is no contiguous row of float32."""
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
