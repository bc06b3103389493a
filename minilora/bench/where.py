"""The ledger of time: where the milliseconds of a training step go.

Every other step of a training is measured: for its time the functions that the ops, the optimizer
and the step rule call are replaced by timed ones. The steps between run as always. A row has the
seconds of its own functions, without those of rows inside. What a timer costs is measured too, and
subtracted. Seconds are means over the fastest quarter of the steps, since on a shared machine the
others waited for other programs. Unlike medians, the means of the rows add up to that of the step.
"""

import copy
import dataclasses
import gc
import statistics
from collections.abc import Callable
from time import perf_counter as now
from timeit import repeat
from typing import Any

import numpy as np

from ..engine import Pair
from ..formats.models import load_model
from ..llama.model import Llama, init_params
from ..memory.saved import storages
from ..support import plots
from ..support.meta import arrays_in
from ..tuning import optim, train
from ..tuning.adapters import Tuned, attach
from ..tuning.callbacks import Callback
from . import cases, machine, turns
from .operations import cost

RULES = ("derived", "grad_rule", "before_step", "after_step")  # of a technique's record
LENGTH = 64  # tokens of a sequence; a size of the bench has its own

Place = tuple[Any, str, Any]  # an object, the name of an attribute, what it is to be


def in_a_worker(settings: turns.Settings, **of: Any) -> dict[str, Any]:
    """`of_base` in a process of its own, which has the threads that are asked for."""
    with turns.together(turns.Side(turns.OURS, settings.threads)) as sides:
        seconds = settings.rounds * settings.seconds
        return sides[turns.OURS].ask(of_base, seconds=seconds, **of)


def of_base(base: str, method: str, rows: int, seconds: float, **how: Any) -> dict[str, Any]:
    """The ledger of a size of the bench, or of a base that `load_model` knows; how: for attach.

    rows: of the batch, rounded down to whole sequences.
    """
    size = cases.SIZES.get(base)
    model = Llama(size.config, init_params(size.config)) if size else load_model(base)
    tuned, most = attach(model, method, **how), model.config.max_position_embeddings
    length = min(rows, size.length if size else LENGTH, most // 2)
    batch = cases.batch(cases.Size(model.config, rows // length, length + 1))  # the last: no target
    about = {"base": base, "technique": tuned.record.title, "batch": rows // length * length}
    return about | ledger(tuned, batch, seconds, machine.peaks())


def ledger(tuned: Tuned, batch: cases.Batch, seconds: float, peaks: dict) -> dict[str, Any]:
    """Where the time goes in a training of about so many seconds, which moves tuned's arrays.

    peaks: operations and bytes a second, see `machine.peaks`. "allowed": the seconds that the
    slower of the two takes, summed over calls; None without an entry in OPERATIONS.
    """

    def steps(n, *told):
        how: dict[str, Any] = {"lr": cases.LR, "progress": False, "callbacks": told}
        return train.train(tuned, [batch], steps=n, **how).seconds

    pairs = turns.steps_for(seconds, 2 * min(steps(3)))  # a measured step and one that is not
    watch = Watch(tuned)
    try:
        steps(2 * pairs + 2, watch)
    finally:
        watch.stop()
    rows, made = watch.rows_of_a_step(), watch.made
    taken = sum(rows.values())
    untraced = statistics.mean(s for s, _ in _fastest(watch.steps[False]))
    empty = turns.timed(lambda: [np.empty(n, np.uint8) for n in made], 0.05)["median"]
    return {
        "peaks": peaks,
        "step": {"untraced": untraced, "sum": taken, "ratio": taken / untraced, "steps": pairs},
        "allocation": {"arrays": len(made), "bytes": sum(made), "seconds": empty},
        "rows": [
            {
                "row": row,
                "seconds": s,
                "share": s / taken,
                **_work(watch.calls.get(row, []), s, peaks),
            }
            for row, s in sorted(rows.items(), key=lambda item: -item[1])
        ],
    }


def _work(calls, seconds, peaks) -> dict[str, Any]:
    """The work of a row's calls, if it is known of each, and what the roofline says of it."""
    work: dict[str, Any] = {"calls": len(calls) or None}
    if calls and None not in calls:
        work["flops"], work["bytes"] = map(sum, zip(*calls))
        if rate := peaks["flops"]:
            work["allowed"] = sum(max(f / rate, b / peaks["bandwidth"]) for f, b in calls)
            work["ratio"] = work["allowed"] / seconds
    return work


class Watch(Callback):
    """Measures every other step of a training. Of the first one it also notes the work."""

    def __init__(self, tuned: Tuned):
        # is it measured? -> each step: its seconds, and of each row [seconds, calls, timers inside]
        self.steps: dict[bool, list[tuple[float, dict]]] = {True: [], False: []}
        self.calls: dict[str, list] = {}  # row -> the cost of each call
        self.made: list[int] = []  # bytes of each array that a function made
        self.inside = [0.0, 0]  # of the function that runs: seconds and number of timed calls in it
        self.log: list[tuple] = []  # of this step, each timed call: row, seconds, what was inside
        self.on, self.others = False, self._places(tuned)

    def _places(self, tuned) -> list[Place]:
        """What is replaced. A pair that has run has its functions in `fast`."""
        found: list[Place] = []
        for pair in gc.get_objects():
            if issubclass(type(pair), Pair) and pair.fast:
                fast = copy.copy(pair.fast)
                for part in ("forward", "backward", "value"):
                    if function := getattr(fast, part):
                        row = f"{pair.name} {part}" if hasattr(pair, "name") else pair.__name__
                        setattr(fast, part, self.timed(row, function, pair))
                found.append((pair, "fast", fast))
        rules = {name: rule for name in RULES if (rule := getattr(tuned.record, name))}
        rules = {name: self.timed(f"step rule: {name}", rule) for name, rule in rules.items()}
        gradients = self.timed("Python between ops", train.gradients)
        adamw = self.timed("Python of AdamW", optim.AdamW.step)
        record = dataclasses.replace(tuned.record, **rules)
        found += (tuned, "record", record), (train, "gradients", gradients)
        return [*found, (optim.AdamW, "step", adamw)]

    def timed(self, row: str, function: Callable, pair: Pair | None = None) -> Callable:
        """The function, which adds to its row; pair: the one that it belongs to."""

        def run(*given, **named):
            outside = self.inside
            inside = self.inside = [0.0, 0]
            start = now()
            answer = function(*given, **named)
            seconds = now() - start
            outside[0] += seconds
            outside[1] += 1
            self.inside = outside
            self.log.append((row, seconds, inside))
            if pair and not self.steps[True]:
                self.calls.setdefault(row, []).append(cost(row, pair, given, named, answer))
                had = storages(arrays_in([*given, *named.values()]))
                new = storages(arrays_in([answer])).items()
                self.made += [nbytes for place, nbytes in new if place not in had]
            return answer

        return run

    def step(self, run) -> None:
        """After a step: the next one is measured, or is not."""
        seconds = run.history.seconds[-1]
        self.log.append(("rest of the step", seconds, self.inside))
        rows: dict[str, Any] = {}
        for row, taken, (inner, timers) in self.log:
            rows[row] = rows.get(row, 0) + np.array([taken - inner, 1, timers])
        self.steps[self.on].append((seconds, rows))
        self.log, self.inside = [], [0.0, 0]
        self.on, self.others = not self.on, swap(self.others)

    def stop(self) -> None:
        """Put back what is replaced."""
        if self.on:
            self.on, self.others = False, swap(self.others)

    def rows_of_a_step(self) -> dict[str, float]:
        """Row -> its seconds in a step."""
        cost, kept = self._of_a_timer(), _fastest(self.steps[True])
        names = {row for _, rows in kept for row in rows}
        means = {row: sum(rows.get(row, 0) for _, rows in kept) / len(kept) for row in names}
        return {row: float(mean @ cost) for row, mean in means.items()}

    def _of_a_timer(self) -> list[float]:
        """Seconds of a row's own, from [seconds, calls, timers inside]: factors of these."""
        timed, n = self.timed("", max), 1000
        bare = min(repeat(lambda: max(1, 2, 3), number=n)) / n
        whole = min(repeat(lambda: timed(1, 2, 3), number=n)) / n
        within = statistics.median(seconds for _, seconds, _ in self.log)
        return [1, bare - within, within - whole]  # a call's own timer; those that it calls


def swap(places: list[Place]) -> list[Place]:
    """Put these values in their places; returns what was there."""
    before = [(where, name, getattr(where, name)) for where, name, _ in places]
    for where, name, value in places:
        setattr(where, name, value)
    return before


def _fastest(steps: list) -> list:
    """The fastest quarter, without the first step."""
    others = sorted(steps[1:], key=lambda step: step[0])
    return others[: -(-len(others) // 4)]


def figure(record: dict) -> Any:
    """A bar for each row, and on it what the roofline allows."""
    rows = record["rows"]
    with plots.style():
        canvas = plots.canvas(10, 1.6 + 0.32 * len(rows))
        axes = canvas.subplots()
        names = [row["row"] for row in rows]
        axes.barh(names, [1e3 * row["seconds"] for row in rows], color="#56B4E9", label="measured")
        allowed = [1e3 * (row.get("allowed", 0)) for row in rows]
        axes.barh(names, allowed, 0.4, color=plots.INK, label="what the roofline allows")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms of a step")
        axes.set_title("{technique} on {base}, {batch:,} rows".format(**record))
        axes.legend(loc="lower right")
    return canvas
