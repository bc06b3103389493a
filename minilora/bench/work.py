"""The kernels that are timed: for each, the page that defines it, its arguments and its cost."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import fast, ops
from ..fast import kernels
from ..ops.loss import losses_and_gradients
from ..tuning.optim import adamw

TOLERANCE = 2e-5  # relative to the largest number of a result
PRODUCTS: list[tuple[str, tuple[int, ...]]] = [  # a kernel, M, K, N
    *(("matmul_nt", (1024, width, width)) for width in (64, 256, 576)),
    ("matmul_nt", (16, 576, 576)),
    ("matmul_nn", (1024, 576, 576)),
    ("matmul_tn", (1024, 576, 576)),
    ("matmul_nt", (2048, 576, 8)),  # z = x Aᵀ
    ("matmul_nn", (2048, 8, 576)),  # dx = dz A
    ("matmul_tn", (2048, 8, 576)),  # dA = dzᵀ x
]
FUSED: list[tuple[str, tuple[int, ...]]] = [  # a kernel, its sizes: see KERNELS
    ("rmsnorm_forward", (1024, 256)),
    ("rmsnorm_dx", (1024, 256)),
    ("rope", (8, 128, 8, 32)),
    ("swiglu_forward", (1024, 768)),
    ("swiglu_backward", (1024, 768)),
    ("feed_forward", (1024, 128, 384)),
    ("feed_forward_dx", (1024, 128, 384)),
    ("attention_forward", (8, 128, 8, 32)),
    ("attention_backward", (8, 128, 8, 32)),
    ("cross_entropy", (128, 2048)),
    ("adamw", (1000000,)),
]


class Kernel(NamedTuple):
    """What one kernel computes, how its arguments are made, and what it costs."""

    numpy: Callable[..., Any]  # its definition, the page
    arguments: Callable[..., list]  # (normal, *sizes); normal(*shape) makes random numbers
    cost: Callable[..., tuple[float, float]]  # (*sizes) -> operations, numbers that move


def kernel(name: str) -> Callable[..., Any]:
    """The kernel as minilora runs it: compiled, or the page if Numba is not in use."""
    return getattr(kernels, name) if fast.on() else KERNELS[name].numpy


def arguments(name: str, sizes: tuple[int, ...]) -> list[Any]:
    """A kernel's arguments: the same random numbers each time."""
    rng = np.random.default_rng(0)
    return KERNELS[name].arguments(lambda *shape: rng.standard_normal(shape, np.float32), *sizes)


def cost(name: str, sizes: tuple[int, ...]) -> tuple[float, float]:
    """Floating-point operations, and the fewest bytes that must move."""
    flops, numbers = KERNELS[name].cost(*sizes)
    return float(flops), 4.0 * numbers


def check(what: str, got, wanted) -> None:
    """Raises ValueError unless the two arrays agree."""
    error = np.abs(np.asarray(got) - wanted).max() / (np.abs(wanted).max() or 1)
    if not error <= TOLERANCE:
        raise ValueError(f"{what}: wrong by {error:.1e} of its largest number")


def _forward(op, *kept):
    """A page's forward with its kernel's results: the output and these parts of the cache."""

    def call(*arguments):
        y, cache = op.forward(*arguments)
        return y, *(cache[op.saves.index(name)] for name in kept)

    return call


def _backward(op, count):
    """A page's backward with its kernel's signature: the cache as arguments, `count` gradients."""
    return lambda dy, *cache: op.backward(dy, cache)[:count]


def _rmsnorm_dx(dy, *cache):
    return ops.rmsnorm.backward(dy, cache, need=(True, False, False))[0]


def _cross_entropy(logits, targets, out):
    losses, out[:] = losses_and_gradients(logits, targets)
    return losses


def _sequences(n, N, T, H, D):
    begin = np.arange(N) * T
    spans = np.stack([begin, begin + T, begin, begin + T], axis=1)
    return [*(n(N * T, H, D) for _ in "qkv"), spans]


def _with_results(n, N, T, H, D):
    return [n(N * T, H, D), *ops.attention.forward(*_sequences(n, N, T, H, D))[1]]


def _each(flops, numbers):
    """The cost of a kernel from the cost of one entry of x."""
    return lambda *sizes: (flops * math.prod(sizes), numbers * math.prod(sizes))


def _product(M, K, N):
    return 2 * M * K * N, M * K + K * N + M * N


def _gated(M, C, F):
    return 6 * M * C * F, 3 * C * F + 2 * M * C + 2 * M * F


KERNELS = {
    "matmul_nt": Kernel(lambda x, w: x @ w.T, lambda n, M, K, N: [n(M, K), n(N, K)], _product),
    "matmul_nn": Kernel(lambda x, w: x @ w, lambda n, M, K, N: [n(M, K), n(K, N)], _product),
    "matmul_tn": Kernel(lambda x, y: x.T @ y, lambda n, M, K, N: [n(M, K), n(M, N)], _product),
    "rmsnorm_forward": Kernel(
        _forward(ops.rmsnorm, "rstd"), lambda n, M, C: [n(M, C), n(C), 1e-5], _each(4, 2)
    ),
    "rmsnorm_dx": Kernel(
        _rmsnorm_dx, lambda n, M, C: [n(M, C), n(M, C), n(C), 1 + n(M) ** 2], _each(8, 3)
    ),
    "rope": Kernel(
        _forward(ops.rope),
        lambda n, N, T, H, D: [n(N * T, H, D), n(N * T, D // 2), n(N * T, D // 2)],
        _each(3, 2),
    ),
    "swiglu_forward": Kernel(
        _forward(ops.swiglu), lambda n, M, F: [n(M, F), n(M, F)], _each(15, 3)
    ),
    "swiglu_backward": Kernel(
        _backward(ops.swiglu, 2), lambda n, M, F: [n(M, F), n(M, F), n(M, F)], _each(20, 5)
    ),
    "feed_forward": Kernel(
        _forward(ops.frozen_feed_forward, "gate", "up"),
        lambda n, M, C, F: [n(M, C), n(F, C), n(F, C), n(C, F)],
        _gated,
    ),
    "feed_forward_dx": Kernel(
        _backward(ops.frozen_feed_forward, 1),
        lambda n, M, C, F: [n(M, C), n(M, F), n(M, F), n(F, C), n(F, C), n(C, F)],
        _gated,
    ),
    "attention_forward": Kernel(
        _forward(ops.attention, "lse"), _sequences, lambda *of: _each(2 * of[1], 4)(*of)
    ),
    "attention_backward": Kernel(
        _backward(ops.attention, 3), _with_results, lambda *of: _each(5 * of[1], 8)(*of)
    ),
    "cross_entropy": Kernel(
        _cross_entropy, lambda n, M, V: [n(M, V), np.arange(M) % V, n(M, V)], _each(15, 2)
    ),
    "adamw": Kernel(
        adamw,
        lambda n, M: [n(M), n(M), n(M) * 0, n(M) * 0, 1e-3, 0.9, 0.999, 1e-8, 0.1, 1],
        _each(14, 7),
    ),
}
