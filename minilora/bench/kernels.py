"""Each kernel compared with NumPy, and with the machine's peaks."""

import copy
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import fast
from . import machine, turns, work
from .turns import OURS, Settings, Side

NUMPY = "numpy"
WARM = 0.05  # seconds of calls before the timed ones

Chosen = Sequence[tuple[str, Sequence[int]]]  # kernels by name, with their sizes


def beside_numpy(settings: Settings) -> dict[str, Any]:
    """Time each kernel here and in NumPy; measure the machine's peaks."""
    with turns.together(*both(settings.threads)) as sides:
        records = compared(sides, [*work.PRODUCTS, *work.FUSED], settings)
        return {**limits(sides), "kernels": records, "mean": geometric_mean(records)}


def both(threads: int) -> list[Side]:
    """Our side and NumPy's.

    NumPy's BLAS must choose its kernels itself, so environment variables for it are hidden.
    """
    return [Side(OURS, threads), Side(NUMPY, threads, hide="OPENBLAS_")]


def limits(sides: Mapping[str, Side]) -> dict[str, Any]:
    """The machine's peaks, and which BLAS NumPy has."""
    return {"peaks": sides[OURS].ask(machine.peaks), "blas": sides[NUMPY].ask(machine.blas_facts)}


def timed(
    side: str, chosen: Chosen, seconds: float, convert: Callable[[list], list] = list
) -> list[turns.Times]:
    """Time each kernel on one side, by calling it for about `seconds`.

    convert: turns NumPy's arguments into the side's own. Raises ValueError if a kernel's results
    differ from the page's in float64.
    """
    calls = [_checked(side, name, tuple(sizes), convert) for name, sizes in chosen]
    time.sleep(turns.REST)  # NumPy's BLAS has just run the pages in this process
    times = []
    with fast.plain(side != OURS):
        for call in calls:
            turns.timed(call, WARM)
            times.append(turns.timed(call, seconds))
    return times


def _checked(side, name, sizes, convert) -> Callable[[], Any]:
    """Check a kernel's results; returns its call with its arguments."""
    page, arguments = work.KERNELS[name].numpy, work.arguments(name, sizes)
    call = work.kernel(name) if side == OURS else page
    wide = [a.astype(float) if getattr(a, "dtype", 0) == np.float32 else a for a in arguments]
    arguments = convert(arguments)
    with fast.plain(side != OURS):
        results = zip(_results(call, arguments), _results(page, wide), strict=True)
        for got, wanted in results:
            work.check(f"{side}: {name} {sizes}", got, wanted)
    return functools.partial(call, *arguments)


def _results(call, arguments) -> list[Any]:
    """All arrays that a call returns, then its array arguments after the call."""
    arguments = copy.deepcopy(arguments)
    returned = call(*arguments)
    returned = returned if isinstance(returned, tuple) else (returned,)
    return [a for a in (*returned, *arguments) if hasattr(a, "shape")]


def compared(
    sides: Mapping[str, Side], chosen: Chosen, settings: Settings, call: Callable = timed
) -> list[dict[str, Any]]:
    """A record of each kernel. In its turn, a side times all kernels by `call`."""

    def ask(side):
        how = {"chosen": chosen, "seconds": settings.seconds / 20}
        return sides[side].ask(call, side=side, **how)

    told = turns.in_turn(sides, settings.rounds, ask)
    return [
        _record(name, sizes, {side: [times[i] for times in told[side]] for side in sides})
        for i, (name, sizes) in enumerate(chosen)
    ]


def _record(name, sizes, rounds: turns.Rounds) -> dict[str, Any]:
    flops, nbytes = work.cost(name, sizes)
    sides = {side: turns.summary(times) for side, times in rounds.items()}
    best = min((side for side in sides if side != OURS), key=lambda side: sides[side]["median"])
    return {
        "name": name,
        "sizes": list(sizes),
        "flops": flops,
        "bytes": nbytes,
        "sides": sides,
        "best": best,
        "ratio": turns.ratio(rounds[best], rounds[OURS]),
    }


def geometric_mean(records: Sequence[Mapping[str, Any]]) -> float:
    """The time of the best other side divided by ours, over all products."""
    products = [r for r in records if r["name"].startswith("matmul")]
    sides = [(r["sides"][r["best"]], r["sides"][OURS]) for r in products]
    return statistics.geometric_mean(a["median"] / b["median"] for a, b in sides)
