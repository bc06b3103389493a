"""Right answers to the exercises that build on one another, and wrong ones with what is said."""

from collections import OrderedDict

import numpy as np

from minilora.methods.lora import lora_backward
from minilora_course.lessons import walk


def central(f, x, h):
    grad = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = h
        grad[place] = (f(x + step) - f(x - step)) / (2 * h)
    return grad


def one_side(f, x, h):
    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.array([(f(x + h * e) - f(x)) / h for e in units]).reshape(x.shape)


def is_right(forward, backward, x, W):
    y, cache = forward(x, W)
    dy = np.random.default_rng(1).normal(size=y.shape)
    dx, dW = backward(dy, cache)
    by_x = central(lambda a: (dy * forward(a, W)[0]).sum(), x, 1e-5)
    by_W = central(lambda a: (dy * forward(x, a)[0]).sum(), W, 1e-5)
    return np.allclose(dx, by_x, atol=1e-6) and np.allclose(dW, by_W, atol=1e-6)


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def loss_backward(z, targets):
    dz = softmax(z)
    dz[np.arange(len(z)), targets] -= 1
    return dz / len(z)


def softmax_backward(dp, p):
    return p * (dp - (p * dp).sum(-1, keepdims=True))


def rmsnorm_backward(dy, x, g, eps, by_rho=1.0):
    rho = 1 / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    w = dy * g
    dx = rho * w - by_rho * x * rho**3 * (w * x).mean(1, keepdims=True)
    return dx, (dy * x * rho).sum(0)


def rope_backward(dy, cos, sin):
    a, b = np.split(dy, 2, axis=1)
    return np.concatenate([a * cos + b * sin, b * cos - a * sin], axis=1)


def swiglu_backward(dh, gate, up):
    p = 1 / (1 + np.exp(-gate))
    return dh * up * p * (1 + gate * (1 - p)), dh * gate * p


def attention_backward(do, q, k, v, root=True, row_sum=True, mask=True):
    D = q.shape[1]
    p = softmax(np.where(np.tri(len(q)) if mask else True, q @ k.T / np.sqrt(D), -np.inf))
    dp = do @ v.T
    ds = softmax_backward(dp, p) if row_sum else p * dp
    ds = ds / np.sqrt(D) if root else ds
    return ds @ k, ds.T @ q, p.T @ do


def lora_pair_forward(x, W, s, A, B):
    return x @ W.T + s * (x @ A.T) @ B.T, (x, W, s, A, B)


def lora_pair_backward(dy, cache):
    x, W, s, A, B = cache
    dz = s * dy @ B
    return dy @ W + dz @ A, None, None, dz.T @ x, s * dy.T @ (x @ A.T)


def fa_forward(x, W, s, A, B):
    z = x @ A.T
    return x @ W.T + s * z @ B.T, (z, W, s, A, B)


def fa_backward(dy, cache):
    z, W, s, A, B = cache
    return dy @ W + s * (dy @ B) @ A, None, None, None, s * dy.T @ z


def vera_pair_forward(x, W, A, B, b, d):
    u = x @ A.T
    return x @ W.T + b * ((d * u) @ B.T), (u, W, A, B, b, d)


def vera_pair_backward(dy, cache):
    u, W, A, B, b, d = cache
    dz = (dy * b) @ B
    db = (dy * ((d * u) @ B.T)).sum(0)
    return dy @ W + (dz * d) @ A, None, None, None, db, (dz * u).sum(0)


def blocked(x, w, height, width):
    y = np.zeros((len(x), w.shape[1]))
    for i in range(0, len(x), height):
        for j in range(0, w.shape[1], width):
            y[i : i + height, j : j + width] = x[i : i + height] @ w[:, j : j + width]
    return y


def whole_blocks(x, w, height, width):
    y = np.zeros((len(x), w.shape[1]))
    for i in range(0, len(x) - height + 1, height):
        for j in range(0, w.shape[1] - width + 1, width):
            y[i : i + height, j : j + width] = x[i : i + height] @ w[:, j : j + width]
    return y


def fetched(places, lines, newest=True):
    cache, count = OrderedDict(), 0
    for line in places // 16:
        count += line not in cache
        cache[line] = None
        if newest:
            cache.move_to_end(line)
        if len(cache) > lines:
            cache.popitem(last=False)
    return count


def descend(n, rate_A, rate_B, z, at_once=True):
    b, count = np.zeros_like(z), np.zeros_like(z)
    for _ in range(200):
        e = np.where(np.abs(b * z - 1) < 0.01, 0, b * z - 1)
        count += e != 0
        if at_once:
            b, z = b - rate_B * e * z, z - rate_A * e * b * n
        else:
            b = b - rate_B * e * z
            z = z - rate_A * e * b * n
    return count, b, z


def overwriting_walk(nodes, dy):
    grads = {nodes[-1]: dy}
    for node in reversed(nodes):
        if node.op:
            given = node.op.backward(grads[node], node.cache)
            grads |= {p: g for p, g in zip(node.parents, given) if p is not None}
    return grads


def network_backward(x, t, W1, W2, square=2.0, slope=True, mean=True):
    hidden = np.tanh(x @ W1.T)
    error = hidden @ W2.T - t
    derror = square * error / (error.size if mean else 1)
    dz = (derror @ W2) * (1 - hidden**2 if slope else 1)
    return dz.T @ x, derror.T @ hidden


def llama_layer(x, w, use, rope_v=False):
    h = use.norm(x, w["norm1"])
    q, k, v = (use.linear(h, w[name]) for name in "qkv")
    v = use.rope(v) if rope_v else v
    x = x + use.linear(use.attention(use.rope(q), use.rope(k), v), w["o"])
    h = use.norm(x, w["norm2"])
    h = use.swiglu(use.linear(h, w["gate"]), use.linear(h, w["up"]))
    return x + use.linear(h, w["down"])


def layer_without(first=False, second=False, rope=False):
    def wrong(x, w, use):
        h = use.norm(x, w["norm1"])
        q, k, v = (use.linear(h, w[name]) for name in "qkv")
        q, k = (q, k) if rope else (use.rope(q), use.rope(k))
        o = use.linear(use.attention(q, k, v), w["o"])
        x = o if first else x + o
        h = use.norm(x, w["norm2"])
        h = use.linear(use.swiglu(use.linear(h, w["gate"]), use.linear(h, w["up"])), w["down"])
        return h if second else x + h

    return wrong


RIGHT = {
    "tape_walk": walk.walk,
    "tape_network": network_backward,
    "gradient_error": 0.01,
    "gradient_step": -5,
    "gradient_smallest": 2,
    "gradient_central": central,
    "gradient_break": one_side,
    "gradient_errors": lambda gradient, f, x, right, steps: np.array(
        [np.abs(gradient(f, x, h) - right).max() for h in steps]
    ),
    "gradient_directional": lambda f, df, x, v, h: (
        (f(x + h * v) - f(x - h * v)) / (2 * h),
        (df * v).sum(),
    ),
    "gradient_check": is_right,
    "backward_sum": 0,
    "backward_loss": loss_backward,
    "backward_softmax": softmax_backward,
    "backward_rmsnorm": rmsnorm_backward,
    "backward_rope": rope_backward,
    "backward_swiglu": swiglu_backward,
    "backward_attention": attention_backward,
    "backward_break": lambda *args: rmsnorm_backward(*args, by_rho=0),
    "backward_layer": llama_layer,
    "lora_pair": (lora_pair_forward, lora_pair_backward),
    "lora_fa_pair": (fa_forward, fa_backward),
    "lora_fa_ledger": lambda inputs, linears, M, r: (4 * M * sum(inputs), 4 * M * r * linears),
    "vera_pair": (vera_pair_forward, vera_pair_backward),
    "delta_lora_move": lambda W, s, ratio, A, B, A_new, B_new: (
        W + ratio * s * (B_new @ A_new - B @ A)
    ),
    "lora_plus_factors": lambda ratio: (1.0, ratio),
    "lora_plus_descend": descend,
    "kernel_fetched": fetched,
    "kernel_blocked": blocked,
}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


OUTSIDE = []  # a variable outside of forward


# exercise -> (wrong answer, a part of what is said of it)
WRONG = {
    "lora_fa_pair": [
        (
            (
                lambda x, W, s, A, B: (fa_forward(x, W, s, A, B)[0], (x, W, s, A, B)),
                lambda dy, cache: fa_backward(dy, (cache[0] @ cache[3].T, *cache[1:])),
            ),
            "the cache holds x",
        ),
        (
            (
                lambda x, W, s, A, B: (fa_forward(x, W, s, A, B)[0], (x.T, W, s, A, B)),
                lambda dy, cache: fa_backward(dy, (cache[0].T @ cache[3].T, *cache[1:])),
            ),
            "the cache holds x",
        ),
        ((fa_forward, lambda dy, cache: (*fa_backward(dy, cache)[:3], 0, 0)), "dA is wrong"),
        ((lambda x, *a: OUTSIDE.append(x) or fa_forward(x, *a), fa_backward), "outside of it"),
    ],
    "lora_fa_ledger": [
        (lambda inputs, linears, M, r: (M * sum(inputs), M * r * linears), "has 4 bytes"),
        (
            lambda inputs, linears, M, r: (4 * M * sum(inputs) * linears, 4 * M * r * linears),
            "kept once, however many",
        ),
    ],
    "vera_pair": [
        (
            (
                lambda *args: (vera_pair_forward(*args)[0], args),
                lambda dy, cache: vera_pair_backward(dy, (cache[0] @ cache[2].T, *cache[1:])),
            ),
            "the cache holds x",
        ),
        (
            (
                lambda x, *more: OUTSIDE.append(x) or vera_pair_forward(x, *more),
                vera_pair_backward,
            ),
            "outside of it",
        ),
    ],
    "delta_lora_move": [
        (
            lambda W, s, ratio, A, B, A_new, B_new: W + ratio * s * (B_new - B) @ (A_new - A),
            "it moves by B'A' - BA",
        ),
        (lambda W, s, ratio, A, B, A1, B1: W + s * (B1 @ A1 - B @ A), "ratio is missing"),
        (lambda W, s, ratio, A, B, A1, B1: W + ratio * (B1 @ A1 - B @ A), "s is missing"),
    ],
    "lora_plus_factors": [(lambda ratio: (ratio, 1.0), "another order")],
    "lora_plus_descend": [(lambda *a: descend(*a, at_once=False), "b moved before z did")],
    "kernel_fetched": [(lambda *a: fetched(*a, newest=False), "not used longest")],
    "kernel_blocked": [(whole_blocks, "the last blocks are missing")],
    "tape_network": [
        (lambda *a: network_backward(*a, square=1), "the 2 is missing"),
        (lambda *a: network_backward(*a, slope=False), "tanh' = 1 - tanh² is missing"),
        (lambda *a: network_backward(*a, mean=False), "the loss is a mean"),
    ],
    "tape_walk": [(overwriting_walk, "the second gradient replaced the first")],
    "gradient_central": [
        (one_side, "on one side only"),
        (lambda f, x, h: 2 * central(f, x, h), "divided by h"),
    ],
    "gradient_check": [
        (lambda forward, backward, x, W: True, "it calls wrong pairs right"),
        (lambda forward, backward, x, W: False, "it calls a right pair wrong"),
        (lambda *a: is_right_with(np.ones, *a), "only where dy is 1 everywhere"),
        (lambda *a: is_right_with(drawn, *a, atol=0.01), "one number of dW is wrong"),
        (lambda *a: is_right_with(drawn, *a, both=False), "it does not see a wrong dW"),
        (lambda *a: is_right_with(drawn, *a, atol=0), "it calls a right pair wrong"),
    ],
    "backward_loss": [
        (lambda z, targets: softmax(z) / len(z), "the 1 at the target"),
        (lambda z, targets: loss_backward(z, targets) * len(z), "a mean over the rows"),
    ],
    "backward_softmax": [
        (lambda dp, p: p * dp, "the sum over the row is missing"),
        (lambda dp, p: p * (1 - p) * dp, "its own score alone"),
        (lambda dp, p: p * (dp - (p * dp).sum(0)), "over the columns"),
    ],
    "backward_rmsnorm": [
        (lambda *a: rmsnorm_backward(*a, by_rho=0), "the path through ρ is missing"),
        (lambda *a: rmsnorm_backward(*a, by_rho=-1), "its term is subtracted"),
        (lambda dy, x, g, eps: rmsnorm_backward(dy, x, g, eps, x.shape[1]), "not the sum"),
        (
            lambda dy, x, g, eps: (
                rmsnorm_backward(dy, x, 1 + 0 * g, eps)[0],
                rmsnorm_backward(dy, x, g, eps)[1],
            ),
            "dx passes through g",
        ),
        (
            lambda dy, x, g, eps: (rmsnorm_backward(dy, x, g, eps)[0], (dy * x).sum(0)),
            "by xρ, not by x",
        ),
        (
            lambda dy, x, g, eps: (rmsnorm_backward(dy, x, g, eps)[0], dy * x),
            "dg is wrong",
        ),
    ],
    "backward_rope": [(lambda dy, cos, sin: rope_backward(dy, cos, -sin), "turned forward")],
    "backward_swiglu": [
        (
            lambda dh, gate, up: (dh * up * sigmoid(gate), dh * gate * sigmoid(gate)),
            "silu'(z) is not σ(z)",
        ),
        (
            lambda dh, gate, up: (
                dh * up * gate * sigmoid(gate) * (1 - sigmoid(gate)),
                dh * gate * sigmoid(gate),
            ),
            "the first term of the product rule",
        ),
        (
            lambda dh, gate, up: (
                dh * up * sigmoid(gate) * (2 - sigmoid(gate)),
                dh * gate * sigmoid(gate),
            ),
            "the z is missing",
        ),
        (
            lambda dh, gate, up: (swiglu_backward(dh, gate, up)[0], dh * sigmoid(gate)),
            "not by σ(gate)",
        ),
    ],
    "backward_attention": [
        (lambda *a: attention_backward(*a, root=False), "1/√D is missing"),
        (lambda *a: attention_backward(*a, row_sum=False), "the sum over the row is missing"),
        (lambda *a: attention_backward(*a, mask=False), "the mask is missing"),
    ],
    "backward_layer": [
        (lambda *a: llama_layer(*a, rope_v=True), "not v"),
        (layer_without(rope=True), "RoPE is missing"),
        (layer_without(first=True), "the first addition is missing"),
        (layer_without(second=True), "the second addition is missing"),
    ],
    "lora_pair": [
        (lora_pair_forward, "wanted the tuple (forward, backward)"),
        ((lora_pair_forward, lambda dy, cache: lora_pair_backward(dy, cache)[:1]), "wanted 5, one"),
        ((lambda *args: lora_pair_forward(*args)[0], lora_pair_backward), "wanted the tuple (y"),
        ((lora_pair_forward, lambda dy, cache: print(end="")), "is the return missing?"),
        (
            (
                lambda x, W, s, A, B: (x @ W.T + (x @ A.T) @ B.T, (x, W, s, A, B)),
                lora_pair_backward,
            ),
            "was left out of y",
        ),
        (
            (
                lora_pair_forward,
                lambda dy, cache: lora_backward(dy, (cache[0], cache[0] @ cache[3].T, *cache[1:],
                                                     False))[:4] + (None,),
            ),
            "dB is wrong",
        ),
    ],
}  # fmt: skip


def drawn(shape):
    return np.random.default_rng(1).normal(size=shape)


def is_right_with(loss, forward, backward, x, W, atol=1e-6, both=True):
    """A check with this dy and tolerance, of both gradients or of dx alone."""
    y, cache = forward(x, W)
    dy = loss(y.shape)
    dx, dW = backward(dy, cache)
    by_x = central(lambda a: (dy * forward(a, W)[0]).sum(), x, 1e-5)
    by_W = central(lambda a: (dy * forward(x, a)[0]).sum(), W, 1e-5)
    right = np.allclose(dx, by_x, rtol=0, atol=atol)
    return right and (not both or np.allclose(dW, by_W, rtol=0, atol=atol))
