"""Causal attention in blocks of query rows: the (T, S) scores of a head never exist at once.

A block's scores are laid out keys by queries, s[j, i] = k_j · q_i. So the steps of softmax, each
for all 32 queries of a block, are whole vectors, whatever the number of keys; and keys, values,
queries and gradients are read where they are, all but the transposed queries. A block's keys end
at its diagonal. Backward computes the probabilities again from lse.

The sequences may have different lengths. A task takes the blocks that lie in its part of the work,
in backward the groups, whose query heads add up in one order, or, where there are few groups, the
heads, added up at the end. So the number of tasks does not change the result.
"""

import math

import numpy as np
from numba import int64, prange

from .jit import ONE, SHARE, compiled, count, dense, number, read, tasks, write
from .strips import strip
from .sums import dot, total
from .tile import DOTS, MR, dots, turn16
from .vectors import exp, maximum, soften, soften_back

BLOCK = 32  # query rows at a time
GRAIN = 200_000  # multiplications below which a second thread costs more than it brings
FEW_GROUPS = 8  # below so many, backward shares out single query heads
HIDDEN = np.float32(-math.inf)  # the score of a key that a query may not see
NOTHING = np.float32(0)

SPANS = read(2, dtype=int64)


@compiled((count, count, count))
def _work(T, S, i):
    """An estimate, in some unit, of the time of a head's first i queries, of T, with S keys.

    Twice the pairs of query and key: each query counts 32 keys more than it sees, which stand for
    its other work, and queries are counted in whole tiles.
    """
    i = -(-i // MR) * MR
    return i * (2 * (S - T + BLOCK) + i)


@compiled((SPANS, count, count))
def _survey(spans, M, S):
    """The first span that does not fit, or -1; the most queries, the most keys of a span; the sums
    of the queries, of the keys that queries see, and of the work of a head.
    """
    most, longest, queries, keys, work = 0, 0, 0, 0, 0
    q_end, k_end = 0, 0
    for n in range(len(spans)):
        T, K = spans[n, 1] - spans[n, 0], spans[n, 3] - spans[n, 2]
        if spans[n, 0] < q_end or spans[n, 2] < k_end or T < 0 or K < T:
            return n, 0, 0, 0, 0, 0
        q_end, k_end = spans[n, 1], spans[n, 3]
        if q_end > M or k_end > S:
            return n, 0, 0, 0, 0, 0
        most, longest = max(most, T), max(longest, K)
        queries, keys = queries + T, keys + (K if T else 0)
        work += _work(T, K, T)
    return -1, most, longest, queries, keys, work


@compiled((count, count, count, *SHARE))
def _is_mine(start, stop, work, t, cut):
    """Does the middle of this piece of the work lie in task t's part, of `cut` equal ones?"""
    middle = (start + stop) * cut
    return 2 * work * t <= middle < 2 * work * (t + 1)


@compiled((read(2, "A"), write(2)))
def _transpose(x, out):
    """out[:, :rows] = xᵀ, zeros up to the next 16 columns."""
    rows, D = x.shape
    for i in range(0, rows, 16):
        for d in range(0, D, 16):
            turn16(x, i, d, min(16, rows - i), min(16, D - d), out, d, i)


@compiled((read(2, "A"), count, read(2), count, count, write(2)))
def _scores(x, start, yt, first, rows, s):
    """s[j, i] = x_j · y_i for the first + i keys that query i sees, the rows of x from `start` on.

    yt (D, rows) is the transpose of y.
    """
    D, keys, width = x.shape[1], first + rows - 1, -(-rows // 16) * 16
    for j in range(0, keys, MR):
        low = max(0, j - first + 1) // 16 * 16  # no query before sees key j or a later one
        strip(x, start + j, 0, yt, 0, low, s, j, low, D, min(MR, keys - j), width - low, False)


@compiled((write(2), count, count, number))
def _hide(s, first, rows, value):
    """The value where a query does not look: query i sees first + i keys."""
    for j in range(first, first + rows - 1):
        for i in range(j - first + 1):
            s[j, i] = value


@compiled()
def _forward_block(q, k, v, o, lse, h, block, scale, scratch):
    """One block of one head, into o and lse.

    block: its first row and its number of rows in q, the first row in k, the keys that its first
    query sees.
    """
    i0, rows, k0, first = block
    qt, s, sums = scratch
    D, g = q.shape[2], h // (q.shape[1] // k.shape[1])
    _transpose(q[i0 : i0 + rows, h], qt)
    _scores(k[:, g], k0, qt, first, rows, s)
    _hide(s, first, rows, HIDDEN)
    for c in range(0, rows, 16):
        soften(s, c, first + rows - 1, scale, sums)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        seen = first + i + high - 1
        strip(s.T, i, 0, v[:, g], k0, 0, o[:, h], i0 + i, 0, seen, high, D, False)
    for i in range(rows):
        lse[i0 + i, h] = sums[0, i] * scale + math.log(sums[1, i])
        row, share = o[i0 + i, h], ONE / sums[1, i]
        for d in range(D):
            row[d] *= share


FORWARD = read(3), read(3, "A"), read(3, "A"), SPANS, write(3), write(2), number, count, count


@compiled((*FORWARD, *SHARE))
def _forward_share(q, k, v, spans, o, lse, scale, longest, work, t, cut):
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
                start, stop = done + _work(T, S, i), done + _work(T, S, i + rows)
                if _is_mine(start, stop, H * work, t, cut):
                    block = q0 + i, rows, k0, S - T + i + 1
                    _forward_block(q, k, v, o, lse, h, block, scale, scratch)
            done += _work(T, S, T)


@compiled((*FORWARD, count), parallel=True)
def _attention_forward(q, k, v, spans, o, lse, scale, longest, work, cut):
    if cut == 1:
        for t in range(cut):
            _forward_share(q, k, v, spans, o, lse, scale, longest, work, t, cut)
    else:
        for t in prange(cut):
            _forward_share(q, k, v, spans, o, lse, scale, longest, work, t, cut)


@compiled()
def _soften_row(s, scale):
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


@compiled((*FORWARD, *SHARE))
def _one_query_share(q, k, v, spans, o, lse, scale, longest, work, t, cut):
    """Task t's groups of query heads where each sequence has one query, as in decoding.

    There the heads of a group are the rows of a block, and its keys and values are read once.
    """
    (H, D), G = q.shape[1:], k.shape[1]
    heads = H // G
    s = np.empty((heads, longest), np.float32)
    done = 0
    for n in range(len(spans)):
        i, k0 = spans[n, 0], spans[n, 2]
        S = spans[n, 3] - k0
        for g in range(G):
            start, done = done, done + _work(1, S, 1)
            if not _is_mine(start, done, G * work, t, cut):
                continue
            h0 = g * heads
            queries, keys = q[i, h0 : h0 + heads], k[:, g]
            for h in range(0, heads, DOTS):
                rows = min(DOTS, heads - h)
                for j in range(0, S, 4):
                    dots(queries, h, keys, k0 + j, s, h, j, D, rows, min(4, S - j), False)
            for h in range(heads):
                lse[i, h0 + h] = _soften_row(s[h, :S], scale)
            for h in range(0, heads, MR):
                rows = min(MR, heads - h)
                strip(s, h, 0, v[:, g], k0, 0, o[i], h0 + h, 0, S, rows, D, False)


@compiled((*FORWARD, count), parallel=True)
def _one_query(q, k, v, spans, o, lse, scale, longest, work, cut):
    if cut == 1:
        for t in range(cut):
            _one_query_share(q, k, v, spans, o, lse, scale, longest, work, t, cut)
    else:
        for t in prange(cut):
            _one_query_share(q, k, v, spans, o, lse, scale, longest, work, t, cut)


def attention_forward(q, k, v, spans):
    """o = softmax(q kᵀ / √D, keys up to the query's own place) v, grouped-query, by sequences.

    q (M, H, D); k, v (S, G, D), H a multiple of G; spans (N, 4) int64: for each sequence where its
    queries begin and end, and where its keys begin and end.
    -> o (M, H, D), lse (M, H), the logarithm of each softmax's denominator.
    """
    k, v, spans, most, longest, queries, _, work = _checked(q, k, v, spans)
    M, H, D = q.shape
    q = dense(q, q.shape)
    new = np.empty if queries == M else np.zeros
    o, lse = new((M, H, D), np.float32), new((M, H), np.float32)
    cut = tasks(queries * longest * H * D, GRAIN)
    kernel = _one_query if most == 1 and queries == len(spans) else _attention_forward
    kernel(q, k, v, spans, o, lse, 1 / math.sqrt(D), longest, work, cut)
    return o, lse


def _checked(q, k, v, spans):
    """k and v as they are where a head's numbers are neighbours (as in a cache), or copied."""
    fits = q.ndim == k.ndim == 3 and q.shape[2] == k.shape[2] and k.shape == v.shape
    if not (fits and k.shape[1] and q.shape[1] % k.shape[1] == 0):
        wanted = "(M, H, D), twice (S, G, D), G a divisor of H"
        raise ValueError(f"attention: q, k, v are {q.shape}, {k.shape}, {v.shape}, wanted {wanted}")
    spans = np.ascontiguousarray(spans, np.int64)
    if spans.ndim != 2 or spans.shape[1] != 4:
        raise ValueError(f"attention: spans have shape {spans.shape}, wanted (N, 4)")
    wrong, most, longest, queries, keys, work = _survey(spans, len(q), len(k))
    if wrong >= 0:
        raise ValueError(
            f"attention: span {wrong} is {spans[wrong].tolist()}, wanted queries and keys after "
            f"those of the span before, among {len(q)} and {len(k)}, no more queries than keys"
        )
    k = k if k.strides[2] == 4 else np.ascontiguousarray(k)
    v = v if v.strides[2] == 4 else np.ascontiguousarray(v)
    return k, v, spans, most, longest, queries, keys, work


@compiled()
def _backward_block(arrays, h, part, block, scale, scratch):
    """One block of one head: dq is written, the part's dk and dv are added to."""
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
    _hide(p, first, rows, HIDDEN)
    _hide(ds, first, rows, NOTHING)
    for c in range(0, rows, 16):
        soften_back(p, ds, c, keys, scale, sums)
    for i in range(0, rows, MR):
        high = min(MR, rows - i)
        seen = first + i + high - 1
        strip(ds.T, i, 0, k[:, g], k0, 0, dq[:, h], i0 + i, 0, seen, high, D, False)
    for j in range(0, keys, MR):
        early = max(0, j - first + 1)  # queries that do not see key j
        late, high = rows - early, min(MR, keys - j)
        strip(ds, j, early, q_block, early, 0, dk[:, part], k0 + j, 0, late, high, D, True)
        strip(p, j, early, do_block, early, 0, dv[:, part], k0 + j, 0, late, high, D, True)


READ = read(3), read(3), read(3, "A"), read(3, "A"), SPANS, read(3), read(2)
BACKWARD = *READ, write(3), write(3), write(3), number, count, count


@compiled((*BACKWARD, *SHARE))
def _backward_share(do, q, k, v, spans, o, lse, dq, dk, dv, scale, longest, work, t, cut):
    """Task t's parts: some query heads that share keys, with a dk and a dv of their own."""
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
            start, done = done, done + _work(T, S, T)
            if not _is_mine(start, done, P * work, t, cut):
                continue
            dk[k0:k1, part] = 0
            dv[k0:k1, part] = 0
            for h in range(part * heads, (part + 1) * heads):
                for i in range(0, T, BLOCK):
                    block = q0 + i, min(BLOCK, T - i), k0, S - T + i + 1
                    _backward_block(arrays, h, part, block, scale, scratch)


@compiled((*BACKWARD, count), parallel=True)
def _attention_backward(do, q, k, v, spans, o, lse, dq, dk, dv, scale, longest, work, cut):
    if cut == 1:
        for t in range(cut):
            _backward_share(do, q, k, v, spans, o, lse, dq, dk, dv, scale, longest, work, t, cut)
    else:
        for t in prange(cut):
            _backward_share(do, q, k, v, spans, o, lse, dq, dk, dv, scale, longest, work, t, cut)


def attention_backward(do, q, k, v, spans, o, lse):
    """do, q, o (M, H, D); k, v (S, G, D); spans (N, 4); lse (M, H) -> dq, dk, dv of like shapes."""
    k, v, spans, _, longest, queries, keys, work = _checked(q, k, v, spans)
    (M, H, D), (S, G) = q.shape, k.shape[:2]
    do, q, o = (dense(a, q.shape) for a in (do, q, o))
    parts = H if len(spans) * G < FEW_GROUPS else G
    dq = (np.empty if queries == M else np.zeros)(q.shape, np.float32)
    new = np.empty if keys == S else np.zeros
    dk, dv = new((S, parts, D), np.float32), new((S, parts, D), np.float32)
    cut = tasks(2 * queries * longest * H * D, GRAIN)
    arrays = do, q, k, v, spans, o, dense(lse, (M, H)), dq, dk, dv
    _attention_backward(*arrays, 1 / math.sqrt(D), longest, work, cut)
    if parts != G:
        dk, dv = (d.reshape(S, G, H // G, D).sum(axis=2) for d in (dk, dv))
    return dq, dk, dv
