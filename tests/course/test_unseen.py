"""Answers made without sight of the checks: each gets its verdict and its words."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from minilora_course import EXERCISES, check

ROOT = Path(__file__).parents[2]
GIVEN = {  # exercise -> what its cell hands to the check
    name: expression
    for path in (ROOT / "notebooks" / "src").glob("*.py")
    for name, expression in re.findall(
        r'^check\("(\w+)", (.*)\)$', path.read_text(encoding="utf-8"), re.M
    )
}


class Row(NamedTuple):
    """One answer; first.txt says what the fields are."""

    exercise: str
    verdict: str
    was: str
    words: str
    what: str
    source: str

    @property
    def answer(self):
        """As the cell of a student gives it to the check."""
        names = {"np": np}
        exec(compile(self.source, "<cell>", "exec"), names)
        return eval(GIVEN[self.exercise], names)


def read(name):
    """The rows of one list."""
    text = (ROOT / "tests" / "course" / "unseen" / f"{name}.txt").read_text(encoding="utf-8")
    blocks = [block.partition("\n") for block in re.split(r"^=== ", text, flags=re.M)[1:]]
    return [Row(*head.split(" | "), source) for head, _, source in blocks]


LISTS = {name: read(name) for name in ("first", "second")}
UNSEEN = [  # of the exercises that the course still has; the lists keep what was answered then
    row for rows in LISTS.values() for row in rows if row.exercise in EXERCISES
]


# of an exercise that the course has no longer, the answers are counted below, and not run
@pytest.mark.parametrize(
    "name", dict.fromkeys(row.exercise for row in UNSEEN if row.exercise in EXERCISES)
)
def test_answers_that_were_made_without_sight_of_the_checks(name):
    for row in (row for row in UNSEEN if row.exercise == name):
        verdict = check(name, row.answer, hints=0, seed=4)
        assert verdict.status == row.verdict and row.words in repr(verdict), (row.what, verdict)


def test_the_figures_that_are_told_are_those_of_the_lists():
    teaching = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    exercises = [{row.exercise for row in rows} for rows in LISTS.values()]
    assert not exercises[0] & exercises[1]
    for names, rows in zip(exercises, LISTS.values()):
        was = Counter(row.was for row in rows)
        assert was.keys() <= {"", "misjudged", "misleading", "silent"}
        wrong = [row for row in rows if row.verdict != "passed" and row.was != "misjudged"]
        named = len(wrong) - was["silent"] - was["misleading"]
        cells = [f"{len(rows) - was['misjudged']} of {len(rows)}", f"{named} of {len(wrong)}"]
        cells += [str(was["silent"]), str(was["misleading"])]
        assert re.search(rf"\| {len(names)}\b.*{re.escape(' | '.join(cells))} \|", teaching)
