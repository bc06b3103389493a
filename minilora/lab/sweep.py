"""One training run of the word lab as a cell: plain settings in, plain numbers out; grids of such
cells, and what came out best.
"""

import inspect
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..support.files import find
from ..support.values import number, whole
from ..text import tasks
from ..tuning.adapters import Tuned
from ..tuning.choices import find_method
from ..tuning.train import Diverged
from . import rates
from .cells import Cell, Record, grid
from .markdown import table as markdown_table
from .runs import Words, load_words, mean_loss, run, the_model
from .settings import Settings
from .spread import mean_sd, plus_minus

POINTS = 50  # of a loss curve in a record, at most

ADAPTERS = ("rank", "alpha", "targets")  # of the settings, what not every method takes


def word_run(
    *,
    method: str,
    lr: float,
    task: str = "past",
    train_size: int = 300,
    rank: int = 4,
    alpha: float | None = None,
    targets: Sequence[str] | str = ("q_proj", "v_proj"),
    steps: int = 150,
    batch_size: int = 32,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    weight_decay: float = 0.01,
    every: int | None = None,
    score: Iterable[str] = ("validation", "test"),
) -> dict[str, Any]:
    """One run of a method (or from "scratch"): what it cost in numbers, learned, and scores.

    rank: of a method that has one, VeRA's too; alpha: 2·rank where None. options: the method's own.
    every: the validation loss each so many steps. score: on which words it is judged in the end.
    ->  trainable: numbers. losses: [step, mean training loss since the point before].
    evaluations: [step, validation loss]. validation, test: {"exact_match", "loss"}. A run that
    diverged has scores of 0, losses of None, and the step as "diverged".
    Raises ValueError for what cannot be run.
    """
    settings = settings_of(task, train_size, rank, targets, steps, batch_size, weight_decay)
    own = {} if alpha is None else {"alpha": alpha}
    model, words = the_model(settings.base), load_words(settings)
    scored = list(score)
    try:
        tuned, history = run(
            model, words, settings, method, lr, seed, every, **own, **(options or {})
        )
    except Diverged as error:
        nothing = {name: {"exact_match": 0.0, "loss": None} for name in scored}
        return {"diverged": error.step, "losses": [], "evaluations": [], **nothing}
    return {
        "trainable": sum(a.size for a in tuned.trainable.values()),
        "losses": thinned(history.losses),
        "evaluations": [[step, rounded(loss)] for step, loss in history.evaluations],
        **{name: scores(tuned, words, name) for name in scored},
    }


# ------------------------------------------------------------------------------------------- grids


def sweep_cells(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Every combination of the axes that a method takes, each checked now, not hours later.

    axes: "method" and whatever else, as a list of values each: what `word_run` takes, and methods'
    own options by their names. A method is not run again for each value of what it does not take.
    lr: each method's rate on record where the axis is absent.
    Raises ValueError for what is unknown, out of range, or taken by none of the methods.
    """
    methods = {name: find_method(name) for name in axes["method"]}
    common = [name for name in inspect.signature(word_run).parameters if name in axes]
    own = [name for name in axes if name not in common]
    for name in own:
        if not any(name in record.options for record in methods.values()):
            raise ValueError(f"sweep: none of {', '.join(methods)} has an option {name}")
    found = []
    for method, record in methods.items():
        fixed = {n: axes[n] for n in common if n not in ADAPTERS or n in record.takes}
        options = grid(**{name: axes[name] for name in own if name in record.options})
        found += grid(**{"lr": [None], **fixed, "method": method, "options": options})
    return [_checked(cell) for cell in found]


def _checked(cell: Cell) -> Cell:
    """The cell, with a rate; raises ValueError where it cannot be run."""
    find("task", cell["task"], tasks.TASKS)
    for name in ("train_size", "steps", "batch_size"):
        whole(f"sweep: {name}", cell[name], 1)
    if cell["lr"] is None:
        cell = {**cell, "lr": rates.chosen_for(cell["task"], rates.read())[cell["method"]]["lr"]}
    number("sweep: lr", cell["lr"], above=0)
    given = inspect.signature(settings_of).parameters
    settings = settings_of(**{name: cell[name] for name in given if name in cell})
    load_words(settings)
    settings.attach(the_model(settings.base), cell["method"], cell["seed"], **cell["options"])
    return cell


def best(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Of each task, train size and method the settings with the highest exact match on validation
    words, of equals with the lower loss; means over the seeds.

    ->  {"cell" (without its seed), "seeds": their number, "validation": (mean, sd), "test": …}.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        cell = {k: v for k, v in record["cell"].items() if k != "seed"}
        groups.setdefault(repr(sorted(cell.items())), []).append(record)
    rows: dict[tuple, dict[str, Any]] = {}
    for group in groups.values():
        row = _row(group)
        place = tuple(row["cell"][name] for name in ("task", "train_size", "method"))
        if place not in rows or row["merit"] > rows[place]["merit"]:
            rows[place] = row
    return list(rows.values())


def table(records: Iterable[Record]) -> str:
    """The best of each method, for people."""
    head = ["method", "task", "words", "rank", "targets", "lr", "options", "seeds"]
    lines = []
    for row in best(records):
        cell, targets = row["cell"], row["cell"].get("targets", "–")
        lines.append(
            [
                cell["method"],
                cell["task"],
                str(cell["train_size"]),
                str(cell.get("rank", "–")),
                targets if isinstance(targets, str) else "+".join(targets),
                f"{cell['lr']:g}",
                " ".join(f"{k}={v:g}" for k, v in cell["options"].items()) or "–",
                str(row["seeds"]),
                *(plus_minus(*row[name]) for name in ("validation", "test")),
            ]
        )
    return markdown_table([*head, "validation", "test"], lines)


def _row(group):
    """What the seeds of one setting say together."""
    results = [record["result"] for record in group]
    losses = [result["validation"]["loss"] for result in results]
    loss = float("inf") if None in losses else statistics.fmean(losses)
    found = {
        name: mean_sd(result[name]["exact_match"] for result in results)
        for name in ("validation", "test")
    }
    cell = {k: v for k, v in group[0]["cell"].items() if k != "seed"}
    merit = (found["validation"][0], -loss)
    return {"cell": cell, "seeds": len(group), "loss": loss, "merit": merit, **found}


# ------------------------------------------------------------------------------------- the pieces


def settings_of(
    task="past",
    train_size=300,
    rank=4,
    targets=("q_proj", "v_proj"),
    steps=150,
    batch_size=32,
    weight_decay=0.01,
) -> Settings:
    """The comparison's settings but for these; every technique that has a rank has this one."""
    return Settings(
        task=task,
        train_size=train_size,
        rank=rank,
        targets=targets if isinstance(targets, str) else tuple(targets),
        steps=steps,
        batch_size=batch_size,
        warmup=min(Settings.warmup, steps // 10),
        weight_decay=weight_decay,
    )


def scores(tuned: Tuned, words: Words, name: str) -> dict[str, float]:
    """Exact match and mean loss over the words of that name: "train", "validation", "test"."""
    pairs = getattr(words, name)
    loss = mean_loss(tuned, tasks.all_once(pairs, tuned.tokenizer))
    return {"exact_match": rounded(tasks.exact_match(tuned, pairs)), "loss": rounded(loss)}


def thinned(losses: Sequence[float], points: int = POINTS) -> list[list[float]]:
    """[step, mean loss since the point before]: a curve for a record, of so many points at most."""
    size = -(-len(losses) // points) or 1
    parts = [losses[k : k + size] for k in range(0, len(losses), size)]
    ends = [min(k + size, len(losses)) for k in range(0, len(losses), size)]
    return [[end, rounded(statistics.fmean(part))] for end, part in zip(ends, parts)]


def rounded(value: float, digits: int = 6) -> float:
    """To so many significant digits: what a record keeps of a number."""
    return float(f"{value:.{digits}g}")
