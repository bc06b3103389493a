"""Causal attention in blocks of query rows: the (T, S) scores of a head never exist at once.

The scores of a block are stored keys by queries, s[j, i] = k_j · q_i. So each step of the softmax
works on whole vectors, for all 32 queries of a block, whatever the number of keys. Keys, values and
gradients are read in place; only the queries are transposed. A block's keys end at its diagonal.
Backward computes the probabilities again from lse.

Sequences may have different lengths, so work is divided among tasks by its estimated time, not by
blocks. Backward divides it by groups: a group's query heads add to its dk and dv in a fixed order.
With few groups and much work it divides it by heads, and adds their dk and dv at the end. So the
number of tasks does not change the result.
"""

import math

import numpy as np
from numba import float32, int64

from .jit import ONE, TASK, compiled, contiguous, read, run, tasks, write
from .spans import BLOCK, SPANS, checked, is_mine, time_of
from .sums import dot, total
from .tile import DOTS, MR, dots, tile_row
from .vectors import exp, maximum, softmax_columns, softmax_columns_backward, transpose16

GRAIN = 200_000  # multiplications below which a second thread costs more than it saves
FEW_GROUPS = 8  # with fewer groups, backward divides work by query heads
MINUS_INF, ZERO = np.float32(-math.inf), np.float32(0)


@compiled((read(2, "A"), write(2)))
def _transpose(x, out):
    """out[:, :rows] = xᵀ, zeros up to the next 16 columns."""
    rows, D = x.shape
    for i in range(0, rows, 16):
        for d in range(0, D, 16):
            transpose16(x, i, d, min(16, rows - i), min(16, D - d), out, d, i)


@compiled((read(2, "A"), int64, read(2), int64, int64, write(2)))
def _scores(x, start, yt, first, rows, s):
    """s[j, i] = x_j · y_i for the first + i keys that query i sees, the rows of x from `start` on.

    yt (D, rows) is the transpose of y.
    """
    D, keys, width = x.shape[1], first + rows - 1, -(-rows // 16) * 16
    for j in range(0, keys, MR):
        i = max(0, j - first + 1) // 16 * 16  # earlier queries do not see key j
        tile_row(x, start + j, 0, yt, 0, i, s, j, i, D, min(MR, keys - j), width - i, False)


@compiled((write(2), int64, int64, float32))
def _mask(s, first, rows, value):
    """s[j, i] = value for each key j that query i does not see: it sees first + i keys."""
    for j in range(first, first + rows - 1):
        for i in range(j - first + 1):
            s[j, i] = value


@compiled()
def _forward_block(q, k, v, o, lse, h, block, scale, scratch):
    """One block of one head, into o and lse.

    block: its first row and its number of rows in q, the first row in k, the number of keys that
    its first query sees.
    """
    i0, rows, k0, first = block
    qt, s, sums = scratch
    D, g = q.shape[2], h // (q.shape[1] // k.shape[1])
    _transpose(q[i0 : i0 + rows, h], qt)
    _scores(k[:, g], k0, qt, first, rows, s)
    _mask(s, first, rows, MINUS_INF)
    for c in range(0, rows, 16):
        softmax_columns(s, c, first + rows - 1, scale, sums)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        seen = first + i + high - 1
        tile_row(s.T, i, 0, v[:, g], k0, 0, o[:, h], i0 + i, 0, seen, high, D, False)
    for i in range(rows):
        lse[i0 + i, h] = sums[0, i] * scale + math.log(sums[1, i])
        row, share = o[i0 + i, h], ONE / sums[1, i]
        for d in range(D):
            row[d] *= share


FORWARD = read(3), read(3, "A"), read(3, "A"), SPANS, write(3), write(2), float32, int64, int64


@compiled((*FORWARD, *TASK))
def _forward_share(q, k, v, spans, o, lse, scale, longest, time, t, n_tasks):
    """Task t's blocks, sequence by sequence, head by head."""
    H, D = q.shape[1:]
    scratch = (
        np.empty((D, BLOCK), np.float32),
        np.empty((longest, BLOCK), np.float32),
        np.empty((2, BLOCK), np.float32),
    )
    done = 0
    for n in range(len(spans)):
        q0, k0 = spans[n, 0], spans[n, 2]
        T, S = spans[n, 1] - q0, spans[n, 3] - k0
        for h in range(H):
            for i in range(0, T, BLOCK):
                rows = min(BLOCK, T - i)
                start, stop = done + time_of(T, S, i), done + time_of(T, S, i + rows)
                if is_mine(start, stop, H * time, t, n_tasks):
                    block = q0 + i, rows, k0, S - T + i + 1
                    _forward_block(q, k, v, o, lse, h, block, scale, scratch)
            done += time_of(T, S, T)


@compiled()
def _softmax_row(s, scale):
    """s = softmax(scale s) of a row; returns the logarithm of its denominator."""
    top = s[0]
    for j in range(1, len(s)):
        top = maximum(top, s[j])
    for j in range(len(s)):
        s[j] = exp((s[j] - top) * scale)
    denominator = total(s)
    share = ONE / denominator
    for j in range(len(s)):
        s[j] *= share
    return top * scale + math.log(denominator)


@compiled((*FORWARD, *TASK))
def _one_query_share(q, k, v, spans, o, lse, scale, longest, time, t, n_tasks):
    """Task t's groups of query heads if each sequence has one query, as in decoding.

    The heads of a group are the rows of a block, so its keys and values are read once.
    """
    (H, D), G = q.shape[1:], k.shape[1]
    heads = H // G
    s = np.empty((heads, longest), np.float32)
    done = 0
    for n in range(len(spans)):
        i, k0 = spans[n, 0], spans[n, 2]
        S = spans[n, 3] - k0
        for g in range(G):
            start, done = done, done + time_of(1, S, 1)
            if not is_mine(start, done, G * time, t, n_tasks):
                continue
            h0 = g * heads
            queries, keys = q[i, h0 : h0 + heads], k[:, g]
            for h in range(0, heads, DOTS):
                rows = min(DOTS, heads - h)
                for j in range(0, S, 4):
                    dots(queries, h, keys, k0 + j, s, h, j, D, rows, min(4, S - j), False)
            for h in range(heads):
                lse[i, h0 + h] = _softmax_row(s[h, :S], scale)
            for h in range(0, heads, MR):
                rows = min(MR, heads - h)
                tile_row(s, h, 0, v[:, g], k0, 0, o[i], h0 + h, 0, S, rows, D, False)


def attention_forward(q, k, v, spans):
    """o = softmax(q kᵀ / √D, keys up to the query's own position) v, grouped-query, by sequences.

    q (M, H, D); k, v (S, G, D), H a multiple of G; spans (N, 4) int64, in ascending order: for each
    sequence where its queries begin and end, and where its keys begin and end. Its last query has
    the position of its last key. Rows outside of all spans get 0.
    -> o (M, H, D), lse (M, H), the logarithm of each softmax's denominator.
    """
    k, v, spans, most, longest, queries, _, time = checked(q, k, v, spans)
    M, H, D = q.shape
    new = np.empty if queries == M else np.zeros
    o, lse = new((M, H, D), np.float32), new((M, H), np.float32)
    arguments = contiguous(q, q.shape), k, v, spans, o, lse, 1 / math.sqrt(D), longest, time
    n_tasks = tasks(queries * longest * H * D, GRAIN)
    if most == 1 and queries == len(spans):
        run(_one_query_share, arguments, n_tasks)
    else:
        run(_forward_share, arguments, n_tasks)
    return o, lse


@compiled()
def _backward_block(arrays, h, part, block, scale, scratch):
    """One block of one head: writes dq, and adds to the part's dk and dv."""
    do, q, k, v, o, lse, dq, dk, dv = arrays
    i0, rows, k0, first = block
    qt, do_t, p, ds, sums = scratch
    D, g = q.shape[2], h // (q.shape[1] // k.shape[1])
    keys = first + rows - 1
    q_block, do_block = q[i0 : i0 + rows, h], do[i0 : i0 + rows, h]
    sums[:] = 0
    for i in range(rows):
        sums[0, i] = lse[i0 + i, h]
        sums[1, i] = dot(do[i0 + i, h], o[i0 + i, h])
    _transpose(q_block, qt)
    _transpose(do_block, do_t)
    _scores(k[:, g], k0, qt, first, rows, p)
    _scores(v[:, g], k0, do_t, first, rows, ds)
    _mask(p, first, rows, MINUS_INF)
    _mask(ds, first, rows, ZERO)
    for c in range(0, rows, 16):
        softmax_columns_backward(p, ds, c, keys, scale, sums)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        seen = first + i + high - 1
        tile_row(ds.T, i, 0, k[:, g], k0, 0, dq[:, h], i0 + i, 0, seen, high, D, False)
    for j in range(0, keys, MR):
        early = max(0, j - first + 1)  # earlier queries do not see key j
        late, high = rows - early, min(MR, keys - j)
        tile_row(ds, j, early, q_block, early, 0, dk[:, part], k0 + j, 0, late, high, D, True)
        tile_row(p, j, early, do_block, early, 0, dv[:, part], k0 + j, 0, late, high, D, True)


READ = read(3), read(3), read(3, "A"), read(3, "A"), SPANS, read(3), read(2)
BACKWARD = *READ, write(3), write(3), write(3), float32, int64, int64


@compiled((*BACKWARD, *TASK))
def _backward_share(do, q, k, v, spans, o, lse, dq, dk, dv, scale, longest, time, t, n_tasks):
    """Task t's parts: a part is some query heads of one group, with a dk and a dv of its own."""
    (H, D), P = q.shape[1:], dk.shape[1]
    heads = H // P
    scratch = (
        np.empty((D, BLOCK), np.float32),
        np.empty((D, BLOCK), np.float32),
        np.empty((longest, BLOCK), np.float32),
        np.empty((longest, BLOCK), np.float32),
        np.empty((2, BLOCK), np.float32),
    )
    arrays = do, q, k, v, o, lse, dq, dk, dv
    done = 0
    for n in range(len(spans)):
        q0, k0, k1 = spans[n, 0], spans[n, 2], spans[n, 3]
        T, S = spans[n, 1] - q0, k1 - k0
        for part in range(P):
            start, done = done, done + time_of(T, S, T)
            if not is_mine(start, done, P * time, t, n_tasks):
                continue
            dk[k0:k1, part] = 0
            dv[k0:k1, part] = 0
            for h in range(part * heads, (part + 1) * heads):
                for i in range(0, T, BLOCK):
                    block = q0 + i, min(BLOCK, T - i), k0, S - T + i + 1
                    _backward_block(arrays, h, part, block, scale, scratch)


def attention_backward(do, q, k, v, spans, o, lse):
    """do, q, o (M, H, D); k, v (S, G, D); spans (N, 4); lse (M, H) -> dq, dk, dv of like shapes.

    Rows outside of all spans get 0.
    """
    k, v, spans, most, longest, queries, keys, time = checked(q, k, v, spans)
    (M, H, D), (S, G) = q.shape, k.shape[:2]
    do, q, o = [contiguous(a, q.shape) for a in (do, q, o)]
    work = 2 * queries * longest * H * D
    small = most <= BLOCK and work < GRAIN  # one task and one block: the same order of sums
    parts = H if len(spans) * G < FEW_GROUPS and not small else G
    dq = (np.empty if queries == M else np.zeros)(q.shape, np.float32)
    new = np.empty if keys == S else np.zeros
    dk, dv = new((S, parts, D), np.float32), new((S, parts, D), np.float32)
    arrays = do, q, k, v, spans, o, contiguous(lse, (M, H)), dq, dk, dv
    arguments = *arrays, 1 / math.sqrt(D), longest, time
    run(_backward_share, arguments, tasks(work, GRAIN))
    if parts != G:
        dk, dv = (d.reshape(S, G, H // G, D).sum(axis=2) for d in (dk, dv))
    return dq, dk, dv
