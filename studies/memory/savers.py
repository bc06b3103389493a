"""Ways to save memory: their bytes, predicted and measured, and their time."""

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from minilora.bench.turns import race
from minilora.engine import Node, Tensor, backward
from minilora.memory.step import Ledger, measure, predict, shadow
from minilora.methods import METHODS
from minilora.support import terminal
from minilora.support.plots import human
from minilora.tuning.adapters import Tuned
from minilora.tuning.optim import AdamW


@dataclass(frozen=True)
class Saver:
    """One way to need less memory."""

    title: str
    meaning: str
    recompute: str | None = None  # see choices.check_recompute
    frees: bool = False  # does AdamW use and free each gradient as soon as it is complete?


SAVERS = (
    Saver("as it is", "forward, backward, then AdamW on every array"),
    Saver("recompute layers", "only each layer's input is kept; backward runs it again", "layers"),
    Saver("free gradients", "AdamW uses and frees each gradient once it is complete", frees=True),
)


def freeing(tuned: Tuned, rate: float = 0.0) -> Callable[[Tensor], None]:
    """A backward pass in which AdamW uses each gradient as soon as it is complete, then frees it.

    The step is bit for bit the same. Clipping is not possible, since the global norm needs all
    gradients at once.
    """
    optimizers = {key: AdamW({key: array}) for key, array in tuned.trainable.items()}

    def take(leaf: Node) -> None:
        assert leaf.grad is not None  # `ready` comes after the last receive
        optimizers[leaf.name].step({leaf.name: leaf.grad}, rate)
        leaf.grad = None

    return lambda loss: backward(loss, ready=take)


def step(tuned: Tuned, saver: Saver, rate: float = 0.0) -> Callable[[np.ndarray], None]:
    """A function of ids (N, T) that does one optimizer step with a saver."""
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
    """The bytes of a step with a saver, predicted and measured."""
    tuned.recompute = saver.recompute
    shapes = shadow(tuned)
    walks = [freeing(t) if saver.frees else backward for t in (shapes, tuned)]
    ids = np.zeros((batch, seq), int)
    return predict(shapes, (ids, ids), walks[0]), measure(tuned, batch, seq, walk=walks[1])


def seconds(tuned: Tuned, batch: int, seq: int, rounds: int = 9) -> dict[str, float]:
    """Title -> seconds of a step: the first saver's median, times the median ratio to it.

    The savers take turns, so that other work on the machine slows all of them alike.
    """
    ids = np.random.default_rng(0).integers(0, tuned.config.vocab_size, (batch, seq))
    steps = {saver.title: functools.partial(step(tuned, saver), ids) for saver in SAVERS}
    times = race(steps, rounds)
    first = times[SAVERS[0].title]
    unit = statistics.median(first)
    ratios = {t: statistics.median(a / b for a, b in zip(row, first)) for t, row in times.items()}
    return {title: unit * ratio for title, ratio in ratios.items()}


def savers(tuned: Tuned, batch: int, seq: int) -> dict[str, dict[str, float]]:
    """Title -> the bytes "saved" for backward, "peak" and "measured_peak", and the "seconds".

    saved and peak are predicted. tuned does not change: the learning rate of the steps is 0.
    """
    recompute, times = tuned.recompute, seconds(tuned, batch, seq)
    rows = {}
    for saver in SAVERS:
        predicted, measured = bytes_of(tuned, saver, batch, seq)
        rows[saver.title] = {
            "saved": predicted.activations,
            "peak": predicted.peak,
            "measured_peak": measured.peak,
            "seconds": times[saver.title],
        }
    tuned.recompute = recompute
    return rows


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]], width: int) -> Iterator[str]:
    """For each method a row for each saver: bytes, and the changes of the peak and of the time."""
    for name, rows in results.items():
        lines = [[METHODS[name].title, "saved", "peak", "measured", "less", "time"]]
        first = rows[SAVERS[0].title]
        for title, row in rows.items():
            sizes = (human(row[part]) for part in ("saved", "peak", "measured_peak"))
            less = _signed(first["peak"] - row["peak"])
            longer = f"{row['seconds'] / first['seconds'] - 1:+.0%}"
            change = ("", f"{1000 * row['seconds']:.1f} ms") if row is first else (less, longer)
            lines.append([title, *sizes, *change])
        yield from terminal.table(lines, [18, *[12] * 5], width)
        yield ""
    for saver in SAVERS:
        yield terminal.fill(f"{saver.title + ':':18}{saver.meaning}", width, 18)
    parts = "saved: kept for backward; peak: predicted, then measured; less: of the predicted peak"
    yield terminal.fill(parts, width)
    yield "time: a step with AdamW, medians of alternating runs"


def _signed(n):
    return f"-{human(-n)}" if n < 0 else human(n)
