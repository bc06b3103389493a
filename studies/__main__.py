"""python -m studies NAME …: run what a study's record lacks, print its table, draw its figure."""

import argparse
import sys
from pathlib import Path

from minilora.commands.sweep import running
from minilora.support.files import make_folder, optional_files

from . import APART, ORDER, common, run_study, study


def main(argv: list[str] | None = None) -> int:
    """Run the studies that are named; returns the exit code: 0, or 2 after a one-line error."""
    names = ", ".join((*ORDER, *APART))
    p = argparse.ArgumentParser(prog="python -m studies", description="see docs/claims.md")
    p.add_argument(
        "names", nargs="+", metavar="NAME", help=f"some of {names}; all: without the last two"
    )
    p.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder (%(default)s)")
    p.add_argument("--figures", type=Path, help="another folder for the figures")
    p.add_argument("--quick", action="store_true", help="a few cells of seconds, and no figure")
    running(p)
    a = p.parse_args(argv)
    return common.exit_code(lambda: run_all(a))


def run_all(a: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    chosen = [study(name) for name in (ORDER if a.names == ["all"] else dict.fromkeys(a.names))]
    figures = a.figures or a.out
    for folder in (a.out, figures):
        make_folder(folder)
    for each in chosen:
        print(f"{each.name}: {each.title}", flush=True)
        path = a.out / f"{each.name}{'.quick' if a.quick else ''}.jsonl"
        records = run_study(each, path, quick=a.quick, jobs=a.jobs, dask=a.dask)
        if not a.quick:
            print(f"\n{each.table(records)}\n")
            drawn = figures / f"{each.name}.png"
            with optional_files(drawn):
                each.figure(records, drawn)
                print(f"drawn: {drawn}")
        print(f"{len(records)} cells in {path}, {sum(r['seconds'] for r in records):.0f} s of work")


if __name__ == "__main__":
    sys.exit(main())
