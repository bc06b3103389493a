"""The gated feed-forward's middle (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

from .. import fast as K
from ..engine import Op


def swiglu_forward(gate, up):
    """h = silu(gate) · up, silu(z) = z σ(z).   gate, up (M, F)  ->  h (M, F)."""
    return K.swiglu_forward(gate, up), (gate, up)  # h can be had again from these


def swiglu_backward(dh, cache):
    """dh (M, F) -> dgate, dup (M, F)."""
    return K.swiglu_backward(dh, *cache)


swiglu = Op("swiglu", swiglu_forward, swiglu_backward)
