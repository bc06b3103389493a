"""AdamW over flat arrays: seven numbers read or written an entry, and nothing in between."""

import numpy as np
from numba import prange

from .jit import compiled, count, dense, number, read, tasks, write

GRAIN = 50_000  # numbers below which a second thread costs more than it brings


@compiled()
def _part(p, g, m, v, constants, i0, i1):
    keep, rate, beta1, gain1, beta2, gain2, correction, eps = constants
    for i in range(i0, i1):
        m[i] = beta1 * m[i] + gain1 * g[i]
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] = keep * p[i] - rate * m[i] / (np.sqrt(correction * v[i]) + eps)


@compiled((write(1), read(1), write(1), write(1), *[number] * 8, count), parallel=True)
def _adamw(p, g, m, v, keep, rate, beta1, gain1, beta2, gain2, correction, eps, cut):
    constants = keep, rate, beta1, gain1, beta2, gain2, correction, eps
    share = -(-p.size // cut)
    if cut == 1:
        _part(p, g, m, v, constants, 0, p.size)
    else:
        for t in prange(cut):
            _part(p, g, m, v, constants, t * share, min((t + 1) * share, p.size))


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step):
    """One AdamW step in place on p, m, v (any shape, contiguous); step counts from 1; torch's formula.

    p ← p (1 - lr·wd);  m ← β₁m + (1-β₁)g;  v ← β₂v + (1-β₂)g²;  p ← p - lr · m̂ / (√v̂ + eps), m̂, v̂ bias-corrected.
    Raises ValueError where p, m or v is not contiguous, or not of one shape.
    Source: Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.
    """
    for name, array in (("p", p), ("m", m), ("v", v)):
        if array.shape != p.shape or not array.flags.c_contiguous:
            raise ValueError(f"adamw: {name} has shape {array.shape}, wanted {p.shape}, contiguous")
    rate, correction = lr / (1 - beta1**step), 1 / (1 - beta2**step)
    _adamw(
        p.reshape(-1), dense(g, p.shape).reshape(-1), m.reshape(-1), v.reshape(-1),
        1 - lr * weight_decay, rate, beta1, 1 - beta1, beta2, 1 - beta2, correction, eps,
        tasks(p.size, GRAIN),
    )  # fmt: skip
