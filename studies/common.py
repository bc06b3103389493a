"""What the studies share: training on words, the runs that count, rows of tables, figures, errors
of their commands.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minilora.bench.turns import in_turn
from minilora.lab.cells import Cell, Record
from minilora.lab.runs import fit, load_words, make_batches, mean_loss, the_model
from minilora.lab.settings import Settings
from minilora.lab.statistics import Estimate, by_exact_match, chosen, estimate, rounded
from minilora.methods import METHODS
from minilora.support import plots
from minilora.text import tasks
from minilora.text.batches import all_once
from minilora.tuning.adapters import Tuned, attach
from minilora.tuning.train import Diverged, History

from . import _words

SEEDS = range(5)  # of every run on words; all of them choose its rate
FIRST = 3  # rates of a first grid
EXTENSIONS = 3  # how often a grid is extended whose best rate stands at its end

# ---------------------------------------------------------------------------------------- training


def setting(seed: int, **changes):
    """The comparison's settings with these changes  ->  (the base, the settings, the words, the
    seed's batches).
    """
    settings = Settings().changed(**changes)
    model, words = the_model(settings.base), load_words(settings)
    return model, settings, words, make_batches(model, words.train, settings, seed)


def learn(tuned: Tuned, pairs: Sequence, *, lr: float, steps: int, seed: int, **others) -> History:
    """Train on words with the comparison's settings; others: arguments of `train`."""
    settings = Settings().changed(steps=steps)
    return fit(tuned, make_batches(tuned, pairs, settings, seed), settings, lr, **others)


def loss_on(tuned: Tuned, pairs: Sequence) -> float:
    """Mean cross-entropy over all pairs, in nats per token."""
    return rounded(mean_loss(tuned, all_once(pairs, tuned.tokenizer)))


def scores(tuned: Tuned, words: tasks.TaskData) -> dict[str, Any]:
    """The validation scores, which choose rates; loss and exact match on the test words."""
    judged = _words.judged(tuned, words)
    scores = {"test_loss": judged["test"]["loss"], "exact_match": judged["test"]["exact_match"]}
    return {"validation": judged["validation"], **scores}


def or_diverged(work: Callable[[], dict[str, Any]], words: tasks.TaskData) -> dict[str, Any]:
    """The result of work(); of a run that diverged the step, and a score of 0."""
    try:
        return work()
    except Diverged as error:
        missing = {"validation": _words.nothing(words)["validation"], "test_loss": None}
        return {"diverged": error.step, "exact_match": 0.0, **missing}


def lora_or_delta(model, method, *, rank, alpha, ratio, start, seed) -> Tuned:
    """LoRA; or Delta-LoRA with λ = ratio, whose W rests for `start` steps."""
    moves = {"update_ratio": ratio, "start_step": start}
    moves = {name: value for name, value in moves.items() if name in METHODS[method].options}
    return attach(model, method, rank=rank, alpha=alpha, seed=seed, **moves)


def named(runs: Iterable[Record], *path: str) -> Estimate:
    """The estimate over runs of the result at this path: "test", "exact_match"."""
    return estimate(at(run["result"], *path) for run in runs)


def at(result: Any, *path: str) -> Any:
    """result[path[0]][path[1]]…; None where a run diverged before it."""
    for name in path:
        result = None if result is None else result.get(name)
    return result


def in_turns(
    seconds: Callable[[str], list[float]], methods: Iterable[str], turns: int
) -> dict[str, list[float]]:
    """seconds(method) of every method in turns, so that other work of the machine slows all alike
    ->  method -> its seconds; without the first turn, which may compile kernels.
    """
    taken = in_turn(methods, turns, seconds)
    return {method: [s for new in kept[1:] for s in new] for method, kept in taken.items()}


def exit_code(work: Callable[[], None]) -> int:
    """Do the work of a command; 0, or 2 after an error, which is one line."""
    try:
        work()
    except (ValueError, OSError) as error:
        print(f"studies: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("studies: stopped", file=sys.stderr)
        return 130
    return 0


# --------------------------------------------------------------------------------- runs that count


def by_kind(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the kind of their cell."""
    return grouped(records, lambda cell: cell["kind"])


def grouped(records: Iterable[Record], key: Callable[[Cell], Any]) -> dict[Any, list[Record]]:
    """Records by what the key makes of their cell."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record["cell"]), []).append(record)
    return groups


def around(rate: float) -> list[float]:
    """A first grid: half of a rate, the rate, twice the rate."""
    return [half(rate), rate, twice(rate)]


def half(rate: float) -> float:
    """The next lower rate of a grid."""
    return float(f"{rate / 2:.6g}")


def twice(rate: float) -> float:
    """The next higher rate of a grid."""
    return float(f"{rate * 2:.6g}")


def at_best_rates(records: Iterable[Record]) -> list[list[Record]]:
    """Of each setting the runs of all seeds at the rate with the highest validation exact match, of
    equals the one with the lower validation loss: the rule of every study of exact match.
    """
    return chosen(records, by_exact_match)


def first_grid(cell: Cell, middle: float) -> list[Cell]:
    """A cell at half of a rate, at the rate, and at twice the rate, with every seed."""
    return [{**cell, "lr": lr, "seed": seed} for lr in around(middle) for seed in SEEDS]


def searched(records: Iterable[Record]) -> list[Cell]:
    """The cells that a search for the best rate still wants, setting by setting.

    A grid whose best rate stands at an end gets one rate more there, half or twice the last, at
    most EXTENSIONS times. A run that diverged is worse than any other.
    """
    records, work = list(records), []
    for runs in at_best_rates(records):
        cell = runs[0]["cell"]
        rates = rates_tried(cell, records)
        if cell["lr"] in (rates[0], rates[-1]) and len(rates) < FIRST + EXTENSIONS:
            new = half(rates[0]) if cell["lr"] == rates[0] else twice(rates[-1])
            work += [{**cell, "lr": new, "seed": seed} for seed in SEEDS]
    return work


def rates_tried(cell: Cell, records: Iterable[Record]) -> list[float]:
    """All rates at which the cell's setting ran, from the lowest."""
    return sorted({record["cell"]["lr"] for record in of_setting(cell, records)})


def of_setting(cell: Cell, records: Iterable[Record]) -> list[Record]:
    """The runs of the cell's setting, at all rates and seeds."""

    def setting(cell):
        return {k: v for k, v in cell.items() if k not in ("lr", "seed")}

    return [record for record in records if setting(record["cell"]) == setting(cell)]


def at_an_end(cell: Cell, records: Iterable[Record]) -> bool:
    """Is the cell's rate the lowest or the highest of those that its setting was tried at?"""
    rates = rates_tried(cell, records)
    return len(rates) > 1 and cell["lr"] in (rates[0], rates[-1])


def row_of(runs: Sequence[Record], records: Sequence[Record], *names: str) -> dict[str, Any]:
    """Of the runs at a rate that was chosen among the records': the rate, whether it stands at an
    end of its grid, the trainable numbers, and the estimate of each of these results.
    """
    cell, numbers = runs[0]["cell"], runs[0]["result"].get("trainable")
    row = {"lr": cell["lr"], "at_an_end": at_an_end(cell, records), "trainable": numbers}
    return {**row, **{name: estimate(run["result"].get(name) for run in runs) for name in names}}


def rate_of(row: dict[str, Any]) -> str:
    """A row's rate, for a table."""
    return f"{row['lr']:g}{', an end of its grid' if row['at_an_end'] else ''}"


def rate_and_scores(row: dict[str, Any]) -> list[str]:
    """A row's rate, exact match and test loss, for a table."""
    return [rate_of(row), f"{row['exact_match']:.3f}", f"{row['test_loss']:.3f}"]


# ----------------------------------------------------------------------------------------- figures


@contextlib.contextmanager
def panels(
    path: Path, width: float, height: float, *shape: int, dpi: int = 140, **ratios: Any
) -> Iterator[Any]:
    """The axes of a figure of so many inches, which is written to the path in the end."""
    with plots.style():
        canvas = plots.canvas(width, height)
        yield canvas.subplots(*shape, **ratios)
    Path(path).write_bytes(plots.png(canvas, dpi=dpi))


def errorbars(axes, x, estimates: Iterable[Estimate], look: tuple[str, str], **style) -> None:
    """Means with their standard deviations; look: colour and marker."""
    means, deviations = zip(*((e.mean, e.sd) for e in estimates))
    axes.errorbar(list(x), means, deviations, color=look[0], marker=look[1], **style)


def scores_by_name(axes, names: Sequence[str], estimates, look, **style) -> None:
    """A line for each name, from top to bottom: exact match with its standard deviation."""
    means, deviations = zip(*((e.mean, e.sd) for e in estimates))
    style = {"ls": "none", "capsize": 4, **style}
    axes.errorbar(means, range(len(names)), xerr=deviations, color=look[0], marker=look[1], **style)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("share answered exactly")


def plain_log(axis, subs: Sequence[int] = (1, 2, 5), how: str = ",.10g") -> None:
    """0.1, 0.2, 0.5, 1 on a logarithmic axis, in place of powers of ten."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(lambda value, _: f"{value:{how}}")
    axis.set_minor_formatter("")
