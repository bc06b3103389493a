"""train: fine-tune a model on a task or on your own file."""

import argparse
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import minilora as ml

from ..lab import rates
from ..lab.runs import largest_batch
from ..methods import own
from ..support.locks import using
from ..support.plots import human
from ..support.terminal import ANY, fill, many, width
from ..support.values import number, whole
from ..text.batches import all_once, enough_batches
from ..text.encode import TOO_LONG
from ..text.record_forms import Text
from ..tuning.callbacks import EarlyStopping, KeepBest, Log, best_of
from ..tuning.storage import ARRAYS
from . import card, config, own_data
from .arguments import adapter_options, command, form_options, given, names, options
from .text import BASE, load_base
from .watching import Watch

STEPS, EVALUATIONS = 150, 10  # defaults
FEW = 10  # with fewer steps, a rate that falls to 0 would train too little
LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"  # in the folder of the adapter


def add(commands) -> None:
    """Add the command to the parser."""
    p = command(commands, "train", train)
    p.add_argument("--base", default="base", help=BASE)
    form_options(p)
    p.add_argument("--config", type=Path, metavar="TOML", help="options from a run.toml")
    source = p.add_mutually_exclusive_group()
    forms = "prompt, completion; instruction, input, output; messages; conversations; or text"
    source.add_argument("--data", type=Path, help=f"JSONL, JSON or CSV with {forms}")
    source.add_argument("--task", help="a task of the word lab")
    p.add_argument("--eval", type=Path, help="such a file, to score on (a task's test words)")
    columns = "the names of these two in your files (prompt,completion)"
    p.add_argument("--columns", type=names, metavar="PROMPT,COMPLETION", help=columns)
    chat = "write the pairs in the base's chat template"
    p.add_argument("--chat", action=argparse.BooleanOptionalAction, help=chat)
    p.add_argument("--system", metavar="TEXT", help="the system message of each chat")
    p.add_argument("--max-length", type=int, help="most tokens of a row (what the base takes)")
    p.add_argument("--too-long", choices=TOO_LONG, default="cut", help="longer rows (%(default)s)")
    adapter_options(p, "lora")
    p.set_defaults(method=None)
    p.add_argument("--adapter", type=Path, help="start from this adapter's folder or checkpoint")
    p.add_argument("--recompute", metavar="WHAT", help="less memory, more time: layers")
    p.add_argument("--alpha", type=float, help="scaling alpha (2·rank)")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help=f"optimizer steps ({STEPS})")
    length.add_argument("--epochs", type=float, help="passes over the data")
    free = "rows in a batch (%(default)s); there is no packing, since padding is not computed"
    p.add_argument("--batch-size", type=int, default=32, help=free)
    p.add_argument("--accumulate", type=int, default=1, help="batches in a step (%(default)s)")
    p.add_argument("--lr", type=float, help="peak learning rate (what minilora tune chose)")
    p.add_argument("--rates", type=Path, help="a record of minilora tune (the built-in one)")
    schedule = f"constant, linear or cosine (linear; constant below {FEW} steps)"
    p.add_argument("--schedule", help=schedule)
    p.add_argument("--warmup", type=int, help="steps of rising rate (15; a tenth of short runs)")
    p.add_argument("--weight-decay", type=float, default=0.01, help="AdamW's (%(default)s)")
    p.add_argument("--clip", type=float, default=1.0, help="largest gradient norm (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    every = "steps between evaluations (with --eval: about ten in a run)"
    p.add_argument("--evaluate-every", type=int, metavar="N", help=every)
    p.add_argument("--samples", type=int, metavar="N", help="prompts answered at each evaluation")
    p.add_argument("--keep", choices=("best", "last"), help="the adapter to save in --out (best)")
    p.add_argument("--patience", type=int, metavar="N", help="stop after N without a better one")
    p.add_argument("--checkpoint", type=Path, help="file for the state of the run")
    p.add_argument("--checkpoint-every", type=int, help="steps between checkpoints")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    p.add_argument("--out", type=Path, default=Path("runs/adapter"), help="folder (%(default)s)")


def train(a: Namespace) -> None:
    """Fine-tune; print how it goes and the score; write the adapter, its card, curves and a log.

    Raises ValueError for wrong options or data, and if the training diverges; KeyboardInterrupt,
    after a checkpoint was written, on Ctrl-C.
    """
    asked = dict(vars(a))
    model = load_base(a)
    data = own_data.read(a, model)
    _settle(a, data)
    _check(a, data)
    with using(a.out, a.checkpoint):
        _train(a, asked, model, data)


def _train(a, asked, model, data):
    tuned = _tuned(a, model)
    if Path(a.base).is_dir():
        tuned.base_name = a.base
    rate, why = (a.lr, "") if a.lr is not None else _chosen_rate(a, tuned)
    steps, settings = a.steps * a.accumulate, _settings(a, rate)
    batches = enough_batches(steps, data.rows, model.tokenizer, a.batch_size, a.seed)
    method = asked["method"] and own.spelled(asked["method"])
    chat = data.chat or asked["chat"]  # messages are chats without --chat, too
    again = config.text({**asked, "chat": chat, "method": method, "lr": settings["lr"]})
    if (a.out / ARRAYS).exists() and not a.resume:
        print(f"{a.out} has an adapter of another run, which this run replaces")
    for line in _plan(a, tuned, settings, why, data, batches):
        print(fill(line, width(ANY), 2), flush=True)
    judged = all_once(data.held_rows, model.tokenizer) if a.evaluate_every else []
    samples = data.held_out[: a.samples or 0]
    watch = Watch(judged, a.evaluate_every, samples, (a.out / config.NAME, again))
    best = [KeepBest(a.out)] if judged and a.keep != "last" else []
    stopping = [] if a.patience is None else [EarlyStopping(a.patience)]
    try:
        history = ml.train(
            tuned,
            batches,
            **settings,
            evaluate=watch.judge if judged else None,
            evaluate_every=a.evaluate_every,
            callbacks=[Log(a.out / LOG), *stopping, watch, *best],
        )
    except KeyboardInterrupt:
        if watch.ended is None:  # a second Ctrl-C, or before the first step
            raise
        if not a.checkpoint:
            watch.ended.save(a.out / CHECKPOINT)
        at = f"stopped after step {watch.ended.step} of {a.steps}"
        more = "" if a.checkpoint else f" --checkpoint {a.out / CHECKPOINT}"
        line = "the same line" if a.resume and not more else f"the same line with{more} --resume"
        raise KeyboardInterrupt(f"{at}; {line} continues from there") from None
    _finish(a, tuned, data, history, best, watch.ended)


def _finish(a, tuned, data, history, best, ended) -> None:
    """Save the last adapter, or load the one that is kept; print its results, write its card."""
    kept, last = best[0].kept if best else None, len(history.losses)
    if kept is None:
        try:
            ml.save_adapter(tuned, a.out)
        except ValueError as error:  # such as a change that PEFT's form cannot hold
            ended.save(a.out / CHECKPOINT)
            raise ValueError(f"{error}; {a.out / CHECKPOINT} has what was learned") from None
    elif kept != last:
        tuned = ml.load_adapter(tuned.base, a.out)
    losses = history.losses
    early = " (stopped early)" if len(losses) < a.steps else ""
    results = {"loss": f"{losses[0]:.4f} -> {losses[-1]:.4f} in {many(len(losses), 'step')}{early}"}
    if best:
        step, lowest, _ = best_of(history.evaluations)
        at = f"{lowest:.4f} at step {step}, the lowest"
        said = "this one is kept" if step else "no step was better than the start, which is kept"
        if kept is None:
            said = f"it is not in {a.out}, which has the adapter of the last step"
        results["validation loss"] = f"{at}; {said}"
    if scored := [pair for pair in data.held_out if not isinstance(pair, Text)]:
        share = ml.exact_match(tuned, scored)
        results[f"exact match on {many(len(scored), 'held-out pair')}"] = f"{share:.3f}"
    for name, value in results.items():
        print(f"{name}: {value}")
    size = (a.out / ARRAYS).stat().st_size
    print(f"adapter: {a.out} ({size:,} bytes); log: {a.out / LOG}")
    card.write(a, tuned, history, results)


def _settle(a, data) -> None:
    """Fill in what was not given: batch size, steps, schedule, steps between evaluations."""
    whole("--accumulate", a.accumulate, 1)
    a.batch_size = min(whole("--batch-size", a.batch_size, 1), len(data.rows))
    if a.epochs is not None:
        rows = number("--epochs", a.epochs, above=0) * len(data.rows)
        a.steps = math.ceil(rows / (a.batch_size * a.accumulate))
    a.steps = whole("--steps", STEPS if a.steps is None else a.steps, 1)
    if a.schedule is None:
        a.schedule = "linear" if a.steps >= FEW else "constant"
    if a.eval and a.evaluate_every is None:
        a.evaluate_every = max(1, round(a.steps / EVALUATIONS))


def _check(a, data) -> None:
    """Raise the errors now that would otherwise come after the training."""
    if a.evaluate_every and not data.held_out:
        raise ValueError("--evaluate-every: nothing to evaluate on, wanted --eval too")
    for name in ("patience", "samples", "keep"):
        value = getattr(a, name)
        if value is not None and value != "last" and not a.evaluate_every:
            raise ValueError(f"--{name} is {value}, wanted --eval or --evaluate-every too")
    if a.samples is not None:
        whole("--samples", a.samples, 1)
    if a.resume and not a.checkpoint:
        raise ValueError("--resume continues from a checkpoint, wanted --checkpoint FILE too")
    if a.checkpoint and a.checkpoint.exists() and not a.resume:
        wanted = "wanted --resume to continue from it, or another name"
        raise ValueError(f"{a.checkpoint}: an earlier run's checkpoint; {wanted}")


def _tuned(a, model):
    """The technique on the model: new, or an adapter to train further."""
    if a.adapter is None:
        method = a.method or "lora"
        how = given(a, "rank", "alpha", "targets", "recompute") | options(a.option, method)
        return ml.attach(model, method, seed=a.seed, **how)
    how = given(a, "rank", "alpha", "targets") | options(a.option, a.method)
    tuned = ml.load_adapter(model, a.adapter, a.method, **how)
    tuned.seed, tuned.recompute = a.seed, a.recompute
    return tuned


def _settings(a, rate) -> dict[str, Any]:
    """The settings of ml.train."""
    names = "steps schedule weight_decay clip accumulate checkpoint checkpoint_every resume".split()
    warmup = min(15, a.steps // 10) if a.warmup is None else a.warmup
    same = {name: getattr(a, name) for name in names}
    return {**same, "lr": rate, "warmup": warmup, "betas": (0.9, 0.98)}


def _plan(a, tuned, settings, why, data, batches) -> list[str]:
    """What will be trained, on what, at which rate (and why) and in how much memory."""
    numbers = sum(x.size for x in tuned.trainable.values())
    scaling = f", alpha {tuned.alpha:g}{_scaling(tuned)}" if tuned.alpha else ""
    rank = f", rank {tuned.rank}" if tuned.rank else ""
    what = f"{tuned.record.title}{rank}{scaling}"
    tokens = sum(len(row.ids) for row in data.rows)
    learned = sum(target >= 0 for row in data.rows for target in row.targets)
    rows = f"{a.batch_size} × {a.accumulate}" if a.accumulate > 1 else f"{a.batch_size}"
    why = f" ({why})" if why else ""
    warmup = many(settings["warmup"], "step")
    peak = ml.ledger(tuned, batch=largest_batch(batches)).peak
    epochs = a.steps * a.accumulate * a.batch_size / len(data.rows)
    return [
        f"{what}: {numbers:,} trainable numbers on {many(len(data.rows), 'pair')}",
        f"{tokens:,} tokens, {learned:,} of them to learn; {many(a.steps, 'step')} of {rows} rows, "
        f"epochs: {epochs:.3g}; memory of a step: at most {human(peak)}",
        f"learning rate {settings['lr']:g}{why}, {a.schedule}, warm-up {warmup}",
    ]


def _chosen_rate(a, tuned) -> tuple[float, str]:
    """The rate that `tune` chose for the method on this base, or a first guess; and why."""
    rate, task = rates.of_run(rates.read(a.rates), tuned, a.task)
    if task:
        return rate, f"chosen by minilora tune on the task {task}"
    method = own.spelled(tuned.method)
    language = " --task category" if hasattr(tuned.tokenizer, "turns") else ""
    line = f"minilora tune --base {a.base}{language} --methods {method} --out rates.json"
    return rate, f"a first guess: {line} finds one for --rates rates.json"


def _scaling(tuned):
    """The scaling s as text, if all layers have the same."""
    scalings = {arrays["s"] for arrays in tuned.layers.values()}
    return f", s = {scalings.pop():g}" if len(scalings) == 1 else ""
