"""Full fine-tuning: every weight trains. The five techniques are compared with it.

The pair is that of a trained linear: y = x Wᵀ, dx = dy W, dW = dyᵀ x. It keeps x (M, I). The
gradient has O·I numbers, AdamW's moments twice as many. Embeddings, norms and head train too.
"""

import numpy as np

from ..ops import linear
from .base import Method, Moment


def init(W, rank, options, rng, shared):
    """No further arguments: the copy of W is the parameter."""
    return {}


def delta(W, **_):
    """ΔW = 0, since W itself is trained."""
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
    moments=(
        Moment(
            "full fine-tuning makes a gradient as large as W",
            "dW has a number for each weight, and AdamW keeps two more for each.",
            "backward",
            "dW = ",
            place="q_proj",
        ),
    ),
)
