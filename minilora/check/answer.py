"""A reader's answer to an exercise: a number, a function, or a function broken on purpose."""

import os
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from ..support.files import find
from .judge import Judgement, judge
from .lessons import EXERCISES
from .lessons.exercise import Exercise
from .slips import agree
from .verdict import Verdict, show

_failed: Counter[str] = Counter()  # exercise -> tries that failed: each shows one hint more


def check(name: str, answer: Any = None, hints: int | None = None) -> Verdict:
    """Judge an answer to an exercise: its number, or its function, which is called in float64.

    hints: how many are shown; None: one more with each try that fails. A script prints the Verdict.
    Raises ValueError on an unknown exercise; where nbgrader runs, AssertionError on a wrong answer.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    judgement = judged(exercise, answer)
    if hints is None:
        _failed[name] += judgement.status == "failed"
        hints = _failed[name] if judgement.status == "failed" else 0
    verdict = Verdict(name, *judgement, exercise.hints[:hints], len(exercise.hints))
    if os.environ.get("NBGRADER_EXECUTION") == "autograde" and not verdict:
        raise AssertionError(repr(verdict))
    return show(verdict)


def hint(name: str, number: int = 1) -> str:
    """One of an exercise's three hints. Raises ValueError for a number that is not 1, 2 or 3."""
    exercise: Exercise = find("exercise", name, EXERCISES)
    if number not in (1, 2, 3):
        raise ValueError(f"hint: got {number!r}, wanted 1, 2 or 3")
    return exercise.hints[number - 1]


def judged(exercise: Exercise, answer: Any) -> Judgement:
    """What there is to say of an answer: its number, its function, or a tuple of functions."""
    judges = {"predict": _number, "blank": _function, "break": _broken}
    return judges[exercise.kind](exercise, answer)


def _number(exercise, answer) -> Judgement:
    if answer is None or answer is ...:
        return Judgement("open", "no number yet: write one before you go on")
    if not isinstance(answer, int | float | np.number) or isinstance(answer, bool):
        return Judgement("failed", f"got a {type(answer).__name__}, wanted a number")
    right = float(exercise.number())
    if agree(float(answer), right, exercise.tolerance):
        return Judgement("passed", f"{right:,g} is right. {exercise.because}")
    near = [words for wrong, words in exercise.near.items() if agree(float(answer), wrong, 1e-9)]
    notes = ("yours", f"{answer:,g}"), *(("looks like", words) for words in near)
    return Judgement("failed", "that is not the number", notes)


def _function(exercise, answer) -> Judgement:
    if answer is None or answer is ...:
        return Judgement("open", "not written yet")
    if not callable(answer):
        return Judgement("failed", f"got a {type(answer).__name__}, wanted a function")
    return judge(answer, exercise.cases())


def _broken(exercise, answer) -> Judgement:
    """Passed where the function is wrong in the way that was asked for."""
    judgement = _function(exercise, answer)
    status, says, notes, slip = judgement
    if status == "open" or not callable(answer):
        return judgement
    if status == "passed":
        return Judgement("failed", "nothing is broken: it is right everywhere")
    cases = exercise.cases()
    if exercise.unseen:
        at_start = judge(answer, [case.but(**exercise.unseen(case)) for case in cases])
        if at_start.status == "passed":
            return Judgement(
                "passed", f"wrong, and unseen at the start; away from it: {says}", notes
            )
        return Judgement("failed", f"it is seen at the start already: {at_start.says}")
    if exercise.wanted:
        if (
            judge(answer, [replace(case, reference=exercise.wanted) for case in cases])[0]
            == "passed"
        ):
            return Judgement("passed", f"broken as asked, and caught: {says}", notes)
        return Judgement("failed", "broken, but not in the way asked for", notes)
    if slip == exercise.slip:
        return Judgement("passed", f"caught and named: {slip}", notes, slip)
    return Judgement(
        "failed", f"broken, but not by the slip asked for, {exercise.slip}", notes, slip
    )
