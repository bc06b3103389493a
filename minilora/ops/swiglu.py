"""The middle of the gated feed-forward: silu(gate) scales each entry of up."""

import numpy as np

from ..engine import Op


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ), written with tanh, which does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


def swiglu_forward(gate, up):
    """h = silu(gate) · up, silu(z) = z σ(z).   gate, up (M, F)  ->  h (M, F).

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    return gate * sigmoid(gate) * up, (gate, up)  # they give h again, so h is not kept


def swiglu_backward(dh, cache):
    """dh (M, F) -> dgate, dup (M, F)."""
    gate, up = cache
    p = sigmoid(gate)
    dgate = dh * up * p * (1 + gate * (1 - p))  # h = silu(gate) up, silu'(z) = σ + z σ (1 - σ)
    dup = dh * gate * p  # h = silu(gate) up
    return dgate, dup


swiglu = Op("swiglu", swiglu_forward, swiglu_backward, saves=("gate", "up"))
