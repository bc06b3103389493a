"""The register tile, and its narrow and moving relatives: where the kernels meet the hardware.

A matrix product is fast when almost every instruction is a fused multiply-add on a full vector
register. So the tile keeps a block of the result, MR rows by 16·nv columns, in registers while it
walks along the depth k. At each k it

    loads     nv vectors of 16 neighbours from row k of B,
    spreads   MR numbers of column k of A over a vector each,
    multiplies and adds them: MR · nv fused operations, one for each register of the block,

which for 8 x 48 is 24 multiply-adds for 11 loads, and nothing is stored until the walk ends. A
loop over arrays cannot say this: LLVM does not keep an array in registers. So it is written as an
intrinsic (see vectors.py).

    C[p:p+rows, q:q+cols] (+)= A[i:i+rows, k:k+depth] B[l:l+depth, j:j+cols]

with 1 <= rows <= MR, 1 <= cols <= 16·nv. A has any strides, so a transpose, or a head of an
attention, is read where it is; where its rows are neighbours and none is missing, one address does
for all, and the walk takes two steps at once. B and C have neighbouring columns. At the edges a
missing row of A repeats the last one and is not stored; missing columns are masked when C is
stored. B is loaded up to the next multiple of 16 columns, which `copy16` and `turn16` provide,
filled up with zeros; `ragged16` loads no more than there is.

How large the block may be follows from the registers: 32 of 16 floats hold 8 x 48 and leave 8 for
B and A; 16 of 8 floats (AVX2), or 32 of 4 (NEON), hold 6 x 16; 16 of 4 hold 2 x 16. A larger
block would be spilled into memory at every step.
"""

import platform

from numba import types
from numba.core import cgutils

from .threads import settings
from .vectors import (
    FEATURES,
    FLOAT,
    INT,
    LANES,
    ask_for,
    choose,
    constant,
    load,
    masks,
    multiply_add,
    numbers,
    repeat,
    spread,
    store,
    unpack,
    vector,
)


def _block_size():
    """(MR, NR): rows and columns of the largest block whose registers this processor has."""
    if settings["DISABLE_JIT"]:
        return 8, 48
    if "+avx512f" in FEATURES:
        return 8, 48
    if "+avx2" in FEATURES or platform.machine().lower() in ("arm64", "aarch64"):
        return 6, 16
    return 2, 16


MR, NR = _block_size()
DOTS = 4 if NR == 48 else 2  # rows of a block of dot products: 4 · DOTS sums in as many vectors
# Bytes before it is read that a matrix which streams by once is asked for, into L1: into L2 alone
# brought less, past all caches (non-temporal) took half as long again.
AHEAD = 8192
FAR = 16  # the same in rows, for a B whose rows lie apart


def plain_tile(A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
    """C[p:, q:] = A[i:, k:] B[l:, j:], or added to it."""
    old = C[p : p + rows, q : q + cols]
    new = A[i : i + rows, k : k + depth] @ B[l : l + depth, j : j + cols]
    old[:] = old + new if add else new


def make_tile(nv: int, ragged: bool = False, ahead: int = 0):
    """The tile of MR rows and 16·nv columns; of its arguments add is a bool, the sizes are ints.

    ahead: each row of B is asked for so many steps before, where they lie apart; 0: not at all.
    """

    @choose(plain_tile)
    def tile(typing, A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
        def codegen(context, b, signature, values):
            unpacked = unpack(context, b, signature, values)
            a, i, k0, bb, l, j, c, p, q, depth, rows, cols, add = unpacked
            ms = masks(b, cols, nv)
            starts = [a.at(b.add(i, _least(b, r, rows)), k0) for r in range(MR)]
            for r in range(MR):
                row = c.at(b.add(p, _least(b, r, rows)), q)
                for v in range(nv):
                    ask_for(b, b.gep(row, [INT(4 * LANES * v)]), to_write=True)

            sums = [cgutils.alloca_once(b, vector()) for _ in range(MR * nv)]

            def walk(place, step):
                """Sum along the depth, `step` at once; place(r, k): address of A[i + r, k0 + k]."""

                def visit(k, olds):
                    row, news = bb.at(b.add(l, k), j), []
                    places = [b.gep(row, [INT(4 * LANES * v)]) for v in range(nv)]
                    xs = [load(b, at, m if ragged else None) for at, m in zip(places, ms)]
                    for at in places if ahead else ():
                        ask_for(b, b.gep(at, [b.mul(INT(ahead), bb.steps[0])]), near=True)
                    for r in range(MR):
                        at = b.bitcast(place(r, k), FLOAT.as_pointer())
                        number = spread(b, b.load(at, align=4))
                        three = zip(xs, olds[r * nv : (r + 1) * nv])
                        news += [multiply_add(b, number, x, old) for x, old in three]
                    return news

                def some(k, olds):
                    for n in range(step):
                        olds = visit(b.add(k, INT(n)), olds)
                    return olds

                zeros = [constant(0.0, vector())] * (MR * nv)
                whole = b.sub(depth, b.srem(depth, INT(step)))
                ends = repeat(b, whole, zeros, some, step)
                if step > 1:
                    ends = repeat(b, depth, ends, visit, start=whole)
                for slot, end in zip(sums, ends):
                    b.store(end, slot)

            down, along = a.steps
            full = b.icmp_signed("==", rows, INT(MR))
            with b.if_else(b.and_(full, b.icmp_signed("==", down, INT(4)))) as (near, apart):
                with near:  # A's rows are neighbours: one address for all, and two steps at once
                    walk(lambda r, k: b.gep(a.at(i, b.add(k0, k)), [INT(4 * r)]), 2)
                with apart:
                    walk(lambda r, k: b.gep(starts[r], [b.mul(k, along)]), 1)
            block = [[b.load(sums[r * nv + v]) for v in range(nv)] for r in range(MR)]
            _store_block(b, c, p, q, rows, block, ms, add)
            return context.get_dummy_value()

        return types.void(A, i, k, B, l, j, C, p, q, depth, rows, cols, add), codegen

    return tile


tile48, tile32, tile16 = make_tile(3), make_tile(2), make_tile(1)
ragged16 = make_tile(1, ragged=True)
far_tile = make_tile(NR // LANES, ahead=FAR)


def plain_dots(A, i, W, j, C, p, q, depth, rows, cols, add):
    """C[p:p+rows, q:q+cols] = A[i:i+rows, :depth] W[j:j+cols, :depth]ᵀ, or added to it."""
    plain_tile(A, i, 0, W.T, 0, j, C, p, q, depth, rows, cols, add)


def make_dots(at_once: int, lanes: int, ahead: int = 0):
    """Dot products of at_once rows of A with 4 of W, in vectors of so many lanes, at least 4 a row.

    A second tile, for a C so narrow that its columns do not fill a vector: here the vectors lie
    along the depth, one for each number of C, and are summed at the end. A, W and C have
    neighbouring columns. ahead: bytes of W from a place to the one asked for, 0 for none.
    """

    @choose(plain_dots)
    def dots(typing, A, i, W, j, C, p, q, depth, rows, cols, add):
        def codegen(context, b, signature, values):
            a, i, w, j, c, p, q, depth, rows, cols, add = unpack(context, b, signature, values)
            zero, nothing = INT(0), constant(0.0, vector(lanes))
            a_rows = [a.at(b.add(i, _least(b, r, rows)), zero) for r in range(at_once)]
            w_rows = [w.at(b.add(j, _least(b, n, cols)), zero) for n in range(4)]

            def step(k, sums):
                (mask,) = masks(b, b.sub(depth, k), 1, lanes)
                xs, ys = (
                    [load(b, b.gep(row, [b.mul(k, INT(4))]), mask) for row in rows]
                    for rows in (a_rows, w_rows)
                )
                for row in w_rows if ahead else ():
                    ask_for(b, b.gep(row, [b.add(b.mul(k, INT(4)), INT(ahead))]), near=True)
                pairs = [(x, y) for x in xs for y in ys]
                return [multiply_add(b, x, y, old) for (x, y), old in zip(pairs, sums)]

            sums = repeat(b, depth, [nothing] * (4 * at_once), step, lanes)
            total = _sums(b, sums + [nothing] * (lanes - len(sums)))
            fours = [numbers(range(4 * r, 4 * r + 4)) for r in range(at_once)]
            block = [[b.shuffle_vector(total, total, four)] for four in fours]
            _store_block(b, c, p, q, rows, block, masks(b, cols, 1, 4), add)
            return context.get_dummy_value()

        return types.void(A, i, W, j, C, p, q, depth, rows, cols, add), codegen

    return dots


dots = make_dots(DOTS, 4 * DOTS)
row_dots = make_dots(1, LANES, ahead=AHEAD)


def plain_ask(A, i, j):
    """Asking ahead changes no number."""


@choose(plain_ask)
def ask(typing, A, i, j):
    """Have the cache line of A[i, j] brought into L2, to be read soon; the place need not exist."""

    def codegen(context, b, signature, values):
        a, i, j = unpack(context, b, signature, values)
        ask_for(b, a.at(i, j))
        return context.get_dummy_value()

    return types.void(A, i, j), codegen


def plain_copy16(A, i, j, cols, P, p, q):
    """P[p, q:] = A[i, j:], filled up with zeros to 16."""
    P[p, q : q + LANES] = 0
    P[p, q : q + cols] = A[i, j : j + cols]


@choose(plain_copy16)
def copy16(typing, A, i, j, cols, P, p, q):
    """P[p, q:q+16] = A[i, j:j+cols], then zeros; the columns of A are neighbours."""

    def codegen(context, b, signature, values):
        a, i, j, cols, to, p, q = unpack(context, b, signature, values)
        (mask,) = masks(b, cols, 1)
        store(b, to.at(p, q), load(b, a.at(i, j), mask))
        return context.get_dummy_value()

    return types.void(A, i, j, cols, P, p, q), codegen


def plain_turn16(A, i, k, rows, depth, P, p, q):
    """P[p:, q:] = A[i:, k:]ᵀ, filled up with zeros to 16."""
    P[p : p + depth, q : q + LANES] = 0
    P[p : p + depth, q : q + rows] = A[i : i + rows, k : k + depth].T


@choose(plain_turn16)
def turn16(typing, A, i, k, rows, depth, P, p, q):
    """P[p:p+depth, q:q+16] = A[i:i+rows, k:k+depth]ᵀ, then zeros; rows, depth <= 16.

    The columns of A are neighbours. Four rounds of exchanges between rows, at distance 1, 2, 4, 8:
    in each, two rows swap every other group of so many numbers.
    """

    def codegen(context, b, signature, values):
        a, i, k, rows, depth, to, p, q = unpack(context, b, signature, values)
        whole = b.icmp_signed("==", b.add(rows, depth), INT(2 * LANES))
        with b.if_else(whole) as (full, edge):
            with full:
                loaded = [load(b, a.at(b.add(i, INT(n)), k)) for n in range(LANES)]
                for d, turned in enumerate(_turned(b, loaded)):
                    store(b, to.at(b.add(p, INT(d)), q), turned)
            with edge:
                _turn_edge(b, a, i, k, rows, depth, to, p, q)
        return context.get_dummy_value()

    return types.void(A, i, k, rows, depth, P, p, q), codegen


def _turn_edge(b, a, i, k, rows, depth, to, p, q):
    """turn16 of less than 16 rows or columns: what is not there is not read, or not written."""
    (within,) = masks(b, depth, 1)
    loaded = []
    for n in range(LANES):
        there = spread(b, b.icmp_signed("<", INT(n), rows))
        address = a.at(b.add(i, _least(b, n, rows)), k)
        loaded.append(load(b, address, b.and_(within, there)))
    for d, turned in enumerate(_turned(b, loaded)):
        with b.if_then(b.icmp_signed("<", INT(d), depth)):
            store(b, to.at(b.add(p, INT(d)), q), turned)


def _least(b, r, rows):
    """min(r, rows - 1): the row that stands in for row r."""
    return b.select(b.icmp_signed("<", INT(r), rows), INT(r), b.sub(rows, INT(1)))


def _store_block(b, c, p, q, rows, block, ms, add):
    """C (+)= the block."""
    with b.if_else(add) as (adding, replacing):
        for way in (adding, replacing):
            with way:
                for r, vectors in enumerate(block):
                    with b.if_then(b.icmp_signed("<", INT(r), rows)):
                        row = c.at(b.add(p, INT(r)), q)
                        _store_row(b, row, vectors, ms, way is adding)


def _store_row(b, row, vectors, ms, add):
    for v, (value, mask) in enumerate(zip(vectors, ms)):
        place = b.gep(row, [INT(4 * mask.type.count * v)])
        store(b, place, b.fadd(load(b, place, mask), value) if add else value, mask)


def _turned(b, rows):
    """The transpose of 16 vectors of 16."""
    rows = list(rows)
    for s in (1, 2, 4, 8):
        for n in range(LANES):
            if not n & s:
                rows[n], rows[n + s] = _exchange(b, rows[n], rows[n + s], s)
    return rows


def _sums(b, rows):
    """The sums of as many vectors as they have lanes, as one: exchanged as above, and added."""
    s = 1
    while len(rows) > 1:
        pairs = zip(rows[::2], rows[1::2])
        rows = [b.fadd(*_exchange(b, upper, lower, s)) for upper, lower in pairs]
        s *= 2
    return rows[0]


def _exchange(b, upper, lower, s):
    """Two rows after a round at distance s."""
    lanes = upper.type.count
    first = [lanes + n - s if n & s else n for n in range(lanes)]
    second = [lanes + n if n & s else n + s for n in range(lanes)]
    return (
        b.shuffle_vector(upper, lower, numbers(first)),
        b.shuffle_vector(upper, lower, numbers(second)),
    )
