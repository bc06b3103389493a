"""Sums, RMSNorm, rotary positions, SwiGLU: one pass over the numbers, on all cores.

Each comes in three parts: the loop of one task over its portion; the compiled kernel, which runs
the tasks; and the kernel of the table, which makes room for the result.
"""

import numpy as np
from numba import prange

from .jit import ONE, SHARE, WHOLE, compiled, count, dense, number, portion, read, tasks, write
from .sums import dot, dot3
from .vectors import exp, fused, turn_pairs

GRAIN = 50_000  # numbers below which a second thread costs more than it brings


TWO = read(1), read(1), write(1)


@compiled((*TWO, *SHARE))
def _add_part(x, y, out, t, cut):
    i0, i1 = portion(out.size, t, cut, WHOLE)
    x, y, out = x[i0:i1], y[i0:i1], out[i0:i1]
    for i in range(i1 - i0):
        out[i] = x[i] + y[i]


@compiled((*TWO, count), parallel=True)
def _add(x, y, out, cut):
    for t in prange(cut):
        _add_part(x, y, out, t, cut)


def add(x, y):
    """x + y, of one shape."""
    if x.size < GRAIN or y.dtype != np.float32:
        return x + y
    out = np.empty(x.shape, np.float32)
    parts = (dense(a, x.shape).reshape(-1) for a in (x, y))
    _add(*parts, out.reshape(-1), tasks(x.size, GRAIN))
    return out


ROWS = read(2), read(1), number, write(2), write(1)


@compiled((*ROWS, *SHARE))
def _rmsnorm_rows(x, g, eps, y, rstd, t, cut):
    C = x.shape[1]
    for i in range(*portion(len(x), t, cut, 1)):
        r = ONE / np.sqrt(dot(x[i], x[i]) / np.float32(C) + eps)
        rstd[i] = r
        for j in range(C):
            y[i, j] = x[i, j] * r * g[j]


@compiled((*ROWS, count), parallel=True)
def _rmsnorm_forward(x, g, eps, y, rstd, cut):
    if cut == 1:
        for t in range(cut):
            _rmsnorm_rows(x, g, eps, y, rstd, t, cut)
    else:
        for t in prange(cut):
            _rmsnorm_rows(x, g, eps, y, rstd, t, cut)


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), g (C,) -> y (M, C), rstd (M,)."""
    M, C = x.shape
    y, rstd = np.empty((M, C), np.float32), np.empty(M, np.float32)
    _rmsnorm_forward(dense(x, (M, C)), dense(g, (C,)), eps, y, rstd, tasks(M * C, GRAIN))
    return y, rstd


DX = read(2), read(2), read(1), read(1), write(2)


@compiled((*DX, *SHARE))
def _rmsnorm_dx_rows(dy, x, g, rstd, dx, t, cut):
    C = x.shape[1]
    each = ONE / np.float32(C)
    for i in range(*portion(len(x), t, cut, 1)):
        r = rstd[i]
        slope = dot3(dy[i], g, x[i]) * (r * r * r)  # times 1/C below, as the records were made
        for j in range(C):
            dx[i, j] = fused(g[j], dy[i, j] * r, -(x[i, j] * slope * each))


@compiled((*DX, count), parallel=True)
def _rmsnorm_dx(dy, x, g, rstd, dx, cut):
    if cut == 1:
        for t in range(cut):
            _rmsnorm_dx_rows(dy, x, g, rstd, dx, t, cut)
    else:
        for t in prange(cut):
            _rmsnorm_dx_rows(dy, x, g, rstd, dx, t, cut)


def rmsnorm_dx(dy, x, g, rstd):
    """dx = rstd (dy·g) - x rstd³ mean(dy·g·x).

    dy, x (M, C), g (C,), rstd (M,) -> dx (M, C).
    """
    M, C = x.shape
    dx = np.empty((M, C), np.float32)
    inputs = dense(dy, (M, C)), dense(x, (M, C)), dense(g, (C,)), dense(rstd, (M,))
    _rmsnorm_dx(*inputs, dx, tasks(M * C, GRAIN))
    return dx


DG = read(2), read(2), read(1), write(1)


@compiled((*DG, *SHARE))
def _rmsnorm_dg_columns(dy, x, rstd, dg, t, cut):
    """Columns, not rows, are shared out: then no two tasks add to the same number."""
    M, (j0, j1) = len(x), portion(x.shape[1], t, cut, 16)
    totals, some = np.zeros(j1 - j0, np.float64), np.empty(j1 - j0, np.float32)
    for i0 in range(0, M, 32):  # 32 rows in float32, then into the long sum
        some[:] = 0
        for i in range(i0, min(i0 + 32, M)):
            row_dy, row_x, r = dy[i, j0:j1], x[i, j0:j1], rstd[i]
            for j in range(j1 - j0):
                some[j] += row_x[j] * (row_dy[j] * r)
        for j in range(j1 - j0):
            totals[j] += some[j]
    for j in range(j1 - j0):
        dg[j0 + j] = totals[j]


@compiled((*DG, count), parallel=True)
def _rmsnorm_dg(dy, x, rstd, dg, cut):
    if cut == 1:
        for t in range(cut):
            _rmsnorm_dg_columns(dy, x, rstd, dg, t, cut)
    else:
        for t in prange(cut):
            _rmsnorm_dg_columns(dy, x, rstd, dg, t, cut)


def rmsnorm_dg(dy, x, rstd):
    """dg = Σ rows of dy · x · rstd.   dy, x (M, C), rstd (M,) -> dg (C,)."""
    M, C = x.shape
    dg = np.empty(C, np.float32)
    inputs = dense(dy, (M, C)), dense(x, (M, C)), dense(rstd, (M,))
    _rmsnorm_dg(*inputs, dg, tasks(M * C, GRAIN))
    return dg


ROPE = read(3), read(2), read(2), write(3)


@compiled((*ROPE, *SHARE))
def _rope_rows(x, cos, sin, y, t, cut):
    M, H = x.shape[:2]
    for m in range(*portion(M, t, cut, 1)):
        for h in range(H):
            turn_pairs(x[m, h], cos[m], sin[m], y[m, h])


@compiled((*ROPE, count), parallel=True)
def _rope(x, cos, sin, y, cut):
    if cut == 1:
        for t in range(cut):
            _rope_rows(x, cos, sin, y, t, cut)
    else:
        for t in prange(cut):
            _rope_rows(x, cos, sin, y, t, cut)


def rope(x, cos, sin):
    """Rotate the pair (x[j], x[j + D/2]) by its angle.

    x (M, H, D), cos, sin (M, D/2), the angles of each row -> (M, H, D). The half-split pairing of
    Hugging Face's Llama; rope(y, cos, -sin) rotates back. Raises ValueError where D is odd.
    """
    M, _, D = x.shape
    if D % 2:
        raise ValueError(f"rope: got heads of {D} numbers, wanted pairs")
    angles, y = (M, D // 2), np.empty(x.shape, np.float32)
    inputs = dense(x, x.shape), dense(cos, angles), dense(sin, angles)
    _rope(*inputs, y, tasks(x.size, GRAIN))
    return y


GATED = read(1), read(1), write(1)


@compiled((*GATED, *SHARE))
def swiglu_part(gate, up, h, t, cut):
    """Task t's share of h = silu(gate) · up, each (M · F,)."""
    i0, i1 = portion(h.size, t, cut, WHOLE)
    gate, up, h = gate[i0:i1], up[i0:i1], h[i0:i1]
    for i in range(i1 - i0):
        z = gate[i]
        h[i] = z * up[i] / (ONE + exp(-z))


@compiled((*GATED, count), parallel=True)
def _swiglu_forward(gate, up, h, cut):
    if cut == 1:
        for t in range(cut):
            swiglu_part(gate, up, h, t, cut)
    else:
        for t in prange(cut):
            swiglu_part(gate, up, h, t, cut)


def swiglu_forward(gate, up):
    """h = silu(gate) · up, silu(z) = z σ(z).   gate, up (M, F) -> h (M, F)."""
    h = np.empty(gate.shape, np.float32)
    inputs = (dense(a, gate.shape).reshape(-1) for a in (gate, up))
    _swiglu_forward(*inputs, h.reshape(-1), tasks(h.size, GRAIN))
    return h


BACK = read(1), read(1), read(1), write(1), write(1)


@compiled((*BACK, *SHARE))
def swiglu_backward_part(dh, gate, up, dgate, dup, t, cut):
    """Task t's share of dgate and dup, each (M · F,)."""
    i0, i1 = portion(dup.size, t, cut, WHOLE)
    dh, gate, up, dgate, dup = dh[i0:i1], gate[i0:i1], up[i0:i1], dgate[i0:i1], dup[i0:i1]
    for i in range(i1 - i0):
        z = gate[i]
        sigma = ONE / (ONE + exp(-z))
        dup[i] = dh[i] * z * sigma
        dgate[i] = dh[i] * up[i] * sigma * (ONE + z * (ONE - sigma))


@compiled((*BACK, count), parallel=True)
def _swiglu_backward(dh, gate, up, dgate, dup, cut):
    if cut == 1:
        for t in range(cut):
            swiglu_backward_part(dh, gate, up, dgate, dup, t, cut)
    else:
        for t in prange(cut):
            swiglu_backward_part(dh, gate, up, dgate, dup, t, cut)


def swiglu_backward(dh, gate, up):
    """dh, gate, up (M, F) -> dgate, dup (M, F); silu'(z) = σ(z) (1 + z (1 - σ(z)))."""
    dgate, dup = np.empty(gate.shape, np.float32), np.empty(gate.shape, np.float32)
    inputs = (dense(a, gate.shape).reshape(-1) for a in (dh, gate, up))
    _swiglu_backward(*inputs, dgate.reshape(-1), dup.reshape(-1), tasks(gate.size, GRAIN))
    return dgate, dup
