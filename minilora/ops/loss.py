"""Softmax cross-entropy, alone and together with the head that makes the logits.

The gradient softmax(z) - onehot(target) is cheap once the softmax is computed. So forward computes
and keeps it, and backward only multiplies it by ∂loss/∂(this loss).
"""

import numpy as np

from ..engine import Op

IGNORED = -100  # a target that does not count


def losses_and_gradients(z, targets):
    """logsumexp(z) - z[target] of each row, and its gradient softmax(z) - onehot(target).

    z (M, V), targets (M,) ints; both are 0 where the target is IGNORED  ->  (M,), (M, V).
    """
    rows = np.flatnonzero(targets != IGNORED)
    top = z.max(axis=1, keepdims=True)
    e = np.exp(z - top)
    total = e.sum(axis=1, keepdims=True)
    losses = np.zeros_like(z[:, 0])
    losses[rows] = (top + np.log(total))[rows, 0] - z[rows, targets[rows]]
    dz = e / total
    dz[rows, targets[rows]] -= 1
    dz[targets == IGNORED] = 0
    return losses, dz


def cross_entropy_forward(logits, targets, count=None):
    """loss = Σ (logsumexp(z) - z[target]) / count, over the rows whose target is not -100.

    logits z (M, V), targets (M,) ints; count: the divisor, None: the number of those rows
    ->  loss ().
    """
    losses, dlogits = losses_and_gradients(logits, targets)
    count = count or max(1, int((targets != IGNORED).sum()))
    return (losses.sum() / count).astype(logits.dtype), (dlogits, count)


def cross_entropy_backward(dloss, cache):
    """dloss () -> dlogits (M, V), None, None."""
    dlogits, count = cache
    dz = dlogits * (dloss / count)  # loss = Σ losses / count
    return dz, None, None


def head_loss_forward(h, W, targets, count=None):
    """loss = cross-entropy of z = h Wᵀ, W trained.   h (M, C), W (V, C), targets (M,)  ->  loss ().

    Keeps dh (R, C) of the R rows that count, and dW (V, C).
    """
    rows = np.flatnonzero(targets != IGNORED)
    losses, dz = losses_and_gradients(h[rows] @ W.T, targets[rows])
    dh, dW = dz @ W, dz.T @ h[rows]  # z = h Wᵀ
    count = count or max(1, len(rows))
    return (losses.sum() / count).astype(h.dtype), (rows, dh, dW, h.shape, count)


def head_loss_backward(dloss, cache):
    """dloss () -> dh (M, C), dW (V, C), None, None."""
    rows, dh, dW, shape, count = cache
    scale = np.asarray(dloss / count, dh.dtype)  # loss = Σ losses / count
    all_rows = np.zeros_like(dh, shape=shape)
    all_rows[rows] = dh * scale
    return all_rows, dW * scale, None, None


def frozen_head_loss_forward(h, W, targets, count=None):
    """loss = cross-entropy of z = h Wᵀ, W frozen. Like `head_loss_forward`, but keeps only dh."""
    rows = np.flatnonzero(targets != IGNORED)
    losses, dz = losses_and_gradients(h[rows] @ W.T, targets[rows])
    count = count or max(1, len(rows))
    return (losses.sum() / count).astype(h.dtype), (rows, dz @ W, h.shape, count)  # z = h Wᵀ


def frozen_head_loss_backward(dloss, cache):
    """dloss () -> dh (M, C), None, None, None."""
    rows, dh, shape, count = cache
    all_rows = np.zeros_like(dh, shape=shape)
    all_rows[rows] = dh * np.asarray(dloss / count, dh.dtype)  # loss = Σ losses / count
    return all_rows, None, None, None


def head_loss_value(h, W, targets, count=None):
    """The loss without gradients, for calls in which nothing trains."""
    rows = np.flatnonzero(targets != IGNORED)
    losses, _ = losses_and_gradients(h[rows] @ W.T, targets[rows])
    return (losses.sum() / (count or max(1, len(rows)))).astype(h.dtype)


cross_entropy = Op(
    "cross_entropy", cross_entropy_forward, cross_entropy_backward, saves=("dlogits", "count")
)
head_loss = Op(
    "head_loss",
    head_loss_forward,
    head_loss_backward,
    value=head_loss_value,
    saves=("rows", "dh", "dW", "shape", "count"),
)
frozen_head_loss = Op(
    "frozen_head_loss",
    frozen_head_loss_forward,
    frozen_head_loss_backward,
    value=head_loss_value,
    saves=("rows", "dh", "shape", "count"),
)
