"""Causal attention with grouped queries (Vaswani et al. 2017, eq. 1; Ainslie et al.

2023, arXiv:2305.13245).
"""

from .. import fast as K
from ..engine import Op


def attention_forward(q, k, v):
    """o = softmax(q kᵀ / √D + causal mask) v, each group of H/G query heads on one key head.

    q (N, T, H, D); k, v (N, S, G, D), S >= T: query i stands at place S - T + i  ->  o (N, T, H,
    D).
    """
    o, lse = K.attention_forward(q, k, v)
    return o, (q, k, v, o, lse)  # lse (N, H, T) brings the probabilities back; (T, S) is never kept


def attention_backward(do, cache):
    """do (N, T, H, D) -> dq (N, T, H, D), dk, dv (N, S, G, D)."""
    return K.attention_backward(do, *cache)


attention = Op("attention", attention_forward, attention_backward)
