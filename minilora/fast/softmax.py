"""Softmax cross-entropy: each row is visited once for its loss and its gradient."""

import math

import numpy as np
from numba import int64

from ..ops.loss import IGNORED
from .jit import ONE, TASK, compiled, integers, portion, read, run, tasks, write
from .sums import total
from .vectors import exp, maximum

GRAIN = 10_000  # logits below which a second thread costs more than it saves


# z holds the logits and becomes the gradient. With two arrays LLVM could not know whether they
# overlap, and would not make vector code.
CROSS_ENTROPY = write(2), read(1, dtype=int64), write(1)


@compiled((*CROSS_ENTROPY, *TASK))
def _cross_entropy_rows(z, targets, losses, t, n_tasks):
    V = z.shape[1]
    for i in range(*portion(len(z), t, n_tasks, 1)):
        target = targets[i]
        if target == IGNORED:
            losses[i] = 0
            z[i] = 0
            continue
        top = z[i, 0]
        for j in range(1, V):
            top = maximum(top, z[i, j])
        below = top - z[i, target]
        for j in range(V):
            z[i, j] = exp(z[i, j] - top)
        denominator = total(z[i])
        losses[i] = math.log(denominator) + below
        share = ONE / denominator
        for j in range(V):
            z[i, j] *= share
        z[i, target] -= ONE


@compiled((read(1, dtype=int64), int64))
def _first_wrong(targets, V):
    """The index of the first target that is neither a column of V nor IGNORED, or -1."""
    for i in range(len(targets)):
        if not -V <= targets[i] < V and targets[i] != IGNORED:
            return i
    return -1


def cross_entropy(logits, targets, out):
    """losses = logsumexp(logits) - logits[target]; out = softmax(logits) - onehot(target).

    logits, out (M, V), which may be one array; targets (M,) ints, -100 where a row does not count
    (loss 0, gradient 0). -> losses (M,). Raises IndexError for a target outside of V.
    """
    M, V = logits.shape
    targets = integers(targets)
    if targets.shape != (M,) or out.shape != (M, V):
        raise ValueError(
            f"cross_entropy: got targets {targets.shape}, out {out.shape} for logits {(M, V)}, "
            f"wanted {(M,)}, {(M, V)}"
        )
    wrong = _first_wrong(targets, V)
    if wrong >= 0:
        got, wanted = targets[wrong], f"0 to {V - 1} or {IGNORED}"
        raise IndexError(f"cross_entropy: target {got} in row {wrong}, wanted {wanted}")
    losses = np.empty(M, np.float32)
    z = out if out.flags.c_contiguous else np.empty((M, V), np.float32)
    if z is not logits:
        z[...] = logits
    run(_cross_entropy_rows, (z, targets, losses), tasks(M * V, GRAIN))
    if z is not out:
        out[...] = z
    return losses
