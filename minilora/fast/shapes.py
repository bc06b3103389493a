"""The kernels on arrays without numbers: what each allocates and returns.

Same names and signatures as `numpy_ref`.
"""

from ..support.meta import Meta


def matmul_nt(x, w, add_to=None):
    """x (M, K), w (N, K) -> (M, N)."""
    return Meta((x.shape[0], w.shape[0]), x.dtype) if add_to is None else add_to


def matmul_nn(x, w, add_to=None):
    """x (M, K), w (K, N) -> (M, N)."""
    return Meta((x.shape[0], w.shape[1]), x.dtype) if add_to is None else add_to


def matmul_tn(x, y, add_to=None):
    """x (M, K), y (M, N) -> (K, N)."""
    return Meta((x.shape[1], y.shape[1]), x.dtype) if add_to is None else add_to


def adapted_nt(x, w, z, b):
    """x (M, K), w (N, K) -> (M, N)."""
    return matmul_nt(x, w)


def adapted_nn(x, w, z, b):
    """x (M, K), w (K, N) -> (M, N)."""
    return matmul_nn(x, w)


def add(x, y):
    """-> x + y."""
    return x + y


def rmsnorm_forward(x, g, eps):
    """x (M, C) -> y (M, C), rstd (M,)."""
    return x.copy(), Meta(x.shape[:1], x.dtype)


def rmsnorm_dx(dy, x, g, rstd):
    """-> dx (M, C)."""
    return x.copy()


def rmsnorm_dg(dy, x, rstd):
    """-> dg (C,)."""
    return Meta(x.shape[1:], x.dtype)


def rope(x, cos, sin):
    """-> (N, T, H, D)."""
    return x.copy()


def swiglu_forward(gate, up):
    """-> h (M, F)."""
    return gate.copy()


def swiglu_backward(dh, gate, up):
    """-> dgate, dup (M, F)."""
    return gate.copy(), up.copy()


def feed_forward(x, Wg, Wu, Wd):
    """-> y (M, C), gate, up (M, F)."""
    gate, up = matmul_nt(x, Wg), matmul_nt(x, Wu)
    h = swiglu_forward(gate, up)
    return matmul_nt(h, Wd), gate, up


def feed_forward_dx(dy, gate, up, Wg, Wu, Wd):
    """-> dx (M, C)."""
    dh = matmul_nn(dy, Wd)
    dgate, dup = swiglu_backward(dh, gate, up)
    dx, _dx_up = matmul_nn(dgate, Wg), matmul_nn(dup, Wu)  # both there until they are added
    return dx


def attention_forward(q, k, v):
    """-> o (N, T, H, D), lse (N, H, T)."""
    N, T, H, _ = q.shape
    return q.copy(), Meta((N, H, T), q.dtype)


def attention_backward(do, q, k, v, o, lse):
    """-> dq, dk, dv."""
    return q.copy(), k.copy(), v.copy()


def cross_entropy(logits, targets, out):
    """-> losses (M,)."""
    return Meta(logits.shape[:1], logits.dtype)


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, factor=1.0):
    """In place."""
