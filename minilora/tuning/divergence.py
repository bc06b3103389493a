"""The error of a training run that diverges. It names the first array that is not finite."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..engine import tape
from ..support.meta import arrays_in, dense
from .adapters import Tuned


class Diverged(ValueError):
    """The loss or an array is no longer finite.

    If the loss or a gradient is not finite, the arrays stay as they were before that step. If the
    step itself overflowed, an array is not finite after it; no checkpoint has been written.
    """

    def __init__(self, step: int, what: str):
        super().__init__(step, what)  # both arguments: pickle needs them, for another process
        self.step = step

    def __str__(self):
        return f"train: step {self.step}: {self.args[1]}"


def check_gradients(
    tuned: Tuned, parts: Sequence, loss: float, grads: Mapping[str, np.ndarray], step: int
) -> None:
    """Raises Diverged if the loss or a gradient is not finite.

    parts: the batches (ids, targets) of the step; grads: key -> gradient of the array's shape. The
    error names the first array that is not finite, in the order of computation.
    """
    with np.errstate(all="ignore"):  # a sum of squares is fast, but may overflow by itself
        if math.isfinite(loss + sum(float(np.vdot(g, g)) for g in grads.values())):
            return
    bad = [key for key, g in grads.items() if not np.isfinite(g).all()]
    if math.isfinite(loss) and not bad:
        return
    weights = {**tuned.base.params, **tuned.arrays}
    infinite = (name for name, w in weights.items() if not np.isfinite(dense(w)).all())
    first = next((f"the array {name}" for name in infinite), None)
    if first is None and bad and math.isfinite(loss):
        first = f"the gradient of {bad[-1]}"  # backward computes the last layer first
    first = first or _first_bad_activation(tuned, parts, step)
    raise Diverged(step, f"the loss is {loss}; the first that is not finite: {first}")


def _first_bad_activation(tuned, parts, step):
    """Run the forward pass again; name the first op whose cache is not finite."""
    for j, (ids, targets) in enumerate(parts):
        loss = tuned.loss(ids, targets, leaves=tuned.leaves(), key=(tuned.seed, step, j))
        for node in tape(loss):
            if node.op and any(not np.isfinite(a).all() for a in arrays_in(node.cache)):
                return f"an array of {node.op.name} in {node.name}"
    return "the loss itself"


def check_arrays(tuned: Tuned, step: int) -> None:
    """Raises Diverged if a step overflowed an array; call it before a checkpoint is written."""
    for key, a in tuned.arrays.items():
        if not np.isfinite(a).all():
            raise Diverged(step, f"the array {key} is not finite after it; wanted a lower rate")
