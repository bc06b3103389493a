"""python -m studies NAME …: run what a study's record lacks, print its table, draw its figure."""

import argparse
import sys
from pathlib import Path

from minilora.commands.sweep import running
from minilora.support.files import make_folder

from . import ORDER, answer, question


def main(argv: list[str] | None = None) -> int:
    """Run the studies that are named; returns the exit code: 0, or 2 after a one-line error."""
    p = argparse.ArgumentParser(prog="python -m studies", description="see docs/claims.md")
    p.add_argument("names", nargs="+", metavar="NAME", help=f"some of {', '.join(ORDER)}, or all")
    p.add_argument("--out", type=Path, default=Path("runs/studies"), help="folder (%(default)s)")
    p.add_argument("--figures", type=Path, help="another folder for the figures")
    p.add_argument("--quick", action="store_true", help="a few cells of seconds, and no figure")
    running(p)
    try:
        run(p.parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"studies: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("studies: stopped", file=sys.stderr)
        return 130
    return 0


def run(a: argparse.Namespace) -> None:
    """What the command line asks for."""
    chosen = ORDER if a.names == ["all"] else dict.fromkeys(a.names)
    asked = [question(name) for name in chosen]
    for folder in (a.out, a.figures or a.out):
        make_folder(folder)
    for study in asked:
        print(f"{study.name}: {study.title}", flush=True)
        path = a.out / f"{study.name}{'.quick' if a.quick else ''}.jsonl"
        records = answer(study, path, quick=a.quick, jobs=a.jobs, dask=a.dask)
        if not a.quick:
            print(f"\n{study.table(records)}\n")
            drawn = (a.figures or a.out) / f"{study.name}.png"
            study.figure(records, drawn)
            print(f"drawn: {drawn}")
        print(f"{len(records)} cells in {path}, {sum(r['seconds'] for r in records):.0f} s of work")


if __name__ == "__main__":
    sys.exit(main())
