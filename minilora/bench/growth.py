"""How a step's time and memory grow with the length, the width, the layers and the rank."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from . import cases, turns
from .steps import LR, Settings

AXES: dict[str, Sequence[int]] = {
    "length": (32, 64, 128, 256, 512),
    "width": (64, 128, 256, 512),
    "layers": (1, 2, 4, 8, 16),
    "rank": (1, 4, 16, 64),
}
START = {"length": 128, "width": 128, "layers": 4, "rank": 8}


def size_of(length: int, width: int, layers: int, rank: int) -> tuple[cases.Size, cases.Case]:
    """A Llama with heads of 32 and a feed-forward of three widths; LoRA on all linears."""
    heads = width // 32
    model = dict(C=width, L=layers, H=heads, G=heads, F=3 * width, V=512)
    how = {"rank": rank, "targets": "all-linear"}
    return cases.size(**model, N=4, T=length), cases.Case("LoRA", "lora", how)


def measured(axis: str, values: Sequence[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """For each value the median time of a step and its peak of bytes, beside what is expected.

    Expected: floating-point operations, and the bytes that the ledger predicts.
    """
    from ..memory import ledger, measure
    from .ours import Ours

    sides, found = [], []
    for value in values:
        size, case = size_of(**{**START, axis: value})
        side = Ours(size, case, LR)
        sides.append(side)
        predicted = ledger(side.tuned, size.batch, size.length).peak
        peak = measure(side.tuned, size.batch, size.length).peak
        flops = cases.flops(size, case) + cases.adapter_flops(size, side.tuned)
        found.append({"value": value, "bytes": peak, "predicted": predicted, "flops": flops})
    times: list[list[float]] = [[] for _ in values]
    for _ in range(rounds):
        for side, taken in zip(sides, times):
            first = side.seconds(3)
            taken += side.seconds(max(3, int(seconds / len(values) / min(first))))
    return [{**f, "seconds": statistics.median(taken)} for f, taken in zip(found, times)]


def all_axes(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """Every axis; tell is called with each record."""
    records = []
    for axis, values in AXES.items():
        with turns.together([turns.Side("minilora", "", settings.number_of_threads())]) as sides:
            how = {"rounds": settings.rounds, "seconds": settings.seconds}
            points = sides[0].ask("growth", axis=axis, values=values, **how)
        exponents = {
            name: slope([p["value"] for p in points], [p[name] for p in points])
            for name in ("seconds", "flops", "bytes", "predicted")
        }
        records.append({"axis": axis, "points": points, "exponents": exponents})
        tell(records[-1])
    return records


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent p of y = c xᵖ that is nearest to the points, by least squares of logarithms."""
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mean_u, mean_v = statistics.mean(u), statistics.mean(v)
    above = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v))
    return above / sum((a - mean_u) ** 2 for a in u)
