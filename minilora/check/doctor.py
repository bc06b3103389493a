"""Is all well here? What `minilora gradcheck` and `minilora doctor` print."""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator

import numpy as np

from .. import fast as kernels
from .. import ops
from ..fast import numpy_ref
from ..gradcheck import gradcheck
from ..methods import METHODS
from ..support.files import data_folder


def op_cases(rng: np.random.Generator) -> dict[str, tuple]:
    """Op name -> arguments to check it on: small, away from zero."""
    x, W, n = rng.standard_normal((6, 8)), rng.standard_normal((5, 8)), rng.standard_normal
    targets = np.array([1, -100, 0, 4, 2, 3])
    angle = rng.uniform(0, 6, (3, 2))
    return {
        "add": (x, n(8)),
        "mul": (x, n((6, 1))),
        "matmul": (n((2, 6, 8)), n((8, 5))),
        "power": (np.exp(x), -0.5),
        "exp": (x,),
        "log": (np.exp(x),),
        "tanh": (x,),
        "sum": (x, 1, False),
        "reshape": (x, (2, 24)),
        "transpose": (n((2, 3, 4)), (1, 2, 0)),
        "index": (x, np.array([1, 1, 4])),
        "concat": (x, n((2, 8)), 0),
        "maximum": (x, n(8)),
        "linear": (x, W),
        "frozen_linear": (x, W),
        "embedding": (W, np.array([1, 1, 4])),
        "rmsnorm": (x, n(8), 1e-5),
        "rope": (n((2, 3, 4, 4)), np.cos(angle), np.sin(angle)),
        "attention": (n((2, 3, 4, 6)), n((2, 5, 2, 6)), n((2, 5, 2, 6))),
        "swiglu": (x, n((6, 8))),
        "frozen_feed_forward": (x, n((5, 8)), n((5, 8)), n((8, 5))),
        "cross_entropy": (n((6, 5)), targets, None),
        "head_loss": (x, W, targets, None),
        "frozen_head_loss": (x, W, targets, None),
    }


def method_case(name: str, rng: np.random.Generator, dropout: float = 0.0) -> tuple:
    """Arguments for a method's pair, x (6, 8), W (5, 8), rank 3, every array drawn anew:
    zeros would hide errors.
    """
    import inspect

    record = METHODS[name]
    x, W = rng.standard_normal((6, 8)), rng.standard_normal((5, 8))
    options = {**record.options, "alpha": 6.0}
    shared = record.prepare([W.shape], 3, options, W) if record.prepare else {}
    arguments = {
        "W": W,
        **record.init(W, 3, options, rng, shared),
        "p": dropout,
        "key": (0, 1, 0, 0),
    }
    names = list(inspect.signature(record.op.forward).parameters)[1:]
    values = [arguments[n] for n in names]
    return (x, *(rng.standard_normal(v.shape) if isinstance(v, np.ndarray) else v for v in values))


def gradients() -> Iterator[str]:
    """Check every pair in float64; a line each. Raises GradientError at the first wrong one."""
    rng = np.random.default_rng(0)
    cases = {name: (getattr(ops, name), case) for name, case in op_cases(rng).items()}
    for name, record in METHODS.items():
        cases[f"method {name}"] = record.op, method_case(name, rng)
        if record.has_dropout:
            cases[f"method {name}, dropout 0.3"] = record.op, method_case(name, rng, 0.3)
    for title, (op, case) in cases.items():
        gradcheck(op.forward, op.backward, *case)
        shapes = ", ".join(str(a.shape) for a in case if isinstance(a, np.ndarray))
        yield f"✓ {title:28} backward is the derivative of forward   {shapes}"


def machine() -> Iterator[str]:
    """Versions, kernels, threads, data; then each kernel against its twin.

    Raises ValueError where two disagree.
    """
    yield f"Python      {platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in ("minilora", "numpy", "numba", "matplotlib", "safetensors"):
        try:
            yield f"{package:11} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{package:11} not installed"
    yield f"kernels     {kernels.backend()}" + (
        " (MINILORA_KERNELS)" if "MINILORA_KERNELS" in os.environ else ""
    )
    yield f"processors  {os.cpu_count()}"
    yield f"data        {data_folder()}"
    watched = sys.stderr.isatty()
    yield f"terminal    {'progress bars' if watched else 'no progress bars: nobody watches'}"
    rng = np.random.default_rng(0)
    for name, case in kernel_cases(rng).items():
        start = time.perf_counter()
        error = disagreement(name, case)
        if not error < 1e-4:
            raise ValueError(
                f"kernel {name}: disagrees with its NumPy twin by {error:.1e}, wanted below 1e-4"
            )
        seconds = time.perf_counter() - start
        yield f"✓ {name:19} agrees with its twin to {error:.0e} ({seconds:.2f} s)"
    if kernels.compiled():
        import numba

        from ..fast.threads import num_threads

        yield f"threads     {num_threads()}, pool {numba.threading_layer()}"


def kernel_cases(rng: np.random.Generator) -> dict[str, tuple]:
    """Kernel name -> float32 arguments."""

    def n(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    angle = rng.uniform(0, 6, (9, 8))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    q, k, v = n(2, 9, 4, 16), n(2, 9, 2, 16), n(2, 9, 2, 16)
    o, lse = numpy_ref.attention_forward(q, k, v)
    p = [n(33) for _ in range(3)]
    rows = 300 * (os.cpu_count() or 1)  # enough for every thread: see fast/gated.py
    return {
        "matmul_nt": (n(37, 29), n(51, 29)),
        "matmul_nn": (n(37, 29), n(29, 51)),
        "matmul_tn": (n(37, 29), n(37, 51)),
        "add": (n(300, 200), n(300, 200)),
        "rmsnorm_forward": (n(37, 29), n(29), 1e-5),
        "rmsnorm_dx": (n(37, 29), n(37, 29), n(29), np.abs(n(37))),
        "rmsnorm_dg": (n(37, 29), n(37, 29), np.abs(n(37))),
        "rope": (q, cos, sin),
        "swiglu_forward": (n(37, 29), n(37, 29)),
        "swiglu_backward": (n(37, 29), n(37, 29), n(37, 29)),
        "feed_forward": (n(rows, 29), n(51, 29), n(51, 29), n(29, 51)),
        "feed_forward_dx": (
            *(n(rows, 29), n(rows, 51), n(rows, 51)),
            *(n(51, 29), n(51, 29), n(29, 51)),
        ),
        "attention_forward": (q, k, v),
        "attention_backward": (n(2, 9, 4, 16), q, k, v, o, lse),
        "cross_entropy": (n(37, 29), rng.integers(0, 29, 37), np.empty((37, 29), np.float32)),
        "adamw": (*p, np.abs(n(33)), 0.1, 0.9, 0.99, 1e-8, 0.01, 3),
    }


def disagreement(name: str, case: tuple) -> float:
    """The largest difference between a kernel and its twin, relative to the largest entry, in all
    that they write.
    """
    mine, theirs = (
        tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in case) for _ in range(2)
    )
    results = getattr(kernels, name)(*mine), getattr(numpy_ref, name)(*theirs)
    got, wanted = (r if isinstance(r, tuple) else (r,) for r in results)
    pairs = [*zip(got, wanted, strict=True), *zip(mine, theirs, strict=True)]
    return max(
        float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))
        for a, b in pairs
        if isinstance(a, np.ndarray)
    )
