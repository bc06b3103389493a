"""Learning rates for the comparison:
the same grid for every method, judged on validation words, never on the test's.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from .. import tasks
from ..files import write_atomically
from ..formats.huggingface import load_model
from ..train import Diverged
from .compare import SCRATCH, Settings, load_words, mean_loss, run

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
    work = [(settings, name, lr) for name in (*settings.methods, SCRATCH) for lr in grid]
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
    """Processes started inside get one thread:
    many small runs are faster side by side than each on all cores.
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
    held_out = tasks.batches(words.validation, model.tokenizer, len(words.validation))
    scores, losses = [], []
    for seed in range(settings.seeds):
        try:
            tuned, _ = run(model, words, settings, name, lr, seed)
        except Diverged:  # the rate is too high for the method
            scores.append(0.0)
            continue
        scores.append(tasks.exact_match(tuned, words.validation))
        losses.append(mean_loss(tuned, held_out))
    return {
        "method": name,
        "rank": settings.ranks.get(name, settings.rank),
        "lr": lr,
        "validation_exact_match": round(statistics.fmean(scores), 4),
        "validation_loss": round(statistics.fmean(losses), 4)
        if len(losses) == len(scores)
        else None,
        "seeds": [round(score, 4) for score in scores],
    }


def choose(cells: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """method -> the cell with the highest validation exact match;
    of equals, the lower validation loss.
    """
    best: dict[str, dict[str, Any]] = {}
    for cell in cells:
        loss = float("inf") if cell["validation_loss"] is None else cell["validation_loss"]
        rank = (cell["validation_exact_match"], -loss)
        if cell["method"] not in best or rank > best[cell["method"]]["order"]:
            best[cell["method"]] = {"order": rank, "lr": cell["lr"], "rank": cell["rank"]}
    return {name: {"lr": b["lr"], "rank": b["rank"]} for name, b in best.items()}


def write(path: str | Path, settings: Settings, cells: list[dict[str, Any]]) -> None:
    """Add a task's sweep to the record: every cell, and the choice."""
    path = Path(path)
    record = (
        json.loads(path.read_text(encoding="utf-8"))
        if path.is_file()
        else {"chosen": {}, "sweeps": {}}
    )
    record["chosen"][settings.task] = choose(cells)
    record["sweeps"][settings.task] = {"settings": dataclasses.asdict(settings), "cells": cells}
    write_atomically(path, json.dumps(record, indent=1).encode() + b"\n")
