"""`minilora bench`: what is asked, what is printed, what is written."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..files import make_folder, write_atomically
from . import cases, machine, steps, tables

PARTS = ("steps", "methods")


def options(p: argparse.ArgumentParser) -> None:
    """The options of the command."""
    p.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"{', '.join(PARTS)}; all where none is named",
    )
    p.add_argument("--sizes", nargs="*", default=None, help=", ".join(cases.SIZES))
    p.add_argument("--cases", nargs="*", default=None, help=", ".join(cases.CASES))
    p.add_argument("--rounds", type=int, help="turns of each process (5)")
    p.add_argument("--seconds", type=float, help="that a turn lasts (2)")
    p.add_argument("--threads", type=int, default=0, help="of each side (the number of cores)")
    p.add_argument(
        "--peer-python", default="", metavar="PATH", help="a Python that has torch and peft"
    )
    p.add_argument("--quick", action="store_true", help="a small model, some seconds in all")
    p.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of the record (%(default)s)"
    )


def settings_of(a: argparse.Namespace) -> steps.Settings:
    """Settings from the options; raises ValueError for what is not known or not positive."""
    rounds = (2 if a.quick else 5) if a.rounds is None else a.rounds
    seconds = (0.1 if a.quick else 2.0) if a.seconds is None else a.seconds
    for name, value in (("rounds", rounds), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"--{name} is {value}, wanted more than 0")
    sizes = a.sizes or (["toy"] if a.quick else [name for name in cases.SIZES if name != "toy"])
    chosen = a.cases or list(cases.CASES)
    for name in sizes:
        cases.find("size", name, cases.SIZES)
    for name in chosen:
        cases.find("case", name, cases.CASES)
    return steps.Settings(
        tuple(sizes), tuple(chosen), rounds, seconds, a.threads, python=a.peer_python
    )


def bench(a: argparse.Namespace) -> None:
    """Run the parts, print a table of each, write bench.json."""
    settings = settings_of(a)
    parts = a.parts or PARTS
    for part in parts:
        cases.find("part", part, dict.fromkeys(PARTS))
    make_folder(a.out)
    record: dict[str, Any] = {"machine": machine.facts(), "settings": vars(settings)}
    print(tables.about(record["machine"]))
    for part in PARTS:
        if part in parts:
            record[part] = RUN[part](settings)
            write_atomically(a.out / "bench.json", json.dumps(record, indent=1).encode())
    print(f"\n{a.out / 'bench.json'}")


def _steps(settings):
    if not settings.peers():
        print("\nPyTorch and PEFT are not installed: no comparison with them")
    else:
        print(tables.head(tables.STEPS))
    return steps.against_torch(settings, lambda r: print(tables.row(tables.STEPS, r), flush=True))


def _methods(settings):
    def tell(record):
        print(f"\n{record['size']}\n{tables.head(tables.METHODS)}")
        for row in tables.rows_of_methods(record):
            print(tables.row(tables.METHODS, row))

    return steps.among_ourselves(settings, tell)


RUN = {"steps": _steps, "methods": _methods}


def main(argv: list[str] | None = None) -> None:
    """The command alone."""
    parser = argparse.ArgumentParser(prog="minilora bench", description=__doc__)
    options(parser)
    bench(parser.parse_args(argv))
