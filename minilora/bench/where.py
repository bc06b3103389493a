"""The ledger of time: where the milliseconds of a training step go.

A training alternates two measured and two unmeasured steps; only the second of each two counts. In
measured steps, timed functions replace those that the ops, the optimizer and the step rule call. A
row has the seconds of its own functions, without the rows that these call. Seconds are means over
the fastest tenth of the steps: on a shared machine, the slower steps waited for other programs, and
unlike medians, means add up. The extra time of a measured step is divided equally among its timers,
at most TIMER each. A quarter of a timer's time is subtracted from its row, and the rest from the
row that called it, because a timer does most of its work outside the seconds that it measures.
"""

import copy
import dataclasses
import gc
import statistics
from collections import defaultdict
from collections.abc import Callable
from time import perf_counter as now
from typing import Any

import numpy as np

from ..engine import Pair
from ..formats.models import load_model
from ..llama.model import Llama, init_params
from ..memory.saved import storages
from ..methods.base import RULES
from ..support import plots
from ..support.meta import arrays_in
from ..tuning import optim, train
from ..tuning.adapters import Tuned, attach
from ..tuning.callbacks import Callback
from . import cases, machine, turns
from .operations import cost

TIMER = 2e-6  # seconds
LENGTH = 64  # most tokens of a sequence; a size of the bench has its own number


def in_a_worker(settings: turns.Settings, **of: Any) -> dict[str, Any]:
    """`of_base` in its own process, with the number of threads in the settings."""
    with turns.together(turns.Side(turns.OURS, settings.threads)) as sides:
        seconds = settings.rounds * settings.seconds
        return sides[turns.OURS].ask(of_base, seconds=seconds, **of)


def of_base(base: str, case: str, rows: int, seconds: float, **how: Any) -> dict[str, Any]:
    """The ledger for a size of the bench, or for a base that `load_model` loads.

    case: see `cases.case`; how: further arguments of attach. rows: of the batch, rounded down to
    whole sequences.
    """
    size, known = cases.SIZES.get(base), cases.case(case)
    model = Llama(size.config, init_params(size.config)) if size else load_model(base)
    tuned = attach(model, known.method, **{**known.how, **how})
    length = min(rows, size.length if size else LENGTH, model.config.max_position_embeddings // 2)
    batch = cases.batch(cases.Size(model.config, rows // length, length + 1))  # the last: no target
    about = {"base": base, "technique": known.title, "batch": rows // length * length}
    limits = {"flops": machine.tile_flops(), "bandwidth": machine.read_bandwidth(tries=25)}
    return about | ledger(tuned, batch, seconds, limits)


def ledger(tuned: Tuned, batch: cases.Batch, seconds: float, peaks: dict) -> dict[str, Any]:
    """Where the time goes in a training of about `seconds`, which changes tuned's arrays.

    peaks: operations and bytes per second, see `machine.peaks`. "allowed": the seconds of the
    slower of the two, summed over calls; a row without an entry in OPERATIONS has none.
    """

    def steps(n, *told):
        how: dict[str, Any] = {"lr": cases.LR, "progress": False, "callbacks": told}
        return train.train(tuned, [batch], steps=n, **how).seconds

    pairs = turns.steps_for(seconds, 4 * min(steps(3)))  # two measured steps and two that are not
    watch = Watch(tuned)
    try:
        steps(4 * pairs, watch)
    finally:
        if watch.on:
            swap(watch.others)
    untraced, rows = watch.means()
    taken, made = sum(rows.values()), watch.made
    empty = turns.timed(lambda: [np.empty(n, np.uint8) for n in made], 0.05)["median"]
    return {
        "peaks": peaks,
        "step": {"untraced": untraced, "sum": taken, "steps": pairs},
        "rows": [
            {"row": row, "seconds": own, "share": own / taken, **_work(watch.calls[row], peaks)}
            for row, own in sorted(rows.items(), key=lambda item: -item[1])
        ],
        "allocation": {"arrays": len(made), "bytes": sum(made), "seconds": empty},
    }


def _work(calls, peaks) -> dict[str, Any]:
    """The operations and bytes of a row's calls, if known, and their time by the roofline."""
    work: dict[str, Any] = {"calls": len(calls)} if calls else {}
    if calls and None not in calls:
        work["flops"], work["bytes"] = map(sum, zip(*calls))
        if rate := peaks["flops"]:
            work["allowed"] = sum(max(f / rate, b / peaks["bandwidth"]) for f, b in calls)
    return work


class Watch(Callback):
    """Measures two of every four training steps. In the first one it also records the work."""

    def __init__(self, tuned: Tuned):
        # is it measured? -> each step: its seconds, and of each row [seconds, calls, timers inside]
        self.steps: dict[bool, list[tuple[float, dict]]] = {True: [], False: []}
        self.calls = defaultdict[str, list](list)  # row -> the cost of each call
        self.made: list[int] = []  # bytes of each array that a pair allocated
        self.log: list[tuple] = []  # of this step, each timed call: row, seconds, what was inside
        self.inside = [0.0, 0]  # of the function that runs: seconds and number of timed calls in it
        rules = {name: rule for name in RULES if (rule := getattr(tuned.record, name))}
        rules = {name: self.timed(f"step rule: {name}", rule) for name, rule in rules.items()}
        pairs = [p for p in gc.get_objects() if issubclass(type(p), Pair) and p.fast]  # have run
        self.on, self.noting = False, True
        self.others: list[tuple[Any, str, Any]] = [  # what is replaced: object, attribute, value
            *((pair, "fast", self._timed_pair(pair)) for pair in pairs),
            (tuned, "record", dataclasses.replace(tuned.record, **rules)),
            (train, "gradients", self.timed("Python between ops", train.gradients)),
            (optim.AdamW, "step", self.timed("Python of AdamW", optim.AdamW.step)),
        ]

    def _timed_pair(self, pair) -> Pair:
        fast = copy.copy(pair.fast)
        for part in ("forward", "backward", "value"):
            if function := getattr(fast, part):
                row = f"{pair.name} {part}" if pair.forward else pair.__name__
                setattr(fast, part, self.timed(row, function, pair))
        return fast

    def timed(self, row: str, function: Callable, pair: Any = None) -> Callable:
        """The function with a timer, which adds to the log; pair: the pair that it belongs to."""

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
            if pair and self.noting:
                self.calls[row].append(cost(row, pair, given, named, answer))
                had = storages(arrays_in([*given, *named.values()]))
                new = storages(arrays_in([answer])).items()
                self.made += [nbytes for place, nbytes in new if place not in had]
            return answer

        return run

    def step(self, run) -> None:
        """After a step: its times count if the step before was of the same kind."""
        seconds, rows = run.history.seconds[-1], defaultdict[str, Any](lambda: np.zeros(3))
        for row, taken, (inner, timers) in self.log:
            rows[row] += taken - inner, 1, timers
        rows["rest of the step"] += seconds - self.inside[0], 0, self.inside[1]
        self.log, self.inside, self.noting = [], [0.0, 0], self.noting and not self.on
        if run.step % 2 == 0:
            self.steps[self.on].append((seconds, rows))
            self.on, self.others = not self.on, swap(self.others)

    def means(self) -> tuple[float, dict[str, float]]:
        """Seconds of an untraced step; row -> its seconds in a step."""
        untraced, measured = (_fastest(self.steps[on]) for on in (False, True))
        plain, whole = (statistics.mean(s for s, _ in steps) for steps in (untraced, measured))
        rows = {
            row: sum(rows[row] for _, rows in measured) / len(measured) for row in measured[0][1]
        }
        each = (whole - plain) / sum(timers for *_, timers in rows.values())
        each = min(max(each, 0), TIMER) / 4
        return plain, {
            row: float(s - each * (n + 3 * inner)) for row, (s, n, inner) in rows.items()
        }


def _fastest(steps: list) -> list:
    """The fastest tenth."""
    return sorted(steps, key=lambda step: step[0])[: -(-len(steps) // 10)]


def swap(places: list[tuple[Any, str, Any]]) -> list[tuple[Any, str, Any]]:
    """Set each object's attribute to the value; returns the old values."""
    before = [(where, name, getattr(where, name)) for where, name, _ in places]
    for where, name, value in places:
        setattr(where, name, value)
    return before


def figure(record: dict) -> Any:
    """A bar for each row's time, and in it a bar for its time by the roofline."""
    names = [row["row"] for row in record["rows"]]
    bars = ("measured", "seconds", 0.8, "#56B4E9"), ("roofline", "allowed", 0.4, plots.INK)
    with plots.style():
        canvas = plots.canvas(10, 1.6 + 0.32 * len(names))
        axes = canvas.subplots()
        for label, what, height, color in bars:
            ms = [1e3 * row.get(what, 0) for row in record["rows"]]
            axes.barh(names, ms, height, color=color, label=label)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms of a step")
        axes.set_title("{technique} on {base}, {batch:,} rows".format(**record))
        axes.legend(loc="lower right")
    return canvas
