"""count, memory: the numbers and bytes of a technique, predicted from shapes or measured."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..llama.model import ModelConfig
from ..llama.shapes import SHAPES
from ..methods import DEFAULT, METHODS
from ..support.files import data_folder, nearest
from ..support.terminal import ANY, width
from .arguments import adapter_options, command, form_options, forms, given, options, read_whole

PAIRS = 100  # number of a task's pairs from which --task makes batches
MOST_LAYERS = 10_000  # of a config.json without its arrays

MOST_TOKENS = 1 << 24  # of a batch: a prediction holds a few numbers for each token


def add(commands) -> None:
    """Add these commands to the parser."""
    p = command(commands, "count", count)
    p.add_argument("--shape", default="base", help="gpt3-175b, llama-7b, … or a config.json")
    adapter_options(p, several=True)
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command(commands, "memory", memory)
    p.add_argument("--model", default="base", help="'base', a folder, or llama-7b, … (%(default)s)")
    form_options(p)
    adapter_options(p, several=True)
    p.add_argument("--recompute", metavar="WHAT", help="less memory, more time: layers")
    p.add_argument("--batch", type=int, help="rows (1); not with --fit")
    p.add_argument("--seq", type=int, help="tokens of a row (512, less for short models)")
    p.add_argument("--task", help="a batch of this task: bytes of all rows, and of those needed")
    p.add_argument("--prompts", help="the same for random rows: tokens of a prompt, as 60-200")
    p.add_argument("--answers", help="with --prompts: tokens of an answer, as 5-60")
    p.add_argument("--mixed", action="store_true", help="16 bits; master copy and moments 32 bits")
    p.add_argument("--json", action="store_true", help="as JSON")
    view = p.add_mutually_exclusive_group()
    view.add_argument("--measure", action="store_true", help="also run the step and measure it")
    view.add_argument("--fit", type=float, metavar="GB", help="largest batch and length that fit")


def count(a: Namespace) -> None:
    """Print the trainable numbers of one method, of several, or of the default methods.

    Raises ValueError for an unknown shape, method or option.
    """
    from ..memory.count import count as count_one
    from ..memory.count import table as count_all

    model = _shape_or_config(a.shape)
    rows = {
        name: count_one(model, name, **given(a, "rank", "targets"), **options(a.option, name))
        for name in _methods(a)
    } or count_all(model, a.rank, a.targets)
    if a.json:
        print(json.dumps(rows if len(rows) > 1 else next(iter(rows.values())), indent=1))
        return
    if len(rows) == 1:
        (row,) = rows.values()
        print(f"{row['trainable']:,}")
        if row["frozen_shared"]:
            print(f"and {row['frozen_shared']:,} frozen numbers that all layers share")
        return
    print(f"{'method':18} {'rank':>5} {'trainable':>16} {'shared, frozen':>15}")
    for name, row in rows.items():
        cells = f"{row['rank'] or '–':>5} {row['trainable']:>16,} {row['frozen_shared']:>15,}"
        print(f"{METHODS[name].title:18} {cells}")


def memory(a: Namespace) -> None:
    """Print the bytes of a training step; for a single method also its parts.

    Raises ValueError for options that are unknown, out of range or not allowed together.
    """
    from ..memory import tables

    config, settings = config_of(a.model), _settings(a)
    left_out = [] if a.method else [n for n in settings if _moves_packed(METHODS[n], a)]
    settings = {n: how for n, how in settings.items() if n not in left_out}
    if left_out and not a.json:
        print(f"without {', '.join(METHODS[n].title for n in left_out)}: only float32 is trainable")
    seq = min(512, config.max_position_embeddings) if a.seq is None else a.seq
    if a.mixed and a.measure:
        raise ValueError("--measure uses the model's own precision, wanted it without --mixed")
    if a.fit is not None and a.batch is not None:
        raise ValueError("--fit searches for the batch, wanted it without --batch")
    batch = 1 if a.batch is None else a.batch
    if batch * seq > MOST_TOKENS:
        raise ValueError(
            f"--batch {batch:,} × --seq {seq:,} are {batch * seq:,} tokens, wanted at most "
            f"{MOST_TOKENS:,}; activations grow in proportion to the batch"
        )
    data: dict[str, Any]
    wide = width(ANY)
    if real := _real_batch(a, config, batch):
        data = tables.kept_by_rows(config, settings, real, a.mixed)
        lines = tables.rows_table(data, real, wide)
    elif a.fit is not None:
        data = tables.fits(config, settings, a.fit, seq, a.mixed)
        lines = tables.fit_table(data, config, a.fit, seq, wide)
    else:
        predicted = tables.ledgers(config, settings, batch, seq, a.mixed)
        measured = tables.measured(a.model, settings, batch, seq, forms(a)) if a.measure else {}
        data = tables.as_json(predicted, measured)
        lines = tables.overview(predicted, measured, len(settings) == 1, a.mixed, wide)
    for line in [json.dumps(data, indent=1)] if a.json else lines:
        print(line)


def _real_batch(a, config: ModelConfig, batch_size: int):
    """ids and targets of --task, or of random --prompts and --answers; None if none is given."""
    lengths = {"--prompts": a.prompts, "--answers": a.answers}
    if a.task is None and not any(lengths.values()):
        return None
    others = a.seq is not None or a.measure or a.fit is not None
    if others or (a.task is not None) == any(lengths.values()):
        raise ValueError(
            "memory: wanted --task alone, or --prompts and --answers, without --seq, --measure "
            "and --fit"
        )
    if a.task is not None:
        from ..formats.models import load_model
        from ..lab.runs import largest_batch
        from ..text import nouns, tasks
        from ..text.batches import batches

        task = nouns.load() if a.task == nouns.NAME else a.task
        pairs = tasks.select(task, PAIRS).train
        drawn = batches(pairs, load_model(a.model).tokenizer, batch_size, chat=False)
        return largest_batch(drawn)
    from ..text.batches import random_batch

    prompts, answers = (_range(name, text) for name, text in lengths.items())
    return random_batch(config.vocab_size, batch_size, prompts, answers)


def _range(name: str, text: str | None) -> tuple[int, int]:
    """ "60-200" as two numbers; raises ValueError."""
    least, dash, most = (text or "").partition("-")
    both = read_whole(name, least), read_whole(name, most if dash else least)
    if not 1 <= both[0] <= both[1]:
        raise ValueError(f"{name}: got {text!r}, wanted a range of lengths such as 5-60")
    return both


def _settings(a) -> dict[str, dict[str, Any]]:
    """Method -> keywords for `ledger`, for the methods of --method or the default ones.

    A default method gets only the keywords that it takes.
    """
    common, recompute = given(a, "rank", "targets"), given(a, "recompute") | forms(a)
    if asked := _methods(a):
        return {name: common | options(a.option, name) | recompute for name in asked}
    return {
        name: {k: v for k, v in common.items() if k in record.takes} | recompute
        for name, record in ((name, METHODS[name]) for name in DEFAULT)
    }


def _moves_packed(record, a) -> bool:
    """Would the technique change a weight that is not in float32?"""
    packed = {name for name, form in forms(a).items() if form != "float32"}
    return bool(packed) if record.whole_model else record.owns_weight and "weights" in packed


def _methods(a) -> list[str]:
    """The methods of --method, separated by commas; none if it was not given."""
    if a.method is None:
        options(a.option, None)  # raises ValueError for an --option without --method
        return []
    return [name.strip() for name in a.method.split(",")]


def config_of(name: str) -> ModelConfig:
    """The config for a name; raises ValueError if the shape is not a Llama."""
    shape = _shape_or_config(name)
    return shape if isinstance(shape, ModelConfig) else ModelConfig(**shape.config_fields())


def _shape_or_config(name: str):
    """A published shape by name, or the config of a file, a folder or "base"."""
    from ..formats.config import read_config

    path = data_folder() / "base" if name == "base" else Path(name)
    if name in SHAPES:
        shape = SHAPES[name]
        return ModelConfig(**shape.config_fields()) if shape.llama else shape
    if path.exists():
        path = path / "config.json" if path.is_dir() else path
        config = read_config(path)
        if (layers := config.num_hidden_layers) > MOST_LAYERS:  # no arrays to compare with
            raise ValueError(f"{path}: {layers} layers, wanted at most {MOST_LAYERS}")
        return config
    raise nearest("shape", name, [*SHAPES, "base", "a folder or config.json"])
