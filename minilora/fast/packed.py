"""Products with a `Packed` W: where a float32 matrix is copied into panels, W is unpacked there.

So W's numbers exist for one panel at a time, and a W of 4 bits is read in an eighth of the bytes. A
single row, as in decoding, needs no panel: its dot products take the numbers from the registers in
which they were unpacked. What a kind's bytes mean stands in ops/nf4.py and formats/gguf.py. Each
kind is written once, as the instructions that load 16 or 32 of its numbers.
"""

import numpy as np
from llvmlite import ir
from numba import boolean, float32, int64, uint8
from numba.core import cgutils

from ..ops import nf4
from .jit import PLACE, TASK, aligned_empty, compiled, portion, read, run, tasks, write
from .llvm import (
    FEATURES,
    FLOAT,
    INT,
    INT32,
    LANES,
    broadcast,
    by_address,
    constant,
    int_vector,
    load,
    loop,
    multiply_add,
    prefetch,
    procedure,
    store,
    sums_of,
    transposed,
    vector,
)
from .matmul import DEPTH, GRAIN, NOTHING, ROW_GRAIN, ROWS, grid, matmul_nt, rectangle
from .threads import settings
from .tile import BYTES_AHEAD, MR, NR, tile16, tile32, tile48
from .vectors import at_most

WIDE = "+avx512f" in FEATURES
COMPUTES = not settings["DISABLE_JIT"] and {"+avx2", "+f16c", "+fma"} <= FEATURES
KINDS = ("nf4", "Q8_0", "Q4_1", "BF16")
GROUPS = {"nf4": 64, "Q8_0": 32, "Q4_1": 32, "BF16": 32}  # numbers of a step of the dot products
# bytes of 32 numbers, and where among them the codes begin
BLOCKS = {"nf4": (16, 0), "Q8_0": (34, 2), "Q4_1": (20, 4), "BF16": (64, 0)}
LEVELS = nf4.dynamic_levels()
NO_BYTES, NO_FLOATS = np.empty(0, np.uint8), np.empty(0, np.float32)

# ---------------------------------------- numbers of one kind, unpacked into registers


def _integers(b, address, count=LANES, bits=8, signed=False):
    """So many integers of memory, each as 32 bits."""
    kind = ir.VectorType(ir.IntType(bits), count)
    raw = b.load(b.bitcast(address, kind.as_pointer()), align=1)
    wide = ir.VectorType(INT32, count)
    return b.sext(raw, wide) if signed else b.zext(raw, wide)


def _and(b, x, n):
    return b.and_(x, constant(n, x.type))


def _levels(b, index):
    """NF4's levels at 16 places: the lower 4 bits of each."""
    if WIDE:
        return _permuted(b, "llvm.x86.avx512.permvar.sf.512", nf4.LEVELS, index)
    halves = []
    for n in (0, 8):  # a table of 8 is what AVX2 looks up: both halves, and the right one is taken
        part = b.shuffle_vector(index, index, int_vector(range(n, n + 8)))
        tables = nf4.LEVELS[8:], nf4.LEVELS[:8]
        high, low = (_permuted(b, "llvm.x86.avx2.permps", t, part) for t in tables)
        is_high = b.icmp_unsigned("!=", _and(b, part, 8), constant(0, part.type))
        halves.append(b.select(is_high, high, low))
    return b.shuffle_vector(*halves, int_vector(range(LANES)))


def _permuted(b, name, table, index):
    """table[index], by an instruction of x86."""
    table = ir.Constant(vector(len(table)), list(table))
    function = ir.FunctionType(table.type, [table.type, index.type])
    return b.call(cgutils.get_or_insert_function(b.module, function, name), [table, index])


def _half(b, address):
    """A float16 of memory as a float."""
    half = ir.HalfType()
    return b.fpext(b.load(b.bitcast(address, half.as_pointer()), align=1), FLOAT)


def _block(b, kind, codes, i, k):
    """The address of the 32 numbers in a row that have W[i, k] among them."""
    return codes.at(i, b.mul(b.lshr(k, INT(5)), INT(BLOCKS[kind][0])))


def _scale(b, kind, W, i, k):
    """(factor, summand) of the codes at W[i, k] and of their neighbours in its block, or None."""
    codes, c2, c1, mean, levels = W
    if kind == "BF16":
        return None, None
    if kind == "nf4":
        width = b.mul(codes.sizes[1], INT(2))
        at = b.lshr(b.add(b.mul(i, width), k), INT(6))
        level = levels.at(b.zext(b.load(c2.at(at)), INT))
        scale = c1.at(b.lshr(at, INT(8)))
        level, scale = (b.load(b.bitcast(a, FLOAT.as_pointer())) for a in (level, scale))
        return broadcast(b, b.fadd(b.fmul(level, scale), mean)), None
    block = _block(b, kind, codes, i, k)
    d = broadcast(b, _half(b, block))
    return d, broadcast(b, _half(b, b.gep(block, [INT(2)]))) if kind == "Q4_1" else None


def _sixteen(b, kind, W, i, k):
    """W[i, k:k+16]; k is a multiple of 16."""
    codes = W[0]
    d, m = _scale(b, kind, W, i, k)
    if kind == "BF16":
        return _upper_halves(b, codes.at(i, b.mul(k, INT(2))))
    if kind == "nf4":  # the upper half of a byte is the earlier number
        pairs = _integers(b, codes.at(i, b.lshr(k, INT(1))), 8)
        both = b.shuffle_vector(pairs, pairs, int_vector([n // 2 for n in range(LANES)]))
        q = _levels(b, b.lshr(both, int_vector([4, 0] * 8)))
    else:
        q = _integer_codes(b, kind, _block(b, kind, codes, i, k), b.and_(k, INT(16)))
    return b.fmul(d, q) if m is None else b.fadd(b.fmul(d, q), m)


def _upper_halves(b, address):
    bits = b.shl(_integers(b, address, bits=16), int_vector([16] * LANES))
    return b.bitcast(bits, vector())


def _integer_codes(b, kind, block, start):
    """The codes from `start`, 0 or 16, of a block of 32, as floats."""
    at = b.gep(block, [INT(BLOCKS[kind][1])])
    if kind == "Q8_0":
        return b.sitofp(_integers(b, b.gep(at, [start]), signed=True), vector())
    shift = broadcast(b, b.trunc(b.lshr(start, INT(2)), INT32))  # the second 16 are upper halves
    return b.sitofp(_and(b, b.lshr(_integers(b, at), shift), 15), vector())


def _pair(b, kind, block):
    """The 32 codes of a block as two vectors; NF4's: those of even places, then of odd places."""
    if kind == "nf4":
        both = _integers(b, block)
        return [_levels(b, b.lshr(both, int_vector([4] * LANES))), _levels(b, both)]
    if kind == "BF16":
        return [_upper_halves(b, b.gep(block, [INT(n)])) for n in (0, 32)]
    return [_integer_codes(b, kind, block, INT(n)) for n in (0, 16)]


# ---------------------------------------- panels


def _only_compiled(*_):
    """In place of code for which `COMPUTES` is False."""
    raise NotImplementedError


def make_panel(kind: str, flipped: bool):
    """panel[:depth, :cols] = b[k:k+depth, j:j+cols], b = Wᵀ if flipped, else W."""

    def plain_row(b, W, i, k, panel, d, n, limit):
        store(b, panel.at(d, n), _sixteen(b, kind, W, b.add(i, d), b.add(k, n)))

    def square(b, W, k, j, panel, d, n, limit):
        """16 rows of W, of which the last takes the place of missing ones, as 16 columns."""
        rows = [b.add(b.add(j, n), at_most(b, r, b.sub(limit, n))) for r in range(LANES)]
        loaded = [_sixteen(b, kind, W, row, b.add(k, d)) for row in rows]
        for r, column in enumerate(transposed(b, loaded)):
            store(b, panel.at(b.add(d, INT(r)), n), column)

    @procedure(_only_compiled)
    def panel_of(b, codes, c2, c1, mean, levels, k, j, depth, cols, panel):
        W = codes, c2, c1, mean, levels
        fill = square if flipped else plain_row

        def down(d, _):
            def along(n, _):
                fill(b, W, k, j, panel, d, n, cols)
                return []

            loop(b, cols, [], along, LANES)
            return []

        loop(b, depth, [], down, LANES if flipped else 1)

    return panel_of


PANELS = [make_panel(kind, flipped) for kind in KINDS for flipped in (False, True)]
nf4_panel, nf4_across, q8_panel, q8_across, q4_panel, q4_across, bf_panel, bf_across = PANELS

PACKED = read(2, dtype=uint8), read(1, dtype=uint8), read(1), float32, read(1)


@compiled((*PACKED, int64, boolean, *PLACE, *PLACE, write(2)), fast=False)
def _unpack(codes, c2, c1, mean, levels, kind, flipped, k, j, depth, cols, panel):
    """panel[:depth, :cols] = b[k:k+depth, j:j+cols], b = Wᵀ if flipped, else W."""
    if kind == 0 and flipped:
        nf4_across(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    elif kind == 0:
        nf4_panel(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    elif kind == 1 and flipped:
        q8_across(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    elif kind == 1:
        q8_panel(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    elif kind == 2 and flipped:
        q4_across(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    elif kind == 2:
        q4_panel(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    elif flipped:
        bf_across(codes, c2, c1, mean, levels, k, j, depth, cols, panel)
    else:
        bf_panel(codes, c2, c1, mean, levels, k, j, depth, cols, panel)


_unpack = by_address(_unpack)


@compiled((read(2, "A"), *PACKED, int64, boolean, write(2, "A"), boolean, *PLACE, *PLACE))
def _part(a, codes, c2, c1, mean, levels, kind, flipped, c, add, i0, i1, j0, j1):
    """c[i0:i1, j0:j1] (+)= that part of a b, one panel of b after the other."""
    K = a.shape[1]
    step = -(-K // -(-K // DEPTH) // 16) * 16
    panel = aligned_empty(step, NR)
    for i in range(i0, i1, ROWS):
        stop = min(i + ROWS, i1)
        for k in range(0, K, step):
            depth, more = min(step, K - k), add or k > 0
            for j in range(j0, j1, NR):
                cols = min(NR, j1 - j)
                _unpack(codes, c2, c1, mean, levels, kind, flipped, k, j, depth, cols, panel)
                for r in range(i, stop, MR):
                    rows = min(MR, stop - r)
                    if cols > 32:
                        tile48(a, r, k, panel, 0, 0, c, r, j, depth, rows, cols, more)
                    elif cols > 16:
                        tile32(a, r, k, panel, 0, 0, c, r, j, depth, rows, cols, more)
                    else:
                        tile16(a, r, k, panel, 0, 0, c, r, j, depth, rows, cols, more)


_part = by_address(_part)

SECOND = read(2, "A"), read(2, "A")


@compiled((read(2, "A"), *PACKED, int64, boolean, *SECOND, write(2, "A"), boolean, *TASK))
def _panels_share(a, codes, c2, c1, mean, levels, kind, flipped, a2, b2, c, add, t, n_tasks):
    """Task t's rectangle of c (+)= a b + a2 b2."""
    M, N = c.shape
    down, across = grid(M, N, n_tasks)
    if 64 * n_tasks <= N:  # each panel is unpacked by one task
        down, across = 1, n_tasks
    i0, i1 = portion(M, t // across, down, MR)
    j0, j1 = portion(N, t % across, across, 16)
    _part(a, codes, c2, c1, mean, levels, kind, flipped, c, add, i0, i1, j0, j1)
    if len(b2):
        rectangle(a2, b2, c, True, i0, i1, j0, j1)


# ---------------------------------------- one row


def make_dots(kind: str):
    """c[0, j:j+4] = x · W[j:j+4]ᵀ; x as `_pair` has the codes."""

    @procedure(_only_compiled)
    def dots_of(b, x, codes, c2, c1, mean, levels, c, j, rows):
        W, depth, zero = (codes, c2, c1, mean, levels), x.sizes[1], constant(0.0, vector())
        places = [b.add(j, at_most(b, r, rows)) for r in range(4)]

        def step(k, sums):
            starts = [b.add(k, INT(n)) for n in range(0, GROUPS[kind], 32)]
            xs = [[load(b, x.at(INT(0), b.add(s, INT(n)))) for n in (0, 16)] for s in starts]
            news = []
            for i, old in zip(places, sums):
                d, m = _scale(b, kind, W, i, k)
                blocks = [_block(b, kind, codes, i, start) for start in starts]
                prefetch(b, b.gep(blocks[0], [INT(BYTES_AHEAD)]), near=True)
                total = old if d is None else zero
                for block, pair in zip(blocks, xs):
                    for q, some in zip(_pair(b, kind, block), pair):
                        total = multiply_add(b, q, some, total)
                if m is not None:
                    old = multiply_add(b, m, b.fadd(*xs[0]), old)
                news.append(total if d is None else multiply_add(b, total, d, old))
            return news

        sums = loop(b, depth, [zero] * 4, step, GROUPS[kind])
        total = sums_of(b, sums + [zero] * (LANES - 4))
        exists = b.icmp_signed("<", int_vector(range(4), INT), broadcast(b, rows, 4))
        store(b, c.at(INT(0), j), b.shuffle_vector(total, total, int_vector(range(4))), exists)

    return dots_of


nf4_dots, q8_dots, q4_dots, bf_dots = (make_dots(kind) for kind in KINDS)


@compiled((read(2), *PACKED, int64, write(2), *TASK), fast=False)
def _one_row_share(x, codes, c2, c1, mean, levels, kind, c, t, n_tasks):
    """Task t's columns of c = x Wᵀ."""
    K = x.shape[1]
    given = aligned_empty(1, K)
    for k in range(0, K, 32):
        for n in range(32):
            given[0, k + (n // 2 + n % 2 * 16 if kind == 0 else n)] = x[0, k + n]
    j0, j1 = portion(c.shape[1], t, n_tasks, 4)
    for j in range(j0, j1, 4):
        rows = min(4, j1 - j)
        if kind == 0:
            nf4_dots(given, codes, c2, c1, mean, levels, c, j, rows)
        elif kind == 1:
            q8_dots(given, codes, c2, c1, mean, levels, c, j, rows)
        elif kind == 2:
            q4_dots(given, codes, c2, c1, mean, levels, c, j, rows)
        else:
            bf_dots(given, codes, c2, c1, mean, levels, c, j, rows)


# ---------------------------------------- what matmul.py calls


def product(x, W, flipped, z=None, b=None, add_to=None):
    """x Wᵀ if flipped, else x W, and + z b where given; with add_to: += that, returned.

    x (M, K), z (M, r), b (r, N)  ->  (M, N).
    """
    (M, K), (O, I) = x.shape, W.shape
    N = O if flipped else I
    y = np.empty((M, N), np.float32) if add_to is None else add_to
    a2, b2 = (NOTHING, NOTHING) if z is None else (z, b)
    second = (M, N) if z is None else (len(a2), b2.shape[1])
    if (I if flipped else O) != K or y.shape != (M, N) or second != (M, N):
        shapes = x.shape, W.shape, a2.shape, b2.shape, y.shape
        raise ValueError(f"matmul: got factors and result of {shapes}, wanted shapes that fit")
    kind, work = KINDS.index(W.form), M * K * N
    parts = *W.parts, NO_BYTES, NO_FLOATS, 0.0, NO_FLOATS
    if kind == 0:
        codes, c2, c1, mean = W.parts
        parts = codes.reshape(O, I // 2), c2, c1, float(mean), LEVELS
    if M == 1 and flipped and add_to is None and I % GROUPS[W.form] == 0:
        given = np.ascontiguousarray(x), *parts, kind, y
        run(_one_row_share, given, tasks(work, ROW_GRAIN))
        return y if z is None else matmul_nt(z, b.T, add_to=y)
    given = x, *parts, kind, flipped, a2, b2, y, add_to is not None
    run(_panels_share, given, tasks(work, GRAIN))
    return y


def fits(W) -> bool:
    """Is W of a kind, and wide enough for whole vectors, on a processor that computes from it?"""
    return COMPUTES and W.form in KINDS and W.sizes[1] % LANES == 0 and not W.across
