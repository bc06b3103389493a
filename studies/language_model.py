"""SmolLM2-135M learns ten categories of nouns in 60 steps: who learns it, and what becomes of what
it knew. Three seeds, each technique at the rate that `minilora tune --task category` chose on
validation nouns with one seed (data/results/tuning.json).

What it knew: twenty questions of general knowledge in its chat template, before, and after with the
adapter on (with the adapter off the base is bit for bit what it was).

Known before these runs: one seed of each, 0.81, 0.80, 0.84, 0.825, 0.815, VeRA's rate at the end of
its grid; nothing of the questions.

It wants SmolLM2 (make smollm2) and is not among `all`.
"""

from pathlib import Path
from typing import Any

from minilora.lab import rates
from minilora.lab.cells import Cell, Record
from minilora.lab.runs import load_words, the_model, trainable_numbers
from minilora.lab.runs import run as train_run
from minilora.lab.settings import STARTS
from minilora.lab.statistics import Estimate, estimate, rounded
from minilora.lab.table import markdown
from minilora.methods import METHODS
from minilora.support import plots
from minilora.text import nouns
from minilora.tuning.train import Diverged

from . import Study, _general, common
from ._question import Finding, Question, shown
from ._verdicts import as_good, difference

SETTINGS = STARTS[nouns.NAME]
OPTIONS: dict[str, dict[str, Any]] = {"delta_lora": {"start_step": 1}}  # 2 % of 60 steps
SEEDS = (0, 1, 2)


def cells() -> list[Cell]:
    """The base, and each technique at its rate."""
    chosen = rates.chosen_for(SETTINGS.task, rates.read())
    return [{"kind": "base"}] + [
        {"kind": "learn", "method": method, "rank": chosen[method]["rank"],
         "options": OPTIONS.get(method, {}), "steps": SETTINGS.steps, "lr": chosen[method]["lr"],
         "seed": seed}
        for method in SETTINGS.methods for seed in SEEDS
    ]  # fmt: skip


def quick() -> list[Cell]:
    """Two steps of two techniques."""
    short = {"kind": "learn", "rank": 2, "options": {}, "steps": 2, "lr": 0.001, "seed": 0}
    return [{**short, "method": method} for method in ("lora", "lora_fa")]


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One training run, or the base alone."""
    return {"learn": learn, "base": base}[kind](**cell)


def base() -> dict[str, Any]:
    """What SmolLM2 knows before."""
    model, words = the_model(SETTINGS.base), load_words(SETTINGS)
    return {**judged(model, words), **general(model)}


def learn(method, rank, options, steps, lr, seed) -> dict[str, Any]:
    """One run: nouns and questions, with the adapter on."""
    model = the_model(SETTINGS.base)
    settings = SETTINGS.changed(steps=steps, ranks={method: rank})
    words = load_words(settings)
    try:
        tuned, _ = train_run(model, words, settings, method, lr, seed, **options)
    except Diverged as error:
        none = {"exact_match": 0.0, "loss": None}
        return {"diverged": error.step, "validation": none, "test": none, "general": None}
    return {"trainable": trainable_numbers(tuned), **judged(tuned, words), **general(tuned)}


def judged(model: Any, words: Any) -> dict[str, Any]:
    """The share of nouns whose category is the next token, of validation and test."""
    found = {}
    for name in ("validation", "test"):
        score = rounded(nouns.exact_match(model, getattr(words, name)))
        found[name] = {"exact_match": score, "loss": 1 - score}
    return found


def general(model: Any) -> dict[str, Any]:
    """The share of the questions that are answered right, and the answers."""
    texts = _general.answers(model)
    hits = _general.right(texts)
    return {"general": rounded(sum(hits) / len(hits)), "right": hits, "answers": texts}


def summary(records: list[Record]) -> dict[str, Any]:
    """{"base": scores, "methods": method -> rate, scores, what is kept}."""
    kinds = common.by_kind(records)
    (before,) = (r["result"] for r in kinds["base"])
    methods = {}
    for method, runs in common.grouped(kinds["learn"], lambda cell: cell["method"]).items():
        methods[method] = {
            "lr": runs[0]["cell"]["lr"],
            "rank": runs[0]["cell"]["rank"],
            "trainable": runs[0]["result"].get("trainable"),
            "exact_match": common.named(runs, "test", "exact_match"),
            "general": common.named(runs, "general"),
            "seeds": {r["cell"]["seed"]: r["result"]["test"]["exact_match"] for r in runs},
            "general_seeds": {r["cell"]["seed"]: r["result"]["general"] for r in runs},
        }
    return {"base": before, "methods": methods}


def less_base(s: dict[str, Any], method: str) -> Estimate:
    """The share of the questions answered right, less the base's."""
    known = s["base"]["general"]
    after = s["methods"][method]["general_seeds"].values()
    return estimate(None if share is None else share - known for share in after)


def gap(s: dict[str, Any], method: str) -> Estimate:
    """Exact match less LoRA's, seed by seed."""
    ours, theirs = (s["methods"][m]["seeds"] for m in (method, "lora"))
    seeds = sorted(set(ours) & set(theirs))
    return difference([ours[k] for k in seeds], [theirs[k] for k in seeds])


def _keeps(s):
    verdict, p = as_good(found := less_base(s, "lora"), 0.1)
    others = "; ".join(
        f"{METHODS[m].title} {row['general']:.2f}" for m, row in s["methods"].items() if m != "lora"
    )
    return Finding(
        f"of {len(_general.QUESTIONS)} questions the base answers {s['base']['general']:.2f}, with "
        f"LoRA's adapter on {s['methods']['lora']['general']:.2f}: {shown(found)}; {others}",
        verdict,
        p,
    )


QUESTIONS = (
    Question(
        "L7",
        "The model keeps its general knowledge while LoRA's adapter is on: SmolLM2",
        "the base, the questions, greedy answers",
        "as good but for 0.1, two questions of twenty",
        "questions that are no longer answered",
        "twenty questions are few, and three seeds are three; other models and tasks",
        _keeps,
    ),
)


def table(records: list[Record]) -> str:
    """One line a technique."""
    s = summary(records)
    before = [
        "before",
        "",
        "",
        "",
        f"{s['base']['test']['exact_match']:.3f}",
        "",
        f"{s['base']['general']:.2f}",
    ]
    body = [
        [
            METHODS[m].title,
            row["rank"],
            f"{row['trainable']:,}",
            f"{row['lr']:g}",
            f"{row['exact_match']:.3f}",
            "" if m == "lora" else shown(gap(s, m)),
            f"{row['general']:.2f}",
        ]
        for m, row in s["methods"].items()
    ]
    head = ["SmolLM2, 60 steps", "rank", "numbers", "rate", "category right", "less LoRA's"]
    return markdown([*head, "questions right"], [before, *body]) + "\n\n" + _said(s, records)


def _said(s, records):
    """A few answers, before and after."""
    kinds = common.by_kind(records)
    lora = next(r["result"] for r in kinds["learn"] if r["cell"]["method"] == "lora")
    rows = [
        [question, _short(before), _short(after)]
        for (question, _), before, after in list(
            zip(_general.QUESTIONS, s["base"]["answers"], lora["answers"], strict=True)
        )[:5]
    ]
    return markdown(["asked", "before", "with LoRA's adapter on"], rows)


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 60 else f"{text[:57]}…"


def figure(records: list[Record], path: Path) -> None:
    """What is learned against what is kept."""
    s = summary(records)
    with common.panels(path, 8, 5.4) as axes:
        for method, (colour, marker) in plots.looks(s["methods"]).items():
            row = s["methods"][method]
            x, y = row["exact_match"], row["general"]
            look = dict(color=colour, marker=marker, ls="none", capsize=3, ms=10)
            if y.mean is not None:
                axes.errorbar(
                    x.mean, y.mean, xerr=x.sd, yerr=y.sd, label=METHODS[method].title, **look
                )
        axes.axhline(s["base"]["general"], color=plots.INK, ls=":", lw=1.2)
        axes.set(xlabel="category of held-out nouns right", ylabel="general questions right")
        axes.set_title("SmolLM2 after 60 steps (bars: sd of 3 seeds; dotted: before)", fontsize=12)
        axes.legend()


TITLE = "SmolLM2: what 60 steps teach it, and does it still answer what it knew?"
STUDY = Study("language_model", TITLE, cells, quick, run, summary, table, figure, QUESTIONS)
