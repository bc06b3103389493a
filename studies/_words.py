"""One training run on words as a cell, for every study that asks about quality: which base, method,
linears, rank, scaling, rate, steps; its scores on validation and test words, and on the skills that
the base has.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minilora.lab import runs
from minilora.lab.settings import Settings
from minilora.lab.statistics import rounded
from minilora.text import tasks
from minilora.text.batches import all_once
from minilora.text.score import exact_match, of_one_length
from minilora.text.tokenizer import encode_more
from minilora.tuning.train import Diverged

from . import _bases

SKILLS = tuple(name for name, task in tasks.TASKS.items() if task.pretrain)  # of the base
OLD_WORDS = 200  # of each skill, the first of its test words: their order is that of a hash
CHOICE, CHANCE = "choice of sounds", 0.25


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
) -> dict[str, Any]:
    """Train and score.

    base: the seed of a further base, the shipped one where None. options: alpha, and the method's
    own. every: the validation loss each so many steps. old: also the exact match on the base's own
    skills, with the adapter on.
    ->  trainable; validation and test: {"exact_match", "loss", "right", "words"}, see `judged`;
    old.
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
        return {"diverged": error.step, **nothing(words), **({"old": {}} if old else {})}
    result = {"trainable": runs.trainable_numbers(tuned), **judged(tuned, words)}
    if every:
        result["curve"] = [[step, rounded(loss)] for step, loss in history.evaluations]
    if old:
        result["old"] = skills(tuned)
    return result


PARTS = ("validation", "test")


def nothing(words: tasks.TaskData) -> dict[str, Any]:
    """The scores of a run that diverged."""
    counts = {name: len(getattr(words, name)) for name in PARTS}
    return {
        name: {"exact_match": 0.0, "loss": None, "right": bits([False] * n), "words": n}
        for name, n in counts.items()
    }


def judged(tuned: Any, words: tasks.TaskData) -> dict[str, Any]:
    """Of validation and test words: exact match, loss, which are right (see `bits`), how many."""
    result = {}
    for name in PARTS:
        pairs = getattr(words, name)
        score, answers = exact_match(tuned, pairs, return_answers=True)
        loss = runs.mean_loss(tuned, all_once(pairs, tuned.tokenizer))
        hits = [answer in right for answer, (_, right) in zip(answers, pairs, strict=True)]
        scores = {"exact_match": rounded(score), "loss": rounded(loss)}
        result[name] = {**scores, "right": bits(hits), "words": len(pairs)}
    return result


def skills(model: Any) -> dict[str, float]:
    """The exact match on the first words of each of the base's own tasks, and `choice`."""
    found = {
        name: rounded(exact_match(model, tasks.load_task(name).test[:OLD_WORDS])) for name in SKILLS
    }
    return {**found, CHOICE: rounded(choice(model))}


def choice(model: Any) -> float:
    """The share of words whose own sounds are likelier than those of three other words.

    A skill of another form: nothing is written. The words are those of `skills`; the other three
    are the next ones in the alphabet that sound different, so they begin alike.
    """
    words = sorted(tasks.load_task("phonemes").test[:OLD_WORDS])
    pairs, count = [], len(words)
    for place, (prompt, right) in enumerate(words):
        after = [words[(place + k) % count][1] for k in range(1, count)]
        others = [sounds[0] for sounds in after if not set(sounds) & set(right)][:3]
        pairs += [(prompt, sounds) for sounds in (right[0], *others)]
    return float(np.mean(log_likelihoods(model, pairs).reshape(-1, 4).argmax(axis=1) == 0))


def log_likelihoods(model: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """(N,): the sum of log p of the tokens of each completion and its end, in nats."""
    tokenizer = getattr(model, "base", model).tokenizer
    prompts = [tokenizer.encode(prompt) for prompt, _ in pairs]
    whole = [
        prompt + encode_more(tokenizer, text) + [tokenizer.eos_id]
        for prompt, (_, text) in zip(prompts, pairs, strict=True)
    ]
    found = np.empty(len(pairs))
    for places, ids in of_one_length(whole, 256):
        log_p = log_softmax(model.logits(ids[:, :-1]))
        of_next = np.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]
        for place, row in zip(places, of_next, strict=True):
            found[place] = row[len(prompts[place]) - 1 :].sum()
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """z - log Σ exp z over the last axis, in float64."""
    z = logits.astype(np.float64)
    top = z.max(axis=-1, keepdims=True)
    return z - (top + np.log(np.exp(z - top).sum(axis=-1, keepdims=True)))


def bits(hits: Sequence[bool]) -> str:
    """One bit a word, in hexadecimal: short enough for a record."""
    return np.packbits(np.array(hits, bool)).tobytes().hex()


def hits(right: str, words: int) -> np.ndarray:
    """What `bits` wrote: (words,) of 0 and 1."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8))[:words]
