"""Causal grouped-query attention, over sequences that are stored one after another."""

import math

import numpy as np

from ..engine import Op


def scores(q, k):
    """q kᵀ / √D where query i sees key j, else -∞.   q (H, T, D), k (H, S, D)  ->  (H, T, S).

    Query i has the position S - T + i, and sees the keys up to this position.
    """
    T, S = q.shape[1], k.shape[1]
    s = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2])
    ahead = np.arange(S) > np.arange(S - T, S)[:, None]
    s[:, ahead] = -math.inf
    return s


def attention_forward(q, k, v, spans):
    """o = softmax(q kᵀ / √D + causal mask) v, for each sequence separately.

    q (M, H, D); k, v (S, G, D): each group of H/G query heads shares one key head. spans (N, 4)
    ints: where a sequence's queries begin and end, where its keys begin and end  ->  o (M, H, D).
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al. 2023, arXiv:2305.13245.
    """
    o, lse = np.zeros_like(q), np.zeros_like(q[:, :, 0])  # lse (M, H)
    times = q.shape[1] // k.shape[1]
    for q0, q1, k0, k1 in spans:
        qs = q[q0:q1].swapaxes(0, 1)  # (H, T, D)
        ks, vs = (a[k0:k1].swapaxes(0, 1).repeat(times, axis=0) for a in (k, v))  # (H, S, D)
        s = scores(qs, ks)
        top = s.max(axis=2, keepdims=True)
        e = np.exp(s - top)
        total = e.sum(axis=2, keepdims=True)
        p = e / total  # (H, T, S)
        o[q0:q1] = (p @ vs).swapaxes(0, 1)
        lse[q0:q1] = (top + np.log(total))[:, :, 0].T
    return o, (q, k, v, spans, o, lse)  # backward computes p again from lse: (T, S) is not kept


def attention_backward(do, cache):
    """do (M, H, D) -> dq (M, H, D), dk, dv (S, G, D), None."""
    q, k, v, spans, o, lse = cache
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    times = q.shape[1] // k.shape[1]
    for q0, q1, k0, k1 in spans:
        qs, dos, os = (a[q0:q1].swapaxes(0, 1) for a in (q, do, o))  # (H, T, D)
        ks, vs = (a[k0:k1].swapaxes(0, 1).repeat(times, axis=0) for a in (k, v))  # (H, S, D)
        p = np.exp(scores(qs, ks) - lse[q0:q1].T[:, :, None])  # (H, T, S)
        dp = dos @ vs.swapaxes(1, 2)  # o = p vs
        # softmax's derivative is p (dp - Σ p dp); Σ p dp over keys is Σ dos os over a head
        ds = p * (dp - (dos * os).sum(axis=2, keepdims=True))  # p = e / total, e = exp(s - top)
        ds = ds / math.sqrt(q.shape[2])  # s = scores(qs, ks), divided by √D
        dq[q0:q1] = (ds @ ks).swapaxes(0, 1)  # s = scores(qs, ks)
        dks, dvs = ds.swapaxes(1, 2) @ qs, p.swapaxes(1, 2) @ dos  # s = scores(qs, ks), o = p vs
        for d, d_heads in ((dk, dks), (dv, dvs)):  # one key head served `times` query heads
            d_groups = d_heads.reshape(k.shape[1], times, k1 - k0, k.shape[2]).sum(axis=1)
            d[k0:k1] = d_groups.swapaxes(0, 1)
    return dq, dk, dv, None


attention = Op(
    "attention",
    attention_forward,
    attention_backward,
    saves=("q", "k", "v", "spans", "o", "lse"),
    constants=("spans",),
)
