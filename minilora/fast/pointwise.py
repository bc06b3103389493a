"""Sums, RMSNorm, rotary positions, SwiGLU, the embedding: one pass over the numbers.

Each kernel has two functions: one does the share of one task, and the public one allocates the
result and runs the tasks.
"""

import numpy as np
from numba import boolean, float32, int64

from .jit import CHUNK, ONE, TASK, compiled, contiguous, integers, portion, read, run, tasks, write
from .sums import dot, dot3
from .vectors import exp, rotate_pairs

GRAIN = 50_000  # numbers below which a second thread costs more than it saves


ADD = read(1), read(1), write(1)


@compiled((*ADD, *TASK))
def _add_part(x, y, out, t, n_tasks):
    i0, i1 = portion(out.size, t, n_tasks, CHUNK)
    x, y, out = x[i0:i1], y[i0:i1], out[i0:i1]
    for i in range(i1 - i0):
        out[i] = x[i] + y[i]


def add(x, y):
    """x + y, of one shape."""
    if x.size < GRAIN or y.dtype != np.float32:
        return x + y
    out = np.empty(x.shape, np.float32)
    x, y = (contiguous(a, x.shape).reshape(-1) for a in (x, y))
    run(_add_part, (x, y, out.reshape(-1)), tasks(x.size, GRAIN))
    return out


RMSNORM = read(2), read(1), float32, write(2), write(1)


@compiled((*RMSNORM, *TASK))
def _rmsnorm_rows(x, g, eps, y, rstd, t, n_tasks):
    C = x.shape[1]
    for i in range(*portion(len(x), t, n_tasks, 1)):
        r = ONE / np.sqrt(dot(x[i], x[i]) / np.float32(C) + eps)
        rstd[i] = r
        for j in range(C):
            y[i, j] = x[i, j] * r * g[j]


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), g (C,) -> y (M, C), rstd (M,)."""
    M, C = x.shape
    y, rstd = np.empty((M, C), np.float32), np.empty(M, np.float32)
    arguments = contiguous(x, (M, C)), contiguous(g, (C,)), eps, y, rstd
    run(_rmsnorm_rows, arguments, tasks(M * C, GRAIN))
    return y, rstd


RMSNORM_DX = read(2), read(2), read(1), read(1), read(2), write(2), boolean


@compiled((*RMSNORM_DX, *TASK))
def _rmsnorm_dx_rows(dy, x, g, rstd, old, dx, add, t, n_tasks):
    C = x.shape[1]
    for i in range(*portion(len(x), t, n_tasks, 1)):
        r = rstd[i]
        slope = dot3(dy[i], g, x[i]) / np.float32(C) * (r * r * r)
        for j in range(C):
            new = dy[i, j] * g[j] * r - x[i, j] * slope
            dx[i, j] = old[i, j] + new if add else new


def rmsnorm_dx(dy, x, g, rstd, old=None):
    """dx = rstd (dy·g) - x rstd³ mean(dy·g·x).   dy, x (M, C), g (C,), rstd (M,) -> dx (M, C).

    With old (M, C): old + dx.
    """
    M, C = x.shape
    dx, add = np.empty((M, C), np.float32), old is not None
    dy, x, old = [contiguous(a, (M, C)) for a in (dy, x, old if add else x)]
    arguments = dy, x, contiguous(g, (C,)), contiguous(rstd, (M,)), old, dx, add
    run(_rmsnorm_dx_rows, arguments, tasks(M * C, GRAIN))
    return dx


RMSNORM_DG = read(2), read(2), read(1), write(1)


@compiled((*RMSNORM_DG, *TASK))
def _rmsnorm_dg_columns(dy, x, rstd, dg, t, n_tasks):
    """Task t's columns. Rows are not divided: two tasks would add to the same numbers."""
    M, (j0, j1) = len(x), portion(x.shape[1], t, n_tasks, 16)
    totals, some = np.zeros(j1 - j0, np.float64), np.empty(j1 - j0, np.float32)
    for i0 in range(0, M, 32):  # 32 rows are summed in float32, these sums in float64
        some[:] = 0
        for i in range(i0, min(i0 + 32, M)):
            row_dy, row_x, r = dy[i, j0:j1], x[i, j0:j1], rstd[i]
            for j in range(j1 - j0):
                some[j] += row_x[j] * (row_dy[j] * r)
        for j in range(j1 - j0):
            totals[j] += some[j]
    for j in range(j1 - j0):
        dg[j0 + j] = totals[j]


def rmsnorm_dg(dy, x, rstd):
    """dg = Σ rows of dy · x · rstd.   dy, x (M, C), rstd (M,) -> dg (C,)."""
    M, C = x.shape
    dg = np.empty(C, np.float32)
    arguments = contiguous(dy, (M, C)), contiguous(x, (M, C)), contiguous(rstd, (M,)), dg
    run(_rmsnorm_dg_columns, arguments, tasks(M * C, GRAIN))
    return dg


ROPE = read(3), read(2), read(2), write(3)


@compiled((*ROPE, *TASK))
def _rope_rows(x, cos, sin, y, t, n_tasks):
    M, H = x.shape[:2]
    for m in range(*portion(M, t, n_tasks, 1)):
        for h in range(H):
            rotate_pairs(x[m, h], cos[m], sin[m], y[m, h])


def rope(x, cos, sin):
    """Rotate the pair (x[j], x[j + D/2]) by its angle.

    x (M, H, D), cos, sin (M, D/2), the angles of each row -> (M, H, D). The half-split pairing of
    Hugging Face's Llama; rope(y, cos, -sin) rotates back. Raises ValueError where D is odd.
    """
    M, _, D = x.shape
    if D % 2:
        raise ValueError(f"rope: got heads of {D} numbers, wanted an even number")
    angles, y = (M, D // 2), np.empty(x.shape, np.float32)
    arguments = contiguous(x, x.shape), contiguous(cos, angles), contiguous(sin, angles), y
    run(_rope_rows, arguments, tasks(x.size, GRAIN))
    return y


SWIGLU = read(1), read(1), write(1)


@compiled((*SWIGLU, *TASK))
def swiglu_part(gate, up, h, t, n_tasks):
    """Task t's part of h = silu(gate) · up, each (M · F,)."""
    i0, i1 = portion(h.size, t, n_tasks, CHUNK)
    gate, up, h = gate[i0:i1], up[i0:i1], h[i0:i1]
    for i in range(i1 - i0):
        z = gate[i]
        h[i] = z * up[i] / (ONE + exp(-z))


def swiglu_forward(gate, up):
    """h = silu(gate) · up, silu(z) = z σ(z).   gate, up (M, F) -> h (M, F)."""
    h = np.empty(gate.shape, np.float32)
    gate, up = (contiguous(a, gate.shape).reshape(-1) for a in (gate, up))
    run(swiglu_part, (gate, up, h.reshape(-1)), tasks(h.size, GRAIN))
    return h


SWIGLU_BACKWARD = read(1), read(1), read(1), write(1), write(1)


@compiled((*SWIGLU_BACKWARD, *TASK))
def swiglu_backward_part(dh, gate, up, dgate, dup, t, n_tasks):
    """Task t's part of dgate and dup, each (M · F,)."""
    i0, i1 = portion(dup.size, t, n_tasks, CHUNK)
    dh, gate, up, dgate, dup = dh[i0:i1], gate[i0:i1], up[i0:i1], dgate[i0:i1], dup[i0:i1]
    for i in range(i1 - i0):
        z = gate[i]
        sigma = ONE / (ONE + exp(-z))
        dup[i] = dh[i] * z * sigma
        dgate[i] = dh[i] * up[i] * sigma * (ONE + z * (ONE - sigma))


def swiglu_backward(dh, gate, up):
    """dh, gate, up (M, F) -> dgate, dup (M, F); silu'(z) = σ(z) (1 + z (1 - σ(z)))."""
    dgate, dup = np.empty(gate.shape, np.float32), np.empty(gate.shape, np.float32)
    inputs = (contiguous(a, gate.shape).reshape(-1) for a in (dh, gate, up))
    arguments = *inputs, dgate.reshape(-1), dup.reshape(-1)
    run(swiglu_backward_part, arguments, tasks(dup.size, GRAIN))
    return dgate, dup


@compiled((read(2), read(1, dtype=int64), write(2)))
def _add_rows(dx, ids, dE):
    V, C = dE.shape
    for i in range(len(ids)):
        row = dE[ids[i] + V if ids[i] < 0 else ids[i]]
        for c in range(C):
            row[c] += dx[i, c]


def embedding_dE(dx, ids, V):
    """dE[ids[i]] += dx[i], in the order of the rows.   dx (M, C), ids (M,) ints -> dE (V, C)."""
    dE = np.zeros((V, dx.shape[1]), np.float32)
    _add_rows(contiguous(dx, dx.shape), integers(ids), dE)
    return dE
