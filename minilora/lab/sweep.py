"""One training run of the word lab as a cell, grids of such cells, and the best settings."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..methods.own import version
from ..support.files import find
from ..support.values import number, whole
from ..text import tasks
from ..text.batches import all_once
from ..text.score import exact_match
from ..tuning.adapters import Tuned
from ..tuning.choices import find_method
from ..tuning.train import Diverged
from . import rates
from .cells import Cell, Record, grid
from .runs import load_words, mean_loss, run, the_model, trainable_numbers
from .settings import Settings
from .statistics import by_exact_match, chosen, estimate, rounded
from .table import markdown

POINTS = 50  # of a loss curve in a record, at most
ADAPTERS = ("rank", "alpha", "targets")  # settings that not every method takes


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
    source: str | None = None,
) -> dict[str, Any]:
    """One run of a method (or from "scratch"): its trainable numbers, losses and scores.

    rank: for every method that has one, VeRA too; alpha: None is 2·rank. options: the method's own.
    every: steps between two evaluations of the validation loss. score: the words for the scores.
    source: the version of a user's technique file, so that a changed technique is run again.
    ->  trainable: numbers. losses: [step, mean training loss since the point before].
    evaluations: [step, validation loss]. validation, test: {"exact_match", "loss"}. A run that
    diverged has scores of 0, losses of None, and the step as "diverged".
    Raises ValueError for what cannot be run.
    """
    given = dict(task=task, train_size=train_size, rank=rank, targets=targets, steps=steps)
    settings = Settings().changed(**given, batch_size=batch_size, weight_decay=weight_decay)
    own: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    model, words, judged = the_model(settings.base), load_words(settings), list(score)
    try:
        tuned, history = run(
            model, words, settings, method, lr, seed, every, **own, **(options or {})
        )
    except Diverged as error:
        nothing = {name: {"exact_match": 0.0, "loss": None} for name in judged}
        return {"diverged": error.step, "losses": [], "evaluations": [], **nothing}
    return {
        "trainable": trainable_numbers(tuned),
        "losses": thinned(history.losses),
        "evaluations": [[step, rounded(loss)] for step, loss in history.evaluations],
        **{name: scores(tuned, words, name) for name in judged},
    }


def scores(tuned: Tuned, words: tasks.TaskData, name: str) -> dict[str, float]:
    """Exact match and mean loss on the words `name`: "train", "validation" or "test"."""
    pairs = getattr(words, name)
    loss = mean_loss(tuned, all_once(pairs, tuned.tokenizer))
    return {"exact_match": rounded(exact_match(tuned, pairs)), "loss": rounded(loss)}


def thinned(losses: Sequence[float], points: int = POINTS) -> list[list[float]]:
    """[step, mean loss since the point before]: a curve of at most `points` points."""
    size = -(-len(losses) // points) or 1
    parts = [losses[k : k + size] for k in range(0, len(losses), size)]
    return [[min(n * size, len(losses)), rounded(fmean(p))] for n, p in enumerate(parts, 1)]


# ------------------------------------------------------------------------------------------- grids


def sweep_cells(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """The cells for every combination of the axes; each is checked before the first one runs.

    axes: name -> list of values; "method", further arguments of `word_run`, and methods' own
    options. A method ignores an axis that it does not take. Without the axis lr, each method gets
    its rate on record.
    Raises ValueError for an axis or a value that is unknown, out of range, or that no method takes.
    """
    methods = {record.name: record for record in map(find_method, axes["method"])}
    common = [name for name in inspect.signature(word_run).parameters if name in axes]
    own = [name for name in axes if name not in common]
    for name in own:
        if not any(name in record.options for record in methods.values()):
            raise ValueError(f"sweep: none of {', '.join(methods)} has an option {name}")
    work = []
    for method, record in methods.items():
        fixed = {n: axes[n] for n in common if n not in ADAPTERS or n in record.takes}
        options = grid(**{name: axes[name] for name in own if name in record.options})
        fixed |= version(method)
        work += grid(**{"lr": [None], **fixed, "method": method, "options": options})
    return [_checked(cell) for cell in work]


def _checked(cell: Cell) -> Cell:
    """The cell, with a rate; raises ValueError if it cannot be run."""
    find("task", cell["task"], tasks.TASKS)
    for name in ("train_size", "steps", "batch_size"):
        whole(f"sweep: {name}", cell[name], 1)
    if cell["lr"] is None:
        known, method = rates.chosen_for(cell["task"], rates.read()), cell["method"]
        if method not in known:
            raise ValueError(f"sweep: no learning rate is on record for {method}; give --lr RATE")
        cell = {**cell, "lr": known[method]["lr"]}
    number("sweep: lr", cell["lr"], above=0)
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings().changed(**{k: v for k, v in cell.items() if k in names})
    load_words(settings)
    settings.attach(the_model(settings.base), cell["method"], cell["seed"], **cell["options"])
    return cell


def best(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The best settings for each task, train size and method, by `by_exact_match`.

    ->  {"cell" (without its seed), "validation": Estimate, "test": Estimate}.
    """
    fixed = {"task", "train_size", "method", "seed"}
    free = {name for record in records for name in record["cell"]} - fixed
    return [
        {
            "cell": {k: v for k, v in runs[0]["cell"].items() if k != "seed"},
            **{
                words: estimate(run["result"][words]["exact_match"] for run in runs)
                for words in ("validation", "test")
            },
        }
        for runs in chosen(records, by_exact_match, free)
    ]


def table(records: Sequence[Record]) -> str:
    """The best settings of each method as a Markdown table."""
    head = ["method", "task", "words", "rank", "targets", "lr", "options", "seeds"]
    lines = []
    for row in best(records):
        cell, targets = row["cell"], row["cell"].get("targets", "–")
        options = " ".join(f"{k}={_short(v)}" for k, v in cell["options"].items()) or "–"
        targets = targets if isinstance(targets, str) else "+".join(targets)
        settings = [*(cell[k] for k in ("method", "task", "train_size")), cell.get("rank", "–")]
        judged = [f"{row[words]:.3f}" for words in ("validation", "test")]
        lines.append([*settings, targets, f"{cell['lr']:g}", options, row["test"].n, *judged])
    return markdown([*head, "validation", "test"], lines)


def _short(value):
    return f"{value:g}" if isinstance(value, float) else str(value)
