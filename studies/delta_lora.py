"""Delta-LoRA: "learns better from changing data and avoids overfitting".

Its sum of steps telescopes: where W moves from the first step, W + s B A is W₀ + (1 + λ) s B A at
every step, LoRA with its scaling times 1 + λ; where it moves from a later one, a change of rank 2r
at most. So LoRA's scaling is tuned here as well as its rate, on validation words.

The published form has λ = 2, and W rests for K = 500 steps. LoRA's run on E2E, which the paper
builds on, has about 26,000 steps (5 epochs of 42,061 pairs at 8): 2 %. The same share of our runs
is 2 steps of 80 or 100, 3 of 150. That form is the row of every verdict; the library's default,
start_step 0, and later starts stand beside it.

Four kinds of runs: `grid`, λ and the start step on the past tense; `same`, the identity in float64;
`shift`, one stream of data that changes from the past tense to the plural half-way: how fast the
second is learned, how much of the first is left; `few`, a hundred words many times over.

A smaller gap between held-out and training loss has two causes: a method generalises better, or it
fits less. They are told apart at equal training loss: the training loss where the one that fits
less ended, and the held-out loss of the other when its training loss passed there.

Known before these runs: an earlier record whose best rates all stood at an end of their grid; one
step lower Delta-LoRA validated better on `few`, and the gap was -0.054 ± 0.024 with a training loss
of .048 against .004.

Source: Zi et al. 2023, arXiv:2309.02411, algorithm 1.
"""

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.runs import fit, make_batches, the_model
from minilora.lab.settings import Settings
from minilora.lab.statistics import by_exact_match, estimate, rounded
from minilora.lab.table import markdown
from minilora.methods import METHODS
from minilora.support import plots
from minilora.text import tasks

from . import Study, _choice, common
from ._question import MARGIN, Finding, Question, brief, shown
from ._verdicts import FAILS, HOLDS, UNKNOWN, higher, lower

MIDDLE = {"grid": 0.01, "shift": 0.005, "few": 0.005}  # of the first grids
RANK = 4
ALPHA = 8.0  # s = 2
RATIO = 2.0  # λ, as published
STEPS = 80
HALF = 50  # steps of each of two tasks
FEW_STEPS = 150
STARTS = {"grid": 2, "shift": 2, "few": 3}  # 2 % of the steps, as published
POINTS = {"grid": 5, "few": 15}  # of the curves of both losses
LOSS_MARGIN = 0.01  # nats per token: a twentieth of the held-out loss of a hundred words
LORA, DELTA = {"method": "lora", "ratio": 0.0, "start": 0}, {"method": "delta_lora", "alpha": ALPHA}
ROUNDING = 1e-12  # below it a difference is rounding, and its size depends on the processor

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """The identity, and the first grid of every setting."""
    shared = {"task": "past", "rank": RANK}
    of_kind = {
        "grid": {"steps": STEPS, "train_size": 300, **shared},
        "shift": {"then": "plural", "half": HALF, "train_size": 300, **shared},
        "few": {"steps": FEW_STEPS, "train_size": 100, **shared},
    }
    work = grid(
        kind="same", ratio=(0.5, RATIO), start=(0, 10), rank=RANK, alpha=ALPHA, steps=40, seed=0
    )
    for kind, fixed in of_kind.items():
        tried = {"kind": kind, **fixed, "lr": common.around(MIDDLE[kind]), "seed": common.SEEDS}
        late = FEW_STEPS // 3 if kind == "few" else HALF if kind == "shift" else STEPS // 3
        work += grid(**tried, **LORA, alpha=(ALPHA, (1 + RATIO) * ALPHA))
        work += grid(**tried, **DELTA, ratio=RATIO, start=(STARTS[kind], 0, late))
        if kind == "grid":
            work += grid(**tried, **DELTA, ratio=(0.5, 4.0), start=STARTS[kind])
    return work


def then(records: list[Record]) -> list[Cell]:
    """Wider grids."""
    return common.searched(r for r in records if r["cell"]["kind"] != "same")


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
    if kind in POINTS:
        return one_task(kind, **cell)
    return {"shift": two_tasks, "same": identity}[kind](**cell)


def one_task(kind, task, train_size, steps, lr, seed, **how) -> dict[str, Any]:
    """Scores, the final loss of the training words, and the curves of both losses."""
    model, words = the_model("base"), tasks.select(task, train_size)
    tuned = common.lora_or_delta(model, seed=seed, **how)

    def losses(tuned):
        return [common.loss_on(tuned, part) for part in (words.train, words.validation)]

    def work():
        watched = {"evaluate": losses, "evaluate_every": max(1, steps // POINTS[kind])}
        history = common.learn(tuned, words.train, lr=lr, steps=steps, seed=seed, **watched)
        scores = common.scores(tuned, words)
        curve = [[step, *values] for step, values in history.evaluations]
        scores |= {"train_loss": curve[-1][1], "curve": curve}
        return {**scores, "gap": rounded(scores["test_loss"] - scores["train_loss"])}

    return common.or_diverged(work, words)


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
            "validation": new["validation"],  # chooses the rate
            "adapting": rounded(float(np.mean(while_learning))),
            **{f"old_{name}": old[name] for name in ("test_loss", "exact_match")},
            **{f"new_{name}": new[name] for name in ("test_loss", "exact_match")},
        }

    return common.or_diverged(work, both[1])


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
    """Each setting at its best rate; LoRA, Delta-LoRA and the published form at their best; and,
    seed by seed, how far each form's result is above LoRA's.
    """
    best = common.at_best_rates(records)
    each = {label(runs[0]["cell"]): common.row_of(runs, records, *names) for runs in best}
    groups = {
        "lora": [runs for runs in best if runs[0]["cell"]["method"] == "lora"],
        "delta_lora": [runs for runs in best if runs[0]["cell"]["method"] == "delta_lora"],
        "published": [runs for runs in best if is_published(runs[0]["cell"])],
    }
    chosen = {name: max(group, key=by_exact_match) for name, group in groups.items()}
    tuned = {
        name: {"setting": label(runs[0]["cell"]), **common.row_of(runs, records, *names)}
        for name, runs in chosen.items()
    }
    sides = {
        "lora": [r for r in records if r["cell"]["method"] == "lora"],
        "delta_lora": [r for r in records if r["cell"]["method"] == "delta_lora"],
        "published": [r for r in records if is_published(r["cell"])],
    }
    tried = {name: _choice.Tried(runs) for name, runs in sides.items()}
    found = {"each": each, "tuned": tuned}
    for name in ("published", "delta_lora"):
        values = {key: functools.partial(_less, key) for key in names}
        if "train_loss" in names:
            values["at_equal_training_loss"] = at_equal_fit
        found[f"{name}_less_lora"] = {
            key: _choice.gap(tried[name], tried["lora"], value) for key, value in values.items()
        }
    return found


def _less(name, ours, theirs):
    """The difference of a result, None where a run diverged."""
    both = ours.get(name), theirs.get(name)
    return None if None in both else both[0] - both[1]


def is_published(cell: Cell) -> bool:
    """λ = 2, and W rests for 2 % of the steps."""
    return cell["ratio"] == RATIO and cell["start"] == STARTS[cell["kind"]]


def at_equal_fit(ours: dict[str, Any], theirs: dict[str, Any]) -> float | None:
    """The validation loss of ours less theirs, both at the training loss where the one that fits
    less ended; None where a run diverged.
    """
    if "diverged" in ours or "diverged" in theirs:
        return None
    fit = max(ours["train_loss"], theirs["train_loss"])
    return held_out_at(ours["curve"], fit) - held_out_at(theirs["curve"], fit)


def held_out_at(curve: list[list[float]], fit: float) -> float:
    """The validation loss when the training loss first passed `fit`, between two evaluations by
    interpolation in the logarithm of the training loss. curve: [step, training, validation].
    """
    if curve[0][1] <= fit:
        return curve[0][2]
    for (_, high, before), (_, low, after) in itertools.pairwise(curve):
        if low <= fit:
            share = (math.log(high) - math.log(fit)) / (math.log(high) - math.log(low))
            return before + share * (after - before)
    return curve[-1][2]


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
    titles = {"lora": "LoRA, all tuned", "delta_lora": "Delta-LoRA, all tuned"}
    titles["published"] = "Delta-LoRA as published, its rate tuned"
    tuned = {f"**{titles[n]}** ({row['setting']})": row for n, row in part["tuned"].items()}
    lines = [
        [name, common.rate_of(row), *(f"{row[n]:.3f}" for n in names)]
        for name, row in [*part["each"].items(), *tuned.items()]
    ]
    for name in ("published", "delta_lora"):
        gaps = [brief(part[f"{name}_less_lora"][n]) for n in names]
        lines.append([f"**{titles[name]}, less LoRA, seed by seed**", "", *gaps])
    return markdown(head, lines)


# --------------------------------------------------------------------------------------- questions


def _ends(part, *names):
    return any(part["tuned"][name]["at_an_end"] for name in names)


def _changing(s):
    part = s["shift"]
    gaps = part["published_less_lora"]
    verdict, p = higher(gaps["new_exact_match"], MARGIN)
    said = "; ".join(f"{name.replace('_', ' ')} {shown(gap)}" for name, gap in gaps.items())
    return Finding(said, *((UNKNOWN, 1.0) if _ends(part, "published", "lora") else (verdict, p)))


def overfits_less(s: dict[str, Any]) -> Finding:
    """Less overfitting is a lower held-out loss at equal training loss, see `at_equal_fit`; a
    smaller gap with a higher training loss alone is "fits less".
    """
    part = s["few"]
    gaps = part["published_less_lora"]
    verdict, p = lower(gaps["at_equal_training_loss"], LOSS_MARGIN)
    smaller, fits = gaps["gap"].sign < 0, gaps["train_loss"].sign > 0
    why = {(True, True): "a smaller gap, by fitting less", (True, False): "a smaller gap"}
    said = "; ".join(f"{name.replace('_', ' ')} {shown(gap)}" for name, gap in gaps.items())
    said += f": {why.get((smaller, fits), 'no smaller gap')}"
    return Finding(said, *((UNKNOWN, 1.0) if _ends(part, "published", "lora") else (verdict, p)))


def _rescaled(s):
    apart = s["same"]["largest_difference"]
    return Finding(
        f"in float64 the losses of Delta-LoRA from step 1 and of LoRA with (1 + λ) s differ by no "
        f"more than {apart:.0e} of themselves over 40 steps; the change has rank "
        f"{', '.join(map(str, s['same']['ranks_at_once']))}",
        FAILS if apart <= 10 * ROUNDING else HOLDS,
    )


def _stable(s):
    """Published Delta-LoRA's spread between seeds beside LoRA's, on a hundred words."""
    rows = {name: s["few"]["tuned"][name]["exact_match"] for name in ("published", "lora")}
    said = ", ".join(f"{name} {row:.3f}" for name, row in rows.items())
    return Finding(f"exact match on a hundred words, mean ± sd over seeds: {said}; five seeds "
                   "say little of a spread", UNKNOWN)  # fmt: skip


EQUAL = "words, batches, steps, rank, seeds; LoRA's scaling and rate tuned, Delta-LoRA's rate"
ONE_BASE = "other models, sizes and data. λ and K are the paper's, and not tuned"
QUESTIONS = (
    Question(
        "D2 W4",
        "Delta-LoRA, as published, learns effectively from changing data distributions: "
        "better than LoRA",
        EQUAL + "; a constant rate",
        f"exact match on the second task; holds: the interval of the difference lies above 0; does "
        f"not hold: below {MARGIN}; cannot tell: else, or where an end of a grid was best",
        "a LoRA that learns the second task as well",
        ONE_BASE,
        _changing,
    ),
    Question(
        "D3",
        "Delta-LoRA's updates prevent overfitting: less than LoRA at an equal fit",
        EQUAL + "; and the training loss",
        "held-out loss at equal training loss; holds: the interval of the difference lies below 0; "
        f"does not hold: above -{LOSS_MARGIN} nats per token; cannot tell: else, or where an end "
        "of a grid was best. A smaller gap by a higher training loss is named as such",
        "a gap that is smaller only because the training loss is higher",
        ONE_BASE,
        overfits_less,
    ),
    Question(
        "D3",
        "Delta-LoRA's updates are controlled: stable",
        EQUAL,
        "the spread between five seeds: shown, not judged",
        "-",
        "stability: five seeds cannot compare two spreads",
        _stable,
    ),
    Question(
        "–",
        "Moving W by the change of B A gives more than LoRA, where W moves from the first step",
        "everything but s and AdamW's ε, which are (1 + λ) times as large in LoRA; no clipping; "
        "float64",
        "does not hold: the losses are LoRA's with (1 + λ) s to rounding; else holds",
        "a difference above rounding",
        "later starts: those are no LoRA of that rank, and have a change of rank 2r",
        _rescaled,
    ),
)


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
    title = "each scaling, λ, start and rate (bars: sd of\n5 seeds)"
    axes.legend(title=title, loc="upper right", fontsize=11, title_fontsize=11)
    axes.set_ylim(top=2.5)


def _draw_few(axes, records, tuned):
    """Held-out and training loss of both methods, all tuned."""
    for method, (colour, marker) in {
        "lora": plots.LOOKS["lora"],
        "published": plots.LOOKS["delta_lora"],
    }.items():
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
    axes.set_title("A hundred words, over and over (mean of 5 seeds)")
    common.plain_log(axes.yaxis)
    axes.legend()


TITLE = "Delta-LoRA: λ, where W starts to move, changing data, few words"
STUDY = Study("delta_lora", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
