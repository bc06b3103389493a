"""One run of a comparison: its words, its batches, the training, the scores; plain data."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..formats.models import load_model
from ..llama.model import Llama, init_params
from ..llama.rows import last_targets
from ..memory import ledger, measure
from ..support import machine
from ..text import nouns, score, tasks
from ..text.batches import Batch, all_once, enough_batches
from ..tuning.adapters import Tuned
from ..tuning.storage import save_adapter
from ..tuning.train import History, train
from .settings import SCRATCH, Settings

EXAMPLES = 20  # held-out words whose answers are kept


def the_model(base: str) -> Llama:
    """A base. A process reads it again only if its file has changed; no run writes into it."""
    file = Path(base) / "model.safetensors"
    return _read(base, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=1)
def _read(base, changed):
    return load_model(base)


def exact_match_of(task: str) -> Callable[..., Any]:
    """The function that scores a model on a task's pairs."""
    return nouns.exact_match if task == nouns.NAME else score.exact_match


def load_words(settings: Settings) -> tasks.TaskData:
    """The first words to train on, the next to validate on, and all held-out words."""
    task = nouns.load() if settings.task == nouns.NAME else settings.task
    return tasks.select(task, settings.train_size)


def run(
    model: Llama,
    words: tasks.TaskData,
    settings: Settings,
    name: str,
    lr: float,
    seed: int,
    every: int | None = None,
    progress: bool | None = False,
    **options,
) -> tuple[Tuned, History]:
    """One training run of a method (or from scratch).

    every: steps between two evaluations of the mean loss over the first validation words, as many
    as are trained on; None: none.
    progress: a bar, see `train`. options: alpha, and the method's own.
    """
    batches = make_batches(model, words.train, settings, seed)
    if name == SCRATCH:
        untrained = Llama(model.config, init_params(model.config, seed), model.tokenizer)
        tuned = settings.attach(untrained, "full", seed)
    else:
        tuned = settings.attach(model, name, seed, **options)
    watched: dict[str, Any] = {"progress": progress}
    if every:
        validation = all_once(words.validation[: settings.train_size], model.tokenizer)
        watched |= {"evaluate": lambda t: mean_loss(t, validation), "evaluate_every": every}
    return tuned, fit(tuned, batches, settings, lr, **watched)


def fit(tuned: Tuned, batches, settings: Any, lr: float, **others) -> History:
    """Train with the settings or a recipe; others: arguments of `train`, in place of them."""
    names = ("steps", "schedule", "warmup", "betas", "weight_decay", "clip")
    usual = {name: getattr(settings, name) for name in names}
    return train(tuned, batches, **{**usual, "lr": lr, "progress": False, **others})


def make_batches(model, pairs, settings: Settings, seed: int) -> list[Batch]:
    """The batches of all steps, in the same order for every method of a seed."""
    s = settings
    return enough_batches(s.steps, pairs, model.tokenizer, s.batch_size, seed, s.by_length)


def mean_loss(tuned: Tuned, batches) -> float:
    """Mean cross-entropy over the targets that count, without dropout."""
    counts = [int((targets >= 0).sum()) for _, targets in batches]
    losses = [float(tuned.loss(*batch).data) for batch in batches]
    return sum(loss * n for loss, n in zip(losses, counts)) / sum(counts)


def time_and_peak(start: float) -> dict[str, float | None]:
    """Seconds since the start, and the most bytes that the process held; None if not known."""
    return {"seconds": time.perf_counter() - start, "resident_peak": machine.resident().get("peak")}


def seed_run(
    settings: Settings,
    name: str,
    lr: float,
    seed: int,
    folder: Path | None = None,
    progress: bool | None = False,
) -> dict[str, Any]:
    """Train one seed of one row and score it on all held-out words; returns plain data.

    folder: where its adapter is kept. progress: a bar, see `train`.
    """
    model, words, start = the_model(settings.base), load_words(settings), time.perf_counter()
    every = max(1, settings.steps // settings.points)
    tuned, history = run(model, words, settings, name, lr, seed, every, progress)
    judge = exact_match_of(settings.task)
    judged, answers = judge(tuned, words.test, return_answers=True)
    result = {
        "score": judged,
        "loss": mean_loss(tuned, all_once(words.test, model.tokenizer)),
        "answers": answers[:EXAMPLES],
        # the first steps of a process may compile kernels
        "seconds": history.seconds[len(history.seconds) // 5 :],
        "curve": curve(history),
        "took": time_and_peak(start),  # training and scoring
    }
    if seed == 0:
        result["about"] = about(tuned, words, settings, name, lr, folder)
    return result


def about(
    tuned: Tuned, words: tasks.TaskData, settings: Settings, name: str, lr: float, folder=None
) -> dict[str, Any]:
    """What is the same for all seeds of a row: its settings, its numbers, its bytes."""
    batch = largest_batch(make_batches(tuned.base, words.train, settings, 0)[: settings.steps])
    shape = batch[0].shape
    return {
        "title": "From scratch" if name == SCRATCH else tuned.record.title,
        "trainable": trainable_numbers(tuned),
        "lr": lr,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "targets": tuned.targets,
        "options": tuned.options,
        "adapter_bytes": adapter_bytes(tuned, folder),
        "bytes": dict(measure(tuned, batch=batch)),
        "bytes_at": [*shape, computed_rows(batch)],
        "rectangle_activations": ledger(tuned, *shape).activations,
    }


def largest_batch(batches: Sequence[Batch]) -> Batch:
    """The batch of which the most rows are computed."""
    return max(batches, key=computed_rows)


def computed_rows(batch: Batch) -> int:
    """How many rows of a batch can matter: each sequence up to its last counted target."""
    return int(last_targets(batch[1]).sum())


def trainable_numbers(tuned: Tuned) -> int:
    """How many numbers the optimizer moves."""
    return sum(array.size for array in tuned.trainable.values())


def curve(history: History) -> list[tuple[int, float, float]]:
    """(step, mean training loss since the point before, validation loss) at each evaluation."""
    points, last = [], 0
    for step, value in history.evaluations:
        points.append((step, fmean(history.losses[last:step]), value))
        last = step
    return points


def adapter_bytes(tuned: Tuned, folder: Path | None = None) -> int:
    """Bytes of the adapter's array file, without arrays that a key draws.

    folder: where the adapter is kept; None: it is not kept.
    """
    with contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        return save_adapter(tuned, place, save_projection=False)
