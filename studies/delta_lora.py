"""Delta-LoRA: "learns better from changing data and avoids overfitting".

Its sum of steps telescopes: where W moves from the first step, W + s B A is W₀ + (1 + λ) s B A at
every step, LoRA with its scaling times 1 + λ; where it moves from a later one, a change of rank 2r
at most. So LoRA's scaling is tuned here as well as its rate, on validation words.

Four kinds of runs: `grid`, λ and the start step on the past tense; `same`, the identity in float64;
`shift`, one stream of data that changes from the past tense to the plural half-way: how fast the
second is learned, how much of the first is left; `few`, a hundred words many times over: the gap
between held-out and training loss.

Source: Zi et al. 2023, arXiv:2309.02411, algorithm 1, where λ = 2 and W rests for K = 500 steps.
"""

from pathlib import Path
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.runs import fit, make_batches, the_model
from minilora.lab.settings import Settings
from minilora.lab.statistics import difference, estimate, rounded
from minilora.lab.table import markdown
from minilora.methods import METHODS
from minilora.support import plots
from minilora.text import tasks

from . import Study, common

RATES = (0.005, 0.01, 0.02)
RANK = 4
ALPHA = 8.0  # s = 2
RATIOS = (0.5, 1.0, 2.0, 4.0)
ALPHAS = (8.0, 12.0, 16.0, 24.0, 40.0)  # ALPHA, and (1 + λ) ALPHA for every λ
STEPS = 80
HALF = 50  # steps of each of two tasks
LORA, DELTA = {"method": "lora", "ratio": 0.0, "start": 0}, {"method": "delta_lora", "alpha": ALPHA}
ROUNDING = 1e-12  # below it a difference is rounding, and its size depends on the processor

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Every run."""
    common_to_all = {"rank": RANK, "lr": RATES, "seed": common.TUNING}
    past = {"task": "past", "train_size": 300, **common_to_all}
    on_grid = {"kind": "grid", "steps": STEPS, **past}
    shift = {"kind": "shift", "then": "plural", "half": HALF, **past}
    few = {"kind": "few", "task": "past", "train_size": 100, "steps": 150, **common_to_all}
    return [
        *grid(kind="same", ratio=RATIOS, start=(0, 10), rank=RANK, alpha=ALPHA, steps=40, seed=0),
        *grid(**on_grid, **LORA, alpha=ALPHAS),
        *grid(**on_grid, **DELTA, ratio=RATIOS, start=(0, 25, 50)),
        *grid(**shift, **LORA, alpha=(8.0, 24.0, 40.0)),
        *grid(**shift, **DELTA, ratio=(2.0, 4.0), start=(0, HALF)),
        *grid(**few, **LORA, alpha=(8.0, 24.0)),
        *grid(**few, **DELTA, ratio=2.0, start=(0, 50)),
    ]


def then(records: list[Record]) -> list[Cell]:
    """Further seeds at the chosen rates."""
    return common.more_seeds(r for r in records if r["cell"]["kind"] != "same")


def quick() -> list[Cell]:
    """Short ones of each kind."""
    short = {"rank": 2, "lr": 0.01, "seed": 0, "train_size": 40}
    return [
        *grid(kind="few", task="past", steps=4, **short, **DELTA, ratio=2.0, start=1),
        *grid(kind="shift", task="past", then="plural", half=2, **short, **LORA, alpha=8.0),
        *grid(kind="same", ratio=2.0, start=(0, 2), rank=2, alpha=8.0, steps=6, seed=0),
    ]


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell) -> dict[str, Any]:
    """One training run, or two that should be the same."""
    return {"grid": one_task, "few": one_task, "shift": two_tasks, "same": identity}[kind](**cell)


def one_task(task, train_size, steps, lr, seed, **how) -> dict[str, Any]:
    """Scores, the final loss of the training words, and the curves of both losses."""
    model, words = the_model("base"), tasks.select(task, train_size)
    tuned = common.lora_or_delta(model, seed=seed, **how)

    def losses(tuned):
        return [common.loss_on(tuned, part) for part in (words.train, words.validation)]

    def work():
        watched = {"evaluate": losses, "evaluate_every": max(1, steps // 5)}
        history = common.learn(tuned, words.train, lr=lr, steps=steps, seed=seed, **watched)
        scores = common.scores(tuned, words)
        curve = [[step, *values] for step, values in history.evaluations]
        scores |= {"train_loss": curve[-1][1], "curve": curve}
        return {**scores, "gap": rounded(scores["test_loss"] - scores["train_loss"])}

    return common.or_diverged(work)


def two_tasks(task, then, train_size, half, lr, seed, **how) -> dict[str, Any]:
    """So many steps of one task, then as many of the next, at one constant rate."""
    both = [tasks.select(name, train_size) for name in (task, then)]
    tuned = common.lora_or_delta(the_model("base"), seed=seed, **how)
    of_half, settings = (Settings().changed(steps=steps) for steps in (half, 2 * half))
    first, second = (make_batches(tuned, words.train, of_half, seed)[:half] for words in both)

    def losses(tuned):
        return [common.loss_on(tuned, words.validation) for words in both]

    def work():
        watched = {"evaluate": losses, "evaluate_every": max(1, half // 5)}
        history = fit(tuned, first + second, settings, lr, schedule="constant", **watched)
        old, new = (common.scores(tuned, words) for words in both)
        while_learning = [loss for step, (_, loss) in history.evaluations if step > half]
        return {
            "curve": [[step, *values] for step, values in history.evaluations],
            "validation_loss": new["validation_loss"],  # chooses the rate
            "adapting": rounded(float(np.mean(while_learning))),
            **{f"old_{name}": value for name, value in old.items()},
            **{f"new_{name}": value for name, value in new.items()},
        }

    return common.or_diverged(work)


def identity(ratio, start, rank, alpha, steps, seed) -> dict[str, Any]:
    """Delta-LoRA beside LoRA of (1 + λ) times the scaling, in float64, on the same batches.

    LoRA's ε is (1 + λ) times as large, as its gradients are; without clipping, which depends on
    their size. -> the largest relative difference of the losses (ROUNDING at least), and the rank
    of each change of W.
    """
    model, words = the_model("base").astype(np.float64), tasks.select("past", 60)
    losses, moved = [], {}
    for method, factor in (("delta_lora", 1.0), ("lora", 1 + ratio)):
        how = dict(rank=rank, alpha=factor * alpha, ratio=ratio, start=start, seed=seed)
        tuned = common.lora_or_delta(model, method, **how)
        unclipped = {"clip": None, "eps": factor * 1e-8}
        history = common.learn(tuned, words.train, lr=0.01, steps=steps, seed=seed, **unclipped)
        losses.append(np.array(history.losses))
        if tuned.record.owns_weight:
            W = {name: model.params[f"{name}.weight"] for name in tuned.layers}
            moved = {name: arrays["W"] - W[name] for name, arrays in tuned.layers.items()}
    values = [np.linalg.svd(change, compute_uv=False) for change in moved.values()]
    apart = np.max(np.abs(losses[0] - losses[1]) / losses[1])
    return {
        "difference": max(ROUNDING, float(f"{apart:.1e}")),
        "ranks": [int((v > 1e-9 * v[0]).sum()) for v in values],
    }


# --------------------------------------------------------------------------- summary, table, figure

HEADS = {  # kind -> the heads of its table
    "grid": ["past tense, 300 words", "rate", "held-out loss", "exact match"],
    "shift": [
        "past tense, then plural",
        "rate",
        "plural's loss while learning",
        "in the end",
        "exact match",
        "past tense's loss in the end",
        "exact match",
    ],
    "few": ["100 words, 48 times", "rate", "training loss", "held-out loss", "gap", "exact match"],
}
SHOWN = {  # kind -> the results in its columns
    "grid": ("test_loss", "exact_match"),
    "shift": ("adapting", "new_test_loss", "new_exact_match", "old_test_loss", "old_exact_match"),
    "few": ("train_loss", "test_loss", "gap", "exact_match"),
}


def summary(records: list[Record]) -> dict[str, Any]:
    """{"grid", "shift", "few": {"each": setting -> …, "tuned": method -> …, "difference": …},
    "same": …}.
    """
    kinds = common.by_kind(records)
    at_once, later = (
        [r["result"] for r in kinds["same"] if (r["cell"]["start"] > 0) == late]
        for late in (False, True)
    )
    same = {
        "largest_difference": max(result["difference"] for result in at_once),
        "ranks_at_once": sorted({rank for result in at_once for rank in result["ranks"]}),
        "ranks_later": sorted({rank for result in later for rank in result["ranks"]}),
        "rank": kinds["same"][0]["cell"]["rank"],
    }
    return {**{kind: _of_kind(kinds[kind], names) for kind, names in SHOWN.items()}, "same": same}


def _of_kind(records, names):
    """Each setting at its best rate; each method at its best setting; and, seed by seed, how far
    Delta-LoRA's result is above LoRA's.
    """
    each = {
        label(runs[0]["cell"]): common.row_of(runs, records, *names)
        for runs in common.at_best_rates(records)
    }
    best = {
        runs[0]["cell"]["method"]: runs
        for runs in common.at_best_rates(records, free=("lr", "alpha", "ratio", "start"))
    }
    tuned = {
        method: {"setting": label(runs[0]["cell"]), **common.row_of(runs, records, *names)}
        for method, runs in best.items()
    }
    delta, lora = (
        {run["cell"]["seed"]: run["result"] for run in best[method]}
        for method in ("delta_lora", "lora")
    )
    seeds = [seed for seed in delta if seed in lora]
    gaps = {
        name: difference(*([of[seed].get(name) for seed in seeds] for of in (delta, lora)))
        for name in names
    }
    return {"each": each, "tuned": tuned, "difference": gaps}


def label(cell: Cell) -> str:
    """A setting in words: LoRA's scaling against the usual one, Delta-LoRA's λ and start."""
    if not cell["ratio"]:
        return f"LoRA, s × {cell['alpha'] / ALPHA:g}"
    late = f", from step {cell['start'] + 1}" if cell["start"] else ""
    return f"Delta-LoRA, λ = {cell['ratio']:g}{late}"


def table(records: list[Record]) -> str:
    """One table for each kind."""
    s = summary(records)
    same = s["same"]
    at_once, later = (" or ".join(map(str, same[f"ranks_{n}"])) for n in ("at_once", "later"))
    sentence = (
        "Where W moves from the first step, it is LoRA with (1 + λ) s: in float64 the losses "
        f"differ by no more than {same['largest_difference']:.0e} of themselves. The change of W, "
        f"adapter and all, has rank {at_once} then, and {later} where W moves from a later step "
        f"(r = {same['rank']})."
    )
    tables = [_table(HEADS[kind], s[kind], names) + "\n" for kind, names in SHOWN.items()]
    return "\n".join([*tables, sentence])


def _table(head, part, names):
    tuned = {
        f"**{METHODS[method].title}, all tuned** ({row['setting'].split(', ', 1)[1]})": row
        for method, row in part["tuned"].items()
    }
    lines = [
        [name, common.rate_of(row), *(f"{row[n]:.3f}" for n in names)]
        for name, row in [*part["each"].items(), *tuned.items()]
    ]
    gaps = [f"{part['difference'][name]:.3f}" for name in names]
    return markdown(head, [*lines, ["**Delta-LoRA less LoRA, seed by seed**", "", *gaps]])


def figure(records: list[Record], path: Path) -> None:
    """What each setting learned of the new and kept of the old; the curves of a hundred words."""
    kinds = common.by_kind(records)
    with common.panels(path, 13, 6, 1, 2) as (left, right):
        _draw_shift(left, kinds["shift"])
        _draw_few(right, kinds["few"], summary(records)["few"]["tuned"])


def _draw_shift(axes, records):
    """A point a setting and rate."""
    alike = common.grouped(records, lambda cell: (label(cell), cell["lr"])).values()
    for method, (colour, marker) in plots.looks(["lora", "delta_lora"]).items():
        groups = [runs for runs in alike if runs[0]["cell"]["method"] == method]
        groups = [g for g in groups if not any("diverged" in run["result"] for run in g)]
        old, new = (
            [estimate(run["result"][name] for run in runs) for runs in groups]
            for name in ("old_test_loss", "new_test_loss")
        )
        deviations = {"xerr": [e.sd for e in new], "yerr": [e.sd for e in old]}
        look = dict(ls="none", marker=marker, color=colour, elinewidth=1)
        means = [[e.mean for e in estimates] for estimates in (new, old)]
        axes.errorbar(*means, **deviations, **look, label=METHODS[method].title)
    axes.set(xscale="log", yscale="log", xlabel="loss on the new task, plural (nats per token)")
    axes.set_ylabel("loss on the old task, past tense")
    axes.set_title("Data that change half-way: learned, kept")
    common.plain_log(axes.xaxis)
    common.plain_log(axes.yaxis)
    axes.legend(title="each scaling, λ, start and rate")


def _draw_few(axes, records, tuned):
    """Held-out and training loss of both methods, all tuned."""
    for method, (colour, marker) in plots.looks(["lora", "delta_lora"]).items():
        chosen = tuned[method]
        curves = [
            record["result"]["curve"]
            for record in records
            if (label(record["cell"]), record["cell"]["lr"]) == (chosen["setting"], chosen["lr"])
        ]
        steps, train, held_out = np.mean(curves, axis=0).T
        axes.plot(steps, held_out, color=colour, marker=marker, label=chosen["setting"])
        axes.plot(steps, train, color=colour, marker=marker, ls=":", ms=5)
    axes.plot([], [], color=plots.INK, label="held-out words")
    axes.plot([], [], color=plots.INK, ls=":", label="the words trained on")
    axes.set(yscale="log", xlabel="optimizer steps", ylabel="loss (nats per token)")
    axes.set_title("A hundred words, over and over")
    common.plain_log(axes.yaxis)
    axes.legend()


TITLE = "Delta-LoRA: λ, where W starts to move, changing data, few words"
STUDY = Study("delta_lora", TITLE, cells, quick, run, summary, table, figure, then)
