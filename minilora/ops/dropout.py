"""Dropout that keeps no mask: a counter-based generator makes the mask again from its key."""

import numpy as np

from ..engine import Function, Op


def mask(x, p, key, rows=None):
    """m: 0 with probability p, else 1/(1-p), so that E[m] = 1.   x (M, I) gives shape and dtype.

    key: a tuple of ints (seed, optimizer step, micro-batch, adapter), which determines m. rows
    (M,), ints in ascending order: the rows of the batch that x contains; m is the batch's mask at
    these rows. None: x contains all rows.
    Source: Philox, Salmon et al. 2011; inverted dropout, Srivastava et al. 2014, section 10.
    """
    bits = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    if rows is None:
        u = bits.random(x.shape, np.float32)  # the same for every dtype of x
    else:
        u = bits.random((int(rows[-1]) + 1, x.shape[1]), np.float32)[rows]
    return (u >= p) * np.asarray(1 / (1 - p), x.dtype)


mask = Function(mask)


def dropout_forward(x, p, key, rows=None):
    """xd = x · m, m = mask(p, key, rows).   x (M, I)  ->  xd (M, I). Keeps the key, not m."""
    return x * mask(x, p, key, rows), (p, key, rows)


def dropout_backward(dxd, cache):
    """dxd (M, I) -> dx (M, I), None, None, None."""
    p, key, rows = cache
    return dxd * mask(dxd, p, key, rows), None, None, None  # xd = x mask(x, p, key, rows)


dropout = Op("dropout", dropout_forward, dropout_backward, saves=("p", "key", "rows"))
