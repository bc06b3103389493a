"""The same 300 verbs with the base and without it: exact match against the number of steps.

Known before these runs: an earlier record with one seed that chose. From scratch 0.682 ± 0.069
after 3,000 steps, full fine-tuning 0.895 ± 0.004 after 1,200, LoRA 0.866 ± 0.018 after 600.

Every number of steps is a run of its own, whose rate falls to 0 at its end. Each of the three has
its own best rate for each number of steps, and its own best number of steps, both by 600 validation
words and five seeds. The most steps are fewer than in the earlier record, so that all records take
four hours. Where the best number of steps is the most that was tried, the page says so.
"""

from pathlib import Path
from typing import Any

from minilora.lab.cells import Cell, Record
from minilora.lab.settings import SCRATCH
from minilora.lab.statistics import by_exact_match
from minilora.lab.table import markdown
from minilora.methods import METHODS
from minilora.support import plots

from . import Study, _choice, _words, common
from ._question import MARGIN, Finding, Question, shown
from ._verdicts import HOLDS, UNKNOWN, higher

STEPS = {  # row -> its numbers of steps, each with the middle of its first grid of rates
    SCRATCH: {150: 0.002, 600: 0.001, 1500: 0.0005},
    "full": {150: 0.0005, 600: 0.0005},
    "lora": {150: 0.02, 600: 0.02},
}
TITLES = {SCRATCH: "From scratch", "full": METHODS["full"].title, "lora": METHODS["lora"].title}


def _cell(method: str, steps: int) -> Cell:
    own = {"rank": 4, "targets": "q v"} if method == "lora" else {}
    return {"method": method, **own, "steps": steps}


def cells() -> list[Cell]:
    """The first grid of each row and number of steps."""
    return [
        run
        for method, grid in STEPS.items()
        for steps, middle in grid.items()
        for run in common.first_grid(_cell(method, steps), middle)
    ]


def quick() -> list[Cell]:
    """Two short ones."""
    short = {"train_size": 40, "lr": 0.001, "seed": 0}
    return [
        {"method": SCRATCH, "steps": 3, **short},
        {"method": "lora", "rank": 2, "targets": "q v", "steps": 3, **short},
    ]


def run(**cell: Any) -> dict[str, Any]:
    """One training run."""
    return _words.word_run(**cell)


def best_steps(records: list[Record], method: str) -> int:
    """The number of steps that validates best, each at its chosen rate."""
    runs = {
        r[0]["cell"]["steps"]: r
        for r in common.at_best_rates(records)
        if r[0]["cell"]["method"] == method
    }
    return max(runs, key=lambda steps: by_exact_match(runs[steps]))


def summary(records: list[Record]) -> dict[str, Any]:
    """row -> {"curve": steps -> rate and scores, "best": steps, "still_rising", "tried"}."""
    rows: dict[str, Any] = {}
    for runs in common.at_best_rates(records):
        cell = runs[0]["cell"]
        row = rows.setdefault(cell["method"], {"curve": {}})
        row["curve"][cell["steps"]] = {
            "lr": cell["lr"],
            "at_an_end": common.at_an_end(cell, records),
            "exact_match": common.named(runs, "test", "exact_match"),
        }
    for method, row in rows.items():
        row["curve"] = dict(sorted(row["curve"].items()))
        row["best"] = best_steps(records, method)
        row["tried"] = _choice.Tried([r for r in records if r["cell"]["method"] == method])
        row["still_rising"] = row["best"] == max(row["curve"])
    return rows


def gap(s: dict[str, Any], ours: str, theirs: str):
    """Exact match of both at their own best number of steps and rate."""
    return _choice.gap(s[ours]["tried"], s[theirs]["tried"])


def _worth(s):
    verdict, p = _judged(s, found := gap(s, "lora", SCRATCH), "lora", SCRATCH)
    said = "; ".join(
        f"{TITLES[name]} {row['curve'][row['best']]['exact_match']:.3f} after {row['best']:,} steps"
        + (" (the most tried)" if row["still_rising"] else "")
        for name, row in s.items()
    )
    at_150 = s[SCRATCH]["curve"][150]["exact_match"]
    return Finding(
        f"LoRA less from scratch, each at its own best: {shown(found)}; {said}; "
        f"from scratch after 150 steps: {at_150:.3f}",
        verdict,
        p,
        when=_stops(s, SCRATCH) if verdict == HOLDS else "",
    )


def _learns_less(s):
    verdict, p = _judged(s, found := gap(s, "full", "lora"), "full", "lora")
    when = _stops(s, "full", "lora") if verdict == HOLDS else ""
    return Finding(f"full less LoRA of rank 4 on q and v: {shown(found)}", verdict, p, when)


def _judged(s, found, *names):
    """`higher`; no verdict where the best rate of the best steps stands at an end of its grid."""
    ends = any(s[name]["curve"][s[name]["best"]]["at_an_end"] for name in names)
    return (UNKNOWN, 1.0) if ends else higher(found, MARGIN)


def _stops(s, *names):
    """The condition where the best number of steps is the most that was tried: no row is at its
    own best, and that of training from scratch would narrow the gap.
    """
    last = [name for name in names if s[name]["still_rising"]]
    return " and ".join(f"{TITLES[name]} stops at {s[name]['best']:,} steps" for name in last)


QUESTIONS = (
    Question(
        "–",
        "An adapter on a pretrained model learns what training from scratch does not",
        "the 300 verbs, the model's shape, the seeds; each row at its own best rate and steps",
        f"holds: the 95 % interval of the gap lies above 0; does not hold: below {MARGIN}",
        "training from scratch reaching LoRA with more steps",
        "more words than 300; larger models. Where the most steps were the best from scratch, the "
        "gap is an upper bound",
        _worth,
    ),
    Question(
        "–",
        "Full fine-tuning learns more than LoRA of rank 4 on q and v, each at its own steps",
        "as above",
        f"holds: the interval lies above 0; does not hold: below {MARGIN}",
        "LoRA catching up with more steps",
        "other placements: see cost",
        _learns_less,
    ),
)


def table(records: list[Record]) -> str:
    """One line a row and number of steps."""
    s = summary(records)
    body = [
        [
            TITLES[name],
            f"{steps:,}",
            common.rate_of(point),
            f"{point['exact_match']:.3f}",
            "best" if steps == row["best"] else "",
        ]
        for name, row in s.items()
        for steps, point in row["curve"].items()
    ]
    first = markdown(["", "steps", "rate", "exact match", "by validation"], body)
    return f"{first}\n\nLoRA less from scratch, each at its best: {shown(gap(s, 'lora', SCRATCH))}."


def figure(records: list[Record], path: Path) -> None:
    """Exact match against steps."""
    s = summary(records)
    with common.panels(path, 9, 5.6) as axes:
        for name, look in plots.looks(s).items():
            points = s[name]["curve"]
            matches = [point["exact_match"] for point in points.values()]
            common.errorbars(axes, points, matches, look, capsize=4, label=TITLES[name])
        axes.set(xscale="log", xlabel="optimizer steps, each a run of its own", ylim=(0, 1))
        common.plain_log(axes.xaxis, subs=(1, 2, 5), how=",.0f")
        axes.set_ylabel("exact match on held-out past tenses")
        axes.set_title("300 verbs, with the base and without (bars: sd of 5 seeds)")
        axes.legend(loc="lower right")


TITLE = "With the base and without it: what do 300 verbs teach in how many steps?"
STUDY = Study(
    "scratch", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, common.searched
)
