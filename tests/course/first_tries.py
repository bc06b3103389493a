"""Mistakes that students made at their first try: (exercise, answer, a part of what is said)."""

import numpy as np
from more_answers import central, softmax, swiglu_backward


def attend(q, k, v, mask=np.tri, root=None, weigh=softmax):
    scores = q @ k.T / np.sqrt(root or q.shape[1])
    return weigh(np.where(mask(len(q)), scores, -np.inf)) @ v


def everywhere(T):
    return np.ones((T, T))


def later(T):
    return 1 - np.tri(T, k=-1)


def masked_afterwards(q, k, v):
    return np.tril(softmax(q @ k.T / np.sqrt(q.shape[1]))) @ v


def by_rows(dy, cos, sin):
    u, v = dy[:, ::2], dy[:, 1::2]
    return np.concatenate([u * cos + v * sin, v * cos - u * sin], axis=1)


def attention_backward(do, q, k, v):
    D = q.shape[1]
    p = softmax(np.where(np.tri(len(q)), q @ k.T / np.sqrt(D), -np.inf))
    dp = do @ v.T
    ds = p * (dp - (p * dp).sum()) / np.sqrt(D)
    return ds @ k, ds.T @ q, p.T @ do


def network(x, t, W1, W2, rows=False, of_z=False):
    z = x @ W1.T
    hidden = np.tanh(z)
    error = hidden @ W2.T - t
    derror = 2 * error / (len(x) if rows else error.size)
    dz = derror @ W2 * (1 - (z if of_z else hidden) ** 2)
    return dz.T @ x, derror.T @ hidden


def rows_of_loss(z, targets, place):
    dz = softmax(z)
    dz[place(z, targets)] -= 1
    return dz / len(z)


def whole_row(f, x, h):
    grad = np.zeros_like(x)
    for i in range(len(x)):
        step = np.zeros_like(x)
        step[i] = h
        grad[i] = (f(x + step) - f(x - step)) / (2 * h)
    return grad


def pair_test(forward, backward, x, W, ones=False, compare=np.allclose, dx=True, dW=True):
    y, cache = forward(x, W)
    dy = np.ones_like(y) if ones else np.random.default_rng(1).normal(size=y.shape)
    by_theirs = backward(dy, cache)
    by_x = central(lambda a: (dy * forward(a, W)[0]).sum(), x, 1e-5)
    by_W = central(lambda a: (dy * forward(x, a)[0]).sum(), W, 1e-5)
    right = compare(by_theirs[0], by_x), compare(by_theirs[1], by_W)
    return (right[0] or not dx) and (right[1] or not dW)


def loosely(a, b):
    return np.allclose(a, b, atol=0.01)


def in_place(nodes, dy):
    grads = {nodes[-1]: dy}
    for node in reversed(nodes):
        if node.op:
            for parent, grad in zip(node.parents, node.op.backward(grads[node], node.cache)):
                if parent in grads and parent is not None:
                    grads[parent] += grad
                elif parent is not None:
                    grads[parent] = grad
    return grads


def without_none(nodes, dy):
    grads = {nodes[-1]: dy}
    for node in reversed(nodes):
        if node.op:
            for parent, grad in zip(node.parents, node.op.backward(grads[node], node.cache)):
                grads[parent] = grads[parent] + grad if parent in grads else grad
    return grads


TRIES = [
    ("mul_backward", lambda dy, a, b: (b, a), "dy is missing"),
    ("tape_network", lambda *a: network(*a, rows=True), "rows times columns"),
    ("tape_network", lambda *a: network(*a, of_z=True), "tanh' is 1 - hidden²"),
    ("tape_walk", in_place, "a gradient was added in place"),
    ("tape_walk", without_none, "it raised ValueError"),
    ("gradient_central", lambda f, x, h: central(f, x, h) * h**2, "/ 2 * h"),
    ("gradient_central", whole_row, "whole rows were moved"),
    ("gradient_check", lambda *a: pair_test(*a, ones=True), "only where dy is 1 everywhere"),
    ("gradient_check", lambda *a: pair_test(*a, compare=np.array_equal), "to the last digit"),
    ("gradient_check", lambda *a: pair_test(*a, dW=False), "not see a wrong dW"),
    ("gradient_check", lambda *a: pair_test(*a, dx=False), "not see a wrong dx"),
    ("gradient_check", lambda *a: pair_test(*a, compare=loosely), "one number of dW is wrong"),
    ("llama_norm", lambda x, g, eps: g * x / np.sqrt(np.mean(x**2) + eps), "of each row"),
    (
        "llama_norm",
        lambda x, g, eps: g * x / np.sqrt((x**2).sum(1, keepdims=True) + eps),
        "the mean of x², not the sum",
    ),
    (
        "llama_norm",
        lambda x, g, eps: (
            g * (x - x.mean(1, keepdims=True)) / np.sqrt((x**2).mean(1, keepdims=True) + eps)
        ),
        "no mean is subtracted",
    ),
    ("llama_attention", lambda *a: attend(*a, mask=everywhere), "the mask is missing"),
    ("llama_attention", masked_afterwards, "the mask came after the softmax"),
    ("llama_attention", lambda *a: attend(*a, mask=later), "the mask hides what came before"),
    ("llama_attention", lambda q, k, v: attend(q, k, v, root=len(q)), "√D"),
    ("llama_attention", lambda q, k, v: attend(q, k, v, root=1), "√D"),
    (
        "llama_attention",
        lambda *a: attend(*a, weigh=lambda s: np.exp(s) / np.exp(s).sum()),
        "the softmax is of each row",
    ),
    (
        "llama_attention",
        lambda *a: attend(*a, weigh=lambda s: np.exp(s) / np.exp(s).sum(1)),
        "the softmax is of each row",
    ),
    (
        "llama_attention",
        lambda *a: attend(*a, weigh=lambda s: np.exp(s) / np.exp(s).sum(0)),
        "the softmax is of each row",
    ),
    ("llama_attention", lambda q, k, v: q * np.nan, "0 · inf"),
    (
        "backward_loss",
        lambda z, t: rows_of_loss(z, t, lambda z, t: np.s_[:, t]),
        "at the targets of all rows",
    ),
    (
        "backward_loss",
        lambda z, t: rows_of_loss(z, t, lambda z, t: (np.arange(len(z)), t)) / z.shape[1],
        "not by all numbers",
    ),
    ("backward_softmax", lambda dp, p: p * (dp - (p * dp).sum()), "of each row"),
    ("backward_attention", attention_backward, "of each row"),
    ("backward_rope", by_rows, "two neighbours are no pair"),
    (
        "backward_swiglu",
        lambda dh, z, w: (
            dh * w * np.exp(-z) / (1 + np.exp(-z)) ** 2,
            swiglu_backward(dh, z, w)[1],
        ),
        "σ (1 - σ) is σ'",
    ),
    (
        "lora_forward",
        lambda x, W, s, A, B: s * (x @ W.T + x @ A.T @ B.T),
        "s scales the adapter's path alone",
    ),
]
