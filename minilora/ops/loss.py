"""Softmax cross-entropy, alone and fused with the head that makes the logits.

The gradient softmax(z) - onehot costs next to nothing once the softmax is there, so these pairs
make it in forward and
keep it: backward only multiplies by ∂loss/∂(this loss). With the head, logits exist for CHUNK rows
at a time, and only for rows whose target counts.
"""

import numpy as np

from .. import fast as K
from ..engine import Op
from ..fast.numpy_ref import IGNORED

CHUNK = 128  # rows of logits that exist at once


def cross_entropy_forward(logits, targets, count=None):
    """loss = Σ (logsumexp(z) - z[target]) / count over rows whose target is not -100.

    logits z (M, V), targets (M,) ints; count: what the sum is divided by, the rows that count where
    None  ->  loss ().
    """
    dlogits = np.empty_like(logits)
    losses = K.cross_entropy(logits, targets, dlogits)
    count = count or max(1, int((targets != IGNORED).sum()))
    return _total(losses, count), (dlogits, count)


def cross_entropy_backward(dloss, cache):
    """dloss () -> dlogits (M, V), None, None."""
    dlogits, count = cache
    return (
        dlogits * (dloss / count),
        None,
        None,
    )  # ∂/∂z (logsumexp(z) - z[target]) = softmax - onehot


def head_loss_forward(h, W, targets, count=None):
    """loss = cross-entropy of z = h Wᵀ, W trained.   h (M, C), W (V, C), targets (M,), count  ->
    loss ().

    Keeps dh (rows that count, C) and dW (V, C), made chunk by chunk.
    """
    dW = np.zeros_like(W)
    loss, rows, dh, count = _head_in_chunks(h, W, targets, count, dW)
    return loss, (rows, dh, dW, h.shape, count)


def head_loss_backward(dloss, cache):
    """dloss () -> dh (M, C), dW (V, C), None, None."""
    rows, dh, dW, shape, count = cache
    return _spread(dh, rows, shape, dloss / count), dW * (dloss / count), None, None


def frozen_head_loss_forward(h, W, targets, count=None):
    """loss = cross-entropy of z = h Wᵀ, W frozen. As head_loss, but keeps dh only."""
    loss, rows, dh, count = _head_in_chunks(h, W, targets, count)
    return loss, (rows, dh, h.shape, count)


def frozen_head_loss_backward(dloss, cache):
    """dloss () -> dh (M, C), None, None, None."""
    rows, dh, shape, count = cache
    return _spread(dh, rows, shape, dloss / count), None, None, None


def head_loss_value(h, W, targets, count=None):
    """The loss alone, for evaluation."""
    rows = np.flatnonzero(targets != IGNORED)
    total = sum(float(losses.sum()) for _, losses, _ in _chunks(h, W, targets, rows))
    return _total(np.array(total, h.dtype), count or max(1, len(rows)))


def _head_in_chunks(h, W, targets, count, dW=None):
    """Loss, the rows that count, their dh (R, C), the divisor;
    dW (V, C), where given, is added to.
    """
    rows = np.flatnonzero(targets != IGNORED)
    dh = np.empty_like(h, shape=(len(rows), h.shape[1]))
    total = np.zeros((), np.float64)
    for start, losses, dlogits in _chunks(h, W, targets, rows):
        total += losses.sum()
        here = rows[start : start + CHUNK]
        dh[start : start + CHUNK] = K.matmul_nn(dlogits, W)  # z = h Wᵀ
        if dW is not None:
            K.matmul_tn(dlogits, h[here], add_to=dW)  # z = h Wᵀ
    count = count or max(1, len(rows))
    return _total(total.astype(h.dtype), count), rows, dh, count


def _chunks(h, W, targets, rows):
    """For CHUNK of the counting rows at a time:
    where they start, their losses, softmax - onehot.
    """
    for start in range(0, len(rows), CHUNK):
        here = rows[start : start + CHUNK]
        logits = K.matmul_nt(h[here], W)
        losses = K.cross_entropy(logits, targets[here], logits)
        yield start, losses, logits  # by now the gradient stands in logits


def _total(losses, count):
    return (losses.sum() / count).astype(losses.dtype)


def _spread(dh, rows, shape, scale):
    """(R, C) back to all M rows, zero where no target counted."""
    full = np.zeros_like(dh, shape=shape)
    full[rows] = dh * np.asarray(scale, dh.dtype)
    return full


cross_entropy = Op("cross_entropy", cross_entropy_forward, cross_entropy_backward)
head_loss = Op("head_loss", head_loss_forward, head_loss_backward, value=head_loss_value)
frozen_head_loss = Op(
    "frozen_head_loss", frozen_head_loss_forward, frozen_head_loss_backward, value=head_loss_value
)
