"""Is the mathematics right here? What `minilora gradcheck` and `minilora doctor` print."""

import importlib.metadata
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import engine, fast, ops
from ..engine import Op
from ..fast.twins import TWINS
from ..gradcheck import gradcheck
from ..methods import METHODS, delta_lora
from ..ops.adamw import adamw
from ..ops.dropout import mask
from ..support.files import data_folder
from ..support.meta import arrays_in
from ..tuning.choices import find_method
from . import examples

AGREEMENT = 1e-4  # a twin's largest difference from its page, relative to the largest number


def pairs(method: str | None = None, **sizes: int) -> Iterator[tuple[str, Op, tuple, tuple]]:
    """(title, op, arguments, names of the frozen ones) of every op and method, or of one method."""
    for name in () if method else examples.OPS:
        yield name, getattr(ops, name), examples.of_op(name, **sizes), examples.FROZEN.get(name, ())
    for name, record in ({method: find_method(method)} if method else METHODS).items():
        for seed in (0, 1) if record.has_dropout else (0,):
            case, title = examples.of_method(record, seed, **sizes), f"method {name}"
            yield title + ", dropout" * seed, record.op, case, examples.frozen_of(record)


def gradients(method: str | None = None) -> Iterator[str]:
    """Check the `pairs` in float64, with a line for each. Raises GradientError at a wrong one."""
    for title, op, case, frozen in pairs(method):
        checked = gradcheck(op.forward, op.backward, *case, frozen=frozen)
        words = f"{', '.join(f'd{name}' for name in checked)} right"
        shapes = ", ".join(str(a.shape) for a in case if isinstance(a, np.ndarray))
        yield f"✓ {title:28} {words:28} {shapes}"


def machine() -> Iterator[str]:
    """Versions, kernels, threads, data; then each twin against its page.

    Raises ValueError where two disagree.
    """
    yield f"Python      {platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in ("minilora", "numpy", "numba", "matplotlib", "safetensors"):
        try:
            yield f"{package:11} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{package:11} not installed"
    asked = " (MINILORA_KERNELS)" if "MINILORA_KERNELS" in os.environ else ""
    yield f"kernels     {fast.backend()}{asked}"
    yield f"processors  {os.cpu_count()}"
    yield f"data        {data_folder()}"
    bars = "progress bars" if sys.stderr.isatty() else "no progress bars"
    yield f"terminal    {bars}"
    if not fast.on():
        yield "twins       off: every function is its page's own"
        return
    yield from twins()
    import numba

    from ..fast.threads import num_threads

    yield f"threads     {num_threads()}, pool {numba.threading_layer()}"


def twins() -> Iterator[str]:
    """Compare each fast twin with its page in float32, with a line for each.

    Raises ValueError where two disagree.
    """
    for name, calls in page_calls().items():
        start = time.perf_counter()
        error = max(disagreement(*call) for call in calls)
        if not error <= AGREEMENT:
            raise ValueError(
                f"doctor: the twin of {name} differs from its page by {error:.1e}, "
                f"wanted at most {AGREEMENT:.0e}"
            )
        seconds = time.perf_counter() - start
        yield f"✓ {name:28} agrees with its page to {error:.0e} ({seconds:.2f} s)"


def page_calls() -> dict[str, list[tuple[Callable, Callable, tuple]]]:
    """Name of a page's function that has a twin -> calls: (function, twin, float32 arguments)."""
    rng, rows = np.random.default_rng(0), 300 * (os.cpu_count() or 1)  # enough for every thread

    def n(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    moments = n(33), n(33), n(33), np.abs(n(33))
    calls: list[tuple[Any, str, tuple]] = [
        (ops.add, "forward", (n(rows, 200), n(rows, 200))),
        (engine.add, "value", (n(rows, 200), n(rows, 200))),
        (mask, "value", (n(rows, 29), 0.3, (0, 1, 0, 0))),
        (delta_lora.add_product, "value", (n(37, 29), n(37, 6), n(6, 29))),
        (adamw, "value", (*moments, 0.1, 0.9, 0.99, 1e-8, 0.01, 3)),
    ]
    for _, op, case, _ in pairs(M=rows, I=29, O=51):
        args = _single(case)
        with fast.plain():
            out, cache = op.forward(*args)
        calls += [(op, "forward", args), (op, "backward", (np.asarray(n(*out.shape)), cache))]
        calls += [(op, "value", args)] if op.value else []
    found: dict[str, list[tuple[Callable, Callable, tuple]]] = {}
    for page, kind, args in calls:
        function = getattr(page, kind)
        if function in TWINS:
            twin = inspect.unwrap(TWINS[function])
            found.setdefault(function.__name__, []).append((function, twin, args))
    return found


def _single(args):
    """Float arrays as float32."""
    is_float = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in args]
    return tuple(a.astype(np.float32) if f else a for a, f in zip(args, is_float))


def disagreement(function: Callable, twin: Callable, args: tuple) -> float:
    """The largest difference between a twin and its page in all that they return and write,
    relative to the largest number in each array.
    """
    mine, theirs = (
        tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in args) for _ in range(2)
    )
    with fast.plain():
        wanted = arrays_in((function(*theirs), theirs))
    got = arrays_in((twin(*mine), mine))
    return max(
        float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))
        for a, b in zip(got, wanted, strict=True)
        if b.size
    )
