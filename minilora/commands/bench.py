"""bench: how fast the kernels and a step of each technique are on this machine."""

import argparse
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bench import cases
from ..bench.turns import Settings
from ..methods import own
from ..support import plots
from ..support.files import find, make_folder, write_json
from ..support.terminal import ANY, width
from ..support.values import whole
from .arguments import OWN, command, given, names
from .text import BASE

PARTS = ("kernels", "methods")
WHERE = "where"
# part -> (settings -> record; record, columns of text -> lines)
Parts = Mapping[str, tuple[Callable[[Any], Any], Callable[[Any, int], Iterable[str]]]]


def add(commands) -> None:
    """Add the command to the parser."""
    p = command(commands, "bench", bench)
    timing_options(p, PARTS, Settings())
    only = p.add_argument_group(WHERE, "where a step's milliseconds go; runs when it is named")
    only.add_argument("--targets", type=names, help="q_proj,v_proj,… or all-linear")
    only.add_argument("--base", default="base", help=f"a size, or {BASE}")
    only.add_argument("--rows", type=int, default=512, help="of the batch (%(default)s)")
    p.epilog = "beside PyTorch: python -m studies.speed, in the repository"
    p.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of the record (%(default)s)"
    )


def timing_options(p: argparse.ArgumentParser, parts: Iterable[str], usual: Settings) -> None:
    """Add the parts, and the options that `settings_of` reads."""
    parts = ", ".join(parts)
    p.add_argument("parts", nargs="*", metavar="PART", help=f"{parts} (all where none is named)")
    sizes = f"of {' '.join(cases.SIZES)} ({' '.join(usual.sizes)})"
    p.add_argument("--sizes", nargs="*", default=usual.sizes, help=f"sizes of the model, {sizes}")
    what = f"methods, {OWN}, and lora-all: LoRA on all linears"
    p.add_argument("--cases", "--method", "--methods", nargs="*", help=what)
    p.add_argument("--rounds", type=int, default=usual.rounds, help="turns (%(default)s)")
    p.add_argument("--seconds", type=float, default=usual.seconds, help="of a turn (%(default)s)")
    p.add_argument("--threads", type=int, default=usual.threads, help="threads (%(default)s)")


def settings_of(a: argparse.Namespace, parts: Iterable[str], usual: Settings) -> dict[str, Any]:
    """Arguments of `Settings`; raises ValueError for unknown names and numbers too small."""
    named = ",".join(a.cases or usual.cases).split(",")
    chosen = tuple(own.spelled(name) for name in named)  # another process reads the file again
    for name in chosen:
        cases.case(name)
    for what, wanted, known in (
        ("size", a.sizes, cases.SIZES),
        ("part", a.parts, dict.fromkeys(parts)),
    ):
        for name in wanted:
            find(what, name, known)
    if not a.seconds > 0:
        raise ValueError(f"--seconds is {a.seconds}, wanted more than 0")
    numbers = {name: whole(f"--{name}", getattr(a, name), 1) for name in ("rounds", "threads")}
    return {"sizes": tuple(a.sizes), "cases": chosen, "seconds": a.seconds, **numbers}


def bench(a: argparse.Namespace) -> None:
    """Run the parts, print a table of each, and write bench.json.

    Raises ValueError for unknown names, for numbers that are not positive, or if results differ.
    """
    from ..bench import kernels, steps, tables, where

    settings = Settings(**settings_of(a, (*PARTS, WHERE), Settings()))
    case, *others = settings.cases if a.cases else [steps.BASE]
    if WHERE in a.parts and others:
        raise ValueError(f"{WHERE}: got {len(settings.cases)} methods, wanted one")
    of = {"case": case, "rows": whole("--rows", a.rows, 1), **given(a, "base", "targets")}
    parts: Parts = {
        "kernels": (kernels.beside_numpy, tables.kernels),
        "methods": (steps.among_ourselves, tables.methods),
        WHERE: (functools.partial(where.in_a_worker, **of), tables.where),
    }
    chosen = [part for part in parts if part in (a.parts or PARTS)]
    record = measure({part: parts[part] for part in chosen}, settings, a.out)
    if WHERE in record:
        (a.out / "where.png").write_bytes(plots.png(where.figure(record[WHERE])))
        print(a.out / "where.png")


def measure(parts: Parts, settings: Settings, out: Path) -> dict[str, Any]:
    """Measure the parts, print a table of each, and write the record, bench.json; returns it."""
    from ..bench import machine, tables

    make_folder(out)
    about = {k: v for k, v in vars(settings).items() if k != "python"}  # a path of this machine
    record: dict[str, Any] = {"machine": machine.facts(), "settings": about}
    print(tables.about(record["machine"], width(ANY)), flush=True)
    for part, (measured, lines) in parts.items():
        record[part] = measured(settings)
        write_json(out / "bench.json", record)
        print(*lines(record[part], width(ANY)), sep="\n", end="\n\n", flush=True)
    print(out / "bench.json")
    return record
