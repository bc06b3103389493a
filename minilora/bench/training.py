"""The training that a worker times: ours, or the one in PyTorch."""

import gc
import time
from collections.abc import Callable
from typing import Any

from ..support.files import find
from ..support.machine import forget_peak, resident
from ..tuning.train import train
from . import cases, masked, turns

_now: dict[str, Any] = {}  # this worker's training, and its bytes of memory before it was made


def ours(training: cases.Training) -> turns.Train:
    """Training steps in this package."""

    def steps(n, first=0):
        batches = [training.batches[k % len(training.batches)] for k in range(first, first + n)]
        history = train(training.tuned, batches, steps=n, progress=False, **training.recipe)
        return history.losses, history.seconds

    return steps


def start(side: str, size: str, case: str, lr: float, threads: int) -> None:
    """Make the training of a side on one batch without padding, for the calls that follow.

    lr: learning rate. Raises ValueError for an unknown size or case.
    """
    of, attached = find("size", size, cases.SIZES), find("case", case, cases.CASES)
    toy = cases.SIZES["toy"]
    _make(
        side,
        threads,
        lambda: cases.full_batches(toy, attached, lr),
        lambda: cases.full_batches(of, attached, lr),
    )


def start_masked(side: str, which: str, case: str, threads: int) -> dict[str, float]:
    """Make the training of a side on batches with padding: see `masked.TRAININGS`.

    Returns how many rows a batch has, in the mean: see `masked.rows`. Raises ValueError for an
    unknown training or case.
    """
    attached, make = find("case", case, cases.CASES), find("training", which, masked.TRAININGS)
    training = make(attached)
    _make(side, threads, lambda: masked.TRAININGS["toy"](attached), lambda: training)
    return masked.rows(training.batches)


def _make(side, threads, toy: Callable[[], cases.Training], real: Callable[[], cases.Training]):
    """Make a training. One step of a toy runs before it, so that no loading and no compiling of a
    first use is measured.
    """

    def begin(training) -> turns.Train:
        if side not in (*turns.SIDES[1:], turns.PADDED, turns.PACKED):
            return ours(training)
        from .theirs import theirs

        return theirs(training, side, threads)

    _now.clear()
    gc.collect()  # a worker that had a training before gives its memory back
    begin(toy())(1)
    _now["baseline"] = resident().get("now")
    _now["train"], _now["next"] = begin(real()), 0
    forget_peak()


def losses(n: int) -> list[float]:
    """The loss before each of the first n steps."""
    return _now["train"](n)[0]


def timed(n: int) -> turns.Times:
    """The times of the next n steps. One more step runs first, to wake up the threads."""
    before, first = time.process_time(), _now["next"]
    _now["next"] += n
    wall = _now["train"](n + 1, first - 1)[1]
    return turns.times_of(wall[1:], (time.process_time() - before) / (n + 1))


def memory() -> dict[str, int]:
    """Resident bytes: "baseline" before the training was made, and since then "now" and "peak"."""
    return {"baseline": _now["baseline"], **resident()}
