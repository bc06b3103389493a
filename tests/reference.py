"""Every kernel a second time in plain NumPy, under the same name and with the same arguments."""

import inspect

import numpy as np

from minilora import ops
from minilora.ops.adamw import adamw as page_adamw
from minilora.ops.loss import IGNORED


def matmul_nt(x, w, add_to=None):
    """y = x wᵀ.   x (M, K), w (N, K) -> y (M, N); with add_to (M, N): add_to += x wᵀ, returned."""
    return _product(x, w.T, add_to)


def matmul_nn(x, w, add_to=None):
    """y = x w.   x (M, K), w (K, N) -> y (M, N); with add_to (M, N): add_to += x w, returned."""
    return _product(x, w, add_to)


def matmul_tn(x, y, add_to=None):
    """g = xᵀ y.   x (M, K), y (M, N) -> g (K, N); with add_to (K, N): add_to += xᵀ y, returned."""
    return _product(x.T, y, add_to)


def adapted_nt(x, w, z, b):
    """y = x wᵀ + z bᵀ.   x (M, K), w (N, K), z (M, r), b (N, r) -> y (M, N)."""
    return matmul_nt(z, b, add_to=matmul_nt(x, w))


def adapted_nn(x, w, z, b):
    """y = x w + z b.   x (M, K), w (K, N), z (M, r), b (r, N) -> y (M, N)."""
    return matmul_nn(z, b, add_to=matmul_nn(x, w))


def lora_forward(x, xa, W, s, A, B):
    """y = x Wᵀ + s z Bᵀ, z = xa Aᵀ.   x, xa (M, I), W (O, I), A (r, I), B (O, r) -> y (M, O), z."""
    return x @ W.T + s * (xa @ A.T) @ B.T, xa @ A.T


def lora_backward(dy, xa, z, W, s, A, B, wants_dx):
    """dz = s dy B, dA = dzᵀ xa, dB = s dyᵀ z, dx = dy W + dz A where wanted -> dx, dz, dA, dB."""
    dz = s * dy @ B
    return dy @ W + dz @ A if wants_dx else None, dz, dz.T @ xa, s * dy.T @ z


def _product(a, b, add_to):
    if add_to is None:
        return a @ b
    add_to += a @ b
    return add_to


def add(x, y):
    """x + y, of one shape."""
    return x + y


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), g (C,) -> y (M, C), rstd (M,)."""
    rstd = 1 / np.sqrt((x * x).mean(axis=1) + x.dtype.type(eps))
    return x * rstd[:, None] * g, rstd


def rmsnorm_dx(dy, x, g, rstd, old=0):
    """old + dx, dx = rstd (dy·g) - x rstd³ mean(dy·g·x).   dy, x, old (M, C), g (C,), rstd (M,)."""
    dyg = dy * g
    mean = (dyg * x).mean(axis=1)
    return old + dyg * rstd[:, None] - x * (mean * rstd**3)[:, None]


def rmsnorm_dg(dy, x, rstd):
    """dg = Σ rows of dy · x · rstd.   dy, x (M, C), rstd (M,) -> dg (C,)."""
    return (dy * x * rstd[:, None]).sum(axis=0)


def rope(x, cos, sin):
    """The page's y."""
    return ops.rope.forward(x, cos, sin)[0]


def swiglu_forward(gate, up):
    """The page's h."""
    return ops.swiglu.forward(gate, up)[0]


def swiglu_backward(dh, gate, up):
    """The page's dgate, dup."""
    return ops.swiglu.backward(dh, (gate, up))


def embedding_dE(dx, ids, V):
    """The page's dE."""
    return ops.embedding.backward(dx, (ids, (V, dx.shape[1])))[0]


def feed_forward(x, Wg, Wu, Wd):
    """The page's y, gate, up."""
    y, (gate, up, *_) = ops.frozen_feed_forward.forward(x, Wg, Wu, Wd)
    return y, gate, up


def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """The page's dx."""
    return ops.frozen_feed_forward.backward(dy, (gate, up, Wg, Wu, Wd))[0]


def attention_forward(q, k, v, spans):
    """The page's o and lse."""
    o, (*_, lse) = ops.attention.forward(q, k, v, spans)
    return o, lse


def attention_backward(do, q, k, v, spans, o, lse):
    """The page's dq, dk, dv."""
    return ops.attention.backward(do, (q, k, v, spans, o, lse))[:3]


def cross_entropy(logits, targets, out):
    """losses = logsumexp(logits) - logits[target]; out = softmax(logits) - onehot(target).

    logits, out (M, V), which may be one array; targets (M,) ints, -100 where a row does not count
    (loss 0, gradient 0).
    -> losses (M,).
    """
    rows = np.flatnonzero(targets != IGNORED)
    top = logits.max(axis=1, keepdims=True)
    picked = logits[rows, targets[rows]]
    np.exp(logits - top, out=out)
    total = out.sum(axis=1, keepdims=True)
    losses = np.zeros(len(targets), logits.dtype)
    losses[rows] = (top + np.log(total))[rows, 0] - picked
    out /= total
    out[rows, targets[rows]] -= 1
    out[targets == IGNORED] = 0
    return losses


adamw = inspect.unwrap(page_adamw)
