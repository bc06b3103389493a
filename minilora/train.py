"""One training loop: batch, loss, backward, clip, the method's gradient rule, AdamW, the method's
step rule.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import optim
from .adapters import Tuned
from .engine import backward
from .files import nearest
from .formats.safetensors import read_arrays, write_arrays
from .generation import check_ids
from .kernels.numpy_ref import IGNORED

Batch = tuple[np.ndarray, np.ndarray]


class Diverged(ValueError):
    """The loss or a gradient is no finite number any more;
    the arrays are as they were before that step.
    """


@dataclass
class History:
    """What happened, as plain data."""

    losses: list[float] = field(default_factory=list)  # a step: the mean over its targets
    rates: list[float] = field(default_factory=list)  # a step: the learning rate
    seconds: list[float] = field(default_factory=list)  # a step: wall time, without evaluation
    evaluations: list[tuple[int, Any]] = field(
        default_factory=list
    )  # (step, what `evaluate` returned)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train(
    tuned: Tuned,
    batches: Iterable[Batch],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    schedule: str = "constant",
    warmup: int = 0,
    clip: float | None = None,
    accumulate: int = 1,
    evaluate: Callable[[Tuned], Any] | None = None,
    evaluate_every: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> History:
    """Move tuned's trainable arrays by `steps` AdamW steps.

    batches: (ids, targets) int arrays (N, T) each, targets shifted, -100 where they do not count; a
    list is cycled. The loss of a step is the mean over all targets of its `accumulate` batches.
    Rates, clipping, decay: see `optim`.
    evaluate: called every `evaluate_every` steps and after the last. checkpoint: a file written
    every `checkpoint_every` steps and after the last; resume=True goes on from it, to the same
    bits. progress: a bar (None: only on a terminal). Raises Diverged, naming the step and the first
    bad array; ValueError for settings out of range.
    """
    if not isinstance(tuned, Tuned):
        raise TypeError(f"train: got a {type(tuned).__name__}, wanted what attach returns")
    _check(steps, lr, weight_decay, betas, eps, schedule, warmup, clip, accumulate)
    _check_every(evaluate_every=evaluate_every, checkpoint_every=checkpoint_every)
    lr, weight_decay = (
        float(lr),
        float(weight_decay),
    )  # a np.float64 would make float64 of float32 arrays
    record, options = tuned.record, tuned.options
    slots, trainable = tuned.slots(), tuned.trainable
    ratios = record.lr_scale(options) if record.lr_scale else {}
    adam = optim.AdamW(
        trainable,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        scale={s.key: ratios[s.argument] for s in slots if s.argument in ratios},
    )
    history = History()
    if resume:
        if checkpoint is None:
            raise ValueError("train: resume=True wants the checkpoint's path")
        history = load_checkpoint(checkpoint, tuned, adam)
    stream = itertools.islice(_cycle(batches), adam.steps * accumulate, None)
    bar = tqdm(
        total=steps,
        initial=adam.steps,
        desc=record.title,
        disable=None if progress is None else not progress,
        leave=False,
    )
    with bar:
        for step in range(adam.steps + 1, steps + 1):
            start = time.perf_counter()
            rate = optim.learning_rate(step, lr=lr, steps=steps, schedule=schedule, warmup=warmup)
            parts = list(itertools.islice(stream, accumulate))
            if len(parts) < accumulate:
                raise ValueError(
                    f"train: step {step}: the batches ran out, got {len(parts)} of {accumulate}"
                )
            loss, grads = gradients(tuned, parts, step)
            _check_finite(tuned, loss, grads, step)
            if clip is not None:
                grads = optim.clip(grads, clip)
            _apply_grad_rule(tuned, slots, grads)
            kept = (
                {n: record.before_step(a) for n, a in tuned.layers.items()}
                if record.before_step
                else {}
            )
            adam.step(grads, rate)
            if record.after_step:
                for name, arrays in tuned.layers.items():
                    record.after_step(arrays, kept.get(name), step, options)
            history.losses.append(loss)
            history.rates.append(rate)
            history.seconds.append(time.perf_counter() - start)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            due = step == steps or bool(checkpoint_every and step % checkpoint_every == 0)
            if due:
                _check_arrays(tuned, step)
            if evaluate and (step == steps or (evaluate_every and step % evaluate_every == 0)):
                history.evaluations.append((step, evaluate(tuned)))
            if checkpoint and due:
                save_checkpoint(checkpoint, tuned, adam, history)
    return history


def gradients(
    tuned: Tuned, micro_batches: list[Batch], step: int = 1
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss over all targets of the micro-batches together, and its gradient by key.

    step: numbers the dropout masks, key = (seed, step, micro-batch, adapter). The arrays returned
    belong to the caller.
    """
    micro_batches = [_check_batch(batch, tuned.config.vocab_size) for batch in micro_batches]
    count = sum(int((targets != IGNORED).sum()) for _, targets in micro_batches)
    if count == 0:
        raise ValueError(f"train: step {step}: no target counts, all are {IGNORED}")
    total, grads = 0.0, dict[str, np.ndarray]()
    for j, (ids, targets) in enumerate(micro_batches):
        leaves = tuned.leaves()
        loss = tuned.loss(ids, targets, count, leaves, key=(tuned.seed, step, j))
        backward(loss)
        total += float(loss.data)
        for key, leaf in leaves.items():
            grad = (
                np.zeros_like(leaf.data) if leaf.grad is None else np.asarray(leaf.grad, leaf.dtype)
            )
            grads[key] = grads[key] + grad if key in grads else grad
    return total, grads


def _apply_grad_rule(tuned, slots, grads):
    """The method's own rule, layer by layer, on copies: backward's arrays may stand elsewhere."""
    rule = tuned.record.grad_rule
    if not rule:
        return
    for name, arrays in tuned.layers.items():
        mine = {slot.argument: slot.key for slot in slots if slot.layer == name}
        copies = {argument: grads[key].copy() for argument, key in mine.items()}
        rule(arrays, copies, tuned.options)
        for argument, key in mine.items():
            grads[key] = copies[argument]


def _cycle(batches: Iterable[Batch]) -> Iterator[Batch]:
    if isinstance(batches, list | tuple):
        if not batches:
            raise ValueError("train: got no batches, wanted at least one")
        return itertools.cycle(batches)
    if not isinstance(batches, Iterable):
        raise ValueError(
            f"train: batches is a {type(batches).__name__}, wanted a list or an iterable of "
            "(ids, targets)"
        )
    return iter(batches)


def _check_batch(batch, vocab_size: int) -> Batch:
    """ids and targets as arrays; raises ValueError unless they are (N, T) each and within the
    vocabulary.
    """
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ValueError(
            f"train: got a batch of {type(batch).__name__}, wanted a pair (ids, targets)"
        )
    ids, targets = check_ids(batch[0], vocab_size), np.asarray(batch[1])
    if targets.shape != ids.shape or targets.dtype.kind not in "iu":
        raise ValueError(
            f"train: targets have shape {targets.shape} of {targets.dtype}, wanted {ids.shape} "
            "whole numbers as the ids"
        )
    bad = (targets != IGNORED) & ((targets < 0) | (targets >= vocab_size))
    if bad.any():
        raise ValueError(
            f"train: a target is {targets[bad][0]}, wanted 0 … {vocab_size - 1} or {IGNORED}"
        )
    return ids, targets


def _whole(v, least: int) -> bool:
    return isinstance(v, int | np.integer) and not isinstance(v, bool) and bool(v >= least)


def _check_every(**settings):
    for name, every in settings.items():
        if not (every is None or _whole(every, 1)):
            raise ValueError(
                f"train: {name} is {every!r}, wanted None or a whole number of at least 1"
            )


def _check(steps, lr, weight_decay, betas, eps, schedule, warmup, clip, accumulate):
    """Raises ValueError for settings out of range."""

    def number(v):
        return (
            isinstance(v, int | float | np.number) and not isinstance(v, bool) and math.isfinite(v)
        )

    wanted = {
        "steps": (steps, _whole(steps, 1), "a whole number of at least 1"),
        "lr": (lr, number(lr) and lr >= 0, "a finite number of at least 0"),
        "weight_decay": (
            weight_decay,
            number(weight_decay) and weight_decay >= 0,
            "a finite number of at least 0",
        ),
        "betas": (
            betas,
            isinstance(betas, tuple | list)
            and len(betas) == 2
            and all(number(b) and 0 <= b < 1 for b in betas),
            "two numbers in [0, 1)",
        ),
        "eps": (eps, number(eps) and eps > 0, "a finite number above 0"),
        "warmup": (warmup, _whole(warmup, 0), "a whole number of at least 0"),
        "clip": (
            clip,
            clip is None or (number(clip) and clip > 0),
            "None or a finite number above 0",
        ),
        "accumulate": (accumulate, _whole(accumulate, 1), "a whole number of at least 1"),
    }
    for name, (got, good, want) in wanted.items():
        if not good:
            raise ValueError(f"train: {name} is {got!r}, wanted {want}")
    if schedule not in optim.SCHEDULES:
        raise nearest("schedule", str(schedule), optim.SCHEDULES)


def _check_finite(tuned, loss, grads, step):
    """Raises Diverged with the first array that went bad, in the order in which they are
    computed.
    """
    bad = [key for key, g in grads.items() if not np.isfinite(g).all()]
    if math.isfinite(loss) and not bad:
        return
    weights = {**tuned.base.params, **tuned.arrays}
    first = next(
        (f"the array {key}" for key, a in weights.items() if not np.isfinite(a).all()), None
    )
    if first is None and bad and math.isfinite(loss):
        first = f"the gradient of {bad[-1]}"  # backward reaches the last layer first
    raise Diverged(
        f"train: step {step}: the loss is {loss}; "
        f"the first that is not finite: {first or 'an activation'}"
    )


def _check_arrays(tuned, step):
    """Raises Diverged where the step itself overflowed an array:
    before it is written to a checkpoint or handed back.
    """
    for key, a in tuned.arrays.items():
        if not np.isfinite(a).all():
            raise Diverged(
                f"train: step {step}: the array {key} is not finite after it; the rate is too high"
            )


def save_checkpoint(path: str | Path, tuned: Tuned, adam: optim.AdamW, history: History) -> None:
    """Everything that the next step depends on, in one safetensors file that replaces the old one
    at once.
    """
    arrays = {f"array.{key}": a for key, a in tuned.arrays.items()}
    arrays |= {f"m.{key}": a for key, a in adam.m.items()} | {
        f"v.{key}": a for key, a in adam.v.items()
    }
    about = {
        "method": tuned.method,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "seed": tuned.seed,
        "options": tuned.options,
        "steps": adam.steps,
        "history": history.to_dict(),
    }
    write_arrays(path, arrays, {"minilora_checkpoint": json.dumps(about)})


def load_checkpoint(path: str | Path, tuned: Tuned, adam: optim.AdamW) -> History:
    """Put a checkpoint's arrays and moments in place;
    raises ValueError where it is of another run.
    """
    arrays, about = read_arrays(path)
    if "minilora_checkpoint" not in about:
        raise ValueError(f"{path}: not a checkpoint of minilora")
    saved = json.loads(about["minilora_checkpoint"])
    for name in ("method", "rank", "alpha", "seed", "options"):
        mine = getattr(tuned, name)
        if saved[name] != mine:
            raise ValueError(f"{path}: {name} is {saved[name]!r}, this run has {mine!r}")
    for slot in tuned.slots():
        if (
            f"array.{slot.key}" not in arrays
            or arrays[f"array.{slot.key}"].shape != slot.array.shape
        ):
            raise ValueError(f"{path}: no array {slot.key} of shape {slot.array.shape}")
    foreign = {k.removeprefix("m.") for k in arrays if k.startswith("m.")} - adam.params.keys()
    if foreign:
        raise ValueError(f"{path}: its array {min(foreign)} has no place in this run")
    _restore(tuned, arrays)
    for name in adam.params:
        adam.m[name][:] = arrays[f"m.{name}"]
        adam.v[name][:] = arrays[f"v.{name}"]
    adam.steps = saved["steps"]
    past = saved["history"]
    return History(
        past["losses"],
        past["rates"],
        past["seconds"],
        [(n, value) for n, value in past["evaluations"]],
    )


def _restore(tuned, arrays):
    """Write saved arrays into tuned's own;
    what a step rule adds (Delta-LoRA's start factors) comes and goes with them.
    """
    live = tuned.arrays
    for key, array in live.items():
        if f"array.{key}" in arrays:
            array[:] = arrays[f"array.{key}"]
    for layer, arguments in tuned.layers.items():
        prefix = f"array.{tuned.key(layer, '')}"
        later = [
            n
            for n in arguments
            if (k := tuned.key(layer, n)) in live and f"array.{k}" not in arrays
        ]
        for name in later:
            del arguments[name]
        for key in [
            k for k in arrays if k.startswith(prefix) and k.removeprefix("array.") not in live
        ]:
            arguments[key.removeprefix(prefix)] = arrays[key]
