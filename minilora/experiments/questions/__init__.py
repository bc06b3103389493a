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

from ...files import data_folder
from ..cells import Cell, Record

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


def question(name: str) -> Question:
    """The one of this name, which is in ORDER."""
    return importlib.import_module(f".{name}", __name__).QUESTION


def record_path(name: str) -> Path:
    """The committed record."""
    return data_folder() / "results" / f"{name}.jsonl"
