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
    p.add_argument("--record", type=Path, metavar="PATH", help="show this bench.json's parts")
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
    """Print the tables of a record: of the parts that are named, or of all that it has."""
    record = read_json(a.record, {"machine": dict})
    print(about(record["machine"], width(ANY)))
    parts = {part: record[part] for part in PARTS if part in (a.parts or PARTS) and part in record}
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
