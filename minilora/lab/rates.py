"""The learning rates that `tune` chose, and how its sweep's settings differ from a run's."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..support.files import data_folder, errors_at, read_json, write_json
from ..support.locks import writing
from ..text import nouns
from ..tuning.adapters import Tuned
from ..tuning.storage import mark
from .forms import RATES
from .statistics import by_exact_match

DEFAULT_TASK = "past"  # its rates are used for a task without a sweep of its own
FREE = ("base", "seeds", "warmup")  # settings that may differ from the sweep's
ABSENT = ("methods", "scratch", "points")  # settings that no rate depends on


def default_path() -> Path:
    """The committed record."""
    return data_folder() / "results" / "tuning.json"


def read(path: str | Path | None = None) -> dict[str, Any]:
    """{"chosen": {task: {method: {"lr", "rank"}}},
    "sweeps": {task: {"settings", "base_crc32", "cells"}}}; None: the committed record.

    Raises FileNotFoundError; ValueError if the file is not such a record.
    """
    path = path or default_path()
    with errors_at(f"{path}: not a record of minilora tune", f"{path}: "):
        record = read_json(path, RATES)
    return {"chosen": record["chosen"], "sweeps": record["sweeps"]}


def choose(cells: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """method -> rate and rank of the highest exact match on validation words, then lowest loss."""

    def merit(cell):
        names = ("exact_match", "loss")
        judged = {name: cell[f"validation_{name}"] for name in names}
        return by_exact_match([{"result": {"validation": judged}}])

    best: dict[str, Mapping[str, Any]] = {}
    for cell in cells:
        if cell["method"] not in best or merit(cell) > merit(best[cell["method"]]):
            best[cell["method"]] = cell
    return {name: {"lr": cell["lr"], "rank": cell["rank"]} for name, cell in best.items()}


def add(path: str | Path, settings: Any, base_crc32: str, cells: list[dict[str, Any]]) -> None:
    """Put cells into the record at path, in place of their methods' old cells.

    They replace the task's whole sweep if it had another base or other settings. A new file starts
    as a copy of the committed record, so that it has a rate for every method.
    """
    about_it = {"settings": about(settings), "base_crc32": base_crc32}
    with writing(path):
        record, task = read(path if Path(path).is_file() else None), settings.task
        old, new = record["sweeps"].get(task, {}), {cell["method"] for cell in cells}
        if all(old.get(k) == v for k, v in json.loads(json.dumps(about_it)).items()):
            cells = [cell for cell in old["cells"] if cell["method"] not in new] + cells
        record["sweeps"][task] = {**about_it, "cells": cells}
        record["chosen"][task] = choose(cells)
        write_json(path, record)


def about(settings: Any) -> dict[str, Any]:
    """The settings as plain data, without those that no rate depends on."""
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in ABSENT}


def chosen_for(task: str, record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """method -> {"lr", "rank"}, of the task's own sweep, or of the default task's."""
    return record["chosen"].get(task) or record["chosen"].get(DEFAULT_TASK, {})


def of_run(record: Mapping[str, Any], tuned: Tuned, task: str | None) -> tuple[float, str]:
    """A learning rate, and the task of the sweep on this base that chose it; "" if it is a guess.

    A base is identified by its weights. task: its sweep is looked up first. A guess is SmolLM2's
    rate, or a low rate if SmolLM2 has none for the technique.
    """
    for name in sorted(record["sweeps"], key=lambda name: name != task):
        rates, base = record["chosen"].get(name, {}), record["sweeps"][name]["base_crc32"]
        if tuned.method in rates and base == mark(tuned.base):
            return rates[tuned.method]["lr"], name
    guess = {"lr": 1e-4 if tuned.record.whole_model else 1e-3}
    return read()["chosen"][nouns.NAME].get(tuned.method, guess)["lr"], ""


def differences(settings: Any, base_crc32: str, record: Mapping[str, Any]) -> list[str]:
    """How the settings of the sweep that chose the rates differ from these, in words.

    [] where they do not differ.
    """
    sweep = record["sweeps"].get(settings.task) or record["sweeps"].get(DEFAULT_TASK)
    if not sweep:
        return ["no sweep is on record"]
    mine = json.loads(json.dumps(about(settings)))
    words = ["another base"] if sweep["base_crc32"] != base_crc32 else []
    for name, was in sweep["settings"].items():
        if name not in FREE and mine.get(name) != was:
            words.append(f"{name.replace('_', ' ')} {_in_words(was)} there")
    return words


def _in_words(value):
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
