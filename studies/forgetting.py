"""Learn and forget: what 300 past tenses cost the skills that a base has, the adapter being on:
third person, -ing, sounds, and a choice among sounds, whose form is not the task's. With the
adapter off the base is bit for bit what it was, and forgets nothing: that is tested, and needs no
runs.

Three bases (see `bases`). LoRA on all linears and on q and v, and full fine-tuning, each over a
dense grid of rates, half an octave apart. The grid grows at its lower end until what is learned
there lies below every level, and at its upper end until the last rate learns less than the best
one. Of each seed, base and arm the frontier is what the runs keep at most against what they learn
at least, by validation words; between two runs it is a straight line. The other techniques stand
beside them on the shipped base, each at its chosen rate.

Known before these runs: an earlier record on the shipped base with five rates an octave apart, runs
chosen by test words, and LoRA of rank 2 on all linears at three rates only, the lowest of which
kept most. At a past tense of 0.8 LoRA kept 0.30 less than full fine-tuning, at 0.88 0.13 less; with
half of the lowest rate it would have been about 0.18 less at 0.8. On the base of seed 0 a trial had
+0.47. Biderman et al. 2024 (arXiv:2405.09673) found, on Llama-2-7B with code and mathematics, that
LoRA learns less and forgets less, and say (section 4.3) that both seem to lie on one Pareto curve.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record
from minilora.lab.statistics import Estimate, estimate
from minilora.lab.table import markdown
from minilora.support import plots

from . import Study, _bases, _words, common
from ._question import MARGIN, Finding, Question, brief, of_parts, shown
from ._verdicts import FAILS, HOLDS, UNKNOWN, as_good, difference, higher, interval, stratified
from .cost import ALL, PUBLISHED, QV, arm, label

BASES = (_bases.SHIPPED, *_bases.SEEDS)
FULL, LORA = "Full fine-tuning", "LoRA r 4, q, v"
ARMS: tuple[tuple[Cell, float], ...] = (  # an arm, and the lowest rate of its first grid
    (arm("full"), 0.0000625),
    (arm("lora", ALL, 16), 0.00025),
    (arm("lora", ALL, 2), 0.000625),
    (arm("lora", QV, 4), 0.0025),
)
OTHERS: tuple[tuple[Cell, float], ...] = (  # on the shipped base: the middle of the first grid
    (arm("lora_fa", QV, 4), 0.1),
    (arm("vera", QV, 256), 0.2),
    (arm("delta_lora", QV, 4, **PUBLISHED), 0.005),
    (arm("lora_plus", QV, 4), 0.005),
)
DENSE, MOST = 8, 16  # rates of a first grid, and of a grid
LEVELS = (0.80, 0.85, 0.89)  # exact match of the past tense at which what is kept is compared

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """The bases' own skills, and the first grids."""
    work: list[Cell] = [{"kind": "base", "base": base} for base in BASES]
    for base in BASES:
        for cell, lowest in ARMS:
            rates = [rounded_rate(lowest * 2 ** (k / 2)) for k in range(DENSE)]
            work += _runs({"kind": "frontier", "base": base, **cell}, rates)
    for cell, middle in OTHERS:
        work += _runs({"kind": "other", "base": None, **cell}, common.around(middle))
    return work


def rounded_rate(rate: float) -> float:
    """A rate with three digits."""
    return float(f"{rate:.3g}")


def _runs(cell: Cell, rates: list[float]) -> list[Cell]:
    fixed = {**cell, "steps": 150, "old": True}
    return [{**fixed, "lr": lr, "seed": seed} for lr in rates for seed in common.SEEDS]


def then(records: list[Record]) -> list[Cell]:
    """Wider grids: of the frontiers at both ends, of the others around their best rate."""
    kinds = common.by_kind(records)
    work = common.searched(kinds["other"])
    for runs in common.at_best_rates(kinds["frontier"]):
        tried = common.of_setting(runs[0]["cell"], kinds["frontier"])
        if len(common.rates_tried(runs[0]["cell"], tried)) < MOST:
            cells = [{**runs[0]["cell"], "lr": lr} for lr in wanted_rates(tried)]
            work += [{**cell, "seed": seed} for cell in cells for seed in common.SEEDS]
    return work


def wanted_rates(tried: list[Record]) -> list[float]:
    """The rates that a frontier's grid still wants at its ends; none: no end lies on a frontier."""
    by_rate = common.grouped(tried, lambda cell: cell["lr"])
    rates, wanted = sorted(by_rate), []
    learned = {lr: [r["result"]["validation"]["exact_match"] for r in by_rate[lr]] for lr in rates}
    means = {lr: fmean(scores) for lr, scores in learned.items()}
    if max(learned[rates[0]]) >= min(LEVELS):  # a seed's frontier would end above the level
        wanted.append(rounded_rate(rates[0] / 2**0.5))
    if max(means, key=means.__getitem__) == rates[-1]:
        wanted.append(rounded_rate(rates[-1] * 2**0.5))
    return wanted


def quick() -> list[Cell]:
    """Short ones."""
    short = {"train_size": 40, "steps": 3, "old": True, "lr": 0.01, "seed": 0, "base": None}
    return [{"kind": "frontier", **arm("lora", QV, 2), **short}, {"kind": "base", "base": None}]


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One training run, or a base alone."""
    if kind == "base":
        return {"old": _words.skills(_bases.model(cell["base"]))}
    return _words.word_run(**cell)


# ----------------------------------------------------------------------------------------- summary


def kept(result: dict[str, Any], known: dict[str, float]) -> float:
    """The mean over the skills of what is left of each: 1 is all of it; 0 of a diverged run. Of a
    choice it is what is left above chance.
    """
    old = result["old"]
    chance = {_words.CHOICE: _words.CHANCE}
    return (
        fmean(
            (old[name] - chance.get(name, 0.0)) / (known[name] - chance.get(name, 0.0))
            for name in known
        )
        if old
        else 0.0
    )


def summary(records: list[Record]) -> dict[str, Any]:
    """base -> {"skills", "arms": label -> points, at_levels, chosen, open_ends}."""
    kinds = common.by_kind(records)
    bases: dict[str, Any] = {
        _bases.name(r["cell"]["base"]): {"skills": r["result"]["old"], "arms": {}}
        for r in kinds["base"]
    }
    for kind in ("frontier", "other"):
        for runs in common.at_best_rates(kinds[kind]):
            cell = runs[0]["cell"]
            of_base = bases[_bases.name(cell["base"])]
            tried = common.of_setting(cell, kinds[kind])
            points = [
                _point(at_rate, of_base["skills"])
                for _, at_rate in sorted(common.grouped(tried, lambda cell: cell["lr"]).items())
            ]
            of_base["arms"][label(cell)] = {
                "method": cell["method"],
                "chosen": next(p for p in points if p["lr"] == cell["lr"]),
                "points": points,
                "open_ends": kind == "frontier" and bool(wanted_rates(tried)),
                "at_levels": {level: at_level(points, level) for level in LEVELS},
            }
    return bases


def _point(runs: list[Record], known: dict[str, float]) -> dict[str, Any]:
    """What all seeds of one rate learn and keep."""
    return {
        "lr": runs[0]["cell"]["lr"],
        "past": common.named(runs, "test", "exact_match"),
        "kept": estimate(kept(r["result"], known) for r in runs),
        "old": {name: estimate(r["result"]["old"].get(name) for r in runs) for name in known},
        "seeds": {
            r["cell"]["seed"]: {
                "validation": r["result"]["validation"]["exact_match"],
                "test": r["result"]["test"]["exact_match"],
                "kept": kept(r["result"], known),
            }
            for r in runs
        },
    }


def at_level(points: list[dict[str, Any]], level: float) -> dict[int, dict[str, float]]:
    """Seed -> what the seed's frontier keeps where validation words are learned to this level, and
    the test words there; nothing for a seed that no run brought there.
    """
    found = {}
    for seed in points[0]["seeds"]:
        edge = frontier([point["seeds"][seed] for point in points])
        learned = [run["validation"] for run in edge]
        lowest = min(point["seeds"][seed]["validation"] for point in points)
        if lowest <= level <= learned[-1]:  # below the frontier's first run that run counts
            found[seed] = {
                name: float(np.interp(level, learned, [run[name] for run in edge]))
                for name in ("kept", "test")
            }
    return found


def frontier(runs: list[dict[str, float]]) -> list[dict[str, float]]:
    """The runs that no other run beats both in what is learned ("validation") and in what is kept,
    from the one that learns least.
    """
    edge: list[dict[str, float]] = []
    for run in sorted(runs, key=lambda run: (-run["validation"], -run["kept"])):
        if not edge or run["kept"] > edge[-1]["kept"]:
            edge.append(run)
    return edge[::-1]


def less_full(s: dict[str, Any], base: str, name: str, level: float) -> Estimate:
    """What an arm keeps at a level less what full fine-tuning keeps, seed by seed; without a number
    where fewer than two seeds have both.
    """
    ours, theirs = (s[base]["arms"][arm]["at_levels"][level] for arm in (name, FULL))
    seeds = sorted(set(ours) & set(theirs))
    if len(seeds) < 2:
        return Estimate(None, None, len(seeds))
    return difference(*([of[seed]["kept"] for seed in seeds] for of in (ours, theirs)))


# --------------------------------------------------------------------------------------- questions

AGAINST = [label(cell) for cell, _ in ARMS if cell["method"] == "lora"]


def _keeps(s):
    parts, said = {}, []
    for base, row in s.items():
        point = row["arms"][LORA]["chosen"]
        lost = Estimate(point["kept"].mean - 1, point["kept"].sd, point["kept"].n)
        parts[base] = as_good(lost, MARGIN)
        old = ", ".join(
            f"{name} {score:.3f} of {row['skills'][name]:.3f}"
            for name, score in point["old"].items()
        )
        said.append(f"{base}: past tense {point['past']:.3f}, share lost {shown(lost)} ({old})")
    return of_parts("; ".join(said), parts)


def _forgets_less(s):
    parts, said = {}, []
    for name in AGAINST:
        for level in LEVELS:
            each = {base: less_full(s, base, name, level) for base in s}
            told = {base: gap for base, gap in each.items() if gap.n > 1}
            ends = any(s[b]["arms"][n]["open_ends"] for b in told for n in (name, FULL))
            part = f"{name} at {level:g}"
            if len(told) < len(s):
                missing = ", ".join(base for base in each if base not in told)
                said.append(f"{part}: not reached by two seeds on {missing}")
            else:
                pooled = stratified(told.values())
                alone = {higher(gap, MARGIN)[0] for gap in told.values()}
                unsure = ends or {HOLDS, FAILS} <= alone  # the bases contradict each other
                parts[part] = (UNKNOWN, 1.0) if unsure else higher(pooled, MARGIN)
                of_each = ", ".join(f"{b} {brief(g)}, n = {g.n}" for b, g in told.items())
                said.append(f"{part}: {brief(pooled)} ({of_each})")
    return of_parts("; ".join(said), parts) if parts else Finding("; ".join(said), UNKNOWN, 1.0)


EQUAL = "words, batches, seeds, 150 steps"
SILENT = (
    "large models, whose knowledge is not a few skills, three of which share the task's form: the "
    "tags differ by one letter here. With the adapter off nothing is forgotten, bit for bit"
)
QUESTIONS = (
    Question(
        "L7",
        "The model keeps its general knowledge while LoRA's adapter is on",
        f"{EQUAL}; LoRA of rank 4 on q and v at the rate that validates best on each base",
        f"base by base; holds: the 95 % interval of the share of the skills that is lost lies "
        f"above -{MARGIN}; does not hold: it does not and lies below 0",
        "skills that stay as they were",
        SILENT,
        _keeps,
    ),
    Question(
        "L7",
        "LoRA forgets less than full fine-tuning, where both have learned as much",
        f"{EQUAL}; the exact match on 600 validation words; rates half an octave apart, and no end "
        "of a grid on a frontier",
        "for each placement and level, over three bases (the mean of their means, its error from "
        f"the seeds within each); holds: the interval of LoRA less full lies above 0; does not "
        f"hold: below {MARGIN}; cannot tell where one base alone holds and another does not; no "
        "verdict on a level that two seeds do not reach on every base",
        "a frontier of full fine-tuning that lies on LoRA's, or above it",
        SILENT + "; other bases than these three, between which the effect may differ",
        _forgets_less,
    ),
)

# --------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """The share kept at each level; each arm at its chosen rate."""
    s = summary(records)
    skills = next(iter(s.values()))["skills"]
    levels = [
        [base, name, *(_share(row["arms"][name]["at_levels"][level]) for level in LEVELS)]
        for base, row in s.items()
        for name in (FULL, *AGAINST)
    ]
    body = [
        [
            base,
            name,
            f"{arm['chosen']['lr']:g}",
            f"{arm['chosen']['past']:.3f}",
            *(f"{score:.3f}" for score in arm["chosen"]["old"].values()),
            f"{arm['chosen']['kept']:.2f}",
        ]
        for base, row in s.items()
        for name, arm in [
            ("before", {"chosen": _before(row["skills"])}),
            *row["arms"].items(),
        ]
    ]
    first = markdown(["base", "share kept", *(f"past {level:g}" for level in LEVELS)], levels)
    head = ["base", "adapter on, 150 steps", "rate", "past tense", *skills, "share kept"]
    return f"{first}\n\n{markdown(head, body)}"


def _before(skills):
    known = {name: Estimate(score, 0.0, 1) for name, score in skills.items()}
    return {"lr": 0.0, "past": Estimate(0.0, 0.0, 1), "old": known, "kept": Estimate(1.0, 0.0, 1)}


def _share(by_seed):
    if not by_seed:
        return "not reached"
    return f"{estimate(run['kept'] for run in by_seed.values()):.2f} (n = {len(by_seed)})"


LOOKS = dict(zip((FULL, *AGAINST), (("#444444", "o"), ("#0072B2", "s"), ("#56B4E9", "D"),
                                    ("#009E73", "^"))))  # fmt: skip


def figure(records: list[Record], path: Path) -> None:
    """A panel a base: the frontiers, share kept against the past tense learned, with bands."""
    s = summary(records)
    with common.panels(path, 16, 5.8, 1, len(s), dpi=90, sharey=True) as axes:
        for place, (base, row) in enumerate(s.items()):
            for name, look in LOOKS.items():
                _draw(axes[place], row["arms"][name]["points"], look, name)
            for level in LEVELS:
                axes[place].axvline(level, color=plots.INK, ls=":", lw=0.8)
            axes[place].set(xlim=(0.6, 0.95), ylim=(-0.03, 1.03), title=f"base: {base}")
            axes[place].set_xlabel("past tense on validation words")
        axes[0].set_ylabel("share of the old skills kept, adapter on")
        handles = axes[0].get_legend_handles_labels()
        note = (
            "Lines: mean frontier of the seeds; bands: 95 % of that mean, where at least two seeds "
            "reach. Small points: every run. Dotted: the levels."
        )
        axes[0].figure.legend(*handles, loc="outside lower center", ncols=4, title=note)


def _draw(axes, points, look, name):
    colour, marker = look
    runs = [run for point in points for run in point["seeds"].values()]
    learned, shares = ([run[k] for run in runs] for k in ("validation", "kept"))
    axes.plot(learned, shares, marker, ls="none", color=colour, ms=3, alpha=0.35)
    levels = np.arange(0.6, 0.951, 0.01)
    at = [(level, at_level(points, float(level))) for level in levels]
    told = [(x, estimate(run["kept"] for run in by_seed.values())) for x, by_seed in at
            if len(by_seed) > 1]  # fmt: skip
    if told:
        x, shares = zip(*told)
        low, high = zip(*map(interval, shares))
        axes.plot(x, [e.mean for e in shares], color=colour, lw=2, label=name)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


TITLE = "What does learning the past tense cost the skills that the base has?"
STUDY = Study("forgetting", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
