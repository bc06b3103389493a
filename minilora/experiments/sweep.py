"""One training run of the word lab as a cell: plain settings in, plain numbers out."""

import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import tasks
from ..adapters import Tuned
from ..formats.models import load_model
from ..train import Diverged
from .compare import Words, load_words, mean_loss, run
from .settings import Settings

POINTS = 50  # of a loss curve in a record, at most

the_model = functools.cache(load_model)  # a process reads a base once: no run writes into it


def word_run(
    *,
    method: str,
    lr: float,
    task: str = "past",
    train_size: int = 300,
    rank: int = 4,
    alpha: float | None = None,
    targets: Sequence[str] | str = ("q_proj", "v_proj"),
    steps: int = 150,
    batch_size: int = 32,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    weight_decay: float = 0.01,
    every: int | None = None,
    score: Iterable[str] = ("validation", "test"),
) -> dict[str, Any]:
    """One run of a method (or from "scratch"): what it cost in numbers, learned, and scores.

    rank: of a method that has one, VeRA's too; alpha: 2·rank where None. options: the method's own.
    every: the validation loss each so many steps. score: on which words it is judged in the end.
    ->  trainable: numbers. losses: [step, mean training loss since the point before].
    evaluations: [step, validation loss]. validation, test: {"exact_match", "loss"}. A run that
    diverged has scores of 0, losses of None, and the step as "diverged".
    Raises ValueError for what cannot be run.
    """
    settings = settings_of(task, train_size, rank, targets, steps, batch_size, weight_decay)
    own = {} if alpha is None else {"alpha": alpha}
    model, words = the_model(settings.base), load_words(settings)
    scored = list(score)
    try:
        tuned, history = run(
            model, words, settings, method, lr, seed, every, **own, **(options or {})
        )
    except Diverged as error:
        nothing = {name: {"exact_match": 0.0, "loss": None} for name in scored}
        return {"diverged": error.step, "losses": [], "evaluations": [], **nothing}
    return {
        "trainable": sum(a.size for a in tuned.trainable.values()),
        "losses": thinned(history.losses),
        "evaluations": [[step, rounded(loss)] for step, loss in history.evaluations],
        **{name: scores(tuned, words, name) for name in scored},
    }


def settings_of(
    task, train_size, rank, targets, steps, batch_size=32, weight_decay=0.01
) -> Settings:
    """The comparison's settings but for these; every technique that has a rank has this one."""
    return Settings(
        task=task,
        train_size=train_size,
        rank=rank,
        targets=targets if isinstance(targets, str) else tuple(targets),
        steps=steps,
        batch_size=batch_size,
        warmup=min(Settings.warmup, steps // 10),
        weight_decay=weight_decay,
    )


def scores(tuned: Tuned, words: Words, name: str) -> dict[str, float]:
    """Exact match and mean loss over the words of that name: "train", "validation", "test"."""
    pairs = getattr(words, name)
    loss = mean_loss(tuned, tasks.all_once(pairs, tuned.tokenizer))
    return {"exact_match": rounded(tasks.exact_match(tuned, pairs)), "loss": rounded(loss)}


def thinned(losses: Sequence[float], points: int = POINTS) -> list[list[float]]:
    """[step, mean loss since the point before]: a curve for a record, of so many points at most."""
    size = -(-len(losses) // points) or 1
    parts = [losses[k : k + size] for k in range(0, len(losses), size)]
    ends = [min(k + size, len(losses)) for k in range(0, len(losses), size)]
    return [[end, rounded(statistics.fmean(part))] for end, part in zip(ends, parts)]


def rounded(value: float, digits: int = 6) -> float:
    """To so many significant digits: what a record keeps of a number."""
    return float(f"{value:.{digits}g}")
