"""AdamW over flat arrays: seven numbers read or written an entry, and nothing in between."""

import numpy as np
from numba import prange, types

from .jit import SHARE, WHOLE, compiled, count, dense, number, portion, read, tasks, write
from .vectors import fused

GRAIN = 50_000  # numbers below which a second thread costs more than it brings


ARRAYS = write(1), read(1), write(1), write(1)


@compiled(number(number, number), fast=False)
def _times(g, factor):
    """The product rounded by itself, as NumPy's g * factor, and not taken into the next one."""
    return g * factor


@compiled((*ARRAYS, types.UniTuple(number, 9), *SHARE))
def _part(p, g, m, v, constants, t, cut):
    keep, rate, beta1, gain1, beta2, gain2, correction, eps, factor = constants
    i0, i1 = portion(p.size, t, cut, WHOLE)
    p, g, m, v = p[i0:i1], g[i0:i1], m[i0:i1], v[i0:i1]
    for i in range(i1 - i0):
        clipped = _times(g[i], factor)
        m[i] = fused(beta1, m[i], gain1 * clipped)
        v[i] = fused(beta2, v[i], gain2 * (clipped * clipped))  # inf from |g| = 1.8e19 on
        p[i] = keep * p[i] - rate * m[i] / (np.sqrt(correction * v[i]) + eps)


@compiled((*ARRAYS, *[number] * 9, count), parallel=True)
def _adamw(p, g, m, v, keep, rate, beta1, gain1, beta2, gain2, correction, eps, factor, cut):
    constants = keep, rate, beta1, gain1, beta2, gain2, correction, eps, factor
    if cut == 1:
        for t in range(cut):
            _part(p, g, m, v, constants, t, cut)
    else:
        for t in prange(cut):
            _part(p, g, m, v, constants, t, cut)


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    """One AdamW step in place on p, m, v (any shape, contiguous); step counts from 1; as torch.

    p ← p (1 - lr·wd);  m ← β₁m + (1-β₁)g;  v ← β₂v + (1-β₂)g²;  p ← p - lr · m̂ / (√v̂ + eps),
    m̂, v̂ bias-corrected, g the gradient times factor. Raises ValueError where p, m or v is not
    contiguous, or not of one shape.
    Source: Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.
    """
    for name, array in (("p", p), ("m", m), ("v", v)):
        if array.shape != p.shape or not array.flags.c_contiguous:
            raise ValueError(f"adamw: {name} has shape {array.shape}, wanted {p.shape}, contiguous")
    g = dense(g, p.shape)
    keep, rate, correction = 1 - lr * weight_decay, lr / (1 - beta1**step), 1 / (1 - beta2**step)
    constants = keep, rate, beta1, 1 - beta1, beta2, 1 - beta2, correction, eps, factor
    _adamw(*(a.reshape(-1) for a in (p, g, m, v)), *constants, tasks(p.size, GRAIN))
