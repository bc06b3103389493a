"""compare, tune, report: techniques on the same words; pretrain: the base of the word lab."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..methods import DEFAULT, METHODS
from ..support.files import make_folder, nearest, optional_files, replacing
from ..support.locks import using
from ..support.plots import rows
from ..support.terminal import width
from ..support.values import whole
from ..tuning.choices import find_method
from .arguments import OWN, command, given, names, read_number, read_whole


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "compare", compare)
    _comparison_options(p)
    _out(p, "runs/compare", "folder for the results")
    p.add_argument(
        "--lr", action="append", default=[], metavar="METHOD=RATE", help="instead of the tuned rate"
    )
    p.add_argument("--rates", type=Path, help="a record of minilora tune (the built-in one)")
    p.add_argument(
        "--jobs", type=int, help="runs side by side, of one thread (one a core; a large model: 1)"
    )

    p = command(commands, "tune", tune)
    _comparison_options(p)
    _out(p, "runs/tuning.json", "the record; a new one starts as a copy of the built-in one")
    rates = "learning rates to try, such as 1e-3,1e-2 (eleven of them)"
    p.add_argument("--grid", type=lambda text: text.split(","), help=rates)

    p = command(commands, "report", report)
    p.add_argument("folder", type=Path, help="a folder made by compare")

    p = command(commands, "pretrain", pretrain)
    _out(p, "runs/base", "folder of the model")
    p.add_argument("--steps", type=int, help="optimizer steps")
    p.add_argument("--seed", type=int, help="seed of the weights and the order of the words")


def _out(p, default, what):
    p.add_argument("--out", type=Path, default=Path(default), help=f"{what} (%(default)s)")


def _comparison_options(p):
    all_methods, usual = ",".join(METHODS), ",".join(DEFAULT)
    wide = [f"{r.title} ({r.default_rank})" for r in METHODS.values() if r.rank_above_width]
    default = "all" if all_methods == usual else usual
    p.add_argument(
        "--task", default="past", help="a task of the word lab, or category (%(default)s)"
    )
    p.add_argument("--base", help="'base', smollm2-135m or a model's folder (the task's)")
    p.add_argument("--methods", type=names, help=f"some of {all_methods}, {OWN} ({default})")
    p.add_argument("--train-size", type=int, help="words to train on (300; category: 800)")
    p.add_argument(
        "--rank",
        "--r",
        action="append",
        default=[],
        metavar="R or METHOD=R",
        help=f"rank of all but {', '.join(wide)}, or of one method (4; category: 8)",
    )
    p.add_argument("--targets", type=names, help="q_proj,v_proj,… or all-linear (q_proj,v_proj)")
    p.add_argument("--steps", type=int, help="optimizer steps (150; category: 60)")
    p.add_argument("--seeds", type=int, help="runs of each method (3, tune 5; category: 1)")


def settings_of(a):
    """Settings from a command line.

    A --rank without a name is for all techniques except VeRA, whose ranks are much larger. Raises
    ValueError for an unknown method, or a number that is not whole or below 1.
    """
    from ..lab.settings import STARTS, Settings

    start = STARTS.get(a.task, Settings(task=a.task))
    methods = tuple(dict.fromkeys(start.methods if a.methods is None else a.methods))
    if not methods:
        raise ValueError(f"--methods: got none, wanted some of {', '.join(METHODS)}")
    counts = given(a, "steps", "seeds", "train_size")
    for name, value in counts.items():
        whole(f"--{name.replace('_', '-')}", value, 1)
    own = {k: read_whole("--rank", v) for k, _, v in (r.partition("=") for r in a.rank if "=" in r)}
    common = [read_whole("--rank", r) for r in a.rank if "=" not in r]
    for name in (*methods, *own):
        find_method(name)
    wide = {name: r.default_rank for name, r in METHODS.items() if r.rank_above_width}
    rank = common[-1] if common else start.rank
    others = given(a, "base", "targets")
    return start.changed(methods=methods, rank=rank, ranks=wide | own, **counts, **others)


def compare(a) -> None:
    """Run the comparison; print the table; write results.json, figures, adapters, report.html.

    Raises ValueError for wrong settings, FileNotFoundError if the file of --rates is missing,
    OSError if nothing can be written, KeyboardInterrupt if Ctrl-C ended the comparison.
    """
    from ..lab import compare as comparison
    from ..lab import rates, table
    from ..lab import report as pages
    from ..tuning.storage import ARRAYS, CONFIG

    settings, lr = settings_of(a), _given_rates(a.lr)
    record = rates.read(a.rates)
    so_far: dict[str, Any] = {}
    stopped = ""
    with using(a.out):
        with replacing(a.out, remove=(CONFIG, ARRAYS)) as folder:
            try:
                so_far = comparison.compare(
                    settings,
                    lr,
                    folder,
                    report=lambda name, row: print(table.progress_line(row, width()), flush=True),
                    ready=lambda: print(table.opening(settings, width()), flush=True),
                    record=record,
                    jobs=a.jobs,
                    keep=so_far.update,
                )
            except KeyboardInterrupt:
                if not so_far.get("methods"):
                    raise
                done, wanted = len(rows(so_far)), len(comparison.rows(settings))
                stopped = f"stopped; {done} of {wanted} rows are in {a.out}"
                _remove_unfinished(folder / "adapters", so_far["methods"])
            results = pages.write_results(so_far, folder)
        drawn = [a.out / name for name in (pages.PAGE, *pages.FIGURES)]
        with optional_files(*drawn):
            pages.draw(results, a.out)
    print(table.table(so_far, width()))
    if stopped:
        raise KeyboardInterrupt(stopped)
    there = ["results.json", *(path.name for path in drawn if path.exists()), "adapters/"]
    print(f"\nwritten to {a.out}: {', '.join(there)}")


def _remove_unfinished(adapters: Path, finished) -> None:
    """Remove the adapters of rows without results: not all of their seeds were run."""
    for folder in adapters.iterdir():
        if folder.name not in finished:
            shutil.rmtree(folder)


def _given_rates(texts) -> dict[str, float]:
    """--lr METHOD=RATE, … as a dict."""
    from ..lab.settings import SCRATCH

    rates = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(
                f"--lr: got {text!r}, wanted METHOD=RATE, as lora={text}: each has its own rate"
            )
        if name not in (*METHODS, SCRATCH):
            raise nearest("method", name, [*METHODS, SCRATCH])
        try:
            rates[name] = float(value)
        except ValueError:
            raise ValueError(f"--lr: got {text!r}, wanted {name}=RATE") from None
    return rates


def tune(a) -> None:
    """Run the sweep; a method's cells are recorded when its last cell ends.

    Raises ValueError for wrong settings or for a file of another kind at --out.
    """
    from ..formats.models import load_model
    from ..lab import rates
    from ..lab import tune as sweep
    from ..lab.settings import STARTS
    from ..tuning.checkpoints import fingerprint

    settings = settings_of(a)
    if a.seeds is None and settings.task not in STARTS:
        settings = settings.changed(seeds=5)
    grid = sweep.GRID if a.grid is None else tuple(read_number("--grid", t) for t in a.grid)
    if not grid or not all(0 < lr < float("inf") for lr in grid):
        raise ValueError(f"--grid: got {a.grid}, wanted rates above 0")
    if a.out.exists():
        rates.read(a.out)  # raises now if another kind of file is there
    make_folder(a.out.parent)
    base = fingerprint(load_model(settings.base))
    done: dict[str, list] = {}

    def keep(cell):
        print(json.dumps(cell), flush=True)
        cells = done.setdefault(cell["method"], [])
        cells.append(cell)
        if len(cells) == len(grid):
            rates.add(a.out, settings, base, cells)

    sweep.tune(settings, grid, report=keep)
    for name, choice in rates.read(a.out)["chosen"][settings.task].items():
        rank = f", rank {choice['rank']}" if choice["rank"] else ""
        print(f"{name:12} lr {choice['lr']:g}{rank}")


def report(a) -> None:
    """Redraw the figures and the page of a comparison from its results.json."""
    from ..lab import report as pages
    from ..lab import table

    results = pages.read_results(a.folder)
    with using(a.folder):
        pages.write_all(results, a.folder)
    print(table.table(results, width()))


def pretrain(a) -> None:
    """Train the base and write its folder. Raises ValueError for wrong steps or seed."""
    from ..lab import pretrain as base

    own = given(a, "steps", "seed")
    for name, value in own.items():
        whole(f"--{name}", value, 1 if name == "steps" else 0)
    with using(a.out):
        print(json.dumps(base.pretrain(base.Recipe(**own), a.out), indent=1))
