"""What each kernel computes, and what it allocates and returns where arrays have a shape alone.

The functions' names and arguments are those of the kernels, and their docstrings are the kernels'.
"""

from ..support.meta import Meta


def matmul_nt(x, w, add_to=None):
    """y = x wᵀ.   x (M, K), w (N, K) -> y (M, N); with add_to (M, N): add_to += x wᵀ, returned."""
    return Meta((x.shape[0], w.shape[0]), x.dtype) if add_to is None else add_to


def matmul_nn(x, w, add_to=None):
    """y = x w.   x (M, K), w (K, N) -> y (M, N); with add_to (M, N): add_to += x w, returned."""
    return Meta((x.shape[0], w.shape[1]), x.dtype) if add_to is None else add_to


def matmul_tn(x, y, add_to=None):
    """g = xᵀ y.   x (M, K), y (M, N) -> g (K, N); with add_to (K, N): add_to += xᵀ y, returned."""
    return Meta((x.shape[1], y.shape[1]), x.dtype) if add_to is None else add_to


def adapted_nt(x, w, z, b):
    """y = x wᵀ + z bᵀ.   x (M, K), w (N, K), z (M, r), b (N, r) -> y (M, N)."""
    return matmul_nt(x, w)


def adapted_nn(x, w, z, b):
    """y = x w + z b.   x (M, K), w (K, N), z (M, r), b (r, N) -> y (M, N)."""
    return matmul_nn(x, w)


def add(x, y):
    """x + y, of one shape."""
    return x + y


def rmsnorm_forward(x, g, eps):
    """y = x · rstd · g, rstd = 1/√(mean(x²) + eps).   x (M, C), g (C,) -> y (M, C), rstd (M,)."""
    return x.copy(), Meta(x.shape[:1], x.dtype)


def rmsnorm_dx(dy, x, g, rstd, old=None):
    """dx = rstd (dy·g) - x rstd³ mean(dy·g·x).   dy, x (M, C), g (C,), rstd (M,) -> dx (M, C).

    With old (M, C): old + dx.
    """
    return x.copy()


def rmsnorm_dg(dy, x, rstd):
    """dg = Σ rows of dy · x · rstd.   dy, x (M, C), rstd (M,) -> dg (C,)."""
    return Meta(x.shape[1:], x.dtype)


def rope(x, cos, sin):
    """Rotates the pair (x[j], x[j + D/2]) by its angle.   x (M, H, D), cos, sin (M, D/2) -> x's."""
    return x.copy()


def swiglu_forward(gate, up):
    """h = silu(gate) · up.   gate, up (M, F) -> h (M, F)."""
    return gate.copy()


def swiglu_backward(dh, gate, up):
    """dh, gate, up (M, F) -> dgate, dup (M, F)."""
    return gate.copy(), up.copy()


def embedding_dE(dx, ids, V):
    """dE[ids[i]] += dx[i], in the order of the rows.   dx (M, C), ids (M,) ints -> dE (V, C)."""
    return Meta((V, dx.shape[1]), dx.dtype)


def feed_forward(x, Wg, Wu, Wd):
    """y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ.   x (M, C), Wg, Wu (F, C), Wd (C, F) -> y, gate, up (M, F)."""
    gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
    h = swiglu_forward(gate, up)
    return matmul_nt(h, Wd), gate, up


def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """dy (M, C), gate, up (M, F), Wg, Wu (F, C), Wd (C, F) -> dx (M, C)."""
    dh = matmul_nn(dy, Wd)
    dgate, dup = swiglu_backward(dh, gate, up)
    return adapted_nn(dgate, Wg, dup, Wu)


def attention_forward(q, k, v, spans):
    """softmax(q kᵀ / √D, causal) v in each span.

    q (M, H, D); k, v (S, G, D); spans (N, 4)  ->  o (M, H, D), lse (M, H).
    """
    return q.copy(), Meta(q.shape[:2], q.dtype)


def attention_backward(do, q, k, v, spans, o, lse):
    """do, q, o (M, H, D); k, v (S, G, D); spans (N, 4); lse (M, H)  ->  dq, dk, dv."""
    return q.copy(), k.copy(), v.copy()


def cross_entropy(logits, targets, out):
    """losses = logsumexp(logits) - logits[target]; out = softmax(logits) - onehot(target).

    logits, out (M, V), which may be one array; targets (M,), -100 where a row does not count (loss
    0, gradient 0)  ->  losses (M,).
    """
    return Meta(logits.shape[:1], logits.dtype)


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    """One AdamW step in place on p, m, v; see the page."""
