"""Products on the matrix unit: both factors are split into pieces and packed as its tiles.

Up to COLUMNS columns of the right factor stay packed, in L2, while the left one passes by, 32 rows
at a time, in L1; DEPTH numbers of both at a time. Each number of the result is summed in one order,
wherever it stands and however the work is cut.
"""

import numpy as np

from .amx import PIECES, SIDE, begin, block, chosen, copy, end, split_left, split_right
from .jit import PLACE, compiled, count, flag, read, room, write
from .tile import turn16

LEAST = 64  # of each side: packing shorter ones costs more than the unit brings
DEPTH = 128  # numbers of depth that are packed at a time
TILE = 256  # floats of its memory
COLUMNS = 768  # columns of B that are packed at a time: 576 KB, in L2
ROOM = 6 * DEPTH * (COLUMNS + SIDE) + 8 * SIDE * SIDE + 128  # bytes a thread packs into, at most


def pays(M, K, N):
    """Is a product of (M, K) and (K, N) done on the unit: is that chosen, are all sides long?"""
    return chosen() and min(M, K, N) >= LEAST


@compiled((read(2, "A"), *PLACE, *PLACE, write(2)))
def _turn(a, i, j, rows, cols, turned):
    """turned[:cols, :rows] = a[i:i+rows, j:j+cols]ᵀ; a's columns are neighbours, if any are."""
    for m in range(0, rows, 16):
        if a.strides[1] == 4:
            for n in range(0, cols, 16):
                turn16(a, i + m, j + n, min(16, rows - m), min(16, cols - n), turned, n, m)
        else:
            for r in range(m, min(m + 16, rows)):
                for n in range(cols):
                    turned[n, r] = a[i + r, j + n]


@compiled((read(2, "A"), *PLACE, *PLACE, write(2), count, write(2)))
def _pack_left(a, i, k, rows, depth, tiles, t, turned):
    """The pieces of a[i:i+rows, k:k+depth], rows <= 32, from tile t on, chunk by chunk of depth."""
    for d in range(0, depth, SIDE):
        n = min(SIDE, depth - d)
        for r in range(2):
            m = max(0, min(16, rows - 16 * r))
            if a.strides[1] == 4:
                split_left(a, i + 16 * r, k + d, m, n, tiles, t + r)
            else:
                _turn(a.T, k + d, i + 16 * r, n, m, turned)
                split_left(turned, 0, 0, m, n, tiles, t + r)
        t += 2 * PIECES


@compiled((read(2, "A"), *PLACE, *PLACE, write(2), count, write(2)))
def _pack_right(b, k, j, depth, cols, tiles, t, turned):
    """The pieces of b[k:k+depth, j:j+cols], cols <= 32, from tile t on, chunk by chunk of depth."""
    for d in range(0, depth, SIDE):
        m = min(SIDE, depth - d)
        for c in range(2):
            n = max(0, min(16, cols - 16 * c))
            if b.strides[1] == 4:
                split_right(b, k + d, j + 16 * c, m, n, tiles, t + c)
            else:
                _turn(b.T, j + 16 * c, k + d, n, m, turned)
                split_right(turned, 0, 0, m, n, tiles, t + c)
        t += 2 * PIECES


@compiled((read(2, "A"), read(2, "A"), write(2, "A"), flag, *PLACE, *PLACE))
def split_region(a, b, c, add, i0, i1, j0, j1):
    """c[i0:i1, j0:j1] (+)= that part of a b."""
    K = a.shape[1]
    step = -(-K // -(-K // DEPTH))
    step = -(-step // SIDE) * SIDE
    wide = 2 * PIECES * (step // SIDE)  # tiles of 32 rows, or 32 columns
    width = min(COLUMNS, j1 - j0)
    left, right = room(wide, TILE), room(-(-width // SIDE) * wide, TILE)
    edge, turned = np.empty((SIDE, SIDE), np.float32), np.empty((SIDE, SIDE), np.float32)
    begin()
    for start in range(j0, j1, COLUMNS):
        stop = min(start + COLUMNS, j1)
        for k in range(0, K, step):
            more = add or k > 0
            depth = min(step, K - k)
            chunks = -(-depth // SIDE)
            for j in range(start, stop, SIDE):
                t = (j - start) // SIDE * wide
                _pack_right(b, k, j, depth, min(SIDE, stop - j), right, t, turned)
            for i in range(i0, i1, SIDE):
                m = min(SIDE, i1 - i)
                _pack_left(a, i, k, m, depth, left, 0, turned)
                whole = start + (stop - start) // SIDE * SIDE if m == SIDE else start
                for j in range(start, whole, SIDE):
                    t = (j - start) // SIDE * wide
                    block(left, 0, right, t, chunks, c, i, j, more)
                for j in range(whole, stop, SIDE):
                    t = (j - start) // SIDE * wide
                    n = min(SIDE, stop - j)
                    if more:
                        copy(c, i, j, m, n, edge, 0, 0)
                    block(left, 0, right, t, chunks, edge, 0, 0, more)
                    copy(edge, 0, 0, m, n, c, i, j)
    end()
