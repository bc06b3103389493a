"""Learning rates for the comparison: one grid for all methods, judged on validation words alone."""

import contextlib
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

from ..text.batches import all_once
from ..tuning.train import Diverged
from .compare import rows
from .runs import exact_match_of, load_words, mean_loss, run, the_model
from .settings import Settings
from .workers import each

GRID = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1)


def tune(
    settings: Settings,
    grid: Iterable[float] = GRID,
    jobs: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda cell: None,
) -> list[dict[str, Any]]:
    """A record for each method and rate: exact match on validation words, mean over the seeds.

    jobs: processes of one thread; None: one a processor. report: called with each cell when it
    ends.
    """
    calls = [(settings, name, lr) for name in rows(settings) for lr in grid]
    done: dict[int, dict[str, Any]] = {}
    with contextlib.closing(each(_cell, calls, jobs)) as outcomes:
        for place, cell in outcomes:
            done[place] = cell
            report(cell)
    return [done[place] for place in range(len(calls))]


def _cell(settings: Settings, name: str, lr: float) -> dict[str, Any]:
    """All seeds of one method at one rate, judged on the validation words."""
    model, words = the_model(settings.base), load_words(settings)
    held_out = all_once(words.validation, model.tokenizer)
    scores, losses = [], []
    for seed in range(settings.seeds):
        try:
            tuned, _ = run(model, words, settings, name, lr, seed)
        except Diverged:  # the rate is too high for the method
            scores.append(0.0)
            continue
        scores.append(exact_match_of(settings.task)(tuned, words.validation))
        losses.append(mean_loss(tuned, held_out))
    all_learned = len(losses) == len(scores)
    return {
        "method": name,
        "rank": settings.rank_of(name),
        "lr": lr,
        "validation_exact_match": round(fmean(scores), 4),
        "validation_loss": round(fmean(losses), 4) if all_learned else None,
        "seeds": [round(score, 4) for score in scores],
    }
