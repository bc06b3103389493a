"""Products by dot products, for a result so narrow that the tile would be mostly empty.

Where one row meets a matrix, as in decoding, reading the matrix is the work: the faster it streams
by, the better.
"""

import numpy as np
from numba import prange

from .jit import SHARE, compiled, count, flag, portion, read, write
from .tile import DOTS, dots, row_dots, turn16

PRODUCT = read(2, "A"), read(2, "A"), write(2, "A"), flag


@compiled((*PRODUCT, *SHARE))
def _dots_of(a, w, c, add, t, cut):
    """Task t's rows or columns of c (+)= a wᵀ, whichever are more."""
    (M, N), K = c.shape, a.shape[1]
    i0, i1 = portion(M, t, cut, DOTS) if M >= N else (0, M)
    j0, j1 = portion(N, t, cut, 4) if M < N else (0, N)
    for i in range(i0, i1, DOTS):
        for j in range(j0, j1, 4):
            dots(a, i, w, j, c, i, j, K, min(DOTS, i1 - i), min(4, j1 - j), add)


@compiled()
def turned(b):
    """bᵀ, with neighbouring columns."""
    K, N = b.shape
    w = np.empty((N, K + 15), np.float32)  # 16 numbers at a time
    for n in range(0, N, 16):
        for k in range(0, K, 16):
            turn16(b, k, n, min(16, K - k), min(16, N - n), w[n:], 0, k)
    return w


@compiled((*PRODUCT, count), parallel=True)
def narrow(a, b, c, add, cut):
    """c (+)= a b by dot products of rows of a and columns of b, where c has few of either."""
    w = b.T if b.strides[0] == 4 else turned(b)
    if cut == 1:
        for t in range(cut):
            _dots_of(a, w, c, add, t, cut)
    else:
        for t in prange(cut):
            _dots_of(a, w, c, add, t, cut)


@compiled((*PRODUCT, *SHARE))
def _row_of(a, w, c, add, t, cut):
    """Task t's columns of c (+)= a wᵀ, a and c of one row: w streams by as fast as memory gives."""
    j0, j1 = portion(c.shape[1], t, cut, 4)
    for j in range(j0, j1, 4):
        row_dots(a, 0, w, j, c, 0, j, a.shape[1], 1, min(4, j1 - j), add)


@compiled((*PRODUCT, count), parallel=True)
def one_row(a, b, c, add, cut):
    """c (+)= a b for an a of one row, as in decoding, and a b whose transpose has rows."""
    w = b.T
    if cut == 1:
        for t in range(cut):
            _row_of(a, w, c, add, t, cut)
    else:
        for t in prange(cut):
            _row_of(a, w, c, add, t, cut)
