"""Does what one base shows hold on others? The comparison's techniques on three pretrained bases:
the shipped one, whose seed was chosen (see minilora/lab/pretrain.py), and two of the same recipe
with the first two seeds, which are made on the way: minilora pretrain --seed 0 (and 1).

Seeds are nested in bases: an effect is estimated within each base, five seeds, paired, and never
pooled. A sentence is general here when its effect has the same sign, surely, on all three.

Known before these runs: everything on the shipped base; nothing on the two others.
"""

from pathlib import Path
from typing import Any

from minilora.lab.cells import Cell, Record
from minilora.lab.statistics import Estimate, estimate
from minilora.lab.table import markdown

from . import Study, _bases, _words, common
from ._question import MARGIN, Finding, Question, shown
from ._verdicts import UNKNOWN, as_good, difference, higher
from .cost import ALL, PUBLISHED, QV, arm, label
from .forgetting import kept

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


def name_of(base: int | None) -> str:
    """ "shipped", or "seed 0"."""
    return "shipped" if base is None else f"seed {base}"


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
    past = _words.judged(model, _words.tasks.select("past", 300))
    return {"old": _words.skills(model), "past": past["test"]["exact_match"]}


def summary(records: list[Record]) -> dict[str, Any]:
    """base -> {"skills", "arms": label -> rate, scores, share kept}."""
    kinds = common.by_kind(records)
    found: dict[str, Any] = {
        name_of(r["cell"]["base"]): {
            "skills": r["result"]["old"],
            "past": r["result"]["past"],
            "arms": {},
        }
        for r in kinds["base"]
    }
    for runs in common.at_best_rates(kinds["learn"], seeds=ONE):
        cell = runs[0]["cell"]
        of_base = found[name_of(cell["base"])]
        of_base["arms"][label(cell)] = {
            "lr": cell["lr"],
            "at_an_end": common.at_an_end(cell, kinds["learn"]),
            "exact_match": common.named(runs, "test", "exact_match"),
            "kept": estimate(kept(r["result"], of_base["skills"]) for r in runs),
            "seeds": {r["cell"]["seed"]: r["result"]["test"]["exact_match"] for r in runs},
        }
    return found


def gaps(s: dict[str, Any], ours: str, theirs: str) -> dict[str, Estimate]:
    """base -> exact match, ours less theirs, seed by seed."""
    found = {}
    for base, row in s.items():
        a, b = (row["arms"][name]["seeds"] for name in (ours, theirs))
        seeds = sorted(set(a) & set(b))
        found[base] = difference([a[k] for k in seeds], [b[k] for k in seeds])
    return found


def on_all(found: dict[str, Estimate], judge) -> Finding:
    """The verdict that all bases give; where they differ, cannot tell. p: the largest of them."""
    verdicts = [judge(gap, MARGIN) for gap in found.values()]
    said = "; ".join(f"{base} {shown(gap)}" for base, gap in found.items())
    same = {verdict for verdict, _ in verdicts}
    verdict = same.pop() if len(same) == 1 else UNKNOWN
    return Finding(said, verdict, max(p for _, p in verdicts))


def _at_least(ours, theirs, judge):
    def judged(s):
        found = on_all(gaps(s, ours, theirs), judge)
        ends = [b for b, row in s.items() for n in (ours, theirs) if row["arms"][n]["at_an_end"]]
        return Finding(found.evidence, UNKNOWN, found.p) if ends else found

    return judged


def _forgets(s):
    found = {
        base: Estimate(row["arms"][LORA]["kept"].mean - 1, *row["arms"][LORA]["kept"][1:])
        for base, row in s.items()
    }
    return on_all(found, as_good)


EQUAL = "within each base: words, batches, seeds, steps; each arm at its own best rate there"
RULE = "the rule within each base; a verdict that all three bases give, else cannot tell"
SILENT = "another size or kind of base: the three differ by their seed alone"
QUESTIONS = (
    Question(
        "L4",
        "Full fine-tuning is better than LoRA of rank 4 on q and v: on three bases",
        EQUAL,
        f"{RULE}. Holds: the interval lies above 0; does not hold: below {MARGIN}",
        "a base on which LoRA does as well",
        SILENT,
        _at_least(FULL, LORA, higher),
    ),
    Question(
        "L2",
        "LoRA of rank 2 on all linears is as good as full fine-tuning: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "a base on which it is surely worse",
        SILENT,
        _at_least(EVERYWHERE, FULL, as_good),
    ),
    Question(
        "F5",
        "LoRA-FA's quality stays high: as LoRA's of the same rank, 4: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "a base on which it is as good",
        SILENT,
        _at_least("LoRA-FA r 4, q, v", LORA, as_good),
    ),
    Question(
        "V3",
        "VeRA of rank 256 is as good as LoRA of rank 4: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "a base on which it is surely worse",
        SILENT,
        _at_least("VeRA r 256, q, v", LORA, as_good),
    ),
    Question(
        "D4",
        "Delta-LoRA, as published, improves accuracy over LoRA: on three bases",
        EQUAL,
        f"{RULE}. Holds: the interval lies above 0; does not hold: below {MARGIN}",
        "the same sign on all three, surely",
        SILENT,
        _at_least("Delta-LoRA r 4, q, v", LORA, higher),
    ),
    Question(
        "P3",
        "LoRA+ is as good as LoRA: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN}",
        "a base on which it is surely worse",
        SILENT,
        _at_least("LoRA+ r 4, q, v", LORA, as_good),
    ),
    Question(
        "L7",
        "The model keeps its general knowledge while LoRA's adapter is on: on three bases",
        EQUAL,
        f"{RULE}. As good but for {MARGIN} of the share of the old skills",
        "a base that keeps them",
        SILENT,
        _forgets,
    ),
)


def table(records: list[Record]) -> str:
    """Exact match by base, then the share of the old skills that is kept."""
    s = summary(records)
    arms = list(next(iter(s.values()))["arms"])
    first, second = [], []
    for name in arms:
        rows = [row["arms"][name] for row in s.values()]
        first.append([name, *(f"{row['exact_match']:.3f} ({common.rate_of(row)})" for row in rows)])
        second.append([name, *(f"{row['kept']:.2f}" for row in rows)])
    known = ["the base before", *(f"{row['past']:.3f}" for row in s.values())]
    skills = [f"{name} before" for name in next(iter(s.values()))["skills"]]
    before = [
        [title, *(f"{row['skills'][title.removesuffix(' before')]:.3f}" for row in s.values())]
        for title in skills
    ]
    heads = [[title, *s] for title in ("past tense (rate)", "share of the old skills kept")]
    tables = ([known, *first], [*before, *second])
    return "\n\n".join(markdown(head, body) for head, body in zip(heads, tables))


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


TITLE = "Do the effects have the same sign on three pretrained bases?"
STUDY = Study("bases", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
