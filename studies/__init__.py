"""The claims, put to the test: a study a file. Each has its cells (runs as plain settings), what
one cell does, what the records say, a table and a figure.

`run` gives the same bits for the same cell; what is measured in seconds has a cell of its own kind,
under a name that ends in "seconds". A further study is one more file and its name in ORDER.
"""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.lab import cells
from minilora.lab.cells import Cell, Record
from minilora.support.files import data_folder, find

from ._question import Question

ORDER = (
    "scratch",
    "forgetting",
    "cost",
    "comparison",
    "bases",
    "lora",
    "lora_fa",
    "vera",
    "delta_lora",
    "lora_plus",
    "swapping",
)
# want SmolLM2, and more time: run by name only
APART = ("language_model", "four_bits")


@dataclass(frozen=True)
class Study:
    """One study. The file of each name in ORDER ends in STUDY = Study(...)."""

    name: str  # also of its record, data/results/NAME.jsonl, and of its figure
    title: str  # its question, in one line
    cells: Callable[[], list[Cell]]  # every run, as plain settings
    quick: Callable[[], list[Cell]]  # a few cells of seconds, for tests: they reproduce their bits
    run: Callable[..., Any]  # (**cell) -> plain data
    summary: Callable[[list[Record]], dict[str, Any]]  # the numbers that a page may quote
    table: Callable[[list[Record]], str]  # the same for people: a Markdown table or several
    figure: Callable[[list[Record], Path], None]  # draws into that file
    questions: tuple[Question, ...] = ()  # what it asks, and the rule of each verdict
    # the records so far -> further cells, which depend on them; asked until it has no new ones
    then: Callable[[list[Record]], list[Cell]] | None = None


def study(name: str) -> Study:
    """The one of this name; raises ValueError, with the nearest right names, for no such one."""
    find("study", name, dict.fromkeys((*ORDER, *APART)))
    return importlib.import_module(f".{name}", __name__).STUDY


def run_study(study: Study, path: str | Path, *, quick: bool = False, **how: Any) -> list[Record]:
    """All records of a study: those that stand in the file, and the missing ones, run now.

    quick: only its quick cells. how: jobs, dask, progress of `cells.run`. The file holds nothing
    else afterwards.
    """

    def run(wanted: list[Cell], part: int) -> list[Record]:
        return cells.run(study.run, wanted, path, title=f"{study.name}, part {part}", **how)

    records = run(study.quick(), 1) if quick else completed(study, run)
    if cells.read(path) != records:  # cells that were the study's once
        cells.write(path, records)
    return records


def completed(study: Study, run: Callable[[list[Cell], int], list[Record]]) -> list[Record]:
    """run(cells, part) of the study's cells, and of what its `then` makes of the records, until
    that asks for nothing new.
    """
    wanted = study.cells()
    for part in itertools.count(1):
        records = run(wanted, part)
        more = study.then(records) if study.then else []
        new = [cell for cell in more if cell not in wanted]
        if not new:
            return records
        wanted = [*wanted, *new]
    raise AssertionError


def record_path(name: str) -> Path:
    """The committed record."""
    return data_folder() / "results" / f"{name}.jsonl"
