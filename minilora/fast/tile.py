"""The register tile, the innermost loop of all matrix products, and its relatives.

A matrix product is fast when almost every instruction is a fused multiply-add of full vector
registers. So the tile keeps a block of the result, MR rows by 16·nv columns, in registers while it
walks along the depth k. At each k it

    loads       nv vectors of 16 adjacent numbers from row k of B,
    broadcasts  MR numbers of column k of A, each to all lanes of a vector,
    multiplies and adds: MR · nv fused operations, one for each register of the block.

For 8 x 48 these are 24 multiply-adds for 11 loads, and nothing is stored before the walk ends. A
loop over arrays cannot say this, because LLVM does not keep an array in registers. So the tile
is written as instructions (llvm.py). It computes

    C[p:p+rows, q:q+cols] = A[i:i+rows, k:k+depth] B[l:l+depth, j:j+cols]    (or += it)

with 1 <= rows <= height (MR), 1 <= cols <= 16·nv. In comments "(+)=" means: = or +=.

- A has any strides. So a transpose, or one head of an attention, is read in place. If A's rows are
  adjacent in memory and none is missing, one address serves all rows, and the walk takes two steps
  at once. At the edges the last row of A replaces a missing row; its result is not stored.
- B and C have adjacent columns. B is loaded up to the next multiple of 16 columns; `copy16` and
  `transpose16` pack it in this way, with zeros at the end. `masked_tile16` loads only what exists.
  Missing columns of C are masked out when C is stored.

The number of registers limits the block: 32 registers of 16 floats (AVX-512) hold 8 x 48, and 8
remain for A and B. 16 of 8 floats (AVX2), or 32 of 4 (NEON), hold 6 x 16; 16 of 4 (SSE) hold
2 x 16. A larger block would be written to memory and read again at every step.
"""

import platform

from numba import boolean
from numba.core import cgutils

from .jit import PLACE, SIZES, compiled, read, write
from .llvm import (
    FEATURES,
    FLOAT,
    INT,
    LANES,
    broadcast,
    by_address,
    constant,
    int_vector,
    load,
    loop,
    masks,
    multiply_add,
    prefetch,
    procedure,
    store,
    sums_of,
    vector,
)
from .threads import settings
from .vectors import at_most


def _block_size():
    """(MR, NR): rows and columns of the largest block that this processor's registers hold."""
    if settings["DISABLE_JIT"] or "+avx512f" in FEATURES:
        return 8, 48
    if "+avx2" in FEATURES or platform.machine().lower() in ("arm64", "aarch64"):
        return 6, 16
    return 2, 16


MR, NR = _block_size()
DOTS = 4 if NR == 48 else 2  # rows of a block of dot products: 4 · DOTS sums in as many vectors
# How far ahead a matrix that is read once is prefetched, in bytes. It goes into L1: L2 alone gained
# less, and a prefetch past all caches (non-temporal) took half as long again.
BYTES_AHEAD = 8192
ROWS_AHEAD = 16  # the same in rows, for a B whose rows are not adjacent in memory


def plain_tile(A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
    """C[p:, q:] (+)= A[i:, k:] B[l:, j:]."""
    old = C[p : p + rows, q : q + cols]
    new = A[i : i + rows, k : k + depth] @ B[l : l + depth, j : j + cols]
    old[:] = old + new if add else new


def _store_block(b, C, p, q, rows, block, columns, add):
    """C[p:, q:] (+)= the block: its existing rows, and in them the columns that are not masked."""
    with b.if_else(add) as (adding, replacing):
        for way in (adding, replacing):
            with way:
                for r, vectors in enumerate(block):
                    with b.if_then(b.icmp_signed("<", INT(r), rows)):
                        row = C.at(b.add(p, INT(r)), q)
                        for v, (value, mask) in enumerate(zip(vectors, columns)):
                            place = b.gep(row, [INT(4 * mask.type.count * v)])
                            if way is adding:
                                value = b.fadd(load(b, place, mask), value)
                            store(b, place, value, mask)


def make_tile(nv: int, masked: bool = False, rows_ahead: int = 0, height: int = MR):
    """The tile of `height` rows and 16·nv columns.

    masked: of B only the existing columns are loaded. rows_ahead: how far ahead B is prefetched.
    """

    @procedure(plain_tile)
    def tile(b, A, i, k0, B, l, j, C, p, q, depth, rows, cols, add):
        columns = masks(b, cols, nv)
        starts = [A.at(b.add(i, at_most(b, r, rows)), k0) for r in range(height)]
        for r in range(height):
            row = C.at(b.add(p, at_most(b, r, rows)), q)
            for v in range(nv):
                prefetch(b, b.gep(row, [INT(4 * LANES * v)]), to_write=True)

        sums = [cgutils.alloca_once(b, vector()) for _ in range(height * nv)]

        def walk(address, step):
            """Sum along the depth, `step` at once; address(r, k) is that of A[i + r, k0 + k]."""

            def one_step(k, olds):
                row, news = B.at(b.add(l, k), j), []
                places = [b.gep(row, [INT(4 * LANES * v)]) for v in range(nv)]
                xs = [load(b, at, m if masked else None) for at, m in zip(places, columns)]
                for at in places if rows_ahead else ():
                    prefetch(b, b.gep(at, [b.mul(INT(rows_ahead), B.strides[0])]), near=True)
                for r in range(height):
                    at = b.bitcast(address(r, k), FLOAT.as_pointer())
                    a = broadcast(b, b.load(at, align=4))
                    three = zip(xs, olds[r * nv : (r + 1) * nv])
                    news += [multiply_add(b, a, x, old) for x, old in three]
                return news

            def steps(k, olds):
                for n in range(step):
                    olds = one_step(b.add(k, INT(n)), olds)
                return olds

            zeros = [constant(0.0, vector())] * (height * nv)
            whole = b.sub(depth, b.srem(depth, INT(step)))
            ends = loop(b, whole, zeros, steps, step)
            if step > 1:
                ends = loop(b, depth, ends, one_step, start=whole)
            for register, end in zip(sums, ends):
                b.store(end, register)

        down, along = A.strides
        full = b.icmp_signed("==", rows, INT(height))
        with b.if_else(b.and_(full, b.icmp_signed("==", down, INT(4)))) as (adjacent, apart):
            with adjacent:
                walk(lambda r, k: b.gep(A.at(i, b.add(k0, k)), [INT(4 * r)]), 2)
            with apart:
                walk(lambda r, k: b.gep(starts[r], [b.mul(k, along)]), 1)
        block = [[b.load(sums[r * nv + v]) for v in range(nv)] for r in range(height)]
        _store_block(b, C, p, q, rows, block, columns, add)

    return tile


tile48, tile32, tile16 = make_tile(3), make_tile(2), make_tile(1)
masked_tile16 = make_tile(1, masked=True)
prefetching_tile = make_tile(NR // LANES, rows_ahead=ROWS_AHEAD)
# Half as high and twice as wide: the same registers serve a product that has few rows.
LOW = MR // 2
low_tile = make_tile(2 * NR // LANES, rows_ahead=ROWS_AHEAD, height=LOW)


@compiled((read(2, "A"), *PLACE, read(2, "A"), *PLACE, write(2, "A"), *PLACE, *SIZES, boolean))
def tile_row(a, i, k, b, l, j, c, p, q, depth, rows, cols, add):
    """Tiles side by side: any number of columns, of a b that is not packed."""
    n = 0
    while n < cols:
        width = min(NR, cols - n)
        if width == 48:
            tile48(a, i, k, b, l, j + n, c, p, q + n, depth, rows, width, add)
        elif width >= 32:
            width = 32
            tile32(a, i, k, b, l, j + n, c, p, q + n, depth, rows, width, add)
        elif width >= 16:
            width = 16
            tile16(a, i, k, b, l, j + n, c, p, q + n, depth, rows, width, add)
        else:
            masked_tile16(a, i, k, b, l, j + n, c, p, q + n, depth, rows, width, add)
        n += width


tile_row = by_address(tile_row)


def plain_dots(A, i, W, j, C, p, q, depth, rows, cols, add):
    """C[p:p+rows, q:q+cols] (+)= A[i:i+rows, :depth] W[j:j+cols, :depth]ᵀ."""
    plain_tile(A, i, 0, W.T, 0, j, C, p, q, depth, rows, cols, add)


def make_dots(at_once: int, lanes: int, bytes_ahead: int = 0):
    """Dot products of at_once rows of A with 4 rows of W: C[p:, q:] (+)= A[i:] W[j:]ᵀ.

    A second tile, for a C that is too narrow to fill a vector with its columns. Here the vectors
    lie along the depth, one for each number of C, and are summed at the end. A, W and C have
    adjacent columns. lanes: numbers of a vector, at least 4 · at_once. bytes_ahead: how far ahead
    W is prefetched.
    """

    @procedure(plain_dots)
    def dots(b, A, i, W, j, C, p, q, depth, rows, cols, add):
        zero, zeros = INT(0), constant(0.0, vector(lanes))
        a_rows = [A.at(b.add(i, at_most(b, r, rows)), zero) for r in range(at_once)]
        w_rows = [W.at(b.add(j, at_most(b, n, cols)), zero) for n in range(4)]

        def step(k, sums):
            (mask,) = masks(b, b.sub(depth, k), 1, lanes)
            xs, ys = (
                [load(b, b.gep(row, [b.mul(k, INT(4))]), mask) for row in rows]
                for rows in (a_rows, w_rows)
            )
            for row in w_rows if bytes_ahead else ():
                at = b.add(b.mul(k, INT(4)), INT(bytes_ahead))
                prefetch(b, b.gep(row, [at]), near=True)
            pairs = [(x, y) for x in xs for y in ys]
            return [multiply_add(b, x, y, old) for (x, y), old in zip(pairs, sums)]

        sums = loop(b, depth, [zeros] * (4 * at_once), step, lanes)
        total = sums_of(b, sums + [zeros] * (lanes - len(sums)))
        fours = [int_vector(range(4 * r, 4 * r + 4)) for r in range(at_once)]
        block = [[b.shuffle_vector(total, total, four)] for four in fours]
        _store_block(b, C, p, q, rows, block, masks(b, cols, 1, 4), add)

    return dots


dots = make_dots(DOTS, 4 * DOTS, bytes_ahead=BYTES_AHEAD // 4)
row_dots = make_dots(1, LANES, bytes_ahead=BYTES_AHEAD)
