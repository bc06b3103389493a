"""sweep: many small runs side by side."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..methods import DEFAULT, METHODS
from .arguments import OWN, command, names, read_number, read_truth, read_whole

Reader = Callable[[str, str], Any]  # option and text -> a value


def _text(name: str, text: str) -> str:
    return text


def _targets(name: str, text: str) -> list[str] | str:
    """q_proj+v_proj -> both; all-linear."""
    targets = names(text.replace("+", ","))
    return targets if isinstance(targets, str) else list(targets)


# Axes of every grid: a value's reader, the default (None: the axis is absent), a description.
AXES: dict[str, tuple[Reader, str | None, str]] = {
    "method": (_text, ",".join(DEFAULT), f"techniques, {OWN}"),
    "task": (_text, "past", "tasks of the word lab"),
    "train_size": (read_whole, "300", "words to train on"),
    "rank": (read_whole, "4", "ranks, for every method that has one, VeRA too"),
    "targets": (_targets, "q_proj+v_proj", "linears, + between those of one set; all-linear"),
    "lr": (read_number, None, "learning rates (each method's on record)"),
    "steps": (read_whole, "150", "optimizer steps"),
    "batch_size": (read_whole, "32", "words in a batch"),
    "seed": (read_whole, "0,1,2", "initialisations and batch orders"),
}
READERS: dict[type, Reader] = {bool: read_truth, int: read_whole, float: read_number}


def axes() -> dict[str, tuple[Reader, str | None, str]]:
    """AXES, and an axis for each option of a technique, which has the type of its default."""
    found = dict(AXES)
    for record in METHODS.values():
        by_run = record.of_run(150, 0) if record.of_run else {}
        for name, default in record.options.items():
            titles = [r.title for r in METHODS.values() if name in r.options]
            what = f"{', '.join(titles)}: {record.about.get(name, 'an option')}"
            what += " (chosen for each run)" if name in by_run else ""
            found.setdefault(name, (READERS.get(type(default), _text), None, what))
    return found


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "sweep", sweep)
    for name, (_, default, what) in axes().items():
        shown = f" ({default})" if default else ""
        text = f"{what}{shown}".replace("%", "%%")  # argparse formats what follows a %
        flags = ["--rank", "--r"] if name == "rank" else [f"--{_dashed(name)}"]
        p.add_argument(*flags, metavar="A,B,…", help=text)
    p.add_argument(
        "--out", type=Path, default=Path("runs/sweep.jsonl"), help="the record (%(default)s)"
    )
    running(p)


def running(p: argparse.ArgumentParser) -> None:
    """The options that say where the cells run."""
    p.add_argument("--jobs", type=int, help="processes of one thread (one for each core)")
    p.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler, tcp://…, or local")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def axes_of(a: argparse.Namespace) -> dict[str, list[Any]]:
    """Name -> values, for the axes on the command line and those that have a default.

    Raises ValueError for an axis without a value, or with a text that is not of its type.
    """
    asked = {}
    for name, (read, default, _) in axes().items():
        text = default if getattr(a, name) is None else getattr(a, name)
        if text is None:
            continue
        option = f"--{_dashed(name)}"
        values = [read(option, part.strip()) for part in text.split(",") if part.strip()]
        if not values:
            raise ValueError(f"{option}: got {text!r}, wanted at least one value")
        asked[name] = values
    return asked


def sweep(a: argparse.Namespace) -> None:
    """Run the cells that are missing, then print the best settings of each method.

    Raises ValueError for a cell that cannot be run, or if --out is not a file of such cells.
    """
    from ..lab import cells, forms, sweep

    grid = sweep.sweep_cells(axes_of(a))
    print(f"{len(grid)} cells into {a.out}", flush=True)
    how = {"jobs": a.jobs, "dask": a.dask, "title": "sweep", "form": forms.WORD_RUN}
    records = cells.run(sweep.word_run, grid, a.out, **how)
    print(sweep.table(records))
