"""count and memory: what a technique costs, from shapes or measured."""

import json
from pathlib import Path
from typing import Any

from ..llama.model import ModelConfig
from ..methods import METHODS
from ..support.files import data_folder, nearest
from .arguments import adapter_options, command, given, options


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "count", count, "trainable numbers, from shapes alone")
    p.add_argument("--shape", default="base", help="gpt3-175b, llama-7b, … or a config.json")
    adapter_options(p, several=True)
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command(commands, "memory", memory, "bytes of a training step, predicted or measured")
    p.add_argument("--model", default="base", help="'base', a folder, or llama-7b, … (%(default)s)")
    adapter_options(p, several=True)
    p.add_argument("--recompute", metavar="WHAT", help="less memory for time: layers or swiglu")
    p.add_argument("--batch", type=int, help="rows (1); not with --fit")
    p.add_argument(
        "--seq",
        type=int,
        help="tokens a row (512, or what the model was made for); not with --figure",
    )
    p.add_argument("--mixed", action="store_true", help="16 bits, with 32-bit master and moments")
    p.add_argument("--json", action="store_true", help="as JSON; not with --figure")
    view = p.add_mutually_exclusive_group()
    view.add_argument("--measure", action="store_true", help="run the step as well, and measure it")
    view.add_argument("--fit", type=float, metavar="GB", help="the largest batch and length")
    view.add_argument("--what-if", action="store_true", help="if pairs kept more than they need")
    view.add_argument("--savers", action="store_true", help="memory for time, both measured")
    view.add_argument("--figure", type=Path, metavar="PNG", help="bytes against length")


def count(a) -> None:
    """Print trainable numbers of one method, or of all."""
    from ..memory.count import count as count_one
    from ..memory.count import table as count_all

    model = _shape_or_config(a.shape)
    asked = _methods(a)
    named = {
        name: count_one(model, name, **given(a, "rank", "targets"), **options(a.option, name))
        for name in asked
    }
    if len(named) == 1:
        (found,) = named.values()
        print(json.dumps(found, indent=1) if a.json else f"{found['trainable']:,}")
        if not a.json and found["frozen_shared"]:
            print(f"and {found['frozen_shared']:,} frozen numbers that all layers share")
        return
    rows = named or count_all(model, a.rank, a.targets)
    if a.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'method':18} {'rank':>5} {'trainable':>16} {'shared, frozen':>15}")
    for name, found in rows.items():
        rank = found["rank"] or "–"
        title = METHODS[name].title
        print(f"{title:18} {rank:>5} {found['trainable']:>16,} {found['frozen_shared']:>15,}")


def memory(a) -> None:
    """Print the bytes of a training step: of all methods, or of one, with what it saves."""
    from ..memory import figure, savers, tables, whatif

    config, settings = _config_of(a.model), _settings(a)
    seq = min(512, config.max_position_embeddings) if a.seq is None else a.seq
    if a.mixed and (a.measure or a.savers):
        raise ValueError("--measure and --savers run in the model's own precision, without --mixed")
    if a.figure and (a.json or a.seq is not None):
        raise ValueError("--figure draws every length and prints nothing: without --seq and --json")
    if a.fit is not None and a.batch is not None:
        raise ValueError("--fit looks for the batch itself: without --batch")
    batch = 1 if a.batch is None else a.batch
    if a.figure:
        title = figure.heading(a.model, settings, batch, a.mixed)
        figure.draw(config, settings, batch, a.figure, title, a.mixed)
        print(f"written to {a.figure}")
        return
    found: dict[str, Any]
    if a.fit is not None:
        found = tables.fits(config, settings, a.fit, seq, a.mixed)
        lines = tables.fit_table(found, config, a.fit, seq)
    elif a.what_if:
        found = whatif.what_ifs(config, settings, batch, seq, a.mixed)
        lines = whatif.table(found)
    elif a.savers:
        found = tables.savers_of(a.model, settings, batch, seq)
        lines = savers.table(found)
    else:
        ledgers = tables.ledgers(config, settings, batch, seq, a.mixed)
        real = tables.measured(a.model, settings, batch, seq) if a.measure else {}
        found = tables.as_json(ledgers, real)
        lines = tables.overview(ledgers, real, len(settings) == 1, a.mixed)
    for line in [json.dumps(found, indent=1)] if a.json else lines:
        print(line)


def _settings(a) -> dict[str, dict[str, Any]]:
    """Method -> what `ledger` is told: of the methods named, or of all with what each takes."""
    common = given(a, "rank", "targets")
    again = given(a, "recompute")
    asked = _methods(a)
    if asked:
        return {name: common | options(a.option, name) | again for name in asked}
    return {
        name: {k: v for k, v in common.items() if k in record.takes} | again
        for name, record in METHODS.items()
    }


def _methods(a) -> list[str]:
    """The methods named, with commas between; none where --method was not given."""
    named = [name.strip() for name in a.method.split(",")] if a.method is not None else []
    if not named:
        options(a.option, None)  # there is none
    return named


def _config_of(name: str) -> ModelConfig:
    """The config behind a name; raises ValueError where the shape is no Llama."""
    found = _shape_or_config(name)
    return found if isinstance(found, ModelConfig) else ModelConfig(**found.config_fields())


def _shape_or_config(name: str):
    """A published shape by name, or the config of a file, a folder or "base"."""
    from ..formats.huggingface import read_config
    from ..llama.shapes import SHAPES

    path = data_folder() / "base" if name == "base" else Path(name)
    if name in SHAPES:
        shape = SHAPES[name]
        return ModelConfig(**shape.config_fields()) if shape.llama else shape
    if path.exists():
        return read_config(path / "config.json" if path.is_dir() else path)
    raise nearest("shape", name, [*SHAPES, "base", "a folder or config.json"])
