"""Dropout whose mask is never stored: a counter-based generator makes it again from its key.

Used on the adapter's input by LoRA, LoRA-FA and VeRA: y = x Wᵀ + adapter(x · m).
"""

import numpy as np

from .. import fast as K
from ..support.meta import filled


def mask(p, key, x, width=None):
    """m, 0 with probability p, else 1/(1-p), so that E[m] = 1; None where p = 0.

    x (M, I) gives dtype and shape, of another width I where it is given  ->  m (M, I). key: a tuple
    of ints (seed, optimizer step, micro-batch, adapter index): the same key, the same mask.
    Source: Philox, Salmon et al. 2011; inverted dropout, Srivastava et al. 2014, section 10.
    """
    if p == 0:
        return None
    bits = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    shape = x.shape if width is None else (len(x), width)
    m = filled(x, shape, lambda: bits.random(shape, np.float32))  # the same for every dtype
    return np.multiply(m >= p, 1 / (1 - p), out=m)


def drop(x, m):
    """x · m, or x itself where nothing is dropped."""
    return x if m is None else x * m


def through_both(dy, W, dz, A, m):
    """dx = dy W + (dz A) · m: what y = x Wᵀ and z = (x · m) Aᵀ give to dx.

    dy (M, O), W (O, I), dz (M, r), A (r, I), m (M, I) or None  ->  dx (M, I).
    """
    if m is None:
        return K.adapted_nn(dy, W, dz, A)
    through = K.matmul_nn(dz, A)
    through *= m
    return K.matmul_nn(dy, W, add_to=through)


def check_probability(options):
    """Raises ValueError unless 0 <= dropout < 1."""
    p = options["dropout"]
    if not (isinstance(p, int | float) and 0 <= p < 1):
        raise ValueError(f"dropout: got {p!r}, wanted a probability of at least 0 and below 1")
