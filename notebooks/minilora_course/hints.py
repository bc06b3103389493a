"""Which hints are shown: one more after each new wrong answer, and never a solution."""

import os
from typing import Any

from .lessons.exercise import Exercise
from .slips import SLIPS

GRADER = ("NBGRADER_EXECUTION", "NBGRADER_VALIDATING")  # set where nbgrader runs a notebook

_wrong: dict[str, list[Any]] = {}  # exercise -> the wrong answers that were given


def hints_for(exercise: Exercise, slip: str | None) -> tuple[str, ...]:
    """The hint of the slip that an answer looks like; then the exercise's own."""
    of_slip = (SLIPS[slip].hint,) if slip in SLIPS and exercise.kind == "blank" else ()
    return of_slip + exercise.hints


def count_wrong(name: str, answer: Any) -> int:
    """How many different wrong answers an exercise has got, with this one."""
    given = _wrong.setdefault(name, [])
    if answer not in given:
        given.append(answer)
    return len(given)


def grader_runs() -> bool:
    """Does nbgrader run this notebook, to grade it or to validate it?"""
    return any(map(os.environ.get, GRADER))
