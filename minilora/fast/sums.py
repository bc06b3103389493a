"""Sums along rows, in an order that is written down.

LLVM sums in vectors only where it may choose the order, and its choice hangs on what was compiled
together and what came from the disk. So the order is ours: term k goes to partial sum k mod 32, in
four vectors of eight; what is left over to one of four, and what is left then is added one by one.
Four vectors become one in turn, or, where the terms are products, in pairs: so LLVM had chosen in
training where the results of `data/` were made, which so come again to the last bit.
"""

import functools

import numpy as np
from numba import float32, types
from numba.core import cgutils

from .vectors import (
    FLOAT,
    INT,
    INT32,
    choose,
    constant,
    load,
    multiply_add,
    numbers,
    repeat,
    vector,
)

STAGES = (8, 4), (4, 1), (1, 1)  # lanes of a vector, vectors


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

            def visit(k, sums, start=start, lanes=lanes):
                k = b.add(start, k)
                return [add(b.add(k, INT(lanes * v)), lanes, old) for v, old in enumerate(sums)]

            b.store(_fold(b, repeat(b, span, sums, visit, step), in_pairs), total)
            b.store(b.add(start, span), done)
    return b.load(total)


def _fold(b, sums, in_pairs):
    """The sum of all the numbers in some vectors: first of the vectors, then of halves of one."""
    if in_pairs and len(sums) > 1:
        sums = [b.fadd(x, y) for x, y in zip(sums[::2], sums[1::2])]
    folded = functools.reduce(b.fadd, sums)
    half = folded.type.count // 2
    while half:
        lower, upper = (
            b.shuffle_vector(folded, folded, numbers([*range(i, i + half)] * 2)) for i in (0, half)
        )
        folded = b.fadd(lower, upper)
        half //= 2
    return b.extract_element(folded, INT32(0))


def _codegen(context, b, signature, values):
    """Σ of the products of as many rows as there are arguments, each (n,) and contiguous."""
    rows = [context.make_array(k)(context, b, v) for k, v in zip(signature.args, values)]

    def add(k, lanes, old):
        *others, last = [load(b, b.gep(row.data, [k]), lanes=lanes) for row in rows]
        if not others:
            return b.fadd(old, last)
        return multiply_add(b, functools.reduce(b.fmul, others), last, old)

    (size,) = cgutils.unpack_tuple(b, rows[0].shape, 1)
    return _sum(b, size, add, in_pairs=len(rows) > 1)


def _typed(*rows):
    """What these rows give; nothing, which Numba refuses, where one is no plain row of float32."""
    plain = (types.Array(float32, 1, "C"), types.Array(float32, 1, "C", readonly=True))
    return (float32(*rows), _codegen) if all(row in plain for row in rows) else None


@choose(np.sum)
def total(typing, x):
    """Σ x.   x (n,), float32."""
    return _typed(x)


@choose(np.dot)
def dot(typing, x, y):
    """Σ x y.   x, y (n,), float32."""
    return _typed(x, y)


def plain_dot3(x, y, z):
    """Σ x y z."""
    return np.dot(x * y, z)


@choose(plain_dot3)
def dot3(typing, x, y, z):
    """Σ (x y) z.   x, y, z (n,), float32."""
    return _typed(x, y, z)
