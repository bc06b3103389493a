"""Products of matrices on the register tile: the right one is packed, and the left one too where
its rows are columns in memory, as in xᵀ y; else it is read in place.

Packed means: 48 columns at a time are copied into a small panel, so that the tile finds the next
row in the next cache lines. A panel belongs to one task and lives as long as its columns are
worked on, a packed left factor as long as DEPTH of its columns: at most 0.9 MB a task. Whatever the
number of threads, each number of the result is summed by one task in one order.
"""

import math

import numpy as np
from numba import prange

from .amx import SIDE
from .jit import PLACE, SHARE, SIZES, compiled, count, flag, portion, read, room, tasks, write
from .narrow import PRODUCT, narrow, one_row, turned
from .strips import SKINNY, THIN, skinny, skinny_turned, thin
from .tile import DOTS, MR, NR, ask, copy16, tile16, tile32, tile48, turn16
from .unit import pays, split_region

DEPTH = 384  # rows of a panel at most: 48 columns of them are 72 KB, and stream from the L2 cache
ROWS = 512
SIDE_BY_SIDE = math.lcm(MR, 16)  # rows of a packed left factor: whole tiles, whole vectors
FEW = 2 * DOTS  # up to as many rows or columns, the product is done by dot products
GRAIN = 800_000  # multiplications below which a second thread costs more than it brings
STREAM = 60_000  # the same in numbers of w, where few rows use it and reading it is the work


@compiled((read(2, "A"), *PLACE, *PLACE, write(2)))
def _pack(b, k, j, depth, cols, panel):
    """panel[:, :cols] = b[k:k+depth, j:j+cols], with zeros up to the next 16 columns."""
    if b.strides[1] == 4:
        for d in range(depth):
            for n in range(0, cols, 16):
                copy16(b, k + d, j + n, min(16, cols - n), panel, d, n)
        return
    for n in range(0, cols, 16):
        width = min(16, cols - n)
        if b.strides[0] == 4:
            for d in range(0, depth, 16):
                turn16(b.T, j + n, k + d, width, min(16, depth - d), panel, d, n)
        else:
            for d in range(depth):
                panel[d, n : n + 16] = 0
                for m in range(width):
                    panel[d, n + m] = b[k + d, j + n + m]


@compiled((read(2, "A"), *PLACE, *PLACE, *SHARE))
def _ask_for(b, k, j, depth, cols, t, cut):
    """Ask for share t of b[k:k+depth, j:j+cols], so that it is near when it is packed."""
    if b.strides[1] == 4:
        for d in range(*portion(depth, t, cut, 1)):
            for n in range(0, cols + 15, 16):
                ask(b, k + d, j + min(n, cols - 1))
    else:
        for n in range(*portion(cols, t, cut, 1)):
            for d in range(0, depth + 15, 16):
                ask(b, k + min(d, depth - 1), j + n)


@compiled((read(2, "A"), *PLACE, *PLACE, write(2)))
def _pack_left(a, i, k, rows, depth, left):
    """a[i:i+rows, k:k+depth]ᵀ into left: SIDE_BY_SIDE columns of it, below them the next ones."""
    for r in range(0, rows, SIDE_BY_SIDE):
        start = r // SIDE_BY_SIDE * depth
        _pack(a.T, k, i + r, depth, min(SIDE_BY_SIDE, rows - r), left[start : start + depth])


@compiled((*PRODUCT, write(2), flag, *PLACE, *PLACE, *SIZES))
def _walk(a, b, c, add, panel, packed, i0, size, k, step, j, j0, j1):
    """c (+)= a b for some rows and a panel of columns; meanwhile the next panel is asked for.

    packed: a is the transpose of what _pack_left made of these rows and this depth.
    """
    K, tiles = b.shape[0], -(-size // MR)
    depth, cols = min(step, K - k), min(NR, j1 - j)
    k2, j2 = (k, j + NR) if j + NR < j1 else (k + step, j0)
    for t in range(tiles):
        if k2 < K:
            _ask_for(b, k2, j2, min(step, K - k2), min(NR, j1 - j2), t, tiles)
        i = i0 + t * MR
        rows = min(MR, i0 + size - i)
        row, column = i, k
        if packed:
            row, column = t * MR % SIDE_BY_SIDE, t * MR // SIDE_BY_SIDE * depth
        if cols > 32:
            tile48(a, row, column, panel, 0, 0, c, i, j, depth, rows, cols, add)
        elif cols > 16:
            tile32(a, row, column, panel, 0, 0, c, i, j, depth, rows, cols, add)
        else:
            tile16(a, row, column, panel, 0, 0, c, i, j, depth, rows, cols, add)


RECTANGLE = *PLACE, *PLACE


@compiled((*PRODUCT, *RECTANGLE, flag))
def _region(a, b, c, add, i0, i1, j0, j1, unit):
    """c[i0:i1, j0:j1] (+)= that part of a b, a panel of b after the other."""
    if unit:
        split_region(a, b, c, add, i0, i1, j0, j1)
        return
    K = a.shape[1]
    step = -(-K // -(-K // DEPTH))  # equal depths
    panel = room(step, NR)
    # In place, a tile would use MR of the 16 numbers of a line. One panel alone pays no packing.
    packs_left = a.strides[0] == 4 and j1 - j0 > NR
    blocks = -(-min(ROWS, i1 - i0) // SIDE_BY_SIDE) if packs_left else 0
    left = room(blocks * step, SIDE_BY_SIDE)
    for i in range(i0, i1, ROWS):
        size = min(ROWS, i1 - i)
        for k in range(0, K, step):
            depth, more = min(step, K - k), add or k > 0
            if packs_left:
                _pack_left(a, i, k, size, depth, left)
            for j in range(j0, j1, NR):
                _pack(b, k, j, depth, min(NR, j1 - j), panel)
                if packs_left:
                    _walk(left.T, b, c, more, panel, True, i, size, k, step, j, j0, j1)
                else:
                    _walk(a, b, c, more, panel, False, i, size, k, step, j, j0, j1)


@compiled((*PRODUCT, flag))
def whole(a, b, c, add, unit):
    """c (+)= a b on the thread that calls it."""
    _region(a, b, c, add, 0, c.shape[0], 0, c.shape[1], unit)


@compiled()
def _grid(tiles, units, cut):
    """(down, across), down · across = cut: the smallest share for the busiest task.

    Of equals the one with the most across, which packs the least of b.
    """
    best, down = tiles * units + 1, 1
    for d in range(1, cut + 1):
        if cut % d == 0:
            share = -(-tiles // d) * -(-units // (cut // d))
            if share < best:
                best, down = share, d
    return down, cut // down


@compiled()
def _rectangle(c, t, cut, unit):
    """Rows and columns of c that are task t's, of `cut` in a grid."""
    M, N = c.shape
    if unit:  # both factors are split and packed: the longer side is cut
        down, across = (cut, 1) if M >= N else (1, cut)
        rows, cols = SIDE, SIDE
    else:
        down, across = _grid(-(-M // MR), -(-N // 16), cut)
        rows, cols = MR, 16
    i0, i1 = portion(M, t // across, down, rows)
    j0, j1 = portion(N, t % across, across, cols)
    return i0, i1, j0, j1


@compiled((*PRODUCT, *SHARE, flag))
def _share(a, b, c, add, t, cut, unit):
    """Task t's rectangle of c (+)= a b."""
    i0, i1, j0, j1 = _rectangle(c, t, cut, unit)
    _region(a, b, c, add, i0, i1, j0, j1, unit)


@compiled((*PRODUCT, count, flag), parallel=True)
def _product(a, b, c, add, cut, unit):
    """c (+)= a b, in `cut` tasks: a grid of row ranges by column ranges."""
    if cut == 1:
        for t in range(cut):
            _share(a, b, c, add, t, cut, unit)
    else:
        for t in prange(cut):
            _share(a, b, c, add, t, cut, unit)


@compiled((*PRODUCT[:2], *PRODUCT[:3], *SHARE, flag, flag))
def _two_shares(a, b, a2, b2, c, t, cut, unit, unit2):
    """Task t's rectangle of c = a b + a2 b2: the second is added while the first is near."""
    i0, i1, j0, j1 = _rectangle(c, t, cut, unit)
    _region(a, b, c, False, i0, i1, j0, j1, unit)
    _region(a2, b2, c, True, i0, i1, j0, j1, unit2)


@compiled((*PRODUCT[:2], *PRODUCT[:3], count, flag, flag), parallel=True)
def _two_products(a, b, a2, b2, c, cut, unit, unit2):
    """c = a b + a2 b2, in `cut` tasks."""
    if cut == 1:
        for t in range(cut):
            _two_shares(a, b, a2, b2, c, t, cut, unit, unit2)
    else:
        for t in prange(cut):
            _two_shares(a, b, a2, b2, c, t, cut, unit, unit2)


def matmul_nt(x, w, add_to=None):
    """y = x wᵀ.   x (M, K), w (N, K) -> y (M, N); with add_to (M, N): add_to += x wᵀ, returned."""
    (M, K), (N, L) = x.shape, w.shape
    few = min(M, N) <= FEW and x.strides[1] == w.strides[1] == 4
    if few and M > N == 1 and K == L:  # a matrix and one vector: the same the other way round
        if add_to is None:
            return matmul_nt(w, x).reshape(M, 1)
        if add_to.shape == (M, 1):
            matmul_nt(w, x, add_to.T)
            return add_to
    if few and M <= FEW:
        return _into(one_row if M == 1 else narrow, x, w.T, (M, N), K, L, add_to, STREAM * M)
    return _into(narrow if few else _tiled, x, w.T, (M, N), K, L, add_to)


def matmul_nn(x, w, add_to=None):
    """y = x w.   x (M, K), w (K, N) -> y (M, N); with add_to (M, N): add_to += x w, returned."""
    (M, K), (L, N) = x.shape, w.shape
    few = N <= FEW and x.strides[1] == w.strides[1] == 4
    return _into(narrow if few else _tiled, x, w, (M, N), K, L, add_to)


def matmul_tn(x, y, add_to=None):
    """g = xᵀ y.   x (M, K), y (M, N) -> g (K, N); with add_to (K, N): add_to += xᵀ y, returned."""
    M, K = x.shape
    N = y.shape[1]
    kernel = _tiled
    if K <= SKINNY and K <= N and y.strides[1] == 4:
        kernel = skinny
    elif N <= SKINNY and x.strides[1] == 4:
        kernel = skinny_turned
    return _into(kernel, x.T, y, (K, N), M, y.shape[0], add_to)


def adapted_nt(x, w, z, b):
    """y = x wᵀ + z bᵀ.   x (M, K), w (N, K), z (M, r), b (N, r) -> y (M, N)."""
    return _adapted(x, w.T, z, b.T)


def adapted_nn(x, w, z, b):
    """y = x w + z b.   x (M, K), w (K, N), z (M, r), b (r, N) -> y (M, N)."""
    return _adapted(x, w, z, b)


def _adapted(a, b, a2, b2):
    (M, K), N = a.shape, b.shape[1]
    wanted = (K, N), (M, len(b2)), (len(b2), N)
    if (b.shape, a2.shape, b2.shape) != wanted or not K or not len(b2):
        shapes = a.shape, b.shape, a2.shape, b2.shape
        raise ValueError(f"adapted: factors of {shapes} do not meet, wanted {((M, K), *wanted)}")
    if M <= FEW and b.strides[0] == b2.strides[0] == 4:  # then packing costs more than it brings
        return matmul_nt(a2, b2.T, add_to=matmul_nt(a, b.T))
    y = np.empty((M, N), np.float32)
    units = pays(M, K, N), pays(M, len(b2), N)
    _two_products(a, b, a2, b2, y, tasks(M * N * K, GRAIN), *units)
    return y


def _tiled(a, b, c, add, cut):
    """c (+)= a b on the register tile, or on the matrix unit."""
    if a.shape[1] <= THIN and 4 in b.strides:
        thin(a, b if b.strides[1] == 4 else turned(b.T), c, add, cut)
        return
    _product(a, b, c, add, cut, pays(a.shape[0], a.shape[1], c.shape[1]))


def _into(kernel, a, b, shape, depth, depth_b, add_to, grain=GRAIN):
    """kernel(a, b) into a new array, or added to add_to, which must not overlap a or b."""
    if depth != depth_b:
        raise ValueError(f"matmul: factors meet in {depth} and {depth_b} numbers, wanted the same")
    if not depth:  # a sum of nothing
        return np.zeros(shape, np.float32) if add_to is None else add_to
    cut = tasks(shape[0] * shape[1] * depth, grain)
    if add_to is None:
        out = np.empty(shape, np.float32)
        kernel(a, b, out, False, cut)
        return out
    if add_to.shape != shape:
        raise ValueError(f"matmul: add_to has shape {add_to.shape}, wanted {shape}")
    if add_to.strides[1] == 4 or shape[1] == 1:
        kernel(a, b, add_to, True, cut)
    else:
        add_to += _into(kernel, a, b, shape, depth, depth_b, None)
    return add_to
