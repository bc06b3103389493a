"""Products of long and thin matrices on the register tile, with nothing packed.

Reading or writing the long one is the work, and it passes by once.
"""

import numpy as np
from numba import prange

from .jit import PLACE, SHARE, SIZES, compiled, count, flag, portion, read, write
from .narrow import PRODUCT
from .tile import MR, NR, far_tile, ragged16, tile16, tile32, tile48

THIN = 16  # up to as many numbers that the factors meet in, c is written row by row
SKINNY = 32  # up to as many columns, xᵀ y is done without packing


@compiled((read(2, "A"), *PLACE, read(2, "A"), *PLACE, write(2, "A"), *PLACE, *SIZES, flag))
def strip(a, i, k, b, l, j, c, p, q, depth, rows, cols, add):
    """A tile of any number of columns, for a b that is not packed but has neighbouring columns."""
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
            ragged16(a, i, k, b, l, j + n, c, p, q + n, depth, rows, width, add)
        n += width


@compiled((*PRODUCT, *SHARE))
def _rows_of(a, b, c, add, t, cut):
    """Task t's rows of c (+)= a b, written from left to right; the columns of b are neighbours."""
    i0, i1 = portion(c.shape[0], t, cut, MR)
    for i in range(i0, i1, MR):
        strip(a, i, 0, b, 0, 0, c, i, 0, a.shape[1], min(MR, i1 - i), c.shape[1], add)


@compiled((*PRODUCT, count), parallel=True)
def thin(a, b, c, add, cut):
    """c (+)= a b where they meet in few numbers: writing c is the work.

    The columns of b are neighbours.
    """
    if cut == 1:
        for t in range(cut):
            _rows_of(a, b, c, add, t, cut)
    else:
        for t in prange(cut):
            _rows_of(a, b, c, add, t, cut)


@compiled((*PRODUCT, *SHARE))
def _stream(a, b, c, add, t, cut):
    """Task t's columns of c (+)= a b, 128 rows of b at a time, which stay in the L1 cache."""
    j0, j1 = portion(c.shape[1], t, cut, 16)
    R, M = a.shape
    whole = j1 - (j1 - j0) % NR
    for k in range(0, M, 128):
        depth, more = min(128, M - k), add or k > 0
        for i in range(0, R, MR):
            rows = min(MR, R - i)
            for j in range(j0, whole, NR):
                far_tile(a, i, k, b, k, j, c, i, j, depth, rows, NR, more)
            strip(a, i, k, b, k, whole, c, i, whole, depth, rows, j1 - whole, more)


@compiled((*PRODUCT, count), parallel=True)
def skinny(a, b, c, add, cut):
    """c (+)= a b where c has few rows: b streams by once, unpacked; its columns are shared."""
    if cut == 1:
        for t in range(cut):
            _stream(a, b, c, add, t, cut)
    else:
        for t in prange(cut):
            _stream(a, b, c, add, t, cut)


@compiled((*PRODUCT, count))
def skinny_turned(a, b, c, add, cut):
    """c (+)= a b where c has few columns: the same on bᵀ aᵀ, then turned."""
    turned = np.empty((c.shape[1], c.shape[0]), np.float32)
    skinny(b.T, a.T, turned, False, cut)
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            c[i, j] = c[i, j] + turned[j, i] if add else turned[j, i]
