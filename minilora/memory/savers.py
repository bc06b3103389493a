"""Where memory could still go down, each with its price in time: predicted bytes, measured bytes,
measured seconds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..engine import Node, Tensor, backward
from ..methods import METHODS
from ..support.plots import human
from ..tuning.adapters import Tuned
from ..tuning.optim import AdamW
from .step import Ledger, measure, predict, shadow


@dataclass(frozen=True)
class Saver:
    """One way to hold less."""

    title: str
    meaning: str
    recompute: str | None = None  # see choices.check_recompute
    frees: bool = False  # does AdamW take each gradient as soon as it is whole?


SAVERS = (
    Saver("as it is", "forward, backward, then AdamW on every array"),
    Saver("product again", "backward makes SwiGLU's product again from gate and up", "swiglu"),
    Saver("layers again", "of a layer only its input is kept; backward runs it again", "layers"),
    Saver("gradients freed", "AdamW takes each gradient once it is whole and drops it", frees=True),
)


def freeing(tuned: Tuned, rate: float = 0.0) -> Callable[[Tensor], None]:
    """A backward pass in which AdamW takes each gradient as soon as it is whole, and drops it.

    The same step to the bit as one after backward. Clipping by the global norm wants all gradients
    at once, and so cannot go with it.
    """
    optimizers = {key: AdamW({key: array}) for key, array in tuned.trainable.items()}

    def take(leaf: Node) -> None:
        assert leaf.grad is not None  # `ready` comes after the last receive
        optimizers[leaf.name].step({leaf.name: leaf.grad}, rate)
        leaf.grad = None

    return lambda loss: backward(loss, ready=take)


def step(tuned: Tuned, saver: Saver, rate: float = 0.0) -> Callable[[np.ndarray], None]:
    """A function of ids (N, T) that takes one optimizer step under a saver."""
    free, adam = freeing(tuned, rate), AdamW(tuned.trainable)

    def run(ids):
        tuned.recompute = saver.recompute
        leaves = tuned.leaves()
        loss = tuned.loss(ids, ids, leaves=leaves, key=(tuned.seed, 1, 0))
        if saver.frees:
            free(loss)
            return
        backward(loss)
        adam.step({key: g for key, leaf in leaves.items() if (g := leaf.grad) is not None}, rate)

    return run


def bytes_of(tuned: Tuned, saver: Saver, batch: int, seq: int) -> tuple[Ledger, Ledger]:
    """A step's bytes under a saver, predicted and measured."""
    tuned.recompute = saver.recompute
    twin = shadow(tuned)
    walks = [freeing(t) if saver.frees else backward for t in (twin, tuned)]
    return predict(twin, batch, seq, walks[0]), measure(tuned, batch, seq, walks[1])


def seconds(tuned: Tuned, batch: int, seq: int, rounds: int = 9) -> dict[str, float]:
    """Title -> seconds of a step: the first saver's median, times the median ratio to it.

    The savers take turns, so that what else the machine does meets all of them alike.
    """
    ids = np.random.default_rng(0).integers(0, tuned.config.vocab_size, (batch, seq))
    steps = {saver.title: step(tuned, saver) for saver in SAVERS}
    times: dict[str, list[float]] = {title: [] for title in steps}
    for turn in range(rounds + 1):
        for title, run in steps.items():
            start = time.perf_counter()
            run(ids)
            if turn:  # the first round warms up
                times[title].append(time.perf_counter() - start)
    first = times[SAVERS[0].title]
    unit = statistics.median(first)
    ratios = {t: statistics.median(a / b for a, b in zip(row, first)) for t, row in times.items()}
    return {title: unit * ratio for title, ratio in ratios.items()}


def savers(tuned: Tuned, batch: int, seq: int) -> dict[str, dict[str, float]]:
    """Title -> bytes "saved" for backward and of the "peak", as predicted, the "measured_peak", and
    "seconds" of a step; tuned stays as it was.

    Steps are taken at rate 0, which moves nothing.
    """
    recompute, times = tuned.recompute, seconds(tuned, batch, seq)
    rows = {}
    for saver in SAVERS:
        said, found = bytes_of(tuned, saver, batch, seq)
        rows[saver.title] = {
            "saved": said.activations,
            "peak": said.peak,
            "measured_peak": found.peak,
            "seconds": times[saver.title],
        }
    tuned.recompute = recompute
    return rows


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """A block a method, a row a saver: bytes, and the change of the peak and of the time."""
    for name, rows in found.items():
        yield _cells(METHODS[name].title, ("saved", "peak", "measured", "less", "time"))
        first = rows[SAVERS[0].title]
        for title, row in rows.items():
            sizes = (human(row[part]) for part in ("saved", "peak", "measured_peak"))
            less = _signed(first["peak"] - row["peak"])
            price = f"{row['seconds'] / first['seconds'] - 1:+.0%}"
            change = ("", f"{1000 * row['seconds']:.1f} ms") if row is first else (less, price)
            yield _cells(title, (*sizes, *change))
        yield ""
    for saver in SAVERS:
        yield f"{saver.title + ':':17}{saver.meaning}"
    yield "saved: kept for backward; peak: predicted, then measured; less: of the predicted peak"
    yield "time: of a step with AdamW, the medians of runs that took turns"


def _cells(title, cells):
    return f"{title:18}{''.join(f'{cell:>12}' for cell in cells)}".rstrip()


def _signed(n):
    return f"-{human(-n)}" if n < 0 else human(n)
