"""Four ways to write one matrix product, each faster than the one before.

All compute y = x w, x (M, K), w (K, N), with the same 2 M K N operations. They differ in what
stays in registers, what stays in a near cache, and what is read from memory at each use.
`python -m studies.speed ladder` times them. The ops call the last one.
"""

import numpy as np

from .jit import compiled, read, write
from .matmul import matmul_nn

DEPTH, WIDTH = 8, 512  # of a block of the third way

FACTORS = read(2), read(2), write(2)


@compiled(FACTORS)
def _three_loops(x, w, y):
    """The definition: one number of y at a time. w is read by columns: a cache line per number."""
    for i in range(x.shape[0]):
        for j in range(w.shape[1]):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[i, k] * w[k, j]
            y[i, j] = total


@compiled(FACTORS)
def _reordered(x, w, y):
    """The inner loops exchanged: w and y are read along rows, so LLVM generates vector code.

    But each multiplication loads and stores a number of y.
    """
    y[:] = 0
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            a = x[i, k]
            for j in range(w.shape[1]):
                y[i, j] += a * w[k, j]


@compiled(FACTORS)
def _tiled(x, w, y):
    """Blocks of w that stay in a near cache, and eight steps of k each time y is visited.

    Eight numbers of x stay in registers, broadcast to vectors. y is loaded and stored once for all
    eight, not once for each. The steps that are left at the end of k are done as before.
    """
    (M, K), N = x.shape, w.shape[1]
    whole = K - K % DEPTH
    y[:] = 0
    for j0 in range(0, N, WIDTH):
        columns = slice(j0, min(j0 + WIDTH, N))
        for k in range(0, whole, DEPTH):
            w0, w1, w2, w3 = w[k, columns], w[k + 1, columns], w[k + 2, columns], w[k + 3, columns]
            w4, w5, w6 = w[k + 4, columns], w[k + 5, columns], w[k + 6, columns]
            w7 = w[k + 7, columns]
            for i in range(M):
                row, a = y[i, columns], x[i, k : k + DEPTH]
                a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
                for j in range(len(row)):
                    row[j] += (
                        (a0 * w0[j] + a1 * w1[j])
                        + (a2 * w2[j] + a3 * w3[j])
                        + (a4 * w4[j] + a5 * w5[j])
                        + (a6 * w6[j] + a7 * w7[j])
                    )
        for k in range(whole, K):
            for i in range(M):
                row, w_row, a = y[i, columns], w[k, columns], x[i, k]
                for j in range(len(row)):
                    row[j] += a * w_row[j]


def _allocating(kernel):
    """kernel(x, w, y) as a function of x and w that returns y, with the kernel's docstring."""

    def product(x, w):
        y = np.empty((x.shape[0], w.shape[1]), np.float32)
        kernel(np.ascontiguousarray(x), np.ascontiguousarray(w), y)
        return y

    product.__doc__ = kernel.py_func.__doc__ if hasattr(kernel, "py_func") else kernel.__doc__
    return product


LADDER = {
    "three loops": _allocating(_three_loops),
    "reordered": _allocating(_reordered),
    "tiled": _allocating(_tiled),
    "register tile": matmul_nn,  # a block of y stays in registers for all of k: see tile.py
}
