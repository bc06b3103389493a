"""Causal attention in blocks of query rows: the scores of a block exist, the (T, T) matrix of a head never does.

A block's keys end at the diagonal, so the masked half is not computed. Backward computes the probabilities again from
lse. The work is cut into heads (or, in backward, into groups of them that share keys), and each task has its scratch.
Backward adds a group's dk and dv over the group's query heads in one order; only where there are few groups is each head's
part kept apart and added at the end. Neither depends on the number of threads.
"""

import math

import numpy as np
from numba import prange

from .jit import ONE, compiled, count, exp, maximum, number, read, tasks, write
from .tile import MR, NR, tile16, tile32, tile48

BLOCK = 4 * MR  # query rows at a time
GRAIN = 200_000  # multiplications below which a second thread costs more than it brings
FEW_GROUPS = 8  # below so many, backward shares out single query heads


@compiled()
def _times(a, i, k, b, l, c, p, depth, rows, cols, add):
    """c[p:p+rows, :cols] (+)= a[i:i+rows, k:k+depth] b[l:l+depth, :cols]; b has columns up to the next 16."""
    for j in range(0, cols, NR):
        n = min(NR, cols - j)
        if n > 32:
            tile48(a, i, k, b, l, j, c, p, j, depth, rows, n, add)
        elif n > 16:
            tile32(a, i, k, b, l, j, c, p, j, depth, rows, n, add)
        else:
            tile16(a, i, k, b, l, j, c, p, j, depth, rows, n, add)


@compiled()
def _copy(x, rows, out):
    """out[:rows, :D] = x[:rows], 0 in the other columns: the right factor of a tile."""
    D = x.shape[1]
    for i in range(rows):
        for j in range(D):
            out[i, j] = x[i, j]
        for j in range(D, out.shape[1]):
            out[i, j] = 0


@compiled()
def _turn(x, out):
    """out[:, :S] = xᵀ, 0 in the other columns."""
    S, D = x.shape
    for i in range(S):
        for j in range(D):
            out[j, i] = x[i, j]
    for j in range(D):
        for i in range(S, out.shape[1]):
            out[j, i] = 0


@compiled()
def _padded(n):
    return -(-n // 16) * 16


@compiled()
def _softmax_block(s, first, rows, scale, lse, inverse):
    """Row i of s, of which first + i entries count, becomes exp(scale (s - max)), the rest of its tile 0."""
    for i in range(rows):
        n = first + i
        top = s[i, 0]
        for j in range(1, n):
            top = maximum(top, s[i, j])
        total = np.float32(0)
        for j in range(n):
            e = exp((s[i, j] - top) * scale)
            s[i, j] = e
            total += e
        for j in range(n, first + min(rows, i - i % MR + MR) - 1):
            s[i, j] = 0
        lse[i] = top * scale + math.log(total)
        inverse[i] = ONE / total


@compiled()
def _forward_block(q, kt, v, first, scale, s, inverse, o, lse):
    """One block of one head: q, o (rows, D), kt (D, S padded), v (S, D padded); row i sees first + i keys."""
    rows, D = q.shape
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        _times(q, i, 0, kt, 0, s, i, D, high, first + i + high - 1, False)
    _softmax_block(s, first, rows, scale, lse, inverse)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        _times(s, i, 0, v, 0, o, i, first + i + high - 1, high, D, False)
    for i in range(rows):
        for j in range(D):
            o[i, j] *= inverse[i]


@compiled()
def _forward_units(q, k, v, o, lse, scale, start, stop, step):
    """Every step-th unit, numbered ((n · H) + h) · blocks + block; keys are turned once for units that share them."""
    N, T, H, D = q.shape
    S, G = k.shape[1], k.shape[2]
    blocks = -(-T // BLOCK)
    kt, vp = np.empty((D, _padded(S)), np.float32), np.empty((S, _padded(D)), np.float32)
    s, inverse = np.empty((BLOCK, _padded(S)), np.float32), np.empty(BLOCK, np.float32)
    held = -1
    for unit in range(start, stop, step):
        head, b = unit // blocks, unit % blocks
        n, h = head // H, head % H
        g = h // (H // G)
        if held != n * G + g:
            held = n * G + g
            _turn(k[n, :, g], kt)
            _copy(v[n, :, g], S, vp)
        i0, i1 = b * BLOCK, min((b + 1) * BLOCK, T)
        _forward_block(
            q[n, i0:i1, h],
            kt,
            vp,
            S - T + i0 + 1,
            scale,
            s,
            inverse,
            o[n, i0:i1, h],
            lse[n, h, i0:i1],
        )


@compiled(
    (read(4, "A"), read(4, "A"), read(4, "A"), write(4), write(3), number, count), parallel=True
)
def _attention_forward(q, k, v, o, lse, scale, cut):
    units = q.shape[0] * q.shape[2] * -(-q.shape[1] // BLOCK)
    share = -(-units // cut)
    if cut == 1:
        _forward_units(q, k, v, o, lse, scale, 0, units, 1)
    else:
        for t in prange(cut):
            if (
                share < 16
            ):  # few units, and a head's last block costs more than its first: deal them out
                _forward_units(q, k, v, o, lse, scale, t, units, cut)
            else:
                _forward_units(q, k, v, o, lse, scale, t * share, min((t + 1) * share, units), 1)


def attention_forward(q, k, v):
    """o = softmax(q kᵀ / √D, keys up to the query's own place) v, grouped-query.

    q (N, T, H, D); k, v (N, S, G, D), H a multiple of G, S >= T: query i stands at place S - T + i.
    -> o (N, T, H, D), lse (N, H, T), the logarithm of each softmax's denominator.
    """
    N, T, H, D = q.shape
    _check(q, k, v)
    o, lse = np.empty((N, T, H, D), np.float32), np.empty((N, H, T), np.float32)
    cut = tasks(N * H * T * k.shape[1] * D, GRAIN)
    _attention_forward(q, k, v, o, lse, 1 / math.sqrt(D), cut)
    return o, lse


def _check(q, k, v):
    N, T, H, D = q.shape
    S, G = k.shape[1], k.shape[2]
    if k.shape != (N, S, G, D) or v.shape != k.shape or H % G or S < T:
        raise ValueError(
            f"attention: got q {q.shape}, k {k.shape}, v {v.shape}, wanted (N, T, H, D), (N, S, G, D)"
        )


@compiled()
def _scores_back(p, ds, do, o, lse, first, rows, scale):
    """p from q kᵀ, ds from do vᵀ, in place: p = exp(scale s - lse), ds = scale p (dp - do·o)."""
    D = do.shape[1]
    for i in range(rows):
        n = first + i
        mean = np.float32(0)
        for j in range(D):
            mean += do[i, j] * o[i, j]
        shift = lse[i]
        for j in range(n):
            e = exp(p[i, j] * scale - shift)
            p[i, j] = e
            ds[i, j] = e * (ds[i, j] - mean) * scale
        for j in range(n, first + rows - 1):
            p[i, j] = 0
            ds[i, j] = 0


@compiled()
def _backward_block(do, q, kt, vt, kp, o, lse, first, scale, scratch, dq, dk, dv):
    """One block of one head; dk, dv (S, D) are added to."""
    p, ds, qp, dop = scratch
    rows, D = q.shape
    keys = first + rows - 1
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        _times(q, i, 0, kt, 0, p, i, D, high, first + i + high - 1, False)
        _times(do, i, 0, vt, 0, ds, i, D, high, first + i + high - 1, False)
    _scores_back(p, ds, do, o, lse, first, rows, scale)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        _times(ds, i, 0, kp, 0, dq, i, first + i + high - 1, high, D, False)
    _copy(q, rows, qp)
    _copy(do, rows, dop)
    for j in range(0, keys, MR):
        high = min(MR, keys - j)
        unseen = max(0, j - first + 1)  # queries before the first that sees key j
        _times(ds.T, j, unseen, qp, unseen, dk, j, rows - unseen, high, D, True)
        _times(p.T, j, unseen, dop, unseen, dv, j, rows - unseen, high, D, True)


@compiled()
def _backward_units(do, q, k, v, o, lse, scale, dq, dk, dv, start, stop, step):
    """Every step-th unit, numbered n · P + part; a part is H / P query heads, and has its own dk and dv."""
    N, T, H, D = q.shape
    S, G, P = k.shape[1], k.shape[2], dk.shape[2]
    wide, deep = _padded(S), _padded(D)
    kt, vt, kp = (
        np.empty((D, wide), np.float32),
        np.empty((D, wide), np.float32),
        np.empty((S, deep), np.float32),
    )
    scratch = (np.empty((BLOCK, wide), np.float32), np.empty((BLOCK, wide), np.float32),
               np.empty((BLOCK, deep), np.float32), np.empty((BLOCK, deep), np.float32))  # fmt: skip
    for unit in range(start, stop, step):
        n, part = unit // P, unit % P
        g = part * G // P
        _turn(k[n, :, g], kt)
        _turn(v[n, :, g], vt)
        _copy(k[n, :, g], S, kp)
        dk[n, :, part] = 0
        dv[n, :, part] = 0
        for h in range(part * (H // P), (part + 1) * (H // P)):
            for i0 in range(0, T, BLOCK):
                i1 = min(i0 + BLOCK, T)
                _backward_block(do[n, i0:i1, h], q[n, i0:i1, h], kt, vt, kp, o[n, i0:i1, h], lse[n, h, i0:i1],
                                S - T + i0 + 1, scale, scratch, dq[n, i0:i1, h], dk[n, :, part], dv[n, :, part])  # fmt: skip


READS = [read(4, "A")] * 5


@compiled((*READS, read(3, "A"), number, write(4), write(4), write(4), count), parallel=True)
def _attention_backward(do, q, k, v, o, lse, scale, dq, dk, dv, cut):
    units = dk.shape[0] * dk.shape[2]
    if cut == 1:
        _backward_units(do, q, k, v, o, lse, scale, dq, dk, dv, 0, units, 1)
    else:
        for t in prange(cut):
            _backward_units(do, q, k, v, o, lse, scale, dq, dk, dv, t, units, cut)


def attention_backward(do, q, k, v, o, lse):
    """do, q, o (N, T, H, D); k, v (N, S, G, D); lse (N, H, T) -> dq, dk, dv of their primals' shapes."""
    N, T, H, D = q.shape
    S, G = k.shape[1], k.shape[2]
    _check(q, k, v)
    if do.shape != q.shape or o.shape != q.shape or lse.shape != (N, H, T):
        raise ValueError(
            f"attention: got do {do.shape}, o {o.shape}, lse {lse.shape} for q {q.shape}"
        )
    parts = H if N * G < FEW_GROUPS else G
    dq, dk, dv = (
        np.empty(shape, np.float32) for shape in (q.shape, (N, S, parts, D), (N, S, parts, D))
    )
    cut = tasks(2 * N * H * T * S * D, GRAIN)
    _attention_backward(do, q, k, v, o, lse, 1 / math.sqrt(D), dq, dk, dv, cut)
    if parts != G:
        dk, dv = (d.reshape(N, S, G, H // G, D).sum(axis=3) for d in (dk, dv))
    return dq, dk, dv
