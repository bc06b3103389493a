"""Single kernels: what each is given, what it has to do, and how long it takes."""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import fast as kernels
from ..fast import numpy_ref
from .turns import REST

TOLERANCE = 2e-5  # of the largest number of a result
WARM = 0.05  # seconds of calls before those that are counted

WIDTHS = (64, 128, 256, 384, 576, 1024, 1536)
RANKS = (1, 4, 8, 16, 64, 256)
PRODUCTS: list[tuple[str, tuple[int, int, int]]] = [
    *(("matmul_nt", (1024, width, width)) for width in WIDTHS),
    *(("matmul_nt", (rows, 576, 576)) for rows in (16, 256, 4096)),
    ("matmul_nn", (1024, 576, 576)),
    ("matmul_tn", (1024, 576, 576)),
    ("matmul_nt", (256, 576, 1536)),
    ("matmul_nt", (256, 1536, 576)),
    *(("matmul_nt", (2048, 576, rank)) for rank in RANKS),  # z = x Aᵀ
    *(("matmul_nn", (2048, rank, 576)) for rank in RANKS),  # dx = dz A
    *(("matmul_tn", (2048, rank, 576)) for rank in RANKS),  # dA = dzᵀ x
]
FUSED: list[tuple[str, tuple[int, ...]]] = [
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


@dataclass(frozen=True)
class Work:
    """A kernel's arguments, its floating-point operations, and the bytes that must move."""

    arguments: list[Any]
    flops: float
    nbytes: float


def work(name: str, sizes: tuple[int, ...]) -> Work:
    """What a kernel is given at these sizes: M, K, N of a product, M, C, F of a feed-forward, the
    shape of x otherwise.
    """
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    if name.startswith("matmul"):
        M, K, N = sizes
        shapes = {"nt": ((M, K), (N, K)), "nn": ((M, K), (K, N)), "tn": ((M, K), (M, N))}
        x, y = (normal(*shape) for shape in shapes[name[-2:]])
        result = K * N if name.endswith("tn") else M * N
        return Work([x, y], 2.0 * M * K * N, 4.0 * (x.size + y.size + result))
    if name.startswith("feed_forward"):
        M, C, F = sizes
        Ws, kept = [normal(F, C), normal(F, C), normal(C, F)], [normal(M, F), normal(M, F)]
        given = [normal(M, C)] if name == "feed_forward" else [normal(M, C), *kept]
        return Work([*given, *Ws], 6.0 * M * C * F, 4.0 * (3 * C * F + 2 * M * C + 2 * M * F))
    x = normal(*sizes)
    if name.startswith("attention"):
        N, T, H, D = sizes
        k, v = normal(*sizes), normal(*sizes)
        forward = 4.0 * N * H * T * T * D / 2
        if name.endswith("forward"):
            return Work([x, k, v], forward, 4.0 * 4 * x.size)
        return Work(
            [normal(*sizes), x, k, v, *numpy_ref.attention_forward(x, k, v)],
            2.5 * forward,
            4.0 * 8 * x.size,
        )
    M, C = sizes[0], sizes[-1]
    half = np.cos(normal(sizes[1], C // 2)) if name == "rope" else x
    found: dict[str, tuple[Callable[[], list], int, int]] = {  # arguments; flops, floats an entry
        "rmsnorm_forward": (lambda: [x, normal(C), 1e-5], 4, 2),
        "rmsnorm_dx": (lambda: [normal(M, C), x, normal(C), 1 + normal(M) ** 2], 8, 3),
        "rope": (lambda: [x, half, half], 3, 2),
        "swiglu_forward": (lambda: [x, normal(M, C)], 15, 3),
        "swiglu_backward": (lambda: [normal(M, C), x, normal(M, C)], 20, 5),
        "cross_entropy": (lambda: [x, rng.integers(0, C, M), np.empty_like(x)], 15, 2),
        "adamw": (lambda: [x, normal(M), x * 0, x * 0, 1e-3, 0.9, 0.999, 1e-8, 0.1, 1], 14, 7),
    }
    arguments, flops, floats = found[name]
    return Work(arguments(), float(flops * x.size), 4.0 * floats * x.size)


def _function(side: str, name: str) -> Callable[..., Any]:
    """The kernel here, or the same in NumPy or torch."""
    if side == "minilora":
        return getattr(kernels, name)
    if side == "numpy":
        return getattr(numpy_ref, name)
    return {
        "matmul_nt": lambda x, w: x @ w.T,
        "matmul_nn": lambda x, w: x @ w,
        "matmul_tn": lambda x, y: x.T @ y,
    }[name]


def timed(side: str, name: str, sizes: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Median and least time of a call, for about so many seconds; raises ValueError if it is wrong.

    A call is right if it agrees with the NumPy twin in float64.
    """
    arguments, call = work(name, sizes).arguments, _function(side, name)
    wanted = _results(getattr(numpy_ref, name), _double(arguments))
    if side == "torch":
        from .theirs import tensors

        arguments = tensors(arguments)
    first = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    got = _results(call, first)
    for g, w in zip(got, wanted, strict=True):
        error = np.abs(np.asarray(g) - w).max() / (np.abs(w).max() or 1)
        if not error <= TOLERANCE:
            raise ValueError(f"{side}: {name} {sizes}: wrong by {error:.1e} of its largest number")
    time.sleep(REST)  # the check ran on NumPy's BLAS, in this process
    _taken(lambda: call(*arguments), WARM)
    return _taken(lambda: call(*arguments), seconds)


def _taken(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    taken: list[float] = []
    before = time.process_time()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    n = len(taken)
    cpu = (time.process_time() - before) / n
    return {"median": statistics.median(taken), "least": min(taken), "cpu": cpu, "steps": n}


def _results(call, arguments) -> list[np.ndarray]:
    """What a call returns, or where that is nothing, what it wrote to first."""
    got = call(*arguments)
    return list(got) if isinstance(got, tuple) else [arguments[0] if got is None else got]


def _double(arguments):
    return [
        a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a
        for a in arguments
    ]


def ladder(sizes: tuple[int, int, int], seconds: float) -> dict[str, float]:
    """FLOP/s of each way to write a product of M, K, N numbers; ValueError if one is wrong."""
    from ..fast.ladder import LADDER

    doing = work("matmul_nn", sizes)
    wanted = numpy_ref.matmul_nn(*_double(doing.arguments))
    found = {}
    for name, call in LADDER.items():
        error = np.abs(call(*doing.arguments) - wanted).max() / np.abs(wanted).max()
        if not error <= TOLERANCE:
            raise ValueError(f"{name}: wrong by {error:.1e} of its largest number")
        found[name] = (
            doing.flops / _taken(functools.partial(call, *doing.arguments), seconds)["least"]
        )
    return found
