"""Dropout whose mask is never stored: a counter-based generator makes it again from its key.

Used on the adapter's input by LoRA, LoRA-FA and VeRA: y = x Wᵀ + adapter(x · m).
"""

import numpy as np

from ..meta import filled


def mask(p, key, x):
    """m, 0 with probability p, else 1/(1-p), so that E[m] = 1.   x (M, I) gives shape and dtype  ->
    m (M, I).

    key: a tuple of ints (seed, optimizer step, micro-batch, adapter index): the same key, the same
    mask.
    Source: Philox, Salmon et al. 2011; inverted dropout, Srivastava et al. 2014, section 10.
    """

    def numbers():
        bits = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        return (bits.random(x.shape, np.float32) >= p) * x.dtype.type(1 / (1 - p))

    return filled(x, x.shape, numbers)


def drop(x, p, key):
    """x · m, or x itself where p = 0."""
    return x if p == 0 else x * mask(p, key, x)


def check_probability(options):
    """Raises ValueError unless 0 <= dropout < 1."""
    p = options["dropout"]
    if not (isinstance(p, int | float) and 0 <= p < 1):
        raise ValueError(f"dropout: got {p!r}, wanted a probability of at least 0 and below 1")
