"""Dropout that keeps no mask: a counter-based generator makes the mask again from its key."""

import numpy as np

from ..engine import Op
from ..fast import bind


def mask(x, p, key):
    """m: 0 with probability p, else 1/(1-p), so that E[m] = 1.   x (M, I) gives shape and dtype.

    key: a tuple of ints (seed, optimizer step, micro-batch, adapter); it decides m.
    Source: Philox, Salmon et al. 2011; inverted dropout, Srivastava et al. 2014, section 10.
    """
    bits = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    kept = bits.random(x.shape, np.float32) >= p  # the same for every dtype of x
    return kept * np.asarray(1 / (1 - p), x.dtype)


mask = bind(mask)


def dropout_forward(x, p, key):
    """xd = x · m, m = mask(p, key).   x (M, I)  ->  xd (M, I). Keeps the key, not the mask."""
    return x * mask(x, p, key), (p, key)


def dropout_backward(dxd, cache):
    """dxd (M, I) -> dx (M, I), None, None."""
    p, key = cache
    return dxd * mask(dxd, p, key), None, None  # xd = x · m


dropout = Op("dropout", dropout_forward, dropout_backward, saves=("p", "key"))
