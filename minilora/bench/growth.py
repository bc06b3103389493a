"""How a step's time and memory grow with the length, the width, the layers and the rank."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from . import cases, turns
from .steps import LR

AXES: dict[str, Sequence[int]] = {
    "length": (32, 64, 128, 256, 512),
    "width": (64, 128, 256, 512),
    "layers": (1, 2, 4, 8, 16),
    "rank": (1, 4, 16, 64),
}
START = {"length": 128, "width": 128, "layers": 4, "rank": 8}


def size_of(length: int, width: int, layers: int, rank: int) -> tuple[cases.Size, cases.Case]:
    """A Llama with heads of 32 and a feed-forward width of 3 C; LoRA on all linears."""
    heads = width // 32
    model = dict(C=width, L=layers, H=heads, G=heads, F=3 * width, V=512)
    how = {"rank": rank, "targets": "all-linear"}
    return cases.size(**model, N=4, T=length), cases.Case("LoRA", "lora", how)


def measured(axis: str, values: Sequence[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """For each value the median seconds of a step and its peak of bytes, measured and expected.

    "flops": the operations of a step, "predicted": the bytes that the ledger predicts.
    """
    from ..memory import ledger, measure
    from .training import ours

    trains, points = [], []
    for value in values:
        size, case = size_of(**{**START, axis: value})
        training = cases.full_batches(size, case, LR)
        tuned = training.tuned
        trains.append(ours(training))
        points.append(
            {
                "value": value,
                "predicted": ledger(tuned, size.batch, size.length).peak,
                "bytes": measure(tuned, size.batch, size.length).peak,
                "flops": cases.flops(size, case) + cases.adapter_flops(size, tuned),
            }
        )
    wall: list[list[float]] = [[] for _ in values]
    for _ in range(rounds):
        for train, mine in zip(trains, wall):
            least = min(train(3)[1])
            mine += train(max(3, int(seconds / len(values) / least)))[1]
    return [{**p, "seconds": statistics.median(mine)} for p, mine in zip(points, wall)]


def all_axes(settings: turns.Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """Every axis; tell is called with each record."""
    records, threads = [], settings.number_of_threads()
    for axis, values in AXES.items():
        how = {"rounds": settings.rounds, "seconds": settings.seconds}
        with turns.together([turns.Side(turns.OURS, threads)]) as (side,):
            points = side.ask("growth.measured", axis=axis, values=values, **how)
        exponents = {
            name: slope([p["value"] for p in points], [p[name] for p in points])
            for name in ("seconds", "flops", "bytes", "predicted")
        }
        records.append({"axis": axis, "points": points, "exponents": exponents})
        tell(records[-1])
    return records


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent p of y = c xᵖ, fitted to the points by least squares of logarithms."""
    return statistics.linear_regression(list(map(math.log, xs)), list(map(math.log, ys))).slope
