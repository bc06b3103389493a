"""One run of a comparison: its words, its batches, the training, the scores; plain data."""

import dataclasses
import functools
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ..bench import machine
from ..formats.models import load_model
from ..llama.model import Llama, init_params
from ..memory import measure
from ..text import nouns, tasks
from ..tuning.adapters import Tuned
from ..tuning.storage import save_adapter
from ..tuning.train import History, train
from .settings import SCRATCH, Settings

EXAMPLES = 20  # held-out words whose answers are kept


def the_model(base: str) -> Llama:
    """A base, read once a process as long as its file is the same: no run writes into it."""
    file = Path(base) / "model.safetensors"
    return _read(base, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=1)
def _read(base, changed):
    return load_model(base)


def lab(task: str) -> Any:
    """The module that has a task's words and scores them."""
    return nouns if task == nouns.NAME else tasks


@dataclasses.dataclass(frozen=True)
class Words:
    """A task's words as a comparison uses them: lists of (prompt, right answers)."""

    train: list
    validation: list
    test: list


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
    if not every:
        return tuned, fit(tuned, batches, settings, lr)
    held_out = tasks.all_once(words.validation, model.tokenizer)
    watched = {"evaluate": lambda t: mean_loss(t, held_out), "evaluate_every": every}
    return tuned, fit(tuned, batches, settings, lr, **watched)


def fit(tuned: Tuned, batches, settings: Settings, lr: float, **others) -> History:
    """Train as the settings say; others: what `train` takes, beside that or in its place."""
    names = ("steps", "schedule", "warmup", "betas", "weight_decay", "clip")
    usual = {name: getattr(settings, name) for name in names}
    return train(tuned, batches, **{**usual, "lr": lr, "progress": False, **others})


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


def took(start: float) -> dict[str, float | None]:
    """Seconds since the start, and the most bytes that the process ever held (where it is told)."""
    return {"seconds": time.perf_counter() - start, "resident_peak": machine.resident().get("peak")}


def seed_run(
    settings: Settings, name: str, lr: float, seed: int, folder: Path | None = None
) -> dict[str, Any]:
    """One seed of one row: trained, scored on all held-out words, counted; plain data.

    folder: where its adapter is kept.
    """
    model, words, start = the_model(settings.base), load_words(settings), time.perf_counter()
    every = max(1, settings.steps // settings.points)
    tuned, history = run(model, words, settings, name, lr, seed, every)
    score, answers = lab(settings.task).exact_match(tuned, words.test, return_answers=True)
    loss = mean_loss(tuned, tasks.all_once(words.test, model.tokenizer))
    found = {
        "score": score,
        "loss": loss,
        "answers": answers[:EXAMPLES],
        # the first steps of a process may compile kernels
        "seconds": history.seconds[len(history.seconds) // 5 :],
        "curve": curve(history),
        "took": took(start),  # training and scoring
    }
    if seed == 0:
        found["about"] = about(tuned, words, settings, name, lr, folder)
    return found


def about(tuned: Tuned, words: Words, settings: Settings, name, lr, folder=None) -> dict[str, Any]:
    """What is the same for all seeds of a row: its settings, its numbers, its bytes."""
    batches = make_batches(tuned.base, words.train, settings, 0)[: settings.steps]
    largest = max((ids.shape for ids, _ in batches), key=math.prod)
    return {
        "title": "From scratch" if name == SCRATCH else tuned.record.title,
        "trainable": sum(a.size for a in tuned.trainable.values()),
        "lr": lr,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "targets": tuned.targets,
        "options": tuned.options,
        "adapter_bytes": adapter_bytes(tuned, folder),
        "bytes": dict(measure(tuned, *largest)),
        "bytes_at": list(largest),
    }


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
