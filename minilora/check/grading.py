"""Points for an answer, one for each right output, on cases that no notebook shows."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..support.files import find
from ..support.terminal import encodable
from .answer import judged
from .judge import run_case
from .lessons import EXERCISES
from .lessons.exercise import Exercise
from .slips import Case, agree
from .verdict import Verdict

SEED = (
    "MINILORA_SEED"  # set where a class is graded: feedback shows cells, and so no seed is in them
)
DRAWS = 3  # each case is drawn so many times


def points(name: str) -> int:
    """The most points of an exercise: one for each output of a function to write, else one.

    Raises ValueError on an unknown exercise.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    return len(exercise.cases()[0].true) if exercise.kind == "blank" else 1


def grade(name: str, answer: Any, seed: int | None = None) -> float:
    """The points of an answer, from 0 to `points(name)`; the verdict on it is printed.

    An output counts where it is right in every case. seed: draws the numbers of the cases; None:
    the whole number in the environment variable MINILORA_SEED.
    Raises ValueError on an unknown exercise, or where no seed is given.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    if seed is None:
        given = os.environ.get(SEED, "")
        if not given.isdecimal():
            raise ValueError(f"grade: {SEED} is {given!r}, wanted a whole number")
        seed = int(given)
    cases = drawn_anew(exercise.cases(), seed)
    judgement = judged(replace(exercise, cases=lambda: cases), answer)
    print(encodable(str(Verdict(name, *judgement, hints_in_all=0))))
    if judgement.status == "passed":
        return float(points(name))
    if judgement.status == "open" or exercise.kind != "blank":
        return 0.0
    return float(_right_outputs(exercise, answer, cases))


def drawn_anew(cases: Sequence[Case], seed: int) -> list[Case]:
    """The cases with other numbers, `DRAWS` times: same shapes, same signs where all are one sign.

    Each float is multiplied by a factor from 1/2 to 2, and an array with both signs gets new ones.
    Whole numbers stay: ranks, tokens, places.
    """
    rng = np.random.default_rng(seed)

    def other(value):
        if isinstance(value, float):
            return value * 2.0 ** rng.uniform(-1, 1)
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            return value
        signs = rng.choice([-1.0, 1.0], value.shape) if (value < 0).any() else 1.0
        return value * signs * 2.0 ** rng.uniform(-1, 1, value.shape)

    return [
        case.but(**{name: other(value) for name, value in case.args.items()})
        for case in list(cases) * DRAWS
    ]


def _right_outputs(exercise: Exercise, answer: Any, cases: Sequence[Case]) -> int:
    """How many outputs of the function are right in every case; 0 where it stops in one."""
    right = set(cases[0].true)
    for case in cases:
        outputs = run_case(answer, case)
        if not isinstance(outputs, dict):
            return 0
        right = {name for name in right if agree(outputs[name], case.true[name])}
    return len(right)
