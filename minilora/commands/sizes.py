"""count and memory: what a technique costs, from shapes or measured."""

import json
from pathlib import Path
from typing import Any

from ..files import data_folder, nearest
from ..methods import METHODS
from ..model import ModelConfig
from .arguments import adapter_options, command, given, options


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "count", count, "trainable numbers, from shapes alone")
    p.add_argument("--shape", default="base", help="gpt3-175b, llama-7b, … or a config.json")
    adapter_options(p)
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command(commands, "memory", memory, "bytes of a training step, predicted or measured")
    p.add_argument("--model", default="base", help="'base', a folder, or llama-7b, … (%(default)s)")
    adapter_options(p)
    p.add_argument("--recompute", metavar="WHAT", help="less memory for time: layers or swiglu")
    p.add_argument("--batch", type=int, default=1, help="rows (%(default)s)")
    p.add_argument("--seq", type=int, help="tokens a row (512, or what the model was made for)")
    p.add_argument("--mixed", action="store_true", help="16 bits, with 32-bit master and moments")
    p.add_argument("--json", action="store_true", help="as JSON")
    view = p.add_mutually_exclusive_group()
    view.add_argument("--measure", action="store_true", help="run the step as well, and measure it")
    view.add_argument("--fit", type=float, metavar="GB", help="the largest batch and length")
    view.add_argument("--what-if", action="store_true", help="if pairs kept more than they need")
    view.add_argument("--savers", action="store_true", help="memory for time, both measured")
    view.add_argument("--figure", type=Path, metavar="PNG", help="bytes against length")


def count(a) -> None:
    """Print trainable numbers of one method, or of all."""
    from ..count import count as count_one
    from ..count import table as count_all

    model = _shape_or_config(a.shape)
    if a.method:
        found = count_one(model, a.method, **given(a, "rank", "targets"), **options(a.option))
        print(json.dumps(found, indent=1) if a.json else f"{found['trainable']:,}")
        if not a.json and found["frozen_shared"]:
            print(f"and {found['frozen_shared']:,} frozen numbers that all layers share")
        return
    rows = count_all(model, a.rank, a.targets)
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
    if a.figure:
        title = figure.heading(a.model, settings, a.batch, a.mixed)
        figure.draw(config, settings, a.batch, a.figure, title, a.mixed)
        print(f"written to {a.figure}")
        return
    found: dict[str, Any]
    if a.fit is not None:
        found = tables.fits(config, settings, a.fit, seq, a.mixed)
        lines = tables.fit_table(found, config, a.fit, seq)
    elif a.what_if:
        found = whatif.what_ifs(config, settings, a.batch, seq, a.mixed)
        lines = whatif.table(found)
    elif a.savers:
        found = tables.savers_of(a.model, settings, a.batch, seq)
        lines = savers.table(found)
    else:
        ledgers = tables.ledgers(config, settings, a.batch, seq, a.mixed)
        real = tables.measured(a.model, settings, a.batch, seq) if a.measure else {}
        found = tables.as_json(ledgers, real)
        lines = tables.overview(ledgers, real, details=len(settings) == 1)
    for line in [json.dumps(found, indent=1)] if a.json else lines:
        print(line)


def _settings(a) -> dict[str, dict[str, Any]]:
    """Method -> what `ledger` is told: of the methods named, or of all with what each takes."""
    common = given(a, "rank", "targets")
    again = given(a, "recompute")
    if a.method:
        return {name: common | options(a.option) | again for name in a.method.split(",")}
    return {
        name: {k: v for k, v in common.items() if k in record.takes} | again
        for name, record in METHODS.items()
    }


def _config_of(name: str) -> ModelConfig:
    """The config behind a name; raises ValueError where the shape is no Llama."""
    found = _shape_or_config(name)
    return found if isinstance(found, ModelConfig) else ModelConfig(**found.config_fields())


def _shape_or_config(name: str):
    """A published shape by name, or the config of a file, a folder or "base"."""
    from ..formats.huggingface import read_config
    from ..shapes import SHAPES

    path = data_folder() / "base" if name == "base" else Path(name)
    if name in SHAPES:
        shape = SHAPES[name]
        return ModelConfig(**shape.config_fields()) if shape.llama else shape
    if path.exists():
        return read_config(path / "config.json" if path.is_dir() else path)
    raise nearest("shape", name, [*SHAPES, "base", "a folder or config.json"])
