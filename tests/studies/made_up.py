"""Records that no run made: whole ones of every study, with results of ours, so that each rule of a
verdict can be shown a case that holds, one that does not, and one that cannot be told.
"""

import hashlib
import json
import math

import numpy as np

import studies
from studies import _general, _words, forgetting, four_bits, language_model, lora, lora_fa, vera
from studies._question import VERDICTS

VALIDATION, WORDS = 600, 611  # words that validate, and test words of the past tense


def noise(cell, size, what=""):
    """A number in ±size that depends on the cell and its seed alone; the mean of seeds 0 to 4 is 0,
    so that no verdict hangs on the luck of the draw.
    """
    fixed = {k: v for k, v in cell.items() if k not in ("seed", "lr")}
    key = (json.dumps(fixed, sort_keys=True) + what).encode()
    drawn = int(hashlib.md5(key, usedforsecurity=False).hexdigest()[:8], 16)
    order = np.random.default_rng(drawn).permutation([-1.0, -0.5, 0.0, 0.5, 1.0])
    return size * float(order[cell["seed"] % 5])


def judged(score, words, loss):
    """The scores of so many words, of which the first are right."""
    hits = spread(min(max(score, 0.0), 1.0), words)
    scores = {"exact_match": sum(hits) / words, "loss": loss}
    return {**scores, "right": _words.bits(hits), "words": words}


def validated(score, loss=None):
    """What chooses rates."""
    return judged(score, VALIDATION, 1.2 - score if loss is None else loss)


def word_result(score, loss=None, kept=0.5, words=WORDS):
    """What `_words.word_run` gives, for an exact match of both parts of the words."""
    loss = 1.2 - min(max(score, 0.0), 1.0) if loss is None else loss
    chance = {_words.CHOICE: _words.CHANCE}
    return {
        "trainable": 1000,
        "validation": validated(score, loss),
        "test": judged(score, words, loss),
        "old": {
            name: chance.get(name, 0.0) + kept * (known - chance.get(name, 0.0))
            for name, known in SKILLS.items()
        },
        "curve": [[step, loss * (1 + 15 / step)] for step in range(15, 151, 15)],
    }


SKILLS = {"third": 0.9, "ing": 0.8, "phonemes": 0.5, _words.CHOICE: 0.75}


def peak(cell, middle):
    """How much a rate that is off the middle costs: 0 there, 0.1 for each factor of two."""
    return 0.1 * abs(math.log2(cell["lr"] / middle))


def is_told(verdict):
    """Does each part of a verdict say one of those that there are?"""
    known = *VERDICTS, vera.TESTED
    return all(any(one in part for one in known) for part in verdict.split("; "))


def made(study, answer):
    """A whole record of the study, cells that depend on others and all: answer(cell) -> result."""

    def run(cells, part):
        return [
            {"cell": cell, "result": answer(dict(cell)), "seconds": 1.0, "made_by": {}}
            for cell in cells
        ]

    return studies.completed(study, run)


def words_answer(score, sizes=None, size=0.004):
    """The answers of scratch, cost, comparison, bases: score(cell) is the exact match at the best
    of the rates, which is the middle of the first grid.
    """
    middles = {}

    def answer(cell):
        kind = cell.pop("kind", "learn")
        if kind == "base":
            return {"old": SKILLS, "past": 0.0, "test": 0.0}
        if kind == "bytes":
            return sizes(cell) if sizes else some_sizes(cell)
        if kind == "seconds":
            return {"arms_seconds": [[0.01, 0.011, 0.0105]] * len(cell["arms"])}
        key = json.dumps({k: v for k, v in cell.items() if k not in ("lr", "seed")}, sort_keys=True)
        middle = middles.setdefault(key, 2 * cell["lr"])  # the first that is seen is half of it
        cost = peak(cell, middle) if cell.get("train_size", 300) == 300 else 0.0
        value = score(cell) - cost + noise({"seed": cell["seed"]}, size, key)
        return word_result(value)

    return answer


def some_sizes(cell):
    """Bytes that grow with the rank."""
    rank = cell.get("rank", 200)
    parts = dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 1000 + rank)
    return {
        "trainable": 10 * rank,
        "adapter": 40 * rank,
        **parts,
        "total": 4 * 1000 + 4 * rank,
        "peak": 5000 + rank,
    }


# ----------------------------------------------------------- the studies with results of their own


def frontier_answer(more=lambda cell: 0.0, top=lambda cell: 0.91, size=0.004):
    """forgetting: an arm learns most, `top`, two octaves above its lowest first rate, and keeps 0.1
    less for each octave; `more` is what it keeps beyond 0.5 where it learns most.
    """
    lowest = {forgetting.label(cell): rate for cell, rate in forgetting.ARMS}
    middles = {forgetting.label(cell): rate for cell, rate in forgetting.OTHERS}

    def answer(cell):
        if cell["kind"] == "base":
            return {"old": SKILLS}
        name = forgetting.label(cell)
        best = 4 * lowest[name] if name in lowest else middles[name]
        x = math.log2(cell["lr"] / best)  # octaves
        shift = noise({"seed": cell["seed"]}, size, f"{name} {cell['base']}")
        return word_result(top(cell) - 0.02 * x * x, kept=0.5 - 0.1 * x + more(cell) + shift)

    return answer


def delta_answer(
    score=lambda cell: 0.8, train=lambda cell: 0.01, gap=lambda cell: 0.17, size=0.004
):
    """delta_lora: train, gap: training loss in the end, held-out less training loss by training
    loss of the moment.
    """

    def answer(cell):
        kind = cell.pop("kind")
        if kind == "same":
            late = cell["start"] > 0
            return {"difference": 0.1 if late else 1e-12, "ranks": [8 if late else 4] * 8}
        value = score(cell) - peak(cell, {"grid": 0.01}.get(kind, 0.005))
        value += noise({"seed": cell["seed"]}, size, json.dumps([cell["method"], cell["start"]]))
        common = {"validation": validated(value)}
        if kind == "shift":
            both = {"test_loss": 1 - value, "exact_match": value}
            both = {f"{when}_{name}": v for when in ("old", "new") for name, v in both.items()}
            return {"curve": [[10, 1.0, 1.0]], **common, "adapting": 1 - value, **both}
        end = train(cell)
        losses = np.geomspace(1.0, end, 30)
        jitter = noise({"seed": cell["seed"]}, size, cell["method"])
        curve = [
            [5 * k, loss, gap(cell) + loss + 0.03 * math.log(loss) ** 2 + jitter]
            for k, loss in enumerate(losses.tolist(), 1)
        ]
        found = {"train_loss": end, "test_loss": curve[-1][2], "exact_match": value, "curve": curve}
        return {**common, **found, "gap": curve[-1][2] - end}

    return answer


def vera_answer(same=True):
    def answer(cell):
        if cell.pop("kind") == "train":
            middle = vera.OWN_MIDDLE.get(cell["variant"], vera.MIDDLE)
            found = word_result(0.7 - peak(cell, middle))
            scores = {"test_loss": found["test"]["loss"], **found["test"], "train_loss": 0.1}
            return {"trainable": 100, "validation": found["validation"], **scores}
        more = {"bytes_with_projections": 9000} if cell["method"] == "vera" else {}
        there = {"same_arrays": same, "logits_apart": 1e-6, "same_answers": True}
        elsewhere = dict.fromkeys(vera.ELSEWHERE, there)
        return {"bytes": 1000, **more, "trainable": 100, "arrays": 1, "elsewhere": elsewhere}

    return answer


def lora_answer(cut=lambda rank: 0.9, left=1e-9, size=0.003):
    def answer(cell):
        kind = cell.pop("kind")
        if kind == "teacher":
            error = left if cell["rank"] >= cell["known"] else 0.5
            return {"error": error, "best": 0.0}
        if kind == "cut":
            whole = 0.9 + noise(cell, 0.003)
            ranks = {str(r): cut(r) + noise(cell, size, str(r)) for r in (0, *lora.CUTS)}
            return {"whole": whole, "cut": ranks}
        if kind == "pair":
            table = [[0.5] * len(lora.PLACES)] * 8
            names = ("A", "change") if cell["steps"] else ("A",)
            return {name: {"q": table, "v": table} for name in names}
        middle = (
            lora.MIDDLES[cell["rank"]]
            if cell["targets"] == "q v" and cell["rank"] in lora.MIDDLES
            else lora.BUDGET_MIDDLE
        )
        found = word_result(0.8 - peak(cell, middle))
        numbers = {"change": 1.0, "weight": 1.0, "weight_own": 1.0, "factor": 2.0}
        amplified = dict.fromkeys(cell["targets"].split(), numbers)
        scores = {"test_loss": found["test"]["loss"], "exact_match": found["test"]["exact_match"]}
        return {
            "trainable": 100,
            "amplification": amplified,
            "validation": found["validation"],
            **scores,
        }

    return answer


def fa_answer(corrected=0.0, kept=0.8, share=0.98, size=0.004, turns=0.01):
    def answer(cell):
        kind = cell.pop("kind")
        if kind == "linear":
            names = ("sgd_plain", "adam_plain", "sgd_corrected", "adam_corrected")
            return {"condition": 2.0, **dict.fromkeys(names, 5)}
        if kind == "memory":
            ours = cell["method"] == "lora_fa"
            parts = dict.fromkeys(("weights", "gradients", "optimizer"), 100)
            return {**parts, "activations": 1000 * (kept if ours else 1), "peak": 2000}
        if kind == "scalar":
            return {"losses_differ_by_share": 1e-6, "from": 4.0, "to": 1.0}
        if kind == "sgd":
            return {"validation": 1.0, "test": 1.0}
        if kind == "seconds":
            return {
                "lora_fa_seconds": [share * t for t in (1.0, 1 + turns, 1 - turns)],
                "lora_seconds": [1.0, 1.0, 1.0],
            }
        more = corrected if cell["options"]["corrected"] else 0.0
        plain, improved = lora_fa.MIDDLES[cell["targets"], cell["rank"]]
        middle = improved if cell["options"]["corrected"] else plain
        return word_result(0.7 + more - peak(cell, middle) + noise(cell, size))

    return answer


def plus_answer(
    saved=lambda cell: 0.0, log_ratio=-1.0, exponent=-0.5, share=1.0, spread=0.2, size=1.0
):
    def answer(cell):
        kind = cell.pop("kind")
        if kind == "toy":
            steps = 5 + math.log2(cell["width"]) / 4
            rate = cell["width"] ** exponent
            return {"rate": rate, "fastest_rates": [rate], "steps": steps, "steps_apart": 5.0}
        if kind == "layer":
            rates = np.log10(cell["rates"])
            wanted = log_ratio + noise({"seed": cell["seed"]}, spread, str(cell["width"]))
            far = abs(rates[None, :] - rates[:, None] - wanted)
            return {"steps": (20 + 40 * far).astype(int).tolist()}
        if kind == "words":
            slow = 30 * (1 - saved(cell)) * (1 + peak(cell, 0.01 / math.sqrt(cell["ratio"])))
            by_chance = noise({"seed": cell["seed"]}, size, str(cell["ratio"]))
            both = (slow, slow + by_chance)  # validation words, test words
            curve = [[k, *(0.3 * math.exp((s - k) / 20) for s in both)] for k in range(4, 81, 4)]
            return {"curve": curve}
        if kind == "same":
            return {"losses_differ_by": 0.0, "arrays_differ_by": 0.0, "last_loss": 1.0}
        return {
            "lora_plus_seconds": [share * t for t in (1.0, 1.001, 0.999)],
            "lora_seconds": [1.0] * 3,
        }

    return answer


def four_answer(learnt=0.0, rise=0.0, step=1.0, faster=3.0, smaller=6.3, size=0.004):
    """learnt, rise: of NF4 less float32's; step, faster: over float32's."""

    def answer(cell):
        kind, nf4 = cell.pop("kind"), cell.get("weights") == "nf4"
        if kind == "seconds":
            by_chance = [1 + noise({"seed": turn}, size) for turn in range(5)]
            ones = dict.fromkeys(four_bits.FORMS, [1.0] * 5)
            taken = {**ones, "nf4": [step * c for c in by_chance]}
            tokens = {form: {"float32": ones["nf4"], "int8": ones["nf4"]} for form in ones}
            tokens["nf4"]["int8"] = [c / faster for c in by_chance]
            return {
                "token_seconds": tokens,
                "step_seconds": dict.fromkeys(four_bits.LEARNERS, taken),
            }
        score = 0.8 + learnt * nf4 + (noise(cell, size) if nf4 else 0.0)
        text = [4.0 + 0.1 * i + nf4 * (rise + size * (-1) ** i) for i in range(6)]
        if kind == "learn":
            return {"trainable": 1000, "exact_match": score, "text": text}
        whole = 600 / smaller if nf4 else 600
        held = {"linears": whole / 2, "embedding": whole / 2, "all": whole}
        return {"exact_match": 0.1, "text": text, "bytes": held, "relative_error": 0.09 * nf4}

    return lambda cell: answer(cell if cell["kind"] != "base" else {**cell, "seed": 0})


def general_answer(knows=0.0, text=0.0, says=0.0, size=0.004, base=0.8):
    """knows, text, says: what becomes of the base's numbers with an adapter on."""

    def answer(cell):
        learnt = cell["kind"] == "learn"

        def moved(before, change, what):
            return before + learnt * (change + (noise(cell, size, what) if learnt else 0.0))

        hits = spread(moved(base, knows, "knows"), language_model.CHOICES)
        said = spread(moved(0.6, says, "says"), len(_general.QUESTIONS))
        losses = [4 + 0.1 * k for k in range(6)]
        scored = {"exact_match": moved(0.1, 0.7, "test"), "loss": 0.2}
        after = {"trainable": 1000, "text_off": losses} if learnt else {}
        return {
            "validation": scored,
            "test": scored,
            "knows": {"share": sum(hits) / len(hits), "right": _words.bits(hits), "margin": 4.0},
            "text": [moved(loss, text, "text") for loss in losses],
            "answers": [
                wanted[0] if hit else ""
                for hit, (*_, wanted) in zip(said, _general.QUESTIONS, strict=True)
            ],
            **after,
        }

    return answer


def spread(share, count):
    """Which of so many are right: the first ones."""
    return [k < round(share * count) for k in range(count)]


USUAL = {
    "scratch": words_answer(lambda cell: 0.8),
    "forgetting": frontier_answer(),
    "cost": words_answer(lambda cell: 0.8),
    "comparison": words_answer(lambda cell: 0.8),
    "bases": words_answer(lambda cell: 0.8),
    "delta_lora": delta_answer(),
    "vera": vera_answer(),
    "lora": lora_answer(),
    "lora_fa": fa_answer(),
    "lora_plus": plus_answer(),
    "four_bits": four_answer(),
    "language_model": general_answer(),
}
