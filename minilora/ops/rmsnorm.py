"""Root-mean-square normalisation."""

import numpy as np

from ..engine import Op


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), gain g (C,), eps  ->  y (M, C).

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    rstd = 1 / np.sqrt((x * x).mean(axis=1) + eps)  # (M,)
    y = x * rstd[:, None] * g
    return y, (x, g, rstd)  # x and rstd give x · rstd again, so y is not kept


def rmsnorm_backward(dy, cache, need=(True, True, False), add_to=None):
    """dy (M, C) -> dx (M, C), dg (C,), None.

    add_to (M, C): the gradient that x has from its other use, the residual; the sum is returned.
    """
    x, g, rstd = cache
    r = rstd[:, None]
    dg = (dy * x * r).sum(axis=0) if need[1] else None  # y = (x r) g
    if not need[0]:
        return None, dg, None
    dxr = dy * g  # y = (x r) g
    dr = (dxr * x).sum(axis=1, keepdims=True)  # x r, by its factor r
    dx = dxr * r - dr * r**3 * x / x.shape[1]  # x r, by its factor x; r = (mean(x²) + eps)^(-1/2)
    return dx if add_to is None else add_to + dx, dg, None


rmsnorm = Op("rmsnorm", rmsnorm_forward, rmsnorm_backward, saves=("x", "g", "rstd"))
