"""The training that a worker times: ours, or the one in PyTorch or JAX."""

import gc
from typing import Any

from minilora.bench import cases, turns
from minilora.support.files import find
from minilora.support.machine import forget_peak, resident

from . import masked
from .sides import JAX, OURS

_now: dict[str, Any] = {}  # this worker's training, and its bytes of memory before it was made


def start(side: str, which: str, case: str, threads: int) -> dict[str, float]:
    """Make one of `masked.TRAININGS` on a side, for the calls that follow.

    One step of a toy runs before it, so that no loading and no compiling of a first use is
    measured. Returns how many rows a batch has: see `masked.rows`. Raises ValueError for an unknown
    training or case.
    """
    attached, make = find("case", case, cases.CASES), find("training", which, masked.TRAININGS)
    _now.clear()
    gc.collect()  # a worker that had a training before gives its memory back
    _train(side, threads, masked.TRAININGS["toy"](attached))(1)
    _now["baseline"] = resident().get("now")
    training = make(attached)
    _now["train"], _now["next"] = _train(side, threads, training), 0
    forget_peak()
    return masked.rows(training.batches)


def _train(side, threads, training) -> turns.Train:
    if side == OURS:
        return cases.ours(training)
    if side == JAX:
        from .in_jax import theirs
    else:
        from .theirs import theirs

    return theirs(training, side, threads)


def losses(n: int) -> list[float]:
    """The loss before each of the first n steps."""
    return _now["train"](n)[0]


def timed(n: int) -> turns.Times:
    """The times of the next n steps."""
    first = _now["next"]
    _now["next"] += n
    return turns.timed_steps(_now["train"], n, first)


def memory() -> dict[str, int]:
    """Resident bytes: "baseline" before the training was made, and since then "now" and "peak"."""
    return {"baseline": _now["baseline"], **resident()}
