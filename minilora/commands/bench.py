"""bench: how fast the kernels and whole steps are, beside NumPy and torch."""

import argparse
from pathlib import Path
from typing import Any

from ..support.values import whole
from .arguments import command

PARTS = ("kernels", "steps", "methods", "growth", "ladder")


def add(commands) -> None:
    """Put the command on the parser."""
    p = command(commands, "bench", bench, "time kernels and steps, beside NumPy and PyTorch")
    p.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all where none is named)"
    )
    p.add_argument("--sizes", nargs="*", help="of the model: tiny small smollm2 (and toy)")
    p.add_argument("--cases", nargs="*", help="methods, and lora-all: LoRA on all linears")
    p.add_argument("--rounds", type=int, help="turns of each process (5)")
    p.add_argument("--seconds", type=float, help="that a turn lasts (2)")
    p.add_argument("--threads", type=int, help="of each side (the number of cores)")
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
    from ..bench import cases, steps
    from ..support.files import find

    rounds = (2 if a.quick else 5) if a.rounds is None else a.rounds
    seconds = (0.1 if a.quick else 2.0) if a.seconds is None else a.seconds
    threads = 0 if a.threads is None else whole("--threads", a.threads, 1)  # 0: all
    for name, value in (("rounds", rounds), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"--{name} is {value}, wanted more than 0")
    sizes = a.sizes or (["toy"] if a.quick else [name for name in cases.SIZES if name != "toy"])
    chosen = a.cases or list(cases.CASES)
    for name in sizes:
        find("size", name, cases.SIZES)
    for name in chosen:
        find("case", name, cases.CASES)
    for name in a.parts:
        find("part", name, dict.fromkeys(PARTS))
    return steps.Settings(
        tuple(sizes), tuple(chosen), rounds, seconds, threads, python=a.peer_python
    )


def bench(a: argparse.Namespace) -> None:
    """Run the parts, print a table of each, write bench.json and the figures."""
    from ..bench import machine, tables
    from ..support.files import make_folder, read_json, write_json

    settings = settings_of(a)
    if a.record:
        return _show(read_json(a.record, {"machine": dict}), a.parts)
    make_folder(a.out)
    about = {k: v for k, v in vars(settings).items() if k != "python"}  # a path of this machine
    record: dict[str, Any] = {"machine": machine.facts(), "settings": about}
    print(tables.about(record["machine"]))
    run = dict(zip(PARTS, (_kernels, _steps, _methods, _growth, _ladder), strict=True))
    for part in PARTS:
        if part in (a.parts or PARTS):
            record[part] = run[part](settings, a.out)
            write_json(a.out / "bench.json", record)
            print()
    print(a.out / "bench.json")


def _show(record, parts) -> None:
    """The tables of a record, of the parts that are named, or of all that it has."""
    from ..bench import tables

    print(tables.about(record["machine"]))
    for part in PARTS:
        if part in (parts or record) and record.get(part):
            print(*tables.lines(part, record[part]), sep="\n", end="\n\n")


def _kernels(settings, out):
    from ..bench import figures, kernels, tables

    print(tables.head(tables.KERNELS))
    found = kernels.compared(settings, _printing(tables.KERNELS))
    print(tables.about_kernels(found))
    _draw(out / "roofline.png", figures.roofline(found))
    return found


def _steps(settings, out):
    from ..bench import steps, tables

    if not settings.peers():
        print("PyTorch and PEFT are not installed: no comparison with them")
        return []
    print(tables.head(tables.STEPS))
    return steps.against_torch(settings, _printing(tables.STEPS))


def _methods(settings, out):
    from ..bench import steps, tables

    def tell(record):
        print(f"{record['size']}\n{tables.head(tables.METHODS)}")
        for row in tables.rows_of_methods(record):
            print(tables.row(tables.METHODS, row))

    return steps.among_ourselves(settings, tell)


def _growth(settings, out):
    from ..bench import figures, growth, tables

    print(tables.head(tables.GROWTH))
    found = growth.all_axes(settings, _printing(tables.GROWTH))
    _draw(out / "growth.png", figures.growth(found))
    return found


def _ladder(settings, out):
    from ..bench import ladder, tables
    from ..fast import compiled

    if not compiled():
        print("Numba's kernels are not in use: no ladder")
        return {}
    print(tables.head(tables.LADDER))
    found = ladder.climbed(settings, _printing(tables.LADDER))
    print(tables.about_ladder(found))
    return found


def _printing(columns):
    from ..bench import tables

    return lambda record: print(tables.row(columns, record), flush=True)


def _draw(path, figure):
    from ..support.files import write_atomically
    from ..support.plots import png

    write_atomically(path, png(figure))
    print(path)
