"""Claim: "LoRA+ converges faster at the same cost" (LoRA+: Hayou et al. 2024, arXiv:2402.12354).

Three models, from the theory's own to a real one. One number and one sample by gradient descent:
the paper's linear example, for the table that is known of it. One layer by AdamW at widths 64 to
512. The word lab: a pretrained Llama on the past tense, constant rate, so that no schedule says
when to be done. Everywhere it is steps to a target loss, and LoRA (ratio 1) has its rate tuned on
the same grid as every other ratio: by the validation words; the steps reported are to the target on
test words.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.markdown import table as markdown
from minilora.lab.runs import fit, load_words, make_batches, mean_loss
from minilora.lab.sweep import rounded, settings_of, the_model
from minilora.text import tasks
from minilora.tuning.train import Diverged

from . import Question
from . import _two_rates as small
from ._lora_plus_found import TARGETS, summary
from ._turns import in_turns

WIDTHS = tuple(4**k for k in range(2, 9))  # of the linear toy
TOY_RATES = [float(10 ** (k / 8)) for k in range(-48, 9)]
TOY_PAIR = (0.316, 1.0)  # n η_A, η_B
KNOWN = {  # width -> (best equal rate, its steps, steps at TOY_PAIR): measured elsewhere, 31 draws
    16: (1.33e-1, 7, 5),
    256: (4.22e-2, 8, 5),
    4096: (1.00e-2, 9, 5),
    65536: (2.37e-3, 11, 5),
}
LAYER_WIDTHS = (64, 128, 256, 512)
LAYER_RATES = [float(10 ** (k / 4)) for k in range(-12, 1)]
RATIOS = (1, 2, 4, 8, 16, 32, 64)
LAB_RATES = [0.04 / 2**k for k in range(7)]  # of A
BAND = (0.005, 0.045)  # of lr √ratio: outside of it nothing learns in time
SEEDS = 4


# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Toy, layer, word lab, ratio 1 against LoRA, seconds a step."""
    toys = grid(
        kind="toy", width=WIDTHS, draws=31, seed=range(5), rates=[TOY_RATES], pair=[list(TOY_PAIR)]
    )
    layers = [_layer(width, LAYER_RATES, 120, seed) for width in LAYER_WIDTHS for seed in range(5)]
    pairs = [
        (lr, ratio)
        for ratio in RATIOS
        for lr in LAB_RATES
        if BAND[0] <= lr * math.sqrt(ratio) <= BAND[1]
    ]
    words = [
        _words(lr=lr, ratio=ratio, seed=seed, steps=80, words=150)
        for lr, ratio in pairs
        for seed in range(SEEDS)
    ]
    same = grid(kind="same", lr=0.01, seed=[0, 1], steps=20)
    return [*toys, *layers, *words, *same, {"kind": "seconds", "steps": 60, "seed": 0}]


def quick() -> list[Cell]:
    """One of each kind but seconds."""
    return [
        {
            **{"kind": "toy", "width": 32, "draws": 31, "seed": 0},
            **{"rates": TOY_RATES, "pair": list(TOY_PAIR)},
        },
        _layer(64, [0.01, 0.1], 40, 0),
        _words(lr=0.01, ratio=4, seed=0, steps=4, words=20),
        {"kind": "same", "lr": 0.01, "seed": 0, "steps": 4},
    ]


def _layer(width, rates, limit, seed) -> Cell:
    fixed = {"rank": 4, "target": 0.1, "limit": limit, "rows": 128}
    return {"kind": "layer", "width": width, "rates": rates, **fixed, "seed": seed}


def _words(**given) -> Cell:
    fixed = {"method": "lora_plus", "task": "past", "train_size": 300, "rank": 4, "every": 4}
    return {"kind": "words", **fixed, **given}


# --------------------------------------------------------------------------------------------- run


def run(*, kind: str, **cell: Any) -> dict[str, Any]:
    """One cell, by its kind."""
    return KINDS[kind](**cell)


def _run_toy(width, draws, seed, rates, pair):
    starts = abs(np.random.default_rng(seed).standard_normal(draws))
    return small.toy(width, rates, pair, starts)


def _run_layer(width, rank, rates, target, limit, rows, seed):
    steps = small.layer_steps(width, rank, rates, rates, target, limit, rows, seed)
    return {"steps": [[int(s) if np.isfinite(s) else None for s in row] for row in steps]}


def _run_words(method, task, train_size, rank, lr, ratio, seed, steps, every, words):
    """Validation and test loss each `every` steps, over the first so many words of each."""
    model, settings, found = _setting(task, train_size, rank, steps)
    held_out = [tasks.all_once(part[:words], model.tokenizer) for part in found[1:]]
    tuned = settings.attach(model, method, seed, ratio=float(ratio))
    try:
        history = fit(
            tuned,
            make_batches(model, found[0], settings, seed),
            settings,
            lr,
            evaluate=lambda t: [rounded(mean_loss(t, batches)) for batches in held_out],
            evaluate_every=every,
        )
    except Diverged as error:
        return {"diverged": error.step, "curve": []}
    return {"curve": [[step, *losses] for step, losses in history.evaluations]}


def _run_same(lr, seed, steps):
    """LoRA+ of ratio 1 beside LoRA: the largest difference in a loss and in a number learned."""
    model, settings, found = _setting("past", 300, 4, steps)
    batches = make_batches(model, found[0], settings, seed)
    runs = []
    for method, options in (("lora", {}), ("lora_plus", {"ratio": 1.0})):
        tuned = settings.attach(model, method, seed, **options)
        runs.append((fit(tuned, batches, settings, lr).losses, tuned.trainable))
    (losses, arrays), (others, theirs) = runs
    return {
        "losses_differ_by": max(abs(a - b) for a, b in zip(losses, others, strict=True)),
        "arrays_differ_by": max(float(abs(arrays[k] - theirs[k]).max()) for k in arrays),
        "last_loss": rounded(losses[-1]),
    }


def _run_seconds(steps, seed):
    """Median seconds a step of LoRA and of LoRA+, the two in turns on the same batches."""
    model, settings, found = _setting("past", 300, 4, steps)
    batches = make_batches(model, found[0], settings, seed)

    def seconds(method):
        return fit(settings.attach(model, method, seed), batches, settings, 0.002).seconds

    found = in_turns(seconds, ("lora", "lora_plus"), 4)
    return {f"{method}_seconds": statistics.median(mine) for method, mine in found.items()}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "toy": _run_toy,
    "layer": _run_layer,
    "words": _run_words,
    "same": _run_same,
    "seconds": _run_seconds,
}


def _setting(task, train_size, rank, steps):
    """The base, the comparison's settings at a constant rate, and the words in their three parts:
    train, validation, test.
    """
    settings = settings_of(task, train_size, rank, ("q_proj", "v_proj"), steps)
    settings = dataclasses.replace(settings, schedule="constant")
    words = load_words(settings)
    return the_model(settings.base), settings, (words.train, words.validation, words.test)


# ------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """Markdown: the toy beside what is known, the layer by width, the word lab by ratio."""
    found = summary(records)
    toy = markdown(
        ["width n", "best equal rate", "· √n", "steps", "steps at (0.316/n, 1)", "known"],
        [
            [
                f"{n:,}",
                f"{row['rate']:.3g}",
                *(str(row[key]) for key in ("rate_root_n", "steps", "steps_apart")),
                "{:.3g}, {}, {}".format(*KNOWN[n]) if n in KNOWN else "–",
            ]
            for n, row in found["toy"]["widths"].items()
        ],
    )
    layer = markdown(
        ["width", "fewest steps, equal rates", "any pair", "log₁₀ η_B/η_A", "from, to"],
        [
            [
                *map(str, (n, r["equal"], r["pair"], r["log10_ratio"])),
                "{:g} to {:g}".format(*r["basin"]),
            ]
            for n, r in found["layer"].items()
        ],
    )
    last = found["words"][TARGETS[-1]]
    words = markdown(
        [
            "ratio",
            *(f"η_A, steps to {t:g}" for t in TARGETS),
            "steps saved",
            "at η_A {:g} for all".format(last["untuned"]["lr"]),
        ],
        [
            [
                str(ratio),
                *("{lr:g}, {steps}".format(**found["words"][t]["ratios"][ratio]) for t in TARGETS),
                f"{last['ratios'][ratio]['saved']:%}",
                f"{last['untuned']['saved'][ratio]:%}"
                if ratio in last["untuned"]["saved"]
                else "–",
            ]
            for ratio in RATIOS
        ],
    )
    exponent = f"Exponent of the best equal rate: {found['toy']['exponent']} (theory -0.5)."
    return "\n\n".join([toy, exponent, layer, words])


def figure(records: list[Record], path: Path) -> None:
    """The toy's steps by width, the layer's basin, the word lab's steps by ratio."""
    from ._draw import lora_plus

    lora_plus(summary(records), path)


QUESTION = Question(
    name="lora_plus",
    title="Does LoRA+ need fewer steps than a LoRA whose rate is tuned?",
    cells=cells,
    run=run,
    summary=summary,
    table=table,
    figure=figure,
    quick=quick,
)
