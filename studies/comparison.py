"""Every technique on the word lab's five tasks, each at its own learning rate: who learns what, how
fast, at what cost in bytes?

The claims: LoRA+ "converges faster at the same cost", LoRA-FA needs less memory "at the same
quality". With the rate tuned for each method, variants of LoRA were found to lie within one or two
per cent of each other (arXiv:2602.04998), which is why nothing here is run at a common rate.
Set-up: 300 words of a task, 150 steps of 32, q_proj and v_proj, rank 4 (VeRA 256); 1000 and all
words for two tasks. The rate of a method on a task is chosen with one seed on 300 validation words,
from the five rates of the one grid around the method's own best on past tenses (`minilora tune`:
eleven rates, three seeds); that one choice is taken over for past tenses as it stands. Held-out
words choose nothing. The larger sets use the rates of 300 words.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from minilora.formats.models import load_model
from minilora.lab import rates
from minilora.lab.cells import Cell, Record, grid
from minilora.lab.markdown import table as markdown
from minilora.lab.runs import adapter_bytes, load_words, make_batches
from minilora.lab.runs import run as train_run
from minilora.lab.spread import difference, mean_sd, milliseconds, plus_minus
from minilora.lab.sweep import rounded, settings_of, the_model, word_run
from minilora.lab.tune import GRID
from minilora.lab.word_adapters import NAMES as TASKS
from minilora.memory import CATEGORIES, measure
from minilora.methods import METHODS
from minilora.text import tasks
from minilora.tuning.train import train

from . import Question
from ._comparison_figure import figure
from ._turns import in_turns

RANKS = {name: 256 if record.rank_above_width else 4 for name, record in METHODS.items()}
TUNED = rates.DEFAULT_TASK  # its rates are on record, of all eleven and three seeds
TRIED = 5  # rates of the grid for every other task, that one in their middle as far as it can be
SEEDS, FEWER_SEEDS = tuple(range(5)), tuple(range(3))
SIZES = {"past": (1000, 5733), "spelling": (1000, 13180)}  # all words but one, which validates
EARLY = 30  # steps of 150: who is ahead by then
COST_STEPS = 2  # optimizer steps before the bytes are counted
TURNS = 6  # of every method, to time its steps; the first, which may compile kernels, is left out


def cells() -> list[Cell]:
    """What a step costs, what the untrained base knows, and the choice of the rates."""
    best = rates.chosen_for(TUNED, rates.read())
    found = grid(kind="base", task=TASKS)
    found += [_cell("cost", m, lr=best[m]["lr"], steps=COST_STEPS, seed=0) for m in METHODS]
    found.append({"kind": "seconds", "ranks": RANKS, "turns": TURNS, "steps": 20, "seed": 0})
    for task in TASKS:
        for method in METHODS if task != TUNED else ():
            place = GRID.index(best[method]["lr"]) - TRIED // 2
            place = min(max(0, place), len(GRID) - TRIED)
            for lr in GRID[place : place + TRIED]:
                found.append(_learn(method, task, 300, lr, 0, ["validation"], purpose="rate"))
    return found


def then(records: list[Record]) -> list[Cell]:
    """The runs that count, at the rates which the first part chose."""
    found = []
    for (task, method), lr in chosen(records).items():
        found += [_learn(method, task, 300, lr, seed, ["test"]) for seed in SEEDS]
        for size in SIZES.get(task, ()):
            found += [_learn(method, task, size, lr, seed, ["test"]) for seed in FEWER_SEEDS]
    return found


def quick() -> list[Cell]:
    """Few steps on few words."""
    few = {"train_size": 40, "steps": 4, "score": ["validation"]}
    learn = [_cell("learn", m, task="plural", lr=0.01, seed=0, purpose="", **few) for m in RANKS]
    return [*learn[1:3], {"kind": "base", "task": "comparative"}]


def _cell(kind: str, method: str, **settings) -> Cell:
    return {"kind": kind, "method": method, "rank": RANKS[method], **settings}


def _learn(method, task, size, lr, seed, score, purpose="score") -> Cell:
    every = 15 if (task, size, purpose) == (TUNED, 300, "score") else None
    where = {"task": task, "train_size": size, "steps": 150, "seed": seed}
    return _cell("learn", method, lr=lr, **where, every=every, score=score, purpose=purpose)


# --------------------------------------------------------------------------------------- the cells


def run(kind: str, **cell) -> dict[str, Any]:
    """One cell."""
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "learn": learn,
        "cost": cost,
        "base": base,
        "seconds": seconds,
    }
    return kinds[kind](**cell)


def learn(purpose: str, **cell) -> dict[str, Any]:
    """One training run."""
    return word_run(**cell)


def base(task: str) -> dict[str, Any]:
    """What the untrained base knows of a task."""
    model = load_model("base")
    return {"test": tasks.exact_match(model, tasks.load_task(task).test)}


def cost(method: str, rank: int, lr: float, steps: int, seed: int) -> dict[str, Any]:
    """Bytes of a step and of the adapter's file."""
    settings = settings_of(rank=rank, steps=steps)
    words = load_words(settings)
    tuned, _ = train_run(the_model(settings.base), words, settings, method, lr, seed)
    batches = make_batches(tuned.base, words.train, settings, seed)
    shape = max((ids.shape for ids, _ in batches), key=math.prod)
    measured = measure(tuned, *shape)
    return {
        "trainable": sum(a.size for a in tuned.trainable.values()),
        "adapter_bytes": adapter_bytes(tuned, None),
        "bytes": {name: measured[name] for name in CATEGORIES},
    }


def seconds(ranks: dict[str, int], turns: int, steps: int, seed: int) -> dict[str, Any]:
    """Processor seconds a step of every method, all on the same batches, taking turns: what else
    the machine does is not in them.
    """
    settings = settings_of(steps=steps)
    model = the_model(settings.base)
    batches = make_batches(model, load_words(settings).train, settings, seed)

    def spent(method):
        tuned = settings_of(rank=ranks[method], steps=steps).attach(model, method, seed)
        start = time.process_time()
        train(tuned, batches, steps=steps, lr=1e-3, progress=False)
        return [rounded((time.process_time() - start) / steps)]

    found = in_turns(spent, ranks, turns)
    return {f"{method}_seconds": values for method, values in found.items()}


# ------------------------------------------------------------------------------------- the answers


def chosen(records: list[Record]) -> dict[tuple[str, str], float]:
    """(task, method) -> the rate of the highest validation exact match, of equals of the lower
    loss; on past tenses the one on record.
    """
    found = {(TUNED, m): row["lr"] for m, row in rates.chosen_for(TUNED, rates.read()).items()}
    found = {place: lr for place, lr in found.items() if place[1] in METHODS}
    for task in TASKS:
        mine = [r for r in records if _is(r, task=task, purpose="rate")]
        found |= {(task, m): row["lr"] for m, row in rates.choose(map(_as_tuned, mine)).items()}
    return found


def _as_tuned(record):
    """A cell as the record of `tune` has it."""
    cell, validation = record["cell"], record["result"]["validation"]
    judged = {f"validation_{name}": value for name, value in validation.items()}
    return {"method": cell["method"], "rank": cell["rank"], "lr": cell["lr"], **judged}


def _is(record: Record, **wanted) -> bool:
    return all(record["cell"].get(name) == value for name, value in wanted.items())


def runs(records: list[Record], **wanted) -> list[dict[str, Any]]:
    """The results of the runs that count and have these settings, in the order of their seeds."""
    return [r["result"] for r in records if _is(r, purpose="score", **wanted)]


def _scores(records: list[Record], method: str, task: str, size: int) -> list[float]:
    """Held-out exact match, seed by seed."""
    found = runs(records, method=method, task=task, train_size=size)
    return [result["test"]["exact_match"] for result in found]


def _means(records: list[Record], method: str) -> list[float]:
    """The mean over the tasks, seed by seed."""
    by_task = [_scores(records, method, task, 300) for task in TASKS]
    return [statistics.fmean(of_seed) for of_seed in zip(*by_task)]


def _early(records: list[Record], method: str) -> list[float]:
    """The validation loss after EARLY steps on past tenses, seed by seed."""
    found = runs(records, method=method, task=TUNED, train_size=300)
    return [dict(result["evaluations"]).get(EARLY, math.inf) for result in found]


def summary(records: list[Record]) -> dict[str, Any]:
    """By method: scores (mean, sd over seeds) by task and size, costs, rates; and the fronts."""
    rates_chosen, rows = chosen(records), {}
    (timed,) = (r["result"] for r in records if _is(r, kind="seconds"))
    for method in METHODS:
        (spent,) = (r["result"] for r in records if _is(r, kind="cost", method=method))
        by_task = {task: _scores(records, method, task, 300) for task in TASKS}
        rows[method] = {
            "tasks": {task: mean_sd(found) for task, found in by_task.items()},
            "mean": mean_sd(_means(records, method)),
            "sizes": {
                task: {n: mean_sd(_scores(records, method, task, n)) for n in (300, *sizes)}
                for task, sizes in SIZES.items()
            },
            "curve": _curve(runs(records, method=method, task=TUNED, train_size=300)),
            "cost": {
                "numbers": spent["trainable"],
                "file": spent["adapter_bytes"],
                "step": sum(spent["bytes"][k] for k in ("gradients", "optimizer", "activations")),
            },
            "activations": spent["bytes"]["activations"],
            "step_seconds": mean_sd(timed[f"{method}_seconds"]),
            "lr": {task: lr for (task, m), lr in rates_chosen.items() if m == method},
        }
    return {
        "methods": rows,
        "against_lora": {
            method: difference(_means(records, method), _means(records, "lora"))
            for method in METHODS
        },
        "early": {
            method: difference(_early(records, method), _early(records, "lora"))
            for method in METHODS
        },
        "base": {r["cell"]["task"]: r["result"]["test"] for r in records if _is(r, kind="base")},
        "fronts": {cost: front(rows, cost) for cost in ("numbers", "file", "step")},
    }


def _curve(results):
    """[step, mean, sd] of the validation loss over the seeds."""
    curves = [result["evaluations"] for result in results]
    return [(points[0][0], *mean_sd(loss for _, loss in points)) for points in zip(*curves)]


def front(rows: dict[str, dict[str, Any]], cost: str) -> list[str]:
    """The methods than which no other costs at most as much and scores higher."""

    def beaten(name, other):
        cheaper = rows[other]["cost"][cost] <= rows[name]["cost"][cost]
        return cheaper and rows[other]["mean"][0] > rows[name]["mean"][0]

    return [name for name in rows if not any(beaten(name, other) for other in rows)]


def table(records: list[Record]) -> str:
    """Scores by task, then costs."""
    found = summary(records)
    titles = {name: METHODS[name].title for name in found["methods"]}
    head = ["exact match, 300 words", *(tasks.TASKS[t].title for t in TASKS), "mean"]
    by_task = [
        [titles[m], *(plus_minus(*row["tasks"][t]) for t in TASKS), plus_minus(*row["mean"])]
        for m, row in found["methods"].items()
    ]
    words = [(task, size) for task, sizes in SIZES.items() for size in (300, *sizes)]
    more = [
        [titles[m], *(plus_minus(*row["sizes"][task][size]) for task, size in words)]
        for m, row in found["methods"].items()
    ]
    bytes_of = [
        [
            titles[m],
            f"{row['cost']['numbers']:,}",
            f"{row['cost']['file']:,}",
            f"{row['cost']['step']:,}",
            milliseconds(row["step_seconds"]),
            f"{row['curve'][-1][1]:.3f}",
            ", ".join(k for k, names in found["fronts"].items() if m in names) or "–",
            ", ".join(f"{lr:g}" for lr in row["lr"].values()),
        ]
        for m, row in found["methods"].items()
    ]
    costs = ["cost", "numbers", "bytes of the file", "bytes of a step", "a step", "loss"]
    return "\n\n".join(
        [
            markdown(head, by_task),
            markdown(
                ["exact match", *(f"{tasks.TASKS[t].title}, {n:,} words" for t, n in words)], more
            ),
            markdown([*costs, "on the front of", "rates"], bytes_of),
        ]
    )


QUESTION = Question(
    name="comparison",
    title="Each at its own learning rate: who learns what, how fast, and at what cost in bytes?",
    cells=cells,
    then=then,
    run=run,
    summary=summary,
    table=table,
    figure=lambda records, path: figure(summary(records), path),
    quick=quick,
)
