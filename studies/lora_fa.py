"""Claim: "LoRA-FA needs less memory at the same quality" (LoRA-FA: Zhang et al. 2023,
arXiv:2308.03303).

Quality: the past tense from 300 words, LoRA-FA and LoRA at every rank from 1 to 64, each at the
rate that the validation words chose for it at that rank. Memory: the ledger's bytes, which are
those that a step really holds. And the corrected gradient of the paper's 2026 version, dB (A Aᵀ)⁻¹
/ s²: by gradient descent and by Adam, on a linear problem whose steps are known in closed form, and
on the words.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.markdown import table as markdown
from minilora.lab.runs import fit, load_words, make_batches, mean_loss
from minilora.lab.sweep import rounded, settings_of, the_model, word_run
from minilora.llama.model import ModelConfig
from minilora.llama.shapes import SHAPES
from minilora.memory import ledger
from minilora.methods.lora_fa import corrected_gradient
from minilora.support.plots import human
from minilora.text import tasks
from minilora.tuning.adapters import attach
from minilora.tuning.optim import clip_factor, learning_rate
from minilora.tuning.train import gradients, train

from . import Question
from . import _correction as linear
from ._lora_fa_found import SEEDS, summary
from ._turns import in_turns

RANKS = (1, 2, 4, 8, 16, 32, 64)
RATES: dict[str, dict[int, tuple[float, ...]]] = {  # method -> rank -> around the best
    "lora": {
        1: (0.01, 0.02, 0.05, 0.1),
        2: (0.01, 0.02, 0.05),
        4: (0.01, 0.02, 0.05),
        8: (0.005, 0.01, 0.02),
        16: (0.002, 0.005, 0.01, 0.02),
        32: (0.002, 0.005, 0.01),
        64: (0.001, 0.002, 0.005),
    },
    "lora_fa": {
        1: (0.1, 0.2, 0.5, 1.0),
        2: (0.1, 0.2, 0.5, 1.0),
        4: (0.05, 0.1, 0.2),
        8: (0.02, 0.05, 0.1, 0.2),
        16: (0.01, 0.02, 0.05),
        32: (0.005, 0.01, 0.02),
        64: (0.002, 0.005, 0.01),
    },
}
CORRECTED_RANKS = (4, 64)  # at which the words are learned by the corrected gradient too
SGD_RATES = {4: (2.0, 4.0, 8.0, 16.0), 64: (0.5, 1.0, 2.0, 4.0, 8.0)}
ADAM_RATES = [float(10 ** (k / 4)) for k in range(-8, 3)]
LINEAR = ((128, 1), (128, 4), (128, 16), (128, 64), (64, 32), (256, 64), (4096, 8), (4096, 64))
KNOWN_CONDITION = {(4096, 8): 1.12, (4096, 64): 1.6, (256, 64): 7.4}  # measured elsewhere
Q_V, ALL = ["q_proj", "v_proj"], "all-linear"
MORE = range(SEEDS, 7)  # seeds of which only the chosen rates are run


# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Quality by rank, the corrected gradient, memory, seconds a step."""
    adam = [
        _words(method, rank, lr, seed, corrected)
        for method, by_rank in RATES.items()
        for rank, rates in by_rank.items()
        for corrected in (False, True)
        if not corrected or (method == "lora_fa" and rank in CORRECTED_RANKS)
        for lr in rates
        for seed in range(SEEDS)
    ]
    sgd = [
        cell
        for rank, rates in SGD_RATES.items()
        for cell in grid(
            kind="sgd",
            rank=rank,
            corrected=[False, True],
            lr=rates,
            steps=100,
            words=300,
            seed=range(SEEDS),
        )
    ]
    scalar = grid(kind="scalar", rank=1, lr=0.02, steps=20, seed=[0, 1, 2])
    seconds = {"kind": "seconds", "rank": 4, "targets": ALL, "steps": 40, "seed": 0}
    return [*_linear(LINEAR, range(5)), *_memory(), *scalar, *sgd, *adam, seconds]


def then(records: list[Record]) -> list[Cell]:
    """Further seeds of each rank at the rate that validation chose."""
    found = summary(records)["words"]
    return [
        _words(method, rank, found[method][rank]["lr"], seed)
        for method, by_rank in RATES.items()
        for rank in by_rank
        for seed in MORE
    ]


def quick() -> list[Cell]:
    """One of each kind but seconds, with less to do."""
    return [
        *_linear([(32, 4)], [0]),
        {**_memory()[0], "rank": 2},
        {"kind": "scalar", "rank": 1, "lr": 0.02, "steps": 3, "seed": 0},
        {
            **{"kind": "sgd", "rank": 4, "corrected": True, "lr": 4.0},
            **{"steps": 3, "words": 20, "seed": 0},
        },
    ]


def _linear(shapes, seeds) -> list[Cell]:
    return [
        {
            **{"kind": "linear", "width": width, "outputs": 32, "rank": rank, "seed": seed},
            **{"tolerance": 0.01, "rates": ADAM_RATES if width <= 256 else []},
        }
        for width, rank in shapes
        for seed in seeds
    ]


def _memory() -> list[Cell]:
    ours = grid(
        kind="memory",
        shape="base",
        method=["lora", "lora_fa"],
        targets=[Q_V, ALL],
        rank=[4, 64],
        dropout=0.0,
        rows=32,
        tokens=29,
    )
    theirs = grid(
        kind="memory",
        shape="llama-7b",
        method=["lora", "lora_fa"],
        targets=[Q_V, ALL],
        rank=16,
        dropout=0.0,
        rows=8,
        tokens=1024,
    )
    return [*ours, *theirs]


def _words(method, rank, lr, seed, corrected=False) -> Cell:
    options = {"corrected": corrected} if method == "lora_fa" else {}
    return {
        **{"kind": "words", "method": method, "task": "past", "train_size": 300, "rank": rank},
        **{"targets": Q_V, "lr": lr, "steps": 150, "seed": seed, "options": options},
    }


# --------------------------------------------------------------------------------------------- run


def run(*, kind: str, **cell: Any) -> dict[str, Any]:
    """One cell, by its kind."""
    return KINDS[kind](**cell)


def _run_words(**cell):
    found = word_run(**cell)
    kept = ("diverged", "trainable", "validation", "test")
    return {name: found[name] for name in kept if name in found}


def _run_sgd(rank, corrected, lr, steps, words, seed):
    """Plain gradient descent on the words, clipped, warmed up and run down as the comparison's
    AdamW  ->  the validation and test loss over so many words of each.
    """
    settings = settings_of("past", 300, rank, tuple(Q_V), steps)
    model, found = the_model(settings.base), load_words(settings)
    tuned = settings.attach(model, "lora_fa", seed, corrected=corrected)
    batches = make_batches(model, found.train, settings, seed)
    for step in range(1, steps + 1):
        _, grads = gradients(tuned, [batches[step - 1]], step)
        factor = clip_factor(grads, settings.clip)
        rate = learning_rate(
            step, lr=lr, steps=steps, schedule=settings.schedule, warmup=settings.warmup
        )
        for name, arrays in tuned.layers.items():
            mine = {"B": grads[tuned.key(name, "B")] * factor}
            corrected_gradient(arrays, mine, tuned.options)
            arrays["B"] -= arrays["B"].dtype.type(rate) * mine["B"]
    parts = {"validation": found.validation[:words], "test": found.test[:words]}
    return {
        name: rounded(mean_loss(tuned, tasks.all_once(pairs, model.tokenizer)))
        for name, pairs in parts.items()
    }


def _run_scalar(rank, lr, steps, seed):
    """The largest difference of a loss with and without correction, under AdamW."""
    settings = settings_of("past", 300, rank, tuple(Q_V), steps)
    model, found = the_model(settings.base), load_words(settings)
    batches = make_batches(model, found.train, settings, seed)
    plain, corrected = (
        fit(
            settings.attach(model, "lora_fa", seed, corrected=corrected),
            batches,
            settings,
            lr,
            schedule="constant",
            weight_decay=0.0,
        ).losses
        for corrected in (False, True)
    )
    apart = [abs(a - b) / a for a, b in zip(plain, corrected, strict=True)]
    return {"losses_differ_by_share": max(apart), "from": plain[0], "to": plain[-1]}


def _run_memory(shape, method, targets, rank, dropout, rows, tokens):
    model = the_model("base") if shape == "base" else ModelConfig(**SHAPES[shape].config_fields())
    how = {"rank": rank, "targets": targets if targets == ALL else tuple(targets)}
    found = ledger(model, rows, tokens, method=method, dropout=dropout, **how)
    return {**dict(found), "peak": found.peak}


def _run_seconds(rank, targets, steps, seed):
    """Median seconds a step of LoRA and of LoRA-FA, in turns on the same batches."""
    settings = settings_of("past", 300, rank, targets, steps)
    model, found = the_model(settings.base), load_words(settings)
    batches = make_batches(model, found.train, settings, seed)

    def seconds(method):
        tuned = attach(model, method, rank=rank, targets=targets, seed=seed)
        return train(tuned, batches, steps=steps, lr=1e-3, progress=False).seconds

    timed = in_turns(seconds, ("lora", "lora_fa"), 4)
    return {f"{method}_seconds": statistics.median(mine) for method, mine in timed.items()}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "words": _run_words,
    "sgd": _run_sgd,
    "scalar": _run_scalar,
    "linear": linear.solve,
    "memory": _run_memory,
    "seconds": _run_seconds,
}


# ------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """Markdown: quality by rank, memory, the corrected gradient."""
    found = summary(records)
    lora, fa = found["words"]["lora"], found["words"]["lora_fa"]
    corrected = found["words"]["lora_fa_corrected"]
    quality = markdown(
        ["rank", "LoRA (rate)", "LoRA-FA (rate)", "difference", "LoRA-FA corrected"],
        [
            [
                str(rank),
                _at_rate(lora[rank]),
                _at_rate(fa[rank]),
                f"{fa[rank]['less_lora']:.3f}",
                f"{corrected[rank]['exact_match']:.3f}" if rank in corrected else "–",
            ]
            for rank in RANKS
        ],
    )
    memory = markdown(
        ["model", "targets", "rank", "kept by LoRA", "by LoRA-FA", "saved", "of all bytes"],
        [
            [
                *map(str, place),
                human(row["lora"]["activations"]),
                human(row["lora_fa"]["activations"]),
                f"{row['activations_saved']:.1%}",
                f"{row['all_saved']:.1%}",
            ]
            for place, row in found["memory"].items()
        ],
    )
    names = ("condition", "sgd_plain", "sgd_corrected", "adam_plain", "adam_corrected")
    steps = markdown(
        ["width, rank", "condition of A Aᵀ", "SGD steps", "corrected", "Adam steps", "corrected"],
        [
            [f"{width}, {rank}", *(str(row.get(name, "–")) for name in names)]
            for (width, rank), row in found["linear"].items()
        ],
    )
    sgd = markdown(
        ["rank", "test loss by SGD (rate)", "corrected (rate)"],
        [
            [str(rank), *("{loss:.3f} ({lr:g})".format(**row[k]) for k in ("plain", "corrected"))]
            for rank, row in found["sgd"].items()
        ],
    )
    return "\n\n".join([quality, memory, steps, sgd])


def _at_rate(row):
    end = ", an end of its grid" if row["at_an_end"] else ""
    return f"{row['exact_match']:.3f} ({row['lr']:g}{end})"


def figure(records: list[Record], path: Path) -> None:
    """Exact match by rank; bytes kept; steps with and without the correction."""
    from ._draw import lora_fa

    lora_fa(summary(records), path)


QUESTION = Question(
    name="lora_fa",
    title="Does LoRA-FA need less memory at the quality of a tuned LoRA?",
    cells=cells,
    then=then,
    run=run,
    summary=summary,
    table=table,
    figure=figure,
    quick=quick,
)
