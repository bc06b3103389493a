"""Each kernel beside NumPy and torch, and beside what the machine can do."""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import fast
from . import turns, work
from .turns import OURS, Settings, Side

NUMPY, TORCH = "numpy", "torch"
WARM = 0.05  # seconds of calls before those that are counted


def compared(settings: Settings, tell: Callable[[dict], None]) -> dict[str, Any]:
    """Time each kernel and shape here, in NumPy and in torch; measure the machine's peaks.

    NumPy's BLAS shall choose its kernels itself, so variables that choose others are hidden.
    """
    threads = settings.number_of_threads()
    numpy = Side(NUMPY, threads, hide="OPENBLAS_")
    sides = [turns.ours(threads), numpy]
    if settings.peers():
        sides.append(Side(TORCH, threads, settings.python))
    records = []
    with turns.together(sides):
        peaks, rates = sides[0].ask("machine.peaks"), {}
        if sides[0].ask("machine.kernels")["backend"] != "numpy":
            how = {"sizes": (512, 512, 512), "rounds": settings.rounds, "blas": False}
            cube = sides[0].ask("ladder.rungs", **how)
            rates = {way: cube["flops"] / s for way, s in cube["seconds"].items()}
        blas = numpy.ask("machine.blas_facts")
        for name, sizes in [*work.PRODUCTS, *work.FUSED]:
            among = sides if name.startswith("matmul") else sides[:2]
            ask = asking(name, sizes, settings.seconds / 20)
            records.append(_record(name, sizes, turns.in_turn(among, settings.rounds, ask)))
            tell(records[-1])
    return {
        "peaks": peaks,
        "blas": blas,
        "ladder": rates,
        "kernels": records,
        "mean": geometric_mean(records, OURS),
    }


def asking(name: str, sizes: tuple[int, ...], seconds: float) -> Callable[[Side], turns.Times]:
    """A function for `in_turn` that asks a side for the times of a kernel."""
    how = {"name": name, "sizes": sizes, "seconds": seconds}
    return lambda side: side.ask("kernels.timed", side=side.name, **how)


def _record(name, sizes, rounds) -> dict[str, Any]:
    flops, nbytes = work.cost(name, sizes)
    sides = {side: turns.summary(times) for side, times in rounds.items()}
    others = [side for side in sides if side != OURS]
    best = min(others, key=lambda side: sides[side]["median"])
    return {
        "name": name,
        "sizes": list(sizes),
        "flops": flops,
        "bytes": nbytes,
        "sides": sides,
        "best": best,
        "ratio": turns.ratio(rounds[best], rounds[OURS]),
    }


def geometric_mean(records: list[dict[str, Any]], side: str) -> float | None:
    """The best other side's time divided by this side's, over all products; None without it."""
    products = [r for r in records if r["name"].startswith("matmul")]
    if side not in products[0]["sides"]:
        return None
    medians = [{name: times["median"] for name, times in r["sides"].items()} for r in products]
    return statistics.geometric_mean(m[r["best"]] / m[side] for m, r in zip(medians, products))


def timed(side: str, name: str, sizes: tuple[int, ...], seconds: float) -> turns.Times:
    """The times of a call on one side, repeated for about so many seconds.

    Raises ValueError if its results differ from the page's in float64.
    """
    page, arguments = work.KERNELS[name].numpy, work.arguments(name, tuple(sizes))
    call = work.kernel(name) if side == OURS else page
    wide = [a.astype(float) if getattr(a, "dtype", 0) == np.float32 else a for a in arguments]
    if side == TORCH:
        from .theirs import tensors

        arguments = tensors(arguments)
    with fast.plain(call is page):
        results = zip(_results(call, arguments), _results(page, wide), strict=True)
        for got, wanted in results:
            work.check(f"{side}: {name} {tuple(sizes)}", got, wanted)
        time.sleep(turns.REST)  # the page ran on NumPy's BLAS, in this process
        _repeat(call, arguments, WARM)
        return _repeat(call, arguments, seconds)


def _results(call, arguments) -> list[Any]:
    """All arrays that a call returns, and what it leaves in its arguments."""
    arguments = copy.deepcopy(arguments)
    returned = call(*arguments)
    returned = returned if isinstance(returned, tuple) else (returned,)
    return [a for a in (*returned, *arguments) if hasattr(a, "shape")]


def _repeat(call, arguments, seconds) -> turns.Times:
    wall: list[float] = []
    before = time.process_time()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(wall) < 5:
        start = time.perf_counter()
        call(*arguments)
        wall.append(time.perf_counter() - start)
    return turns.times_of(wall, (time.process_time() - before) / len(wall))
