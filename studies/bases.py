"""Does what one base shows hold on others? The comparison's techniques on three pretrained bases:
the shipped one, whose seed was chosen (see minilora/lab/pretrain.py), and two of the same recipe
with the first two seeds, which are made on the way: minilora pretrain --seed 0 (and 1).

Seeds are nested in bases: an effect is estimated within each base, five seeds, paired. A verdict is
of the mean of the three bases' effects, whose error is that of the seeds within each base
(`stratified`). Three bases are no sample of bases: it says nothing of a fourth.

Known before these runs: an earlier record of the same arms, whose rates one seed chose, with one
verdict a base and the largest of three p values.
"""

from pathlib import Path
from typing import Any

from minilora.lab.cells import Cell, Record
from minilora.lab.statistics import Estimate
from minilora.lab.table import markdown
from minilora.text import tasks

from . import Study, _bases, _choice, _words, common
from ._question import MARGIN, Finding, Question, brief, shown
from ._verdicts import UNKNOWN, as_good, higher, stratified
from .cost import ALL, PUBLISHED, QV, arm, label

BASES = (_bases.SHIPPED, *_bases.SEEDS)
ARMS: list[tuple[Cell, float]] = [  # an arm, and the middle of its first grid
    (arm("full"), 0.0005),
    (arm("lora", QV, 4), 0.02),
    (arm("lora", ALL, 2), 0.005),
    (arm("lora_fa", QV, 4), 0.1),
    (arm("vera", QV, 256), 0.2),
    (arm("delta_lora", QV, 4, **PUBLISHED), 0.01),
    (arm("lora_plus", QV, 4), 0.005),
]
LORA, EVERYWHERE, FULL = "LoRA r 4, q, v", "LoRA r 2, all", "Full fine-tuning"


def cells() -> list[Cell]:
    """What each base knows, and the first grids."""
    return [
        *({"kind": "base", "base": base} for base in BASES),
        *(
            run
            for base in BASES
            for cell, middle in ARMS
            for run in common.first_grid(
                {"kind": "learn", "base": base, **cell, "steps": 150}, middle
            )
        ),
    ]


def then(records: list[Record]) -> list[Cell]:
    """Wider grids."""
    return common.searched(common.by_kind(records)["learn"])


def quick() -> list[Cell]:
    """Short ones, on the shipped base."""
    short = {"train_size": 40, "steps": 3, "lr": 0.01, "seed": 0, "base": None}
    return [
        {"kind": "base", "base": None},
        {"kind": "learn", **arm("lora_plus", QV, 2), **short},
    ]


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One training run, or a base alone."""
    return {"learn": _words.word_run, "base": base_scores}[kind](**cell)


def base_scores(base: int | None) -> dict[str, Any]:
    """The skills of a base, and its past tense, before anything is learned."""
    model = _bases.model(base)
    past = _words.judged(model, tasks.select("past", 300))
    return {"old": _words.skills(model), "past": past["test"]["exact_match"]}


def summary(records: list[Record]) -> dict[str, Any]:
    """base -> {"skills", "past", "arms": label -> rate, scores, tried}."""
    kinds = common.by_kind(records)
    found: dict[str, Any] = {
        _bases.name(r["cell"]["base"]): {
            "skills": r["result"]["old"],
            "past": r["result"]["past"],
            "arms": {},
        }
        for r in kinds["base"]
    }
    for runs in common.at_best_rates(kinds["learn"]):
        cell = runs[0]["cell"]
        found[_bases.name(cell["base"])]["arms"][label(cell)] = {
            "lr": cell["lr"],
            "at_an_end": common.at_an_end(cell, kinds["learn"]),
            "exact_match": common.named(runs, "test", "exact_match"),
            "tried": _choice.Tried(common.of_setting(cell, kinds["learn"])),
        }
    return found


def gaps(s: dict[str, Any], ours: str, theirs: str) -> dict[str, Estimate]:
    """base -> exact match, ours less theirs, each at its chosen rate."""
    return {
        base: _choice.gap(*(row["arms"][name]["tried"] for name in (ours, theirs)))
        for base, row in s.items()
    }


def _on_three(ours, theirs, judge):
    """One test: the mean of the bases' gaps, with the error of the seeds within each."""

    def judged(s):
        found = gaps(s, ours, theirs)
        verdict, p = judge(pooled := stratified(found.values()), MARGIN)
        each = "; ".join(f"{base} {shown(gap)}" for base, gap in found.items())
        ends = [b for b, row in s.items() for n in (ours, theirs) if row["arms"][n]["at_an_end"]]
        said = f"over the bases {brief(pooled)}; {each}"
        return Finding(said, UNKNOWN, 1.0) if ends else Finding(said, verdict, p)

    return judged


EQUAL = "within each base: words, batches, seeds, steps; each arm at its own best rate there"
RULE = "one test of the mean of the three bases' effects; each base's stands beside it"
SILENT = "another size or kind of base: the three differ by their seed alone, and are no sample"
QUESTIONS = (
    Question(
        "–",
        "Full fine-tuning is better than LoRA of rank 4 on q and v: on three bases",
        EQUAL,
        f"{RULE}. Holds: the interval lies above 0; does not hold: below {MARGIN}",
        "LoRA doing as well",
        SILENT,
        _on_three(FULL, LORA, higher),
    ),
    Question(
        "L2",
        "LoRA of rank 2 on all linears is as good as full fine-tuning: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "an interval that reaches below the margin and lies below 0",
        SILENT,
        _on_three(EVERYWHERE, FULL, as_good),
    ),
    Question(
        "F5",
        "LoRA-FA's quality stays high: as LoRA's of the same rank, 4: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "an interval above the margin",
        SILENT,
        _on_three("LoRA-FA r 4, q, v", LORA, as_good),
    ),
    Question(
        "V3",
        "Small scaling vectors are enough: VeRA of rank 256 is as good as LoRA of rank 4: on three "
        "bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "an interval that reaches below the margin and lies below 0",
        SILENT,
        _on_three("VeRA r 256, q, v", LORA, as_good),
    ),
    Question(
        "D4",
        "Delta-LoRA, as published, improves accuracy over LoRA: on three bases",
        EQUAL,
        f"{RULE}. Holds: the interval lies above 0; does not hold: below {MARGIN}",
        "an interval above 0",
        SILENT,
        _on_three("Delta-LoRA r 4, q, v", LORA, higher),
    ),
    Question(
        "P3",
        "LoRA+ is as good as LoRA: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "an interval that reaches below the margin and lies below 0",
        SILENT,
        _on_three("LoRA+ r 4, q, v", LORA, as_good),
    ),
)


def table(records: list[Record]) -> str:
    """Exact match by base; then each arm less LoRA of rank 4."""
    s = summary(records)
    body = [["the base before", *(f"{row['past']:.3f}" for row in s.values())]]
    less = []
    for name in next(iter(s.values()))["arms"]:
        rows = [row["arms"][name] for row in s.values()]
        body.append([name, *(f"{row['exact_match']:.3f} ({common.rate_of(row)})" for row in rows)])
        if name != LORA:
            found = gaps(s, name, LORA)
            less.append([name, *map(brief, found.values()), brief(stratified(found.values()))])
    tables = [
        markdown(["past tense (rate)", *s], body),
        markdown([f"less {LORA}, with its 95 % interval", *s, "mean of the three"], less),
    ]
    return "\n\n".join(tables)


def figure(records: list[Record], path: Path) -> None:
    """Exact match of each arm, the bases side by side."""
    s = summary(records)
    arms = list(next(iter(s.values()))["arms"])
    colours = dict(zip(s, ("#0072B2", "#E69F00", "#009E73")))
    with common.panels(path, 10, 5.6) as axes:
        for place, (base, row) in enumerate(s.items()):
            y = [k + (place - 1) * 0.2 for k in range(len(arms))]
            matches = [row["arms"][name]["exact_match"] for name in arms]
            means, sds = [e.mean for e in matches], [e.sd for e in matches]
            look = dict(color=colours[base], marker="os^"[place], ls="none", capsize=3)
            axes.errorbar(means, y, xerr=sds, label=f"base: {base}", **look)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel("exact match on held-out past tenses (bars: sd of 5 seeds)")
        axes.set_title("Three pretrained bases, each arm tuned on each")
        axes.legend()


TITLE = "What is left of the effects on three pretrained bases?"
STUDY = Study("bases", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
