"""What several questions share: an adapter made ready by hand is taught words; of the rates that
were tried the one that validates best counts; means with their spread.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from minilora.lab.cells import Cell, Record
from minilora.lab.runs import fit, mean_loss
from minilora.lab.settings import Settings
from minilora.lab.sweep import rounded
from minilora.methods import METHODS
from minilora.text import tasks
from minilora.tuning.adapters import Tuned, attach
from minilora.tuning.train import Diverged, History

TUNING, MORE = (0, 1), (2, 3, 4)  # seeds that rates are chosen on; those that are run in addition
STANDARD = Settings()  # the comparison's: what a question does not vary


def teach(tuned: Tuned, batches: Iterable, *, lr: float, steps: int, **others) -> History:
    """`fit` with the comparison's settings and so many steps."""
    settings = replace(STANDARD, steps=steps, warmup=min(STANDARD.warmup, steps // 10))
    return fit(tuned, batches, settings, lr, **others)


def lora_or_delta(model, method, *, rank, alpha, ratio, start, seed) -> Tuned:
    """LoRA, or Delta-LoRA of that λ whose W rests for `start` steps."""
    moves = {"update_ratio": ratio, "start_step": start}
    moves = {name: value for name, value in moves.items() if name in METHODS[method].options}
    return attach(model, method, rank=rank, alpha=alpha, seed=seed, **moves)


def shares(method: str) -> bool:
    """Do its layers share arrays, which a key draws?"""
    return METHODS[method].prepare is not None


def word_batches(tuned: Tuned, pairs: Sequence, steps: int, seed: int) -> list:
    """As the comparison's: enough for so many steps."""
    s = STANDARD
    return tasks.enough_batches(steps, pairs, tuned.tokenizer, s.batch_size, seed, s.by_length)


def loss_on(tuned: Tuned, pairs: Sequence) -> float:
    """Mean cross-entropy over all of them, in nats per token."""
    return rounded(mean_loss(tuned, tasks.all_once(pairs, tuned.tokenizer)))


def scores(tuned: Tuned, words) -> dict[str, Any]:
    """The validation loss, which rates are chosen by; loss and exact match on the test's words."""
    return {
        "validation_loss": loss_on(tuned, words.validation),
        "test_loss": loss_on(tuned, words.test),
        "exact_match": rounded(tasks.exact_match(tuned, words.test)),
    }


def or_diverged(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work returns; of a run that diverged the step, and a score of 0."""
    try:
        return work()
    except Diverged as error:
        missing = {"validation_loss": None, "test_loss": None}
        return {"diverged": error.step, "exact_match": 0.0, **missing}


def tuned_rates(
    records: Iterable[Record], by: str = "validation_loss", free: Sequence[str] = ("lr",)
) -> dict[str, list[Record]]:
    """The settings but for seed and what is tuned, as JSON  ->  the records of all seeds at the
    rate whose mean of `by` over the tuning seeds is lowest.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        own = {k: v for k, v in record["cell"].items() if k != "seed"}
        rate = json.dumps([own.pop(name) for name in free])
        groups.setdefault(json.dumps(own, sort_keys=True), {}).setdefault(rate, []).append(record)
    return {
        settings: min(rates.values(), key=lambda runs: merit(runs, by))
        for settings, rates in groups.items()
    }


def merit(runs: Sequence[Record], by: str) -> float:
    """The mean over the tuning seeds; infinite where one diverged."""
    values = [run["result"][by] for run in runs if run["cell"]["seed"] in TUNING]
    return float("inf") if None in values else statistics.fmean(values)


def more_seeds(records: Iterable[Record]) -> list[Cell]:
    """Each setting at its chosen rate, with further seeds: so all rates need not have them."""
    chosen = [runs[0]["cell"] for runs in tuned_rates(records).values()]
    return [{**cell, "seed": seed} for cell in chosen for seed in MORE]


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, and how many they are; None where one has
    none.
    """
    values = list(values)
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None, "n": len(values)}
    sd = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"mean": rounded(statistics.fmean(known)), "sd": rounded(sd), "n": len(known)}


def of_runs(runs: Sequence[Record], tried: Sequence[Record], *names: str) -> dict[str, Any]:
    """Of the runs at a rate that was chosen among those tried: the rate, whether it stands at an
    end of its grid, and the spread of each of these results.
    """
    cell = runs[0]["cell"]
    settings = {k: v for k, v in cell.items() if k not in ("lr", "seed")}
    alike = [r["cell"] for r in tried if all(r["cell"].get(k) == v for k, v in settings.items())]
    rates = {other["lr"] for other in alike}
    found = {name: spread(run["result"].get(name) for run in runs) for name in names}
    end = len(rates) > 1 and cell["lr"] in (min(rates), max(rates))
    return {"lr": cell["lr"], "at_an_end": end, **found}


def at_rate(row: dict[str, Any]) -> str:
    """The rate of `of_runs`, for a table."""
    return f"{row['lr']:g}{', an end of its grid' if row['at_an_end'] else ''}"


def said(value: dict[str, Any], digits: int = 3) -> str:
    """mean ± sd."""
    if value["mean"] is None:
        return "diverged"
    return f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}"


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Those whose cell is of this kind."""
    return [record for record in records if record["cell"]["kind"] == kind]


def plain_log(axis) -> None:
    """0.1, 0.2, 0.5, 1 on a logarithmic axis, in place of powers of ten."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter("")
