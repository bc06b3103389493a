"""Instructions of a matrix unit: Intel's AMX, which multiplies in bfloat16 and adds in float32.

It multiplies 16 x 32 by 32 x 16 numbers in sixteen cycles, sixteen times as many as the vector
registers do. A bfloat16 has the exponent of a float32, but only 8 of its 24 significant bits. So
each float32 is split into three pieces, and no bit is lost:

    x = high + mid + low,    high = x rounded to 8 bits, mid = the rest rounded to 8, low = the rest

Of the nine products of pieces the six largest are summed:

    x y ≈ high high + high mid + mid high + mid mid + high low + low high

What is left out is below 2^-23 of x y. So a sum of up to some thousand terms is about as exact as
one in float32 (Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence
Datatype For Higher-Precision Computations"). Three things differ from float32. The last bits
differ. The unit replaces numbers below 2^-126 by 0, pieces and products alike: factors below
2^-103, or factors whose product is below that, lose bits. And infinity, or a number or product
within 2^-8 of the largest float32, becomes NaN or infinity.

The unit has eight tiles of 16 rows of 64 bytes. Four tiles hold 32 x 32 numbers of the result, two
hold pieces of 32 rows of A, and two hold pieces of 32 columns of B. In a tile of B, two numbers
that are adjacent in a column lie side by side.
"""

import ctypes
import functools
import os
import platform

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .llvm import (
    BYTE,
    FEATURES,
    INT,
    INT32,
    LANES,
    broadcast,
    int_vector,
    load,
    loop,
    masks,
    prefetch,
    procedure,
    store,
    vector,
)
from .threads import settings

LEAST = 64  # of each side: packing shorter sides costs more than the unit saves
SIDE = 2 * LANES  # rows and columns of a block of the result, and the depth of a tile
PIECES = 3
# (piece of A, piece of B): of two neighbours one piece is the same, and stays in its tiles
PRODUCTS = (0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0)

INTS, HALVES = ir.VectorType(INT32, LANES), ir.VectorType(ir.IntType(16), 2 * LANES)

HAS_AMX = {"+amx-tile", "+amx-bf16", "+avx512f"} <= FEATURES


@functools.cache
def usable() -> bool:
    """Does the processor have AMX, and may this process use it? Linux requires a request."""
    if platform.system() != "Linux" or settings["DISABLE_JIT"] or not HAS_AMX:
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


@functools.cache
def requested() -> bool:
    """Does MINILORA_KERNELS ask for AMX, and is it usable?"""
    return os.environ.get("MINILORA_KERNELS") == "amx" and usable()


def pays(M: int, K: int, N: int) -> bool:
    """Is a product of (M, K) and (K, N) done on the unit: is it asked for, are all sides long?"""
    return requested() and min(M, K, N) >= LEAST


def split(x):
    """x = high + mid + low, each of 8 bits, as three arrays: what the kernels do, in NumPy."""
    pieces = []
    for _ in range(PIECES):
        bits = (x.view(np.uint32) + 0x8000) & 0xFFFF0000
        pieces.append(bits.view(np.float32))
        x = x - pieces[-1]
    return pieces


def plain_product(a, b):
    """a b as the sum of its six products of pieces; the kernel adds them in another order."""
    left, right = split(a), split(b)
    return sum(left[p] @ right[q] for p, q in PRODUCTS)


def _amx(b, name, *arguments):
    """One of AMX's instructions; a tile is an 8 bit number in it."""
    function = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
    if HAS_AMX:  # without AMX the kernels are compiled without its instructions, and never called
        b.call(cgutils.get_or_insert_function(b.module, function, f"llvm.x86.{name}"), arguments)


def _pieces(b, x):
    """The three pieces of a vector, each in the upper half of 32 bits."""
    pieces = []
    for piece in range(PIECES):
        bits = b.bitcast(x, INTS)
        if piece < PIECES - 1:
            half, upper = int_vector([0x8000] * LANES), int_vector([0xFFFF0000 - 2**32] * LANES)
            bits = b.and_(b.add(bits, half), upper)
            x = b.fsub(x, b.bitcast(bits, vector()))
        pieces.append(bits)
    return pieces


def no_jit(*arguments):
    """Stands for each instruction where the JIT is disabled: usable() is false there."""
    raise NotImplementedError("AMX needs Numba's JIT, which NUMBA_DISABLE_JIT disables")


@procedure(no_jit)
def configure_tiles(b):
    """Give every tile 16 rows of 64 bytes."""
    sizes = [1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8
    kind = ir.ArrayType(BYTE, 64)
    place = cgutils.global_constant(b.module, "amx.sizes", ir.Constant(kind, sizes))
    _amx(b, "ldtilecfg", b.bitcast(place, BYTE.as_pointer()))


@procedure(no_jit)
def release_tiles(b):
    """Give the tiles back: a thread that keeps them is slower to switch for the system."""
    _amx(b, "tilerelease")


@procedure(no_jit)
def split_left(b, A, i, k, rows, depth, P, t):
    """Tiles t, t + 2, t + 4 of P: the pieces of A[i:i+rows, k:k+depth], then zeros.

    rows <= 16, depth <= 32; A's columns are adjacent in memory. A tile's row is a row of A.
    """
    within = masks(b, depth, 2)
    upper = int_vector([2 * m + 1 for m in range(2 * LANES)])

    def split_row(n, _):
        exists = broadcast(b, b.icmp_signed("<", n, rows))
        row = A.at(b.add(i, n), k)
        first, second = (
            _pieces(b, load(b, b.gep(row, [INT(64 * v)]), b.and_(mask, exists)))
            for v, mask in enumerate(within)
        )
        for piece, (x, y) in enumerate(zip(first, second)):
            both = b.shuffle_vector(b.bitcast(x, HALVES), b.bitcast(y, HALVES), upper)
            place = P.at(b.add(t, INT(2 * piece)), b.mul(n, INT(LANES)))
            b.store(both, b.bitcast(place, HALVES.as_pointer()), align=4)
        return []

    loop(b, INT(LANES), [], split_row)


@procedure(no_jit)
def split_right(b, B, k, j, depth, cols, P, t):
    """Tiles t, t + 2, t + 4 of P: the pieces of B[k:k+depth, j:j+cols], then zeros.

    depth <= 32, cols <= 16; B's columns are adjacent in memory. A tile's row is two rows of B.
    """
    (within,) = masks(b, cols, 1)
    sixteen = int_vector([16] * LANES)

    def split_two_rows(d, _):
        pairs = []
        for row in (d, b.add(d, INT(1))):
            exists = broadcast(b, b.icmp_signed("<", row, depth))
            pairs.append(_pieces(b, load(b, B.at(b.add(k, row), j), b.and_(within, exists))))
        for piece, (x, y) in enumerate(zip(*pairs)):
            both = b.or_(b.lshr(x, sixteen), y)
            place = P.at(b.add(t, INT(2 * piece)), b.mul(d, INT(LANES // 2)))
            b.store(both, b.bitcast(place, INTS.as_pointer()), align=4)
        return []

    loop(b, INT(SIDE), [], split_two_rows, 2)


@procedure(no_jit)
def multiply_block(b, P, s, Q, t, chunks, C, p, q, add):
    """C[p:p+32, q:q+32] (+)= the rows in P from tile s on, times the columns in Q from tile t on.

    chunks: the depth, in tiles of 32.
    """
    tile = ir.IntType(8)
    lefts, rights = [tile(4), tile(5)], [tile(6), tile(7)]
    sums = {}  # tile of the result -> its place in C, its left tile, its right tile
    for r, x in enumerate(lefts):
        for n, y in enumerate(rights):
            place = C.at(b.add(p, INT(LANES * r)), b.add(q, INT(LANES * n)))
            sums[tile(2 * r + n)] = place, x, y

    def prefetch_row(r, _):
        for n in range(2):
            prefetch(b, C.at(b.add(p, r), b.add(q, INT(LANES * n))), to_write=True)
        return []

    loop(b, INT(SIDE), [], prefetch_row)  # the lines of C arrive while the sums are computed
    with b.if_else(add) as (adding, replacing):
        with adding:
            for result, (place, _, _) in sums.items():
                _amx(b, "tileloadd64", result, place, C.strides[0])
        with replacing:
            for result in sums:
                _amx(b, "tilezero", result)

    def load_tiles(tiles, packed, start, chunk, piece):
        for n, one in enumerate(tiles):
            offset = b.add(b.mul(chunk, INT(2 * PIECES)), INT(2 * piece + n))
            place = packed.at(b.add(start, offset), INT(0))
            _amx(b, "tileloadd64", one, place, INT(64))

    def multiply_chunk(chunk, _):
        for (x, y), (old_x, old_y) in zip(PRODUCTS, ((None, None), *PRODUCTS)):
            if x != old_x:
                load_tiles(lefts, P, s, chunk, x)
            if y != old_y:
                load_tiles(rights, Q, t, chunk, y)
            for result, (_, left, right) in sums.items():
                _amx(b, "tdpbf16ps", result, left, right)
        return []

    loop(b, chunks, [], multiply_chunk)
    for result, (place, _, _) in sums.items():
        _amx(b, "tilestored64", result, place, C.strides[0])


@procedure(no_jit)
def copy(b, A, i, j, rows, cols, P, p, q):
    """P[p:p+rows, q:q+cols] = A[i:i+rows, j:j+cols]; cols <= 32, adjacent in memory."""
    within = masks(b, cols, 2)

    def copy_row(n, _):
        for v, mask in enumerate(within):
            offset = [INT(4 * LANES * v)]
            x = load(b, b.gep(A.at(b.add(i, n), j), offset), mask)
            store(b, b.gep(P.at(b.add(p, n), q), offset), x, mask)
        return []

    loop(b, rows, [], copy_row)
