"""Learning rates for the comparison: the same grid for every method, judged on validation words,
never on the test's.
"""

import contextlib
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from .. import tasks
from ..formats.models import load_model
from ..train import Diverged
from .compare import Settings, lab, load_words, mean_loss, rows, run

GRID = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1)


def tune(
    settings: Settings,
    grid: Iterable[float] = GRID,
    jobs: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda cell: None,
) -> list[dict[str, Any]]:
    """One record per method and rate: exact match on the validation words, mean over the settings'
    seeds.

    jobs: processes, one thread each; as many as there are processors where None.
    """
    work = [(settings, name, lr) for name in rows(settings) for lr in grid]
    cells = []
    with (
        _one_thread_each(),
        ProcessPoolExecutor(jobs or os.cpu_count(), multiprocessing.get_context("spawn")) as pool,
    ):
        for cell in pool.map(_cell, *zip(*work, strict=True)):
            cells.append(cell)
            report(cell)
    return cells


@contextlib.contextmanager
def _one_thread_each():
    """Processes started inside get one thread: many small runs are faster side by side than each on
    all cores.
    """
    before = os.environ.get("NUMBA_NUM_THREADS")
    os.environ["NUMBA_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("NUMBA_NUM_THREADS")
        if before is not None:
            os.environ["NUMBA_NUM_THREADS"] = before


def _cell(settings: Settings, name: str, lr: float) -> dict[str, Any]:
    """All seeds of one method at one rate, judged on the validation words."""
    model, words = load_model(settings.base), load_words(settings)
    held_out = tasks.all_once(words.validation, model.tokenizer)
    scores, losses = [], []
    for seed in range(settings.seeds):
        try:
            tuned, _ = run(model, words, settings, name, lr, seed)
        except Diverged:  # the rate is too high for the method
            scores.append(0.0)
            continue
        scores.append(lab(settings.task).exact_match(tuned, words.validation))
        losses.append(mean_loss(tuned, held_out))
    return {
        "method": name,
        "rank": settings.rank_of(name),
        "lr": lr,
        "validation_exact_match": round(statistics.fmean(scores), 4),
        "validation_loss": round(statistics.fmean(losses), 4)
        if len(losses) == len(scores)
        else None,
        "seeds": [round(score, 4) for score in scores],
    }
