"""The main job: every technique on the same words, the same batches, the same budget;
who learned what, at what cost.
"""

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import nouns, tasks
from ..adapters import Tuned
from ..bench import machine
from ..checkpoints import fingerprint
from ..formats.models import load_model
from ..formats.peft import save_adapter
from ..memory import measure
from ..model import Llama, init_params
from ..train import History, train
from ..values import number
from . import rates
from .settings import SCRATCH, STARTS, Settings

__all__ = ["SCRATCH", "STARTS", "Settings", "compare", "run"]


def lab(task: str) -> Any:
    """The module that has a task's words and scores them."""
    return nouns if task == nouns.NAME else tasks


@dataclasses.dataclass(frozen=True)
class Words:
    """A task's words as a comparison uses them: lists of (prompt, right answers)."""

    train: list
    validation: list
    test: list


def rows(settings: Settings) -> tuple[str, ...]:
    """What is trained: the methods, and the same model from scratch."""
    return (*settings.methods, SCRATCH) if settings.scratch else settings.methods


def load_words(settings: Settings) -> Words:
    """Train: the first words; validation: the next, trained on by nobody;
    test: all held-out words.
    """
    task = nouns.load() if settings.task == nouns.NAME else settings.task
    return Words(*tasks.select(task, settings.train_size))


def new_base(model: Llama, seed: int) -> Llama:
    """The same shape, untrained: for training from scratch."""
    return Llama(model.config, init_params(model.config, seed), model.tokenizer)


def run(
    model: Llama,
    words: Words,
    settings: Settings,
    name: str,
    lr: float,
    seed: int,
    every: int | None = None,
    **options,
):
    """One training run of a method (or from scratch)  ->  (tuned, history).

    every: also the mean loss over the validation words each so many steps. options: alpha, and the
    method's own.
    """
    batches = make_batches(model, words.train, settings, seed)
    if name == SCRATCH:
        tuned = settings.attach(new_base(model, seed), "full", seed)
    else:
        tuned = settings.attach(model, name, seed, **options)
    return tuned, fit(tuned, batches, words, settings, lr, every)


def fit(tuned: Tuned, batches, words: Words, settings: Settings, lr: float, every=None) -> History:
    """Train as the settings say, on these batches."""
    held_out = tasks.all_once(words.validation, tuned.tokenizer) if every else []
    return train(
        tuned,
        batches,
        steps=settings.steps,
        lr=lr,
        schedule=settings.schedule,
        warmup=settings.warmup,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        evaluate=(lambda t: mean_loss(t, held_out)) if every else None,
        evaluate_every=every,
        progress=False,
    )


def make_batches(model, pairs, settings, seed):
    """Enough epochs for all steps: the same for every method of a seed."""
    s = settings
    return tasks.enough_batches(s.steps, pairs, model.tokenizer, s.batch_size, seed, s.by_length)


def mean_loss(tuned: Tuned, batches) -> float:
    """Mean cross-entropy over the targets that count, without dropout."""
    counts = [int((targets >= 0).sum()) for _, targets in batches]
    total = sum(
        float(tuned.loss(*batch).data) * n for batch, n in zip(batches, counts, strict=True)
    )
    return total / sum(counts)


def compare(
    settings: Settings,
    lr: Mapping[str, float] | None = None,
    out: str | Path | None = None,
    report: Callable[[str, dict], None] = lambda name, record: None,
    ready: Callable[[], None] = lambda: None,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run everything; returns the results of results.json. `report(name, record)` is called as each
    row is done, `ready()` once everything is checked, before the first.

    lr: method -> learning rate ("scratch" too), in place of what `tune` chose. out: a folder for
    the adapters of the first seed. record: of `tune` (see `rates.read`); the committed one where
    None. Raises ValueError where a method has no rate, or cannot be run.
    """
    lr, record = dict(lr or {}), record or rates.read()
    chosen = _chosen(settings, lr, record)
    model = load_model(settings.base)
    words, crc32 = load_words(settings), fingerprint(model)
    for name in settings.methods:  # says now what a method does not take
        settings.attach(model, name, 0)
    all_words = tasks.all_once(words.test, model.tokenizer)
    ready()
    start = time.perf_counter()
    scores = references(model, words, settings)
    results: dict[str, Any] = {
        "base": {
            "name": settings.base,
            "parameters": sum(a.size for a in model.params.values()),
            "crc32": crc32,
        },
        "rates": {
            "given": sorted(lr),
            "differences": rates.differences(settings, crc32, record),
        },
        "task": settings.task,
        "settings": {
            **dataclasses.asdict(settings),
            "train_size": len(words.train),
            "validation_size": len(words.validation),
            "test_size": len(words.test),
        },
        "references": scores,
        "methods": {},
        "took": {"base": took(start)},
    }
    examples = words.test[:20]
    results["examples"] = [
        {"prompt": p, "right": list(right), "answers": {}} for p, right in examples
    ]
    for name in rows(settings):
        folder = Path(out) / "adapters" / name if out and name != SCRATCH else None
        found, answers = row(model, words, all_words, settings, name, chosen[name], folder)
        for example, answer in zip(results["examples"], answers):
            example["answers"][name] = answer
        if name == SCRATCH:
            results["references"][SCRATCH] = found["exact_match"]
            results[SCRATCH] = found
        else:
            results["methods"][name] = found
        report(name, found)
    results["took"] |= took(start)
    return results


def took(start: float) -> dict[str, float | None]:
    """Seconds since the start, and the most bytes that the process ever held (where it is told)."""
    return {"seconds": time.perf_counter() - start, "resident_peak": machine.resident().get("peak")}


def _chosen(settings, lr, record) -> dict[str, float]:
    """The rate of each row, given or on record; raises ValueError where one is missing or out of
    place.
    """
    names = rows(settings)
    if foreign := [name for name in lr if name not in names]:
        raise ValueError(f"compare: a rate for {foreign[0]}, which is not run: {', '.join(names)}")
    for name, rate in lr.items():
        number(f"compare: the rate of {name}", rate, above=0)
    chosen = {name: c["lr"] for name, c in rates.chosen_for(settings.task, record).items()} | lr
    if missing := [name for name in names if name not in chosen]:
        raise ValueError(
            f"compare: no learning rate for {', '.join(missing)}; give --lr {missing[0]}=RATE, or "
            "choose one by minilora tune and give its record as --rates"
        )
    return chosen


def references(model: Llama, words: Words, settings: Settings) -> dict[str, float]:
    """Exact match of the untrained base and of the rules that the task has, over all held-out
    words.
    """
    scores = {"base": lab(settings.task).exact_match(model, words.test)}
    if settings.task == nouns.NAME:
        return scores | {"untrained_base_best_of_ten": nouns.best_of_ten(model, words.test)}
    for name in tasks.TASKS[settings.task].rules:
        scores[name] = tasks.score_rule(tasks.RULES[name], words.test)
    return scores


def row(
    model, words, all_words, settings, name, lr, folder=None
) -> tuple[dict[str, Any], list[str]]:
    """All seeds of one method: its record, and the first seed's answers to the held-out words."""
    runs, start = [], time.perf_counter()
    for seed in range(settings.seeds):
        tuned, history = run(
            model, words, settings, name, lr, seed, max(1, settings.steps // settings.points)
        )
        score, answers = lab(settings.task).exact_match(tuned, words.test, return_answers=True)
        runs.append((tuned, history, score, mean_loss(tuned, all_words), answers))
    cost = took(start)
    tuned, _, _, _, answers = runs[0]
    scores = [score for _, _, score, _, _ in runs]
    # the first steps of a process may compile kernels
    seconds = [s for _, h, _, _, _ in runs for s in h.seconds[len(h.seconds) // 5 :]]
    batches = make_batches(model, words.train, settings, 0)[: settings.steps]
    largest = max((ids.shape for ids, _ in batches), key=math.prod)
    record = {
        "title": "From scratch" if name == SCRATCH else tuned.record.title,
        "trainable": sum(a.size for a in tuned.trainable.values()),
        "exact_match": statistics.fmean(scores),
        "exact_match_sd": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "seeds": scores,
        "loss": statistics.fmean(loss for _, _, _, loss, _ in runs),
        "lr": lr,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "targets": tuned.targets,
        "options": tuned.options,
        "adapter_bytes": adapter_bytes(tuned, folder),
        "bytes": dict(measure(tuned, *largest)),
        "bytes_at": list(largest),
        "ms_per_step": 1e3 * statistics.median(seconds),
        "took": cost,  # training and scoring of all seeds
        "curve": mean_curve([history for _, history, _, _, _ in runs]),
    }
    return record, answers


def mean_curve(histories) -> list[list[float]]:
    """[step, training loss since the point before, validation loss], mean over the runs."""
    curves = [curve(history) for history in histories]
    return [
        [points[0][0], *(statistics.fmean(values) for values in zip(*(p[1:] for p in points)))]
        for points in zip(*curves)
    ]


def curve(history) -> list[tuple[int, float, float]]:
    """(step, mean training loss since the point before, validation loss) at each evaluation."""
    points, last = [], 0
    for step, value in history.evaluations:
        points.append((step, statistics.fmean(history.losses[last:step]), value))
        last = step
    return points


def adapter_bytes(tuned: Tuned, folder: Path | None) -> int:
    """Bytes of the adapter's array file; without what a key regenerates.

    Kept where a folder is given.
    """
    if folder:
        return save_adapter(tuned, folder, save_projection=False)
    with tempfile.TemporaryDirectory() as scrap:
        return save_adapter(tuned, scrap, save_projection=False)
