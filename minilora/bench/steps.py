"""Whole training steps: each technique here and in PyTorch with PEFT, and all of them here."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..methods import METHODS
from . import cases, turns
from .turns import SIDES

BASE = "lora"  # the case that the others are measured by
LR = 1e-3
CHECKED = 4  # steps whose losses must agree
TOLERANCE = 2e-4  # of a loss


@dataclass(frozen=True)
class Settings:
    """How long, on what, beside whom."""

    sizes: tuple[str, ...] = ("tiny", "small", "smollm2")
    cases: tuple[str, ...] = tuple(cases.CASES)
    rounds: int = 5
    seconds: float = 2.0  # a side and round
    threads: int = 0  # 0: as many as cores
    python: str = ""  # where torch is installed; "": this Python, if it is there
    sides: tuple[str, ...] = SIDES

    def number_of_threads(self) -> int:
        """Threads of each side."""
        return self.threads or os.cpu_count() or 1

    def peers(self) -> tuple[str, ...]:
        """The sides of torch, where it can be had."""
        here = importlib.util.find_spec("torch") and importlib.util.find_spec("peft")
        return self.sides[1:] if self.python or here else ()


def against_torch(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """For each size and case our steps and torch's, in turn; tell is called with each record."""
    records = []
    for size in settings.sizes:
        for case in settings.cases:
            records.append(_one(size, case, settings))
            tell(shares_of_peak(records)[-1])
    return records


def shares_of_peak(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with our share of the peak: the highest that any of them measured."""
    peak = max((r["peak_flops"] or 0.0 for r in records), default=0.0)

    def share(r):
        return r["flops"] / r["sides"][SIDES[0]]["median"] / peak if peak else None

    return [{**r, "share_of_peak": share(r)} for r in records]


def _one(size: str, case: str, settings: Settings) -> dict[str, Any]:
    threads = settings.number_of_threads()
    theirs = [turns.Side(name, settings.python, threads) for name in settings.peers()]
    ours = [turns.ours(threads), *turns.ours_on_unit(threads)]
    with turns.together([ours[0], *theirs, *ours[1:]]) as sides:
        for side in sides:
            _make(side, size, case, settings)
        losses = {side.name: side.ask("steps", n=CHECKED) for side in sides}
        _check(case, losses)
        rounds = turns.in_turn(sides, settings.rounds, settings.seconds)
        memory = {side.name: side.ask("memory") for side in sides}
        peak = sides[0].ask("peak")["flops"]
    flops = cases.flops(cases.SIZES[size], cases.CASES[case])
    record = {
        "size": size,
        "case": case,
        "losses": losses,
        "rounds": rounds,
        "sides": {name: turns.summary(found) for name, found in rounds.items()},
        "memory": memory,
        "flops": flops,
        "peak_flops": peak,
    }
    record["ratios"] = _ratios(record)
    return record


def _ratios(record) -> dict[str, Any]:
    """Every side's time over ours, and our memory over torch's.

    "peer": the faster of torch's two kinds of attention; also over ours on the matrix unit.
    """
    rounds, ours = record["rounds"], SIDES[0]
    times: dict[str, Any] = {
        name: turns.ratio(taken, rounds[ours]) for name, taken in rounds.items() if name != ours
    }
    eager = [name for name in SIDES[1:3] if name in rounds]
    if eager:
        peer = min(eager, key=lambda name: record["sides"][name]["median"])
        times["peer"] = {**times[peer], "is": peer}
        if turns.UNIT in rounds:
            times["peer over unit"] = turns.ratio(rounds[peer], rounds[turns.UNIT])
        mine, theirs = record["memory"][ours], record["memory"][peer]
        if "peak" in mine:
            above = [m["peak"] - m["baseline"] for m in (mine, theirs)]
            times["memory above import"] = above[0] / above[1]
            times["memory of the process"] = mine["peak"] / theirs["peak"]
    return times


def among_ourselves(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """For each size all cases here, in turn, and their time over LoRA's."""
    records = []
    for size in settings.sizes:
        threads = settings.number_of_threads()
        with turns.together([turns.ours(threads, case) for case in settings.cases]) as sides:
            for side in sides:
                _make(side, size, side.name, settings)
            rounds = turns.in_turn(sides, settings.rounds, settings.seconds)
        first = BASE if BASE in settings.cases else settings.cases[0]
        record = {
            "size": size,
            "rounds": rounds,
            "sides": {name: turns.summary(found) for name, found in rounds.items()},
            "over": first,
            "ratios": {name: turns.ratio(found, rounds[first]) for name, found in rounds.items()},
        }
        records.append(record)
        tell(record)
    return records


def _make(side: turns.Side, size: str, case: str, settings: Settings) -> None:
    threads = settings.number_of_threads()
    side.ask("make", side=side.kind, size=size, case=case, lr=LR, threads=threads)


def _check(case: str, losses: dict[str, Sequence[float]]) -> None:
    """Raises ValueError unless all sides had the same losses, step by step.

    A technique that PEFT does not have is beside its LoRA: there the first loss is the same.
    """
    moves_weights = METHODS[cases.CASES[case].method].after_step is not None
    ours, *others = losses
    for other in others:
        steps = 1 if moves_weights and other != turns.UNIT else CHECKED
        for step, (a, b) in enumerate(zip(losses[ours][:steps], losses[other][:steps]), 1):
            if not abs(a - b) <= TOLERANCE * abs(b):
                raise ValueError(
                    f"{case}: step {step}: the loss is {a:.6f} here, {b:.6f} in {other}: no time "
                    "is shown for what does not compute the same"
                )
