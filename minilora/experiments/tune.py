"""Learning rates for the comparison: the same grid for every method, judged on validation words, never on the test's."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import tasks
from ..files import write_atomically
from ..formats.huggingface import load_model
from .compare import SCRATCH, Settings, load_words, mean_loss, run

GRID = tuple(round(m * 10.0**e, 10) for e in (-4, -3, -2, -1) for m in (1, 1.8, 3.2, 5.6))


def tune(
    settings: Settings,
    grid: Iterable[float] = GRID,
    report: Callable[[dict[str, Any]], None] = lambda cell: None,
) -> list[dict[str, Any]]:
    """One record per method and rate: exact match on the validation words, mean over the settings' seeds."""
    model, words, cells = load_model(settings.base), load_words(settings), []
    for name in (*settings.methods, SCRATCH):
        for lr in grid:
            scores, losses = [], []
            for seed in range(settings.seeds):
                try:
                    tuned, _ = run(model, words, settings, name, lr, seed)
                except ValueError:  # the rate is too high for the method: it diverged
                    scores.append(0.0)
                    continue
                scores.append(tasks.exact_match(tuned, words.validation))
                losses.append(mean_loss(tuned, tasks.batches(words.validation, model.tokenizer, len(words.validation))))
            cells.append(
                {
                    "task": settings.task,
                    "method": name,
                    "rank": settings.ranks.get(name, settings.rank),
                    "lr": lr,
                    "validation_exact_match": round(statistics.fmean(scores), 4),
                    "validation_loss": round(statistics.fmean(losses), 4) if losses else None,
                    "seeds": [round(s, 4) for s in scores],
                }
            )
            report(cells[-1])
    return cells


def choose(cells: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """method -> the cell with the highest validation exact match; of equals, the lower validation loss."""
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
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"chosen": {}, "sweeps": {}}
    record["chosen"][settings.task] = choose(cells)
    record["sweeps"][settings.task] = {"settings": dataclasses.asdict(settings), "cells": cells}
    write_atomically(path, json.dumps(record, indent=1).encode() + b"\n")
