"""python -m studies.memory VIEW: a table or the figure of docs/memory.md."""

import argparse
import sys
from pathlib import Path

from minilora.commands.arguments import names
from minilora.commands.sizes import config_of
from minilora.formats.models import load_model
from minilora.methods import DEFAULT
from minilora.support.plots import png
from minilora.support.terminal import ANY, width
from minilora.tuning.adapters import attach
from minilora.tuning.choices import find_method

from .. import common
from . import figure, savers, whatif


def main(argv: list[str] | None = None) -> int:
    """Print the table, or draw the figure; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m studies.memory", description="see docs/memory.md")
    views = "ways to save memory; bytes if ops kept more than needed; bytes against length"
    p.add_argument("view", choices=("savers", "what-if", "figure"), help=views)
    p.add_argument("--model", default="base", help="as for minilora memory (%(default)s)")
    p.add_argument("--method", default=",".join(DEFAULT), help="techniques (%(default)s)")
    p.add_argument("--targets", type=names, help="q_proj,v_proj,… or all-linear")
    p.add_argument("--batch", type=int, default=1, help="rows (%(default)s)")
    p.add_argument("--seq", type=int, default=512, help="tokens of a row (%(default)s)")
    path = Path("runs/memory_by_length.png")
    p.add_argument("--out", type=Path, default=path, help="of the figure (%(default)s)")
    a = p.parse_args(argv)
    return common.exit_code(lambda: show(a))


def show(a: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    settings: whatif.Settings = {
        name: {"targets": a.targets} if a.targets and "targets" in find_method(name).takes else {}
        for name in a.method.split(",")
    }
    if a.view == "figure":
        title = figure.heading(a.model, a.targets)
        lengths, ledgers = figure.curves(config_of(a.model), settings)
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_bytes(png(figure.memory_by_length(lengths, ledgers, title)))
        print(f"written to {a.out}")
    elif a.view == "what-if":
        kept = whatif.what_ifs(config_of(a.model), settings, a.batch, a.seq)
        print(*whatif.table(kept, width(ANY)), sep="\n")
    else:
        base = load_model(a.model)
        found = {
            name: savers.savers(attach(base, name, **how), a.batch, a.seq)
            for name, how in settings.items()
        }
        print(*savers.table(found, width(ANY)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
