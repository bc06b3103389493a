"""The sentences of the article that can be tested, and what the studies' records say of each.

A verdict follows from numbers. "Better" is a difference whose 95 % interval leaves out 0
(`Estimate.sign`); "the same quality" is one whose 95 % interval lies above -SAME: that few seeds
show no difference is no proof that there is none. SAME was set when some of the records were known.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from minilora.lab.cells import Record
from minilora.lab.statistics import Estimate

from . import study
from .comparison import RANKS

SAME = 0.03  # exact match: about two standard errors of a score of 0.85 on 655 words
HOLDS, NOT_SEEN = "holds", "not seen here"
FASTER = "LoRA+ converges faster at the same cost"
CHEAPER = "LoRA-FA needs less memory at the same quality"
SMALLER = "VeRA shrinks the adapter"
LEARNS = "Delta-LoRA learns better from changing data"
FITS = "Delta-LoRA avoids overfitting"


class Claim(NamedTuple):
    """A sentence, and what the records say of it."""

    sentence: str
    evidence: str  # numbers, with their deviation
    verdict: str  # HOLDS, "holds when …" or NOT_SEEN


def claims(name: str, records: Sequence[Record]) -> list[Claim]:
    """What a study's records say."""
    return CLAIMS[name](study(name).summary(list(records)))


def _verdict(holds: bool, when: str = "") -> str:
    return (f"{HOLDS} when {when}" if when else HOLDS) if holds else NOT_SEEN


def _gap(gap: Estimate, unit: str = "") -> str:
    chance = "" if gap.sign or gap.mean is None else ", within chance"
    return f"{gap:+.3f|.3f}{' ' if unit else ''}{unit} (n = {gap.n}{chance})"


def _same(gap: Estimate) -> bool:
    """Is a difference from LoRA's exact match surely no more than SAME below?"""
    return gap.mean - gap.margin >= -SAME


def _comparison(s: Mapping[str, Any]) -> list[Claim]:
    rows, gaps, early = s["methods"], s["against_lora"], s["early"]["lora_plus"]
    plain, fa, vera, plus = (rows[m] for m in ("lora", "lora_fa", "vera", "lora_plus"))
    said = {
        name: _gap(gap, "exact match against LoRA, mean of five tasks")
        for name, gap in gaps.items()
    }
    saved = 1 - fa["activations"] / plain["activations"]
    ours, loras = (f"{row['step_seconds'].times(1e3):.1f} ms" for row in (plus, plain))
    small, large = (row["cost"]["file"] for row in (vera, plain))
    return [
        Claim(
            CHEAPER,
            f"{100 * saved:.0f} % less kept for backward; {said['lora_fa']}",
            _verdict(_same(gaps["lora_fa"]) and saved > 0),
        ),
        Claim(
            f"{SMALLER} (rank {RANKS['vera']}, against LoRA of rank {RANKS['lora']})",
            f"{small:,} bytes on disk against {large:,}; {said['vera']}",
            _verdict(_same(gaps["vera"]) and small < large),
        ),
        Claim(
            "Delta-LoRA learns better", said["delta_lora"], _verdict(gaps["delta_lora"].sign > 0)
        ),
        Claim(
            FASTER,
            f"after a fifth of the steps {_gap(early, 'nats per token')} on validation words of "
            f"past tenses, in the end {said['lora_plus']}; a step takes {ours}, LoRA's {loras}",
            _verdict(early.sign < 0),  # a lower loss
        ),
    ]


def _lora_plus(s: Mapping[str, Any]) -> list[Claim]:
    toy, words, target = s["toy"], s["words"], min(s["words"])
    widths = toy["widths"]
    first, last = widths[min(widths)], widths[max(widths)]
    ratios = {n: row for n, row in words[target]["ratios"].items() if n > 1}
    steps = words[target]["validation_steps"]
    best = min(ratios, key=lambda n: steps[n, ratios[n]["lr"]])
    saved = ratios[best]["saved"]
    gains = [row["steps"].mean - row["steps_apart"].mean for row in (first, last)]
    theory = abs(toy["exponent"].mean + 0.5) < 0.03 and gains[1] > gains[0]
    return [
        Claim(
            f"{FASTER}: in the limit of large widths",
            f"one linear unit: LoRA's best rate falls as n^({toy['exponent']:.3f|.2g}), "
            f"theory -1/2, and its steps grow from {first['steps']} to {last['steps']} between "
            f"widths {min(widths):,} and {max(widths):,}; with two rates "
            f"{first['steps_apart']} and {last['steps_apart']} (n = {first['steps'].n})",
            _verdict(theory, "the width grows without bound"),
        ),
        Claim(
            f"{FASTER}: on words, each ratio at its own rate",
            f"the ratio that validation chose, {best}, saves {saved.times(100):.0f} % of LoRA's "
            f"steps to a loss of {target} (n = {saved.n}); a step takes "
            f"{s['seconds']['plus_over_lora']:.2f} of LoRA's time",
            _verdict(saved.sign > 0),
        ),
    ]


def _lora_fa(s: Mapping[str, Any]) -> list[Claim]:
    gaps = {rank: row["less_lora"] for rank, row in sorted(s["words"]["lora_fa"].items())}
    shares = [row["activations_saved"] for row in s["memory"].values()]
    worse = [rank for rank, gap in gaps.items() if not _same(gap)]
    even = [rank for rank in gaps if rank > max(worse, default=0)]
    holds = not worse or (bool(even) and min(shares) > 0)
    listed = ", ".join(f"rank {rank} {gap:.3f|.2g}" for rank, gap in gaps.items())
    return [
        Claim(
            CHEAPER,
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % less kept for backward, by "
            f"model and targets; exact match less LoRA's: {listed} (n = {gaps[min(gaps)].n})",
            _verdict(holds, f"the rank is {min(even)} or more" if worse and even else ""),
        )
    ]


def _vera(s: Mapping[str, Any]) -> list[Claim]:
    vera, lora, files = s["vera"], s["lora"], s["files"]["vera"]

    def smallest(row):
        """The rank of the LoRA of fewest numbers that scores as well."""
        wanted = row["exact_match"].mean - SAME
        even = [rank for rank in lora if lora[rank]["exact_match"].mean >= wanted]
        return min(even, key=lambda rank: lora[rank]["trainable"], default=None)

    def said(row):
        return f"{row['exact_match']:.3f} with {row['trainable']:,} numbers"

    rivals = {rank: smallest(row) for rank, row in vera.items()}
    fewer = [
        rank
        for rank, rival in rivals.items()
        if rival is None or vera[rank]["trainable"] < lora[rival]["trainable"]
    ]
    above = [rank for rank in sorted(vera) if rank not in fewer]
    pairs = [
        f"rank {rank}: {said(vera[rank])}, "
        + (f"LoRA of rank {rival}: {said(lora[rival])}" if (rival := rivals[rank]) else "no LoRA")
        # the last that is smaller, and the first that is not
        for rank in [*sorted(fewer)[-1:], *above[:1]]
    ]
    alike = sum(file["same_bits_elsewhere"] for file in files.values())
    sizes = files[max(fewer, default=min(files))]
    when = f"the rank is {max(fewer)} or less" if fewer and above else ""
    return [
        Claim(
            f"{SMALLER}: against the smallest LoRA that scores as well",
            f"{'; '.join(pairs)} (n = {next(iter(vera.values()))['exact_match'].n})",
            _verdict(bool(fewer), when),
        ),
        Claim(
            "VeRA moves between systems easily",
            f"{alike} of {len(files)} × one file gave the same bits in another process; "
            f"{sizes['bytes']:,} bytes without A and B, {sizes['bytes_with_projections']:,} with",
            _verdict(alike == len(files), "both sides draw A and B alike"),
        ),
    ]


def _delta_lora(s: Mapping[str, Any]) -> list[Claim]:
    def claim(sentence, kind, holds):
        gaps = s[kind]["difference"].items()
        listed = ", ".join(f"{name.replace('_', ' ')} {_gap(gap)}" for name, gap in gaps)
        return Claim(sentence, f"less LoRA's, both tuned: {listed}", _verdict(holds))

    shift, few = (s[kind]["difference"] for kind in ("shift", "few"))
    return [
        claim(LEARNS, "shift", shift["new_test_loss"].sign < 0),
        claim(FITS, "few", few["gap"].sign < 0 and few["test_loss"].sign <= 0),
    ]


def _lora(s: Mapping[str, Any]) -> list[Claim]:
    errors = {
        known: {rank: row["error"] for rank, row in ranks.items()}
        for known, ranks in s["teacher"].items()
    }
    left = max(e.mean for known, row in errors.items() for rank, e in row.items() if rank >= known)
    at_elbows = [row[known] for known, row in errors.items()]
    deviation, n = max(error.sd for error in at_elbows), at_elbows[0].n
    return [
        Claim(
            "A change of low rank is enough",
            f"a known change of rank {', '.join(map(str, errors))} is met from that rank on: "
            f"what is left is at most {left:.1e} ± {deviation:.0e} (n = {n})",
            _verdict(left < 1e-3, "the change is of low rank"),
        )
    ]


def _swapping(s: Mapping[str, Any]) -> list[Claim]:
    size, took, ways = s["bytes"], s["seconds"], s["ways"].values()
    faults = ("copied", "switches_with_other_bits", "scores_changed", "base_changed")
    still = not any(s[name] for name in (*faults, "adapters_changed"))
    switches = max(next(iter(ways))["drift"])
    moved = " or ".join(f"{row['drift'][switches]['logit']:.1e|.0e}" for row in ways)
    changed = sum(row["scores_changed"] for row in ways)
    cases = sum(row["orders"] for row in ways) * size["adapters"]
    return [
        Claim(
            "LoRA's adapters swap freely without retraining",
            f"beside the base {s['switches_with_other_bits']} of {s['orders']} × "
            f"{switches:,} switches gave other bits and {s['scores_changed']} scores changed; "
            f"a switch takes {1e6 * took['use_seconds']:.2g} µs, reading a model "
            f"{1e3 * took['load_model_seconds']:.2g} ms; base and five adapters are "
            f"{size['library_bytes']:,} bytes, five models {size['models_bytes']:,}",
            _verdict(still),
        ),
        Claim(
            "… also by adding to the weights and subtracting again",
            f"after {switches:,} switches a logit has moved by {moved} (rounded once, in place; "
            f"n = {s['orders']} orders each), {changed} of {cases} scores changed",
            _verdict(not changed, "the last bits of float32 do not matter"),
        ),
    ]


CLAIMS: dict[str, Callable[[Mapping[str, Any]], list[Claim]]] = {
    "comparison": _comparison,
    "lora_plus": _lora_plus,
    "lora_fa": _lora_fa,
    "vera": _vera,
    "delta_lora": _delta_lora,
    "lora": _lora,
    "swapping": _swapping,
}
