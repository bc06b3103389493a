"""Every technique on the word lab's five tasks: 300 words each, 150 steps of 32 words, rank 4 (VeRA
256), q_proj and v_proj. What each costs is the question of `cost`.

The rate of each technique on each task is chosen on 300 validation words with one seed, from three
rates around the one that `minilora tune` chose for past tenses, extended until the best is inside;
held-out words choose nothing. All words instead of 300: past tenses only, at the rates of 300.

Delta-LoRA is the published one: W rests for the first steps, 2 % of the run as in the paper's (see
delta_lora). "From step 1" is the library's default, where W moves from the first step: by the
project's own identity that is LoRA with (1 + λ) times the scaling.

A task decides a verdict only where it can: sounds to spelling is a floor (all of the low-rank
techniques are below FLOOR), and 77 comparatives are too few. Both are shown, with their loss.

Known before these runs: an earlier record of the same tasks on 655 and not 611 past tenses. It
averaged all five tasks, the floor too; on past, plural and lemma alone VeRA was 0.026 ± 0.007 below
LoRA, and Delta-LoRA from step 1 below it on two.
"""

import math
from pathlib import Path
from typing import Any

from minilora.lab import rates
from minilora.lab.cells import Cell, Record, grid
from minilora.lab.statistics import Estimate, estimate
from minilora.lab.table import markdown
from minilora.lab.word_adapters import NAMES as TASKS
from minilora.methods import DEFAULT, METHODS
from minilora.support import plots
from minilora.text import tasks
from minilora.text.score import exact_match

from . import Study, _bases, _words, common
from ._question import MARGIN, Finding, Question, shown
from ._verdicts import FAILS, HOLDS, UNKNOWN, as_good, difference, higher, interval, lower
from .cost import PUBLISHED

AT_ONCE = "delta_lora_at_once"
ROWS: dict[str, Cell] = {  # row -> what its cells say of it
    **{
        name: {"method": name, "rank": 256 if METHODS[name].rank_above_width else 4, "options": {}}
        for name in DEFAULT
    },
    "delta_lora": {"method": "delta_lora", "rank": 4, "options": PUBLISHED},
    AT_ONCE: {"method": "delta_lora", "rank": 4, "options": {"start_step": 0}},
}
TITLES = {name: METHODS[ROWS[name]["method"]].title for name in ROWS}
TITLES[AT_ONCE] += ", from step 1"
LOOKS = {**plots.looks(DEFAULT), AT_ONCE: ("#E8A8CE", "<")}
ONE, FOUR, TWO = (0,), (1, 2, 3, 4), (0, 1, 2)  # seeds: that chooses, further ones, of all words
FIRST = 3
ALL_WORDS = {"past": 5733}  # all but one, which validates
EARLY = 30  # steps of 150: who is ahead by then
FLOOR, FEW = 0.1, 100  # exact match; test words

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """What the untrained base knows, and the first grids."""
    best = {name: row["lr"] for name, row in rates.chosen_for("past", rates.read()).items()}
    return [
        *grid(kind="base", task=TASKS),
        *(
            _learn(name, task, 300, lr, seed)
            for task in TASKS
            for name in ROWS
            for lr in common.around(best[ROWS[name]["method"]])
            for seed in ONE
        ),
    ]


def _learn(name: str, task: str, size: int, lr: float, seed: int) -> Cell:
    where = {"task": task, "train_size": size, "steps": 150}
    where |= {"every": 15} if (task, size) == ("past", 300) else {}
    return {"kind": "learn", **ROWS[name], **where, "lr": lr, "seed": seed}


def then(records: list[Record]) -> list[Cell]:
    """Wider grids, further seeds at the chosen rates, and all words at them."""
    learned = [r for r in common.by_kind(records)["learn"] if r["cell"]["train_size"] == 300]
    work = common.searched(learned, FIRST, ONE, FOUR)
    for runs in common.at_best_rates(learned, seeds=ONE):
        cell = runs[0]["cell"]
        if len(runs) == len(ONE + FOUR) and cell["task"] in ALL_WORDS:
            name = row_of(cell)
            work += [
                _learn(name, cell["task"], ALL_WORDS[cell["task"]], cell["lr"], seed)
                for seed in TWO
            ]
    return work


def row_of(cell: Cell) -> str:
    """The row that a cell belongs to."""
    same = ("method", "rank", "options")
    return next(n for n, row in ROWS.items() if all(row[k] == cell[k] for k in same))


def quick() -> list[Cell]:
    """Few steps on few words."""
    few = {"train_size": 40, "steps": 4, "lr": 0.01, "seed": 0}
    learn = [{"kind": "learn", **ROWS[m], "task": "plural", **few} for m in ("lora", "delta_lora")]
    return [*learn, {"kind": "base", "task": "comparative"}]


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One training run, or the untrained base's score on a task."""
    return {"learn": _words.word_run, "base": base}[kind](**cell)


def base(task: str) -> dict[str, Any]:
    """The untrained base's score on a task."""
    return {"test": exact_match(_bases.model(None), tasks.load_task(task).test)}


# ----------------------------------------------------------------------------------------- summary


def summary(records: list[Record]) -> dict[str, Any]:
    """{"rows": row -> task -> rate, scores; "all_words"; "early": row -> loss; "base"}."""
    kinds = common.by_kind(records)
    sizes = common.grouped(kinds["learn"], lambda cell: cell["train_size"] == 300)
    rows: dict[str, dict[str, Any]] = {name: {} for name in ROWS}
    early: dict[str, dict[int, float]] = {}
    for runs in common.at_best_rates(sizes[True], seeds=ONE):
        cell = runs[0]["cell"]
        name = row_of(cell)
        rows[name][cell["task"]] = {
            "lr": cell["lr"],
            "at_an_end": common.at_an_end(cell, sizes[True]),
            "exact_match": common.named(runs, "test", "exact_match"),
            "loss": common.named(runs, "test", "loss"),
            "seeds": {r["cell"]["seed"]: r["result"]["test"] for r in runs},
        }
        if cell["task"] == "past":
            curves = {r["cell"]["seed"]: dict(r["result"].get("curve", [])) for r in runs}
            early[name] = {seed: curve.get(EARLY, math.inf) for seed, curve in curves.items()}
            rows[name]["past"]["curve"] = [
                (points[0][0], estimate(loss for _, loss in points))
                for points in zip(*(r["result"].get("curve", []) for r in runs))
            ]
    more: dict[str, dict[str, Estimate]] = {name: {} for name in ROWS}
    for runs in common.grouped(
        sizes.get(False, []), lambda cell: (row_of(cell), cell["task"])
    ).values():
        cell = runs[0]["cell"]
        more[row_of(cell)][cell["task"]] = common.named(runs, "test", "exact_match")
    return {
        "rows": rows,
        "all_words": more,
        "early": early,
        "base": {r["cell"]["task"]: r["result"]["test"] for r in kinds["base"]},
        "words": {task: len(tasks.load_task(task).test) for task in TASKS},
    }


def gap(s: dict[str, Any], name: str, task: str, what: str = "exact_match") -> Estimate:
    """The row's result less LoRA's, seed by seed."""
    ours, theirs = (s["rows"][row][task]["seeds"] for row in (name, "lora"))
    seeds = sorted(set(ours) & set(theirs))
    return difference(*([of[k][what] for k in seeds] for of in (ours, theirs)))


def judged_tasks(s: dict[str, Any], name: str) -> list[str]:
    """The tasks that can decide: LoRA or the row is above the floor, and the words are enough."""
    return [
        task
        for task in TASKS
        if s["words"][task] >= FEW
        and max(s["rows"][n][task]["exact_match"].mean for n in (name, "lora")) >= FLOOR
    ]


# --------------------------------------------------------------------------------------- questions


def _by_task(name, judge):
    """A verdict on every task that can decide, and on all of them.

    holds: on each. does not hold: on at least one it does not, and on none it holds; where it
    holds on some, the condition names them. cannot tell: else, or where a grid's end was best.
    """

    def judged(s):
        chosen = judged_tasks(s, name)
        found = {task: judge(gap(s, name, task), MARGIN) for task in chosen}
        aside = [task for task in TASKS if task not in chosen]
        said = "; ".join(f"{task} {shown(gap(s, name, task))}: {found[task][0]}" for task in chosen)
        said += "; not judged: " + "; ".join(
            f"{task} {shown(gap(s, name, task))}" for task in aside
        )
        ends = [t for t in chosen for n in (name, "lora") if s["rows"][n][t]["at_an_end"]]
        return together(said, {t: v for t, v in found.items() if t not in ends}, bool(ends))

    return judged


def together(said: str, found: dict[str, tuple[str, float]], ends: bool = False) -> Finding:
    """One verdict of several tasks'."""
    by = {v: [t for t in found if found[t][0] == v] for v in (HOLDS, FAILS, UNKNOWN)}
    if len(by[HOLDS]) == len(found) and found and not ends:
        return Finding(said, HOLDS, max(p for _, p in found.values()))
    if by[FAILS]:
        p = min(1.0, len(found) * min(found[t][1] for t in by[FAILS]))  # the surest of several
        when = f"the task is {' or '.join(by[HOLDS])}" if by[HOLDS] else ""
        return Finding(said, HOLDS if when else FAILS, p, when)
    return Finding(said, UNKNOWN, max((p for _, p in found.values()), default=1.0))


def _early(s):
    """The validation loss of past tenses after a fifth of the steps."""
    ours, theirs = s["early"]["lora_plus"], s["early"]["lora"]
    seeds = sorted(set(ours) & set(theirs))
    found = difference([ours[k] for k in seeds], [theirs[k] for k in seeds])
    verdict, p = lower(found, 0.05)
    text = f"validation loss of past tenses after {EARLY} of 150 steps, less LoRA's: {shown(found)}"
    return Finding(f"{text} nats per token", verdict, p)


EQUAL = "words, batches, steps, rank (VeRA's is 256), linears, seeds; each at its own rate, by task"
BY_TASK = (
    f"task by task, on those with {FEW} test words or more and a score of {FLOOR:g} or more; "
    "holds: on each; does not hold: on one at least, and it holds on none"
)
OTHERS = (
    "the tasks that are not judged, other ranks and linears (see cost), other bases (see bases)"
)
QUESTIONS = (
    Question(
        "F5",
        "LoRA-FA's quality stays high: as LoRA's of the same rank, 4",
        EQUAL,
        f"as good but for {MARGIN} of exact match, {BY_TASK}",
        "an interval above the margin on every task",
        OTHERS,
        _by_task("lora_fa", as_good),
    ),
    Question(
        "V3",
        "VeRA of rank 256 is as good as LoRA of rank 4",
        EQUAL,
        f"as good but for {MARGIN} of exact match, {BY_TASK}",
        "an interval above the margin on every task",
        OTHERS,
        _by_task("vera", as_good),
    ),
    Question(
        "D4 W4",
        "Delta-LoRA, as published, captures nuances and improves accuracy over LoRA",
        EQUAL + "; λ = 2, W rests for 3 steps of 150",
        f"higher: the interval lies above 0; does not hold: below {MARGIN}; {BY_TASK}",
        "an interval above 0 on every task",
        OTHERS,
        _by_task("delta_lora", higher),
    ),
    Question(
        "D4 W4",
        "Delta-LoRA whose W moves from step 1 improves accuracy over LoRA",
        EQUAL + "; λ = 2, start_step 0",
        "as above",
        "as above",
        "as above; it is LoRA with three times the scaling",
        _by_task(AT_ONCE, higher),
    ),
    Question(
        "P3",
        "LoRA+ does so at no loss of quality",
        EQUAL + "; ratio 16",
        f"as good but for {MARGIN} of exact match, {BY_TASK}",
        "a task on which it is surely worse",
        OTHERS,
        _by_task("lora_plus", as_good),
    ),
    Question(
        "P2 P5",
        "LoRA+ converges faster: the loss after a fifth of the steps",
        EQUAL + "; each at the rate that is best after all steps",
        "holds: the interval of the loss less LoRA's lies below 0; does not hold: above -0.05",
        "a loss that is as high as LoRA's by then",
        "rates that are chosen for an early end: see lora_plus",
        _early,
    ),
)

# --------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """Scores by task; each less LoRA's; rates; all words."""
    s = summary(records)
    rows = s["rows"]
    titles = [tasks.TASKS[task].title for task in TASKS]
    first = [
        [TITLES[n], *(f"{row[task]['exact_match']:.3f}" for task in TASKS)]
        for n, row in rows.items()
    ]
    gaps = [[TITLES[n], *(_short(gap(s, n, task)) for task in TASKS)] for n in rows if n != "lora"]
    losses = [[TITLES[n], *(f"{row[t]['loss']:.3f}" for t in TASKS)] for n, row in rows.items()]
    chosen = [[TITLES[n], *(common.rate_of(row[t]) for t in TASKS)] for n, row in rows.items()]
    more = [
        [TITLES[n], f"{rows[n]['past']['exact_match']:.3f}", f"{s['all_words'][n].get('past'):.3f}"]
        for n in rows
        if s["all_words"][n]
    ]
    words = [f"past tense, {n:,} words" for n in (300, ALL_WORDS["past"])]
    tables = [
        (["exact match, 300 words", *titles], first),
        (["less LoRA's, with its 95 % interval", *titles], gaps),
        (["loss, nats per token", *titles], losses),
        (["rate", *titles], chosen),
        (["exact match", *words], more),
    ]
    return "\n\n".join(markdown(head, body) for head, body in tables)


def _short(found: Estimate) -> str:
    if found.mean is None:
        return "diverged"
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(found.mean, *interval(found))


def figure(records: list[Record], path: Path) -> None:
    """Left: exact match by task. Right: the loss on past tenses against steps."""
    s = summary(records)
    with common.panels(path, 14, 6, 1, 2, dpi=90, width_ratios=(1.4, 1)) as (left, right):
        for i, (name, row) in enumerate(s["rows"].items()):
            x = [place + (i - (len(ROWS) - 1) / 2) * 0.11 for place in range(len(TASKS))]
            matches = [row[task]["exact_match"] for task in TASKS]
            style = dict(ms=8, capsize=3, ls="none", label=TITLES[name])
            common.errorbars(left, x, matches, LOOKS[name], **style)
            steps, losses = zip(*row["past"]["curve"])
            common.errorbars(right, steps, losses, LOOKS[name], ms=5, lw=1.4, elinewidth=0.8)
        left.set_xticks(range(len(TASKS)), TASKS)
        left.axhline(FLOOR, color="#777777", ls=":", lw=1)
        left.set_ylabel("held-out exact match")
        left.set_title("300 words of each task (dotted: the floor)")
        right.set(yscale="log", xlabel="optimizer steps", ylabel="nats per token")
        right.set_title("Past tense: loss on validation words")
        common.plain_log(right.yaxis, how="g")
        title = "Bars: sd of 5 seeds. Within a task the rows stand side by side."
        handles = left.get_legend_handles_labels()
        left.figure.legend(*handles, loc="outside lower center", ncols=7, title=title, fontsize=10)


TITLE = "Five tasks, each technique at its own rate: who learns what?"
STUDY = Study("comparison", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
