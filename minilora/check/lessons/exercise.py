"""An exercise as a record; and the three kinds: predict a number, fill a blank, break it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..slips import Case, Outputs

Hints = tuple[str, str, str]  # shown one at a time; the last is almost the answer


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook."""

    name: str
    kind: str  # "predict", "blank", "break"
    asks: str  # one line
    hints: Hints
    lesson: str = ""  # the number of the notebook that has it: "04"
    # predict
    number: Callable[[], float] = float  # gives the right one
    because: str = ""  # said once the number is right
    near: Mapping[float, str] = field(default_factory=dict)  # wrong numbers, explained
    tolerance: float = 1e-9  # relative
    # blank and break
    cases: Callable[[], list[Case]] = list  # gives what the function is run on
    functions: int = 1  # how many are to be written: 2 for a pair, forward and backward
    # the functions that were written -> the one that is run on the cases; None: they are one
    through: Callable[..., Callable[..., Any]] | None = None
    package: Any = None  # what notebooks use where nothing is written; None: what is right
    # break: what is asked for is one of these
    slip: str | None = None  # a known slip
    wanted: Callable[..., Outputs] | None = None  # these wrong outputs
    unseen: Callable[[Case], dict[str, Any]] | None = None  # not to be seen with these arguments


def predict(
    name: str, asks: str, hints: Hints, number: Callable[[], float], because: str, **more: Any
) -> Exercise:
    """Write a number before it is computed.   more: near, tolerance."""
    return Exercise(name, "predict", asks, hints, number=number, because=because, **more)


def blank(
    name: str, asks: str, hints: Hints, cases: Callable[[], list[Case]], **more: Any
) -> Exercise:
    """Write a function, or a pair.   more: functions, through, package."""
    return Exercise(name, "blank", asks, hints, cases=cases, **more)


def blank_pair(
    name: str, asks: str, hints: Hints, cases: Callable[[], list[Case]], package: Any
) -> Exercise:
    """Write a pair in the form of the package's: forward(*args) -> (y, cache), backward(dy, cache).

    cases: for y, dx, … = f(dy, *args), None where there is no gradient. package: its (forward,
    backward), which takes the place of a pair that is not written.
    """
    return blank(name, asks, hints, cases, functions=2, through=both, package=package)


def both(forward: Callable, backward: Callable) -> Callable:
    """The function (dy, *args) -> y and what backward returns, of a pair."""

    def run(dy, *args):
        done = forward(*args)
        if done is None or done is ...:
            return None  # not written yet
        y, cache = done
        grads = backward(dy, cache)
        if grads is None or grads is ...:
            return None
        more = grads[len(args) :]  # for arguments that have a default
        return (y, *(grads if any(g is not None for g in more) else grads[: len(args)]))

    return run


def broken(
    name: str, asks: str, hints: Hints, cases: Callable[[], list[Case]], **wrong: Any
) -> Exercise:
    """Write a function that is wrong in a certain way.   wrong: slip, wanted or unseen."""
    return Exercise(name, "break", asks, hints, cases=cases, **wrong)


def draw(seed: int, **shapes: tuple[int, ...]) -> dict[str, Any]:
    """Standard normal float64 arrays of these shapes: far from zero, the same each time."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}
