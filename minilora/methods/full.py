"""Full fine-tuning: every weight is its own parameter. The yardstick for the five techniques.

The pair is the trained linear's: y = x Wᵀ, dx = dy W, dW = dyᵀ x, which keeps x (M, I) and asks for
(O, I) numbers of gradient and twice as many of AdamW's moments. Embeddings, norms and head train as
well.
"""

import numpy as np

from ..ops import linear
from .base import Method


def init(W, rank, options, rng, shared):
    """Nothing is added: the copy of W is the parameter."""
    return {}


def delta(W, **_):
    """ΔW = 0: what was learned stands in W already."""
    return np.zeros_like(W)


def count(I, O, rank):
    """I·O."""
    return I * O


METHOD = Method(
    name="full",
    title="Full fine-tuning",
    source="no adapter",
    formula="W",
    op=linear,
    trains=("W",),
    init=init,
    delta=delta,
    count=count,
    takes=(),
    owns_weight=True,
    whole_model=True,
)
