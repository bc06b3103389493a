"""Claim: "LoRA+ converges faster at the same cost" (LoRA+: Hayou et al. 2024, arXiv:2402.12354).

Three models, from the theory's own to a real one. One number and one sample by gradient descent:
the paper's linear example, for which a table is known. One layer by AdamW at widths 64 to 512. The
word lab: a pretrained Llama on the past tense, at a constant rate, so that no schedule says when to
be done. Everywhere steps to a target loss are counted, and LoRA (ratio 1) has its rate tuned on the
same grid as every other ratio: by the validation words; the steps reported are those to the target
on test words.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.runs import fit
from minilora.lab.statistics import Estimate, chosen, estimate, rounded
from minilora.lab.table import markdown
from minilora.support import plots
from minilora.tuning.train import Diverged

from . import Study, _choice, _small_models, common
from ._question import Finding, Question, of_parts, shown
from ._verdicts import FAILS, HOLDS, as_good, higher, times

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
WORD_RATES = [0.04 / 2**k for k in range(7)]  # of A
BAND = (0.0035, 0.045)  # of lr √ratio: outside of it nothing learns in time
SEEDS = 5
TARGETS = (0.4, 0.3)  # loss, nats a token; 0.2 is beyond the 80 steps of most runs of any ratio
NEAR = 1.05  # the basin: pairs of rates that need at most so many times the fewest steps
VALIDATION, TEST = 1, 2  # places of the losses in a point of a curve, after the step

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Toy, layer, word lab, ratio 1 against LoRA, seconds a step."""
    toys = {"rates": [TOY_RATES], "pair": [list(TOY_PAIR)], "draws": 31}
    return [
        *grid(kind="toy", width=WIDTHS, seed=range(5), **toys),
        *_layers(width=LAYER_WIDTHS, rates=[LAYER_RATES], limit=120, seed=range(5)),
        *(
            cell
            for ratio in RATIOS
            for lr in WORD_RATES
            if BAND[0] <= lr * math.sqrt(ratio) <= BAND[1]
            for cell in _words(lr=lr, ratio=ratio, seed=range(SEEDS), steps=80, words=600)
        ),
        *grid(kind="same", lr=0.01, seed=[0, 1], steps=20),
        {"kind": "seconds", "steps": 60, "seed": 0},
    ]


def quick() -> list[Cell]:
    """One of each kind but seconds."""
    toys = {"rates": [TOY_RATES], "pair": [list(TOY_PAIR)], "draws": 31}
    return [
        *grid(kind="toy", width=32, seed=0, **toys),
        *_layers(width=64, rates=[[0.01, 0.1]], limit=40, seed=0),
        *_words(lr=0.01, ratio=4, seed=0, steps=4, words=20),
        {"kind": "same", "lr": 0.01, "seed": 0, "steps": 4},
    ]


def _layers(**axes) -> list[Cell]:
    return grid(kind="layer", rank=4, target=0.1, rows=128, **axes)


def _words(**axes) -> list[Cell]:
    fixed = {"method": "lora_plus", "task": "past", "train_size": 300, "rank": 4, "every": 4}
    return grid(kind="words", **fixed, **axes)


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One cell, by its kind."""
    kinds = {"toy": toy, "layer": layer, "words": words_run, "same": same, "seconds": seconds}
    return kinds[kind](**cell)


def toy(width, draws, seed, rates, pair) -> dict[str, Any]:
    """The best equal rate of the toy model, and its steps; the steps of the pair of rates."""
    starts = abs(np.random.default_rng(seed).standard_normal(draws))
    return _small_models.toy(width, rates, pair, starts)


def layer(width, rank, rates, target, limit, rows, seed) -> dict[str, Any]:
    """Steps of one layer for every pair of rates; None where the limit was too short."""
    steps = _small_models.layer_steps(width, rank, rates, rates, target, limit, rows, seed)
    return {"steps": [[int(s) if np.isfinite(s) else None for s in row] for row in steps]}


def words_run(method, task, train_size, rank, lr, ratio, seed, steps, every, words):
    """Validation and test loss each `every` steps, over the first so many words of each."""
    how = dict(task=task, train_size=train_size, rank=rank, steps=steps)
    model, settings, data, batches = common.setting(seed, schedule="constant", **how)
    parts = [part[:words] for part in (data.validation, data.test)]
    tuned = settings.attach(model, method, seed, ratio=float(ratio))

    def losses(tuned):
        return [common.loss_on(tuned, pairs) for pairs in parts]

    try:
        history = fit(tuned, batches, settings, lr, evaluate=losses, evaluate_every=every)
    except Diverged as error:
        return {"diverged": error.step, "curve": []}
    return {"curve": [[step, *losses] for step, losses in history.evaluations]}


def same(lr, seed, steps) -> dict[str, float]:
    """LoRA+ of ratio 1 beside LoRA: the largest difference in a loss and in a number learned."""
    model, settings, _, batches = common.setting(seed, schedule="constant", steps=steps)
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


def seconds(steps, seed) -> dict[str, float]:
    """Median seconds a step of LoRA and of LoRA+ in each of several turns on the same batches."""
    model, settings, _, batches = common.setting(seed, schedule="constant", steps=steps)

    def of_steps(method):
        return [median(fit(settings.attach(model, method, seed), batches, settings, 0.002).seconds)]

    taken = common.in_turns(of_steps, ("lora", "lora_plus"), 6)
    return {f"{method}_seconds": values for method, values in taken.items()}


# ----------------------------------------------------------------------------------------- summary


def summary(records: list[Record]) -> dict[str, Any]:
    """The numbers of every part that has records."""
    parts = {
        "toy": _toy_summary,
        "layer": _layer_summary,
        "words": lambda runs: {target: at_target(runs, target) for target in TARGETS},
        "same": _same_summary,
        "seconds": _seconds_summary,
    }
    kinds = common.by_kind(records)
    return {kind: part(kinds[kind]) for kind, part in parts.items() if kind in kinds}


def _toy_summary(records):
    widths = {
        n: [run["result"] for run in runs]
        for n, runs in common.grouped(records, lambda cell: cell["width"]).items()
    }
    logs = np.log(list(widths))
    slopes = [
        np.polyfit(logs, np.log([result["rate"] for result in of_seed]), 1)[0]
        for of_seed in zip(*widths.values(), strict=True)
    ]
    return {
        "exponent": estimate(slopes),
        "widths": {
            n: {
                "rate": fmean(result["rate"] for result in results),
                "rate_root_n": estimate(result["rate"] * n**0.5 for result in results),
                "steps": estimate(result["steps"] for result in results),
                "steps_apart": estimate(result["steps_apart"] for result in results),
            }
            for n, results in widths.items()
        },
    }


def _layer_summary(records):
    """By width: the fewest steps of any pair and of equal rates, and the basin's middle ratio."""
    widths = {}
    for n, runs in common.grouped(records, lambda cell: cell["width"]).items():
        rates = runs[0]["cell"]["rates"]
        steps = [
            np.array([[s or math.inf for s in row] for row in run["result"]["steps"]])
            for run in runs
        ]
        basins = [_basin(of_seed, rates) for of_seed in steps]
        widths[n] = {
            "pair": estimate(of_seed.min() for of_seed in steps),
            "equal": estimate(np.diag(of_seed).min() for of_seed in steps),
            "log10_ratio": estimate(map(fmean, basins)),
            "of_seeds": [fmean(basin) for basin in basins],
            "basin": [min(map(min, basins)), max(map(max, basins))],
            "steps": [  # None for infinity, which JSON cannot hold
                [float(s) if math.isfinite(s) else None for s in row]
                for row in np.mean(steps, axis=0)
            ],
            "rates": rates,
        }
    return widths


def _basin(steps, rates):
    """log10 of η_B / η_A of every pair that is within 5 % of the fastest."""
    a, b = np.where(steps <= NEAR * steps.min())
    return (np.log10(rates)[b] - np.log10(rates)[a]).tolist()


def steps_to(curve: list[list[float]], target: float, column: int) -> float:
    """The step at which the loss first is at the target, between two evaluations by interpolation
    of its logarithm; inf where never. curve: [step, validation loss, test loss].
    """
    for before, after in itertools.pairwise(curve):
        if after[column] <= target:
            high, low = math.log(before[column]), math.log(after[column])
            share = (high - math.log(target)) / (high - low) if high > low else 0.0
            return before[0] + max(0.0, share) * (after[0] - before[0])
    return math.inf


def at_target(records: list[Record], target: float) -> dict[str, Any]:
    """Each ratio at the rate that validation chose: its steps, and the share of LoRA's that it
    saves. A run that does not reach the target counts with its last step, which is a lower bound.
    """

    def steps(runs, column):
        curves = [(run["cell"]["steps"], run["result"]["curve"]) for run in runs]
        return [min(steps_to(curve, target, column), last) for last, curve in curves]

    def merit(runs):
        return -fmean(steps(runs, VALIDATION))

    def saved(ours, lora):
        return share_saved(*(
            [np.array([steps(runs, column) for runs in side]) for column in (VALIDATION, TEST)]
            for side in (ours, lora)
        ))  # fmt: skip

    records = sorted(records, key=lambda record: record["cell"]["seed"])
    pairs = common.grouped(records, lambda cell: (cell["ratio"], cell["lr"]))
    rates = {
        ratio: [runs for (n, _), runs in pairs.items() if n == ratio]
        for ratio in sorted({n for n, _ in pairs})
    }
    best = {runs[0]["cell"]["ratio"]: runs for runs in chosen(records, merit)}
    slow = min(lr for ratio, lr in pairs if ratio == 1)  # as if LoRA's rate had not been tuned
    return {
        "ratios": {
            ratio: {
                "lr": best[ratio][0]["cell"]["lr"],
                "steps": estimate(steps(best[ratio], TEST)),
                "saved": saved(rates[ratio], rates[1]),
                "late": sum(s >= records[0]["cell"]["steps"] for s in steps(best[ratio], TEST)),
            }
            for ratio in sorted(best)
        },
        "untuned": {
            "lr": slow,
            "saved": {n: saved([r], [pairs[1, lr]]) for (n, lr), r in pairs.items() if lr == slow},
        },
        "any_ratio": saved(
            [runs for ratio in rates if ratio > 1 for runs in rates[ratio]], rates[1]
        ),
        "validation_steps": {pair: -merit(runs) for pair, runs in pairs.items()},
    }


def share_saved(ours: Sequence[np.ndarray], lora: Sequence[np.ndarray]) -> Estimate:
    """1 - our steps / LoRA's, seed by seed, each side at its fastest setting by validation words.

    ours, lora: steps on validation words (settings, S), and on test words. The standard error is a
    bootstrap's over the seeds, which chooses both settings anew in each draw: see `_choice.gap`.
    """
    count = ours[0].shape[1]
    by_seed, _ = _choice.draws(count, 1)

    def at(side, weights):
        return side[1][(weights @ side[0].T).argmin(axis=-1)]

    here = (1 - at(ours, np.full(count, 1 / count)) / at(lora, np.full(count, 1 / count))).mean()
    drawn = (by_seed * (1 - at(ours, by_seed) / at(lora, by_seed))).sum(axis=1)
    return Estimate(float(here), float(drawn.std() * count / math.sqrt(count - 1)), count)


def _same_summary(records):
    keys = ("losses_differ_by", "arrays_differ_by")
    return {"largest_difference": max(r["result"][k] for r in records for k in keys)}


def _seconds_summary(records):
    ours, theirs = (records[0]["result"][f"{m}_seconds"] for m in ("lora_plus", "lora"))
    return {"plus_over_lora": estimate(a / b for a, b in zip(ours, theirs, strict=True))}


# --------------------------------------------------------------------------------------- questions


def _layer(s):
    """log10 of the fastest ratio of one layer, at every width: is it above 0, and that of LoRA+?"""
    gaps = {n: row["log10_ratio"] for n, row in s["layer"].items()}
    # the fast pairs reach the smallest η_B and the largest η_A that were tried
    said = "; ".join(f"width {n}: {shown(gap, '+.2f')}" for n, gap in gaps.items())
    slope = estimate(
        np.polyfit(np.log10(list(gaps)), of_seed, 1)[0]
        for of_seed in zip(*(row["of_seeds"] for row in s["layer"].values()), strict=True)
    )
    return of_parts(
        f"one layer learns a random teacher, rates between 0.001 and 1; log₁₀ η_B/η_A of the "
        f"fastest pairs, {said}; for each factor of ten in the width it changes by "
        f"{shown(slope, '+.2f')}",
        {f"width {n}": higher(gap, math.log10(2)) for n, gap in gaps.items()},
    )


def _limit(s):
    toy = s["toy"]
    widths = toy["widths"]
    first, last = widths[min(widths)], widths[max(widths)]
    gains = [row["steps"].mean - row["steps_apart"].mean for row in (first, last)]
    theory = abs(toy["exponent"].mean + 0.5) < 0.03 and gains[1] > gains[0]
    return Finding(
        f"one linear unit: the best equal rate falls as n^({toy['exponent']:.3f|.2g}), theory "
        f"-1/2, and its steps grow from {first['steps']} to {last['steps']} between widths "
        f"{min(widths):,} and {max(widths):,}; with two rates {first['steps_apart']} and "
        f"{last['steps_apart']} (n = {first['steps'].n})",
        HOLDS if theory else FAILS,
        when="one number learns one sample by gradient descent" if theory else "",
    )


def _words_faster(s):
    words, target = s["words"], min(s["words"])
    ratios = {n: row for n, row in words[target]["ratios"].items() if n > 1}
    steps = words[target]["validation_steps"]
    best = min(ratios, key=lambda n: steps[n, ratios[n]["lr"]])
    saved = words[target]["any_ratio"]
    verdict, p = higher(saved, 0.1)
    return Finding(
        f"mean over seeds of the share: the ratio that validation chose, {best}, saves "
        f"{shown(times(100, saved), '+.0f', '%')} of LoRA's steps to a loss of {target}; ratio 16: "
        f"{shown(times(100, ratios[16]['saved']), '+.0f', '%')}",
        verdict,
        p,
    )


def _same_cost(s):
    found = s["seconds"]["plus_over_lora"]
    gap = Estimate(1 - found.mean, found.sd, found.n)
    verdict, p = as_good(gap, 0.05)
    return Finding(f"a step takes {found:.3f} of LoRA's time; the same arrays are kept", verdict, p)


QUESTIONS = (
    Question(
        "P2",
        "LoRA+ converges faster: in the limit of large widths",
        "one linear unit, one sample, gradient descent; the best equal rate against two rates",
        "holds: the best equal rate falls as n^-1/2 within 0.03 and the steps saved grow",
        "steps that do not grow with the width",
        "anything but a scalar: the next row has a layer, the one after it words",
        _limit,
    ),
    Question(
        "P2",
        "B wants the larger rate: one layer under AdamW, widths 64 to 512",
        "layer, data, steps; every pair of 13 × 13 rates",
        "log₁₀ of the ratio of the fastest pairs (within 5 % of the fewest steps); a verdict at "
        "each width; holds: the interval lies above 0; does not hold: below log₁₀ 2",
        "fastest pairs with the larger rate on B",
        "other widths, losses and optimizers; a teacher that is not random; how the ratio grows "
        "with the width, where the interval of its slope holds 0 and more; the basin is broad, and "
        "this is its middle",
        _layer,
    ),
    Question(
        "P2 P5",
        "LoRA+ converges faster: on words, each ratio at its own rate",
        "words, batches, seeds, a constant rate; ratio and rate by steps on validation words",
        "holds: the interval of the share of steps saved lies above 0; does not hold: below 10 %",
        "LoRA at its own rate being as fast",
        "large widths, where the theory speaks",
        _words_faster,
    ),
    Question(
        "P4",
        "LoRA+ has the same savings as LoRA: the time of a step",
        "batches, one thread, turn by turn",
        "holds: its time is surely less than 5 % above LoRA's",
        "a slower step",
        "-",
        _same_cost,
    ),
)

# ------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """Markdown: the toy beside what is known, the layer by width, the word lab by ratio."""
    s = summary(records)
    toys = [
        [
            f"{n:,}",
            f"{row['rate']:.3g}",
            *(row[key] for key in ("rate_root_n", "steps", "steps_apart")),
            "{:.3g}, {}, {}".format(*KNOWN[n]) if n in KNOWN else "–",
        ]
        for n, row in s["toy"]["widths"].items()
    ]
    layers = [
        [n, row["equal"], row["pair"], row["log10_ratio"], "{:g} to {:g}".format(*row["basin"])]
        for n, row in s["layer"].items()
    ]
    last = s["words"][TARGETS[-1]]
    untuned = last["untuned"]["saved"]
    words = [
        [
            ratio,
            *("{lr:g}, {steps}".format(**s["words"][t]["ratios"][ratio]) for t in TARGETS),
            percent(last["ratios"][ratio]["saved"]),
            percent(untuned[ratio]) if ratio in untuned else "–",
        ]
        for ratio in RATIOS
    ]
    toy_head = ["width n", "best equal rate", "· √n", "steps", "steps at (0.316/n, 1)", "known"]
    layer_head = ["width", "fewest steps, equal rates", "any pair", "log₁₀ η_B/η_A", "from, to"]
    words_head = ["ratio", *(f"η_A, steps to {t:g}" for t in TARGETS), "steps saved"]
    words_head.append(f"steps saved, all at η_A {last['untuned']['lr']:g}")
    return "\n\n".join(
        [
            markdown(toy_head, toys),
            f"Exponent of the best equal rate: {s['toy']['exponent']} (theory -0.5).",
            markdown(layer_head, layers),
            markdown(words_head, words),
        ]
    )


def percent(share) -> str:
    """An estimate of a share: "12 ± 3 %"."""
    return f"{times(100, share):.0f} %"


def figure(records: list[Record], path: Path) -> None:
    """Left: the toy's steps by width. Middle: which pair of rates is fast for a layer. Right: the
    word lab's steps by ratio.
    """
    s, ratios = summary(records), (1, 1.15, 1.1)
    with common.panels(path, 15, 5.2, 1, 3, width_ratios=ratios) as (left, middle, right):
        _draw_toy(left, s["toy"]["widths"])
        _draw_basin(middle, s["layer"])
        _draw_ratios(right, s["words"])


def _draw_toy(axes, widths):
    for name, key, label in (
        ("lora", "steps", "equal rates, the best at this width"),
        ("lora_plus", "steps_apart", "η_A = 0.316 / n, η_B = 1"),
    ):
        steps = [row[key] for row in widths.values()]
        common.errorbars(axes, widths, steps, plots.LOOKS[name], label=label, capsize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(widths))
    axes.set_ylim(0, 14)
    axes.set_xlabel("width n")
    axes.set_ylabel("steps until |f − y| < 0.01")
    axes.set_title("One number, by gradient descent (sd of 5 seeds)", fontsize=12)
    axes.legend(loc="lower right", fontsize=12)


def _draw_basin(axes, widths):
    """Steps of every pair at the largest width, and the middle of the basin at each width."""
    width = max(widths)
    rates = np.log10(widths[width]["rates"])
    steps = np.array(widths[width]["steps"], float)  # None: nan
    half = (rates[1] - rates[0]) / 2
    extent = (rates[0] - half, rates[-1] + half) * 2
    colours = dict(cmap="viridis_r", vmin=20, vmax=90)
    image = axes.imshow(steps, origin="lower", extent=extent, aspect="auto", **colours)
    bar = axes.figure.colorbar(image, ax=axes, extend="max")
    bar.set_label("steps to a tenth of the loss (white: not in 120)")
    axes.plot(extent[:2], extent[:2], color="white", ls="--", lw=2)
    place = (rates[0], rates[0] + 0.15)
    axes.text(*place, "equal rates", color=plots.INK, rotation=38, fontsize=12)
    best = np.argwhere(steps <= NEAR * np.nanmin(steps))
    axes.plot(rates[best[:, 1]], rates[best[:, 0]], "o", mfc="none", mec="white", ms=11, mew=2)
    axes.grid(visible=False)
    axes.set_xlabel("log₁₀ η_B")
    axes.set_ylabel("log₁₀ η_A")
    axes.set_title(f"A layer of width {width}, AdamW", fontsize=12)


def _draw_ratios(axes, targets):
    (plus, marker), (colour, dot) = plots.LOOKS["lora_plus"], plots.LOOKS["lora"]
    for (target, part), line in zip(targets.items(), ("#7f7f7f", plus)):
        steps = [row["steps"] for row in part["ratios"].values()]
        label = f"to {target:g} nats a token"
        common.errorbars(axes, part["ratios"], steps, (line, marker), capsize=4, label=label)
        axes.plot([1], [steps[0].mean], dot, color=colour, ms=12, zorder=5)
    axes.plot([], [], dot, color=colour, ms=12, label="LoRA (ratio 1)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(RATIOS, [str(ratio) for ratio in RATIOS])
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel("ratio η_B / η_A, each at its own best η_A")
    axes.set_ylabel("optimizer steps to a test loss")
    axes.set_title("The word lab: past tense (sd of 5 seeds)", fontsize=12)
    axes.legend(loc="upper right")


TITLE = "Does LoRA+ need fewer steps than a LoRA whose rate is tuned?"
STUDY = Study("lora_plus", TITLE, cells, quick, run, summary, table, figure, QUESTIONS)
