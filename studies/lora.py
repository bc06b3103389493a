"""LoRA: how much rank a change needs, where what is learned points, which weights to adapt.

`teacher`: one linear of the base, and a teacher whose weight is of known rank r* away from it. LoRA
of rank r cannot come nearer than the best rank-r matrix, and the Eckart-Young theorem says how near
that is: the elbow stands at r*. `words`: the past tense at several ranks, every rate tried; and how
much a change amplifies of what W has in its directions. `pair`: two such runs from different seeds,
how far their directions agree, what chance gives taken off. `budget`: one number of trainable
numbers, spent on different weights.

Source: Hu et al. 2021, arXiv:2106.09685, section 7: tables 5 to 7, figures 3 and 4.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minilora.lab import markdown
from minilora.lab.cells import grid
from minilora.lab.sweep import rounded, the_model
from minilora.text import tasks
from minilora.tuning.adapters import attach

from . import Question, _lab, _lora_figure
from ._known_rank import known_rank
from ._subspaces import amplification, by_chance, directions, similarity

RATES = (0.002, 0.005, 0.01, 0.02, 0.05)
KNOWN, RANKS = (2, 4, 8), (1, 2, 3, 4, 6, 8, 12, 16)
PLACES = (1, 2, 4, 8, 16, 32, 64)  # j of φ(i, j)
COMMON = {"task": "past", "train_size": 300, "steps": 100}
BUDGET = {  # targets -> the rank whose trainable numbers come nearest to 4 · 4576
    "q": 18,
    "k": 24,
    "v": 24,
    "o": 18,
    "q v": 10,
    "q k v o": 5,
    "gate up down": 3,
    "q k v o gate up down": 2,
}


# ---------------------------------------------------------------------------------------- the cells


def cells():
    """Every run but the pairs."""
    words = {"kind": "words", **COMMON, "lr": RATES, "seed": _lab.TUNING}
    return [
        *grid(kind="teacher", known=KNOWN, rank=RANKS, steps=400, lr=0.02, seed=(0, 1, 2)),
        *grid(**words, targets="q v", rank=(4, 8, 64)),
        *[c for targets, rank in BUDGET.items() for c in grid(**words, targets=targets, rank=rank)],
    ]


def then(records):
    """More seeds at the chosen rates; and pairs of seeds at them, after training and before."""
    words = _lab.of_kind(records, "words")
    chosen = {
        cell["rank"]: cell["lr"]
        for cell in (runs[0]["cell"] for runs in _lab.tuned_rates(words).values())
        if cell["targets"] == "q v"
    }
    pairs = [
        {"ranks": [[one, other]], "rates": [[chosen[one], chosen[other]]]}
        for one, other in ((8, 64), (64, 64))
    ]
    pair = {"kind": "pair", **COMMON, "seeds": [[0, 10], [1, 11], [2, 12]]}
    return [
        *_lab.more_seeds(words),
        *[c for ranks in pairs for c in grid(**pair, **ranks)],
        *[c for ranks in pairs for c in grid(**{**pair, "steps": 0}, **ranks)],
    ]


def quick():
    """Short ones of each kind."""
    short = {**COMMON, "train_size": 40, "steps": 4}
    return [
        *grid(kind="teacher", known=2, rank=(1, 2), steps=60, lr=0.05, seed=0),
        *grid(kind="words", **short, lr=0.01, seed=0, targets="q k v o", rank=2),
        *grid(kind="pair", **short, seeds=[[0, 1]], ranks=[[2, 4]], rates=[[0.01, 0.01]]),
    ]


def run(kind, **cell):
    """One of the kinds above."""
    kinds: dict[str, Callable[..., Any]] = {"teacher": known_rank, "words": _words, "pair": _pair}
    return kinds[kind](**cell)


# ---------------------------------------------------------------------------------------- the words


def _learned(targets, rank, task, train_size, steps, lr, seed):
    """(the words, LoRA after so many steps on them)."""
    words = tasks.select(task, train_size)
    names = [f"{name}_proj" for name in targets.split()]
    tuned = attach(the_model("base"), "lora", rank=rank, targets=names, seed=seed)
    if steps:
        _lab.teach(tuned, _lab.word_batches(tuned, words.train, steps, seed), lr=lr, steps=steps)
    return words, tuned


def _words(**cell):
    """One run: scores, and the amplification of each kind of linear, mean over the layers."""

    def work():
        words, tuned = _learned(**cell)
        trainable = sum(a.size for a in tuned.trainable.values())
        shown = {"trainable": trainable, "amplification": _amplification(tuned)}
        return {**shown, **_lab.scores(tuned, words)}

    return _lab.or_diverged(work)


def _amplification(tuned):
    found: dict[str, list] = {}
    for layer in tuned.layers:
        W = tuned.base.params[f"{layer}.weight"].astype(np.float64)
        kind = layer.rsplit(".", 1)[-1].removesuffix("_proj")
        found.setdefault(kind, []).append(amplification(tuned.delta(layer), W, tuned.rank))
    return {
        kind: {name: rounded(float(np.mean([each[name] for each in all]))) for name in all[0]}
        for kind, all in found.items()
    }


def _pair(seeds, ranks, rates, **cell):
    """φ(i, j) of two runs' A, as the paper's, and of their ΔW: mean over the layers, by kind."""
    (_, one), (_, other) = (
        _learned(targets="q v", rank=rank, lr=lr, seed=seed, **cell)
        for seed, rank, lr in zip(seeds, ranks, rates)
    )
    found: dict[str, dict[str, list]] = {"A": {}, "change": {}}
    for layer, arrays in one.layers.items():
        kind = layer.rsplit(".", 1)[-1].removesuffix("_proj")
        matrices = {"A": (arrays["A"], other.layers[layer]["A"])}
        if cell["steps"]:
            matrices["change"] = (one.delta(layer), other.delta(layer))
        for name, (a, b) in matrices.items():
            both = directions(a, ranks[0]), directions(b, ranks[1])
            found[name].setdefault(kind, []).append(similarity(*both))
    places = [j - 1 for j in PLACES if j <= ranks[1]]
    return {
        name: {
            kind: [[rounded(float(v)) for v in row] for row in np.mean(all, axis=0)[:8, places]]
            for kind, all in kinds.items()
        }
        for name, kinds in found.items()
    }


# ----------------------------------------------------------------------------- what the records say


def summary(records):
    """{"teacher": r* -> r -> …, "budget": targets -> …, "ranks": r -> …, "similarity": … -> …}."""
    found = {"teacher": _teachers(_lab.of_kind(records, "teacher")), "budget": {}, "ranks": {}}
    words = _lab.of_kind(records, "words")
    for runs in _lab.tuned_rates(words).values():
        cell = runs[0]["cell"]
        row = _lab.of_runs(runs, words, "exact_match", "test_loss", "validation_loss")
        row["trainable"] = runs[0]["result"]["trainable"]
        if BUDGET.get(cell["targets"]) == cell["rank"]:
            found["budget"][cell["targets"]] = {"rank": cell["rank"], **row}
        else:
            kinds = {kind: _amplified(runs, kind) for kind in cell["targets"].split()}
            found["ranks"][cell["rank"]] = {**row, "amplification": kinds}
    found["similarity"] = _similarities(_lab.of_kind(records, "pair"))
    return found


def _teachers(records):
    found: dict[int, dict] = {}
    for record in records:
        cell, result = record["cell"], record["result"]
        row = found.setdefault(cell["known"], {}).setdefault(
            cell["rank"], {"error": [], "best": []}
        )
        row["error"].append(result["error"])
        row["best"].append(result["best"])
    return {
        known: {rank: {k: _lab.spread(v) for k, v in row.items()} for rank, row in rows.items()}
        for known, rows in found.items()
    }


def _amplified(runs, kind):
    return {
        name: _lab.spread(run["result"]["amplification"][kind][name] for run in runs)
        for name in ("factor", "change", "weight", "weight_own")
    }


def _similarities(records):
    """ "8, 64" -> "A", "change", "untrained A" -> q, v -> φ(i, i) less chance, i = 1, 2, 4, 8."""
    groups: dict[tuple, list] = {}
    for record in records:
        ranks, trained = record["cell"]["ranks"], record["cell"]["steps"] > 0
        for name, kinds in record["result"].items():
            for kind, phi in kinds.items():
                title = name if trained else f"untrained {name}"
                groups.setdefault((tuple(ranks), title, kind), []).append(_less_chance(phi, ranks))
    found: dict[str, dict] = {}
    for (ranks, title, kind), all in groups.items():
        values = {i: _lab.spread(excess[i] for excess in all) for i in all[0]}
        found.setdefault(", ".join(map(str, ranks)), {}).setdefault(title, {})[kind] = values
    return found


def _less_chance(phi, ranks):
    """{i: φ(i, i) less what chance gives}; d is the width of the base."""
    width = the_model("base").config.hidden_size
    chance = by_chance(ranks[0], ranks[1], width)
    places = [j for j in PLACES if j <= min(8, *ranks)]
    return {j: phi[j - 1][PLACES.index(j)] - float(chance[j - 1, j - 1]) for j in places}


def table(records):
    """Known rank; budget; amplification; similarity."""
    s = summary(records)
    head = ["r* of the teacher", *(f"r = {rank}" for rank in RANKS)]
    teacher = [
        [f"{known}: {name}", *(f"{rows[rank][key]['mean']:.3f}" for rank in RANKS)]
        for known, rows in s["teacher"].items()
        for name, key in (("LoRA", "error"), ("the best of that rank", "best"))
    ]
    budget = [
        [targets, row["rank"], f"{row['trainable']:,}", *_end(row)]
        for targets, row in s["budget"].items()
    ]
    ranks = [
        [
            f"{kind}_proj, r = {rank}",
            *(_lab.said(a[n], 2) for n in ("change", "weight")),
            _lab.said(a["factor"], 2),
            *_end(row),
        ]
        for rank, row in s["ranks"].items()
        for kind, a in row["amplification"].items()
    ]
    alike = [
        [f"ranks {pair}: {title}, {kind}_proj", *(_lab.said(v) for v in values.values())]
        for pair, titles in s["similarity"].items()
        for title, kinds in titles.items()
        for kind, values in kinds.items()
    ]
    end = ["rate", "exact match", "loss"]
    return (
        "\n\n".join(
            [
                markdown.table(head, teacher),
                markdown.table(["adapted", "rank", "trainable", *end], budget),
                markdown.table(["", "‖ΔW‖", "‖Uᵀ W V‖", "amplification", *end], ranks),
                markdown.table(["φ(i, i) less chance", "i = 1", "i = 2", "i = 4", "i = 8"], alike),
            ]
        )
        + "\n"
    )


def _end(row):
    return _lab.at_rate(row), _lab.said(row["exact_match"]), _lab.said(row["test_loss"])


def figure(records, path):
    """The elbow; agreement beyond chance; one budget on different weights."""
    _lora_figure.draw(summary(records), path)


QUESTION = Question(
    name="lora",
    title="LoRA: how much rank, which directions, which weights",
    cells=cells,
    run=run,
    summary=summary,
    table=table,
    figure=figure,
    quick=quick,
    then=then,
)
