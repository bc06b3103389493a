"""Every technique on the word lab's five tasks, each at its own learning rate: who learns what, how
fast, at what cost in bytes?

The claims: LoRA+ "converges faster at the same cost", LoRA-FA needs less memory "at the same
quality". With the rate tuned for each method, variants of LoRA were found to lie within one or two
per cent of each other (arXiv:2602.04998), which is why nothing here is run at a common rate.
Set-up: 300 words of a task, 150 steps of 32, q_proj and v_proj, rank 4 (VeRA 256); 1000 and all
words for two tasks. The rate of a method on a task is chosen with one seed on 300 validation words,
from the five rates of the one grid around the method's own best on past tenses (`minilora tune`:
eleven rates, three seeds); past tenses themselves use that best rate. Held-out words choose
nothing. The larger sets use the rates of 300 words.
"""

import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from minilora.formats.models import load_model
from minilora.lab import rates, runs
from minilora.lab.cells import Cell, Record, grid
from minilora.lab.statistics import by_exact_match, chosen, difference, estimate, rounded
from minilora.lab.sweep import word_run
from minilora.lab.table import markdown
from minilora.lab.tune import GRID
from minilora.lab.word_adapters import NAMES as TASKS
from minilora.memory import CATEGORIES, measure
from minilora.methods import DEFAULT, METHODS
from minilora.support import plots
from minilora.text import tasks
from minilora.tuning.train import train

from . import Study, common

RANKS = {name: 256 if METHODS[name].rank_above_width else 4 for name in DEFAULT}
TUNED = rates.DEFAULT_TASK  # its rates are on record, of all eleven and three seeds
TRIED = 5  # rates of the grid for every other task, that one in their middle as far as it can be
SEEDS, FEWER_SEEDS = tuple(range(5)), tuple(range(3))
SIZES = {"past": (1000, 5733), "spelling": (1000, 13180)}  # all words but one, which validates
EARLY = 30  # steps of 150: who is ahead by then
COST_STEPS = 2  # optimizer steps before the bytes are counted
TURNS = 6  # of every method, to time its steps; the first, which may compile kernels, is left out
COSTS = {"numbers": "trainable numbers", "step": "MiB kept for a step, weights aside"}  # -> label

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """What a step costs, what the untrained base knows, and the choice of the rates."""
    best = {name: row["lr"] for name, row in rates.chosen_for(TUNED, rates.read()).items()}
    work = grid(kind="base", task=TASKS)
    work += [_cell("cost", m, lr=best[m], steps=COST_STEPS, seed=0) for m in RANKS]
    work.append({"kind": "seconds", "ranks": RANKS, "turns": TURNS, "steps": 20, "seed": 0})
    for task in TASKS:
        for method in RANKS if task != TUNED else ():
            place = GRID.index(best[method]) - TRIED // 2
            place = min(max(0, place), len(GRID) - TRIED)
            for lr in GRID[place : place + TRIED]:
                work.append(_learn(method, task, 300, lr, 0, ["validation"], purpose="rate"))
    return work


def then(records: list[Record]) -> list[Cell]:
    """The runs that count, at the rates which the first part chose."""
    work = []
    for (task, method), lr in chosen_rates(records).items():
        work += [_learn(method, task, 300, lr, seed, ["test"]) for seed in SEEDS]
        for size in SIZES.get(task, ()):
            work += [_learn(method, task, size, lr, seed, ["test"]) for seed in FEWER_SEEDS]
    return work


def quick() -> list[Cell]:
    """Few steps on few words."""
    few = {"train_size": 40, "steps": 4, "score": ["validation"], "purpose": ""}
    methods = list(RANKS)[1:3]
    learn = [_cell("learn", m, task="plural", lr=0.01, seed=0, **few) for m in methods]
    return [*learn, {"kind": "base", "task": "comparative"}]


def _cell(kind: str, method: str, **settings) -> Cell:
    return {"kind": kind, "method": method, "rank": RANKS[method], **settings}


def _learn(method, task, size, lr, seed, score, purpose="score") -> Cell:
    every = 15 if (task, size, purpose) == (TUNED, 300, "score") else None
    where = {"task": task, "train_size": size, "steps": 150, "seed": seed}
    return _cell("learn", method, lr=lr, **where, every=every, score=score, purpose=purpose)


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell) -> dict[str, Any]:
    """One cell."""
    return {"learn": learn, "cost": cost, "base": base, "seconds": seconds}[kind](**cell)


def learn(purpose: str, **cell) -> dict[str, Any]:
    """One training run."""
    return word_run(**cell)


def base(task: str) -> dict[str, Any]:
    """The untrained base's score on a task."""
    return {"test": tasks.exact_match(load_model("base"), tasks.load_task(task).test)}


def cost(method: str, rank: int, lr: float, steps: int, seed: int) -> dict[str, Any]:
    """Bytes of a step and of the adapter's file."""
    model, settings, words, batches = common.setting(seed, rank=rank, steps=steps)
    tuned, _ = runs.run(model, words, settings, method, lr, seed)
    measured = measure(tuned, batch=runs.largest_batch(batches))
    return {
        "trainable": runs.trainable_numbers(tuned),
        "adapter_bytes": runs.adapter_bytes(tuned),
        "bytes": {name: measured[name] for name in CATEGORIES},
    }


def seconds(ranks: dict[str, int], turns: int, steps: int, seed: int) -> dict[str, Any]:
    """Processor seconds a step of every method, in turns on the same batches."""
    model, settings, _, batches = common.setting(seed, steps=steps)

    def spent(method):
        tuned = settings.changed(rank=ranks[method]).attach(model, method, seed)
        start = time.process_time()
        train(tuned, batches, steps=steps, lr=1e-3, progress=False)
        return [rounded((time.process_time() - start) / steps)]

    taken = common.in_turns(spent, ranks, turns)
    return {f"{method}_seconds": values for method, values in taken.items()}


# ----------------------------------------------------------------------------------------- summary


def chosen_rates(records: list[Record]) -> dict[tuple[str, str], float]:
    """(task, method) -> the rate of the highest validation exact match, of equals of the lower
    loss; on past tenses the one on record.
    """
    on_record = rates.chosen_for(TUNED, rates.read())
    tried = [record for record in records if record["cell"].get("purpose") == "rate"]
    best = [of_seeds[0]["cell"] for of_seeds in chosen(tried, by_exact_match)]
    return {
        **{(TUNED, method): on_record[method]["lr"] for method in RANKS},
        **{(cell["task"], cell["method"]): cell["lr"] for cell in best},
    }


def front(rows: dict[str, dict[str, Any]], cost: str) -> list[str]:
    """The methods that no other beats: none costs at most as much and scores higher."""

    def beaten(name, other):
        cheaper = rows[other]["cost"][cost] <= rows[name]["cost"][cost]
        return cheaper and rows[other]["mean"].mean > rows[name]["mean"].mean

    return [name for name in rows if not any(beaten(name, other) for other in rows)]


def summary(records: list[Record]) -> dict[str, Any]:
    """By method: estimates of the scores by task and size, costs, rates; and the fronts."""
    kinds = common.by_kind(records)
    (timed,) = (record["result"] for record in kinds["seconds"])
    costs = {record["cell"]["method"]: record["result"] for record in kinds["cost"]}
    names = ("purpose", "method", "task", "train_size")
    learned = common.grouped(kinds["learn"], lambda cell: tuple(cell[name] for name in names))
    tuned = chosen_rates(records)
    means, early, rows = {}, {}, {}

    def matches(method, task, size=300):
        results = [run["result"] for run in learned.get(("score", method, task, size), [])]
        return [result["test"]["exact_match"] for result in results]

    for method, spent in costs.items():
        by_task = {task: matches(method, task) for task in TASKS}
        curves = [
            r["result"]["evaluations"] for r in learned.get(("score", method, TUNED, 300), [])
        ]
        means[method] = [fmean(of_seed) for of_seed in zip(*by_task.values())]
        early[method] = [dict(curve).get(EARLY, math.inf) for curve in curves]
        rows[method] = {
            "tasks": {task: estimate(values) for task, values in by_task.items()},
            "mean": estimate(means[method]),
            "sizes": {
                task: {n: estimate(matches(method, task, n)) for n in (300, *sizes)}
                for task, sizes in SIZES.items()
            },
            "curve": [  # (step, the validation loss)
                (points[0][0], estimate(loss for _, loss in points)) for points in zip(*curves)
            ],
            "cost": {
                "numbers": spent["trainable"],
                "file": spent["adapter_bytes"],
                "step": sum(spent["bytes"][k] for k in ("gradients", "optimizer", "activations")),
            },
            "activations": spent["bytes"]["activations"],
            "step_seconds": estimate(timed[f"{method}_seconds"]),
            "lr": {task: tuned[task, method] for task in TASKS},
        }
    return {
        "methods": rows,
        "against_lora": {m: difference(values, means["lora"]) for m, values in means.items()},
        "early": {m: difference(values, early["lora"]) for m, values in early.items()},
        "base": {r["cell"]["task"]: r["result"]["test"] for r in kinds["base"]},
        "fronts": {cost: front(rows, cost) for cost in ("numbers", "file", "step")},
    }


def table(records: list[Record]) -> str:
    """Scores by task, then costs."""
    s = summary(records)
    titles = {name: METHODS[name].title for name in s["methods"]}
    by_task, by_size, costs = [], [], []
    words = [(task, size) for task, sizes in SIZES.items() for size in (300, *sizes)]
    for name, row in s["methods"].items():
        matches = [*(row["tasks"][task] for task in TASKS), row["mean"]]
        by_task.append([titles[name], *(f"{match:.3f}" for match in matches)])
        matches = [row["sizes"][task][size] for task, size in words]
        by_size.append([titles[name], *(f"{match:.3f}" for match in matches)])
        numbers = [f"{row['cost'][k]:,}" for k in ("numbers", "file", "step")]
        step = f"{row['step_seconds'].times(1e3):.1f} ms"
        fronts = ", ".join(k for k, names in s["fronts"].items() if name in names) or "–"
        lrs = ", ".join(f"{lr:g}" for lr in row["lr"].values())
        costs.append([titles[name], *numbers, step, f"{row['curve'][-1][1].mean:.3f}", fronts, lrs])
    heads = [
        ["exact match, 300 words", *(tasks.TASKS[task].title for task in TASKS), "mean"],
        ["exact match", *(f"{tasks.TASKS[task].title}, {n:,} words" for task, n in words)],
        ["cost", "numbers", "bytes of the file", "bytes of a step", "a step", "loss"],
    ]
    heads[2] += ["on the front of", "rates"]
    return "\n\n".join(map(markdown, heads, (by_task, by_size, costs)))


# ------------------------------------------------------------------------------------------ figure


def figure(records: list[Record], path: Path) -> None:
    """Six panels; each method has one colour and one marker in all of them."""
    s = summary(records)
    rows, looks = s["methods"], plots.looks(s["methods"])
    with common.panels(path, 15.5, 9.4, 2, 3, dpi=75) as axes:
        _draw_curves(axes[0, 0], rows, looks, "optimizer steps", lambda row: 1.0)
        one_thread = "seconds on one thread"
        _draw_curves(axes[0, 1], rows, looks, one_thread, lambda row: row["step_seconds"].mean)
        _draw_tasks(axes[0, 2], rows, looks)
        _draw_against(axes[1, 0], s, looks, "numbers", 1.0)
        _draw_against(axes[1, 1], s, looks, "step", 2**20)
        _draw_sizes(axes[1, 2], rows, looks)
        axes[0, 0].set_title("Past tense: loss on validation words")
        axes[0, 1].set_title("The same against time")
        lines = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(*lines, loc="outside lower center", ncols=len(looks))


def _draw_curves(axes, rows, looks, label, scale):
    """Validation loss with a band of one standard deviation."""
    for name, row in rows.items():
        colour, marker = looks[name]
        x = [step * scale(row) for step, _ in row["curve"]]
        losses = [loss for _, loss in row["curve"]]
        means = [loss.mean for loss in losses]
        axes.plot(x, means, color=colour, marker=marker, label=METHODS[name].title)
        low, high = zip(*((loss.mean - loss.sd, loss.mean + loss.sd) for loss in losses))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_yscale("log")
    common.plain_log(axes.yaxis, how="g")
    axes.set_xlabel(label)
    axes.set_ylabel("cross-entropy (nats per token)")


def _draw_tasks(axes, rows, looks):
    """Exact match by task, the methods side by side."""
    for i, (name, row) in enumerate(rows.items()):
        x = [place + (i - (len(looks) - 1) / 2) * 0.12 for place in range(len(TASKS))]
        _draw_points(axes, x, row["tasks"].values(), looks[name])
    axes.set_xticks(range(len(TASKS)), TASKS)
    axes.tick_params(axis="x", labelsize=11)
    axes.set_ylabel("held-out exact match")
    axes.set_title("300 words of each task, five seeds")


def _draw_against(axes, s, looks, cost, unit):
    """Mean exact match over the tasks against a cost; the front as a line of steps."""
    costs = [row["cost"][cost] / unit for row in s["methods"].values()]
    for i, (name, row) in enumerate(s["methods"].items()):
        beside = costs[:i].count(costs[i]) - (costs.count(costs[i]) - 1) / 2  # of equal ones
        apart = 1.1**beside if cost == "numbers" else 1 + beside / 60
        _draw_points(axes, [costs[i] * apart], [row["mean"]], looks[name], size=11)
    best = [s["methods"][name] for name in s["fronts"][cost]]
    points = sorted((row["cost"][cost] / unit, row["mean"].mean) for row in best)
    axes.plot(*zip(*points), color="#999999", ls="--", lw=1.5, drawstyle="steps-post", zorder=1)
    if cost == "numbers":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("exact match, mean of five tasks")
    axes.set_title("Dashed: what nothing cheaper beats")


def _draw_sizes(axes, rows, looks):
    """Exact match against the number of words: a line style a task."""
    for task, style in {"past": "-", "spelling": ":"}.items():
        for name, row in rows.items():
            sizes = row["sizes"][task]
            means = [match.mean for match in sizes.values()]
            axes.plot(list(sizes), means, color=looks[name][0], ls=style, lw=1.8)
            _draw_points(axes, sizes, sizes.values(), looks[name])
    axes.set_xscale("log")
    common.plain_log(axes.xaxis, subs=(1, 3), how=",.0f")
    axes.set_xlabel("words to train on (always 150 steps of 32)")
    axes.set_ylabel("held-out exact match")
    axes.set_title("Past tense (—) and sounds to spelling (···)")


def _draw_points(axes, x, estimates, look, size=8):
    common.errorbars(axes, x, estimates, look, ms=size, capsize=3, ls="none")


TITLE = "Each at its own learning rate: who learns what, how fast, and at what cost in bytes?"
STUDY = Study("comparison", TITLE, cells, quick, run, summary, table, figure, then)
