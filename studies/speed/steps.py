"""Whole training steps: each technique here, in PyTorch with PEFT, and in JAX."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minilora.bench import cases, machine, turns
from minilora.bench.turns import OURS, REST, Side
from minilora.lab.settings import Settings as Comparison
from minilora.methods import METHODS
from minilora.support.terminal import bar
from minilora.tuning.adapters import Tuned

from . import masked, training
from .sides import (
    COMPILED,
    JAX,
    MORE,
    PACKED,
    PADDED,
    PADDED_COMPILED,
    SIDES,
    WITH_MORE,
    Settings,
)

CHECKED = 4  # steps whose losses must agree
NEAR, TOLERANCE = 10, 2e-4  # in the first 10 steps, of the loss of the step
# Two programs round differently. In a long training the difference grows and the loss falls, so for
# later steps the difference is compared with the first loss.
LATER = 0.02  # after these steps, of the first loss
QUICK = 6  # steps of "words" where there shall be few


def against_torch(settings: Settings) -> list[dict[str, Any]]:
    """The time and the memory of our steps and torch's, for each size and case.

    [] where torch is not installed.
    """
    if not settings.has_torch():
        return []
    pairs = list(itertools.product(settings.sizes, settings.cases))
    return [_one(*pair, settings) for pair in bar(iterable=pairs, desc="steps", disable=None)]


def _one(size: str, case: str, settings: Settings) -> dict[str, Any]:
    def steps_of_a_turn(side):
        return turns.steps_for(settings.seconds, side.ask(training.timed, n=2)["least"])

    with turns.together(*settings.beside(*SIDES[1:], COMPILED, JAX)) as sides:
        found = raced(sides, size, case, CHECKED, steps_of_a_turn, settings)
        memory = {name: sides[name].ask(training.memory) for name in found["rounds"]}
        peak = sides[OURS].ask(machine.tile_flops)
    rounds = found["rounds"]
    summaries = {name: turns.summary(times) for name, times in rounds.items()}
    return {
        "size": size,
        **found,
        "sides": summaries,
        "memory": memory,
        "flops": flops(cases.SIZES[size], cases.CASES[case]),
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


def on_words(settings: Settings) -> list[dict[str, Any]]:
    """The steps of a comparison, here and in torch; they are timed after their losses agree.

    [] where torch is not installed.
    """
    number = QUICK if settings.quick else Comparison.steps
    return _on_masked(("words", "words by length"), settings.cases, number, number, settings)


def on_instructions(settings: Settings) -> list[dict[str, Any]]:
    """Steps of SmolLM2 on instructions, here and in torch; [] where torch is not installed."""
    which = "few tokens" if settings.quick else "instructions"
    return _on_masked((which,), settings.instructed, masked.BATCHES, CHECKED, settings)


def _on_masked(trainings, attached, number, checked, settings) -> list[dict[str, Any]]:
    """A record of each training and case; each side is one process for all of them."""
    if not settings.has_torch():
        return []
    pairs = list(itertools.product(trainings, attached))
    with turns.together(*settings.beside(PADDED, PACKED, PADDED_COMPILED)) as sides:
        return [
            _masked(*pair, number, checked, sides, settings)
            for pair in bar(iterable=pairs, desc=trainings[0], disable=None)
        ]


def _masked(which, case, number, checked, sides, settings) -> dict[str, Any]:
    """Compare the losses of `checked` steps, then time `number` steps, divided among the turns."""
    in_a_turn = max(1, number // settings.rounds)
    found = raced(sides, which, case, checked, lambda side: in_a_turn, settings)
    rounds = found["rounds"]
    a_step = {  # seconds, from the steps of all turns
        name: sum(t["total"] for t in times) / sum(t["steps"] for t in times)
        for name, times in rounds.items()
    }
    return {
        "training": which,
        **found,
        "steps": number,
        "sides": {name: {"seconds": number * s, "step": s} for name, s in a_step.items()},
        "ratios": {name: _of_turns(times, rounds[OURS]) for name, times in rounds.items()},
    }


def _of_turns(theirs: Sequence[turns.Times], ours: Sequence[turns.Times]) -> dict[str, float]:
    """Their time divided by ours, turn by turn, since each turn has its own batches."""
    pairs = [t["total"] / o["total"] for t, o in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(pairs), "low": min(pairs), "high": max(pairs)}


def raced(
    sides: Mapping[str, Side],
    which: str,
    case: str,
    checked: int,
    count: Callable[[Side], int],
    settings: Settings,
) -> dict[str, Any]:
    """Compare the losses of `checked` steps of a training, then time `count` steps in each turn.

    A side of MORE runs in the cases WITH_MORE. One that fails, or whose losses differ, is left out;
    the record has the reason.
    """
    how = {"which": which, "case": case, "threads": settings.threads}
    rows, losses, apart, out = {}, {}, {}, {}
    for name, side in sides.items():
        if name in MORE and case not in WITH_MORE:
            continue
        try:
            rows[name] = side.ask(training.start, side=name, **how)
            mine = {name: side.ask(training.losses, n=checked)}
            apart |= check(case, {OURS: losses.get(OURS), **mine})
            losses |= mine
        except ValueError as error:
            if name not in MORE:
                raise
            out[name] = str(error).split("\n")[0]
    counts = {name: count(sides[name]) for name in losses}

    def ask(name):
        time.sleep(REST)
        return sides[name].ask(training.timed, n=counts[name])

    rounds = turns.in_turn(losses, settings.rounds, ask)
    found = {"case": case, "rows": rows[OURS], "losses": losses, "apart": apart, "rounds": rounds}
    return {**found, "left out": out}


def check(case: str, losses: dict[str, Sequence[float]]) -> dict[str, float]:
    """The largest difference of each other side's losses from ours, as a share of the first loss.

    Raises ValueError unless the losses agree, step by step. PEFT has no technique that moves
    weights: it runs LoRA instead, and only the first loss is compared.
    """
    steps = 1 if METHODS[cases.CASES[case].method].after_step else None
    ours, *others = losses
    largest = dict.fromkeys(others, 0.0)
    for other in others:
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


def shares_of_peak(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with our share of the machine's peak, the highest that any record measured."""
    peak = max((r["peak_flops"] or 0.0 for r in records), default=0.0)

    def share(r):
        return r["flops"] / r["sides"][OURS]["median"] / peak if peak else None

    return [{**r, "share_of_peak": share(r)} for r in records]


def flops(of: cases.Size, case: cases.Case) -> float:
    """Floating-point operations of the matrix products of a step, without the adapters' own.

    A multiplication and an addition are two. The linears and the head: forward, the same again for
    dx, and again for dW where W trains. Attention: half of its products, because it is causal,
    forward, and 2.5 times that backward.
    """
    c, M = of.config, of.batch * of.length
    weights = sum(O * I for O, I in c.linears().values()) + c.vocab_size * c.hidden_size
    heads = c.num_hidden_layers * c.num_attention_heads * c.head_dim
    attention = 4 * M * of.length * heads / 2
    passes = 3 if METHODS[case.method].whole_model else 2
    return passes * 2 * M * weights + 3.5 * attention


def adapter_flops(of: cases.Size, tuned: Tuned) -> float:
    """Floating-point operations of the adapters: each trained factor once forward, twice back."""
    M = of.batch * of.length
    return 6.0 * M * sum(a.size for a in tuned.trainable.values())
