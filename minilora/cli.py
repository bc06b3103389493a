"""`minilora …`: the commands. Each parses its arguments, calls the package, prints; an error is one line and exit code 2."""

import argparse
import json
import sys
import warnings
from pathlib import Path

from . import __version__
from .files import nearest
from .methods import METHODS


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 after a one-line error."""
    arguments = parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        arguments.command(arguments)
    except (ValueError, OSError, AssertionError, MemoryError) as error:
        print(f"minilora: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minilora: stopped", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="minilora", description="Five ways to fine-tune a language model, to read, check and time."
    )
    top.add_argument("--version", action="version", version=f"minilora {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    p = _command(commands, "compare", compare, "all methods on the same words: who learned what, at what cost")
    _comparison_options(p)
    p.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder for the results (%(default)s)")
    p.add_argument("--lr", action="append", default=[], metavar="METHOD=RATE", help="instead of the tuned rate")

    p = _command(commands, "tune", tune, "the sweep of learning rates on validation words")
    _comparison_options(p)
    p.add_argument("--out", type=Path, default=Path("runs/tuning.json"), help="the record (%(default)s)")

    p = _command(commands, "report", report, "draw the figures and the page of a comparison again")
    p.add_argument("folder", type=Path, help="a folder made by compare")

    p = _command(commands, "pretrain", pretrain, "make the word lab's base from its words")
    p.add_argument("--out", type=Path, default=Path("runs/base"), help="folder of the model (%(default)s)")
    p.add_argument("--steps", type=int, help="optimizer steps")
    p.add_argument("--seed", type=int, help="of the weights and the order of the words")

    p = _command(commands, "train", train, "fine-tune on a task or on your own file; writes an adapter")
    p.add_argument("--base", default="base", help="'base' or a model's folder (%(default)s)")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="JSONL or CSV with prompt and completion")
    source.add_argument("--task", help="a task of the word lab")
    p.add_argument("--eval", type=Path, help="JSONL or CSV to score on (a task brings its own words)")
    p.add_argument("--method", default="lora", help=f"{', '.join(METHODS)} (%(default)s)")
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument("--alpha", type=float, help="scaling alpha; 2·rank where not given")
    p.add_argument("--targets", type=_names, help="q_proj,v_proj,… or all-linear")
    p.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method")
    p.add_argument("--steps", type=int, default=150, help="optimizer steps (%(default)s)")
    p.add_argument("--batch-size", type=int, default=32, help="pairs a step (%(default)s)")
    p.add_argument("--lr", type=float, default=1e-2, help="peak learning rate (%(default)s)")
    p.add_argument("--schedule", default="linear", help="constant, linear or cosine (%(default)s)")
    p.add_argument("--warmup", type=int, default=15, help="steps (%(default)s)")
    p.add_argument("--weight-decay", type=float, default=0.01, help="(%(default)s)")
    p.add_argument("--clip", type=float, default=1.0, help="of the global norm (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    p.add_argument("--checkpoint", type=Path, help="file to keep the state in")
    p.add_argument("--checkpoint-every", type=int, help="steps")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    p.add_argument("--out", type=Path, default=Path("runs/adapter"), help="folder of the adapter (%(default)s)")

    p = _command(commands, "generate", generate, "continue a prompt")
    p.add_argument("--base", default="base", help="'base' or a model's folder (%(default)s)")
    p.add_argument("--adapter", type=Path, help="a folder made by train, compare or PEFT")
    p.add_argument("--prompt", required=True, help="for a task: the word alone")
    p.add_argument("--task", help="ask as this task asks: tag + word + '>'")
    p.add_argument("--max-new-tokens", type=int, default=32, help="(%(default)s)")
    p.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token (%(default)s)")
    p.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")

    p = _command(commands, "merge", merge, "write the base with the adapter's change added in")
    p.add_argument("--base", default="base", help="'base' or a model's folder (%(default)s)")
    p.add_argument("--adapter", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True, help="folder of the merged model")

    _command(commands, "gradcheck", gradcheck, "check every pair's backward against finite differences")
    _command(commands, "doctor", doctor, "what this machine has, and whether the kernels agree")
    return top


class _Parser(argparse.ArgumentParser):
    """Wrong arguments: one line and exit code 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def _command(commands, name, function, summary):
    p = commands.add_parser(name, help=summary, description=summary)
    p.set_defaults(command=function)
    return p


def _comparison_options(p):
    p.add_argument("--base", default="base", help="'base' or a model's folder with a tokenizer (%(default)s)")
    p.add_argument("--task", default="past", help="a task of the word lab (%(default)s)")
    p.add_argument("--methods", type=_names, help=f"some of {','.join(METHODS)} (all)")
    p.add_argument("--train-size", type=int, default=300, help="words to train on (%(default)s)")
    p.add_argument("--rank", action="append", default=[], metavar="R or METHOD=R", help="rank, or one method's own")
    p.add_argument("--targets", type=_names, help="q_proj,v_proj,… or all-linear (q_proj,v_proj)")
    p.add_argument("--steps", type=int, default=150, help="optimizer steps (%(default)s)")
    p.add_argument("--seeds", type=int, default=3, help="runs of each method (%(default)s)")


def _names(text):
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    return "all-linear" if names == ("all-linear",) else names


def settings_of(a, tuned_ranks: dict[str, int]):
    """Settings from a command line; the ranks chosen with the rates hold unless --rank says otherwise."""
    from .experiments.compare import Settings

    methods = a.methods or tuple(METHODS)
    for name in methods:
        if name not in METHODS:
            raise nearest("method", name, METHODS)
    for name, value in (("steps", a.steps), ("seeds", a.seeds)):
        if value < 1:
            raise ValueError(f"--{name} is {value}, wanted a whole number of at least 1")
    own = {k: _whole("--rank", v) for k, _, v in (r.partition("=") for r in a.rank if "=" in r)}
    common = [_whole("--rank", r) for r in a.rank if "=" not in r]
    for name in own:
        if name not in METHODS:
            raise nearest("method", name, METHODS)
    ranks = {**({} if common else tuned_ranks), **own}
    return Settings(
        base=a.base,
        task=a.task,
        methods=tuple(methods),
        train_size=a.train_size,
        steps=a.steps,
        warmup=min(Settings.warmup, a.steps // 10),
        rank=common[-1] if common else Settings.rank,
        ranks=ranks,
        targets=a.targets or Settings.targets,
        seeds=a.seeds,
    )


def _whole(name, text):
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}: got {text!r}, wanted a whole number") from None


def compare(a) -> None:
    """Run the comparison, print the table, write results.json, figures, adapters and report.html."""
    from . import report as pages
    from .experiments import compare as experiment

    chosen = experiment.learning_rates(a.task)
    settings = settings_of(a, {m: c["rank"] for m, c in chosen.items() if m in METHODS})
    rates = {name: c["lr"] for name, c in chosen.items()}
    for text in a.lr:
        name, _, value = text.partition("=")
        if name not in (*METHODS, experiment.SCRATCH):
            raise nearest("method", name, [*METHODS, experiment.SCRATCH])
        rates[name] = float(value)
    print(pages.opening(settings))
    results = experiment.compare(settings, rates, a.out, lambda name, r: print(pages.progress_line(r), flush=True))
    pages.write_all(results, a.out)
    print(pages.table(results))
    print(f"\nwritten to {a.out}: results.json, report.html, {', '.join(pages.FIGURES)}, adapters/")


def tune(a) -> None:
    """Run the sweep and write its record."""
    from .experiments import tune as experiment

    settings = settings_of(a, {n: r.default_rank for n, r in METHODS.items() if r.rank_above_width})
    cells = experiment.tune(settings, report=lambda c: print(json.dumps(c), flush=True))
    experiment.write(a.out, settings, cells)
    for name, choice in experiment.choose(cells).items():
        print(f"{name:12} lr {choice['lr']:g}, rank {choice['rank']}")


def report(a) -> None:
    """Draw the figures and the page of a comparison again from its results.json."""
    from . import report as pages

    results = pages.read_results(a.folder)
    pages.write_all(results, a.folder)
    print(pages.table(results))


def pretrain(a) -> None:
    """Train the base and write its folder."""
    from .experiments import pretrain as experiment

    given = {k: v for k, v in (("steps", a.steps), ("seed", a.seed)) if v is not None}
    record = experiment.pretrain(experiment.Recipe(**given), a.out)
    print(json.dumps(record, indent=1))


def train(a) -> None:
    """Fine-tune, score, write the adapter."""
    import minilora as ml

    from . import tasks

    model = ml.load_model(a.base)
    if model.tokenizer is None:
        raise ValueError(f"{a.base}: the model has no tokenizer.json, so text cannot be read")
    if a.task:
        data = tasks.load_task(a.task)
        pairs, held_out = data.train, data.test
    else:
        pairs, held_out = tasks.read_pairs(a.data), []
    held_out = tasks.read_pairs(a.eval) if a.eval else held_out
    given = {k: v for k in ("rank", "alpha", "targets") if (v := getattr(a, k)) is not None}
    tuned = ml.attach(model, a.method, seed=a.seed, **given, **_options(a.option))
    epochs = -(-a.steps * a.batch_size // len(pairs)) + 1
    batches = ml.batches(pairs, model.tokenizer, a.batch_size, a.seed, epochs)
    history = ml.train(
        tuned,
        batches,
        steps=a.steps,
        lr=a.lr,
        schedule=a.schedule,
        warmup=min(a.warmup, a.steps // 10),
        weight_decay=a.weight_decay,
        betas=(0.9, 0.98),
        clip=a.clip,
        checkpoint=a.checkpoint,
        checkpoint_every=a.checkpoint_every,
        resume=a.resume,
    )
    size = ml.save_adapter(tuned, a.out)
    numbers = sum(x.size for x in tuned.trainable.values())
    scaling = f", alpha {tuned.alpha:g}, s = {_scaling(tuned):g}" if tuned.alpha else ""
    rank = f", rank {tuned.rank}" if tuned.rank else ""
    print(f"{tuned.record.title}{rank}{scaling}: {numbers:,} trainable numbers on {len(pairs):,} pairs")
    print(f"loss {history.losses[0]:.4f} -> {history.losses[-1]:.4f} in {len(history.losses)} steps")
    if held_out:
        print(f"exact match on {len(held_out):,} held-out pairs: {ml.exact_match(tuned, held_out):.3f}")
    print(f"adapter: {a.out} ({size:,} bytes)")


def _scaling(tuned):
    return next(iter(tuned.layers.values()))["s"]


def _options(texts):
    """NAME=VALUE as Python values: true, false, numbers."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option: got {text!r}, wanted NAME=VALUE")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            raise ValueError(f"--option: got {text!r}, wanted a number, true or false") from None
    return options


def generate(a) -> None:
    """Print the prompt's continuation."""
    import numpy as np

    import minilora as ml

    from . import tasks

    model = ml.load_model(a.base)
    if model.tokenizer is None:
        raise ValueError(f"{a.base}: the model has no tokenizer.json, so text cannot be read")
    if a.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {a.max_new_tokens}, wanted at least 1")
    speaker = ml.load_adapter(model, a.adapter) if a.adapter else model
    if a.task and a.task not in tasks.TASKS:
        raise nearest("task", a.task, tasks.TASKS)
    prompt = f"{tasks.TASKS[a.task].tag}{a.prompt}>" if a.task else a.prompt
    ids = np.array([model.tokenizer.encode(prompt)])
    out = speaker.generate(
        ids, a.max_new_tokens, temperature=a.temperature, top_p=a.top_p, seed=a.seed, stop=model.tokenizer.eos_id
    )
    print(model.tokenizer.decode(out[0, ids.shape[1] :]).removesuffix("\n"))


def merge(a) -> None:
    """Write the merged model."""
    import minilora as ml

    tuned = ml.load_adapter(ml.load_model(a.base), a.adapter)
    merged = ml.merge(tuned)
    ml.save_model(merged, a.out)
    changed = [n for n, w in merged.params.items() if w is not tuned.base.params[n]]
    print(f"{tuned.record.title} merged into {len(changed)} arrays: {a.out}")


def gradcheck(a) -> None:
    """Print a line a pair; an error where one is wrong."""
    from . import checkup

    for line in checkup.gradients():
        print(line)


def doctor(a) -> None:
    """Print versions, threads, kernels and a check of each kernel against its twin."""
    from . import checkup

    for line in checkup.machine():
        print(line)


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"minilora: warning: {message}", file=sys.stderr)


def _one_line(error):
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
