"""The ways to write a matrix product, in turn, on one thread and on two: notebook 09's record.

minilora bench ladder --out data/results/kernels
"""

import contextlib
import ctypes
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import fast as kernels
from ..fast import numpy_ref
from . import machine, turns, work
from .steps import Settings

BLAS = "BLAS"
ROWS, DEPTH = 8192, 576
COLUMNS = 4, 16, 64, 256  # of w: a thin product is short of numbers to compute with
QUICK = 64  # rows, where it is to be quick
ARRAY = 1 << 26  # bytes of an array that is made and dropped


def climbed(settings: Settings, tell: Callable[[dict], None]) -> dict[str, Any]:
    """Every way at every number of columns on one thread; the last two, and the rest, on more.

    NumPy's BLAS answers in the same process as the kernels, where one thread cannot disturb the
    other's; on more threads in a process of its own.
    """
    rows = QUICK if settings.seconds < 1 else ROWS
    threads = settings.number_of_threads()
    one, more = turns.Side("one", "", 1, "OPENBLAS_"), turns.Side("more", "", threads)
    blas = turns.Side("BLAS", "", threads, "OPENBLAS_")
    with turns.together([one, more, blas]):
        pages = {"large pages": blas.ask("pages"), "small pages": blas.ask("pages", small=True)}
        pages["kept"] = more.ask("pages", keep=True)
        found: dict[str, Any] = {"peaks": {}, "threads": threads, "pages": pages, "products": []}
        for side, count in ((one, 1), (more, threads)):
            found["peaks"][str(count)] = side.ask("peak", threads=count)
        for columns in COLUMNS:
            sizes = rows, DEPTH, columns
            found["products"].append(one.ask("rungs", sizes=sizes, rounds=settings.rounds))
            tell(found["products"][-1])
        how = {"name": "matmul_nn", "sizes": sizes, "seconds": 0.1}
        pairs = [
            (more.ask("work", side="minilora", **how), blas.ask("work", side="numpy", **how))
            for _ in range(settings.rounds)
        ]
        for name, taken in zip(("register tile", BLAS), zip(*pairs)):
            found.setdefault("together", {})[name] = turns.summary(taken)["median"]
        found["fused"] = one.ask("fused", rows=rows, rounds=settings.rounds)
    return found


def rungs(sizes: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Seconds of each way for a product of M, K, N numbers: medians of rounds in turn."""
    from ..fast.ladder import LADDER

    doing = work.work("matmul_nn", sizes)
    calls = {**LADDER, BLAS: np.matmul}
    wanted = numpy_ref.matmul_nn(*(a.astype(np.float64) for a in doing.arguments))
    for name, call in calls.items():
        _check(name, call(*doing.arguments), wanted)
    ready = {n: functools.partial(call, *doing.arguments) for n, call in calls.items()}
    seconds = race(ready, rounds)
    return {
        "sizes": list(sizes),
        "flops": doing.flops,
        "bytes": doing.nbytes,
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
    }


def race(calls: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of each call in each round: all in turn, every other round in the reverse order.

    So whatever else the machine does meets all alike. A short call counts as often as takes 5 ms.
    """
    often = {}
    for name, call in calls.items():
        call()  # the first may compile
        often[name] = max(1, round(5e-3 / _seconds(call, 1)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            taken[name].append(_seconds(calls[name], often[name]))
    return taken


def _seconds(call, times) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def fused(rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of two pieces of work done in one kernel, and of the same in pieces."""
    rng = np.random.default_rng(0)
    x, w, z, b = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((rows, DEPTH), (DEPTH, DEPTH), (rows, 8), (DEPTH, 8))
    )
    q = rng.standard_normal((1, rows // 2, 4, 64), dtype=np.float32)
    pairs: dict[str, dict[str, Callable[[], Any]]] = {
        "adapted linear": {
            "in one": lambda: kernels.adapted_nt(x, w, z, b),
            "in pieces": lambda: kernels.matmul_nt(x, w) + kernels.matmul_nt(z, b),
        },
        "attention": {
            "in one": lambda: kernels.attention_forward(q, q, q)[0],
            "in pieces": lambda: numpy_ref.attention_forward(q, q, q)[0],
        },
    }
    found = {}
    for name, calls in pairs.items():
        _check(name, calls["in one"](), calls["in pieces"]())
        found[name] = {way: statistics.median(t) for way, t in race(calls, rounds).items()}
    return found


def pages(small: bool = False, keep: bool = False, times: int = 20) -> dict[str, float]:
    """Seconds and page faults of making an array of 64 MB, filling it and letting it go.

    small: with pages of 4 KB alone, as on systems that give no large ones (Linux). keep: with the C
    library told to keep what is freed, as the kernels tell it.
    """
    if keep:
        from ..fast import threads  # noqa: F401  importing it tells

    def make():
        np.empty(ARRAY // 4, np.float32)[:] = 1

    _small_pages(small)
    make()
    before = machine.page_faults()
    seconds = _seconds(make, times)
    _small_pages(False)
    return {"seconds": seconds, "faults": (machine.page_faults() - before) / times}


def _small_pages(only: bool) -> None:
    """Linux: give this process no large pages, or give it some again; elsewhere nothing."""
    thp_disable = 41  # PR_SET_THP_DISABLE
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(thp_disable, int(only), 0, 0, 0)


def _check(name, got, wanted):
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    if not error <= work.TOLERANCE:
        raise ValueError(f"{name}: wrong by {error:.1e} of its largest number")
