"""A reader's answer to an exercise: a number, a function, or a function broken on purpose."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minilora.check.verdict import Verdict, show
from minilora.check.words import agree, numbers
from minilora.support.files import find
from minilora.support.pair_form import and_list
from minilora.support.terminal import STATIC

from .calls import Fault, call_each, is_blank
from .hints import count_wrong, grader_runs, hints_for
from .judge import Judgement, judge, sort_out
from .lessons import EXERCISES
from .lessons.exercise import Exercise
from .slips import explains, is_right

SEEDS = 1_000_000  # a seed of a check has at most six digits


def check(name: str, *answers: Any, hints: int | None = None, seed: int | None = None) -> Verdict:
    """Judge an answer to an exercise: its number, or its function, which is called in float64.

    answers: one; of a pair also two, forward and backward. None: not written yet.
    hints: how many are shown; None: one more with each wrong answer that differs from those before.
    seed: of the arguments that the function is called with; None: others at each call, and a
    verdict that is not "passed" says which. A script prints the Verdict.
    Where nbgrader runs (NBGRADER_EXECUTION or NBGRADER_VALIDATING is set), a wrong answer raises
    AssertionError.
    Raises ValueError on an unknown exercise.
    """
    find("exercise", name, EXERCISES)
    answer = answers if len(answers) > 1 else next(iter(answers), None)
    if seed is None:
        seed = 0 if os.environ.get(STATIC) else secrets.randbelow(SEEDS)
    judgement = judged(name, answer, seed)
    if hints is None:
        failed = judgement.status == "failed"
        hints = count_wrong(name, _mark(name, answer)) if failed else 0
    shown = hints_for(EXERCISES[name], judgement.slip)
    used = seed if EXERCISES[name].takes(answer) and judgement.status == "failed" else None
    verdict = Verdict(name, *judgement, shown[:hints], len(shown), used)
    if grader_runs() and not verdict:
        raise AssertionError(repr(verdict))
    return show(verdict)


def judged(name: str, answer: Any, seed: int) -> Judgement:
    """What there is to say of an answer, without a hint.

    seed: of the arguments that a function is called with.
    """
    if EXERCISES[name].kind == "predict":
        return judged_number(EXERCISES[name], answer)
    fault = no_call(EXERCISES[name], answer)
    if fault:
        return Judgement(*fault)
    # no variable here holds the exercise: a function could read it, and what is right, from there
    returned = call_each(EXERCISES[name].run(answer), arguments(name, seed))
    return compared(name, returned, seed)


def compared(name: str, returned: Sequence[Any], seed: int) -> Judgement:
    """What there is to say of what a function returned, or of the Faults that stopped it.

    seed: of the arguments that it was called with.
    """
    exercise = EXERCISES[name]
    cases = exercise.drawn(seed)
    if exercise.kind == "blank":
        return judge(cases, returned)
    return _broken(exercise, cases, returned)


def no_call(exercise: Exercise, answer: Any) -> Fault | None:
    """Why an answer in place of a function cannot be called; None where it can."""
    if answer is None or answer is ...:
        return Fault("open", "not written yet")
    if not exercise.takes(answer):
        return Fault("failed", _no_function(exercise.functions, answer))
    functions = answer if isinstance(answer, tuple | list) else [answer]
    if exercise.through and any(map(is_blank, functions)):
        return Fault("open", "not written yet")
    return None


def _no_function(count: int, answer) -> str:
    """What an answer is in place of so many functions."""
    kind, several = type(answer).__name__, isinstance(answer, tuple | list)
    found = sum(map(callable, answer)) if several else 0
    if found:
        wanted = "a function" if count == 1 else f"{count} functions"
        what = f", {found} of them a function" if len(answer) == count else ""
        return f"got {_an(kind)} of {len(answer)}{what}, wanted {wanted}"
    wanted = "a function" if count == 1 else "the tuple (forward, backward)"
    called = several or isinstance(answer, np.ndarray)  # what a function returned
    words = ": its name, without brackets behind it" if called else ""
    return f"got {_an(kind)}, wanted {wanted}{words}"


def arguments(name: str, seed: int) -> list[dict[str, Any]]:
    """What an exercise's function is called with."""
    return [case.args for case in EXERCISES[name].drawn(seed)]


def _mark(name, answer) -> Any:
    """Equal for two answers that are wrong in the same way."""
    if not EXERCISES[name].takes(answer):
        return _plain(answer)
    returned = call_each(EXERCISES[name].run(answer), arguments(name, 0), silent=True)
    return [_plain(value) for value in returned]


def _plain(value) -> Any:
    """A returned value as one that can be compared: to six digits."""
    if isinstance(value, tuple | list) and numbers(value) is None:
        return [_plain(part) for part in value]
    a = numbers(value)
    if a is None:
        return repr(value) if isinstance(value, str | tuple) else type(value).__name__
    return a.shape, [f"{number:.5e}" for number in a.ravel()]


def judged_number(exercise: Exercise, answer: Any) -> Judgement:
    """What there is to say of a number that was to be predicted."""
    if answer is None or answer is ...:
        return Judgement("open", "no number yet: write one before you go on")
    try:
        given = None if isinstance(answer, str | bytes | bool | np.bool) else float(answer)
    except (TypeError, ValueError, OverflowError):
        given = None
    if given is None or np.ndim(answer):
        words = ", without quotes" if isinstance(answer, str) else ""
        return Judgement("failed", f"got {_an(type(answer).__name__)}, wanted a number{words}")
    right = float(exercise.number()) + 0.0  # -0.0 becomes 0.0
    if agree(given, right, exercise.tolerance) or abs(given - right) <= exercise.rounding:
        return Judgement("passed", f"{right:,g} is right. {exercise.because}")
    near = [words for wrong, words in exercise.near.items() if agree(given, wrong, 1e-9)]
    notes = ("yours", f"{given:,.12g}"), *(("looks like", words) for words in near)
    return Judgement("failed", "that is not the number", notes)


def _an(noun) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _broken(exercise, cases, returned) -> Judgement:
    """Passed where the function is wrong in the way that was asked for."""
    judgement = judge(cases, returned)
    runs, faults = sort_out(cases, returned)
    if judgement.status == "open":
        return judgement
    if judgement.status == "passed":
        return Judgement("failed", "nothing is broken: it is right everywhere")
    if faults:
        return Judgement(*faults[0])
    if exercise.unseen:
        return _unseen(exercise.unseen, cases, returned)
    status, says, notes, slip = judgement
    if exercise.wanted:
        asked_cases = [replace(case, reference=exercise.wanted, slips={}) for case in cases]
        others = _wrong_names(list(zip(asked_cases, (outputs for _, outputs in runs))))
        if others:
            says = f"broken, but not in the way asked for: see {and_list(others)}"
            seen = judge(cases, returned, others)
            if seen.status == "passed":  # right, where a slip was asked for
                seen = seen._replace(notes=judge(asked_cases, returned, others).notes[:2])
            return seen._replace(status="failed", says=says)
        caught = f"caught and named: {slip}" if slip else f"broken as asked, and caught: {says}"
        return Judgement("passed", caught, notes, slip)
    asked_for: str = exercise.slip
    wrong = _wrong_names(runs)
    others = [name for name in wrong if not explains(asked_for, runs, name)]
    if not others:
        return Judgement("passed", f"caught and named: {asked_for}", notes, asked_for)
    only = "only " if len(others) < len(wrong) else ""
    says = f"broken, but not {only}by the slip asked for, {asked_for}: see {and_list(others)}"
    return judge(cases, returned, others)._replace(says=says)


def _unseen(unseen, cases, returned) -> Judgement:
    """Passed where one output alone is wrong, and right with the arguments of the start."""
    only, where = unseen.output, unseen.where
    half = len(cases) // 2  # the first half is away from the start
    seen, found = judge(cases[half:], returned[half:]), judge(cases[:half], returned[:half])
    if seen.status != "passed":
        return Judgement("failed", f"it is seen {where} already: {seen.says}", seen.notes)
    away, _ = sort_out(cases[:half], returned[:half])
    others = [name for name in _wrong_names(away) if name != only]
    if others:
        says = f"{and_list(others)} must stay right: only {only} is to be wrong"
        return Judgement("failed", says, found.notes)
    for case, outputs in away:
        got = numbers(outputs[only])
        if np.shape(got) != case.true[only].shape or not np.isfinite(got).all():
            says = f"{only} must keep its shape and be finite: every check would see that"
            return Judgement("failed", says, found.notes)
    says = f"wrong, and unseen {where}; away from it: {found.says}"
    return Judgement("passed", says, found.notes)


def _wrong_names(runs) -> list[str]:
    """The outputs that are wrong in some case."""
    names = runs[0][0].true
    return [n for n in names if any(not is_right(case, outputs, n) for case, outputs in runs)]
