"""The time of each technique's training step, compared with LoRA's."""

from collections.abc import Sequence
from typing import Any

from ..llama.model import Llama, init_params
from ..tuning.adapters import attach
from . import cases, turns
from .turns import OURS, Settings, Side

BASE = "lora"  # the case that the others are compared with


def among_ourselves(settings: Settings) -> list[dict[str, Any]]:
    """For each size, the times of all cases, and each time divided by LoRA's."""
    records = []
    base = BASE if BASE in settings.cases else settings.cases[0]
    how = {"names": settings.cases, "rounds": settings.rounds, "seconds": settings.seconds}
    for size in settings.sizes:
        with turns.together(Side(OURS, settings.threads)) as sides:
            rounds = sides[OURS].ask(timed, size=size, **how)
        records.append(
            {
                "size": size,
                "rounds": rounds,
                "sides": {name: turns.summary(times) for name, times in rounds.items()},
                "over": base,
                "ratios": {n: turns.ratio(times, rounds[base]) for n, times in rounds.items()},
            }
        )
    return records


def timed(size: str, names: Sequence[str], rounds: int, seconds: float) -> turns.Rounds:
    """The times of the cases on one model in this process, in turns of `seconds` each."""
    of = cases.SIZES[size]
    model, batches = Llama(of.config, init_params(of.config)), [cases.batch(of)]
    trains = {}
    for name in names:
        case = cases.case(name)
        tuned = attach(model, case.method, **case.how)
        trains[name] = cases.ours(cases.Training(tuned, batches))
    return turns.steps_in_turn(trains, rounds, seconds)
