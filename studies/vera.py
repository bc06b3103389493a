"""VeRA: "shrinks the adapter and moves between systems easily".

Past tense, 300 words, q_proj and v_proj: loss against trainable numbers over ranks, beside LoRA.
Then, at one rank, the variants of the paper's tables 6 and 7: only b or only d trained, d's start,
the draw of A and B, and a pair of its own for every layer in place of the shared one. Every rate is
chosen on validation words. Then the adapter's file: with A and B in it, without, and loaded by
another process.

Source: Kopiczko et al. 2023, arXiv:2310.11454, tables 6 to 8 and figure 2.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.runs import the_model, trainable_numbers
from minilora.lab.statistics import rounded
from minilora.lab.table import markdown
from minilora.lab.workers import ONE_THREAD
from minilora.methods import METHODS, vera
from minilora.support import plots
from minilora.text import tasks
from minilora.tuning.adapters import Tuned, attach
from minilora.tuning.storage import load_adapter, save_adapter

from . import Study, common

RANKS = (1, 4, 16, 64, 256, 1024)
LORA_RANKS = (1, 2, 4, 8, 16)
RATES = {"vera": (0.05, 0.1, 0.2, 0.5, 1.0), "lora": (0.005, 0.01, 0.02, 0.05, 0.1)}
OWN_RATES = {  # variants whose steps are larger or smaller than with d = 0.1 and Kaiming's A, B
    "only b": (0.2, 0.5, 1.0, 2.0, 5.0),
    "only d": (0.005, 0.02, 0.05, 0.2, 0.5),
    "d from 1": (0.005, 0.02, 0.05, 0.2, 0.5),
    "A, B in [0, 0.1]": (0.1, 0.2, 0.5, 1.0),
}
VARIANT_RANK = 64
PUBLISHED = "as published"
VARIANTS: dict[str, dict[str, Any]] = {  # title -> what differs from the published method
    PUBLISHED: {"trains": ["b", "d"], "d_initial": 0.1, "draw": "kaiming uniform", "shared": True},
    "only b": {"trains": ["b"]},
    "only d": {"trains": ["d"]},
    "d from 1e-7": {"d_initial": 1e-7},
    "d from 1": {"d_initial": 1.0},
    "A, B normal": {"draw": "kaiming normal"},
    "A, B in [0, 0.1]": {"draw": "uniform 0 to 0.1"},
    "A, B of its own each": {"shared": False},
}
COMMON = {"task": "past", "train_size": 300, "steps": 100}

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Files; VeRA over ranks; its variants; LoRA over ranks."""
    return [
        *grid(kind="file", method="vera", rank=RANKS, seed=0),
        *grid(kind="file", method="lora", rank=LORA_RANKS, seed=0),
        *_training("vera", RATES["vera"], RANKS, PUBLISHED),
        *(
            cell
            for name in VARIANTS
            if name != PUBLISHED
            for cell in _training("vera", OWN_RATES.get(name, RATES["vera"]), VARIANT_RANK, name)
        ),
        *_training("lora", RATES["lora"], LORA_RANKS, PUBLISHED),
    ]


def _training(method, rates, ranks, variant) -> list[Cell]:
    tried = {"lr": rates, "rank": ranks, "variant": variant, "seed": common.TUNING}
    return grid(kind="train", method=method, **COMMON, **tried)


def then(records: list[Record]) -> list[Cell]:
    """Further seeds at the chosen rates."""
    return common.more_seeds(common.by_kind(records)["train"])


def quick() -> list[Cell]:
    """Short ones of each kind."""
    short = {**COMMON, "train_size": 40, "steps": 4, "lr": 0.1, "seed": 0}
    changed = ["only d", "A, B normal", "A, B of its own each"]
    return [
        *grid(kind="train", method="vera", rank=8, variant=changed, **short),
        *grid(kind="file", method="vera", rank=16, seed=0),
    ]


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell) -> dict[str, Any]:
    """One training run, or one file."""
    return {"train": train, "file": file}[kind](**cell)


def train(method, rank, variant, task, train_size, steps, lr, seed) -> dict[str, Any]:
    """One training run: its scores, and its last training loss."""
    model, words = the_model("base"), tasks.select(task, train_size)
    if method == "vera":
        tuned = attach_variant(model, rank, variant, seed)
    else:
        tuned = attach(model, method, rank=rank, seed=seed)

    def work():
        history = common.learn(tuned, words.train, lr=lr, steps=steps, seed=seed)
        return {**common.scores(tuned, words), "train_loss": rounded(history.losses[-1])}

    return {"trainable": trainable_numbers(tuned), **common.or_diverged(work)}


def attach_variant(model, rank: int, variant: str, seed: int) -> Tuned:
    """VeRA with one thing changed: the arrays are overwritten before training."""
    how = {**VARIANTS[PUBLISHED], **VARIANTS[variant]}
    options = {"projection_prng_key": seed, "d_initial": how["d_initial"]}
    tuned = attach(model, "vera", rank=rank, seed=seed, **options)
    if not how["shared"]:
        _draw_own_pairs(tuned, rank, seed)
    _redraw(tuned.shared, how["draw"], seed)
    trained = [t for t in tuned.trained() if t.argument in how["trains"]]
    if how["trains"] == ["d"]:  # b is left out: it is 1, and d starts at 0, so that ΔW does too
        for arrays in tuned.layers.values():
            arrays["b"][:], arrays["d"][:] = 1, 0
    tuned.trained = lambda: trained
    return tuned


def _draw_own_pairs(tuned, rank, seed):
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


def file(method, rank, seed) -> dict[str, Any]:
    """Bytes with A and B and without; does another process load the same adapter from the smaller
    file?
    """
    tuned = attach(the_model("base"), method, rank=rank, seed=seed)
    rng = np.random.default_rng(seed)
    for array in tuned.trainable.values():
        array[:] = rng.normal(0, 0.1, array.shape)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"bytes": save_adapter(tuned, folder, save_projection=False)}
        if method == "vera":
            sizes["bytes_with_projections"] = save_adapter(tuned, Path(folder) / "whole")
        there = _checksums_elsewhere(folder)
    here = checksums(tuned)
    same = {"checksums": here, "same_bits_elsewhere": here == there}
    return {**sizes, "trainable": trainable_numbers(tuned), **same}


def checksums(tuned: Tuned) -> dict[str, int]:
    """CRC-32 of every array of the adapter together, and of the logits of some ids."""
    ids = np.arange(2 * 12).reshape(2, 12) % tuned.config.vocab_size
    arrays = b"".join(tuned.arrays[key].tobytes() for key in sorted(tuned.arrays))
    return {"arrays": zlib.crc32(arrays), "logits": zlib.crc32(tuned.logits(ids).tobytes())}


def print_checksums(folder: str) -> None:
    """Load an adapter and print its checksums: runs in the other process."""
    print(json.dumps(checksums(load_adapter(the_model("base"), folder))))


def _checksums_elsewhere(folder):
    command = f"from {__name__} import print_checksums; print_checksums({str(folder)!r})"
    package = Path(__file__).resolve().parents[1]
    env = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": str(package)}
    process = [sys.executable, "-W", "ignore", "-c", command]
    out = subprocess.run(process, capture_output=True, text=True, check=True, env=env)
    return json.loads(out.stdout)


# --------------------------------------------------------------------------- summary, table, figure


def summary(records: list[Record]) -> dict[str, Any]:
    """{"vera", "lora": rank -> …}, {"variants": name -> …}, {"files": method -> rank -> …}."""
    kinds, files = common.by_kind(records), {"vera": {}, "lora": {}}
    parts: dict[str, Any] = {"vera": {}, "lora": {}, "variants": {}, "files": files}
    for runs in common.at_best_rates(kinds["train"]):
        cell = runs[0]["cell"]
        row = common.row_of(runs, kinds["train"], "exact_match", "test_loss", "validation_loss")
        if cell["variant"] == PUBLISHED:
            parts[cell["method"]][cell["rank"]] = row
        if cell["method"] == "vera" and cell["rank"] == VARIANT_RANK:
            parts["variants"][cell["variant"]] = row
    for record in kinds["file"]:
        files[record["cell"]["method"]][record["cell"]["rank"]] = record["result"]
    return parts


def table(records: list[Record]) -> str:
    """Ranks with bytes, then the variants."""
    s = summary(records)
    ranks = [
        [
            f"{METHODS[method].title}, rank {rank}",
            f"{row['trainable']:,}",
            f"{(file := s['files'][method][rank])['bytes']:,}",
            f"{file['bytes_with_projections']:,}" if method == "vera" else "",
            *common.rate_and_scores(row),
        ]
        for method in ("vera", "lora")
        for rank, row in sorted(s[method].items())
    ]
    variants = [
        [name, f"{row['trainable']:,}", *common.rate_and_scores(row)]
        for name, row in s["variants"].items()
    ]
    end = ["rate", "exact match", "loss"]
    first = markdown(["", "trainable", "bytes on disk", "with A and B", *end], ranks)
    return f"{first}\n\n{markdown([f'VeRA, rank {VARIANT_RANK}', 'trainable', *end], variants)}\n"


def figure(records: list[Record], path: Path) -> None:
    """Left loss against trainable numbers; right the variants."""
    s = summary(records)
    with common.panels(path, 13, 5.8, 1, 2, width_ratios=(1.25, 1)) as (left, right):
        _draw_ranks(left, s)
        look, variants = plots.LOOKS["vera"], s["variants"]
        matches = [row["exact_match"] for row in variants.values()]
        common.scores_by_name(right, list(variants), matches, look, ms=9, elinewidth=1.4)
        right.axvline(variants[PUBLISHED]["exact_match"].mean, color=look[0], ls=":", lw=1.6)
        right.set_xlim(-0.02, 1)
        right.set_title(f"VeRA at rank {VARIANT_RANK}, one thing changed")


def _draw_ranks(axes, s):
    aside = {"vera": dict(xytext=(-8, -20), ha="right"), "lora": dict(xytext=(0, 14), ha="center")}
    for method, look in plots.looks(aside).items():
        rows = dict(sorted(s[method].items()))
        x, losses = [[row[k] for row in rows.values()] for k in ("trainable", "test_loss")]
        title = METHODS[method].title
        common.errorbars(axes, x, losses, look, label=title, capsize=4, elinewidth=1.4)
        place = dict(textcoords="offset points", fontsize=11, color=look[0], **aside[method])
        for rank, numbers, loss in zip(rows, x, losses):
            text = f"r = {rank}" if rank == 1 else str(rank)
            axes.annotate(text, (numbers, loss.mean), **place)
    axes.set(xscale="log", yscale="log", xlabel="trainable numbers")
    axes.set_xlim(axes.get_xlim()[0] / 1.35)
    axes.set_ylabel("loss on held-out words (nats per token)")
    axes.set_title("Past tense: what a trainable number buys")
    common.plain_log(axes.xaxis)
    common.plain_log(axes.yaxis)
    axes.legend()


TITLE = "VeRA: what rank, b, d, A and B do, and what a file of it weighs"
STUDY = Study("vera", TITLE, cells, quick, run, summary, table, figure, then)
