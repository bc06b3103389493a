"""Matrix products on the register tile (tile.py).

The right factor b is packed: 48 columns at a time are copied into a small panel, where the next row
of b is in the next cache lines. The left factor a is packed too if its rows are columns in memory,
as in xᵀ y; else it is read in place. A panel belongs to one task and exists while its columns are
in use. A packed left factor exists for DEPTH of its columns. Together they take at most 0.9 MB per
task. Each number of the result is summed by one task in one order, so the number of threads does
not change it.
"""

import functools
import importlib
import math

import numpy as np
from numba import boolean, float32

from ..support.packed import Packed
from . import unpacked
from .jit import (
    PLACE,
    PRODUCT,
    SIZES,
    TASK,
    aligned_empty,
    compiled,
    portion,
    read,
    run,
    tasks,
    write,
)
from .llvm import by_address
from .tile import MR, NR, tile16, tile32, tile48
from .unpacked import (
    FEW_DOTS,
    FEW_ROWS,
    SHALLOW,
    by_dots,
    columns,
    few_columns,
    few_rows,
    one_row,
    shallow,
)
from .vectors import copy16, prefetch_at, transpose16

DEPTH = 384  # most rows of a panel: 48 columns of them are 72 KB, which are read from the L2 cache
ROWS = 512  # most rows of a packed left factor
LEFT_COLUMNS = math.lcm(MR, 16)  # rows of a that are packed side by side: whole tiles and vectors
GRAIN = 800_000  # multiplications below which a second thread costs more than it saves
ROW_GRAIN = 100_000  # the same in numbers of w, if few rows use w: reading w takes most of the time


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
                transpose16(b.T, j + n, k + d, width, min(16, depth - d), panel, d, n)
        else:
            for d in range(depth):
                panel[d, n : n + 16] = 0
                for m in range(width):
                    panel[d, n + m] = b[k + d, j + n + m]


_pack = by_address(_pack)


@compiled((read(2, "A"), *PLACE, *PLACE, *TASK))
def _prefetch(b, k, j, depth, cols, t, n_parts):
    """Fetch part t of b[k:k+depth, j:j+cols] into L2, because it is packed soon."""
    if b.strides[1] == 4:
        for d in range(*portion(depth, t, n_parts, 1)):
            for n in range(0, cols + 15, 16):
                prefetch_at(b, k + d, j + min(n, cols - 1))
    else:
        for n in range(*portion(cols, t, n_parts, 1)):
            for d in range(0, depth + 15, 16):
                prefetch_at(b, k + min(d, depth - 1), j + n)


@compiled((read(2, "A"), *PLACE, *PLACE, write(2)))
def _pack_left(a, i, k, rows, depth, left):
    """left = a[i:i+rows, k:k+depth]ᵀ, LEFT_COLUMNS columns of it, below them the next ones."""
    for r in range(0, rows, LEFT_COLUMNS):
        start = r // LEFT_COLUMNS * depth
        _pack(a.T, k, i + r, depth, min(LEFT_COLUMNS, rows - r), left[start : start + depth])


@compiled((*PRODUCT, write(2), boolean, *PLACE, *PLACE, *SIZES))
def _tile_column(a, b, c, add, panel, packed, i0, size, k, step, j, j0, j1):
    """c (+)= a b for some rows and a panel of columns; prefetches the next panel.

    packed: a is the transpose of what _pack_left made of these rows and this depth.
    """
    K, tiles = b.shape[0], -(-size // MR)
    depth, cols = min(step, K - k), min(NR, j1 - j)
    next_k, next_j = (k, j + NR) if j + NR < j1 else (k + step, j0)
    for t in range(tiles):
        if next_k < K:
            _prefetch(b, next_k, next_j, min(step, K - next_k), min(NR, j1 - next_j), t, tiles)
        i = i0 + t * MR
        rows = min(MR, i0 + size - i)
        row, column = i, k
        if packed:
            row, column = t * MR % LEFT_COLUMNS, t * MR // LEFT_COLUMNS * depth
        if cols > 32:
            tile48(a, row, column, panel, 0, 0, c, i, j, depth, rows, cols, add)
        elif cols > 16:
            tile32(a, row, column, panel, 0, 0, c, i, j, depth, rows, cols, add)
        else:
            tile16(a, row, column, panel, 0, 0, c, i, j, depth, rows, cols, add)


_tile_column = by_address(_tile_column)


@compiled((*PRODUCT, *PLACE, *PLACE))
def _rectangle(a, b, c, add, i0, i1, j0, j1):
    """c[i0:i1, j0:j1] (+)= that part of a b, one panel of b after the other."""
    K = a.shape[1]
    step = -(-K // -(-K // DEPTH))  # equal depths
    if i1 - i0 <= FEW_ROWS and b.strides[1] == 4:  # packing b would take longer: the same bits
        columns(a[i0:i1], b, c[i0:i1], add, step, j0, j1)
        return
    panel = aligned_empty(step, NR)
    # In place, a tile would use MR of a line's 16 numbers. Packing does not pay for a single panel.
    packs_left = a.strides[0] == 4 and j1 - j0 > NR
    blocks = -(-min(ROWS, i1 - i0) // LEFT_COLUMNS) if packs_left else 0
    left = aligned_empty(blocks * step, LEFT_COLUMNS)
    for i in range(i0, i1, ROWS):
        size = min(ROWS, i1 - i)
        for k in range(0, K, step):
            depth, more = min(step, K - k), add or k > 0
            if packs_left:
                _pack_left(a, i, k, size, depth, left)
            for j in range(j0, j1, NR):
                _pack(b, k, j, depth, min(NR, j1 - j), panel)
                if packs_left:
                    _tile_column(left.T, b, c, more, panel, True, i, size, k, step, j, j0, j1)
                else:
                    _tile_column(a, b, c, more, panel, False, i, size, k, step, j, j0, j1)


rectangle = by_address(_rectangle)


@compiled()
def grid(M, N, n_tasks):
    """(down, across), down · across = n_tasks: the grid whose largest share is smallest.

    Among equals, rows are divided if there are at least as many rows as columns: then each task
    reads all of the smaller factor, and its own part of the larger one. The other kernels divide
    rows too, so most of these rows are in the cache of the core that computed them.
    """
    tiles, vectors = -(-M // MR), -(-N // 16)
    best, down = tiles * vectors + 1, 1
    for d in range(1, n_tasks + 1):
        if n_tasks % d == 0:
            share = -(-tiles // d) * -(-vectors // (n_tasks // d))
            if share < best or (share == best and M >= N):
                best, down = share, d
    return down, n_tasks // down


TWO_PRODUCTS = *PRODUCT[:2], *PRODUCT


@compiled((*TWO_PRODUCTS, *TASK))
def _products_share(a, b, a2, b2, c, add, t, n_tasks):
    """Task t's rectangle of c (+)= a b + a2 b2: the second is added while c is still in a cache."""
    M, N = c.shape
    down, across = grid(M, N, n_tasks)
    i0, i1 = portion(M, t // across, down, MR)
    j0, j1 = portion(N, t % across, across, 16)
    rectangle(a, b, c, add, i0, i1, j0, j1)
    if len(b2):
        rectangle(a2, b2, c, True, i0, i1, j0, j1)


NOTHING = np.empty((0, 0), np.float32)  # in place of a second product


def matmul_nt(x, w, add_to=None):
    """y = x wᵀ.   x (M, K), w (N, K) -> y (M, N); with add_to (M, N): add_to += x wᵀ, returned."""
    if not isinstance(w, np.ndarray):
        return _of_form(x, w, True, add_to=add_to)
    (M, K), (N, L) = x.shape, w.shape
    few = min(M, N) <= FEW_DOTS and x.strides[1] == w.strides[1] == 4
    if few and M > N == 1 and K == L:  # a matrix times one vector: computed as w xᵀ
        if add_to is None:
            return matmul_nt(w, x).reshape(M, 1)
        if add_to.shape == (M, 1):
            matmul_nt(w, x, add_to.T)
            return add_to
    if few and M <= FEW_DOTS:
        kernel = one_row if M == 1 else by_dots
        return _into(kernel, x, w.T, (M, N), K, L, add_to, ROW_GRAIN * M)
    return _into(by_dots if few else _tiled, x, w.T, (M, N), K, L, add_to)


def matmul_nn(x, w, add_to=None):
    """y = x w.   x (M, K), w (K, N) -> y (M, N); with add_to (M, N): add_to += x w, returned."""
    if not isinstance(w, np.ndarray):
        return _of_form(x, w, False, add_to=add_to)
    (M, K), (L, N) = x.shape, w.shape
    few = N <= FEW_DOTS and x.strides[1] == w.strides[1] == 4
    return _into(by_dots if few else _tiled, x, w, (M, N), K, L, add_to)


def matmul_tn(x, y, add_to=None):
    """g = xᵀ y.   x (M, K), y (M, N) -> g (K, N); with add_to (K, N): add_to += xᵀ y, returned."""
    M, K = x.shape
    N = y.shape[1]
    kernel = _tiled
    if K <= FEW_ROWS and K <= N and y.strides[1] == 4:
        kernel = few_rows
    elif N <= FEW_ROWS and x.strides[1] == 4:
        kernel = few_columns
    return _into(kernel, x.T, y, (K, N), M, y.shape[0], add_to)


def adapted_nt(x, w, z, b):
    """y = x wᵀ + z bᵀ.   x (M, K), w (N, K), z (M, r), b (N, r) -> y (M, N)."""
    if not isinstance(w, np.ndarray):
        return _of_form(x, w, True, z, b.T)
    return _adapted(x, w.T, z, b.T)


def adapted_nn(x, w, z, b):
    """y = x w + z b.   x (M, K), w (K, N), z (M, r), b (r, N) -> y (M, N)."""
    if not isinstance(w, np.ndarray):
        return _of_form(x, w, False, z, b)
    return _adapted(x, w, z, b)


def _of_form(x, w, flipped, z=None, b=None, add_to=None):
    """The product with a frozen weight of another form: from its parts, or by its own `@`."""
    if type(w) is Packed and _packed().fits(w):
        return _packed().product(x, w, flipped, z, b, add_to)
    y = x @ (w.T if flipped else w)
    if add_to is not None:
        add_to += y
        return add_to
    return y if z is None else matmul_nn(z, b, add_to=y)


@functools.cache
def _packed():
    """The file for weights of another form, which is built on this one."""
    return importlib.import_module(".packed", __package__)


def _adapted(a, b, a2, b2):
    (M, K), N = a.shape, b.shape[1]
    wanted = (K, N), (M, len(b2)), (len(b2), N)
    if (b.shape, a2.shape, b2.shape) != wanted or not K or not len(b2):
        shapes = a.shape, b.shape, a2.shape, b2.shape
        raise ValueError(f"adapted: got factors of {shapes}, wanted {((M, K), *wanted)}, none of 0")
    if M <= FEW_DOTS and b.strides[0] == b2.strides[0] == 4:  # too few rows to pack b
        return matmul_nt(a2, b2.T, add_to=matmul_nt(a, b.T))
    y = np.empty((M, N), np.float32)
    run(_products_share, (a, b, a2, b2, y, False), tasks(M * N * K, GRAIN))
    return y


# LoRA's pair in one call if its products are small: Python's overhead for five calls would take
# longer than the products. Each product uses the function that is chosen above: the same bits.


@compiled((*(read(2),) * 4, float32, read(2), *(write(2),) * 3, *TASK))
def _forward(x, xa, W, A, s, B, z, scaled, y, t, n_tasks):
    unpacked.dots_of(xa, A.T, z, False, 0, 1)
    np.multiply(z, s, scaled)
    if len(x) <= FEW_DOTS:
        unpacked.dots_of(x, W.T, y, False, 0, 1)
        unpacked.dots_of(scaled, B.T, y, True, 0, 1)
    else:
        rectangle(x, W.T, y, False, 0, len(x), 0, len(W))
        rectangle(scaled, B.T, y, True, 0, len(x), 0, len(W))


def lora_forward(x, xa, W, s, A, B):
    """y = x Wᵀ + s z Bᵀ, z = xa Aᵀ.   x, xa (M, I), W (O, I), A (r, I), B (O, r) -> y (M, O), z."""
    if x.shape != xa.shape or not _small(x, xa, W, A, B):
        z = matmul_nt(xa, A)
        return adapted_nt(x, W, z * s, B), z
    shapes = (len(x), len(A)), (len(x), len(A)), (len(x), len(W))
    z, scaled, y = [np.empty(shape, np.float32) for shape in shapes]
    run(_forward, (x, xa, W, A, s, B, z, scaled, y), 1)
    return y, z


@compiled((*(read(2),) * 5, float32, read(2), *(write(2),) * 4, *TASK))
def _backward(dy, xa, z, W, A, s, B, dz, dA, dB, dx, t, n_tasks):
    unpacked.dots_of(dy, B, dz, False, 0, 1)
    np.multiply(dz, s, dz)
    unpacked.columns_of(dy.T, z, dB, False, 0, 1)
    np.multiply(dB, s, dB)
    unpacked.rows_of(dz.T, xa, dA, False, 0, 1)
    if len(dx):
        rectangle(dy, W, dx, False, 0, len(dy), 0, W.shape[1])
        rectangle(dz, A, dx, True, 0, len(dy), 0, W.shape[1])


def lora_backward(dy, xa, z, W, s, A, B, wants_dx):
    """dz = s dy B, dA = dzᵀ xa, dB = s dyᵀ z, dx = dy W + dz A where wanted -> dx, dz, dA, dB."""
    M = len(xa)
    if dy.shape != (M, len(B)) or z.shape != (M, len(A)) or not _small(dy, xa, W, A, B):
        dz = matmul_nn(dy, B) * s
        dB = matmul_tn(dy, z) * s
        dA = matmul_tn(dz, xa)
        return adapted_nn(dy, W, dz, A) if wants_dx else None, dz, dA, dB
    shapes = z.shape, A.shape, B.shape, xa.shape if wants_dx else (0, 0)
    dz, dA, dB, dx = [np.empty(shape, np.float32) for shape in shapes]
    run(_backward, (dy, xa, z, W, A, s, B, dz, dA, dB, dx), 1)
    return dx if wants_dx else None, dz, dA, dB


def _small(rows, xa, W, A, B):
    """Would one thread compute every product of these shapes, each in the way shown above?"""
    (M, r), (O, I) = (len(rows), len(A)), W.shape
    few = M > 1 and M * O * I < GRAIN and O * I < ROW_GRAIN and 1 < r <= FEW_DOTS < min(O, I)
    fits = few and xa.shape == (M, I) and A.shape == (r, I) and B.shape == (O, r)
    if not fits or type(W) is not np.ndarray:
        return False
    adjacent = rows.flags.c_contiguous and xa.flags.c_contiguous and W.flags.c_contiguous
    return adjacent and A.flags.c_contiguous and B.flags.c_contiguous


def _tiled(a, b, c, add, n_tasks):
    """c (+)= a b on the register tile."""
    if a.shape[1] <= SHALLOW and 4 in b.strides:
        shallow(a, b, c, add, n_tasks)
    else:
        run(_products_share, (a, b, NOTHING, NOTHING, c, add), n_tasks)


def _into(kernel, a, b, shape, depth, depth_b, add_to, grain=GRAIN):
    """kernel(a, b) in a new array, or added to add_to, which must not overlap a or b."""
    if depth != depth_b:
        raise ValueError(f"matmul: got factors with inner sizes {depth}, {depth_b}, wanted equal")
    if not depth:  # an empty sum
        return np.zeros(shape, np.float32) if add_to is None else add_to
    n_tasks = tasks(shape[0] * shape[1] * depth, grain)
    if add_to is None:
        out = np.empty(shape, np.float32)
        kernel(a, b, out, False, n_tasks)
        return out
    if add_to.shape != shape:
        raise ValueError(f"matmul: add_to has shape {add_to.shape}, wanted {shape}")
    if add_to.strides[1] == 4 or shape[1] == 1:
        kernel(a, b, add_to, True, n_tasks)
    else:
        add_to += _into(kernel, a, b, shape, depth, depth_b, None)
    return add_to
