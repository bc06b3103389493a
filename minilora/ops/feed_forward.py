"""The gated feed-forward whole, where none of its three linears trains (Shazeer 2020,
arXiv:2002.05202, eq. 6).
"""

from .. import fast as K
from ..engine import Op


def frozen_feed_forward_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.   x (M, C), Wg, Wu (F, C), Wd (C, F)  ->  y (M, C)."""
    y, gate, up = K.feed_forward(x, Wg, Wu, Wd)
    return y, (gate, up, Wg, Wu, Wd)  # gate, up for silu's slope and the product; Ws are references


def frozen_feed_forward_backward(dy, cache):
    """dy (M, C) -> dx (M, C), None, None, None."""
    return K.feed_forward_dx(dy, *cache), None, None, None  # x reaches y by gate and by up


frozen_feed_forward = Op(
    "frozen_feed_forward", frozen_feed_forward_forward, frozen_feed_forward_backward
)
