"""SmolLM2-135M learns ten categories of nouns in 60 steps: who learns it, and what becomes of what
it knew. Three seeds, each technique at the rate that `minilora tune --task category` chose on
validation nouns with one seed (data/results/tuning.json).

Before and after, with the adapter on:

- what it knows: 240 questions, of each the right answer's likelihood against three wrong ones
  (studies/_general.py);
- the loss on a plain text, window by window (studies/_text.py), with the adapter off too;
- what it says: twenty open questions in its chat template, scored strictly.

The margins. 0.05 of the 240 questions is two standard errors of the base's share. 0.05 nats per
token is what four_bits allows. 0.1 of the open questions is two of twenty.

Known before these runs: the categories learnt, 0.82 to 0.85; of earlier open answers 259 of 300
were empty; the loss on the text with LoRA's adapter on, 6.88, with VeRA's 9.77, and the base's 3.97
(four_bits). So only the first verdict was open. Of it the base's share was known, 0.825, and that
it is 0.22 and 0.27 where a question is asked with the answers of another; with an adapter on
nothing.

It wants SmolLM2 (make smollm2) and is not among `all`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

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

from . import Study, _general, _text, _words, common
from ._question import Finding, Question, shown
from ._verdicts import UNKNOWN, as_good, difference, times

SETTINGS = STARTS[nouns.NAME]
OPTIONS: dict[str, dict[str, Any]] = {"delta_lora": {"start_step": 1}}  # 2 % of 60 steps
SEEDS = (0, 1, 2)
CHOICES = 240  # questions with four answers: all of them
CHANCE = 1 / 4
KNOWS, TEXT, SAYS = 0.05, 0.05, 0.1  # margins: share of questions, nats per token, share of answers


def cells() -> list[Cell]:
    """The base, and each technique at its rate."""
    chosen = rates.chosen_for(SETTINGS.task, rates.read())
    return [{"kind": "base", "choices": CHOICES}] + [
        {"kind": "learn", "method": method, "rank": chosen[method]["rank"],
         "options": OPTIONS.get(method, {}), "steps": SETTINGS.steps, "lr": chosen[method]["lr"],
         "seed": seed, "choices": CHOICES}
        for method in SETTINGS.methods for seed in SEEDS
    ]  # fmt: skip


def quick() -> list[Cell]:
    """Two steps of two techniques, and few questions."""
    short = {"kind": "learn", "rank": 2, "options": {}, "steps": 2, "lr": 0.001, "seed": 0}
    return [{**short, "method": method, "choices": 8} for method in ("lora", "lora_fa")]


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One training run, or the base alone."""
    return {"learn": learn, "base": base}[kind](**cell)


def base(choices: int) -> dict[str, Any]:
    """What SmolLM2 scores before."""
    model, words = the_model(SETTINGS.base), load_words(SETTINGS)
    return {**judged(model, words), **general(model, choices)}


def learn(method, rank, options, steps, lr, seed, choices) -> dict[str, Any]:
    """One run: nouns, questions and text, with the adapter on; the text with the adapter off."""
    model = the_model(SETTINGS.base)
    settings = SETTINGS.changed(steps=steps, ranks={method: rank})
    words = load_words(settings)
    try:
        tuned, _ = train_run(model, words, settings, method, lr, seed, **options)
    except Diverged as error:
        none = {"exact_match": 0.0, "loss": None}
        after = dict.fromkeys(("knows", "text", "answers", "text_off"))
        return {"diverged": error.step, "validation": none, "test": none, **after}
    after = {**judged(tuned, words), **general(tuned, choices)}
    return {"trainable": trainable_numbers(tuned), **after, "text_off": _text.losses(tuned.base)}


def judged(model: Any, words: Any) -> dict[str, Any]:
    """The share of nouns whose category is the next token, of validation and test."""
    found = {}
    for name in ("validation", "test"):
        score = rounded(nouns.exact_match(model, getattr(words, name)))
        found[name] = {"exact_match": score, "loss": 1 - score}
    return found


def general(model: Any, choices: int) -> dict[str, Any]:
    """What it knows of the first so many questions, the losses on the text, the open answers."""
    return {
        "knows": _general.knows(model, _general.choices()[:choices]),
        "text": _text.losses(model),
        "answers": _general.answers(model),
    }


# ---------------------------------------------------------------------------------------- summary

Items = Sequence[float] | None  # a number for each question, window or answer; None: diverged


def summary(records: list[Record]) -> dict[str, Any]:
    """{"base": items, "methods": method -> rate, scores, items of each seed}. Items are hits on the
    240 questions (knows), losses of the windows (text) and hits on the open questions (says).
    """
    kinds = common.by_kind(records)
    (before,) = (r["result"] for r in kinds["base"])
    methods = {}
    for method, runs in common.grouped(kinds["learn"], lambda cell: cell["method"]).items():
        results = [r["result"] for r in runs]
        each = [items(result) for result in results]
        methods[method] = {
            "lr": runs[0]["cell"]["lr"],
            "rank": runs[0]["cell"]["rank"],
            "trainable": results[0].get("trainable"),
            "exact_match": common.named(runs, "test", "exact_match"),
            "seeds": {r["cell"]["seed"]: r["result"]["test"]["exact_match"] for r in runs},
            "margin": common.named(runs, "knows", "margin"),
            "items": {name: [of[name] for of in each] for name in ("knows", "text", "says")},
            "empty": sum(_general.empty(r["answers"] or ()) for r in results),
            "came_back": sum(r["text_off"] == before["text"] for r in results),
        }
    first = next(r["result"] for r in kinds["learn"] if r["cell"]["method"] == "lora")
    said = {"before": before["answers"], "after": first["answers"]}
    before = {**before, "items": items(before), "empty": _general.empty(before["answers"])}
    return {"base": before, "methods": methods, "said": said}


def items(result: Mapping[str, Any]) -> dict[str, Items]:
    """The items of one model."""
    if result["answers"] is None:
        return dict.fromkeys(("knows", "text", "says"))
    return {
        "knows": _words.hits(result["knows"]["right"], CHOICES).tolist(),
        "text": result["text"],
        "says": _general.right(result["answers"]),
    }


def share(s: dict[str, Any], method: str, name: str) -> Estimate:
    """The mean over a technique's items, with its spread over the seeds."""
    every = s["methods"][method]["items"][name]
    return estimate(None if each is None else fmean(each) for each in every)


def change(s: dict[str, Any], method: str, name: str) -> Estimate:
    """A technique's items less the base's, item by item: the mean, and the wider of two intervals.

    One is over the seeds (n = 3), of the mean over the items; the other over the items (n = 240
    questions, say), of the mean over the seeds. Each leaves out what the other one has.
    """
    after = s["methods"][method]["items"][name]
    if None in after:
        return Estimate(None, None, len(after))
    changes = np.array(after, float) - np.array(s["base"]["items"][name], float)  # (seeds, items)
    return max((estimate(changes.mean(axis=axis)) for axis in (0, 1)), key=lambda e: e.margin)


def gap(s: dict[str, Any], method: str) -> Estimate:
    """Exact match less LoRA's, seed by seed."""
    ours, theirs = (s["methods"][m]["seeds"] for m in (method, "lora"))
    seeds = sorted(set(ours) & set(theirs))
    return difference([ours[k] for k in seeds], [theirs[k] for k in seeds])


# --------------------------------------------------------------------------------------- verdicts


def above_chance(share: float, questions: int) -> float:
    """How many standard errors of a guess a share right of four lies above one quarter."""
    return (share - CHANCE) / (CHANCE * (1 - CHANCE) / questions) ** 0.5


def _others(s, name, how="+.3f"):
    """The change of each other technique."""
    rest = [m for m in s["methods"] if m != "lora"]
    return "; ".join(f"{METHODS[m].title} {shown(change(s, m, name), how)}" for m in rest)


def _knows(s):
    before, found = s["base"]["knows"], change(s, "lora", "knows")
    sure = above_chance(before["share"], CHOICES)
    verdict, p = as_good(found, KNOWS) if sure > 3 else (UNKNOWN, None)
    after, margin = share(s, "lora", "knows"), s["methods"]["lora"]["margin"]
    return Finding(
        f"the right one of four answers is the likeliest: base {before['share']:.3f}, {sure:.0f} "
        f"standard errors above chance; with LoRA's adapter on {after:.3f}: {shown(found)}; "
        f"{_others(s, 'knows')}; its log-likelihood less that of the likeliest wrong one: base "
        f"{before['margin']:.2f}, LoRA {margin:.2f} nats",
        verdict,
        p,
    )


def _text_kept(s):
    found, after = change(s, "lora", "text"), share(s, "lora", "text")
    verdict, p = as_good(times(-1, found), TEXT)
    return Finding(
        f"base {fmean(s['base']['text']):.2f} nats per token, with LoRA's adapter on {after:.2f}: "
        f"{shown(found, '+.2f')}; {_others(s, 'text', '+.2f')}; with the adapter off "
        f"{_came_back(s)}",
        verdict,
        p,
    )


def _came_back(s):
    back = sum(row["came_back"] for row in s["methods"].values())
    runs = sum(len(row["seeds"]) for row in s["methods"].values())
    return f"every loss is the base's to the last digit of the record, after {back} of {runs} runs"


def _says(s):
    found, row = change(s, "lora", "says"), s["methods"]["lora"]
    verdict, p = as_good(found, SAYS)
    before, asked = s["base"], len(_general.QUESTIONS)
    return Finding(
        f"of {asked} open questions the base answers {fmean(before['items']['says']):.2f} strictly "
        f"right, with LoRA's adapter on {share(s, 'lora', 'says'):.2f}: {shown(found)}; "
        f"{_others(s, 'says')}; empty answers: base {before['empty']} of {asked}, LoRA "
        f"{row['empty']} of {asked * len(row['seeds'])}",
        verdict,
        p,
    )


_INTERVAL = "the wider of two 95 % intervals of the change: t over the seeds, t over the {}"
_LOST = "an interval that reaches below the margin and lies below 0"
_FEW = (
    "other models and tasks; other rates, for one seed chose these; the interval over the seeds "
    "leaves out the choice of items, the one over the items that of the seeds, and three seeds are "
    "few; "
)

QUESTIONS = (
    Question(
        "L7",
        "The model keeps its general knowledge while LoRA's adapter is on: SmolLM2, by the "
        "likeliest of four answers",
        "the base, the questions, their answers, each of one token",
        f"as good but for {KNOWS} of the questions, two standard errors of the base's share, by "
        f"{_INTERVAL.format('questions')}; cannot tell if the base is not above chance by three "
        "standard errors",
        _LOST,
        f"{_FEW}knowledge of another kind than opposites and the places of cities; whether the "
        "model would say the answer",
        _knows,
    ),
    Question(
        "L7",
        "… by its loss on plain text",
        "the text, window by window",
        f"as good but for {TEXT} nats per token, by {_INTERVAL.format('windows')}",
        "a rise whose interval reaches above the margin and lies above 0",
        f"{_FEW}other texts; whether it is knowledge that is lost, or the form of a text",
        _text_kept,
    ),
    Question(
        "L7",
        "… and does not stop answering open questions",
        "the questions, the chat template, greedy answers",
        f"as good but for {SAYS}, two questions of twenty, by {_INTERVAL.format('questions')}; "
        "right is an answer that names the right one and no other candidate",
        _LOST,
        f"{_FEW}what the model knows where it says nothing; a right answer whose explanation names "
        "another candidate counts as wrong",
        _says,
    ),
)


# ------------------------------------------------------------------------------- tables, the figure


def table(records: list[Record]) -> str:
    """One line a technique; what it knows by kind; a few answers."""
    s = summary(records)
    first, asked = s["base"], len(_general.QUESTIONS)
    known, said = f"{first['knows']['share']:.3f}", f"{fmean(first['items']['says']):.2f}"
    before = [
        "before", "", "", "", f"{first['test']['exact_match']:.3f}", "", known, "",
        f"{fmean(first['text']):.2f}", said, f"{first['empty']} of {asked}",
    ]  # fmt: skip
    body = [
        [
            METHODS[m].title, row["rank"], f"{row['trainable']:,}", f"{row['lr']:g}",
            f"{row['exact_match']:.3f}", "" if m == "lora" else shown(gap(s, m)),
            f"{share(s, m, 'knows'):.3f}", shown(change(s, m, "knows")),
            f"{share(s, m, 'text'):.2f}", f"{share(s, m, 'says'):.2f}",
            f"{row['empty']} of {asked * len(row['seeds'])}",
        ]
        for m, row in s["methods"].items()
    ]  # fmt: skip
    head = ["SmolLM2, 60 steps", "rank", "numbers", "rate", "category right", "less LoRA's"]
    head += ["right of four", "less the base's", "loss on text", "answered right", "empty answers"]
    off = f"With the adapter off {_came_back(s)}."
    return "\n\n".join([markdown(head, [before, *body]), off, _by_kind(s), _said(s)])


def _by_kind(s):
    """The share of the questions of each kind whose right answer is the likeliest."""
    kinds = np.array([choice.kind for choice in _general.choices()])

    def shares(every: Iterable[Items]):
        """Of each kind, in the mean over the models."""
        known = [each for each in every if each is not None]
        hits = np.mean(known, axis=0) if known else np.full(len(kinds), np.nan)
        return [f"{hits[kinds == kind].mean():.2f}" for kind in dict.fromkeys(kinds)]

    rows = [["before", *shares([s["base"]["items"]["knows"]])]]
    rows += [[METHODS[m].title, *shares(row["items"]["knows"])] for m, row in s["methods"].items()]
    asked = [f"{kind} ({(kinds == kind).sum()})" for kind in dict.fromkeys(kinds)]
    return markdown(["right of four, by kind", *asked], rows)


def _said(s):
    """A few answers, before and after."""
    both = zip(_general.QUESTIONS, s["said"]["before"], s["said"]["after"], strict=True)
    rows = [[question, _short(before), _short(after)] for (question, *_), before, after in both]
    return markdown(["asked", "before", "with LoRA's adapter on (seed 0)"], rows[:5])


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/") or "(empty)"
    return text if len(text) <= 60 else f"{text[:57]}…"


def figure(records: list[Record], path: Path) -> None:
    """What is learned against what is kept, by each of the three measures."""
    s = summary(records)
    labels = {
        "knows": "right of four answers",
        "text": "loss on plain text (nats per token)",
        "says": "open questions answered right",
    }
    with common.panels(path, 13, 4.8, 1, 3) as panels:
        for axes, (name, label) in zip(panels, labels.items(), strict=True):
            for method, (colour, marker) in plots.looks(s["methods"]).items():
                x, y = s["methods"][method]["exact_match"], share(s, method, name)
                look = dict(color=colour, marker=marker, ls="none", capsize=3, ms=10)
                if y.mean is not None:
                    axes.errorbar(
                        x.mean, y.mean, xerr=x.sd, yerr=y.sd, label=METHODS[method].title, **look
                    )
            before = fmean(s["base"]["items"][name])
            axes.axhline(before, color=plots.INK, ls=":", lw=1.4, label="before")
            axes.set(xlabel="category of held-out nouns right", ylabel=label)
            axes.locator_params(axis="x", nbins=5)
        panels[0].axhline(CHANCE, color=plots.INK, ls="--", lw=1.4, label="chance")
        for axes in (panels[0], panels[2]):
            axes.set_ylim(-0.03, 1.03)
        panels[1].set_title("SmolLM2 after 60 steps (bars: sd of 3 seeds)", fontsize=12)
        legend = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(*legend, loc="outside lower center", ncols=7)


TITLE = "SmolLM2: what 60 steps teach it, what it still knows, and what it still says"
STUDY = Study("language_model", TITLE, cells, quick, run, summary, table, figure, QUESTIONS)
