"""An exercise as a record; and the three kinds: predict a number, fill a blank, break it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minilora.check.words import numbers

from ..calls import WrongForm
from ..slips import Case, Outputs

Hints = tuple[str, str]  # shown one at a time; neither is the answer
Cases = Callable[[np.random.Generator], list[Case]]  # draws what a function is called with


class Unseen(NamedTuple):
    """Which output has to be wrong, and with which arguments the error must not show."""

    start: Callable[[Case], dict[str, Any]]  # the arguments with which it must not show
    output: str  # the output that has to be wrong with other arguments
    where: str = "at the start"  # these arguments, in words


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
    rounding: float = 0.0  # how far from 0 a sum may be that should be 0
    # blank and break
    cases: Cases = lambda rng: []
    functions: int = 1  # how many to write: 2 for a pair, forward and backward
    # the reader's functions -> the function that runs on the cases; None: there is only one
    through: Callable[..., Callable[..., Any]] | None = None
    package: Any = None  # what notebooks use if nothing is written; None: the reference
    # break: the exercise asks for one of these
    slip: str | None = None  # a known slip, in one output or more
    wanted: Callable[..., Outputs] | None = None  # these wrong outputs
    unseen: Unseen | None = None

    def takes(self, answer: Any) -> bool:
        """Is an answer the function, or the tuple of functions, that is asked for?"""
        functions = answer if isinstance(answer, tuple | list) else (answer,)
        return len(functions) == self.functions and all(map(callable, functions))

    def run(self, answer: Any) -> Callable[..., Any]:
        """The function that is run on the cases."""
        functions = answer if isinstance(answer, tuple | list) else (answer,)
        return self.through(*functions) if self.through else functions[0]

    def drawn(self, seed: int) -> list[Case]:
        """The cases that a seed gives; for `unseen`, then the same with the start's arguments."""
        cases = self.cases(np.random.default_rng(seed))
        start = [case.but(**self.unseen.start(case)) for case in cases] if self.unseen else []
        return cases + start


def predict(
    name: str, asks: str, hints: Hints, number: Callable[[], float], because: str, **more: Any
) -> Exercise:
    """Predict a number before it is computed.   more: near, tolerance, rounding."""
    return Exercise(name, "predict", asks, hints, number=number, because=because, **more)


def blank(name: str, asks: str, hints: Hints, cases: Cases, **more: Any) -> Exercise:
    """Write a function, or a pair.   more: functions, through, package."""
    return Exercise(name, "blank", asks, hints, cases=cases, **more)


def blank_pair(
    name: str, asks: str, hints: Hints, cases: Cases, package: Any, through: Callable | None = None
) -> Exercise:
    """Write a pair in the form of the package's: forward(*args) -> (y, cache), backward(dy, cache).

    cases: for y, dx, … = f(dy, *args), None where there is no gradient. package: its (forward,
    backward), which notebooks use if the reader has written none. through: None is `both`.
    """
    return blank(name, asks, hints, cases, functions=2, through=through or both, package=package)


def both(forward: Callable, backward: Callable) -> Callable:
    """The function (dy, *args) -> y and what backward returns, of a pair."""

    def once(dy, args, between=()):
        y, cache = _values(forward(*args), "forward", 2, 2, "the tuple (y, cache)")
        for others in between:
            forward(*others)
        wanted = f"{len(args)}, one for each argument"
        grads = _values(backward(dy, cache), "backward", len(args), math.inf, wanted)
        more = grads[len(args) :]  # for arguments that have a default
        return (y, *(grads if any(g is not None for g in more) else grads[: len(args)]))

    def run(dy, *args):
        own, others = ([a + n for a in (dy, *args)] for n in (0, 1))  # the first call may write
        found = once(dy, args)
        if not all(map(_same, found, once(own[0], own[1:], [others[1:]]))):
            raise WrongForm(
                "backward gives other gradients when forward was called again in between: it must "
                "read only its cache, since every layer of a model calls forward before backward"
            )
        return found

    return run


def as_numbers(function: Callable) -> Callable:
    """The function with True and False as 1 and 0: for an answer that says which."""

    def run(*args):
        found = function(*args)
        plain = isinstance(found, np.ndarray | list | tuple)
        return np.asarray(found, int) if plain and np.asarray(found).dtype == bool else found

    return run


def _same(a, b) -> bool:
    """Are two values that were returned equal, as far as they are numbers?"""
    a, b = numbers(a), numbers(b)
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and np.allclose(a, b, equal_nan=True)


def _values(returned, name, least, most, wanted) -> tuple | list:
    """What one of a pair returned. Raises WrongForm if it is not a tuple of so many values."""
    several = isinstance(returned, tuple | list)
    if several and least <= len(returned) <= most:
        return returned
    got = f"{len(returned)} value(s)" if several else type(returned).__name__
    words = ": is the return missing?" if returned is None else ""
    raise WrongForm(f"{name} returned {got}, wanted {wanted}{words}")


def broken(name: str, asks: str, hints: Hints, cases: Cases, **wrong: Any) -> Exercise:
    """Write a function that is wrong in a certain way.   wrong: slip, wanted or unseen."""
    return Exercise(name, "break", asks, hints, cases=cases, **wrong)


def draw(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, Any]:
    """Standard normal float64 arrays of these shapes: far from zero."""
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def old_and_step(*outputs: str) -> dict[str, Any]:
    """Fields of a Case whose outputs are the old value plus a step; the step is 0 at lr = 0."""
    return {"adapter": "lr", "two_paths": outputs, "paths": "parts: the old value, and the step"}


def rows(rng: np.random.Generator) -> int:
    """A number of rows: even, so that they can be two sequences, and different from any width."""
    return int(rng.choice([6, 8, 10]))


def widths(rng: np.random.Generator, count: int) -> list[int]:
    """`count` different widths, all of them odd."""
    return [int(n) for n in rng.choice([5, 7, 9, 11, 13], count, replace=False)]


def rank(rng: np.random.Generator) -> int:
    """A rank: smaller than any width."""
    return int(rng.choice([2, 3, 4]))


def number(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high, with three digits."""
    return float(f"{rng.uniform(low, high):.3g}")
