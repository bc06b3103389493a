"""Rotary position embedding. The two numbers of a pair are half a head apart."""

import numpy as np

from ..engine import Op


def rope_forward(x, cos, sin):
    """y = R x: the pair (x[j], x[j + D/2]) is rotated by the angle of its row and j.

    x (M, H, D); cos, sin (M, D/2) of each row's angles  ->  y (M, H, D).
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34; the pairing as in Hugging Face's Llama.
    """
    c, s = cos[:, None], sin[:, None]  # the same angles for all heads of a row
    a, b = np.split(x, 2, axis=-1)
    ya, yb = a * c - b * s, b * c + a * s
    y = np.concatenate([ya, yb], axis=-1)
    return y, (cos, sin)  # no x: backward only rotates dy


def rope_backward(dy, cache):
    """dy (M, H, D) -> dx = Rᵀ dy (M, H, D), None, None: Rᵀ rotates by the opposite angle."""
    cos, sin = cache
    c, s = cos[:, None], sin[:, None]
    dya, dyb = np.split(dy, 2, axis=-1)  # y = concatenate([ya, yb])
    da = dya * c + dyb * s  # ya has a c, yb has a s
    db = dyb * c - dya * s  # yb has b c, ya has b s
    dx = np.concatenate([da, db], axis=-1)  # a, b = split(x)
    return dx, None, None


# The angles depend only on the rows' positions, so the ledger does not count them as activations.
rope = Op("rope", rope_forward, rope_backward, saves=("cos", "sin"), constants=("cos", "sin"))
