"""VeRA: "shrinks the adapter and moves between systems easily".

Past tense, 300 words, q_proj and v_proj, at one rank: the variants of the paper's tables 6 and 7,
only b or only d trained, d's start, the draw of A and B, and a pair of its own for every layer in
place of the shared one. Every rate is chosen on validation words. Then the adapter's file: with A
and B in it, without, and loaded by other processes: with other kernels, and with another number of
threads. How VeRA's size and quality compare with LoRA's is the question of `cost`.

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
from ._question import Finding, Question
from ._verdicts import FAILS

RANKS = (1, 4, 16, 64, 256, 1024)  # of files
LORA_RANKS = (1, 2, 4, 8, 16)
MIDDLE = 0.4  # of the first grids
OWN_MIDDLE = {  # of variants whose steps are larger or smaller than with d = 0.1 and Kaiming's A, B
    "only b": 8.0,
    "only d": 0.32,
    "d from 1": 0.32,
    "A, B in [0, 0.1]": 0.8,
}
ELSEWHERE = {  # other processes that load the file: what differs there
    "the same": {},
    "NumPy's BLAS in place of the kernels": {"MINILORA_KERNELS": "numpy"},
    "two threads": dict.fromkeys(ONE_THREAD, "2"),
}
VARIANT_RANK = 64
PUBLISHED = "as published"
TESTED = "tested in part"
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
    """Files; the first grid of every variant."""
    return [
        *grid(kind="file", method="vera", rank=RANKS, seed=0),
        *grid(kind="file", method="lora", rank=LORA_RANKS, seed=0),
        *(
            cell
            for name in VARIANTS
            for cell in common.first_grid(
                {
                    **{"kind": "train", "method": "vera", **COMMON},
                    **{"rank": VARIANT_RANK, "variant": name},
                },
                OWN_MIDDLE.get(name, MIDDLE),
            )
        ),
    ]  # fmt: skip


def then(records: list[Record]) -> list[Cell]:
    """Wider grids."""
    return common.searched(common.by_kind(records)["train"])


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

    return {"trainable": trainable_numbers(tuned), **common.or_diverged(work, words)}


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
    """Bytes with A and B and without; do other processes load the same arrays from the smaller
    file, and how far apart are their logits?
    """
    tuned = attach(the_model("base"), method, rank=rank, seed=seed)
    rng = np.random.default_rng(seed)
    for array in tuned.trainable.values():
        array[:] = rng.normal(0, 0.1, array.shape)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"bytes": save_adapter(tuned, folder, save_projection=False)}
        if method == "vera":
            sizes["bytes_with_projections"] = save_adapter(tuned, Path(folder) / "whole")
        there = {name: _identity_elsewhere(folder, env) for name, env in ELSEWHERE.items()}
    here, logits = identity(tuned), np.array(some_logits(tuned))
    return {
        **sizes,
        "trainable": trainable_numbers(tuned),
        "arrays": here,
        "elsewhere": {
            name: {
                "same_arrays": found["arrays"] == here,
                "logits_apart": rounded(float(abs(np.array(found["logits"]) - logits).max()), 2),
                "same_answers": np.array_equal(
                    np.argmax(found["logits"], axis=-1), np.argmax(logits, axis=-1)
                ),
            }
            for name, found in there.items()
        },
    }


def identity(tuned: Tuned) -> int:
    """CRC-32 of every array of the adapter together."""
    return zlib.crc32(b"".join(tuned.arrays[key].tobytes() for key in sorted(tuned.arrays)))


def some_logits(tuned: Tuned) -> list:
    """The logits of some ids, as plain numbers."""
    ids = np.arange(2 * 12).reshape(2, 12) % tuned.config.vocab_size
    return tuned.logits(ids).tolist()


def print_identity(folder: str) -> None:
    """Load an adapter and print what it is: runs in the other process."""
    tuned = load_adapter(the_model("base"), folder)
    print(json.dumps({"arrays": identity(tuned), "logits": some_logits(tuned)}))


def _identity_elsewhere(folder, changed):
    command = f"from {__name__} import print_identity; print_identity({str(folder)!r})"
    package = Path(__file__).resolve().parents[1]
    env = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": str(package), **changed}
    process = [sys.executable, "-W", "ignore", "-c", command]
    out = subprocess.run(process, capture_output=True, text=True, check=True, env=env)
    return json.loads(out.stdout)


# --------------------------------------------------------------------------- summary, table, figure


def summary(records: list[Record]) -> dict[str, Any]:
    """{"variants": name -> …}, {"files": method -> rank -> …}."""
    kinds, files = common.by_kind(records), {"vera": {}, "lora": {}}
    parts: dict[str, Any] = {"variants": {}, "files": files}
    for runs in common.at_best_rates(kinds["train"]):
        row = common.row_of(runs, kinds["train"], "exact_match", "test_loss")
        parts["variants"][runs[0]["cell"]["variant"]] = row
    for record in kinds["file"]:
        files[record["cell"]["method"]][record["cell"]["rank"]] = record["result"]
    return parts


def _moves(s):
    files = s["files"]["vera"]
    places = next(iter(files.values()))["elsewhere"]
    said, sure = [], True
    for name in places:
        found = [file["elsewhere"][name] for file in files.values()]
        arrays, answers = (sum(f[k] for f in found) for k in ("same_arrays", "same_answers"))
        apart = max(f["logits_apart"] for f in found)
        sure &= arrays == answers == len(found)
        said.append(
            f"{name}: in {arrays} of {len(found)} × one file another process drew the same "
            f"arrays, in {answers} it gave the same likeliest tokens; logits at most {apart:.0e} "
            "apart"
        )
    small, large = (files[VARIANT_RANK][k] for k in ("bytes", "bytes_with_projections"))
    text = (
        f"{'; '.join(said)}; rank {VARIANT_RANK}: {small:,} bytes without A and B, {large:,} with"
    )
    return Finding(text, TESTED if sure else FAILS)


QUESTIONS = (
    Question(
        "V6",
        "Models fine-tuned with VeRA move between systems easily",
        "one file without A and B, ranks 1 to 1,024",
        "between processes of one machine only, so at best tested in part: other processes, with "
        "other kernels and another number of threads, draw the same A and B bit for bit and give "
        "the same likeliest tokens; does not hold: one does not",
        "an array or an answer that differs",
        "another processor, operating system or library: one machine was used. PEFT draws A and B "
        "with torch, and the tests compare both",
        _moves,
    ),
)


def table(records: list[Record]) -> str:
    """Files by rank, then the variants."""
    s = summary(records)
    ranks = [
        [
            f"{METHODS[method].title}, rank {rank}",
            f"{file['trainable']:,}",
            f"{file['bytes']:,}",
            f"{file['bytes_with_projections']:,}" if method == "vera" else "",
        ]
        for method in ("vera", "lora")
        for rank, file in sorted(s["files"][method].items())
    ]
    variants = [
        [name, f"{row['trainable']:,}", *common.rate_and_scores(row)]
        for name, row in s["variants"].items()
    ]
    end = ["rate", "exact match", "loss"]
    first = markdown(["q and v", "trainable", "bytes on disk", "with A and B"], ranks)
    return f"{first}\n\n{markdown([f'VeRA, rank {VARIANT_RANK}', 'trainable', *end], variants)}\n"


def figure(records: list[Record], path: Path) -> None:
    """The variants."""
    variants = summary(records)["variants"]
    look = plots.LOOKS["vera"]
    with common.panels(path, 9, 5.4) as axes:
        matches = [row["exact_match"] for row in variants.values()]
        common.scores_by_name(axes, list(variants), matches, look, ms=9, elinewidth=1.4)
        axes.axvline(variants[PUBLISHED]["exact_match"].mean, color=look[0], ls=":", lw=1.6)
        axes.set_xlim(-0.02, 1)
        axes.set_title(f"VeRA at rank {VARIANT_RANK}, one thing changed (bars: sd of 5 seeds)")


TITLE = "VeRA: what b, d, A and B do, and what a file of it weighs"
STUDY = Study("vera", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
