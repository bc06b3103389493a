"""SmolLM2-135M in four bits: does a frozen base in Q4_1 or NF4 learn ten categories of nouns as
one in float32 does, and what does it cost?

Three forms of one base. *Q4_1*: the linears as the file has them (weights="stored"). *NF4*: they
are quantised again, from Q4_1, as weights="nf4" does. *float32*: the same file, dequantised. So
Q4_1 and float32 hold the same numbers and differ at most in the order of sums; NF4 holds others,
and their error comes on top of Q4_1's. This is not NF4 made of the weights that were trained, which
the package does not have. The embedding, which is the head too, has the same numbers in all three:
the file's own eight bits, kept so beside Q4_1 and NF4 (embeddings="int8"), dequantised beside
float32.

LoRA of rank 8 and VeRA of rank 256 on q and v learn the nouns in 60 steps, three seeds. Equal for
the three forms: words, order, initial adapter, settings, and the rate, which `minilora tune` chose
on the float32 base for each technique (data/results/tuning.json). A form that prefers another rate
is at a disadvantage here. No held-out noun chooses anything.

Before and after, with the adapter on: the share of 400 held-out nouns whose category is the next
token; the loss on a plain text (studies/_text.py). Bytes are those of the base's arrays. Times are
processor seconds of one thread, all forms in turns; they want a quiet machine. (Two turns by the
clock on the wall, before, were of no use: other work made a step 0.6 to 1.5 times as long.)

Known before these runs: the loss of the three bases on this text, 3.967, 3.967 and 4.161 nats (and
on a README 3.08 and 3.18 for Q4_1 and NF4); that NF4 with 8-bit embeddings is 6.33 times smaller
than float32 and decoded 3.1 times as fast, Q4_1 2.7 times; LoRA's step 0.88 to 1.06 times float32's
time. With float32 the nouns are learnt to 0.825 ± 0.014 by LoRA, 0.838 ± 0.013 by VeRA
(language_model). Of scores after training on four bits nothing.

It wants SmolLM2 (make smollm2) and is not among `all`.
"""

import functools
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from minilora.bench.turns import in_turn
from minilora.formats.models import SMOLLM2, load_model
from minilora.lab import rates
from minilora.lab.cells import Cell, Record
from minilora.lab.runs import fit, load_words, make_batches, trainable_numbers
from minilora.lab.runs import run as train_run
from minilora.lab.settings import STARTS, Settings
from minilora.lab.statistics import Estimate, estimate, rounded
from minilora.lab.table import markdown
from minilora.llama.model import EMBED, Llama
from minilora.methods import METHODS
from minilora.support import plots
from minilora.text import nouns
from minilora.tuning.train import Diverged

from . import Study, _text, common
from ._question import MARGIN, Finding, Question, shown
from ._verdicts import FAILS, HOLDS, as_good, difference, higher, times

SETTINGS = STARTS[nouns.NAME]
FORMS = {"float32": "float32", "stored": "Q4_1, as stored", "nf4": "NF4, made of Q4_1"}
HEADS = ("float32", "int8")  # forms of the embedding, which is the head too
LEARNERS = ("lora", "vera")
SEEDS = (0, 1, 2)
KEPT = 0.05  # nats per token: the most that a base may lose and still count as kept
LONGER = 0.05  # of a step's time
SMALLER, FASTER = 6, 2.5


def cells() -> list[Cell]:
    """The three bases, each technique on each of them, and the times of all."""
    chosen = rates.chosen_for(SETTINGS.task, rates.read())
    return [
        *({"kind": "base", "weights": form} for form in FORMS),
        *(
            {"kind": "learn", "weights": form, "method": method, "seed": seed,
             "rank": chosen[method]["rank"], "lr": chosen[method]["lr"], "steps": SETTINGS.steps}
            for method in LEARNERS for form in FORMS for seed in SEEDS
        ),
        {"kind": "seconds", "turns": 8, "steps": 6, "tokens": 24,
         "ranks": {method: chosen[method]["rank"] for method in LEARNERS}},
    ]  # fmt: skip


def quick() -> list[Cell]:
    """Two steps on two forms."""
    short = {"kind": "learn", "method": "lora", "rank": 2, "lr": 0.001, "steps": 2, "seed": 0}
    return [{**short, "weights": form} for form in ("stored", "nf4")]


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """A base alone, a training run, or the times."""
    return {"base": base, "learn": learn, "seconds": seconds}[kind](**cell)


def model_of(weights: str, head: str = "") -> Llama:
    """SmolLM2 in this form; its embedding in float32 beside float32, else in eight bits."""
    return _read(weights, head or HEADS[weights != "float32"])


@functools.lru_cache(maxsize=len(FORMS) * len(HEADS))
def _read(weights, head):
    return load_model(SMOLLM2, weights, head)


def base(weights: str) -> dict[str, Any]:
    """What a form knows, its bytes, and how far its linears are from the file's numbers."""
    model, exact = model_of(weights), model_of("float32")
    nbytes = {name: a.nbytes for name, a in model.params.items()}
    linears = [f"{layer}.weight" for layer in model.config.linears()]
    off = size = 0.0
    for name in linears:
        theirs = exact.params[name]
        off += float(np.square(np.asarray(model.params[name]) - theirs).sum(dtype=float))
        size += float(np.square(theirs).sum(dtype=float))
    held = {"linears": sum(nbytes[name] for name in linears), "embedding": nbytes[EMBED]}
    return {
        **judged(model),
        "bytes": {**held, "all": sum(nbytes.values())},
        "relative_error": rounded((off / size) ** 0.5),
    }


def learn(weights, method, seed, rank, lr, steps) -> dict[str, Any]:
    """One run: nouns and text, with the adapter on."""
    settings = SETTINGS.changed(steps=steps, ranks={method: rank})
    try:
        tuned, _ = train_run(model_of(weights), load_words(settings), settings, method, lr, seed)
    except Diverged as error:
        return {"diverged": error.step, "exact_match": 0.0, "text": None}
    return {"trainable": trainable_numbers(tuned), **judged(tuned)}


def judged(model: Any) -> dict[str, Any]:
    """The share of test nouns whose category is the next token; the loss on each window of text."""
    score = nouns.exact_match(model, load_words(SETTINGS).test)
    return {"exact_match": rounded(score), "text": _text.losses(model)}


def seconds(turns: int, steps: int, tokens: int, ranks: dict[str, int]) -> dict[str, Any]:
    """Processor seconds of a token and of a step, in each of several turns; without the first turn.

    A token: the median, after a prompt of 16. A step: the mean on the task's first batches.
    """
    settings = SETTINGS.changed(steps=steps, ranks=ranks)
    heads, arms = itertools.product(FORMS, HEADS), itertools.product(ranks, FORMS)
    token = in_turn(heads, turns, lambda kind: token_seconds(model_of(*kind), tokens))
    step = in_turn(arms, turns, lambda arm: step_seconds(*arm, settings))
    return {
        "token_seconds": {form: {head: token[form, head][1:] for head in HEADS} for form in FORMS},
        "step_seconds": {m: {form: step[m, form][1:] for form in FORMS} for m in ranks},
    }


def token_seconds(model: Llama, tokens: int) -> float:
    """The median of a decoded token."""
    prompt, times = np.random.default_rng(0).integers(0, 40_000, (1, 16)), []
    model.generate(prompt, tokens, on_token=lambda _: times.append(time.process_time()))
    return rounded(median(np.diff(times)))


def step_seconds(method: str, weights: str, settings: Settings) -> float:
    """The mean step on the task's first batches."""
    model = model_of(weights)
    batches = make_batches(model, load_words(settings).train, settings, 0)
    tuned = settings.attach(model, method, 0)
    start = time.process_time()
    fit(tuned, batches, settings, 1e-3)
    return rounded((time.process_time() - start) / settings.steps)


# ---------------------------------------------------------------------------------------- summary


def summary(records: list[Record]) -> dict[str, Any]:
    """{"base": form -> its result, "learn": method -> form -> scores, "speed": …}."""
    kinds = common.by_kind(records)
    learnt: dict[str, dict[str, Any]] = {method: {} for method in LEARNERS}
    for record in kinds["learn"]:
        learnt[record["cell"]["method"]].setdefault(record["cell"]["weights"], []).append(record)
    return {
        "base": {r["cell"]["weights"]: r["result"] for r in kinds["base"]},
        "learn": {m: {f: _learnt(runs) for f, runs in of.items()} for m, of in learnt.items()},
        "speed": _speeds(kinds["seconds"][0]["result"]),
    }


def _learnt(runs):
    """Of the seeds of one technique on one form."""
    text = [None if r["result"]["text"] is None else fmean(r["result"]["text"]) for r in runs]
    return {
        "lr": runs[0]["cell"]["lr"],
        "exact_match": common.named(runs, "exact_match"),
        "text": estimate(text),
        "seeds": [r["result"]["exact_match"] for r in runs],
        "texts": text,
    }


def _speeds(result):
    """Tokens a second, seconds of 60 steps, and each turn's ratio to float32."""
    steps = result["step_seconds"]
    tokens = {
        form: {head: [1 / t for t in taken] for head, taken in of.items()}
        for form, of in result["token_seconds"].items()
    }
    usual = tokens["float32"]["float32"]
    return {
        "tokens": {f: {h: estimate(v) for h, v in of.items()} for f, of in tokens.items()},
        "faster": {form: ratios(of["int8"], usual) for form, of in tokens.items()},
        "training": {
            m: {f: times(SETTINGS.steps, estimate(v)) for f, v in of.items()}
            for m, of in steps.items()
        },
        "longer": {
            form: ratios(
                [sum(both) for both in zip(*(steps[m][form] for m in LEARNERS), strict=True)],
                [sum(both) for both in zip(*(steps[m]["float32"] for m in LEARNERS), strict=True)],
            )
            for form in FORMS
        },
    }


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> Estimate:
    """The estimate of ours / theirs, turn by turn."""
    return estimate(a / b for a, b in zip(ours, theirs, strict=True))


def gap(s: dict[str, Any], form: str, *methods: str, what: str = "seeds") -> Estimate:
    """A form's scores (or losses) less float32's: seed by seed, of all these techniques."""
    ours, theirs = ([v for m in methods for v in s["learn"][m][f][what]] for f in (form, "float32"))
    return difference(ours, theirs)


def text_gap(s: dict[str, Any], form: str) -> Estimate:
    """The loss of a form's base on the text less float32's, window by window."""
    return difference(s["base"][form]["text"], s["base"]["float32"]["text"])


# ---------------------------------------------------------------------------------------- verdicts


def _learns(form, s):
    verdict, p = as_good(both := gap(s, form, *LEARNERS), MARGIN)
    each = "; ".join(f"{METHODS[m].title} {shown(gap(s, form, m))}" for m in LEARNERS)
    return Finding(f"exact match less float32's: {shown(both)}; {each}", verdict, p)


def _keeps(s):
    rise = text_gap(s, "nf4")
    verdict, p = as_good(times(-1, rise), KEPT)
    error = 100 * s["base"]["nf4"]["relative_error"]
    return Finding(
        f"NF4's loss less float32's, window by window: {shown(rise, unit='nats per token')}; its "
        f"linears differ from Q4_1's by {error:.1f} % (root mean square); Q4_1 as stored less "
        f"float32: {shown(text_gap(s, 'stored'))}",
        verdict,
        p,
    )


def _smaller(s):
    whole = {form: result["bytes"]["all"] for form, result in s["base"].items()}
    share = {form: whole["float32"] / n for form, n in whole.items()}
    return Finding(
        f"{share['nf4']:.2f} times smaller in NF4, {share['stored']:.2f} times in Q4_1, counted",
        HOLDS if share["nf4"] >= SMALLER else FAILS,
    )


def _no_longer(s):
    nf4, stored = (s["speed"]["longer"][form] for form in ("nf4", "stored"))
    verdict, p = as_good(times(-1, less(nf4, 1)), LONGER)
    said = f"LoRA's and VeRA's steps over float32's: {shown(nf4, '.3f')}"
    return Finding(f"{said}; Q4_1 {shown(stored, '.3f')}", verdict, p)


def _faster(form, s):
    found = s["speed"]["faster"][form]
    verdict, p = higher(less(found, FASTER), 0)
    alone = s["speed"]["faster"]["float32"]
    return Finding(
        f"tokens a second over float32's: {shown(found, '.2f')}; float32 with 8-bit embeddings "
        f"{shown(alone, '.2f')}",
        verdict,
        p,
    )


def less(e: Estimate, number: float) -> Estimate:
    """The estimate less a number."""
    return e if e.mean is None else Estimate(e.mean - number, e.sd, e.n)


_SAME = "words, order, initial adapter, settings and rate, which was chosen on float32; six pairs"
_LEARNT = f"as good but for {MARGIN} of exact match: the interval of the six differences"
_WORSE = "an interval that reaches below the margin and lies below 0"
_FEW = (
    "two techniques share the words of a seed, so six pairs are less than six; the margin was set "
    "for 611 words, and on 400 nouns two standard errors are 0.038; another model; a "
    "base whose four bits are made of the weights that were trained; a rate of the form's own"
)
_TIMED = "one thread, all forms in turns on the same batches and prompts"
_HERE = "other processors and several threads; batches whose rows are many more"

QUESTIONS = (
    Question(
        "Q1",
        "A frozen base in NF4 learns the task as well as one in float32",
        _SAME,
        _LEARNT,
        _WORSE,
        _FEW,
        functools.partial(_learns, "nf4"),
    ),
    Question(
        "Q1",
        "A frozen base in the file's own Q4_1 learns the task as well as one in float32",
        f"{_SAME}; the base's numbers too, so at most the order of sums differs",
        _LEARNT,
        _WORSE,
        "two techniques share the words of a seed; nothing of what Q4_1 itself lost before",
        functools.partial(_learns, "stored"),
    ),
    Question(
        "Q2",
        "NF4 made of Q4_1 keeps what the base knew: its loss on plain text",
        "the text, window by window, before any training; the embedding",
        f"as good but for {KEPT} nats per token",
        "a rise whose interval reaches above the margin and lies above 0",
        "NF4 made of the weights that were trained; whether the model has read the text before",
        _keeps,
    ),
    Question(
        "Q3",
        "The base in NF4 takes at most a sixth of float32's bytes, with embeddings in 8 bits",
        "the model; all arrays of the base",
        f"counted: holds at {SMALLER} times smaller",
        "fewer times",
        "activations, gradients and moments, which stay as they are",
        _smaller,
    ),
    Question(
        "Q4",
        "A step of training on NF4 takes no longer than on float32",
        _TIMED,
        f"as good but for {LONGER:.0%} of float32's time",
        "an interval that reaches above the margin and lies above float32's time",
        _HERE,
        _no_longer,
    ),
    *(
        Question(
            "Q5",
            f"Decoding from {name} with embeddings in 8 bits is at least {FASTER} times as fast as "
            "float32",
            f"{_TIMED.replace('batches and prompts', 'prompt')}; one row",
            f"better: the interval of the ratio lies above {FASTER}; does not hold: below it",
            f"an interval below {FASTER}",
            "other processors and several threads; long prompts, which are computed in one pass",
            functools.partial(_faster, form),
        )
        for form, name in (("nf4", "NF4"), ("stored", "Q4_1"))
    ),
)


# ------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """A line for each base, then one for each technique on it."""
    s = summary(records)
    body = []
    for form, name in FORMS.items():
        before, speed = s["base"][form], s["speed"]
        tokens = [f"{speed['tokens'][form][head]:.1f}" for head in HEADS]
        body.append(
            [name, f"{before['bytes']['all'] / 1e6:.1f}", f"{before['exact_match']:.3f}", "",
             f"{fmean(before['text']):.3f}", "", *tokens]
        )  # fmt: skip
        for method in LEARNERS:
            row, taken = s["learn"][method][form], speed["training"][method][form]
            less_float32 = "" if form == "float32" else shown(gap(s, form, method))
            body.append(
                [f"… with {METHODS[method].title}", "", f"{row['exact_match']:.3f}", less_float32,
                 f"{row['text']:.3f}", f"{taken:.1f}", "", ""]
            )  # fmt: skip
    head = ["SmolLM2, 60 steps", "MB", "category right", "minus float32's", "loss on text"]
    return markdown([*head, "seconds", "tokens/s", "tokens/s, 8-bit embedding"], body)


def figure(records: list[Record], path: Path) -> None:
    """What each form learns, and what its loss on plain text becomes."""
    s = summary(records)
    with common.panels(path, 10, 4.6, 1, 2) as (left, right):
        for place, (method, look) in enumerate(plots.looks(LEARNERS).items()):
            rows, x = s["learn"][method], [i + 0.12 * (2 * place - 1) for i in range(len(FORMS))]
            style = {"ls": "none", "capsize": 4, "ms": 9, "label": METHODS[method].title}
            for axes, name in ((left, "exact_match"), (right, "text")):
                common.errorbars(axes, x, [rows[form][name] for form in FORMS], look, **style)
        before = [fmean(s["base"][form]["text"]) for form in FORMS]
        right.plot(range(len(FORMS)), before, "_", color=plots.INK, ms=40, label="before")
        for axes in (left, right):
            axes.set_xticks(range(len(FORMS)), ["float32", "Q4_1", "NF4"])
            axes.set_xlim(-0.5, len(FORMS) - 0.5)
        left.set(ylabel="category of held-out nouns right")
        right.set(ylabel="loss on a plain text (nats per token)")
        left.set_title("What it learns (bars: sd of 3 seeds)", fontsize=12)
        right.set_title("What becomes of the rest", fontsize=12)
        right.legend()


TITLE = "SmolLM2 in four bits: does it learn as well, and what does it cost?"
STUDY = Study("four_bits", TITLE, cells, quick, run, summary, table, figure, QUESTIONS)
