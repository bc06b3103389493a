"""Matrix products that do not pack their factors, because one side of the product is short.

Then each number of the long factor is used only a few times. Reading it, or writing the result,
takes most of the time, and packing it would add to that. All compute c (+)= a b.
"""

import numpy as np
from numba import int64

from .jit import PLACE, PRODUCT, TASK, compiled, portion, read, run
from .llvm import by_address
from .tile import DOTS, LOW, MR, NR, dots, low_tile, prefetching_tile, row_dots, tile_row
from .vectors import transpose16

FEW_DOTS = 2 * DOTS  # with at most so many rows or columns, a product is done by dot products
SHALLOW = 16  # with at most this depth, a product is done row by row
FEW_ROWS = 32  # with at most so many rows or columns, `columns` reads the long factor in place
IN_L1 = 128  # rows of 48 columns that stay in the L1 cache


@compiled((read(2, "A"),))
def transposed(b):
    """bᵀ with adjacent columns; b's columns are adjacent."""
    K, N = b.shape
    w = np.empty((N, K + 15), np.float32)  # transpose16 writes 16 numbers at once
    for n in range(0, N, 16):
        for k in range(0, K, 16):
            transpose16(b, k, n, min(16, K - k), min(16, N - n), w[n:], 0, k)
    return w


@compiled((*PRODUCT, *TASK))
def _dots_share(a, b, c, add, t, n_tasks):
    """Task t's rows or columns of c (+)= a b, whichever are more."""
    (M, N), K = c.shape, a.shape[1]
    w = b.T if b.strides[0] == 4 else transposed(b)
    i0, i1 = portion(M, t, n_tasks, DOTS) if M >= N else (0, M)
    j0, j1 = portion(N, t, n_tasks, 4) if M < N else (0, N)
    across, down = -(-(j1 - j0) // 4), -(-(i1 - i0) // DOTS)
    for n in range(across * down):  # along the shorter side first: the longer one is read once
        i = i0 + DOTS * (n // across if M >= N else n % down)
        j = j0 + 4 * (n % across if M >= N else n // down)
        dots(a, i, w, j, c, i, j, K, min(DOTS, i1 - i), min(4, j1 - j), add)


dots_of = by_address(_dots_share)


def by_dots(a, b, c, add, n_tasks):
    """Dot products of rows of a and columns of b, for a c with few rows or few columns."""
    run(_dots_share, (a, b, c, add), n_tasks)


@compiled((*PRODUCT, *TASK))
def _one_row_share(a, b, c, add, t, n_tasks):
    """Task t's columns of c (+)= a b."""
    w = b.T
    j0, j1 = portion(c.shape[1], t, n_tasks, 4)
    for j in range(j0, j1, 4):
        row_dots(a, 0, w, j, c, 0, j, a.shape[1], 1, min(4, j1 - j), add)


def one_row(a, b, c, add, n_tasks):
    """For an a of one row, as in decoding: b is read as fast as the memory allows.

    b's rows are adjacent in memory.
    """
    run(_one_row_share, (a, b, c, add), n_tasks)


@compiled((*PRODUCT, *TASK))
def _shallow_share(a, b, c, add, t, n_tasks):
    """Task t's rows of c (+)= a b, written from left to right."""
    i0, i1 = portion(c.shape[0], t, n_tasks, MR)
    for i in range(i0, i1, MR):
        tile_row(a, i, 0, b, 0, 0, c, i, 0, a.shape[1], min(MR, i1 - i), c.shape[1], add)


def shallow(a, b, c, add, n_tasks):
    """For an a of few columns: writing c takes most of the time."""
    b = b if b.strides[1] == 4 else transposed(b.T)
    run(_shallow_share, (a, b, c, add), n_tasks)


@compiled((*PRODUCT, int64, *PLACE))
def _columns(a, b, c, add, step, j0, j1):
    """Columns j0 to j1 of c (+)= a b, `step` rows of b at once."""
    R, M = a.shape
    for k in range(0, M, step):
        depth, more = min(step, M - k), add or k > 0
        for i in range(0, R, MR):
            rows, j = min(MR, R - i), j0
            while j1 - j >= NR:
                if rows <= LOW and j1 - j >= 2 * NR:
                    low_tile(a, i, k, b, k, j, c, i, j, depth, rows, 2 * NR, more)
                    j += 2 * NR
                else:
                    prefetching_tile(a, i, k, b, k, j, c, i, j, depth, rows, NR, more)
                    j += NR
            tile_row(a, i, k, b, k, j, c, i, j, depth, rows, j1 - j, more)


columns = by_address(_columns)


@compiled((*PRODUCT, *TASK))
def _few_rows_share(a, b, c, add, t, n_tasks):
    j0, j1 = portion(c.shape[1], t, n_tasks, 16)
    columns(a, b, c, add, IN_L1, j0, j1)


rows_of = by_address(_few_rows_share)


def few_rows(a, b, c, add, n_tasks):
    """For a c of few rows: b is read once, in place; b's columns are adjacent."""
    run(_few_rows_share, (a, b, c, add), n_tasks)


@compiled((*PRODUCT, *TASK))
def _few_columns_share(a, b, c, add, t, n_tasks):
    i0, i1 = portion(c.shape[0], t, n_tasks, 16)
    transpose = np.empty((c.shape[1], i1 - i0), np.float32)
    columns(b.T, a.T[:, i0:i1], transpose, False, IN_L1, 0, i1 - i0)
    for i in range(i0, i1):
        for j in range(c.shape[1]):
            c[i, j] = c[i, j] + transpose[j, i - i0] if add else transpose[j, i - i0]


columns_of = by_address(_few_columns_share)


def few_columns(a, b, c, add, n_tasks):
    """For a c of few columns: the same on bᵀ aᵀ, then transposed; a's rows are adjacent."""
    run(_few_columns_share, (a, b, c, add), n_tasks)
