"""Each kernel beside NumPy and torch, and beside what the machine can do."""

import math
from collections.abc import Callable
from typing import Any

from . import turns, work
from .steps import Settings

OURS, NUMPY, TORCH = "minilora", "numpy", "torch"


def compared(settings: Settings, tell: Callable[[dict], None]) -> dict[str, Any]:
    """For each kernel and shape the time here and elsewhere, in turn; with the machine's peaks.

    NumPy's BLAS chooses its own kernels: the variables that would choose others are unset.
    """
    threads = settings.number_of_threads()
    ours, numpy = turns.ours(threads), turns.Side(NUMPY, "", threads, "OPENBLAS_")
    sides = [ours, numpy, *turns.ours_on_unit(threads)]
    if settings.peers():
        sides.append(turns.Side(TORCH, settings.python, threads))
    records = []
    with turns.together(sides):
        peaks = sides[0].ask("peak")
        compiled = sides[0].ask("facts")["kernels"]["backend"] != "numpy"
        how = {"sizes": (512, 512, 512), "seconds": settings.seconds / 20}
        ladder = sides[0].ask("ladder", **how) if compiled else {}
        blas = sides[1].ask("facts")["blas"]
        for name, sizes in [*work.PRODUCTS, *work.FUSED]:
            is_product = name.startswith("matmul")
            asked = sides if is_product else sides[:2]
            rounds: dict[str, list] = {side.name: [] for side in asked}
            for side in turns.order(asked, settings.rounds, rest=0):  # each rests after its check
                how = {"name": name, "sizes": sizes, "seconds": settings.seconds / 20}
                rounds[side.name].append(side.ask("work", side=side.kind, **how))
            records.append(_record(name, sizes, rounds))
            tell(records[-1])
    return {
        "peaks": peaks,
        "blas": blas,
        "ladder": ladder,
        "kernels": records,
        "mean": geometric_mean(records, OURS),
        "mean on the unit": geometric_mean(records, turns.UNIT),
    }


def _record(name, sizes, rounds) -> dict[str, Any]:
    doing = work.work(name, sizes)
    sides = {side: turns.summary(found) for side, found in rounds.items()}
    others = [side for side in sides if side not in (OURS, turns.UNIT)]
    best = min(others, key=lambda side: sides[side]["median"])
    return {
        "name": name,
        "sizes": list(sizes),
        "flops": doing.flops,
        "bytes": doing.nbytes,
        "sides": sides,
        "best": best,
        "ratio": turns.ratio(rounds[best], rounds[OURS]),
    }


def geometric_mean(records: list[dict[str, Any]], side: str) -> float | None:
    """Of all products: the best of the others' median time over this side's; None where it is not
    among them.
    """
    products = [r for r in records if r["name"].startswith("matmul")]
    if side not in products[0]["sides"]:
        return None
    pairs = [(r["sides"][r["best"]]["median"], r["sides"][side]["median"]) for r in products]
    logs = [math.log(best / own) for best, own in pairs]
    return math.exp(sum(logs) / len(logs))
