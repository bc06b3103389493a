"""The gated feed-forward: silu(gate) scales each entry of up. `swiglu` is its middle part, and
`frozen_feed_forward` is all of it, with three frozen linears.
"""

import numpy as np

from ..engine import Op


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ), written with tanh, which does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


def swiglu_forward(gate, up):
    """h = silu(gate) · up, silu(z) = z σ(z).   gate, up (M, F)  ->  h (M, F).

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    p = sigmoid(gate)
    h = gate * p * up
    return h, (gate, up)  # they give h again, so h is not kept


def swiglu_backward(dh, cache):
    """dh (M, F) -> dgate, dup (M, F). The derivative of silu(z) is σ + z σ (1 - σ)."""
    gate, up = cache
    p = sigmoid(gate)
    dgate = dh * up * p * (1 + gate * (1 - p))  # h = gate p up, p = sigmoid(gate)
    dup = dh * gate * p  # h = gate p up
    return dgate, dup


def frozen_feed_forward_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.   x (M, C), Wg, Wu (F, C), Wd (C, F)  ->  y (M, C).

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    gate, up = x @ Wg.T, x @ Wu.T  # (M, F)
    h, _ = swiglu_forward(gate, up)
    return h @ Wd.T, (gate, up, Wg, Wu, Wd)  # gate and up for swiglu_backward


def frozen_feed_forward_backward(dy, cache):
    """dy (M, C) -> dx (M, C), None, None, None."""
    gate, up, Wg, Wu, Wd = cache
    dh = dy @ Wd  # y = h Wdᵀ
    dgate, dup = swiglu_backward(dh, (gate, up))  # h = swiglu_forward(gate, up)
    dx = dgate @ Wg + dup @ Wu  # gate = x Wgᵀ, up = x Wuᵀ
    return dx, None, None, None


swiglu = Op("swiglu", swiglu_forward, swiglu_backward, saves=("gate", "up"))
frozen_feed_forward = Op(
    "frozen_feed_forward",
    frozen_feed_forward_forward,
    frozen_feed_forward_backward,
    saves=("gate", "up", "Wg", "Wu", "Wd"),
)
