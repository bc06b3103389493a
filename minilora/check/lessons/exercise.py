"""An exercise as a record."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..slips import Case, Outputs


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook: predict a number, fill a blank, or break it."""

    name: str
    lesson: int  # the notebook that has it
    kind: str  # "predict", "blank", "break"
    asks: str  # in a line
    hints: tuple[str, str, str]  # one at a time, the last almost the answer
    cases: Callable[[], list[Case]] = field(default=list)  # blank, break: what it is run on
    number: Callable[[], float] = field(default=float)  # predict: what is right
    because: str = ""  # predict: why, once it is
    near: Callable[[], dict[float, str]] = field(default=dict)  # predict: wrong numbers, explained
    tolerance: float = 1e-9  # predict: relative
    slip: str | None = None  # break: the one asked for
    wanted: Callable[..., Outputs] | None = None  # break: else the wrong outputs asked for
    unseen: Callable[[Case], dict[str, Any]] | None = None  # break: arguments where it is not seen


def draw(seed: int, **shapes: tuple[int, ...]) -> dict[str, Any]:
    """Standard normal float64 arrays of these shapes: far from zero, the same each time."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}
