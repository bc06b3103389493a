"""Causal attention in blocks of query rows: the (T, T) scores of a head never exist at once.

A block's scores are laid out keys by queries, s[j, i] = k_j · q_i. So the steps of softmax, each
for all 32 queries of a block, are whole vectors, whatever the number of keys; and keys, values,
queries and gradients are read where they are, all but the turned queries. A block's keys end at
its diagonal. Backward computes the probabilities again from lse.

The work is shared out by heads and blocks; in backward by groups, whose query heads add up in one
order, or, where there are few groups, by heads, added up at the end. So the number of threads
does not change the result.
"""

import math

import numpy as np
from numba import prange

from .jit import ONE, SHARE, compiled, count, dense, number, portion, read, tasks, write
from .strips import strip
from .sums import dot, total
from .tile import DOTS, MR, dots, turn16
from .vectors import exp, soften, soften_back

BLOCK = 32  # query rows at a time
GRAIN = 200_000  # multiplications below which a second thread costs more than it brings
FEW_GROUPS = 8  # below so many, backward shares out single query heads
HIDDEN = np.float32(-math.inf)  # the score of a key that a query may not see
NOTHING = np.float32(0)


@compiled((read(2, "A"), write(2)))
def _turn(x, out):
    """out[:, :rows] = xᵀ, zeros up to the next 16 columns."""
    rows, D = x.shape
    for i in range(0, rows, 16):
        for d in range(0, D, 16):
            turn16(x, i, d, min(16, rows - i), min(16, D - d), out, d, i)


@compiled((read(2, "A"), read(2), count, count, write(2)))
def _scores(x, yt, first, rows, s):
    """s[j, i] = x_j · y_i, yt (D, rows) turned, for the first + i keys that query i sees."""
    D, keys, width = x.shape[1], first + rows - 1, -(-rows // 16) * 16
    for j in range(0, keys, MR):
        low = max(0, j - first + 1) // 16 * 16  # no query before sees key j or a later one
        strip(x, j, 0, yt, 0, low, s, j, low, D, min(MR, keys - j), width - low, False)


@compiled((write(2), count, count, number))
def _hide(s, first, rows, value):
    """The value where a query does not look: query i sees first + i keys."""
    for j in range(first, first + rows - 1):
        for i in range(j - first + 1):
            s[j, i] = value


@compiled()
def _forward_block(q, k, v, o, lse, n, h, i0, scale, scratch):
    """One block of one head, into o and lse."""
    qt, s, sums = scratch
    T, S, D = q.shape[1], k.shape[1], q.shape[3]
    g, rows, first = h // (q.shape[2] // k.shape[2]), min(BLOCK, T - i0), S - T + i0 + 1
    _turn(q[n, i0 : i0 + rows, h], qt)
    _scores(k[n, :, g], qt, first, rows, s)
    _hide(s, first, rows, HIDDEN)
    for c in range(0, rows, 16):
        soften(s, c, first + rows - 1, scale, sums)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        seen = first + i + high - 1
        strip(s.T, i, 0, v[n, :, g], 0, 0, o[n, :, h], i0 + i, 0, seen, high, D, False)
    for i in range(rows):
        lse[n, h, i0 + i] = sums[0, i] * scale + math.log(sums[1, i])
        row, share = o[n, i0 + i, h], ONE / sums[1, i]
        for d in range(D):
            row[d] *= share


FORWARD = read(4), read(4, "A"), read(4, "A"), write(4), write(3), number


@compiled((*FORWARD, *SHARE))
def _forward_share(q, k, v, o, lse, scale, t, cut):
    """Task t's blocks, numbered (n · H + h) · blocks + block."""
    (N, T, H, D), S = q.shape, k.shape[1]
    blocks = -(-T // BLOCK)
    units = N * H * blocks
    start, stop = portion(units, t, cut, 1)
    step = 1
    if units < 16 * cut:  # few, and a head's later blocks cost more: deal them out in turn
        start, stop, step = t, units, cut
    scratch = (
        np.empty((D, BLOCK), np.float32),
        np.empty((S, BLOCK), np.float32),
        np.empty((2, BLOCK), np.float32),
    )
    for unit in range(start, stop, step):
        head, i0 = unit // blocks, unit % blocks * BLOCK
        _forward_block(q, k, v, o, lse, head // H, head % H, i0, scale, scratch)


@compiled((*FORWARD, count), parallel=True)
def _attention_forward(q, k, v, o, lse, scale, cut):
    if cut == 1:
        for t in range(cut):
            _forward_share(q, k, v, o, lse, scale, t, cut)
    else:
        for t in prange(cut):
            _forward_share(q, k, v, o, lse, scale, t, cut)


@compiled()
def _soften_row(s, scale):
    """s = softmax(scale s) of a row; returns the logarithm of its denominator."""
    top = s[0]
    for j in range(len(s)):  # a NaN is passed over here, and met again in the total
        top = max(top, s[j])
    for j in range(len(s)):
        s[j] = exp((s[j] - top) * scale)
    denominator = total(s)
    share = ONE / denominator
    for j in range(len(s)):
        s[j] *= share
    return top * scale + math.log(denominator)


@compiled((*FORWARD, *SHARE))
def _one_query_share(q, k, v, o, lse, scale, t, cut):
    """Task t's groups of query heads, numbered n · G + g, where each has one query, as in decoding.

    There the heads of a group are the rows of a block, and its keys and values are read once.
    """
    (_, _, H, D), (S, G) = q.shape, k.shape[1:3]
    heads = H // G
    s = np.empty((heads, S), np.float32)
    for unit in range(*portion(len(q) * G, t, cut, 1)):
        n, h0 = unit // G, unit % G * heads
        queries, out = q[n, 0, h0 : h0 + heads], o[n, 0, h0 : h0 + heads]
        keys, values = k[n, :, unit % G], v[n, :, unit % G]
        for h in range(0, heads, DOTS):
            for j in range(0, S, 4):
                dots(queries, h, keys, j, s, h, j, D, min(DOTS, heads - h), min(4, S - j), False)
        for h in range(heads):
            lse[n, h0 + h, 0] = _soften_row(s[h], scale)
        for h in range(0, heads, MR):
            strip(s, h, 0, values, 0, 0, out, h, 0, S, min(MR, heads - h), D, False)


@compiled((*FORWARD, count), parallel=True)
def _one_query(q, k, v, o, lse, scale, cut):
    if cut == 1:
        for t in range(cut):
            _one_query_share(q, k, v, o, lse, scale, t, cut)
    else:
        for t in prange(cut):
            _one_query_share(q, k, v, o, lse, scale, t, cut)


def attention_forward(q, k, v):
    """o = softmax(q kᵀ / √D, keys up to the query's own place) v, grouped-query.

    q (N, T, H, D); k, v (N, S, G, D), H a multiple of G, S >= T: query i stands at place S - T + i.
    -> o (N, T, H, D), lse (N, H, T), the logarithm of each softmax's denominator.
    """
    N, T, H, D = q.shape
    k, v = _keys_and_values(q, k, v)
    q = dense(q, q.shape)
    o, lse = np.empty((N, T, H, D), np.float32), np.empty((N, H, T), np.float32)
    cut = tasks(N * H * T * k.shape[1] * D, GRAIN)
    kernel = _one_query if T == 1 else _attention_forward
    kernel(q, k, v, o, lse, 1 / math.sqrt(D), cut)
    return o, lse


def _keys_and_values(q, k, v):
    """k and v as they are where a head's numbers are neighbours (as in a cache), or copied."""
    (N, T, H, D), (S, G) = q.shape, k.shape[1:3]
    if k.shape != (N, S, G, D) or v.shape != k.shape or H % G or S < T:
        wanted = "(N, T, H, D), twice (N, S, G, D), G a divisor of H, S >= T"
        raise ValueError(f"attention: q, k, v are {q.shape}, {k.shape}, {v.shape}, wanted {wanted}")
    return tuple(a if a.strides[3] == 4 else np.ascontiguousarray(a) for a in (k, v))


@compiled()
def _backward_block(do, q, k, v, o, lse, dq, dk, dv, n, h, part, i0, scale, scratch):
    """One block of one head: dq is written, the part's dk and dv are added to."""
    qt, do_t, p, ds, sums = scratch
    (T, H, D), (S, G) = q.shape[1:], k.shape[1:3]
    g, rows, first = h // (H // G), min(BLOCK, T - i0), S - T + i0 + 1
    keys = first + rows - 1
    q_block, do_block = q[n, i0 : i0 + rows, h], do[n, i0 : i0 + rows, h]
    sums[:] = 0
    for i in range(rows):
        sums[0, i] = lse[n, h, i0 + i]
        sums[1, i] = dot(do[n, i0 + i, h], o[n, i0 + i, h])
    _turn(q_block, qt)
    _turn(do_block, do_t)
    _scores(k[n, :, g], qt, first, rows, p)
    _scores(v[n, :, g], do_t, first, rows, ds)
    _hide(p, first, rows, HIDDEN)
    _hide(ds, first, rows, NOTHING)
    for c in range(0, rows, 16):
        soften_back(p, ds, c, keys, scale, sums)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        seen = first + i + high - 1
        strip(ds.T, i, 0, k[n, :, g], 0, 0, dq[n, :, h], i0 + i, 0, seen, high, D, False)
    for j in range(0, keys, MR):
        high, unseen = min(MR, keys - j), max(0, j - first + 1)  # queries too early for key j
        strip(ds, j, unseen, q_block, unseen, 0, dk[n, :, part], j, 0, rows - unseen, high, D, True)
        strip(p, j, unseen, do_block, unseen, 0, dv[n, :, part], j, 0, rows - unseen, high, D, True)


READ = read(4), read(4), read(4, "A"), read(4, "A"), read(4), read(3)
BACKWARD = *READ, write(4), write(4), write(4), number


@compiled((*BACKWARD, *SHARE))
def _backward_share(do, q, k, v, o, lse, dq, dk, dv, scale, t, cut):
    """Task t's parts: some query heads that share keys, with a dk and a dv of their own."""
    (N, T, H, D), (S, P) = q.shape, dk.shape[1:3]
    heads = H // P
    scratch = (
        np.empty((D, BLOCK), np.float32),
        np.empty((D, BLOCK), np.float32),
        np.empty((S, BLOCK), np.float32),
        np.empty((S, BLOCK), np.float32),
        np.empty((2, BLOCK), np.float32),
    )
    for unit in range(*portion(N * P, t, cut, 1)):
        n, part = unit // P, unit % P
        dk[n, :, part] = 0
        dv[n, :, part] = 0
        for h in range(part * heads, (part + 1) * heads):
            for i0 in range(0, T, BLOCK):
                _backward_block(do, q, k, v, o, lse, dq, dk, dv, n, h, part, i0, scale, scratch)


@compiled((*BACKWARD, count), parallel=True)
def _attention_backward(do, q, k, v, o, lse, dq, dk, dv, scale, cut):
    if cut == 1:
        for t in range(cut):
            _backward_share(do, q, k, v, o, lse, dq, dk, dv, scale, t, cut)
    else:
        for t in prange(cut):
            _backward_share(do, q, k, v, o, lse, dq, dk, dv, scale, t, cut)


def attention_backward(do, q, k, v, o, lse):
    """do, q, o (N, T, H, D); k, v (N, S, G, D); lse (N, H, T) -> dq, dk, dv of like shapes."""
    (N, T, H, D), (S, G) = q.shape, k.shape[1:3]
    do, q, o = (dense(a, q.shape) for a in (do, q, o))
    k, v = _keys_and_values(q, k, v)
    parts = H if N * G < FEW_GROUPS else G
    shapes = q.shape, (N, S, parts, D), (N, S, parts, D)
    dq, dk, dv = (np.empty(shape, np.float32) for shape in shapes)
    cut = tasks(2 * N * H * T * S * D, GRAIN)
    scale = 1 / math.sqrt(D)
    _attention_backward(do, q, k, v, o, dense(lse, (N, H, T)), dq, dk, dv, scale, cut)
    if parts != G:
        dk, dv = (d.reshape(N, S, G, H // G, D).sum(axis=3) for d in (dk, dv))
    return dq, dk, dv
