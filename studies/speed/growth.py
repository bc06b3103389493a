"""How a step's time and memory grow with the length, the width, the layers and the rank."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from minilora.bench import cases, turns
from minilora.bench.turns import OURS
from minilora.memory import ledger, measure
from minilora.support.terminal import bar

from .sides import Settings
from .steps import adapter_flops, flops

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

    seconds: of a turn of all values. "flops": the operations of a step, "predicted": the bytes that
    the ledger predicts.
    """
    trains, points = {}, []
    for value in values:
        size, case = size_of(**{**START, axis: value})
        tuned = cases.make(size, case)
        trains[str(value)] = cases.ours(cases.Training(tuned, [cases.batch(size)]))
        points.append(
            {
                "value": value,
                "predicted": ledger(tuned, size.batch, size.length).peak,
                "bytes": measure(tuned, size.batch, size.length).peak,
                "flops": flops(size, case) + adapter_flops(size, tuned),
            }
        )
    times = turns.steps_in_turn(trains, rounds, seconds / len(values))
    return [{**p, "seconds": turns.summary(times[str(p["value"])])["median"]} for p in points]


def all_axes(settings: Settings) -> list[dict[str, Any]]:
    """Every axis, and the exponents of its time, operations and bytes."""
    records, how = [], {"rounds": settings.rounds, "seconds": settings.seconds}
    for axis, values in bar(iterable=AXES.items(), desc="growth", disable=None):
        with turns.together(*settings.beside()) as sides:
            points = sides[OURS].ask(measured, axis=axis, values=values, **how)
        exponents = {
            name: slope([p["value"] for p in points], [p[name] for p in points])
            for name in ("seconds", "flops", "bytes", "predicted")
        }
        records.append({"axis": axis, "points": points, "exponents": exponents})
    return records


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent p of y = c xᵖ, fitted to the points by least squares of logarithms."""
    return statistics.linear_regression(list(map(math.log, xs)), list(map(math.log, ys))).slope
