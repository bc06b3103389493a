"""What the records of the question on LoRA+ say."""

import itertools
import math
import statistics
from typing import Any

import numpy as np

from minilora.lab.cells import Record

from ._tables import by_kind, spread

TARGETS = (0.4, 0.3)  # loss, nats a token; 0.2 is beyond the 80 steps of most runs of any ratio
NEAR = 1.05  # the basin: pairs that need at most so many times the fewest steps


def steps_to(curve, target: float, column: int) -> float:
    """The step at which the loss first is at the target, between two evaluations by interpolation
    of its logarithm; inf where never. curve: [step, validation loss, test loss].
    """
    for before, after in itertools.pairwise(curve):
        if after[column] <= target:
            high, low = math.log(before[column]), math.log(after[column])
            share = (high - math.log(target)) / (high - low) if high > low else 0.0
            return before[0] + max(0.0, share) * (after[0] - before[0])
    return math.inf


def summary(records: list[Record]) -> dict[str, Any]:
    """The numbers of every part that has records."""
    kinds = by_kind(records)
    parts = {"toy": _of_toy, "layer": _of_layer, "words": _of_words, "same": _of_same}
    found = {kind: part(kinds[kind]) for kind, part in parts.items() if kind in kinds}
    if "seconds" in kinds:
        result = kinds["seconds"][0]["result"]
        found["seconds"] = {**result, "plus_over_lora": _seconds_ratio(result)}
    return found


def _seconds_ratio(result):
    return result["lora_plus_seconds"] / result["lora_seconds"]


def _of_toy(records):
    widths: dict[int, list[dict]] = {}
    for r in records:
        widths.setdefault(r["cell"]["width"], []).append(r["result"])
    seeds = zip(*widths.values(), strict=True)
    fits = [np.polyfit(np.log(list(widths)), np.log([r["rate"] for r in s]), 1)[0] for s in seeds]
    return {
        "exponent": spread(fits),
        "widths": {
            n: {
                "rate": statistics.fmean(r["rate"] for r in of_n),
                "rate_root_n": spread([r["rate"] * n**0.5 for r in of_n]),
                "steps": spread([r["steps"] for r in of_n]),
                "steps_apart": spread([r["steps_apart"] for r in of_n]),
            }
            for n, of_n in widths.items()
        },
    }


def _of_layer(records):
    """By width: the fewest steps of any pair and of equal rates, and the basin's middle ratio."""
    widths: dict[int, list[tuple[np.ndarray, list[float]]]] = {}
    for r in records:
        steps = np.array([[s or math.inf for s in row] for row in r["result"]["steps"]])
        widths.setdefault(r["cell"]["width"], []).append((steps, r["cell"]["rates"]))
    found = {}
    for n, of_n in widths.items():
        basins = [_basin(steps, rates) for steps, rates in of_n]
        found[n] = {
            "pair": spread([float(steps.min()) for steps, _ in of_n]),
            "equal": spread([float(np.diag(steps).min()) for steps, _ in of_n]),
            "log10_ratio": spread([statistics.fmean(b) for b in basins]),
            "basin": [min(map(min, basins)), max(map(max, basins))],
            "steps": [[_or_none(s) for s in row] for row in np.mean([s for s, _ in of_n], axis=0)],
            "rates": of_n[0][1],
        }
    return found


def _or_none(steps):
    """A float that JSON can hold."""
    return float(steps) if math.isfinite(steps) else None


def _basin(steps, rates):
    """log10 of η_B / η_A of every pair that is within 5 % of the fastest."""
    a, b = np.where(steps <= NEAR * steps.min())
    return (np.log10(rates)[b] - np.log10(rates)[a]).tolist()


def _of_words(records):
    """By target: steps of every (lr, ratio), and each ratio at the rate that validation chose."""
    return {target: _at_target(records, target) for target in TARGETS}


def _at_target(records, target):
    """A run that does not get there counts as its last step: it needs that or more."""
    pairs: dict[tuple[int, float], list[list[float]]] = {}
    for r in sorted(records, key=lambda r: r["cell"]["seed"]):
        cell, curve = r["cell"], r["result"]["curve"]
        steps = [min(steps_to(curve, target, column), cell["steps"]) for column in (1, 2)]
        pairs.setdefault((cell["ratio"], cell["lr"]), []).append(steps)
    means = {pair: np.mean(steps, axis=0) for pair, steps in pairs.items()}
    ratios: dict[int, dict[str, Any]] = {}
    for ratio in sorted({ratio for ratio, _ in pairs}):
        of_ratio = [pair for pair in means if pair[0] == ratio]
        pair = min(of_ratio, key=lambda pair: means[pair][0])  # by the validation words
        steps = [of_seed[1] for of_seed in pairs[pair]]
        lora = [of_seed[1] for of_seed in pairs[(1, ratios[1]["lr"])]] if ratio > 1 else steps
        saved = [1 - plus / base for plus, base in zip(steps, lora, strict=True)]
        late = sum(s >= records[0]["cell"]["steps"] for s in steps)
        found = {"lr": pair[1], "steps": spread(steps), "saved": spread(saved), "late": late}
        ratios[ratio] = found
    slow = min(lr for ratio, lr in pairs if ratio == 1)  # as if LoRA's rate had not been tuned
    untuned = {
        ratio: spread([1 - p[1] / b[1] for p, b in zip(steps, pairs[1, slow], strict=True)])
        for (ratio, lr), steps in pairs.items()
        if lr == slow
    }
    return {
        "ratios": ratios,
        "untuned": {"lr": slow, "saved": untuned},
        "validation_steps": {p: float(m[0]) for p, m in means.items()},
    }


def _of_same(records):
    keys = ("losses_differ_by", "arrays_differ_by")
    return {"largest_difference": max(r["result"][k] for r in records for k in keys)}
