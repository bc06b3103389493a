"""Rotary position embedding in the half-split layout (Su et al. 2021, arXiv:2104.09864, eq. 34)."""

from .. import fast as K
from ..engine import Op


def rope_forward(x, cos, sin):
    """y = R(t) x: the pair (x[j], x[j+D/2]) turned by its angle.

    x (N, T, H, D); cos, sin (T, D/2), of the T places  ->  y (N, T, H, D).
    """
    return K.rope(x, cos, sin), (cos, sin)  # a rotation is undone without its input


def rope_backward(dy, cache):
    """dy (N, T, H, D) -> dx = R(-t) dy, None, None."""
    cos, sin = cache
    return K.rope(dy, cos, -sin), None, None  # y = R(t) x and Rᵀ(t) = R(-t)


rope = Op("rope", rope_forward, rope_backward)
