"""The comparison: every technique on the same words, the same batches and the same budget."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from ..llama.model import Llama
from ..methods import own
from ..support.values import number, whole
from ..text import nouns, tasks
from ..tuning.checkpoints import fingerprint
from . import rates
from .runs import EXAMPLES, exact_match_of, load_words, seed_run, the_model, time_and_peak
from .settings import SCRATCH, Settings
from .statistics import estimate
from .workers import cores, each

SMALL = 64 << 20  # bytes: the runs of a model with smaller arrays go side by side


def rows(settings: Settings) -> tuple[str, ...]:
    """What is trained: the methods, and the same model from scratch."""
    return (*settings.methods, SCRATCH) if settings.scratch else settings.methods


def compare(
    settings: Settings,
    lr: Mapping[str, float] | None = None,
    out: str | Path | None = None,
    report: Callable[[str, dict], None] = lambda name, record: None,
    ready: Callable[[], None] = lambda: None,
    record: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Run a comparison; returns the contents of results.json.

    lr: method -> learning rate ("scratch" too), in place of the one that `tune` chose. out: folder
    for the adapters of the first seed. report(name, record): called when a row is done; ready():
    called before the first run, when all settings are checked; keep(results): called with the
    results so far when a row is done. record: the record of `tune` (see `rates.read`); None: the
    committed one. jobs: how many runs side by side, each on one thread; 1: one after the other on
    all threads; None: one per core for a small model, 1 for a large one.
    Raises ValueError if a method has no rate or cannot be run.
    """
    lr, record = dict(lr or {}), record or rates.read()
    chosen = _chosen_rates(settings, lr, record)
    model = the_model(settings.base)
    words, crc32 = load_words(settings), fingerprint(model)
    for name in settings.methods:  # raises now if a method does not take a setting
        settings.attach(model, name, 0)
    jobs = _side_by_side(jobs, model, settings)
    ready()
    start = time.perf_counter()
    scores = references(model, words, settings)
    numbers = sum(math.prod(a.shape) for a in model.params.values())
    differences = rates.differences(settings, crc32, record)
    sizes = {f"{part}_size": len(getattr(words, part)) for part in ("train", "validation", "test")}
    results: dict[str, Any] = {
        "base": {"name": settings.base, "parameters": numbers, "crc32": crc32},
        "rates": {"given": sorted(lr), "differences": differences},
        "task": settings.task,
        "settings": {**dataclasses.asdict(settings), **sizes},
        "references": scores,
        "methods": {},
        "took": {"base": time_and_peak(start), "jobs": jobs},
    }
    examples = [{"prompt": p, "right": list(right)} for p, right in words.test[:EXAMPLES]]
    results["examples"] = [{**example, "answers": {}} for example in examples]
    for name, row in _rows_as_they_end(settings, chosen, out, jobs):
        for example, answer in zip(results["examples"], row.pop("answers")):
            example["answers"][name] = answer
        if name == SCRATCH:
            results["references"][SCRATCH] = row["exact_match"]
            results[SCRATCH] = row
        else:
            results["methods"][name] = row
        results["took"] |= time_and_peak(start)
        report(name, row)
        keep(results)
    results["took"] |= time_and_peak(start)
    return results


def _side_by_side(jobs: int | None, model: Llama, settings: Settings) -> int:
    """How many runs at a time.

    A small model: one per core, because one run cannot use all cores well. A large one: one after
    the other, because each run has its own arrays in memory.
    """
    runs = len(rows(settings)) * settings.seeds
    if jobs is not None:
        return min(whole("compare: jobs", jobs, 1), runs)
    small = sum(a.nbytes for a in model.params.values()) < SMALL
    return min(cores(), runs) if small else 1


def _chosen_rates(settings, lr, record) -> dict[str, float]:
    """The rate of each row, given or on record. Raises ValueError for a missing or wrong rate."""
    names = rows(settings)
    if foreign := [name for name in lr if name not in names]:
        raise ValueError(f"compare: a rate for {foreign[0]}, which is not run: {', '.join(names)}")
    for name, rate in lr.items():
        number(f"compare: the rate of {name}", rate, above=0)
    on_record = rates.chosen_for(settings.task, record)
    chosen = {name: row["lr"] for name, row in on_record.items()} | lr
    if missing := [name for name in names if name not in chosen]:
        swept = ",".join(own.spelled(name) for name in missing if name != SCRATCH)
        raise ValueError(
            f"compare: no learning rate for {', '.join(missing)}; give --lr {missing[0]}=RATE, or "
            f"run minilora tune --task {settings.task}{f' --methods {swept}' if swept else ''} and "
            "give its record as --rates"
        )
    return chosen


def references(model: Llama, words: tasks.TaskData, settings: Settings) -> dict[str, float]:
    """Exact match of the untrained base and of the task's rules on all held-out words."""
    scores = {"base": exact_match_of(settings.task)(model, words.test)}
    if settings.task == nouns.NAME:
        return scores | {"untrained_base_best_of_ten": nouns.best_of_ten(model, words.test)}
    for name in tasks.TASKS[settings.task].rules:
        scores[name] = tasks.score_rule(tasks.RULES[name], words.test)
    return scores


def _rows_as_they_end(settings, chosen, out, jobs) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, record) of each row, in the order of the rows, as soon as all its seeds are done."""
    names, seeds = rows(settings), range(settings.seeds)
    folders = {name: Path(out) / "adapters" / name for name in settings.methods} if out else {}
    calls = [
        (settings, name, chosen[name], seed, folders.get(name) if seed == 0 else None)
        for name in names
        for seed in seeds
    ]
    done: dict[int, dict[str, Any]] = {}
    ended = 0  # rows
    # runs side by side show no bars: these would overwrite each other
    here = ((i, seed_run(*call, progress=None)) for i, call in enumerate(calls))
    with contextlib.closing(here if jobs == 1 else each(seed_run, calls, jobs)) as outcomes:
        for place, result in outcomes:
            done[place] = result
            while ended < len(names):
                places = [ended * len(seeds) + seed for seed in seeds]
                if not all(place in done for place in places):
                    break
                yield names[ended], together([done[place] for place in places])
                ended += 1


def together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row's record from the results of its seeds; the answers are those of the first seed."""
    scores = [run["score"] for run in runs]
    peaks = [run["took"]["resident_peak"] for run in runs if run["took"]["resident_peak"]]
    match = estimate(scores)
    seconds = [s for run in runs for s in run["seconds"]]
    return {
        **runs[0]["about"],
        "exact_match": match.mean,
        "exact_match_sd": match.sd,
        "seeds": scores,
        "loss": fmean(run["loss"] for run in runs),
        "ms_per_step": 1e3 * median(seconds),
        "ms_per_step_quartiles": [1e3 * float(q) for q in np.quantile(seconds, (0.25, 0.75))],
        "took": {
            "seconds": sum(run["took"]["seconds"] for run in runs),
            "resident_peak": max(peaks, default=None),
        },
        "curve": mean_curve([run["curve"] for run in runs]),
        "answers": runs[0]["answers"],
    }


def mean_curve(curves) -> list[list[float]]:
    """[step, training loss since the point before, validation loss], mean over the runs."""
    return [
        [points[0][0], *(fmean(values) for values in zip(*(point[1:] for point in points)))]
        for points in zip(*curves)
    ]
