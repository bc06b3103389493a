"""The gated feed-forward whole, on weights that nobody trains: each thread takes some rows through
all of it, so that gate, up and their product are still near when they are read.

To the bit what its products and SwiGLU give one by one: each number is the same sum in the same
order.
"""

import numpy as np
from numba import prange

from .jit import compiled, count, dense, portion, read, tasks, write
from .matmul import matmul_nn, matmul_nt, whole
from .pointwise import swiglu_backward, swiglu_backward_part, swiglu_forward, swiglu_part
from .threads import THREADS
from .tile import MR

BLOCK = 512  # rows: of so many, gate, up and their product still fit an L2 cache at F of some 300
LEAST = 256  # rows a thread, which packs all three matrices for itself

READ, WRITE = read(2), write(2)


@compiled((READ, READ, READ, READ, WRITE, WRITE, WRITE, count), parallel=True)
def _forward(x, Wg, Wu, Wd, gate, up, y, cut):
    for t in prange(cut):
        start, stop = portion(len(x), t, cut, MR)
        product = np.empty((min(BLOCK, stop - start), len(Wg)), np.float32)
        for i in range(start, stop, BLOCK):
            n = min(BLOCK, stop - i)
            g, u, h = gate[i : i + n], up[i : i + n], product[:n]
            whole(x[i : i + n], Wg.T, g, False)
            whole(x[i : i + n], Wu.T, u, False)
            swiglu_part(g.reshape(-1), u.reshape(-1), h.reshape(-1), 0, 1)
            whole(h, Wd.T, y[i : i + n], False)


@compiled((READ, READ, READ, READ, READ, READ, WRITE, count), parallel=True)
def _backward(dy, gate, up, Wg, Wu, Wd, dx, cut):
    for t in prange(cut):
        start, stop = portion(len(dy), t, cut, MR)
        rows = min(BLOCK, stop - start)
        room = np.empty((3, rows, len(Wg)), np.float32)
        second = np.empty((rows, dx.shape[1]), np.float32)
        for i in range(start, stop, BLOCK):
            n = min(BLOCK, stop - i)
            dh, dgate, dup, first = room[0, :n], room[1, :n], room[2, :n], dx[i : i + n]
            whole(dy[i : i + n], Wd, dh, False)  # y = h Wdᵀ
            swiglu_backward_part(
                dh.reshape(-1),
                gate[i : i + n].reshape(-1),
                up[i : i + n].reshape(-1),
                dgate.reshape(-1),
                dup.reshape(-1),
                0,
                1,
            )
            whole(dgate, Wg, first, False)  # gate = x Wgᵀ
            whole(dup, Wu, second[:n], False)  # up = x Wuᵀ
            for m in range(n):
                for c in range(dx.shape[1]):
                    first[m, c] += second[m, c]


def feed_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.   x (M, C), Wg, Wu (F, C), Wd (C, F) -> y (M, C), gate, up
    (M, F).
    """
    M, F = len(x), len(Wg)
    if LEAST * THREADS > M:
        gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
        return matmul_nt(swiglu_forward(gate, up), Wd), gate, up
    y = np.empty((M, len(Wd)), np.float32)
    gate, up = np.empty((M, F), np.float32), np.empty((M, F), np.float32)
    _forward(*map(_dense, (x, Wg, Wu, Wd)), gate, up, y, tasks(M, 1))
    return y, gate, up


def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """dy (M, C), gate, up (M, F), Wg, Wu (F, C), Wd (C, F) -> dx (M, C)."""
    if len(dy) < LEAST * THREADS:
        dgate, dup = swiglu_backward(matmul_nn(dy, Wd), gate, up)
        dx = matmul_nn(dgate, Wg)
        dx += matmul_nn(dup, Wu)
        return dx
    dx = np.empty((len(dy), Wg.shape[1]), np.float32)
    _backward(*map(_dense, (dy, gate, up, Wg, Wu, Wd)), dx, tasks(len(dy), 1))
    return dx


def _dense(a):
    return dense(a, a.shape)
