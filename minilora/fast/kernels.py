"""The kernels, one function each: the file of its Numba code, and what it allocates and returns for
shape-only arrays.

The functions' names, arguments and docstrings are those of the Numba code. A kernel takes float32
arrays. It allocates what it returns, except for arguments that are documented as written to:
`add_to`, `out`, and AdamW's p, m, v. A Numba file is imported, and its code compiled or read from
the disk, when one of its kernels is first called.
"""

import functools
import importlib
from collections.abc import Callable

import numpy as np

from ..support.meta import Meta
from ..support.packed import BLOCK
from . import clock

TABLE: dict[str, str] = {}  # kernel -> the file of its Numba code


class Unfit(TypeError):
    """An argument is not a float32 array, nor a replacement of one: the page runs instead."""


def kernel(file: str) -> Callable:
    """Decorator: the function runs on shape-only arrays; `file` has the code for real ones.

    The kernel raises Unfit if its arrays are not all of one kind. With real arrays the compiled
    code itself refuses other types, so nothing has to be checked before a call.
    """

    def entry(on_shapes):
        name, code = on_shapes.__name__, None
        TABLE[name] = file

        @functools.wraps(on_shapes)
        def call(*given, **named):
            nonlocal code
            if type(given[0]) is Meta:
                if any(type(a) is Meta and a.dtype != given[0].dtype for a in given):
                    raise Unfit(name)
                return on_shapes(*given, **named)
            if code is None:
                code = compiled(name)
            try:
                return code(*given, **named)
            except (TypeError, AttributeError) as error:
                raise Unfit(name) from error

        return call

    return entry


@functools.cache
def compiled(name: str) -> Callable:
    """A kernel's Numba code; importing its file also sets up Numba's thread pool."""
    with clock.running():
        _compile_missing()
        return getattr(importlib.import_module(f".{TABLE[name]}", __package__), name)


@functools.cache
def _compile_missing() -> None:
    importlib.import_module(".build", __package__).compile_missing()


@kernel("matmul")
def matmul_nt(x, w, add_to=None):
    """y = x wᵀ.   x (M, K), w (N, K) -> y (M, N); with add_to (M, N): add_to += x wᵀ, returned."""
    _unpacked(w)
    return Meta((x.shape[0], w.shape[0]), x.dtype) if add_to is None else add_to


@kernel("matmul")
def matmul_nn(x, w, add_to=None):
    """y = x w.   x (M, K), w (K, N) -> y (M, N); with add_to (M, N): add_to += x w, returned."""
    _unpacked(w)
    return Meta((x.shape[0], w.shape[1]), x.dtype) if add_to is None else add_to


def _unpacked(w):
    """Count what `@` of a packed w holds for a moment: two copies of a block of rows. This applies
    if w's rows are not whole groups, so that no kernel computes from its parts.
    """
    if w.form and w.shape[1] % (64 if w.form == "nf4" else 32):
        rows = min(len(w), max(1, BLOCK // w.shape[1]))
        Meta((2, rows, w.shape[1]), np.float32)


@kernel("matmul")
def matmul_tn(x, y, add_to=None):
    """g = xᵀ y.   x (M, K), y (M, N) -> g (K, N); with add_to (K, N): add_to += xᵀ y, returned."""
    return Meta((x.shape[1], y.shape[1]), x.dtype) if add_to is None else add_to


@kernel("matmul")
def adapted_nt(x, w, z, b):
    """y = x wᵀ + z bᵀ.   x (M, K), w (N, K), z (M, r), b (N, r) -> y (M, N)."""
    return matmul_nt(x, w)


@kernel("matmul")
def adapted_nn(x, w, z, b):
    """y = x w + z b.   x (M, K), w (K, N), z (M, r), b (r, N) -> y (M, N)."""
    return matmul_nn(x, w)


@kernel("matmul")
def lora_forward(x, xa, W, s, A, B):
    """y = x Wᵀ + s z Bᵀ, z = xa Aᵀ.   x, xa (M, I), W (O, I), A (r, I), B (O, r) -> y (M, O), z."""
    z = matmul_nt(xa, A)
    return adapted_nt(x, W, z * s, B), z


@kernel("matmul")
def lora_backward(dy, xa, z, W, s, A, B, wants_dx):
    """dz = s dy B, dA = dzᵀ xa, dB = s dyᵀ z, dx = dy W + dz A where wanted -> dx, dz, dA, dB."""
    dz = matmul_nn(dy, B) * s
    dB = matmul_tn(dy, z) * s
    dA = matmul_tn(dz, xa)
    return adapted_nn(dy, W, dz, A) if wants_dx else None, dz, dA, dB


@kernel("pointwise")
def add(x, y):
    """x + y, of one shape."""
    return x + y


@kernel("pointwise")
def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), g (C,) -> y (M, C), rstd (M,)."""
    return x.copy(), Meta(x.shape[:1], x.dtype)


@kernel("pointwise")
def rmsnorm_dx(dy, x, g, rstd, old=None):
    """dx = rstd (dy·g) - x rstd³ mean(dy·g·x).   dy, x (M, C), g (C,), rstd (M,) -> dx (M, C).

    With old (M, C): old + dx.
    """
    return x.copy()


@kernel("pointwise")
def rmsnorm_dg(dy, x, rstd):
    """dg = Σ rows of dy · x · rstd.   dy, x (M, C), rstd (M,) -> dg (C,)."""
    return Meta(x.shape[1:], x.dtype)


@kernel("pointwise")
def rope(x, cos, sin):
    """Rotates the pair (x[j], x[j + D/2]) by its angle.   x (M, H, D), cos, sin (M, D/2) -> x's."""
    return x.copy()


@kernel("pointwise")
def swiglu_forward(gate, up):
    """h = silu(gate) · up.   gate, up (M, F) -> h (M, F)."""
    return gate.copy()


@kernel("pointwise")
def swiglu_backward(dh, gate, up):
    """dh, gate, up (M, F) -> dgate, dup (M, F)."""
    return gate.copy(), up.copy()


@kernel("pointwise")
def embedding_dE(dx, ids, V):
    """dE[ids[i]] += dx[i], in the order of the rows.   dx (M, C), ids (M,) ints -> dE (V, C)."""
    return Meta((V, dx.shape[1]), dx.dtype)


@kernel("gated")
def feed_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.   x (M, C), Wg, Wu (F, C), Wd (C, F) -> y, gate, up (M, F)."""
    gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
    h = swiglu_forward(gate, up)
    return matmul_nt(h, Wd), gate, up


@kernel("gated")
def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """dy (M, C), gate, up (M, F), Wg, Wu (F, C), Wd (C, F) -> dx (M, C)."""
    dh = matmul_nn(dy, Wd)
    dgate, dup = swiglu_backward(dh, gate, up)
    return adapted_nn(dgate, Wg, dup, Wu)


@kernel("attention")
def attention_forward(q, k, v, spans):
    """softmax(q kᵀ / √D, causal) v in each span.

    q (M, H, D); k, v (S, G, D); spans (N, 4)  ->  o (M, H, D), lse (M, H).
    """
    return q.copy(), Meta(q.shape[:2], q.dtype)


@kernel("attention")
def attention_backward(do, q, k, v, spans, o, lse):
    """do, q, o (M, H, D); k, v (S, G, D); spans (N, 4); lse (M, H)  ->  dq, dk, dv."""
    return q.copy(), k.copy(), v.copy()


@kernel("softmax")
def cross_entropy(logits, targets, out):
    """losses = logsumexp(logits) - logits[target]; out = softmax(logits) - onehot(target).

    logits, out (M, V), which may be one array; targets (M,), -100 where a row does not count (loss
    0, gradient 0)  ->  losses (M,).
    """
    return Meta(logits.shape[:1], logits.dtype)


@kernel("adam")
def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    """One AdamW step in place on p, m, v; see the page."""
