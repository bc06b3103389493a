"""Twins of the pages' functions, written with kernels: the same names, arguments, caches.

The page's function of the same name says what a twin computes, and why. This file shows the order
of the work and what is done in one pass over memory. A backward's twin may have one more argument:
with `add_to`, it adds the first argument's accumulated gradient and returns the sum as the first
gradient.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from .. import engine, ops
from ..engine import Pair
from ..methods import delta_lora, dora, lora, lora_fa, vera
from ..ops.adamw import adamw as adamw_page
from ..ops.dropout import mask as mask_page
from ..ops.loss import IGNORED
from ..support.meta import filled
from . import kernels as K
from . import or_page

CHUNK = 128  # rows of logits that exist at once


# ---------------------------------------- linears, and linears under an adapter


def linear_forward(x, W):
    return K.matmul_nt(x, W), (x, W)


def linear_backward(dy, cache, need=(True, True)):
    x, W = cache
    return K.matmul_nn(dy, W) if need[0] else None, K.matmul_tn(dy, x) if need[1] else None


def frozen_linear_forward(x, W):
    return K.matmul_nt(x, W), W


def frozen_linear_backward(dy, W):
    return K.matmul_nn(dy, W), None


def _through_both(dy, W, dz, A, dropped):
    """dx and dxd: one fused product where the adapter reads x itself, two where it reads xd."""
    if dropped:
        return K.matmul_nn(dy, W), K.matmul_nn(dz, A)
    return K.adapted_nn(dy, W, dz, A), None


def lora_forward(x, W, s, A, B, xd=None):
    xa = x if xd is None else xd
    y, z = K.lora_forward(x, xa, W, s, A, B)
    return y, (xa, z, W, s, A, B, xd is not None)


def lora_backward(dy, cache, need=(True,) * 6):
    xa, z, W, s, A, B, dropped = cache
    dx, dz, dA, dB = K.lora_backward(dy, xa, z, W, s, A, B, need[0] and not dropped)
    if not (need[0] and dropped):
        return dx, None, None, dA, dB, None
    return K.matmul_nn(dy, W), None, None, dA, dB, K.matmul_nn(dz, A)


def lora_fa_forward(x, W, s, A, B, xd=None):
    z = K.matmul_nt(x if xd is None else xd, A)
    y = K.adapted_nt(x, W, z * s, B)
    return y, (z, W, s, A, B, xd is not None)


def lora_fa_backward(dy, cache, need=(True,) * 6):
    z, W, s, A, B, dropped = cache
    dB = K.matmul_tn(dy, z) * s
    if not need[0]:
        return None, None, None, None, dB, None
    dz = K.matmul_nn(dy, B) * s
    dx, dxd = _through_both(dy, W, dz, A, dropped)
    return dx, None, None, None, dB, dxd


def vera_forward(x, W, A, B, b, d, xd=None):
    u = K.matmul_nt(x if xd is None else xd, A)
    # scaling B's rows by b costs O·r multiplications, scaling the result M·O
    y = K.adapted_nt(x, W, u * d, B * b[:, None])
    return y, (u, W, A, B, b, d, xd is not None)


def vera_backward(dy, cache, need=(True,) * 7):
    u, W, A, B, b, d, dropped = cache
    G = K.matmul_tn(dy, u)
    db = (G * B) @ d
    dd = b @ (G * B)
    if not need[0]:
        return None, None, None, None, db, dd, None
    du = K.matmul_nn(dy, B * b[:, None]) * d
    dx, dxd = _through_both(dy, W, du, A, dropped)
    return dx, None, None, None, db, dd, dxd


def dora_forward(x, W, s, A, B, m, norm):
    z = K.matmul_nt(x, A)
    u = K.adapted_nt(x, W, z * s, B)
    return m / norm * u, (x, z, u, W, s, A, B, m, norm)


def dora_backward(dy, cache, need=(True,) * 7):
    x, z, u, W, s, A, B, m, norm = cache
    dm = (dy * u).sum(axis=0) / norm
    du = dy * (m / norm)
    dz = K.matmul_nn(du, B) * s
    dB = K.matmul_tn(du, z) * s
    dA = K.matmul_tn(dz, x)
    dx = K.adapted_nn(du, W, dz, A) if need[0] else None
    return dx, None, None, dA, dB, dm, None


def add_product(W, left, right):
    K.matmul_nn(left, right, add_to=W)


# ---------------------------------------- the rest of the model


def add(a, b):
    return K.add(a, b)


def add_forward(a, b):
    shapes = np.shape(a), np.shape(b)
    return K.add(a, b) if shapes[0] == shapes[1] else a + b, shapes


def mask(x, p, key, rows=None):
    m = filled(x, x.shape, lambda: _uniform(key, rows, x.shape))
    return np.multiply(m >= p, 1 / (1 - p), out=m)  # in place: one array, not two


def _uniform(key, rows, shape):
    """The numbers that the page draws for these rows, without drawing those of other rows."""
    philox = np.random.Philox(np.random.SeedSequence(key))
    bits, (M, columns) = np.random.Generator(philox), shape
    if rows is None:
        return bits.random(shape, np.float32)
    if columns % 8:  # a counter gives 8 numbers: a row does not begin with a new one
        return bits.random((int(rows[-1]) + 1, columns), np.float32)[rows]
    u, row = np.empty(shape, np.float32), 0  # row: the batch's row that would be drawn next
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of adjacent rows
    for start, stop in zip(starts, [*starts[1:], M]):
        philox.advance(int(rows[start] - row) * columns // 8)
        bits.random(out=u[start:stop], dtype=np.float32)
        row = rows[stop - 1] + 1
    return u


def rmsnorm_forward(x, g, eps):
    y, rstd = K.rmsnorm_forward(x, g, eps)
    return y, (x, g, rstd)


def rmsnorm_backward(dy, cache, need=(True, True, False), add_to=None):
    x, g, rstd = cache
    dx = K.rmsnorm_dx(dy, x, g, rstd, add_to) if need[0] else None
    dg = K.rmsnorm_dg(dy, x, rstd) if need[1] else None
    return dx, dg, None


def rope_forward(x, cos, sin):
    return K.rope(x, cos, sin), (cos, sin)


def rope_backward(dy, cache):
    cos, sin = cache
    return K.rope(dy, cos, -sin), None, None


def attention_forward(q, k, v, spans):
    o, lse = K.attention_forward(q, k, v, spans)
    return o, (q, k, v, spans, o, lse)


def attention_backward(do, cache):
    return *K.attention_backward(do, *cache), None


def embedding_backward(dx, cache):
    ids, (V, _) = cache
    return K.embedding_dE(dx, ids, V), None


def swiglu_forward(gate, up):
    return K.swiglu_forward(gate, up), (gate, up)


def swiglu_backward(dh, cache):
    return K.swiglu_backward(dh, *cache)


def frozen_feed_forward_forward(x, Wg, Wu, Wd):
    y, gate, up = K.feed_forward(x, Wg, Wu, Wd)
    return y, (gate, up, Wg, Wu, Wd)


def frozen_feed_forward_backward(dy, cache):
    return K.feed_forward_dx(dy, *cache), None, None, None


# ---------------------------------------- the loss: logits exist for CHUNK rows at a time


def cross_entropy_forward(logits, targets, count=None):
    dlogits = np.empty_like(logits)
    losses = K.cross_entropy(logits, targets, dlogits)
    count = count or max(1, int((targets != IGNORED).sum()))
    return _mean(losses, count), (dlogits, count)


def head_loss_forward(h, W, targets, count=None):
    dW = np.zeros_like(W)
    loss, rows, dh, count = _head_in_chunks(h, W, targets, count, dW)
    return loss, (rows, dh, dW, h.shape, count)


def frozen_head_loss_forward(h, W, targets, count=None):
    loss, rows, dh, count = _head_in_chunks(h, W, targets, count)
    return loss, (rows, dh, h.shape, count)


def head_loss_value(h, W, targets, count=None):
    rows = np.flatnonzero(targets != IGNORED)
    total = sum(float(losses.sum()) for _, losses, _ in _chunks(h, W, targets, rows))
    return _mean(np.array(total, h.dtype), count or max(1, len(rows)))


def _head_in_chunks(h, W, targets, count, dW=None):
    """Loss, the rows that count, their dh (R, C), the divisor; adds to dW (V, C) where given."""
    rows = np.flatnonzero(targets != IGNORED)
    dh = np.empty_like(h, shape=(len(rows), h.shape[1]))
    total = np.zeros((), np.float64)
    for start, losses, dlogits in _chunks(h, W, targets, rows):
        total += losses.sum()
        here = rows[start : start + CHUNK]
        dh[start : start + CHUNK] = K.matmul_nn(dlogits, W)
        if dW is not None:
            K.matmul_tn(dlogits, h[here], add_to=dW)
    count = count or max(1, len(rows))
    return _mean(total.astype(h.dtype), count), rows, dh, count


def _chunks(h, W, targets, rows):
    """For CHUNK of the rows at a time: where they start, their losses, softmax - onehot."""
    for start in range(0, len(rows), CHUNK):
        here = rows[start : start + CHUNK]
        logits = K.matmul_nt(h[here], W)
        losses = K.cross_entropy(logits, targets[here], logits)
        yield start, losses, logits  # the kernel has written the gradient into logits


def _mean(losses, count):
    return (losses.sum() / count).astype(losses.dtype)


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    K.adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor)


# an op, or a function that is not an op -> the twins of its forward, backward and value
PAGES: dict[Any, tuple[Callable | None, ...]] = {
    engine.add: (None, None, add),
    ops.linear: (linear_forward, linear_backward),
    ops.frozen_linear: (frozen_linear_forward, frozen_linear_backward),
    ops.add: (add_forward, None),
    mask_page: (None, None, mask),
    ops.rmsnorm: (rmsnorm_forward, rmsnorm_backward),
    ops.rope: (rope_forward, rope_backward),
    ops.attention: (attention_forward, attention_backward),
    ops.embedding: (None, embedding_backward),
    ops.swiglu: (swiglu_forward, swiglu_backward),
    ops.frozen_feed_forward: (frozen_feed_forward_forward, frozen_feed_forward_backward),
    ops.cross_entropy: (cross_entropy_forward, None),
    ops.head_loss: (head_loss_forward, None, head_loss_value),
    ops.frozen_head_loss: (frozen_head_loss_forward, None, head_loss_value),
    lora.lora: (lora_forward, lora_backward),
    lora_fa.lora_fa: (lora_fa_forward, lora_fa_backward),
    vera.vera: (vera_forward, vera_backward),
    dora.dora: (dora_forward, dora_backward),
    delta_lora.add_product: (None, None, add_product),
    adamw_page: (None, None, adamw),
}


# a page's function -> what runs in its place
TWINS = {
    page: or_page(twin, page)
    for pair, twins in PAGES.items()
    for page, twin in zip((pair.forward, pair.backward, pair.value), twins)
    if twin
}


def faster(pair: Pair) -> Pair:
    """What runs in a pair's place: for each of its functions the twin, or itself without one."""
    own = pair.forward, pair.backward, pair.value
    return Pair(*(TWINS.get(f, f) if isinstance(f, FunctionType) else f for f in own))
