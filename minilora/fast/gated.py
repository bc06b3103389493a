"""The gated feed-forward whole, on weights that nobody trains: each thread takes some rows through
all of it, so that gate, up and their product are still near when they are read.

To the bit what its products and SwiGLU give one by one: each number is the same sum in the same
order.
"""

import numpy as np
from numba import prange

from .jit import compiled, count, dense, flag, portion, read, tasks, write
from .matmul import FEW, matmul_nn, matmul_nt, whole
from .pointwise import swiglu_backward, swiglu_backward_part, swiglu_forward, swiglu_part
from .threads import THREADS
from .tile import MR
from .unit import pays

BLOCK = 512  # rows at a time: fewer stay nearer, but all three matrices are packed for each block
LEAST = 256  # rows a thread, which packs all three matrices for itself

READ, WRITE = read(2), write(2)


@compiled((READ, READ, READ, READ, *(WRITE,) * 4, count, flag), parallel=True)
def _forward(x, Wg, Wu, Wd, gate, up, h, y, cut, unit):
    for t in prange(cut):
        start, stop = portion(len(x), t, cut, MR)
        for i in range(start, stop, BLOCK):
            j = min(i + BLOCK, stop)
            whole(x[i:j], Wg.T, gate[i:j], False, unit)
            whole(x[i:j], Wu.T, up[i:j], False, unit)
            swiglu_part(gate[i:j].reshape(-1), up[i:j].reshape(-1), h[i:j].reshape(-1), 0, 1)
            whole(h[i:j], Wd.T, y[i:j], False, unit)


@compiled((*(READ,) * 6, *(WRITE,) * 5, count, flag), parallel=True)
def _backward(dy, gate, up, Wg, Wu, Wd, dh, dgate, dup, dx, dx_up, cut, unit):
    for t in prange(cut):
        start, stop = portion(len(dy), t, cut, MR)
        for i in range(start, stop, BLOCK):
            j = min(i + BLOCK, stop)
            whole(dy[i:j], Wd, dh[i:j], False, unit)  # y = h Wdᵀ
            swiglu_backward_part(
                dh[i:j].reshape(-1),
                gate[i:j].reshape(-1),
                up[i:j].reshape(-1),
                dgate[i:j].reshape(-1),
                dup[i:j].reshape(-1),
                0,
                1,
            )
            whole(dgate[i:j], Wg, dx[i:j], False, unit)  # gate = x Wgᵀ
            whole(dup[i:j], Wu, dx_up[i:j], False, unit)  # up = x Wuᵀ
            for m in range(i, j):
                for c in range(dx.shape[1]):
                    dx[m, c] += dx_up[m, c]


def feed_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.   x (M, C), Wg, Wu (F, C), Wd (C, F) -> y (M, C), gate, up
    (M, F).
    """
    M, F = _sizes(x, Wg, Wu, Wd)
    if _in_parts(M, Wg):
        gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
        return matmul_nt(swiglu_forward(gate, up), Wd), gate, up
    gate, up, h = (np.empty((M, F), np.float32) for _ in range(3))
    y = np.empty((M, len(Wd)), np.float32)
    _forward(*map(_dense, (x, Wg, Wu, Wd)), gate, up, h, y, tasks(M, 1), pays(M, *Wg.shape))
    return y, gate, up


def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """dy (M, C), gate, up (M, F), Wg, Wu (F, C), Wd (C, F) -> dx (M, C)."""
    (M, C), (_, F) = dy.shape, _sizes(dy, Wg, Wu, Wd)
    if gate.shape != (M, F) or up.shape != (M, F):
        raise ValueError(
            f"feed_forward: gate {gate.shape}, up {up.shape}, wanted {(M, F)} for dy {dy.shape}"
        )
    if _in_parts(M, Wg):
        dh = matmul_nn(dy, Wd)
        dgate, dup = swiglu_backward(dh, gate, up)
        dx, dx_up = matmul_nn(dgate, Wg), matmul_nn(dup, Wu)
        dx += dx_up
        return dx
    dh, dgate, dup = (np.empty(gate.shape, np.float32) for _ in range(3))
    dx, dx_up = (np.empty((M, C), np.float32) for _ in range(2))
    arrays = map(_dense, (dy, gate, up, Wg, Wu, Wd))
    _backward(*arrays, dh, dgate, dup, dx, dx_up, tasks(M, 1), pays(M, F, C))
    return dx


def _sizes(x, Wg, Wu, Wd):
    """M and F; raises ValueError where the arrays do not fit."""
    (M, C), F = x.shape, len(Wg)
    if (Wg.shape, Wu.shape, Wd.shape) != ((F, C), (F, C), (C, F)):
        raise ValueError(
            f"feed_forward: weights of {Wg.shape}, {Wu.shape}, {Wd.shape} for rows of {C}, wanted "
            f"{(F, C)} twice and {(C, F)}"
        )
    return M, F


def _in_parts(M, Wg):
    """Is it better done by single kernels: few rows a thread, or products that dot products do?"""
    return M < LEAST * THREADS or min(Wg.shape) <= FEW


def _dense(a):
    return dense(a, a.shape)
