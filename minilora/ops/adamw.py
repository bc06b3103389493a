"""AdamW's step on one array."""

import numpy as np

from ..engine import Function


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    """One AdamW step, in place on p, m and v (any shape, contiguous). step counts from 1.

    g ← factor·g;  m ← β₁m + (1-β₁)g;  v ← β₂v + (1-β₂)g²;  p ← p (1 - lr·wd) - lr · m̂ / (√v̂ + eps),
    m̂ = m / (1-β₁ⁿ), v̂ = v / (1-β₂ⁿ) at step n.
    Source: Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2; eps as in torch.
    """
    g = g * factor
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    p *= 1 - lr * weight_decay
    p -= (lr / (1 - beta1**step)) * m / (np.sqrt(v * (1 / (1 - beta2**step))) + eps)


adamw = Function(adamw)
