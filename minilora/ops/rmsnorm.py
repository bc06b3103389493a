"""Root-mean-square normalisation."""

import numpy as np

from ..engine import Op


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = (mean + eps)^-½, mean = Σ x² / C.   x (M, C), g (C,)  ->  y (M, C).

    g is the gain, eps a small number; the sum is over the C entries of a row.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    mean = (x * x).mean(axis=1, keepdims=True)  # (M, 1)
    r = 1 / np.sqrt(mean + eps)
    y = x * r * g
    return y, (x, g, r[:, 0])  # x and rstd give x · rstd again, so y is not kept


def rmsnorm_backward(dy, cache, need=(True, True, False)):
    """dy (M, C) -> dx (M, C), dg (C,), None.

    need: for each argument, is its gradient wanted?
    """
    x, g, rstd = cache
    r = rstd[:, None]
    dg = (dy * x * r).sum(axis=0) if need[1] else None  # y = x r g
    if not need[0]:
        return None, dg, None
    dxr = dy * g  # y = x r g
    dr = (dxr * x).sum(axis=1, keepdims=True)  # y has x r
    dmean = -(r**3) / 2 * dr  # r = 1 / √(mean + eps)
    dx = dxr * r + dmean * 2 * x / x.shape[1]  # y has x r, mean = mean(x²)
    return dx, dg, None


rmsnorm = Op("rmsnorm", rmsnorm_forward, rmsnorm_backward, saves=("x", "g", "rstd"))
