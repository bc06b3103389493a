"""The whole gated feed-forward for frozen weights: each thread computes all of it for some rows.

So gate, up and their product are still in a cache when they are read. The result is bit-equal to
that of separate products and SwiGLU: each number is the same sum in the same order.
"""

import numpy as np

from .jit import TASK, compiled, contiguous, portion, read, run, tasks, write
from .llvm import by_address
from .matmul import GRAIN, adapted_nn, matmul_nn, matmul_nt, rectangle
from .pointwise import swiglu_backward, swiglu_backward_part, swiglu_forward, swiglu_part
from .threads import THREADS
from .tile import MR
from .unpacked import FEW_DOTS, dots_of

BLOCK = 512  # rows at once: fewer stay in nearer caches, but each block packs all three matrices
LEAST = 256  # rows of a thread, because each thread packs all three matrices

READ, WRITE = read(2), write(2)

swiglu_of, swiglu_backward_of = by_address(swiglu_part), by_address(swiglu_backward_part)


@compiled((READ, READ, READ, READ, *(WRITE,) * 4, *TASK))
def _forward_share(x, Wg, Wu, Wd, gate, up, h, y, t, n_tasks):
    """Task t's rows, BLOCK of them at a time."""
    C, F = x.shape[1], gate.shape[1]
    if len(x) <= FEW_DOTS:
        dots_of(x, Wg.T, gate, False, 0, 1)
        dots_of(x, Wu.T, up, False, 0, 1)
        swiglu_of(gate.reshape(-1), up.reshape(-1), h.reshape(-1), 0, 1)
        dots_of(h, Wd.T, y, False, 0, 1)
        return
    start, stop = portion(len(x), t, n_tasks, MR)
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        rectangle(x, Wg.T, gate, False, i, j, 0, F)
        rectangle(x, Wu.T, up, False, i, j, 0, F)
        swiglu_of(gate[i:j].reshape(-1), up[i:j].reshape(-1), h[i:j].reshape(-1), 0, 1)
        rectangle(h, Wd.T, y, False, i, j, 0, C)


@compiled((*(READ,) * 6, *(WRITE,) * 4, *TASK))
def _backward_share(dy, gate, up, Wg, Wu, Wd, dh, dgate, dup, dx, t, n_tasks):
    """Task t's rows, BLOCK of them at a time."""
    C, F = dy.shape[1], gate.shape[1]
    start, stop = portion(len(dy), t, n_tasks, MR)
    for i in range(start, stop, BLOCK):
        j = min(i + BLOCK, stop)
        rectangle(dy, Wd, dh, False, i, j, 0, F)  # y = h Wdᵀ
        swiglu_backward_of(
            dh[i:j].reshape(-1),
            gate[i:j].reshape(-1),
            up[i:j].reshape(-1),
            dgate[i:j].reshape(-1),
            dup[i:j].reshape(-1),
            0,
            1,
        )
        rectangle(dgate, Wg, dx, False, i, j, 0, C)  # gate = x Wgᵀ
        rectangle(dup, Wu, dx, True, i, j, 0, C)  # up = x Wuᵀ


def feed_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.

    x (M, C), Wg, Wu (F, C), Wd (C, F) -> y (M, C), gate, up (M, F).
    """
    M, F = _sizes(x, Wg, Wu, Wd)
    if _in_parts(M, Wg, Wu, Wd):
        gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
        return matmul_nt(swiglu_forward(gate, up), Wd), gate, up
    gate, up, h = [np.empty((M, F), np.float32) for _ in range(3)]
    y = np.empty((M, len(Wd)), np.float32)
    arguments = *_contiguous(x, Wg, Wu, Wd), gate, up, h, y
    run(_forward_share, arguments, tasks(M * Wg.size, GRAIN))
    return y, gate, up


def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """dy (M, C), gate, up (M, F), Wg, Wu (F, C), Wd (C, F) -> dx (M, C)."""
    (M, C), (_, F) = dy.shape, _sizes(dy, Wg, Wu, Wd)
    if gate.shape != (M, F) or up.shape != (M, F):
        raise ValueError(
            f"feed_forward: gate {gate.shape}, up {up.shape}, wanted {(M, F)} for dy {dy.shape}"
        )
    if _in_parts(M, Wg, Wu, Wd):
        dh = matmul_nn(dy, Wd)
        dgate, dup = swiglu_backward(dh, gate, up)
        if not isinstance(Wu, np.ndarray):
            return matmul_nn(dup, Wu, add_to=matmul_nn(dgate, Wg))
        return adapted_nn(dgate, Wg, dup, Wu)
    dh, dgate, dup = [np.empty((M, F), np.float32) for _ in range(3)]
    dx = np.empty((M, C), np.float32)
    arguments = *_contiguous(dy, gate, up, Wg, Wu, Wd), dh, dgate, dup, dx
    run(_backward_share, arguments, tasks(M * Wg.size, GRAIN))
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


def _in_parts(M, *Ws):
    """Are separate kernels better? Yes for few rows per thread, for one row, for few columns, and
    for packed weights.
    """
    F, C = Ws[0].shape
    few = M < LEAST * THREADS and M * F * C >= GRAIN
    narrow = M == 1 or min(F, C) <= FEW_DOTS
    return few or narrow or not all(isinstance(W, np.ndarray) for W in Ws)


def _contiguous(*arrays):
    return [contiguous(a, a.shape) for a in arrays]
