"""One training run on words as a cell, for every study that asks about quality: which base, method,
linears, rank, scaling, rate, steps; its scores on validation and test words, and on the three
skills that the base has.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minilora.lab import runs
from minilora.lab.settings import Settings
from minilora.lab.statistics import rounded
from minilora.text import tasks
from minilora.text.batches import all_once
from minilora.text.score import exact_match
from minilora.tuning.train import Diverged

from . import _bases

SKILLS = tuple(name for name, task in tasks.TASKS.items() if task.pretrain)  # of the base
OLD_WORDS = 200  # of each skill, the first of its test words: their order is that of a hash


def linears(targets: str) -> tuple[str, ...] | str:
    """ "q v" -> ("q_proj", "v_proj"); "all-linear" stays."""
    if targets == "all-linear":
        return targets
    return tuple(f"{name}_proj" for name in targets.split())


def word_run(
    method: str,
    lr: float,
    seed: int,
    base: int | None = None,
    task: str = "past",
    train_size: int = 300,
    targets: str = "q v",
    rank: int = 4,
    options: dict[str, Any] | None = None,
    steps: int = 150,
    every: int | None = None,
    old: bool = False,
    **labels: Any,
) -> dict[str, Any]:
    """Train and score.

    base: the seed of a further base, the shipped one where None. options: alpha, and the method's
    own. every: the validation loss each so many steps. old: also the exact match on the base's own
    skills, with the adapter on. labels: of the cell, for the reader.
    ->  trainable; validation and test: {"exact_match", "loss"}, test also "right": see `bits`; old.
    A run that diverged has scores of 0, losses of None, and the step as "diverged".
    """
    given = dict(task=task, train_size=train_size, targets=linears(targets), rank=rank, steps=steps)
    settings = Settings().changed(**given)
    model, words = _bases.model(base), runs.load_words(settings)
    try:
        tuned, history = runs.run(
            model, words, settings, method, lr, seed, every, **(options or {})
        )
    except Diverged as error:
        return {"diverged": error.step, **nothing(len(words.test)), **({"old": {}} if old else {})}
    result = {"trainable": runs.trainable_numbers(tuned), **judged(tuned, words)}
    if every:
        result["curve"] = [[step, rounded(loss)] for step, loss in history.evaluations]
    if old:
        result["old"] = skills(tuned)
    return result


def nothing(words: int) -> dict[str, Any]:
    """The scores of a run that diverged."""
    none = {"exact_match": 0.0, "loss": None}
    return {"validation": none, "test": {**none, "right": bits([False] * words)}}


def judged(tuned: Any, words: tasks.TaskData) -> dict[str, Any]:
    """Exact match and loss on validation and test words, and which test words were right."""
    result = {}
    for name in ("validation", "test"):
        pairs = getattr(words, name)
        score, answers = exact_match(tuned, pairs, return_answers=True)
        loss = runs.mean_loss(tuned, all_once(pairs, tuned.tokenizer))
        result[name] = {"exact_match": rounded(score), "loss": rounded(loss)}
    hits = [answer in right for answer, (_, right) in zip(answers, words.test, strict=True)]
    result["test"]["right"] = bits(hits)
    return result


def skills(model: Any) -> dict[str, float]:
    """The exact match on the first words of each of the base's own tasks."""
    return {
        name: rounded(exact_match(model, tasks.load_task(name).test[:OLD_WORDS])) for name in SKILLS
    }


def bits(hits: Sequence[bool]) -> str:
    """One bit a word, in hexadecimal: short enough for a record."""
    return np.packbits(np.array(hits, bool)).tobytes().hex()


def hits(right: str, words: int) -> np.ndarray:
    """What `bits` wrote: (words,) of 0 and 1."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8))[:words]
