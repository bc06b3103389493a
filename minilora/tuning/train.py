"""The training loop. A step: batch, loss, backward, clipping, the technique's gradient rule, AdamW,
the technique's step rule.
"""

import contextlib
import itertools
import signal
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..engine import Node, backward
from ..fast import clock
from ..llama.generation import check_ids
from ..llama.model import check_targets
from ..ops.loss import IGNORED
from ..support.files import nearest
from ..support.values import number, whole
from . import checkpoints, optim
from .adapters import Tuned, adapted
from .callbacks import Bar, Callback, Run
from .divergence import Diverged, check_arrays, check_gradients
from .history import History

__all__ = ["Callback", "Diverged", "History", "Run", "gradients", "train"]

Batch = tuple[np.ndarray, np.ndarray]


def train(
    tuned: Tuned,
    batches: Iterable[Batch],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    schedule: Literal["constant", "linear", "cosine"] = "constant",
    warmup: int = 0,
    clip: float | None = None,
    accumulate: int = 1,
    evaluate: Callable[[Tuned], Any] | None = None,
    evaluate_every: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Move tuned's trainable arrays by `steps` AdamW steps.

    batches: (ids, targets) int arrays (N, T) each, targets shifted, -100 where they do not count; a
    list is cycled. The loss of a step is the mean over all targets of its `accumulate` batches.
    Rates, clipping, decay: see `optim`.
    evaluate: called every `evaluate_every` steps and after the last. checkpoint: a file written
    every `checkpoint_every` steps and after the last; resume=True continues from it, bit for
    bit. progress: a bar (None: on a terminal and in a notebook).
    callbacks: see `callbacks`.
    Ctrl-C ends the run after the step that it interrupts, and the checkpoint is written.
    Raises Diverged, naming the step and the first bad array; KeyboardInterrupt, which says how to
    go on; ValueError for settings out of range.
    """
    adapted(tuned, "train")
    settings = _settings(
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        schedule=schedule,
        warmup=warmup,
        clip=clip,
        accumulate=accumulate,
    )
    _check_every(evaluate=evaluate, evaluate_every=evaluate_every)
    _check_every(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
    adam, history = _optimizer(tuned, settings), History()
    if resume:
        if checkpoint is None:
            raise ValueError("train: resume=True wants the checkpoint's path")
        history = History.from_dict(checkpoints.load(checkpoint, tuned, adam, settings))
    about = checkpoints.describe(tuned, settings) if checkpoint else None
    stream = _cycle(batches)
    _skip(stream, adam.steps * accumulate, history.batches_crc32)

    def save(path):
        described = about or checkpoints.describe(tuned, settings)
        checkpoints.save(path, tuned, adam, described, history.to_dict())

    run = Run(tuned, history, steps, adam.steps, save)
    bar = Bar(run, progress)
    told = [bar, *callbacks]

    def judge():
        if evaluate and run.step and not run.interrupted and run.due(evaluate_every):
            history.evaluations.append((run.step, evaluate(tuned)))
            _tell(told, "evaluation", run)

    with contextlib.closing(bar), _interruptible(run):
        _tell(told, "start", run)
        if run.step not in [at for at, _ in history.evaluations]:
            judge()  # in a resumed run: Ctrl-C had left it out
        while run.step < steps and not run.stopped:
            start, step = clock.now(), run.step + 1
            rate = optim.learning_rate(step, **_of_rate(settings))
            parts = list(itertools.islice(stream, accumulate))
            loss = _step(tuned, adam, parts, step, rate, settings)
            history.batches_crc32 = _crc32(parts, history.batches_crc32)
            history.losses.append(loss)
            history.rates.append(rate)
            history.seconds.append(clock.now() - start)
            run.step = step
            _tell(told, "step", run)
            judge()
            if run.due(checkpoint_every):
                check_arrays(tuned, step)
                if checkpoint:
                    save(checkpoint)
                    _tell(told, "checkpoint", run)
        _tell(told, "end", run)
    if run.interrupted:
        kept = f"; resume=True goes on from {checkpoint}" if checkpoint else ""
        raise KeyboardInterrupt(f"train: stopped after step {run.step} of {steps}{kept}")
    return history


def _tell(callbacks, moment, run):
    for callback in callbacks:
        getattr(callback, moment)(run)


@contextlib.contextmanager
def _interruptible(run):
    """Let Ctrl-C end the run after the present step; a second one stops at once.

    Only in the main thread, and only if the handler is Python's own.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if before is not signal.default_int_handler:
        yield
        return

    def stop(number, frame):
        run.interrupted = True
        run.stop("Ctrl-C")
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _optimizer(tuned, settings) -> optim.AdamW:
    """AdamW over the trainable arrays, each with its own multiple of the learning rate."""
    ratios = tuned.record.lr_scale(tuned.options) if tuned.record.lr_scale else {}
    return optim.AdamW(
        tuned.trainable,
        scale={s.key: ratios[s.argument] for s in tuned.trained() if s.argument in ratios},
        **{k: settings[k] for k in ("betas", "eps", "weight_decay")},
    )


def _step(tuned, adam, parts, step, rate, settings) -> float:
    """Gradients, clipping, the method's gradient rule, AdamW, the method's step rule -> loss."""
    record, wanted = tuned.record, settings["accumulate"]
    if len(parts) < wanted:
        raise ValueError(f"train: step {step}: the batches ran out, got {len(parts)} of {wanted}")
    loss, grads = gradients(tuned, parts, step)
    check_gradients(tuned, parts, loss, grads, step)
    factor = 1.0 if settings["clip"] is None else optim.clip_factor(grads, settings["clip"])
    if record.grad_rule:
        _apply_grad_rule(tuned, grads, factor)
        factor = 1.0
    before = record.before_step or (lambda arrays: None)
    kept = {name: before(arrays) for name, arrays in tuned.layers.items()}
    adam.step(grads, rate, factor)
    if record.after_step:
        for name, arrays in tuned.layers.items():
            record.after_step(arrays, kept[name], step, tuned.options)
    return loss


def gradients(
    tuned: Tuned, micro_batches: list[Batch], step: int = 1
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss over all targets of the micro-batches together, and its gradient by key.

    step: counts from 1; dropout's key is (seed, step, micro-batch, adapter). The caller may write
    into the arrays.
    """
    micro_batches = [_check_batch(batch, tuned.config.vocab_size) for batch in micro_batches]
    count = sum(int((targets != IGNORED).sum()) for _, targets in micro_batches)
    if count == 0:
        raise ValueError(f"train: step {step}: no target counts, all are {IGNORED}")
    total, sums, several = 0.0, dict[str, np.ndarray](), len(micro_batches) > 1

    def take(leaf: Node | None) -> None:
        """Add a leaf's gradient to the sum as soon as it is complete, and let the leaf drop it.

        At most one gradient is duplicated at any moment, unless segments are recomputed.
        """
        if leaf is None or leaf.grad is None:
            return
        grad, leaf.grad = np.asarray(leaf.grad, leaves[leaf.name].dtype), None
        if leaf.name in sums:
            sums[leaf.name] += grad
        else:  # a sum needs an array of its own: others may hold backward's too
            sums[leaf.name] = grad.copy() if several else grad

    for j, (ids, targets) in enumerate(micro_batches):
        leaves = tuned.leaves()
        loss = tuned.loss(ids, targets, count, leaves, key=(tuned.seed, step, j))
        backward(loss, ready=take if several else None)
        for leaf in leaves.values():  # `ready` is not called for leaves of recomputed segments
            take(leaf.node)
        total += float(loss.data)
    return total, {k: sums[k] if k in sums else np.zeros_like(a.data) for k, a in leaves.items()}


def _apply_grad_rule(tuned, grads, factor):
    """Apply the technique's rule to the clipped gradients of each layer.

    It writes into copies, because others may hold backward's arrays too.
    """
    for name, arrays in tuned.layers.items():
        mine = {argument: tuned.key(name, argument) for argument in tuned.record.trains}
        copies = {argument: grads[key] * factor for argument, key in mine.items()}
        tuned.record.grad_rule(arrays, copies, tuned.options)
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


def _skip(stream, n: int, crc32: int) -> None:
    """Skip n batches; raises ValueError if they are not the batches that the run used."""
    had = 0
    for batch in itertools.islice(stream, n):
        had = _crc32([batch], had)
    if had != crc32:
        raise ValueError(
            f"train: the first {n} batches are not those of the checkpoint's run (other data, "
            "order, batch size or seed)"
        )


def _crc32(batches, crc32: int) -> int:
    """CRC-32 of ids and targets, going on from another."""
    for batch in batches:
        for a in batch:
            crc32 = zlib.crc32(np.ascontiguousarray(a, np.int64).data, crc32)
    return crc32


def _check_batch(batch, vocab_size: int) -> Batch:
    """ids and targets as arrays; raises ValueError unless both are (N, T) and in the vocabulary."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ValueError(
            f"train: got a batch of {type(batch).__name__}, wanted a pair (ids, targets)"
        )
    if isinstance(batch[0], str):
        raise ValueError("train: got a pair of texts, wanted (ids, targets): see ml.batches")
    ids = check_ids(batch[0], vocab_size)
    return ids, check_targets(batch[1], ids.shape, vocab_size)


def _settings(*, steps, lr, weight_decay, betas, eps, schedule, warmup, clip, accumulate):
    """What every step depends on, as plain data; raises ValueError for a value out of range."""
    try:
        one, two = (number("train: betas", b, least=0) for b in betas)
        if max(one, two) >= 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"train: betas is {betas!r}, wanted two numbers in [0, 1)") from None
    if schedule not in optim.SCHEDULES:
        raise nearest("schedule", str(schedule), optim.SCHEDULES)
    settings = {
        "steps": whole("train: steps", steps, 1),
        "lr": number("train: lr", lr, least=0),
        "weight_decay": number("train: weight_decay", weight_decay, least=0),
        "betas": [one, two],
        "eps": number("train: eps", eps, above=0),
        "schedule": schedule,
        "warmup": whole("train: warmup", warmup),
        "clip": None if clip is None else number("train: clip", clip, above=0),
        "accumulate": whole("train: accumulate", accumulate, 1),
    }
    if lr > 0 and optim.learning_rate(1, **_of_rate(settings)) == 0:
        said = f"train: one step, whose rate is 0 at the end of a {schedule} schedule"
        warnings.warn(f"{said}: nothing is trained; wanted constant, or more steps", stacklevel=3)
    if warmup > steps:
        warnings.warn(
            f"train: warmup is {warmup}, steps is {steps}: the rate never reaches lr", stacklevel=3
        )
    return settings


def _of_rate(settings):
    return {k: settings[k] for k in ("lr", "steps", "schedule", "warmup")}


def _check_every(**given):
    """Check `what_every`, which says how often `what` is done: it must not be given alone."""
    (what, value), (name, every) = given.items()
    if every is not None:
        whole(f"train: {name}", every, 1)
        if value is None:
            raise ValueError(f"train: {name} is {every}, but {what} is not given")
