"""count and memory: what a technique costs, from shapes or measured."""

import json
from pathlib import Path

from ..files import data_folder, nearest
from ..methods import METHODS
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
    p.add_argument("--json", action="store_true", help="as JSON")
    p.add_argument("--batch", type=int, default=1, help="rows (%(default)s)")
    p.add_argument("--seq", type=int, default=512, help="tokens a row (%(default)s)")
    p.add_argument("--mixed", action="store_true", help="16 bits, with 32-bit master and moments")
    p.add_argument("--measure", action="store_true", help="run the step as well, and measure it")
    p.add_argument("--fit", type=float, metavar="GB", help="the largest batch and length that fit")
    p.add_argument("--figure", type=Path, metavar="PNG", help="bytes against length")


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
    from .. import memory_tables as tables
    from ..model import ModelConfig
    from ..shapes import Shape

    model = _shape_or_config(a.model)
    config = ModelConfig(**model.config_fields()) if isinstance(model, Shape) else model  # says no
    common = given(a, "rank", "targets")
    names = [a.method] if a.method else list(METHODS)
    settings = {n: {k: v for k, v in common.items() if k in tables.takes(n)} for n in names}
    if a.method:
        settings[a.method] = common | options(a.option)
    if a.fit is not None:
        for line in tables.fitting(config, settings, a.fit, a.seq, a.mixed):
            print(line)
        return
    found = tables.ledgers(config, settings, a.batch, a.seq, a.mixed)
    measured = tables.measured(a.model, settings, a.batch, a.seq) if a.measure else {}
    if a.json:
        print(json.dumps(tables.as_json(found, measured), indent=1))
        return
    for line in tables.overview(found, measured):
        print(line)
    if a.method:
        for line in tables.saved(found[a.method]):
            print(line)
    if a.figure:
        tables.figure(config, settings, a.batch, a.figure, a.mixed)
        print(f"written to {a.figure}")


def _shape_or_config(name: str):
    """A published shape by name, or the config of a file, a folder or "base"."""
    from ..formats.huggingface import read_config
    from ..model import ModelConfig
    from ..shapes import SHAPES

    path = data_folder() / "base" if name == "base" else Path(name)
    if name in SHAPES:
        shape = SHAPES[name]
        return ModelConfig(**shape.config_fields()) if shape.llama else shape
    if path.exists():
        return read_config(path / "config.json" if path.is_dir() else path)
    raise nearest("shape", name, [*SHAPES, "base", "a folder or config.json"])
