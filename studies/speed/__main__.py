"""python -m studies.speed PART …: measure, or read a record; print the tables, draw the figures."""

import argparse
import sys
from pathlib import Path
from typing import Any

import minilora.bench.steps
import minilora.bench.tables
from minilora.bench.tables import about
from minilora.commands.bench import Parts, measure, settings_of, timing_options
from minilora.support.files import make_folder, read_json, write_atomically
from minilora.support.plots import png
from minilora.support.terminal import ANY, width

from .. import common
from . import figures, growth, kernels, ladder, steps, tables
from .sides import Settings

PARTS: Parts = {
    "kernels": (kernels.compared, tables.kernels),
    "steps": (steps.against_torch, tables.steps),
    "words": (steps.on_words, tables.masked),
    "instructions": (steps.on_instructions, tables.masked),
    "methods": (minilora.bench.steps.among_ourselves, minilora.bench.tables.methods),
    "growth": (growth.all_axes, tables.growth),
    "ladder": (ladder.climbed, tables.ladder),
}
FIGURES = {"kernels": figures.roofline, "growth": figures.growth}


def main(argv: list[str] | None = None) -> int:
    """Measure the parts that are named, or show a record's; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m studies.speed", description="see docs/speed.md")
    timing_options(p, PARTS, Settings())
    p.add_argument("--peer-python", default="", metavar="PATH", help="a Python that has torch")
    p.add_argument("--record", type=Path, metavar="PATH", help="show this record, or a folder's")
    p.add_argument("--out", type=Path, default=Path("runs/speed"), help="folder (%(default)s)")
    p.add_argument("--figures", type=Path, help="another folder for the figures")
    a = p.parse_args(argv)
    return common.exit_code(lambda: show(a) if a.record else run(a))


def run(a: argparse.Namespace) -> None:
    """Measure, print, write the record, draw."""
    settings = Settings(
        **settings_of(a, PARTS, Settings()),
        python=a.peer_python,
        instructed=tuple(a.cases or Settings.instructed),
    )
    chosen = {part: PARTS[part] for part in PARTS if part in (a.parts or PARTS)}
    draw(measure(chosen, settings, a.out), a.figures or a.out)


def show(a: argparse.Namespace) -> None:
    """Print the tables of each record: of the parts that are named, or of all that it has.

    Raises ValueError where none has these parts.
    """
    paths = sorted(a.record.rglob("*.json")) if a.record.is_dir() else [a.record]
    records = [read_json(path, {"machine": dict}) for path in paths]
    asked = [part for part in PARTS if part in (a.parts or PARTS)]
    having = [record for record in records if any(part in record for part in asked)]
    if not having:
        raise ValueError(f"{a.record}: no record of {', '.join(asked)}")
    for record in having:
        parts = {part: record[part] for part in asked if part in record}
        print(about(record["machine"], width(ANY)))
        for part, measured in parts.items():
            print(*PARTS[part][1](measured, width(ANY)), sep="\n", end="\n\n")
        if a.figures:
            draw(parts, a.figures)


def draw(record: dict[str, Any], folder: Path) -> None:
    """Write the figures of the parts that were measured."""
    for part, figure in FIGURES.items():
        if part in record:
            path = make_folder(folder) / f"{figure.__name__}.png"
            write_atomically(path, png(figure(record[part])))
            print(path)


if __name__ == "__main__":
    sys.exit(main())
