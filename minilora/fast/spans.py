"""Spans say which rows of q, k and v belong to a sequence. Tasks share them, checked.

spans (N, 4) int64: for each sequence where its queries begin and end, where its keys begin and end.
"""

import numpy as np
from numba import int64

from .jit import TASK, compiled, integers, read

BLOCK = 32  # queries of a block of attention
SPANS = read(2, dtype=int64)


@compiled((int64, int64, int64))
def time_of(T, S, i):
    """An estimate, in some unit, of the time of a head's first i queries, of T, with S keys.

    Twice the number of pairs of query and key. Each query counts 32 keys more than it sees, for its
    other work. Queries are counted in eights, because tiles of rows are computed whole. 8 divides
    BLOCK, so every block counts more than 0, as is_mine requires.
    """
    i = -(-i // 8) * 8
    return i * (2 * (S - T + BLOCK) + i)


@compiled((int64, int64, int64, *TASK))
def is_mine(start, stop, time, t, n_tasks):
    """Is the middle of this piece of the time in task t's part, one of n_tasks equal parts?

    start < stop; so exactly one task takes the piece.
    """
    middle = (start + stop) * n_tasks
    return 2 * time * t <= middle < 2 * time * (t + 1)


@compiled((SPANS, int64, int64))
def _survey(spans, M, S):
    """The first wrong span, or -1; the most queries and the most keys of a span; the sums of
    queries, of keys that a query sees, and of the time of a head.
    """
    most, longest, queries, keys, time = 0, 0, 0, 0, 0
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
        time += time_of(T, K, T)
    return -1, most, longest, queries, keys, time


def checked(q, k, v, spans):
    """k, v and spans as the kernels read them, and what _survey returns; raises ValueError.

    If a head's numbers are not adjacent in memory (in a KV cache they are), k and v are copied.
    """
    fits = q.ndim == k.ndim == 3 and q.shape[2] == k.shape[2] and k.shape == v.shape
    if not (fits and k.shape[1] and q.shape[1] % k.shape[1] == 0):
        wanted = "(M, H, D), twice (S, G, D), G a divisor of H"
        raise ValueError(f"attention: q, k, v are {q.shape}, {k.shape}, {v.shape}, wanted {wanted}")
    spans = integers(spans)
    if spans.ndim != 2 or spans.shape[1] != 4:
        raise ValueError(f"attention: spans have shape {spans.shape}, wanted (N, 4)")
    wrong, most, longest, queries, keys, time = _survey(spans, len(q), len(k))
    if wrong >= 0:
        raise ValueError(
            f"attention: span {wrong} is {spans[wrong].tolist()}, wanted queries and keys after "
            f"those of the span before, among {len(q)} and {len(k)}, no more queries than keys"
        )
    k = k if k.strides[2] == 4 else np.ascontiguousarray(k)
    v = v if v.strides[2] == 4 else np.ascontiguousarray(v)
    return k, v, spans, most, longest, queries, keys, time
