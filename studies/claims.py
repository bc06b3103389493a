"""The sentences of the article that can be tested, and what the questions' records say of each.

A verdict follows from numbers. "Better" is a difference further from 0 than 95 % of what chance
would give so few seeds (`markdown.sign`); "the same quality" is one whose 95 % interval lies above
-SAME: that few seeds show no difference is no proof that there is none. SAME was set when some of
the records were known.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from minilora.lab.cells import Record
from minilora.lab.spread import chance, milliseconds, sign

from . import question
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
    found: str  # numbers, with their spread
    verdict: str  # HOLDS, "holds when …" or NOT_SEEN


def claims(name: str, records: Sequence[Record]) -> list[Claim]:
    """What a question's records say."""
    return SAID[name](question(name).summary(list(records)))


def _gap(spread: tuple[float, float, int], unit: str = "", digits: int = 3) -> str:
    mean, sd, n = spread
    if mean is None:
        return f"diverged (n = {n})"
    how = "" if sign(mean, sd, n) else ", within chance"
    return f"{mean:+.{digits}f} ± {sd:.{digits}f}{' ' if unit else ''}{unit} (n = {n}{how})"


def _same(gap: tuple[float, float, int]) -> bool:
    """Is a difference from LoRA's exact match surely no more than SAME below?"""
    mean, sd, n = gap
    return mean - chance(sd, n) >= -SAME


def _comparison(found: Mapping[str, Any]) -> list[Claim]:
    rows, gaps, early = found["methods"], found["against_lora"], found["early"]
    plain, fa, vera, plus = (rows[m] for m in ("lora", "lora_fa", "vera", "lora_plus"))
    same = {name: _same(gap) for name, gap in gaps.items()}
    better = {name: sign(*gap) > 0 for name, gap in gaps.items()}
    ahead = {name: sign(*gap) < 0 for name, gap in early.items()}  # of losses: lower
    unit = "exact match against LoRA, mean of five tasks"
    saved = 1 - fa["activations"] / plain["activations"]
    times = [milliseconds(row["step_seconds"]) for row in (plus, plain)]
    return [
        Claim(
            CHEAPER,
            f"{100 * saved:.0f} % less kept for backward; {_gap(gaps['lora_fa'], unit)}",
            HOLDS if same["lora_fa"] and saved > 0 else NOT_SEEN,
        ),
        Claim(
            f"{SMALLER} (rank {RANKS['vera']}, against LoRA of rank {RANKS['lora']})",
            f"{vera['cost']['file']:,} bytes on disk against {plain['cost']['file']:,}; "
            f"{_gap(gaps['vera'], unit)}",
            HOLDS if same["vera"] and vera["cost"]["file"] < plain["cost"]["file"] else NOT_SEEN,
        ),
        Claim(
            "Delta-LoRA learns better",
            _gap(gaps["delta_lora"], unit),
            HOLDS if better["delta_lora"] else NOT_SEEN,
        ),
        Claim(
            FASTER,
            f"after a fifth of the steps {_gap(early['lora_plus'], 'nats per token')} on "
            f"validation words of past tenses, in the end {_gap(gaps['lora_plus'], unit)}; a step "
            f"takes {times[0]}, LoRA's "
            f"{times[1]}",
            HOLDS if ahead["lora_plus"] else NOT_SEEN,
        ),
    ]


def _lora_plus(found: Mapping[str, Any]) -> list[Claim]:
    widths, words = found["toy"]["widths"], found["words"]
    first, last = widths[min(widths)], widths[max(widths)]
    target = min(words)
    ratios = {n: row for n, row in words[target]["ratios"].items() if n > 1}
    steps = words[target]["validation_steps"]
    best = min(ratios, key=lambda n: steps[n, ratios[n]["lr"]])
    saved, time = ratios[best]["saved"], found["seconds"]
    grows = [row["steps"].mean - row["steps_apart"].mean for row in (first, last)]
    theory = abs(found["toy"]["exponent"].mean + 0.5) < 0.03 and grows[1] > grows[0]
    return [
        Claim(
            f"{FASTER}: in the limit of large widths",
            f"one linear unit: LoRA's best rate falls as n^({found['toy']['exponent']:.3f}), "
            f"theory -1/2, and its steps grow from {first['steps']} to {last['steps']} between "
            f"widths {min(widths):,} and {max(widths):,}; with two rates "
            f"{first['steps_apart']} and {last['steps_apart']} (n = {first['steps'].n})",
            "holds when the width grows without bound" if theory else NOT_SEEN,
        ),
        Claim(
            f"{FASTER}: on words, each ratio at its own rate",
            f"the ratio that validation chose, {best}, saves {saved:%} of LoRA's steps to a "
            f"loss of {target} (n = {saved.n}); a step takes {time['plus_over_lora']:.2f} of "
            "LoRA's time",
            HOLDS if sign(*saved) > 0 else NOT_SEEN,
        ),
    ]


def _lora_fa(found: Mapping[str, Any]) -> list[Claim]:
    fa, memory = found["words"]["lora_fa"], found["memory"]
    n = fa[min(fa)]["less_lora"].n
    gaps = ", ".join(f"rank {r} {fa[r]['less_lora']:.3f}" for r in sorted(fa))
    shares = [row["activations_saved"] for row in memory.values()]
    worse = [rank for rank in fa if not _same(fa[rank]["less_lora"])]
    even = [rank for rank in fa if rank > max(worse, default=0)]
    when = f"holds when the rank is {min(even)} or more" if even else NOT_SEEN
    when = when if min(shares) > 0 else NOT_SEEN
    return [
        Claim(
            CHEAPER,
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % less kept for backward, by "
            f"model and targets; exact match less LoRA's: {gaps} (n = {n})",
            when if worse else HOLDS,
        )
    ]


def _vera(found: Mapping[str, Any]) -> list[Claim]:
    vera, lora, files = found["vera"], found["lora"], found["files"]["vera"]

    def score(row):
        return row["exact_match"]["mean"]

    def smallest(row):
        """The LoRA of fewest numbers that scores as well."""
        even = [r for r in lora if score(lora[r]) >= score(row) - SAME]
        return min(even, key=lambda r: lora[r]["trainable"], default=None)

    def said(row):
        spread = row["exact_match"]
        return f"{spread['mean']:.3f} ± {spread['sd']:.3f} with {row['trainable']:,} numbers"

    rivals = {rank: smallest(row) for rank, row in vera.items()}
    fewer = [
        rank
        for rank, rival in rivals.items()
        if rival is None or vera[rank]["trainable"] < lora[rival]["trainable"]
    ]
    above = [rank for rank in sorted(vera) if rank not in fewer]
    shown = [*sorted(fewer)[-1:], *above[:1]]  # the last that is smaller, and the first that is not
    pairs = [
        f"rank {rank}: {said(vera[rank])}, "
        + (f"LoRA of rank {rival}: {said(lora[rival])}" if (rival := rivals[rank]) else "no LoRA")
        for rank in shown
    ]
    alike = sum(file["same_bits_elsewhere"] for file in files.values())
    sizes = files[max(fewer, default=min(files))]
    when = f"holds when the rank is {max(fewer)} or less" if fewer else NOT_SEEN
    return [
        Claim(
            f"{SMALLER}: against the smallest LoRA that scores as well",
            f"{'; '.join(pairs)} (n = {next(iter(vera.values()))['exact_match']['n']})",
            HOLDS if len(fewer) == len(vera) else when,
        ),
        Claim(
            "VeRA moves between systems easily",
            f"{alike} of {len(files)} × one file gave the same bits in another process; "
            f"{sizes['bytes']:,} bytes without A and B, {sizes['bytes_with_projections']:,} with",
            "holds when both sides draw A and B alike" if alike == len(files) else NOT_SEEN,
        ),
    ]


def _delta_lora(found: Mapping[str, Any]) -> list[Claim]:
    def spread(kind, name):
        row = found[kind]["difference"][name]
        return row["mean"], row["sd"], row["n"]

    def claim(sentence, kind, holds):
        names = found[kind]["difference"]
        said = ", ".join(f"{n.replace('_', ' ')} {_gap(spread(kind, n))}" for n in names)
        return Claim(sentence, f"less LoRA's, both tuned: {said}", HOLDS if holds else NOT_SEEN)

    fits = sign(*spread("few", "gap")) < 0 and sign(*spread("few", "test_loss")) <= 0
    return [
        claim(LEARNS, "shift", sign(*spread("shift", "new_test_loss")) < 0),
        claim(FITS, "few", fits),
    ]


def _lora(found: Mapping[str, Any]) -> list[Claim]:
    elbows = found["teacher"]
    off = [
        row["error"]["mean"]
        for known, ranks in elbows.items()
        for r, row in ranks.items()
        if r >= known
    ]
    n = next(iter(next(iter(elbows.values())).values()))["error"]["n"]
    worst = max(elbows[k][k]["error"]["sd"] for k in elbows)
    met = max(off) < 1e-3
    return [
        Claim(
            "A change of low rank is enough",
            f"a known change of rank {', '.join(map(str, elbows))} is met from that rank on: "
            f"what is left is at most {max(off):.1e} ± {worst:.0e} (n = {n})",
            "holds when the change is of low rank" if met else NOT_SEEN,
        )
    ]


def _swapping(found: Mapping[str, Any]) -> list[Claim]:
    size, took = found["bytes"], found["seconds"]
    things = ("switches_with_other_bits", "scores", "base", "adapters")
    faults = ["copied", things[0], *(f"{name}_changed" for name in things[1:])]
    still = not any(found[name] for name in faults)
    ways = found["ways"].values()
    last = [row["drift"][max(row["drift"])]["logit"] for row in ways]
    moved = " or ".join(f"{mean:.1e} ± {sd:.0e}" for mean, sd in last)
    switches = max(next(iter(ways))["drift"])
    changed = sum(row["scores_changed"] for row in ways)
    cases = sum(row["orders"] for row in ways) * size["adapters"]
    return [
        Claim(
            "LoRA's adapters swap freely without retraining",
            f"beside the base {found['switches_with_other_bits']} of {found['orders']} × "
            f"{switches:,} switches gave other bits and {found['scores_changed']} scores changed; "
            f"a switch takes {1e6 * took['use_seconds']:.2g} µs, reading a model "
            f"{1e3 * took['load_model_seconds']:.2g} ms; base and five adapters are "
            f"{size['library_bytes']:,} bytes, five models {size['models_bytes']:,}",
            HOLDS if still else NOT_SEEN,
        ),
        Claim(
            "… also by adding to the weights and subtracting again",
            f"after {switches:,} switches a logit has moved by {moved} (rounded once, in place; "
            f"n = {found['orders']} orders each), {changed} of {cases} scores changed",
            "holds when the last bits of float32 do not matter" if not changed else NOT_SEEN,
        ),
    ]


SAID: dict[str, Callable[[Mapping[str, Any]], list[Claim]]] = {
    "comparison": _comparison,
    "lora_plus": _lora_plus,
    "lora_fa": _lora_fa,
    "vera": _vera,
    "delta_lora": _delta_lora,
    "lora": _lora,
    "swapping": _swapping,
}
