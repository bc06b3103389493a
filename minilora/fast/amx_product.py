"""Matrix products on the matrix unit (amx.py): both factors are split into pieces and packed.

Up to COLUMNS columns of the right factor stay packed in L2, while the left factor passes by in L1,
32 rows at once; of both, DEPTH numbers of the depth at once. Each number of the result is summed
in one order, wherever it stands and however the work is divided.
"""

import numpy as np
from numba import int64

from .amx import (
    PIECES,
    SIDE,
    configure_tiles,
    copy,
    multiply_block,
    release_tiles,
    split_left,
    split_right,
)
from .jit import PLACE, PRODUCT, TASK, aligned_empty, compiled, portion, read, run, write
from .vectors import transpose16

DEPTH = 128  # how much of the depth is packed at once
TILE = 256  # numbers of memory that a tile takes
COLUMNS = 768  # columns of B that are packed at once: 576 KB, in L2
MOST_BYTES = 6 * DEPTH * (COLUMNS + SIDE) + 8 * SIDE * SIDE + 128  # that a thread packs into


@compiled((read(2, "A"), *PLACE, *PLACE, write(2)))
def _transpose(a, i, j, rows, cols, out):
    """out[:cols, :rows] = a[i:i+rows, j:j+cols]ᵀ; fast if a's columns are adjacent in memory."""
    for m in range(0, rows, 16):
        if a.strides[1] == 4:
            for n in range(0, cols, 16):
                transpose16(a, i + m, j + n, min(16, rows - m), min(16, cols - n), out, n, m)
        else:
            for r in range(m, min(m + 16, rows)):
                for n in range(cols):
                    out[n, r] = a[i + r, j + n]


@compiled((read(2, "A"), *PLACE, *PLACE, write(2), int64, write(2)))
def _pack_left(a, i, k, rows, depth, tiles, t, scratch):
    """The pieces of a[i:i+rows, k:k+depth], rows <= 32, from tile t on, 32 of the depth at once."""
    for d in range(0, depth, SIDE):
        n = min(SIDE, depth - d)
        for r in range(2):
            m = max(0, min(16, rows - 16 * r))
            if a.strides[1] == 4:
                split_left(a, i + 16 * r, k + d, m, n, tiles, t + r)
            else:
                _transpose(a.T, k + d, i + 16 * r, n, m, scratch)
                split_left(scratch, 0, 0, m, n, tiles, t + r)
        t += 2 * PIECES


@compiled((read(2, "A"), *PLACE, *PLACE, write(2), int64, write(2)))
def _pack_right(b, k, j, depth, cols, tiles, t, scratch):
    """The pieces of b[k:k+depth, j:j+cols], cols <= 32, from tile t on, 32 of the depth at once."""
    for d in range(0, depth, SIDE):
        m = min(SIDE, depth - d)
        for c in range(2):
            n = max(0, min(16, cols - 16 * c))
            if b.strides[1] == 4:
                split_right(b, k + d, j + 16 * c, m, n, tiles, t + c)
            else:
                _transpose(b.T, j + 16 * c, k + d, n, m, scratch)
                split_right(scratch, 0, 0, m, n, tiles, t + c)
        t += 2 * PIECES


@compiled((*PRODUCT, *PLACE, *PLACE))
def amx_rectangle(a, b, c, add, i0, i1, j0, j1):
    """c[i0:i1, j0:j1] (+)= that part of a b."""
    K = a.shape[1]
    step = -(-K // -(-K // DEPTH))
    step = -(-step // SIDE) * SIDE
    wide = 2 * PIECES * (step // SIDE)  # tiles of 32 rows, or of 32 columns
    width = min(COLUMNS, j1 - j0)
    left, right = aligned_empty(wide, TILE), aligned_empty(-(-width // SIDE) * wide, TILE)
    edge, scratch = np.empty((SIDE, SIDE), np.float32), np.empty((SIDE, SIDE), np.float32)
    configure_tiles()
    for start in range(j0, j1, COLUMNS):
        stop = min(start + COLUMNS, j1)
        for k in range(0, K, step):
            more = add or k > 0
            depth = min(step, K - k)
            chunks = -(-depth // SIDE)
            for j in range(start, stop, SIDE):
                t = (j - start) // SIDE * wide
                _pack_right(b, k, j, depth, min(SIDE, stop - j), right, t, scratch)
            for i in range(i0, i1, SIDE):
                m = min(SIDE, i1 - i)
                _pack_left(a, i, k, m, depth, left, 0, scratch)
                whole = start + (stop - start) // SIDE * SIDE if m == SIDE else start
                for j in range(start, whole, SIDE):
                    t = (j - start) // SIDE * wide
                    multiply_block(left, 0, right, t, chunks, c, i, j, more)
                for j in range(whole, stop, SIDE):
                    t = (j - start) // SIDE * wide
                    n = min(SIDE, stop - j)
                    if more:
                        copy(c, i, j, m, n, edge, 0, 0)
                    multiply_block(left, 0, right, t, chunks, edge, 0, 0, more)
                    copy(edge, 0, 0, m, n, c, i, j)
    release_tiles()


@compiled((*PRODUCT, *TASK))
def _product_share(a, b, c, add, t, n_tasks):
    """Task t's part of the longer side of c: both factors are split and packed for each task."""
    M, N = c.shape
    i0, i1 = portion(M, t, n_tasks, SIDE) if M >= N else (0, M)
    j0, j1 = portion(N, t, n_tasks, SIDE) if M < N else (0, N)
    if i0 < i1 and j0 < j1:
        amx_rectangle(a, b, c, add, i0, i1, j0, j1)


def product(a, b, c, add, n_tasks):
    """c (+)= a b."""
    run(_product_share, (a, b, c, add), n_tasks)
