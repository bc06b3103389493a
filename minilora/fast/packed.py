"""Products with a `Packed` W: W is unpacked into panels, where a float32 matrix would be copied.

So a task holds only one panel of W's numbers, and a W of 4 bits is read in an eighth of the bytes.
A single row, as in decoding, needs no panel: its dot products take the numbers from the
registers in which they were unpacked. The code for each kind of W is the instructions that load 32
of its numbers; ops/nf4.py and formats/gguf.py define what its bytes mean.
"""

from functools import partial

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
from .tile import BYTES_AHEAD, MR, tile_row
from .vectors import at_most

COMPUTES = not settings["DISABLE_JIT"] and {"+avx2", "+f16c", "+fma"} <= FEATURES
# kind -> bytes of 32 numbers, where among them the codes begin, numbers that share a scale
KINDS = {"nf4": (16, 0, 64), "Q8_0": (34, 2, 32), "Q4_1": (20, 4, 32), "BF16": (64, 0, 32)}
WIDTH = 96  # columns of a panel: whole tiles, and whole groups of 32 numbers
LEVELS = nf4.dynamic_levels()
NO_BYTES, NO_FLOATS = np.empty(0, np.uint8), np.empty(0, np.float32)


# ---------------------------------------- 32 numbers, unpacked into two registers


def _integers(b, address, bits=8, signed=False):
    """16 integers of memory, each as 32 bits."""
    kind, wide = (ir.VectorType(ir.IntType(n), LANES) for n in (bits, 32))
    raw = b.load(b.bitcast(address, kind.as_pointer()), align=1)
    return b.sext(raw, wide) if signed else b.zext(raw, wide)


def _looked_up(b, name, table, index):
    """table[index], by an instruction of x86 that uses the lowest bits of each index."""
    table = ir.Constant(vector(len(table)), list(table))
    function = ir.FunctionType(table.type, [table.type, index.type])
    return b.call(cgutils.get_or_insert_function(b.module, function, name), [table, index])


def _levels(b, index):
    """NF4's levels at 16 places: the lower 4 bits of each."""
    if "+avx512f" in FEATURES:
        return _looked_up(b, "llvm.x86.avx512.permvar.sf.512", nf4.LEVELS, index)
    halves = []
    for n in (0, 8):  # AVX2 looks up in 8: in both halves of the levels, and one is taken
        part = b.shuffle_vector(index, index, int_vector(range(n, n + 8)))
        tables = nf4.LEVELS[8:], nf4.LEVELS[:8]
        high, low = (_looked_up(b, "llvm.x86.avx2.permps", t, part) for t in tables)
        bit = b.and_(part, constant(8, part.type))
        halves.append(b.select(b.icmp_unsigned("!=", bit, constant(0, part.type)), high, low))
    return b.shuffle_vector(*halves, int_vector(range(LANES)))


def _codes(b, kind, block):
    """The codes of 32 numbers as floats; NF4's: those of even places, then those of odd places."""
    start, four = KINDS[kind][1], int_vector([4] * LANES)
    first, second = (b.gep(block, [INT(start + n)]) for n in (0, 32 if kind == "BF16" else 16))
    if kind == "BF16":
        bits = (_integers(b, at, bits=16) for at in (first, second))
        return [b.bitcast(b.shl(n, int_vector([16] * LANES)), vector()) for n in bits]
    if kind == "Q8_0":
        return [b.sitofp(_integers(b, at, signed=True), vector()) for at in (first, second)]
    both = _integers(b, first)
    if kind == "nf4":
        return [_levels(b, b.lshr(both, four)), _levels(b, both)]
    low = b.and_(both, int_vector([15] * LANES))
    return [b.sitofp(q, vector()) for q in (low, b.lshr(both, four))]


def _half(b, address):
    """A float16 of memory in all lanes."""
    half = b.load(b.bitcast(address, ir.HalfType().as_pointer()), align=1)
    return broadcast(b, b.fpext(half, FLOAT))


def _scale(b, kind, W, i, k, block):
    """Factor and summand of the codes at W[i, k], in all lanes; None where there is none."""
    if kind == "BF16":
        return None, None
    if kind != "nf4":
        return _half(b, block), _half(b, b.gep(block, [INT(2)])) if kind == "Q4_1" else None
    codes, c2, c1, mean, levels = W
    width = b.mul(codes.sizes[1], INT(2))
    at = b.lshr(b.add(b.mul(i, width), k), INT(6))
    places = levels.at(b.zext(b.load(c2.at(at)), INT)), c1.at(b.lshr(at, INT(8)))
    level, size = (b.load(b.bitcast(place, FLOAT.as_pointer())) for place in places)
    return broadcast(b, b.fadd(b.fmul(level, size), mean)), None


def _block(b, kind, W, i, k):
    """The address of the 32 numbers from W[i, k] on."""
    return W[0].at(i, b.mul(b.lshr(k, INT(5)), INT(KINDS[kind][0])))


def _numbers(b, kind, W, i, k):
    """The 32 numbers from W[i, k] on as two vectors, in the order of `_codes`."""
    block = _block(b, kind, W, i, k)
    d, m = _scale(b, kind, W, i, k, block)
    codes = _codes(b, kind, block)
    scaled = [b.fmul(d, q) for q in codes] if d else codes
    return [b.fadd(q, m) for q in scaled] if m else scaled


def _of_kind(b, kind, write):
    """write(name) for the kind with this number, a branch for each; nothing unless COMPUTES."""
    for n, name in enumerate(KINDS if COMPUTES else ()):
        with b.if_then(b.icmp_signed("==", kind, INT(n))):
            write(name)


# ---------------------------------------- panels


@procedure(None)  # where `COMPUTES` is False, it is never called
def fill_panel(b, codes, c2, c1, mean, levels, kind, flipped, k, j, depth, cols, panel):
    """panel[:depth, :cols] = w[k:k+depth, j:j+cols], w = Wᵀ if flipped, else W."""
    W = codes, c2, c1, mean, levels

    def row(name, d, n):
        two = _numbers(b, name, W, b.add(k, d), b.add(j, n))
        if name == "nf4":
            places = np.arange(2 * LANES).reshape(2, LANES).T.reshape(2, LANES).tolist()
            two = [b.shuffle_vector(*two, int_vector(some)) for some in places]
        for half, numbers in enumerate(two):
            store(b, panel.at(d, b.add(n, INT(LANES * half))), numbers)

    def square(name, d, n):
        """16 rows of W become 16 columns; the last row replaces missing ones."""
        rows = [b.add(b.add(j, n), at_most(b, r, b.sub(cols, n))) for r in range(LANES)]
        two = zip(*(_numbers(b, name, W, i, b.add(k, d)) for i in rows))
        for half, numbers in enumerate(two):
            for r, column in enumerate(transposed(b, numbers)):
                place = 2 * r + half if name == "nf4" else r + LANES * half
                store(b, panel.at(b.add(d, INT(place)), n), column)

    def everywhere(fill, down, across):
        def on_row(d, _):
            return loop(b, cols, [], lambda n, _: fill(d, n) or [], across)

        loop(b, depth, [], on_row, down)

    with b.if_else(flipped) as (as_columns, as_rows):
        with as_columns:
            _of_kind(b, kind, lambda name: everywhere(partial(square, name), 32, LANES))
        with as_rows:
            _of_kind(b, kind, lambda name: everywhere(partial(row, name), 1, 32))


PACKED = read(2, dtype=uint8), read(1, dtype=uint8), read(1), float32, read(1), int64


# fast=False: each number is the one that the page computes from the parts, bit for bit
@compiled((*PACKED, boolean, *PLACE, *PLACE, write(2)), fast=False)
def _unpack(codes, c2, c1, mean, levels, kind, flipped, k, j, depth, cols, panel):
    fill_panel(codes, c2, c1, mean, levels, kind, flipped, k, j, depth, cols, panel)


_unpack = by_address(_unpack)


@compiled((read(2, "A"), *PACKED, boolean, write(2, "A"), boolean, *PLACE, *PLACE))
def _rectangle(a, codes, c2, c1, mean, levels, kind, flipped, c, add, i0, i1, j0, j1):
    """c[i0:i1, j0:j1] (+)= that part of a w, one panel of w after the other."""
    K = a.shape[1]
    step = -(-K // -(-K // DEPTH) // 32) * 32
    panel = aligned_empty(step, WIDTH)
    for i in range(i0, i1, ROWS):
        stop = min(i + ROWS, i1)
        for k in range(0, K, step):
            depth, more = min(step, K - k), add or k > 0
            for j in range(j0, j1, WIDTH):
                cols = min(WIDTH, j1 - j)
                _unpack(codes, c2, c1, mean, levels, kind, flipped, k, j, depth, cols, panel)
                for r in range(i, stop, MR):
                    rows = min(MR, stop - r)
                    tile_row(a, r, k, panel, 0, 0, c, r, j, depth, rows, cols, more)


_rectangle = by_address(_rectangle)

SECOND = read(2, "A"), read(2, "A")


@compiled((read(2, "A"), *PACKED, boolean, *SECOND, write(2, "A"), boolean, *TASK))
def _share(a, codes, c2, c1, mean, levels, kind, flipped, a2, b2, c, add, t, n_tasks):
    """Task t's rectangle of c (+)= a w + a2 b2."""
    M, N = c.shape
    down, across = grid(M, N, n_tasks)
    if WIDTH * n_tasks <= N:  # each panel is unpacked by one task
        down, across = 1, n_tasks
    i0, i1 = portion(M, t // across, down, MR)
    j0, j1 = portion(N, t % across, across, 32)
    _rectangle(a, codes, c2, c1, mean, levels, kind, flipped, c, add, i0, i1, j0, j1)
    if len(b2):
        rectangle(a2, b2, c, True, i0, i1, j0, j1)


# ---------------------------------------- one row


@procedure(None)  # where `COMPUTES` is False, it is never called
def four_dots(b, x, codes, c2, c1, mean, levels, kind, c, j, rows):
    """c[0, j:j+4] = x · W[j:j+4]ᵀ; x (1, K) in the order of `_codes`."""
    W, zero = (codes, c2, c1, mean, levels), constant(0.0, vector())
    places = [b.add(j, at_most(b, r, rows)) for r in range(4)]

    def dots(name):
        group = KINDS[name][2]

        def step(k, sums):
            starts = [b.add(k, INT(n)) for n in range(0, group, 32)]
            xs = [[load(b, x.at(INT(0), b.add(s, INT(n)))) for n in (0, LANES)] for s in starts]
            news = []
            for i, old in zip(places, sums):
                blocks = [_block(b, name, W, i, start) for start in starts]
                prefetch(b, b.gep(blocks[0], [INT(BYTES_AHEAD)]), near=True)
                d, m = _scale(b, name, W, i, k, blocks[0])
                total = zero if d else old
                for block, pair in zip(blocks, xs):
                    for q, some in zip(_codes(b, name, block), pair):
                        total = multiply_add(b, q, some, total)
                if m:
                    old = multiply_add(b, m, b.fadd(*xs[0]), old)
                news.append(multiply_add(b, total, d, old) if d else total)
            return news

        sums = loop(b, x.sizes[1], [zero] * 4, step, group)
        total = sums_of(b, sums + [zero] * (LANES - 4))
        exists = b.icmp_signed("<", int_vector(range(4), INT), broadcast(b, rows, 4))
        store(b, c.at(INT(0), j), b.shuffle_vector(total, total, int_vector(range(4))), exists)

    _of_kind(b, kind, dots)


@compiled((read(2), *PACKED, write(2), *TASK), fast=False)
def _one_row_share(x, codes, c2, c1, mean, levels, kind, c, t, n_tasks):
    """Task t's columns of c = x Wᵀ."""
    ordered = aligned_empty(1, x.shape[1])
    for k in range(x.shape[1]):
        n = k % 32 // 2 + k % 2 * LANES if kind == 0 else k % 32
        ordered[0, k - k % 32 + n] = x[0, k]
    j0, j1 = portion(c.shape[1], t, n_tasks, 4)
    for j in range(j0, j1, 4):
        four_dots(ordered, codes, c2, c1, mean, levels, kind, c, j, min(4, j1 - j))


# ---------------------------------------- what matmul.py calls


def product(x, W, flipped, z=None, b=None, add_to=None):
    """x Wᵀ if flipped, else x W; plus z b if given. With add_to, adds it there and returns add_to.

    x (M, K), z (M, r), b (r, N)  ->  (M, N).
    """
    M, (O, I) = len(x), W.shape
    K, N = (I, O) if flipped else (O, I)
    y = np.empty((M, N), np.float32) if add_to is None else add_to
    a2, b2 = (NOTHING, NOTHING) if z is None else (z, b)
    second = (M, N) if z is None else (len(a2), b2.shape[1])
    if x.shape[1] != K or y.shape != (M, N) or second != (M, N):
        shapes = x.shape, W.shape, a2.shape, b2.shape, y.shape
        raise ValueError(f"matmul: got factors and result of {shapes}, wanted shapes that fit")
    parts = *W.parts, NO_BYTES, NO_FLOATS, 0.0, NO_FLOATS
    if W.form == "nf4":
        codes, c2, c1, mean = W.parts
        parts = codes.reshape(O, I // 2), c2, c1, float(mean), LEVELS
    parts = *parts, [*KINDS].index(W.form)
    if M == 1 and flipped and add_to is None:
        run(_one_row_share, (np.ascontiguousarray(x), *parts, y), tasks(K * N, ROW_GRAIN))
        return y if z is None else matmul_nt(z, b.T, add_to=y)
    given = x, *parts, flipped, a2, b2, y, add_to is not None
    run(_share, given, tasks(M * N * K, GRAIN))
    return y


def fits(W) -> bool:
    """Can this processor compute from W's parts? W must be of a kind and have whole groups."""
    return COMPUTES and W.form in KINDS and not W.across and W.sizes[1] % KINDS[W.form][2] == 0
