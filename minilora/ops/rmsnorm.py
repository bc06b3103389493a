"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

from .. import fast as K
from ..engine import Op


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), gain g (C,), eps  ->  y (M, C)."""
    y, rstd = K.rmsnorm_forward(x, g, eps)
    return y, (x, g, rstd)  # x and rstd (M,) rebuild what dx and dg read; y is not kept


def rmsnorm_backward(dy, cache, need=(True, True, False)):
    """dy (M, C) -> dx (M, C), dg (C,), None."""
    x, g, rstd = cache
    dx = K.rmsnorm_dx(dy, x, g, rstd) if need[0] else None  # y = x · rstd(x) · g, x twice
    dg = K.rmsnorm_dg(dy, x, rstd) if need[1] else None  # y = (x · rstd) · g
    return dx, dg, None


rmsnorm = Op("rmsnorm", rmsnorm_forward, rmsnorm_backward)
