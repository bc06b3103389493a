"""VeRA: "shrinks the adapter and moves between systems easily".

Past tense, 300 words, q_proj and v_proj: loss against trainable numbers over ranks, beside LoRA;
then at one rank what the paper's tables 6 and 7 take apart: only b or only d trained, d's start,
how A and B are drawn, and a pair of its own for every layer in place of the shared one. Every rate
chosen on validation words. Then the file: with A and B in it, without, and made whole again by
another process.

Source: Kopiczko et al. 2023, arXiv:2310.11454, tables 6 to 8 and figure 2.
"""

import json
import math
from typing import Any

import numpy as np

from minilora.lab import markdown
from minilora.lab.cells import grid
from minilora.lab.sweep import the_model
from minilora.methods import METHODS, vera
from minilora.text import tasks
from minilora.tuning.adapters import Tuned, attach

from . import Question, _lab
from ._file import of_file

RANKS = (1, 4, 16, 64, 256, 1024)
LORA_RANKS = (1, 2, 4, 8, 16)
RATES = {"vera": (0.05, 0.1, 0.2, 0.5, 1.0), "lora": (0.005, 0.01, 0.02, 0.05, 0.1)}
OWN_RATES = {  # of what a step moves more, or less, than it does with d = 0.1 and Kaiming's A, B
    "only b": (0.2, 0.5, 1.0, 2.0, 5.0),
    "only d": (0.005, 0.02, 0.05, 0.2, 0.5),
    "d from 1": (0.005, 0.02, 0.05, 0.2, 0.5),
    "A, B in [0, 0.1]": (0.1, 0.2, 0.5, 1.0),
}
AT = 64  # the rank of what is taken apart
AS_PUBLISHED: dict[str, Any] = {
    "trains": ["b", "d"],
    "d_initial": 0.1,
    "draw": "kaiming uniform",
    "shared": True,
}
VARIANTS: dict[str, dict[str, Any]] = {  # what is changed -> in words
    "only b": {"trains": ["b"]},
    "only d": {"trains": ["d"]},
    "d from 1e-7": {"d_initial": 1e-7},
    "d from 1": {"d_initial": 1.0},
    "A, B normal": {"draw": "kaiming normal"},
    "A, B in [0, 0.1]": {"draw": "uniform 0 to 0.1"},
    "A, B of its own each": {"shared": False},
}
COMMON = {"task": "past", "train_size": 300, "steps": 100}


# ---------------------------------------------------------------------------------------- the cells


def cells():
    """Every run."""
    vera = {"kind": "train", "method": "vera", **COMMON}
    lora = {"kind": "train", "method": "lora", **COMMON, "lr": RATES["lora"]}
    trained = grid(**vera, lr=RATES["vera"], rank=RANKS, variant="as published", seed=_lab.TUNING)
    for name in VARIANTS:
        rates = OWN_RATES.get(name, RATES["vera"])
        trained += grid(**vera, lr=rates, rank=AT, variant=name, seed=_lab.TUNING)
    return [
        *grid(kind="file", method="vera", rank=RANKS, seed=0),
        *grid(kind="file", method="lora", rank=LORA_RANKS, seed=0),
        *trained,
        *grid(**lora, rank=LORA_RANKS, variant="as published", seed=_lab.TUNING),
    ]


def then(records):
    """More seeds at the chosen rates."""
    return _lab.more_seeds(_lab.of_kind(records, "train"))


def quick():
    """Short ones of each kind."""
    short = {**COMMON, "train_size": 40, "steps": 4, "lr": 0.1, "seed": 0}
    changed = ["only d", "A, B normal", "A, B of its own each"]
    return [
        *grid(kind="train", method="vera", rank=8, variant=changed, **short),
        *grid(kind="file", method="vera", rank=16, seed=0),
    ]


def run(kind, **cell):
    """One training run, or one file."""
    return (_train if kind == "train" else of_file)(**cell)


def _train(method, rank, variant, task, train_size, steps, lr, seed):
    model, words = the_model("base"), tasks.select(task, train_size)
    tuned = (ready if _lab.shares(method) else _lora)(model, rank, variant, seed)

    def work():
        batches = _lab.word_batches(tuned, words.train, steps, seed)
        history = _lab.teach(tuned, batches, lr=lr, steps=steps)
        return {**_lab.scores(tuned, words), "train_loss": _lab.rounded(history.losses[-1])}

    return {"trainable": sum(a.size for a in tuned.trainable.values()), **_lab.or_diverged(work)}


def _lora(model, rank, variant, seed):
    return attach(model, "lora", rank=rank, seed=seed)


def ready(model, rank: int, variant: str, seed: int) -> Tuned:
    """VeRA with one thing changed: the arrays are overwritten before training."""
    how = {**AS_PUBLISHED, **VARIANTS.get(variant, {})}
    options = {"projection_prng_key": seed, "d_initial": how["d_initial"]}
    tuned = attach(model, "vera", rank=rank, seed=seed, **options)
    if not how["shared"]:
        _own_pairs(tuned, rank, seed)
    _redraw(tuned.shared, how["draw"], seed)
    slots = [slot for slot in tuned.trained() if slot.argument in how["trains"]]
    if how["trains"] == ["d"]:  # b is left out: 1, and the change is 0 at the start because d is
        for arrays in tuned.layers.values():
            arrays["b"][:], arrays["d"][:] = 1, 0
    tuned.slots = lambda: slots  # type: ignore[method-assign]
    return tuned


def _own_pairs(tuned, rank, seed):
    """Another A and B for every layer, drawn as the shared ones are."""
    for place, arrays in enumerate(tuned.layers.values()):
        key = {"projection_prng_key": 1000 * (seed + 1) + place}
        shape, like = (len(arrays["B"]), arrays["A"].shape[1]), arrays["A"]
        arrays.update(vera.prepare([shape], rank, key, like))


def _redraw(shared, draw, seed):
    """The shared A and B in place, so that every layer's slices change with them."""
    rng = np.random.default_rng(seed)
    for array in shared.values():
        fan_in = array.shape[1]  # A (r, I), B (O, r)
        if draw == "kaiming normal":
            array[:] = rng.normal(0, math.sqrt(2 / fan_in), array.shape)
        elif draw == "uniform 0 to 0.1":
            array[:] = rng.uniform(0, 0.1, array.shape)


# ----------------------------------------------------------------------------- what the records say


def summary(records):
    """{"vera", "lora": rank -> …}, {"variants": name -> …}, {"files": method -> rank -> …}."""
    found: dict[str, Any] = {
        "vera": {},
        "lora": {},
        "variants": {},
        "files": {"vera": {}, "lora": {}},
    }
    trained = _lab.of_kind(records, "train")
    for settings, runs in _lab.tuned_rates(trained).items():
        cell = json.loads(settings)
        row = _lab.of_runs(runs, trained, "exact_match", "test_loss", "validation_loss")
        row["trainable"] = runs[0]["result"]["trainable"]
        if cell["variant"] == "as published":
            found[cell["method"]][cell["rank"]] = row
        if _lab.shares(cell["method"]) and cell["rank"] == AT:
            found["variants"][cell["variant"]] = row
    for record in _lab.of_kind(records, "file"):
        cell = record["cell"]
        found["files"][cell["method"]][cell["rank"]] = record["result"]
    return found


def table(records):
    """Ranks with bytes, then what was taken apart."""
    s = summary(records)
    ranks = [
        [
            f"{METHODS[method].title}, rank {rank}",
            f"{row['trainable']:,}",
            f"{(file := s['files'][method][rank])['bytes']:,}",
            f"{file['bytes_with_projections']:,}" if _lab.shares(method) else "",
            *_end(row),
        ]
        for method in ("vera", "lora")
        for rank, row in sorted(s[method].items())
    ]
    apart = [[name, f"{row['trainable']:,}", *_end(row)] for name, row in s["variants"].items()]
    end = ["rate", "exact match", "loss"]
    first = markdown.table(["", "trainable", "bytes on disk", "with A and B", *end], ranks)
    return f"{first}\n\n{markdown.table([f'VeRA, rank {AT}', 'trainable', *end], apart)}\n"


def _end(row):
    return _lab.at_rate(row), _lab.said(row["exact_match"]), _lab.said(row["test_loss"])


def figure(records, path):
    """Left loss against trainable numbers; right what was taken apart."""
    from minilora.support import plots

    s = summary(records)
    with plots.style():
        drawing = plots.canvas(13, 5.8)
        left, right = drawing.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_ranks(left, s)
        _draw_variants(right, s["variants"])
    path.write_bytes(plots.png(drawing))


def _draw_ranks(axes, s):
    from minilora.support import plots

    aside = {"vera": dict(xytext=(-8, -20), ha="right"), "lora": dict(xytext=(0, 14), ha="center")}
    for method, (colour, marker) in plots.looks(aside).items():
        rows = dict(sorted(s[method].items()))
        loss = [row["test_loss"] for row in rows.values()]
        x, y = [row["trainable"] for row in rows.values()], [v["mean"] for v in loss]
        look = dict(color=colour, marker=marker, capsize=4, elinewidth=1.4)
        axes.errorbar(x, y, [v["sd"] for v in loss], label=METHODS[method].title, **look)
        place = dict(textcoords="offset points", fontsize=11, color=colour, **aside[method])
        for rank, a, b in zip(rows, x, y):
            axes.annotate(f"r = {rank}" if rank == 1 else str(rank), (a, b), **place)
    axes.set(xscale="log", yscale="log", xlabel="trainable numbers")
    axes.set_xlim(axes.get_xlim()[0] / 1.35)
    axes.set_ylabel("loss on held-out words (nats per token)")
    axes.set_title("Past tense: what a trainable number buys")
    _lab.plain_log(axes.xaxis)
    _lab.plain_log(axes.yaxis)
    axes.legend()


def _draw_variants(axes, variants):
    from minilora.support import plots

    names = list(variants)
    colour, marker = plots.LOOKS["vera"]
    score = [variants[name]["exact_match"] for name in names]
    look = dict(ls="none", marker=marker, color=colour, capsize=4, ms=9, elinewidth=1.4)
    axes.errorbar(
        [v["mean"] for v in score], range(len(names)), xerr=[v["sd"] for v in score], **look
    )
    axes.axvline(variants["as published"]["exact_match"]["mean"], color=colour, ls=":", lw=1.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1)
    axes.set_xlabel("share answered exactly")
    axes.set_title(f"VeRA at rank {AT}, one thing changed")


QUESTION = Question(
    name="vera",
    title="VeRA: what rank, b, d, A and B do, and what a file of it weighs",
    cells=cells,
    run=run,
    summary=summary,
    table=table,
    figure=figure,
    quick=quick,
    then=then,
)
