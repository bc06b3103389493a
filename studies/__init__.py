"""The claims, put to the test: a question a file, each cells of plain settings, what is run in one,
what the records say, and the figure that shows it.

`run` gives the same bits for the same cell; anything that is measured in seconds stands in a cell
of its own kind, under a name that ends in "seconds". A further question is one more file and its
name in ORDER.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.lab import cells
from minilora.lab.cells import Cell, Record
from minilora.support.files import data_folder, find

ORDER = ("comparison", "lora_plus", "lora_fa", "vera", "delta_lora", "lora", "swapping")


@dataclass(frozen=True)
class Question:
    """One experiment. Every file of this folder but this one ends in QUESTION = Question(...)."""

    name: str  # also of its record, data/results/NAME.jsonl, and of its figure
    title: str  # what is asked, in one line
    cells: Callable[[], list[Cell]]  # every run, as plain settings
    run: Callable[..., Any]  # (**cell) -> plain data
    summary: Callable[[list[Record]], dict[str, Any]]  # the numbers that a page may quote
    table: Callable[[list[Record]], str]  # the same for people: a Markdown table or several
    figure: Callable[[list[Record], Path], None]  # draws into that file
    quick: Callable[[], list[Cell]]  # a few cells of seconds, for tests: they reproduce their bits
    then: Callable[[list[Record]], list[Cell]] | None = (
        None  # the records of `cells` -> further cells, which hang on them
    )


def question(name: str) -> Question:
    """The one of this name; raises ValueError, with the nearest right names, for no such one."""
    find("experiment", name, dict.fromkeys(ORDER))
    return importlib.import_module(f".{name}", __name__).QUESTION


def answer(asked: Question, path: str | Path, *, quick: bool = False, **how: Any) -> list[Record]:
    """The question's records, out of the file as far as they stand in it; the rest is run.

    quick: only its quick cells. how: jobs, dask, progress of `cells.run`. The file holds nothing
    else afterwards.
    """
    wanted = asked.quick() if quick else asked.cells()
    records = cells.run(asked.run, wanted, path, title=asked.name, **how)
    if asked.then and not quick:
        wanted = [*wanted, *asked.then(records)]
        records = cells.run(asked.run, wanted, path, title=f"{asked.name}, second part", **how)
    if cells.read(path) != records:  # but for cells that were the question's once
        cells.write(path, records)
    return records


def record_path(name: str) -> Path:
    """The committed record."""
    return data_folder() / "results" / f"{name}.jsonl"
