"""Whole training steps: each technique here and in PyTorch with PEFT, and all of them here."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ..methods import METHODS
from . import cases, turns
from .turns import OURS, REST, SIDES, Settings, Side

BASE = "lora"  # the case that the others are compared with
LR = 1e-3
CHECKED = 4  # steps whose losses must agree
NEAR, TOLERANCE = 10, 2e-4  # in the first 10 steps, of the loss of the step
# Two programs round differently. In a long training the difference grows and the loss falls, so for
# later steps the difference is compared with the first loss.
LATER = 0.02  # after these steps, of the first loss


def against_torch(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """Time our steps and torch's, for each size and case; tell is called with each record.

    [] where torch is not installed.
    """
    records: list[dict[str, Any]] = []
    for size in settings.sizes if settings.peers() else ():
        for case in settings.cases:
            records.append(_one(size, case, settings))
            tell(shares_of_peak(records)[-1])
    return records


def shares_of_peak(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with our share of the machine's peak, the highest that any record measured."""
    peak = max((r["peak_flops"] or 0.0 for r in records), default=0.0)

    def share(r):
        return r["flops"] / r["sides"][OURS]["median"] / peak if peak else None

    return [{**r, "share_of_peak": share(r)} for r in records]


def _one(size: str, case: str, settings: Settings) -> dict[str, Any]:
    threads = settings.number_of_threads()
    theirs = [Side(name, threads, settings.python) for name in settings.peers()]
    with turns.together([turns.ours(threads), *theirs]) as sides:
        for side in sides:
            _start(side, size, case, threads)
        losses = {side.name: side.ask("training.losses", n=CHECKED) for side in sides}
        check(case, losses)
        rounds = _in_turn(sides, settings)
        memory = {side.name: side.ask("training.memory") for side in sides}
        peak = sides[0].ask("machine.tile_flops")
    summaries = {name: turns.summary(times) for name, times in rounds.items()}
    return {
        "size": size,
        "case": case,
        "losses": losses,
        "rounds": rounds,
        "sides": summaries,
        "memory": memory,
        "flops": cases.flops(cases.SIZES[size], cases.CASES[case]),
        "peak_flops": peak,
        "ratios": _ratios(rounds, summaries, memory),
    }


def _ratios(rounds, summaries, memory) -> dict[str, Any]:
    """Each side's time divided by ours, and our memory divided by torch's.

    "peer" is the faster of torch's two kinds of attention.
    """
    ratios: dict[str, Any] = {
        name: turns.ratio(times, rounds[OURS]) for name, times in rounds.items() if name != OURS
    }
    peer = min(SIDES[1:3], key=lambda name: summaries[name]["median"])
    ratios["peer"] = {**ratios[peer], "is": peer}
    mine, theirs = memory[OURS], memory[peer]
    if "peak" in mine:
        above = [m["peak"] - m["baseline"] for m in (mine, theirs)]
        ratios["memory above import"] = above[0] / above[1]
        ratios["memory of the process"] = mine["peak"] / theirs["peak"]
    return ratios


def among_ourselves(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """For each size the times of all cases in this package, and each divided by LoRA's."""
    records = []
    threads = settings.number_of_threads()
    for size in settings.sizes:
        with turns.together([turns.ours(threads, case) for case in settings.cases]) as sides:
            for side in sides:
                _start(side, size, side.name, threads)
            rounds = _in_turn(sides, settings)
        base = BASE if BASE in settings.cases else settings.cases[0]
        record = {
            "size": size,
            "rounds": rounds,
            "sides": {name: turns.summary(times) for name, times in rounds.items()},
            "over": base,
            "ratios": {name: turns.ratio(times, rounds[base]) for name, times in rounds.items()},
        }
        records.append(record)
        tell(record)
    return records


def _start(side: Side, size: str, case: str, threads: int) -> None:
    side.ask("training.start", side=side.name, size=size, case=case, lr=LR, threads=threads)


def _in_turn(sides: Sequence[Side], settings: Settings) -> turns.Rounds:
    """The times of a training step of each side; a turn lasts about settings.seconds."""
    first = {side: side.ask("training.timed", n=2)["least"] for side in sides}
    counts = {side: max(3, round(settings.seconds / least)) for side, least in first.items()}

    def ask(side):
        time.sleep(REST)
        return side.ask("training.timed", n=counts[side])

    return turns.in_turn(sides, settings.rounds, ask)


def check(case: str, losses: dict[str, Sequence[float]]) -> dict[str, float]:
    """The largest difference of each other side's losses from ours, as a share of the first loss.

    Raises ValueError unless the losses agree, step by step. PEFT has no technique that moves
    weights: it runs LoRA instead, and only the first loss is compared.
    """
    moves_weights = METHODS[cases.CASES[case].method].after_step is not None
    ours, *others = losses
    largest = dict.fromkeys(others, 0.0)
    for other in others:
        steps = 1 if moves_weights else None
        first = abs(losses[other][0])
        for step, (a, b) in enumerate(zip(losses[ours][:steps], losses[other][:steps]), 1):
            apart = abs(a - b)
            if not apart <= (TOLERANCE * abs(b) if step <= NEAR else LATER * first):
                raise ValueError(
                    f"{case}: step {step}: the loss is {a:.6f} here, {b:.6f} in {other}; "
                    "both must compute the same before they are timed"
                )
            largest[other] = max(largest[other], apart / first)
    return largest
