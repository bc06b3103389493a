"""train: fine-tune a model on a task or on your own file."""

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..support.files import data_folder
from ..support.locks import using
from ..support.terminal import ANY, fill, width
from ..support.values import whole
from .arguments import adapter_options, command, form_options, given, names, options
from .text import BASE, load_base

LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"  # in the folder of the adapter


def add(commands) -> None:
    """Put the command on the parser."""
    p = command(commands, "train", train)
    p.add_argument("--base", default="base", help=BASE)
    form_options(p)
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="JSONL or CSV with prompt and completion")
    source.add_argument("--task", help="a task of the word lab")
    p.add_argument("--eval", type=Path, help="JSONL or CSV to score on (a task's test words)")
    columns = "their names in your files (prompt,completion)"
    p.add_argument("--columns", type=names, metavar="PROMPT,COMPLETION", help=columns)
    adapter_options(p, "lora")
    p.set_defaults(method=None)
    p.add_argument("--adapter", type=Path, help="start from this adapter's folder or checkpoint")
    p.add_argument("--recompute", metavar="WHAT", help="less memory, more time: layers")
    p.add_argument("--alpha", type=float, help="scaling alpha (2·rank)")
    p.add_argument("--steps", type=int, default=150, help="optimizer steps (%(default)s)")
    p.add_argument("--batch-size", type=int, help="pairs in a batch (32)")
    p.add_argument("--accumulate", type=int, default=1, help="batches in a step (%(default)s)")
    p.add_argument("--lr", type=float, help="peak learning rate (what minilora tune chose)")
    p.add_argument("--schedule", default="linear", help="constant, linear or cosine (%(default)s)")
    p.add_argument("--warmup", type=int, help="steps of rising rate (15; a tenth of short runs)")
    p.add_argument("--weight-decay", type=float, default=0.01, help="AdamW's (%(default)s)")
    p.add_argument("--clip", type=float, default=1.0, help="largest gradient norm (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of start and batches (%(default)s)")
    p.add_argument("--evaluate-every", type=int, metavar="N", help="steps between evaluations")
    p.add_argument("--patience", type=int, metavar="N", help="stop after N without a better one")
    p.add_argument("--checkpoint", type=Path, help="file for the state of the run")
    p.add_argument("--checkpoint-every", type=int, help="steps between checkpoints")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    p.add_argument("--out", type=Path, default=Path("runs/adapter"), help="folder (%(default)s)")


def train(a: Namespace) -> None:
    """Fine-tune, print the score, write the adapter and a log.

    Raises ValueError for wrong options or data, and if the training diverges; KeyboardInterrupt,
    after a checkpoint was written, on Ctrl-C.
    """
    model = load_base(a)
    pairs, held_out = _pairs(a)
    _check(a, pairs, held_out, model)
    with using(a.out, a.checkpoint):
        _train(a, model, pairs, held_out)


def _train(a, model, pairs, held_out):
    import minilora as ml

    tuned = _tuned(a, model)
    settings = _settings(a, tuned)
    for line in _plan(a, tuned, settings, len(pairs)):
        print(fill(line, width(ANY), 2), flush=True)
    stopped: list[Any] = []
    try:
        history = ml.train(
            tuned,
            _batches(a, pairs, model.tokenizer),
            **settings,
            **_watched(a, held_out, model),
            callbacks=[*_callbacks(a), _keeper(a, stopped)],
        )
    except KeyboardInterrupt:
        if not stopped:  # a second Ctrl-C, or before the first step
            raise
        at = f"stopped after step {stopped[0].step} of {a.steps}"
        more = "" if a.checkpoint else f" --checkpoint {a.out / CHECKPOINT}"
        line = "the same line" if a.resume and not more else f"the same line with{more} --resume"
        raise KeyboardInterrupt(f"{at}; {line} goes on from there") from None
    size = ml.save_adapter(tuned, a.out)
    losses = history.losses
    early = " (stopped early)" if len(losses) < a.steps else ""
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in {len(losses)} steps{early}")
    if held_out:
        score = ml.exact_match(tuned, held_out)
        print(f"exact match on {len(held_out):,} held-out pairs: {score:.3f}")
    print(f"adapter: {a.out} ({size:,} bytes); log: {a.out / LOG}")


def _keeper(a, stopped):
    """A callback: after Ctrl-C it puts the run into the list, and its state into a checkpoint."""
    from ..tuning.callbacks import Callback

    class Keeper(Callback):
        def end(self, run):
            if run.interrupted:
                stopped.append(run)
                if not a.checkpoint:
                    run.save(a.out / CHECKPOINT)

    return Keeper()


def _check(a, pairs, held_out, model) -> None:
    """Raise the errors now that would otherwise come after the training."""
    import minilora as ml

    whole("--steps", a.steps, 1)
    whole("--accumulate", a.accumulate, 1)
    if a.batch_size is not None and whole("--batch-size", a.batch_size, 1) > len(pairs):
        warnings.warn(
            f"--batch-size is {a.batch_size}, and there are {len(pairs)} pairs: a batch takes all "
            "of them",
            stacklevel=2,
        )
    if held_out:
        ml.batches(held_out, model.tokenizer, len(held_out))
    if a.evaluate_every and not held_out:
        raise ValueError("--evaluate-every: nothing to evaluate on, wanted --eval too")
    if a.patience is not None and not a.evaluate_every:
        raise ValueError(f"--patience is {a.patience}, wanted --evaluate-every too")
    if a.resume and not a.checkpoint:
        raise ValueError("--resume goes on from a checkpoint, wanted --checkpoint FILE too")
    if a.checkpoint and a.checkpoint.exists() and not a.resume:
        raise ValueError(
            f"{a.checkpoint}: an earlier run's checkpoint; wanted --resume to go on from it, "
            "or another name"
        )


def _tuned(a, model):
    """The technique on the model: new, or an adapter to train further."""
    import minilora as ml

    if a.adapter is None:
        method = a.method or "lora"
        how = given(a, "rank", "alpha", "targets", "recompute") | options(a.option, method)
        return ml.attach(model, method, seed=a.seed, **how)
    how = given(a, "rank", "alpha", "targets") | options(a.option, a.method)
    tuned = ml.load_adapter(model, a.adapter, a.method, **how)
    tuned.seed, tuned.recompute = a.seed, a.recompute
    return tuned


def _settings(a, tuned) -> dict[str, Any]:
    """The settings of ml.train."""
    return {
        "steps": a.steps,
        "lr": _chosen_rate(tuned.method)[0] if a.lr is None else a.lr,
        "schedule": a.schedule,
        "warmup": min(15, a.steps // 10) if a.warmup is None else a.warmup,
        "weight_decay": a.weight_decay,
        "betas": (0.9, 0.98),
        "clip": a.clip,
        "accumulate": a.accumulate,
        "checkpoint": a.checkpoint,
        "checkpoint_every": a.checkpoint_every,
        "resume": a.resume,
    }


def _batches(a, pairs, tokenizer):
    from ..text.batches import enough_batches

    size, steps = 32 if a.batch_size is None else a.batch_size, a.steps * a.accumulate
    return enough_batches(steps, pairs, tokenizer, size, a.seed, by_length=8)


def _watched(a, held_out, model) -> dict[str, Any]:
    """The evaluation: the mean loss over the held-out pairs."""
    from ..lab.runs import mean_loss
    from ..text.batches import all_once

    if not a.evaluate_every:
        return {}
    once = all_once(held_out, model.tokenizer)
    return {"evaluate": lambda t: mean_loss(t, once), "evaluate_every": a.evaluate_every}


def _callbacks(a) -> list[Any]:
    from ..tuning.callbacks import EarlyStopping, Log

    chosen: list[Any] = [Log(a.out / LOG)]
    if a.patience is not None:
        chosen.append(EarlyStopping(a.patience))
    return chosen


def _plan(a, tuned, settings, pairs) -> tuple[str, str]:
    """What will be trained, and at which learning rate."""
    numbers = sum(x.size for x in tuned.trainable.values())
    scaling = f", alpha {tuned.alpha:g}{_scaling(tuned)}" if tuned.alpha else ""
    rank = f", rank {tuned.rank}" if tuned.rank else ""
    what = f"{tuned.record.title}{rank}{scaling}"
    why = "" if a.lr is not None else f" ({_chosen_rate(tuned.method)[1]})"
    rate = (
        f"learning rate {settings['lr']:g}{why}, {a.schedule}, warm-up {settings['warmup']} steps"
    )
    return f"{what}: {numbers:,} trainable numbers on {pairs:,} pairs", rate


def _chosen_rate(method: str) -> tuple[float, str]:
    """The rate that `tune` chose for the method on the word lab, and why it is taken."""
    from ..lab import rates

    chosen = rates.chosen_for(rates.DEFAULT_TASK, rates.read())
    if method in chosen:
        return chosen[method]["lr"], f"chosen by minilora tune on the task {rates.DEFAULT_TASK}"
    return 1e-2, f"a first guess: minilora tune --methods {method} has not been run"


def _scaling(tuned):
    """The scaling s as text, if all layers have the same."""
    scalings = {arrays["s"] for arrays in tuned.layers.values()}
    return f", s = {scalings.pop():g}" if len(scalings) == 1 else ""


def _pairs(a) -> tuple[list[Any], list[Any]]:
    """Pairs to train on, and held-out pairs, from the task or the user's files."""
    from ..text import tasks

    if a.data is None:
        pairs, _, held_out = tasks.load_task(a.task)
    else:
        pairs, held_out = _read(a, a.data), []
    return pairs, _read(a, a.eval) if a.eval else held_out


def _read(a, path) -> list[Any]:
    from ..text.pairs import read_pairs

    columns = a.columns or ("prompt", "completion")
    if len(columns) != 2:
        raise ValueError(f"--columns: got {','.join(columns)!r}, wanted two names and a comma")
    return [*read_pairs(_there(path), *columns)]


def _there(path: Path) -> Path:
    """The path; if data/… is not in this folder, that of the copy in the installed package."""
    if not path.exists() and path.parts[:1] == ("data",):
        shipped = data_folder().joinpath(*path.parts[1:])
        return shipped if shipped.is_file() else path
    return path
