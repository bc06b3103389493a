"""The training that a worker times: ours, or the one in PyTorch."""

import time
from typing import Any

from ..support.files import find
from ..tuning.train import train
from . import cases, machine, turns

_now: dict[str, Any] = {}  # of this worker: its training, and its bytes of memory before that


def ours(tuned: cases.Tuned, batch: cases.Batch, lr: float) -> turns.Train:
    """Training steps in this package."""

    def steps(n):
        history = train(tuned, [batch], steps=n, lr=lr, progress=False)
        return history.losses, history.seconds

    return steps


def start(side: str, size: str, case: str, lr: float, threads: int) -> None:
    """Make the training of a side; the functions below are about it.

    One step of a toy comes first: what is loaded or compiled at the first use is then no part of
    what is measured.
    """

    def make(of) -> turns.Train:
        tuned, batch = cases.make(of, attached), cases.batch(of)
        if side not in turns.SIDES[1:]:
            return ours(tuned, batch, lr)
        from .theirs import theirs

        return theirs(tuned, batch, lr, side, threads)

    of, attached = find("size", size, cases.SIZES), find("case", case, cases.CASES)
    make(cases.SIZES["toy"])(1)
    _now["baseline"] = machine.resident().get("now")
    _now["train"] = make(of)
    machine.forget_peak()


def losses(n: int) -> list[float]:
    """The loss before each of n steps."""
    return _now["train"](n)[0]


def timed(n: int) -> turns.Times:
    """The times of n steps; one more runs before them, which wakes up the pool of threads."""
    before = time.process_time()
    wall = _now["train"](n + 1)[1]
    return turns.times_of(wall[1:], (time.process_time() - before) / (n + 1))


def memory() -> dict[str, int]:
    """Resident bytes: "baseline" before the training was made, and since then "now" and "peak"."""
    return {"baseline": _now["baseline"], **machine.resident()}
