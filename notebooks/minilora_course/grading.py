"""Points for an answer, one for each right output, on arguments that no student can know."""

import os
from typing import Any

from minilora.check.verdict import Verdict
from minilora.support.files import find
from minilora.support.terminal import encodable

from .answer import arguments, judged
from .calls import call_each
from .judge import sort_out
from .lessons import EXERCISES
from .lessons.exercise import Exercise
from .slips import is_right

SEED = "MINILORA_SEED"  # set where a class is graded: feedback shows cells, so no cell has it
DRAWS = 3  # so many times the arguments are drawn


def points(name: str) -> int:
    """The most points of an exercise: one for each output of a function to write, else one.

    Raises ValueError on an unknown exercise.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    if exercise.kind != "blank":
        return 1
    return sum(output is not None for output in exercise.drawn(0)[0].true.values())


def grade(name: str, answer: Any, seed: int | None = None) -> float:
    """The points of an answer, from 0 to `points(name)`; the verdict on it is printed.

    An output counts where it is right with all arguments. seed: draws them; None: the whole number
    in the environment variable MINILORA_SEED. One seed asks the same of a whole class.
    Raises ValueError on an unknown exercise, or where no seed is given.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    if seed is None:
        given = os.environ.get(SEED, "")
        if not given.isdecimal():
            raise ValueError(f"grade: {SEED} is {given!r}, wanted a whole number")
        seed = int(given)
    seeds = range(DRAWS * seed, DRAWS * (seed + 1))
    verdicts = [judged(name, answer, each) for each in seeds]
    judgement = next((j for j in verdicts if j.status != "passed"), verdicts[0])
    print(encodable(str(Verdict(name, *judgement, hints_in_all=0))))
    if judgement.status == "passed":
        return float(points(name))
    if judgement.status == "open" or exercise.kind != "blank" or not exercise.takes(answer):
        return 0.0
    right = set.intersection(*(_right_outputs(exercise, answer, each) for each in seeds))
    return float(min(len(right), points(name) - 1))


def _right_outputs(exercise: Exercise, answer: Any, seed: int) -> set[str]:
    """The outputs that are right in all cases of a seed; none where the function stops in one."""
    returned = call_each(exercise.run(answer), arguments(exercise.name, seed))
    runs, faults = sort_out(exercise.drawn(seed), returned)
    if faults:
        return set()
    names = [name for name, true in runs[0][0].true.items() if true is not None]
    return {n for n in names if all(is_right(case, outputs, n) for case, outputs in runs)}
