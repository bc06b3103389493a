"""AdamW over flat arrays: each entry reads or writes seven numbers, without temporary arrays."""

import numpy as np
from numba import float32, types

from .jit import CHUNK, TASK, compiled, contiguous, portion, read, run, tasks, write
from .vectors import fma

GRAIN = 50_000  # numbers below which a second thread costs more than it saves


ADAMW = write(1), read(1), write(1), write(1), types.UniTuple(float32, 9)


@compiled((float32, float32), fast=False)
def _times(g, factor):
    """The product, rounded by itself like NumPy's g * factor, and not fused with a later sum."""
    return g * factor


@compiled((*ADAMW, *TASK))
def _adamw_part(p, g, m, v, constants, t, n_tasks):
    keep, rate, beta1, gain1, beta2, gain2, correction, eps, factor = constants
    i0, i1 = portion(p.size, t, n_tasks, CHUNK)
    p, g, m, v = p[i0:i1], g[i0:i1], m[i0:i1], v[i0:i1]
    for i in range(i1 - i0):
        clipped = _times(g[i], factor)
        m[i] = fma(beta1, m[i], gain1 * clipped)
        v[i] = fma(beta2, v[i], gain2 * (clipped * clipped))  # inf from |g| = 1.8e19 on
        p[i] = keep * p[i] - rate * m[i] / (np.sqrt(correction * v[i]) + eps)


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    """One AdamW step in place on p, m, v (any shape, contiguous); step counts from 1; as torch.

    p ← p (1 - lr·wd);  m ← β₁m + (1-β₁)g;  v ← β₂v + (1-β₂)g²;  p ← p - lr · m̂ / (√v̂ + eps).
    m̂ and v̂ are bias-corrected, g is the gradient times factor. Raises ValueError where p, m or v
    is not contiguous, or m or v has another shape than p.
    Source: Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.
    """
    shape, adjacent = (
        p.shape,
        p.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous,
    )
    if not (adjacent and m.shape == v.shape == shape):
        got = ", ".join(f"{name} {a.shape}" for name, a in (("p", p), ("m", m), ("v", v)))
        raise ValueError(f"adamw: got {got}, wanted {shape}, contiguous")
    g = contiguous(g, shape)
    keep, rate, correction = 1 - lr * weight_decay, lr / (1 - beta1**step), 1 / (1 - beta2**step)
    constants = keep, rate, beta1, 1 - beta1, beta2, 1 - beta2, correction, eps, factor
    arguments = p.ravel(), g.ravel(), m.ravel(), v.ravel(), constants
    run(_adamw_part, arguments, tasks(p.size, GRAIN))
