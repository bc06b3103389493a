"""Training on batches with padding and masked prompts, here and in PyTorch with PEFT.

"words" is the training of `minilora compare`, on its words and with its settings. "instructions" is
SmolLM2 on prompts of 60 to 200 tokens and answers of 5 to 60. torch runs each twice: "torch padded"
gets the batches as they are, with an attention mask and labels; "torch packed" gets the sequences
of a batch in one row without padding, and computes logits only where a target counts.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..formats.models import load_model
from ..lab import rates
from ..lab.settings import Settings as Comparison
from ..llama.rows import last_targets
from ..ops.loss import IGNORED
from ..text import tasks
from ..text.batches import answer_row, enough_batches, pad
from . import cases, steps, turns
from .turns import OURS, PACKED, PADDED, REST, Settings, Side

PROMPTS, ANSWERS = (60, 200), (5, 60)  # the least and the most tokens of "instructions"
TOY_PROMPTS, TOY_ANSWERS = (3, 10), (1, 4)
BATCHES, BATCH = 10, 4  # of "instructions": batches, and sequences of each
QUICK = 6  # steps of "words" with --quick


def words(case: cases.Case, by_length: int = 1) -> cases.Training:
    """What `minilora compare` trains, with the rate and the rank that `tune` chose for the method.

    A method without a rate on record gets LoRA's. The rates are for the comparison's targets; a
    case with others gets a quarter.
    """
    s, model = Comparison(), load_model("base")
    chosen = rates.chosen_for(s.task, rates.read())
    row = chosen.get(case.method) or chosen[steps.BASE]
    s = s.changed(targets=case.how.get("targets", s.targets), ranks={case.method: row["rank"]})
    pairs = tasks.select(s.task, s.train_size).train
    batches = enough_batches(s.steps, pairs, model.tokenizer, s.batch_size, 0, by_length)
    names = ("schedule", "warmup", "betas", "weight_decay", "clip")
    lr = row["lr"] * (1 if s.targets == Comparison.targets else 0.25)
    recipe = {"lr": lr, **{name: getattr(s, name) for name in names}}
    return cases.Training(s.attach(model, case.method, 0), batches[: s.steps], recipe)


def words_by_length(case: cases.Case) -> cases.Training:
    """`words` in batches of similar length, as the comparison has them."""
    return words(case, Comparison.by_length)


def instructions(
    case: cases.Case,
    size: str = "smollm2",
    prompts: tuple[int, int] = PROMPTS,
    answers: tuple[int, int] = ANSWERS,
) -> cases.Training:
    """Prompts and answers of random lengths and random tokens, on a model of random weights."""
    of, rng, batches = cases.SIZES[size], np.random.default_rng(0), []
    for _ in range(BATCHES):
        before = rng.integers(prompts[0], prompts[1] + 1, BATCH)
        end = before + rng.integers(answers[0], answers[1] + 1, BATCH)
        tokens = rng.integers(0, of.config.vocab_size, (BATCH, end.max()))
        lengths = zip(tokens.tolist(), before.tolist(), end.tolist())
        batches.append(pad([answer_row(row[:n], m) for row, m, n in lengths], 0))
    return cases.Training(cases.make(of, case), batches, {"lr": steps.LR})


def toy(case: cases.Case) -> cases.Training:
    """Instructions of few tokens, on a small model."""
    return instructions(case, "toy", TOY_PROMPTS, TOY_ANSWERS)


TRAININGS: dict[str, Callable[[cases.Case], cases.Training]] = {
    "words": words,
    "words by length": words_by_length,
    "instructions": instructions,
    "toy": toy,
}


def rows(batches: Sequence[cases.Batch]) -> dict[str, float]:
    """Means over the batches: all rows, the rows that can matter, the rows with a target."""
    return {
        "all": statistics.fmean(ids.size for ids, _ in batches),
        "matter": statistics.fmean(int(last_targets(t).sum()) for _, t in batches),
        "targets": statistics.fmean(int((t != IGNORED).sum()) for _, t in batches),
    }


def on_words(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """The steps of a comparison, here and in torch; they are timed after their losses agree.

    [] where torch is not installed.
    """
    number = QUICK if settings.quick else Comparison.steps
    return _compared(("words", "words by length"), settings.cases, number, number, settings, tell)


def on_instructions(settings: Settings, tell: Callable[[dict], None]) -> list[dict[str, Any]]:
    """Steps of SmolLM2 on instructions, here and in torch; [] where torch is not installed."""
    which = "toy" if settings.quick else "instructions"
    return _compared((which,), settings.instructed, BATCHES, steps.CHECKED, settings, tell)


def _compared(trainings, attached, number, checked, settings, tell) -> list[dict[str, Any]]:
    """A record of each training and case; each side is one process for all of them."""
    records: list[dict[str, Any]] = []
    if not settings.peers():
        return records
    threads = settings.number_of_threads()
    theirs = [Side(name, threads, settings.python) for name in (PADDED, PACKED)]
    sides = [turns.ours(threads), *theirs]
    with turns.together(sides):
        for which in trainings:
            for case in attached:
                records.append(_one(which, case, number, checked, sides, settings))
                tell(records[-1])
    return records


def _one(which, case, number, checked, sides, settings) -> dict[str, Any]:
    """Compare the losses of `checked` steps, then time `number` steps, divided among the turns."""
    how = {"which": which, "case": case, "threads": settings.number_of_threads()}
    sizes = {s.name: s.ask("training.start_masked", side=s.name, **how) for s in sides}
    losses = {side.name: side.ask("training.losses", n=checked) for side in sides}
    apart = steps.check(case, losses)
    in_a_turn = max(1, number // settings.rounds)

    def ask(side):
        time.sleep(REST)
        return side.ask("training.timed", n=in_a_turn)

    rounds = turns.in_turn(sides, settings.rounds, ask)
    a_step = {  # seconds, from the steps of all turns
        name: sum(t["total"] for t in times) / sum(t["steps"] for t in times)
        for name, times in rounds.items()
    }
    return {
        "training": which,
        "case": case,
        "rows": sizes[OURS],
        "losses": losses,
        "apart": apart,
        "steps": number,
        "rounds": rounds,
        "sides": {name: {"seconds": number * s, "step": s} for name, s in a_step.items()},
        "ratios": {name: _ratio(times, rounds[OURS]) for name, times in rounds.items()},
    }


def _ratio(theirs: Sequence[turns.Times], ours: Sequence[turns.Times]) -> dict[str, float]:
    """Their time divided by ours, turn by turn, since each turn has its own batches."""
    pairs = [t["total"] / o["total"] for t, o in zip(theirs, ours, strict=True)]
    return {"median": statistics.median(pairs), "low": min(pairs), "high": max(pairs)}
