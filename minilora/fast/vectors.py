"""Functions for the kernels that work on whole vectors: exp, rotations, copies, softmax columns.

Each is an intrinsic (llvm.py), with the same function in NumPy next to it.
"""

import math

import numpy as np
from llvmlite import ir
from numba import float32

from .llvm import (
    FLOAT,
    INT,
    INT32,
    LANES,
    broadcast,
    call_llvm,
    constant,
    intrinsic_or,
    load,
    loop,
    masks,
    multiply_add,
    prefetch,
    procedure,
    store,
    transposed,
    vector,
)

# Functions of single numbers, which LLVM makes vectors of


def _exp(b, x):
    """eˣ = 2ⁿ eʳ, n an integer, |r| <= ln 2 / 2; 0 below -87, inf above 88, NaN for NaN.

    x is a float or a vector. r = x - n ln 2 is computed in two steps, because n times the first
    ten bits of ln 2 is exact. eʳ is its series up to r⁶/720. 2ⁿ is made of bits: the float
    1.5 · 2²³ + n has n in its last bits, and a shift moves them to the exponent's place.
    """
    kind = x.type
    integer = INT32 if kind == FLOAT else ir.VectorType(INT32, kind.count)
    high, low = 0.693359375, math.log(2) - 0.693359375
    n = call_llvm(b, "llvm.rint", kind, [b.fmul(x, constant(1 / math.log(2), kind))])
    r = multiply_add(b, n, constant(-low, kind), multiply_add(b, n, constant(-high, kind), x))
    e = constant(1 / 720, kind)
    for power in (5, 4, 3, 2, 1, 0):
        e = multiply_add(b, e, r, constant(1 / math.factorial(power), kind))
    bits = b.bitcast(b.fadd(n, constant(1.5 * 2**23, kind)), integer)
    exponent = b.add(b.shl(bits, constant(23, integer)), constant(127 << 23, integer))
    e = b.fmul(e, b.bitcast(exponent, kind))
    e = b.select(b.fcmp_ordered("<", x, constant(-87.0, kind)), constant(0.0, kind), e)
    return b.select(b.fcmp_ordered(">", x, constant(88.0, kind)), constant(math.inf, kind), e)


@intrinsic_or(np.exp)
def exp(typing, x):
    """eˣ of a float32. LLVM can make vector code of it, but not of math.exp, which is a call."""
    return float32(float32), lambda context, b, signature, values: _exp(b, *values)


def plain_fma(x, y, z):
    """x y + z."""
    return x * y + z


@intrinsic_or(plain_fma)
def fma(typing, x, y, z):
    """x y + z of three float32, in one operation where the processor has it."""

    def codegen(context, b, signature, values):
        return multiply_add(b, *values)

    return float32(float32, float32, float32), codegen


@intrinsic_or(np.maximum)
def maximum(typing, x, y):
    """The larger of two float32, or NaN. max() loses the NaN, and does not become vector code."""

    def codegen(context, b, signature, values):
        return call_llvm(b, "llvm.maximum", FLOAT, list(values))

    return float32(float32, float32), codegen


# Rotations


def plain_rotate_pairs(x, cos, sin, y):
    """y = the pairs (x[j], x[j + n]), rotated.   x, y (2n,), cos, sin (n,)."""
    n = len(cos)
    y[:n] = x[:n] * cos - x[n:] * sin
    y[n:] = x[n:] * cos + x[:n] * sin


@procedure(plain_rotate_pairs)
def rotate_pairs(b, x, cos, sin, y):
    """y[j], y[j + n] = x[j] cos[j] - x[j + n] sin[j], x[j + n] cos[j] + x[j] sin[j].

    x, y (2n,), cos, sin (n,), all contiguous. LLVM would process so few numbers one by one.
    """
    (n,) = cos.sizes

    def rotate(j, _):
        (mask,) = masks(b, b.sub(n, j), 1)
        low, high = j, b.add(j, n)
        u, v = (load(b, x.at(k), mask) for k in (low, high))
        c, s = (load(b, row.at(j), mask) for row in (cos, sin))
        store(b, y.at(low), multiply_add(b, u, c, b.fneg(b.fmul(v, s))), mask)
        store(b, y.at(high), multiply_add(b, u, s, b.fmul(v, c)), mask)
        return []

    loop(b, n, [], rotate, LANES)


# Copies


def plain_copy16(A, i, j, cols, P, p, q):
    """P[p, q:q+cols] = A[i, j:j+cols], then zeros up to 16 columns."""
    P[p, q : q + LANES] = 0
    P[p, q : q + cols] = A[i, j : j + cols]


@procedure(plain_copy16)
def copy16(b, A, i, j, cols, P, p, q):
    """P[p, q:q+16] = A[i, j:j+cols], then zeros. A's columns are adjacent in memory."""
    (mask,) = masks(b, cols, 1)
    store(b, P.at(p, q), load(b, A.at(i, j), mask))


def plain_transpose16(A, i, k, rows, depth, P, p, q):
    """P[p:p+depth, q:q+rows] = A[i:i+rows, k:k+depth]ᵀ, then zeros up to 16 columns."""
    P[p : p + depth, q : q + LANES] = 0
    P[p : p + depth, q : q + rows] = A[i : i + rows, k : k + depth].T


@procedure(plain_transpose16)
def transpose16(b, A, i, k, rows, depth, P, p, q):
    """P[p:p+depth, q:q+16] = A[i:i+rows, k:k+depth]ᵀ, then zeros; rows, depth <= 16.

    A's columns are adjacent in memory. Missing rows and columns are neither read nor written.
    """
    whole = b.icmp_signed("==", b.add(rows, depth), INT(2 * LANES))
    with b.if_else(whole) as (full, edge):
        with full:
            loaded = [load(b, A.at(b.add(i, INT(n)), k)) for n in range(LANES)]
            for d, row in enumerate(transposed(b, loaded)):
                store(b, P.at(b.add(p, INT(d)), q), row)
        with edge:
            (within,) = masks(b, depth, 1)
            loaded = []
            for n in range(LANES):
                exists = broadcast(b, b.icmp_signed("<", INT(n), rows))
                address = A.at(b.add(i, at_most(b, n, rows)), k)
                loaded.append(load(b, address, b.and_(within, exists)))
            for d, row in enumerate(transposed(b, loaded)):
                with b.if_then(b.icmp_signed("<", INT(d), depth)):
                    store(b, P.at(b.add(p, INT(d)), q), row)


def at_most(b, r, rows):
    """min(r, rows - 1): the last row replaces the missing ones."""
    return b.select(b.icmp_signed("<", INT(r), rows), INT(r), b.sub(rows, INT(1)))


def plain_prefetch_at(A, i, j):
    """A prefetch changes no number."""


@procedure(plain_prefetch_at)
def prefetch_at(b, A, i, j):
    """Fetch the cache line of A[i, j], which is read soon, into L2. A[i, j] need not exist."""
    prefetch(b, A.at(i, j))


# Softmax of columns: of scores (keys, queries), 16 queries at once


def plain_softmax_columns(s, c, keys, scale, sums):
    """s = exp(scale (s - max)) of 16 columns; max and total into sums."""
    block = s[:keys, c : c + LANES]
    sums[0, c : c + LANES] = block.max(axis=0)
    block[:] = np.exp((block - sums[0, c : c + LANES]) * scale)
    sums[1, c : c + LANES] = block.sum(axis=0)


@procedure(plain_softmax_columns)
def softmax_columns(b, s, c, keys, scale, sums):
    """s = exp(scale (s - max)) in columns c to c + 15; sums[0] = max, sums[1] = the total.

    scale: float32. The softmax is s / total; attention divides its result instead.
    """
    scale = broadcast(b, scale)

    def larger(k, tops):  # ignores a NaN, which the total contains
        x = load(b, s.at(k, c))
        return [b.select(b.fcmp_ordered(">", x, tops[0]), x, tops[0])]

    def powers(k, totals):
        place = s.at(k, c)
        e = _exp(b, b.fmul(b.fsub(load(b, place), top), scale))
        store(b, place, e)
        return [b.fadd(totals[0], e)]

    (top,) = loop(b, keys, [constant(-math.inf, vector())], larger)
    (total,) = loop(b, keys, [constant(0.0, vector())], powers)
    store(b, sums.at(INT(0), c), top)
    store(b, sums.at(INT(1), c), total)


def plain_softmax_columns_backward(p, ds, c, keys, scale, sums):
    """p = exp(scale s - lse), ds = scale p (dp - mean), of 16 columns."""
    block, products = p[:keys, c : c + LANES], ds[:keys, c : c + LANES]
    block[:] = np.exp(block * scale - sums[0, c : c + LANES])
    products[:] = block * ((products - sums[1, c : c + LANES]) * scale)


@procedure(plain_softmax_columns_backward)
def softmax_columns_backward(b, p, ds, c, keys, scale, sums):
    """p = exp(scale s - lse), ds = scale p (dp - mean), in columns c to c + 15.

    p holds s before, ds holds dp before; sums[0] = lse, sums[1] = mean; scale: float32.
    """
    lse, mean = (load(b, sums.at(INT(n), c)) for n in (0, 1))
    scale = broadcast(b, scale)

    def row(k, _):
        e = _exp(b, b.fsub(b.fmul(load(b, p.at(k, c)), scale), lse))
        store(b, p.at(k, c), e)
        d = b.fsub(load(b, ds.at(k, c)), mean)
        store(b, ds.at(k, c), b.fmul(e, b.fmul(d, scale)))
        return []

    loop(b, keys, [], row)
