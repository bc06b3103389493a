"""Softmax cross-entropy: the losses and the gradient in one visit of each row."""

import math

import numpy as np
from numba import int64, prange

from .jit import compiled, count, dense, exp, maximum, read, tasks, write
from .numpy_ref import IGNORED

GRAIN = 8_000  # logits below which a second thread costs more than it brings


@compiled()
def _rows(logits, targets, out, losses, i0, i1):
    V = logits.shape[1]
    for i in range(i0, i1):
        t = targets[i]
        if t == IGNORED:
            losses[i] = 0
            out[i] = 0
            continue
        top = logits[i, 0]
        for j in range(1, V):
            top = maximum(top, logits[i, j])
        depth = top - logits[i, t]  # read before out, which may be the same array, is written
        total = np.float32(0)
        for j in range(V):
            e = exp(logits[i, j] - top)
            out[i, j] = e
            total += e
        losses[i] = math.log(total) + depth
        share = np.float32(1) / total
        for j in range(V):
            out[i, j] *= share
        out[i, t] -= np.float32(1)


@compiled((read(2), read(1, dtype=int64), write(2), write(1), count), parallel=True)
def _cross_entropy(logits, targets, out, losses, cut):
    M = len(logits)
    share = -(-M // cut)
    if cut == 1:
        _rows(logits, targets, out, losses, 0, M)
    else:
        for t in prange(cut):
            _rows(logits, targets, out, losses, t * share, min((t + 1) * share, M))


@compiled((read(1, dtype=int64), count))
def _stray(targets, V):
    """The place of the first target that is no column of V and not IGNORED, or -1."""
    for i in range(len(targets)):
        if not -V <= targets[i] < V and targets[i] != IGNORED:
            return i
    return -1


def cross_entropy(logits, targets, out):
    """losses = logsumexp(logits) - logits[target]; out = softmax(logits) - onehot(target).

    logits, out (M, V), which may be one array; targets (M,) ints, -100 where a row does not count (loss 0, gradient 0).
    -> losses (M,).   Raises IndexError for a target outside of V.
    """
    M, V = logits.shape
    targets = np.ascontiguousarray(targets, np.int64)
    if targets.shape != (M,) or out.shape != (M, V):
        raise ValueError(
            f"cross_entropy: got targets {targets.shape}, out {out.shape} for logits {(M, V)}"
        )
    stray = _stray(targets, V)
    if stray >= 0:
        raise IndexError(
            f"cross_entropy: target {targets[stray]} in row {stray}, wanted 0 to {V - 1} or {IGNORED}"
        )
    losses = np.empty(M, np.float32)
    result = out if out.flags.c_contiguous else np.empty((M, V), np.float32)
    _cross_entropy(dense(logits, (M, V)), targets, result, losses, tasks(M * V, GRAIN))
    if result is not out:
        out[...] = result
    return losses
