"""Products on a matrix unit: Intel's AMX, which multiplies in bfloat16 and adds in float32.

It multiplies 16 x 32 by 32 x 16 numbers in sixteen cycles, sixteen times what the vector registers
do. A bfloat16 has the exponent of a float32, but 8 of the 24 bits of its number. So each float32 is
split into three, and no bit is lost:

    x = high + mid + low,    high = x rounded to 8 bits, mid = the rest rounded to 8, low = the rest

and of the nine products of pieces the six are summed that matter:

    x y ≈ high high + high mid + mid high + mid mid + high low + low high

What is left out is below 2^-23 of x y, so a sum of up to some thousand terms is as near to the
truth as one in float32 (Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 Artificial
Intelligence Datatype For Higher-Precision Computations"). What differs: the last bits. The unit
takes numbers below 2^-126 for 0, pieces and products alike: factors below 2^-103, or with a product
below that, lose bits. And infinity, or a number or product within 2^-8 of the largest, becomes NaN
or infinity.

The unit has eight tiles of 16 rows of 64 bytes. Four hold 32 x 32 numbers of the result, two hold
pieces of 32 rows of A, two of 32 columns of B; there two neighbours in a column lie side by side.
"""

import ctypes
import functools
import os
import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .threads import settings
from .vectors import (
    BYTE,
    FEATURES,
    INT,
    INT32,
    LANES,
    ask_for,
    choose,
    load,
    masks,
    numbers,
    repeat,
    spread,
    store,
    unpack,
    vector,
)

SIDE = 2 * LANES  # rows and columns of a block of the result, and the depth of a tile
PIECES = 3
# (piece of A, piece of B): neighbours share one, which stays in its tiles
PRODUCTS = (0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0)

INTS, HALVES = ir.VectorType(INT32, LANES), ir.VectorType(ir.IntType(16), 2 * LANES)

HAS = {"+amx-tile", "+amx-bf16", "+avx512f"} <= FEATURES


@functools.cache
def usable() -> bool:
    """Has the processor the unit, and may this process use it? Linux wants to be asked first."""
    if platform.system() != "Linux" or settings["DISABLE_JIT"] or not HAS:
        return False
    arch_prctl, ask_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, ask_permission, tile_data) == 0


@functools.cache
def chosen() -> bool:
    """Was the unit asked for, and is it there?"""
    return os.environ.get("MINILORA_KERNELS") == "amx" and usable()


def split(x):
    """x = high + mid + low, each of 8 bits, as three arrays: how the kernels do it."""
    pieces = []
    for _ in range(PIECES):
        bits = (x.view(np.uint32) + 0x8000) & 0xFFFF0000
        pieces.append(bits.view(np.float32))
        x = x - pieces[-1]
    return pieces


def plain_product(a, b):
    """a b by its six products of pieces: what the kernel computes, in another order."""
    left, right = split(a), split(b)
    return sum(left[p] @ right[q] for p, q in PRODUCTS)


def _unit(b, name, *arguments):
    """One of the unit's instructions; a tile is an 8 bit number in it."""
    signature = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    if HAS:  # else the kernels are compiled without them, and never called
        b.call(cgutils.get_or_insert_function(b.module, signature, f"llvm.x86.{name}"), arguments)


def _pieces(b, x):
    """The three pieces of a vector, each in the upper half of 32 bits."""
    pieces = []
    for piece in range(PIECES):
        bits = b.bitcast(x, INTS)
        if piece < PIECES - 1:
            half, upper = numbers([0x8000] * LANES), numbers([0xFFFF0000 - 2**32] * LANES)
            bits = b.and_(b.add(bits, half), upper)
            x = b.fsub(x, b.bitcast(bits, vector()))
        pieces.append(bits)
    return pieces


def plain_begin():
    """Nothing to set up."""


@choose(plain_begin)
def begin(typing):
    """Every tile has 16 rows of 64 bytes."""

    def codegen(context, b, signature, values):
        sizes = [1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8
        kind = ir.ArrayType(BYTE, 64)
        place = cgutils.global_constant(b.module, "amx.sizes", ir.Constant(kind, sizes))
        _unit(b, "ldtilecfg", b.bitcast(place, BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(), codegen


@choose(plain_begin)
def end(typing):
    """Give the tiles back: a thread that keeps them costs the system more to switch."""

    def codegen(context, b, signature, values):
        _unit(b, "tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


def plain_split(A, i, k, rows, depth, P, t):
    """Only where the unit is."""
    raise NotImplementedError


@choose(plain_split)
def split_left(typing, A, i, k, rows, depth, P, t):
    """Tiles t, t + 2, t + 4 of P: the pieces of A[i:i+rows, k:k+depth], filled up with zeros.

    rows <= 16, depth <= 32; the columns of A are neighbours. A tile's row is a row of A.
    """

    def codegen(context, b, signature, values):
        a, i, k, rows, depth, to, t = unpack(context, b, signature, values)
        within = masks(b, depth, 2)
        upper = numbers([2 * m + 1 for m in range(2 * LANES)])

        def one(n, _):
            there = spread(b, b.icmp_signed("<", n, rows))
            row = a.at(b.add(i, n), k)
            first, second = (
                _pieces(b, load(b, b.gep(row, [INT(64 * v)]), b.and_(mask, there)))
                for v, mask in enumerate(within)
            )
            for piece, (x, y) in enumerate(zip(first, second)):
                both = b.shuffle_vector(b.bitcast(x, HALVES), b.bitcast(y, HALVES), upper)
                place = to.at(b.add(t, INT(2 * piece)), b.mul(n, INT(LANES)))
                b.store(both, b.bitcast(place, HALVES.as_pointer()), align=4)
            return []

        repeat(b, INT(LANES), [], one)
        return context.get_dummy_value()

    return types.void(A, i, k, rows, depth, P, t), codegen


@choose(plain_split)
def split_right(typing, B, k, j, depth, cols, P, t):
    """Tiles t, t + 2, t + 4 of P: the pieces of B[k:k+depth, j:j+cols], filled up with zeros.

    depth <= 32, cols <= 16; the columns of B are neighbours. A tile's row is two rows of B.
    """

    def codegen(context, b, signature, values):
        m, k, j, depth, cols, to, t = unpack(context, b, signature, values)
        (within,) = masks(b, cols, 1)
        sixteen = numbers([16] * LANES)

        def two(d, _):
            pairs = []
            for row in (d, b.add(d, INT(1))):
                there = spread(b, b.icmp_signed("<", row, depth))
                pairs.append(_pieces(b, load(b, m.at(b.add(k, row), j), b.and_(within, there))))
            for piece, (x, y) in enumerate(zip(*pairs)):
                both = b.or_(b.lshr(x, sixteen), y)
                place = to.at(b.add(t, INT(2 * piece)), b.mul(d, INT(LANES // 2)))
                b.store(both, b.bitcast(place, INTS.as_pointer()), align=4)
            return []

        repeat(b, INT(SIDE), [], two, 2)
        return context.get_dummy_value()

    return types.void(B, k, j, depth, cols, P, t), codegen


@choose(plain_split)
def block(typing, P, s, Q, t, chunks, C, p, q, add):
    """C[p:p+32, q:q+32] (+)= the product of packed rows, from tile s of P on, and columns."""

    def codegen(context, b, signature, values):
        left, s, right, t, chunks, c, p, q, add = unpack(context, b, signature, values)
        number = ir.IntType(8)
        lefts, rights = [number(4), number(5)], [number(6), number(7)]
        sums = {}  # tile of the result -> where it stands, of which left and right tile it is
        for r, x in enumerate(lefts):
            for n, y in enumerate(rights):
                place = c.at(b.add(p, INT(LANES * r)), b.add(q, INT(LANES * n)))
                sums[number(2 * r + n)] = place, x, y

        def fetch_row(r, _):
            for n in range(2):
                ask_for(b, c.at(b.add(p, r), b.add(q, INT(LANES * n))), to_write=True)
            return []

        repeat(b, INT(SIDE), [], fetch_row)  # while the sums are made, the lines they go to
        with b.if_else(add) as (adding, anew):
            with adding:
                for tile, (place, _, _) in sums.items():
                    _unit(b, "tileloadd64", tile, place, c.steps[0])
            with anew:
                for tile in sums:
                    _unit(b, "tilezero", tile)

        def fetch(tiles, matrix, start, chunk, piece):
            for n, tile in enumerate(tiles):
                away = b.add(b.mul(chunk, INT(2 * PIECES)), INT(2 * piece + n))
                place = matrix.at(b.add(start, away), INT(0))
                _unit(b, "tileloadd64", tile, place, INT(64))

        def step(chunk, _):
            for (x, y), (old_x, old_y) in zip(PRODUCTS, ((None, None), *PRODUCTS)):
                if x != old_x:
                    fetch(lefts, left, s, chunk, x)
                if y != old_y:
                    fetch(rights, right, t, chunk, y)
                for tile, (_, x_tile, y_tile) in sums.items():
                    _unit(b, "tdpbf16ps", tile, x_tile, y_tile)
            return []

        repeat(b, chunks, [], step)
        for tile, (place, _, _) in sums.items():
            _unit(b, "tilestored64", tile, place, c.steps[0])
        return context.get_dummy_value()

    return types.void(P, s, Q, t, chunks, C, p, q, add), codegen


def plain_copy(A, i, j, rows, cols, P, p, q):
    """P[p:p+rows, q:q+cols] = A[i:i+rows, j:j+cols]."""
    P[p : p + rows, q : q + cols] = A[i : i + rows, j : j + cols]


@choose(plain_copy)
def copy(typing, A, i, j, rows, cols, P, p, q):
    """P[p:p+rows, q:q+cols] = A[i:i+rows, j:j+cols], at most 32 columns, which are neighbours."""

    def codegen(context, b, signature, values):
        a, i, j, rows, cols, to, p, q = unpack(context, b, signature, values)
        within = masks(b, cols, 2)

        def one(n, _):
            for v, mask in enumerate(within):
                away = [INT(4 * LANES * v)]
                x = load(b, b.gep(a.at(b.add(i, n), j), away), mask)
                store(b, b.gep(to.at(b.add(p, n), q), away), x, mask)
            return []

        repeat(b, rows, [], one)
        return context.get_dummy_value()

    return types.void(A, i, j, rows, cols, P, p, q), codegen
