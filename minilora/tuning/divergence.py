"""Where a run went bad: the first number that is not finite, by name."""

import math

import numpy as np

from ..engine import tape
from ..support.meta import arrays_in


class Diverged(ValueError):
    """The loss or a gradient is no finite number any more: the arrays are as before that step. Or
    an array is not, after it: the step itself overflowed, and no checkpoint was written.
    """

    def __init__(self, step: int, what: str):
        super().__init__(step, what)  # both, so that it can be sent from process to process
        self.step = step

    def __str__(self):
        return f"train: step {self.step}: {self.args[1]}"


def check_gradients(tuned, parts, loss, grads, step):
    """Raises Diverged with the first array that went bad, in the order in which they are
    computed.
    """
    bad = [key for key, g in grads.items() if not np.isfinite(g).all()]
    if math.isfinite(loss) and not bad:
        return
    weights = {**tuned.base.params, **tuned.arrays}
    first = next(
        (f"the array {key}" for key, a in weights.items() if not np.isfinite(a).all()), None
    )
    if first is None and bad and math.isfinite(loss):
        first = f"the gradient of {bad[-1]}"  # backward reaches the last layer first
    raise Diverged(
        step,
        f"the loss is {loss}; "
        f"the first that is not finite: {first or _first_bad_activation(tuned, parts, step)}",
    )


def _first_bad_activation(tuned, parts, step):
    """The first in the forward pass, run again, among what is kept for backward."""
    for j, (ids, targets) in enumerate(parts):
        loss = tuned.loss(ids, targets, leaves=tuned.leaves(), key=(tuned.seed, step, j))
        for node in tape(loss):
            if node.op and any(not np.isfinite(a).all() for a in arrays_in(node.cache)):
                return f"what {node.op.name} in {node.name} computes with"
    return "the loss itself"


def check_arrays(tuned, step):
    """Raises Diverged where the step itself overflowed an array:
    before it is written to a checkpoint or handed back.
    """
    for key, a in tuned.arrays.items():
        if not np.isfinite(a).all():
            raise Diverged(step, f"the array {key} is not finite after it; the rate is too high")
