"""One answer to one exercise, judged: a number, a function, or a function broken on purpose."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..support.files import find
from .judge import Found, judge
from .lessons import EXERCISES
from .lessons.exercise import Exercise
from .slips import Case, agree
from .verdict import Verdict

_failed: Counter[str] = Counter()  # tries of each exercise that failed: each shows one hint more


def check(name: str, answer: Any = None, hints: int | None = None) -> Verdict:
    """Judge an answer to an exercise: its number, or its function.

    hints: how many are shown; None: one more with every try that fails. The arrays are float64.
    Raises ValueError on an unknown exercise; where nbgrader runs, AssertionError for a wrong
    answer.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    judges = {"predict": _predicted, "blank": _filled, "break": _broken}
    status, says, notes, slip = judges[exercise.kind](exercise, answer)
    if hints is None:
        _failed[name] += status == "failed"
        hints = _failed[name] if status == "failed" else 0
    shown = exercise.hints[:hints]
    verdict = Verdict(name, status, says, tuple(notes), slip, shown, len(exercise.hints))
    if os.environ.get("NBGRADER_EXECUTION") == "autograde" and not verdict:
        raise AssertionError(repr(verdict))
    return verdict


def hint(name: str, number: int = 1) -> str:
    """One of an exercise's three hints, 1 to 3. Raises ValueError for what there is not."""
    exercise: Exercise = find("exercise", name, EXERCISES)
    if number not in (1, 2, 3):
        raise ValueError(f"hint: got {number!r}, wanted 1, 2 or 3")
    return exercise.hints[number - 1]


def _is_number(answer) -> bool:
    return isinstance(answer, int | float | np.number) and not isinstance(answer, bool)


def _predicted(exercise: Exercise, answer: Any) -> Found:
    wanted = exercise.number()
    if answer is None or answer is ...:
        return "open", "no number yet: write one before you run on", [], None
    if not _is_number(answer):
        return "failed", f"got a {type(answer).__name__}, wanted a number", [], None
    if agree(float(answer), float(wanted), exercise.tolerance):
        return "passed", f"{wanted:,g} it is. {exercise.because}", [], None
    notes = [("yours", f"{answer:,g}")]
    for near, words in exercise.near().items():
        if agree(float(answer), float(near), 1e-9):
            notes.append(("looks like", words))
    return "failed", "that is not the number", notes, None


def _filled(exercise: Exercise, answer: Any) -> Found:
    if answer is None or answer is ...:
        return "open", "not written yet", [], None
    if not callable(answer):
        return "failed", f"got a {type(answer).__name__}, wanted a function", [], None
    return judge(answer, exercise.cases())


def _broken(exercise: Exercise, answer: Any) -> Found:
    """A function with a slip in: passed where it is the slip that was asked for."""
    found = _filled(exercise, answer)
    status, says, notes, slip = found
    if status == "open" or not callable(answer):
        return found
    if status == "passed":
        return "failed", "nothing is broken: it is right everywhere", [], None
    if exercise.unseen:
        blind = [case.but(**exercise.unseen(case)) for case in exercise.cases()]
        return _unseen(blind, answer, says, notes)
    if exercise.wanted:
        targets = [replace(case, reference=exercise.wanted) for case in exercise.cases()]
        if judge(answer, targets)[0] == "passed":
            return "passed", f"broken as asked, and caught: {says}", notes, None
        return "failed", "broken, but not in the way asked for", notes, None
    if slip == exercise.slip:
        return "passed", f"caught and named: {slip}", notes, slip
    return "failed", f"broken, but not by the slip asked for, {exercise.slip}", notes, slip


def _unseen(blind: list[Case], answer: Callable, says, notes) -> Found:
    status, seen, *_ = judge(answer, blind)
    if status == "passed":
        return "passed", f"wrong, and unseen at the start; away from it: {says}", notes, None
    return "failed", f"it is seen at the start already: {seen}", [], None
