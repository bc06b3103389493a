"""Delta-LoRA: "learns better from changing data and avoids overfitting".

Its sum of steps telescopes: where W moves from the first step, W + s B A is W₀ + (1 + λ) s B A at
every step, LoRA with its scaling times 1 + λ; where it moves from a later one, a change of rank 2r
at most. So LoRA's scaling is tuned here as well as its rate, on validation words.

Four runs: `grid`, λ and the start step on the past tense; `same`, the identity in float64; `shift`,
one stream of data that changes from the past tense to the plural half-way: how fast the second is
learned, how much of the first is left; `few`, a hundred words many times over: the gap between
held-out and training loss.

Source: Zi et al. 2023, arXiv:2309.02411, algorithm 1, where λ = 2 and W rests for K = 500 steps.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.lab import markdown
from minilora.lab.cells import grid
from minilora.lab.sweep import rounded, the_model
from minilora.methods import METHODS
from minilora.text import tasks

from . import Question, _lab
from ._telescoping import same

RATES = (0.005, 0.01, 0.02)
RANK = 4
ALPHA = 8.0  # s = 2
RATIOS = (0.5, 1.0, 2.0, 4.0)
ALPHAS = (8.0, 12.0, 16.0, 24.0, 40.0)  # ALPHA, and (1 + λ) ALPHA for every λ
STEPS = 80
HALF = 50  # steps of each of two tasks
LORA, DELTA = {"method": "lora", "ratio": 0.0, "start": 0}, {"method": "delta_lora", "alpha": ALPHA}


# ---------------------------------------------------------------------------------------- the cells


def cells():
    """Every run."""
    common = {"rank": RANK, "lr": RATES, "seed": _lab.TUNING}
    on_grid = {"kind": "grid", "task": "past", "train_size": 300, "steps": STEPS, **common}
    shift = {"kind": "shift", "task": "past", "then": "plural", "train_size": 300, "half": HALF}
    few = {"kind": "few", "task": "past", "train_size": 100, "steps": 150, **common}
    return [
        *grid(kind="same", ratio=RATIOS, start=(0, 10), rank=RANK, alpha=ALPHA, steps=40, seed=0),
        *grid(**on_grid, **LORA, alpha=ALPHAS),
        *grid(**on_grid, **DELTA, ratio=RATIOS, start=(0, 25, 50)),
        *grid(**shift, **common, **LORA, alpha=(8.0, 24.0, 40.0)),
        *grid(**shift, **common, **DELTA, ratio=(2.0, 4.0), start=(0, HALF)),
        *grid(**few, **LORA, alpha=(8.0, 24.0)),
        *grid(**few, **DELTA, ratio=2.0, start=(0, 50)),
    ]


def then(records):
    """More seeds at the chosen rates."""
    return _lab.more_seeds(r for r in records if r["cell"]["kind"] != "same")


def quick():
    """Short ones of each kind."""
    common = {"rank": 2, "lr": 0.01, "seed": 0, "train_size": 40}
    return [
        *grid(kind="few", task="past", steps=4, **common, **DELTA, ratio=2.0, start=1),
        *grid(kind="shift", task="past", then="plural", half=2, **common, **LORA, alpha=8.0),
        *grid(kind="same", ratio=2.0, start=(0, 2), rank=2, alpha=8.0, steps=6, seed=0),
    ]


def run(kind, **cell):
    """One training run, or two that are to be the same."""
    kinds: dict[str, Callable[..., Any]] = {"shift": _shift, "same": same}
    return kinds.get(kind, _words)(**cell)


def _words(task, train_size, steps, lr, seed, **how):
    """One task: scores, and the training words' own loss in the end; both curves."""
    model, words = the_model("base"), tasks.select(task, train_size)
    tuned, every = _lab.lora_or_delta(model, seed=seed, **how), max(1, steps // 5)

    def work():
        history = _lab.teach(
            tuned,
            _lab.word_batches(tuned, words.train, steps, seed),
            lr=lr,
            steps=steps,
            evaluate=lambda t: [_lab.loss_on(t, words.train), _lab.loss_on(t, words.validation)],
            evaluate_every=every,
        )
        found = _lab.scores(tuned, words)
        found["train_loss"] = history.evaluations[-1][1][0]
        found["curve"] = [[step, *losses] for step, losses in history.evaluations]
        return {**found, "gap": rounded(found["test_loss"] - found["train_loss"])}

    return _lab.or_diverged(work)


def _shift(task, then, train_size, half, lr, seed, **how):
    """So many steps of one task, then as many of the next, at one constant rate."""
    both = [tasks.select(name, train_size) for name in (task, then)]
    tuned = _lab.lora_or_delta(the_model("base"), seed=seed, **how)
    stream = [
        batch
        for words in both
        for batch in _lab.word_batches(tuned, words.train, half, seed)[:half]
    ]

    def work():
        history = _lab.teach(
            tuned,
            stream,
            lr=lr,
            steps=2 * half,
            schedule="constant",
            evaluate=lambda t: [_lab.loss_on(t, words.validation) for words in both],
            evaluate_every=max(1, half // 5),
        )
        old, new = (_lab.scores(tuned, words) for words in both)
        while_learning = [loss for step, (_, loss) in history.evaluations if step > half]
        return {
            "curve": [[step, *losses] for step, losses in history.evaluations],
            "validation_loss": new["validation_loss"],  # what is chosen by
            "adapting": rounded(float(np.mean(while_learning))),
            **{f"old_{name}": value for name, value in old.items()},
            **{f"new_{name}": value for name, value in new.items()},
        }

    return _lab.or_diverged(work)


# ----------------------------------------------------------------------------- what the records say

SHOWN = {  # kind -> what is shown of it
    "grid": ("test_loss", "exact_match"),
    "shift": ("adapting", "new_test_loss", "new_exact_match", "old_test_loss", "old_exact_match"),
    "few": ("train_loss", "test_loss", "gap", "exact_match"),
}


def summary(records):
    """{"grid", "shift", "few": {"each": setting -> …, "tuned": method -> …, "difference": …},
    "same": …}.
    """
    found = {kind: _of(_lab.of_kind(records, kind), names) for kind, names in SHOWN.items()}
    same = _lab.of_kind(records, "same")
    at_once = [r for r in same if r["cell"]["start"] == 0]
    later = [r for r in same if r["cell"]["start"] > 0]
    found["same"] = {
        "largest_difference": max(r["result"]["difference"] for r in at_once),
        "ranks_at_once": sorted({rank for r in at_once for rank in r["result"]["ranks"]}),
        "ranks_later": sorted({rank for r in later for rank in r["result"]["ranks"]}),
        "rank": same[0]["cell"]["rank"],
    }
    return found


def _of(records, names):
    """Each setting at its best rate; each method at its best setting; and, seed by seed, what
    Delta-LoRA's result is above LoRA's.
    """
    each = {}
    for settings, runs in _lab.tuned_rates(records).items():
        each[label(json.loads(settings))] = _lab.of_runs(runs, records, *names)
    best = {}
    for runs in _lab.tuned_rates(records, free=("lr", "alpha", "ratio", "start")).values():
        best[runs[0]["cell"]["method"]] = runs
    tuned = {
        method: {"setting": label(runs[0]["cell"]), **_lab.of_runs(runs, records, *names)}
        for method, runs in best.items()
    }
    return {"each": each, "tuned": tuned, "difference": _differences(best, names)}


def _differences(best, names):
    by_seed = [
        {run["cell"]["seed"]: run["result"] for run in best[method]}
        for method in ("delta_lora", "lora")
    ]
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in by_seed[0] if seed in by_seed[1]]
    return {name: _lab.spread(_less(a.get(name), b.get(name)) for a, b in pairs) for name in names}


def _less(ours, theirs):
    """The difference; None where one of the runs diverged."""
    return None if ours is None or theirs is None else ours - theirs


def label(cell) -> str:
    """A setting in words: LoRA's scaling against the usual one, Delta-LoRA's λ and start."""
    if not cell["ratio"]:
        return f"LoRA, s × {cell['alpha'] / ALPHA:g}"
    late = f", from step {cell['start'] + 1}" if cell["start"] else ""
    return f"Delta-LoRA, λ = {cell['ratio']:g}{late}"


HEADS = {
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


def table(records):
    """One table for each kind."""
    s = summary(records)
    same = s["same"]
    at_once, later = (" or ".join(map(str, same[f"ranks_{n}"])) for n in ("at_once", "later"))
    identity = (
        "Where W moves from the first step, it is LoRA with (1 + λ) s: in float64 the losses "
        f"differ by no more than {same['largest_difference']:.0e} of themselves. The change of W, "
        f"adapter and all, has rank {at_once} then, and {later} where W moves from a later step "
        f"(r = {same['rank']})."
    )
    tables = [_table(HEADS[kind], s[kind], SHOWN[kind]) for kind in SHOWN]
    return "\n".join([*tables, identity])


def _table(head, found, names):
    def row(name, r):
        return [name, _lab.at_rate(r), *(_lab.said(r[n]) for n in names)]

    rows = [row(name, r) for name, r in found["each"].items()]
    rows += [
        row(f"**{METHODS[method].title}, all tuned** ({r['setting'].split(', ', 1)[1]})", r)
        for method, r in found["tuned"].items()
    ]
    difference = [_lab.said(found["difference"][name]) for name in names]
    rows.append(["**Delta-LoRA less LoRA, seed by seed**", "", *difference])
    return markdown.table(head, rows) + "\n"


def figure(records, path):
    """What each setting learned of the new and kept of the old; the curves of a hundred words."""
    from minilora.support import plots

    s = summary(records)
    with plots.style():
        drawing = plots.canvas(13, 6)
        left, right = drawing.subplots(1, 2)
        _draw_shift(left, _lab.of_kind(records, "shift"))
        _draw_few(right, _lab.of_kind(records, "few"), s["few"]["tuned"])
    path.write_bytes(plots.png(drawing))


def _draw_shift(axes, records):
    """A point a setting and rate."""
    from minilora.support import plots

    groups: dict[str, list] = {}
    for record in records:
        own = {k: v for k, v in record["cell"].items() if k != "seed"}
        groups.setdefault(json.dumps(own), []).append(record["result"])
    for method, (colour, marker) in plots.looks(["lora", "delta_lora"]).items():
        runs = [r for own, r in groups.items() if json.loads(own)["method"] == method]
        runs = [r for r in runs if all("diverged" not in result for result in r)]
        old, new = (
            [_lab.spread(result[name] for result in r) for r in runs]
            for name in ("old_test_loss", "new_test_loss")
        )
        axes.errorbar(
            [v["mean"] for v in new],
            [v["mean"] for v in old],
            xerr=[v["sd"] for v in new],
            yerr=[v["sd"] for v in old],
            ls="none",
            marker=marker,
            color=colour,
            elinewidth=1,
            label=METHODS[method].title,
        )
    axes.set(xscale="log", yscale="log", xlabel="loss on the new task, plural (nats per token)")
    axes.set_ylabel("loss on the old task, past tense")
    axes.set_title("Data that change half-way: learned, kept")
    _lab.plain_log(axes.xaxis)
    _lab.plain_log(axes.yaxis)
    axes.legend(title="each scaling, λ, start and rate")


def _draw_few(axes, records, tuned):
    """Held-out and training loss of both methods, all tuned."""
    from minilora.support import plots

    for method, (colour, marker) in plots.looks(["lora", "delta_lora"]).items():
        chosen = tuned[method]
        curves = [
            r["result"]["curve"]
            for r in records
            if label(r["cell"]) == chosen["setting"] and r["cell"]["lr"] == chosen["lr"]
        ]
        steps, train, held_out = np.mean(curves, axis=0).T
        axes.plot(steps, held_out, color=colour, marker=marker, label=chosen["setting"])
        axes.plot(steps, train, color=colour, marker=marker, ls=":", ms=5)
    axes.plot([], [], color=plots.INK, label="held-out words")
    axes.plot([], [], color=plots.INK, ls=":", label="the words trained on")
    axes.set(yscale="log", xlabel="optimizer steps", ylabel="loss (nats per token)")
    axes.set_title("A hundred words, over and over")
    _lab.plain_log(axes.yaxis)
    axes.legend()


QUESTION = Question(
    name="delta_lora",
    title="Delta-LoRA: λ, where W starts to move, changing data, few words",
    cells=cells,
    run=run,
    summary=summary,
    table=table,
    figure=figure,
    quick=quick,
    then=then,
)
