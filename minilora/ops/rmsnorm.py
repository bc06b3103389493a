"""Root-mean-square normalisation."""

import numpy as np

from ..engine import Op


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = (mean + eps)^-½, mean = Σ x² / C.   x (M, C), g (C,)  ->  y (M, C).

    g is the gain, eps a small number; the sum is over the C entries of a row.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    rstd = 1 / np.sqrt((x * x).mean(axis=1) + eps)  # (M,)
    y = x * rstd[:, None] * g
    return y, (x, g, rstd)  # x and rstd give x · rstd again, so y is not kept


def rmsnorm_backward(dy, cache, need=(True, True, False)):
    """dy (M, C) -> dx (M, C), dg (C,), None.

    need: for each argument, is its gradient wanted?
    """
    x, g, rstd = cache
    r = rstd[:, None]
    dg = (dy * x * r).sum(axis=0) if need[1] else None  # y = (x r) g
    if not need[0]:
        return None, dg, None
    dxr = dy * g  # y = (x r) g
    dr = (dxr * x).sum(axis=1, keepdims=True)  # x r, by its factor r
    dmean = -(r**3) / 2 * dr  # r = (mean + eps)^-½
    dx = dxr * r + dmean * 2 * x / x.shape[1]  # x r, by its factor x; mean = Σ x² / C
    return dx, dg, None


rmsnorm = Op("rmsnorm", rmsnorm_forward, rmsnorm_backward, saves=("x", "g", "rstd"))
