"""The ops: pairs of plain functions, bound to the tape by name.

`forward` returns (output, cache); the cache is what `backward` reads. `backward` takes
∂loss/∂output and the cache, and returns one gradient for each argument, in order: dx for x, None
if the argument has no gradient. A `backward` that takes `need` is told for each argument whether
its gradient is wanted.
"""

from .attention import attention
from .basic import (
    add,
    concat,
    exp,
    index,
    log,
    matmul,
    maximum,
    mean,
    mul,
    power,
    reshape,
    sum,
    tanh,
    transpose,
)
from .dropout import dropout
from .embedding import embedding
from .linear import frozen_linear, linear
from .loss import cross_entropy, frozen_head_loss, head_loss
from .nf4 import nf4_linear
from .recompute import recompute
from .rmsnorm import rmsnorm
from .rope import rope
from .swiglu import frozen_feed_forward, swiglu
from .take import take

__all__ = [
    "add",
    "attention",
    "concat",
    "cross_entropy",
    "dropout",
    "embedding",
    "exp",
    "frozen_feed_forward",
    "frozen_head_loss",
    "frozen_linear",
    "head_loss",
    "index",
    "linear",
    "log",
    "matmul",
    "maximum",
    "mean",
    "mul",
    "nf4_linear",
    "power",
    "recompute",
    "reshape",
    "rmsnorm",
    "rope",
    "sum",
    "swiglu",
    "take",
    "tanh",
    "transpose",
]
