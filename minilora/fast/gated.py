"""The whole gated feed-forward, for frozen weights: each thread takes some rows through all of it.

So gate, up and their product are still in a cache when they are read. The result is bit-equal to
that of the single products and SwiGLU: each number is the same sum in the same order.
"""

import numpy as np
from numba import boolean, int64, prange

from .amx_product import amx_pays
from .jit import compiled, contiguous, portion, read, tasks, write
from .matmul import matmul_nn, matmul_nt, serial_product
from .pointwise import swiglu_backward, swiglu_backward_part, swiglu_forward, swiglu_part
from .threads import THREADS
from .tile import MR
from .unpacked import FEW_DOTS

BLOCK = 512  # rows at once: fewer stay in nearer caches, but each block packs all three matrices
LEAST = 256  # rows of a thread, because each thread packs all three matrices

READ, WRITE = read(2), write(2)


@compiled((READ, READ, READ, READ, *(WRITE,) * 4, int64, boolean), parallel=True)
def _forward(x, Wg, Wu, Wd, gate, up, h, y, n_tasks, use_amx):
    for t in prange(n_tasks):
        start, stop = portion(len(x), t, n_tasks, MR)
        for i in range(start, stop, BLOCK):
            j = min(i + BLOCK, stop)
            serial_product(x[i:j], Wg.T, gate[i:j], False, use_amx)
            serial_product(x[i:j], Wu.T, up[i:j], False, use_amx)
            swiglu_part(gate[i:j].reshape(-1), up[i:j].reshape(-1), h[i:j].reshape(-1), 0, 1)
            serial_product(h[i:j], Wd.T, y[i:j], False, use_amx)


@compiled((*(READ,) * 6, *(WRITE,) * 5, int64, boolean), parallel=True)
def _backward(dy, gate, up, Wg, Wu, Wd, dh, dgate, dup, dx, dx_up, n_tasks, use_amx):
    for t in prange(n_tasks):
        start, stop = portion(len(dy), t, n_tasks, MR)
        for i in range(start, stop, BLOCK):
            j = min(i + BLOCK, stop)
            serial_product(dy[i:j], Wd, dh[i:j], False, use_amx)  # y = h Wdᵀ
            swiglu_backward_part(
                dh[i:j].reshape(-1),
                gate[i:j].reshape(-1),
                up[i:j].reshape(-1),
                dgate[i:j].reshape(-1),
                dup[i:j].reshape(-1),
                0,
                1,
            )
            serial_product(dgate[i:j], Wg, dx[i:j], False, use_amx)  # gate = x Wgᵀ
            serial_product(dup[i:j], Wu, dx_up[i:j], False, use_amx)  # up = x Wuᵀ
            for m in range(i, j):
                for c in range(dx.shape[1]):
                    dx[m, c] += dx_up[m, c]


def feed_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.

    x (M, C), Wg, Wu (F, C), Wd (C, F) -> y (M, C), gate, up (M, F).
    """
    M, F = _sizes(x, Wg, Wu, Wd)
    if _in_parts(M, Wg):
        gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
        return matmul_nt(swiglu_forward(gate, up), Wd), gate, up
    gate, up, h = (np.empty((M, F), np.float32) for _ in range(3))
    y = np.empty((M, len(Wd)), np.float32)
    inputs = _contiguous(x, Wg, Wu, Wd)
    _forward(*inputs, gate, up, h, y, tasks(M, 1), amx_pays(M, *Wg.shape))
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
    inputs = _contiguous(dy, gate, up, Wg, Wu, Wd)
    _backward(*inputs, dh, dgate, dup, dx, dx_up, tasks(M, 1), amx_pays(M, F, C))
    return dx


def _sizes(x, Wg, Wu, Wd):
    """M and F; raises ValueError where the shapes do not fit together."""
    (M, C), F = x.shape, len(Wg)
    if (Wg.shape, Wu.shape, Wd.shape) != ((F, C), (F, C), (C, F)):
        raise ValueError(
            f"feed_forward: weights of {Wg.shape}, {Wu.shape}, {Wd.shape} for rows of {C}, wanted "
            f"{(F, C)} twice and {(C, F)}"
        )
    return M, F


def _in_parts(M, Wg):
    """Are single kernels better: few rows for each thread, or products that dot products do?"""
    return M < LEAST * THREADS or min(Wg.shape) <= FEW_DOTS


def _contiguous(*arrays):
    return [contiguous(a, a.shape) for a in arrays]
