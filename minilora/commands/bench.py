"""bench: how fast the kernels and whole steps are, beside NumPy and torch."""

import argparse
from pathlib import Path
from typing import Any

from ..support.terminal import ANY, width
from ..support.values import whole
from .arguments import command

PARTS = ("kernels", "steps", "words", "instructions", "methods", "growth", "ladder")


def add(commands) -> None:
    """Put the command on the parser."""
    p = command(commands, "bench", bench)
    p.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all where none is named)"
    )
    p.add_argument("--sizes", nargs="*", help="sizes of the model: tiny small smollm2 (and toy)")
    p.add_argument("--cases", nargs="*", help="methods, and lora-all: LoRA on all linears")
    p.add_argument("--rounds", type=int, help="turns of each process (5)")
    p.add_argument("--seconds", type=float, help="length of a turn (2)")
    p.add_argument("--threads", type=int, help="threads of each process (the number of cores)")
    p.add_argument(
        "--peer-python",
        default="",
        metavar="PATH",
        help="a Python that has torch, transformers and peft (this one)",
    )
    p.add_argument("--quick", action="store_true", help="a small model, short turns")
    p.add_argument(
        "--record", type=Path, metavar="PATH", help="print an earlier bench.json, measure nothing"
    )
    p.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of the record (%(default)s)"
    )


def settings_of(a: argparse.Namespace):
    """Settings from the options; raises ValueError for what is not known or not positive."""
    from ..bench import cases, turns
    from ..support.files import find

    rounds = (2 if a.quick else 5) if a.rounds is None else a.rounds
    seconds = (0.1 if a.quick else 2.0) if a.seconds is None else a.seconds
    threads = 0 if a.threads is None else whole("--threads", a.threads, 1)  # 0: all
    for name, value in (("rounds", rounds), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"--{name} is {value}, wanted more than 0")
    sizes = a.sizes or (["toy"] if a.quick else [name for name in cases.SIZES if name != "toy"])
    chosen = a.cases or turns.Settings.cases
    parts: dict[str, Any] = dict.fromkeys(PARTS)
    tables: dict[str, Any] = {"size": cases.SIZES, "case": cases.CASES, "part": parts}
    for what, names in (("size", sizes), ("case", chosen), ("part", a.parts)):
        for name in names:
            find(what, name, tables[what])
    return turns.Settings(
        tuple(sizes),
        tuple(chosen),
        rounds,
        seconds,
        threads,
        python=a.peer_python,
        instructed=tuple(a.cases or turns.Settings.instructed),
        quick=a.quick,
    )


def bench(a: argparse.Namespace) -> None:
    """Run the parts, print a table of each, write bench.json and the figures.

    Raises ValueError for unknown names, for numbers that are not positive, or if results differ.
    """
    from ..bench import machine, tables
    from ..support.files import make_folder, read_json, write_json

    settings = settings_of(a)
    if a.record:
        return _show(read_json(a.record, {"machine": dict}), a.parts)
    make_folder(a.out)
    about = {k: v for k, v in vars(settings).items() if k != "python"}  # a path of this machine
    record: dict[str, Any] = {"machine": machine.facts(), "settings": about}
    print(tables.about(record["machine"], width(ANY)))
    for part in PARTS:
        if part in (a.parts or PARTS):
            record[part] = _run(part, settings, a.out)
            write_json(a.out / "bench.json", record)
            print()
    print(a.out / "bench.json")


def _show(record, parts) -> None:
    """The tables of a record: of the parts that are named, or of all that it has."""
    from ..bench import tables

    print(tables.about(record["machine"], width(ANY)))
    for part in PARTS:
        if part in (parts or record) and record.get(part):
            print(*tables.lines(part, record[part], width(ANY)), sep="\n", end="\n\n")


def _run(part, settings, out):
    """Measure a part; print each record when it is measured; draw the part's figure."""
    from ..bench import figures, growth, kernels, ladder, masked, steps, tables
    from ..support.files import write_atomically
    from ..support.plots import png

    measures: dict[str, Any] = {
        "kernels": kernels.compared,
        "steps": steps.against_torch,
        "words": masked.on_words,
        "instructions": masked.on_instructions,
        "methods": steps.among_ourselves,
        "growth": growth.all_axes,
        "ladder": ladder.climbed,
    }
    measure = measures[part]
    told: list[Any] = []
    wide = width(ANY)

    def tell(record):
        print(*tables.rows(part, record, not told, wide), sep="\n", flush=True)
        told.append(record)

    measured = measure(settings, tell)
    for line in (*tables.others(part, told, wide), *tables.closing(part, measured, wide)):
        print(line)
    drawn: dict[str, Any] = {"kernels": figures.roofline, "growth": figures.growth}
    figure = drawn.get(part)
    if figure:
        path = out / f"{figure.__name__}.png"
        write_atomically(path, png(figure(measured)))
        print(path)
    return measured
