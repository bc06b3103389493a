"""Five adapters on one base, switched a thousand times: does anything change?

The claim: LoRA's adapters "swap freely without retraining". Hu et al. (arXiv:2106.09685, section
4.2) recover W by subtracting B A and adding another B'A'. Here an adapter stays beside the base, so
that switching touches no array; the subtraction is measured beside it, as the library does it
(added in float64, rounded once) and as it is done in place (float32). The five adapters are those
in data/adapters, one a task of the word lab; a seed is an order of switching.
"""

import copy
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from minilora.formats.models import load_model
from minilora.lab.cells import Cell, Record, grid
from minilora.lab.statistics import estimate, rounded
from minilora.lab.table import markdown
from minilora.lab.word_adapters import NAMES, open_library
from minilora.llama.model import Llama
from minilora.support.files import data_folder
from minilora.text import tasks
from minilora.text.score import exact_match, of_one_length
from minilora.tuning.adapters import Tuned, merge, unmerge
from minilora.tuning.checkpoints import fingerprint
from minilora.tuning.library import Library

from . import Study, common
from ._question import Finding, Question
from ._verdicts import FAILS, HOLDS

SWITCHES, SEEDS, WORDS = 1000, tuple(range(5)), 200  # words: held out, of each task
CHECKED = (1, 3, 10, 30, 100, 300, 1000)  # switches after which the drift is measured
WAYS = {  # how an adapter is merged and unmerged -> its title
    "library": "merged and unmerged, rounded once from float64",
    "in_place": "merged and unmerged in place, float32",
}
LOOKS = {"library": ("#0072B2", "o"), "in_place": ("#D55E00", "s")}  # colour, marker

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Switching and merging, an order a seed; bytes; seconds."""
    many = {"switches": SWITCHES, "words": WORDS, "seed": SEEDS}
    return [
        *grid(kind="switch", **many),
        *grid(kind="merge", way=list(WAYS), **many),
        {"kind": "bytes"},
        {"kind": "times", "repeats": 200},
    ]


def quick() -> list[Cell]:
    """Few switches."""
    few = {"switches": 10, "words": 5, "seed": 0}
    return [{"kind": "switch", **few}, *grid(kind="merge", way=list(WAYS), **few)]


def run(kind: str, **cell) -> dict[str, Any]:
    """One cell."""
    return {"switch": switch, "merge": merging, "bytes": sizes, "times": times}[kind](**cell)


# -------------------------------------------------------------------------------------------- runs


def switch(switches: int, words: int, seed: int) -> dict[str, Any]:
    """Adapters beside the base: are logits, scores and the base the same bits afterwards?"""
    library = open_library()
    before, scores = _logits(library), _scores(_adapters(library), words)
    base, adapters = fingerprint(library.base), _adapters_crc(library)
    others = 0
    for name in order(switches, seed):
        library.use(name)
        others += library.logits(_prompts(library, name)).tobytes() != before[name].tobytes()
    return {
        "switches_with_other_bits": others,
        "exact_match_before": scores,
        "exact_match_after": _scores(_adapters(library), words),
        "base_is_the_same": fingerprint(library.base) == base,
        "adapters_are_the_same": _adapters_crc(library) == adapters,
        "arrays_of_the_base_that_an_adapter_copied": copied_arrays(library),
    }


def merging(way: str, switches: int, words: int, seed: int) -> dict[str, Any]:
    """One adapter after another merged into the weights and taken out again: how far do the
    weights, and the logits under each adapter, move?
    """
    library = open_library()
    model = Llama(library.config, dict(library.base.params), library.tokenizer)
    into, out_of = {"library": (merge, unmerge), "in_place": (added, subtracted)}[way]
    before, drift = _logits(library), []
    for i, name in enumerate(order(switches, seed), 1):
        tuned = _on(model, library[name])
        model = out_of(into(tuned), tuned)
        if i in CHECKED or i == switches:
            drift.append([i, *map(rounded, _drift(library, model, before))])
    merged = {name: merge(_on(model, library[name])) for name in library}
    return {
        "drift": drift,  # [switches, largest change of a weight, of a logit]
        "exact_match_before": _scores(_adapters(library), words),
        "exact_match_after": _scores(merged, words),
        "base_is_the_same": fingerprint(model) == fingerprint(library.base),
    }


def sizes() -> dict[str, Any]:
    """Bytes of five adapters on one base, and of five whole models."""
    library, folder = open_library(), data_folder()
    base = sum(a.nbytes for a in library.base.params.values())
    files = [folder / "adapters" / name / "adapter_model.safetensors" for name in library]
    return {
        "adapters": len(library),
        "base_bytes": base,
        "adapters_bytes": library.nbytes,
        "library_bytes": base + library.nbytes,
        "models_bytes": base * len(library),
        "adapter_file_bytes": {p.parent.name: p.stat().st_size for p in files},
        "model_file_bytes": (folder / "base" / "model.safetensors").stat().st_size,
    }


def times(repeats: int) -> dict[str, Any]:
    """Median seconds of getting from one adapter to the next, in five ways."""
    library, folder = open_library(), data_folder() / "adapters"
    merged = {name: merge(library[name]) for name in NAMES}

    def seconds(action: Callable[[str], Any], count: int) -> float:
        taken = []
        for i in range(count):
            start = time.perf_counter()
            action(NAMES[i % len(NAMES)])
            taken.append(time.perf_counter() - start)
        return median(taken)

    def merge_another(name):
        return unmerge(merged[name], library[name]), merge(library[name])

    return {
        "use_seconds": seconds(library.use, 50 * repeats),
        "unmerge_and_merge_seconds": seconds(merge_another, repeats),
        "load_adapter_seconds": seconds(lambda n: Library(library.base).load(folder / n), repeats),
        "load_model_seconds": seconds(lambda name: load_model("base"), repeats // 4),
        "answer_seconds": seconds(lambda n: library[n].logits(_prompts(library, n)), repeats),
    }


def order(switches: int, seed: int) -> list[str]:
    """Adapters in a random order, none after itself."""
    steps = np.random.default_rng(seed).integers(1, len(NAMES), switches)
    return [NAMES[place] for place in np.cumsum(steps) % len(NAMES)]


def copied_arrays(library: Library) -> int:
    """Arrays of the base that stand in memory once more for some adapter."""
    return sum(
        not np.shares_memory(array, weights[name])
        for tuned in _adapters(library).values()
        for weights in [tuned.forward().weights]
        for name, array in library.base.params.items()
    )


def added(tuned: Tuned) -> Llama:
    """W + s B A, all in float32."""
    return _moved(tuned.base, tuned, np.float32(1))


def subtracted(model: Llama, tuned: Tuned) -> Llama:
    """W - s B A, all in float32."""
    return _moved(model, tuned, np.float32(-1))


def _moved(model, tuned, sign):
    params = dict(model.params)
    for layer, arrays in tuned.layers.items():
        left, right = tuned.factors(layer)
        change = np.float32(arrays["s"]) * (left @ right)
        params[f"{layer}.weight"] = params[f"{layer}.weight"] + sign * change
    return Llama(model.config, params, model.tokenizer)


def _adapters(library: Library) -> dict[str, Tuned]:
    return {name: library[name] for name in library}


def _adapters_crc(library: Library) -> int:
    arrays = [a for tuned in _adapters(library).values() for a in tuned.arrays.values()]
    return zlib.crc32(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def _prompts(library: Library, name: str) -> np.ndarray:
    """Ids of prompts of the adapter's task, of one length."""
    prompts = [library.tokenizer.encode(prompt) for prompt, _ in tasks.load_task(name).test[:200]]
    return max((ids for _, ids in of_one_length(prompts, 8)), key=len)


def _logits(library: Library) -> dict[str, np.ndarray]:
    return {name: library[name].logits(_prompts(library, name)) for name in library}


def _scores(models: dict[str, Any], words: int) -> dict[str, float]:
    """Exact match of each model on the first held-out words of its task."""
    return {
        name: rounded(exact_match(model, tasks.load_task(name).test[:words]))
        for name, model in models.items()
    }


def _on(model: Llama, tuned: Tuned) -> Tuned:
    """The same adapter on another base."""
    other = copy.copy(tuned)
    other.base = model
    return other


def _drift(library, model, before) -> tuple[float, float]:
    """The largest change of a weight, and of a logit under any adapter."""
    weights = max(np.abs(a - library.base.params[name]).max() for name, a in model.params.items())
    logits = max(
        np.abs(_on(model, library[name]).logits(_prompts(library, name)) - before[name]).max()
        for name in library
    )
    return float(weights), float(logits)


# --------------------------------------------------------------------------- summary, table, figure


def summary(records: list[Record]) -> dict[str, Any]:
    """What changed, over all orders; bytes; seconds."""
    kinds = common.by_kind(records)
    switched = [record["result"] for record in kinds["switch"]]
    ways = {}
    for way in WAYS:
        merged = [r["result"] for r in kinds["merge"] if r["cell"]["way"] == way]
        ways[way] = {
            "drift": {  # switches -> over the orders
                points[0][0]: {
                    "weight": estimate(weight for _, weight, _ in points),
                    "logit": estimate(logit for _, _, logit in points),
                }
                for points in zip(*(result["drift"] for result in merged))
            },
            "scores_changed": sum(map(_scores_changed, merged)),
            "orders": len(merged),
        }
    return {
        "orders": len(switched),
        "switches_with_other_bits": sum(r["switches_with_other_bits"] for r in switched),
        "scores_changed": sum(map(_scores_changed, switched)),
        "base_changed": sum(not r["base_is_the_same"] for r in switched),
        "adapters_changed": sum(not r["adapters_are_the_same"] for r in switched),
        "copied": sum(r["arrays_of_the_base_that_an_adapter_copied"] for r in switched),
        "scores": switched[0]["exact_match_after"],
        "ways": ways,
        "bytes": kinds["bytes"][0]["result"],
        "seconds": kinds["times"][0]["result"],
    }


def _scores_changed(result) -> int:
    """Tasks whose exact match is another afterwards."""
    before, after = result["exact_match_before"], result["exact_match_after"]
    return sum(before[name] != after[name] for name in before)


def _swaps(s):
    size, took, ways = s["bytes"], s["seconds"], s["ways"].values()
    faults = ("copied", "switches_with_other_bits", "scores_changed", "base_changed")
    still = not any(s[name] for name in (*faults, "adapters_changed"))
    switches = max(next(iter(ways))["drift"])
    return Finding(
        f"beside the base {s['switches_with_other_bits']} of {s['orders']} × {switches:,} switches "
        f"gave other bits and {s['scores_changed']} scores changed; a switch takes "
        f"{1e6 * took['use_seconds']:.2g} µs, reading a model "
        f"{1e3 * took['load_model_seconds']:.2g} ms; base and five adapters are "
        f"{size['library_bytes']:,} bytes, five models {size['models_bytes']:,}",
        HOLDS if still else FAILS,
    )


def _merges(s):
    ways = s["ways"].values()
    switches = max(next(iter(ways))["drift"])
    moved = " or ".join(f"{row['drift'][switches]['logit']:.1e|.0e}" for row in ways)
    changed = sum(row["scores_changed"] for row in ways)
    cases = sum(row["orders"] for row in ways) * s["bytes"]["adapters"]
    return Finding(
        f"after {switches:,} switches a logit has moved by {moved} (rounded once, in place; n = "
        f"{s['orders']} orders each), {changed} of {cases} scores changed",
        FAILS if changed else HOLDS,
        when="" if changed else "the last bits of float32 do not matter",
    )


QUESTIONS = (
    Question(
        "L8 L3",
        "The parameters of a task are swapped quickly, without retraining; W stays untouched",
        "one base, five adapters, a thousand switches in five orders",
        "counted: holds if no bit of base, adapters or logits and no score changes",
        "one bit that changes",
        "adapters in another process or on a device, whose copying takes time",
        _swaps,
    ),
    Question(
        "L8",
        "… also by adding to the weights and subtracting again",
        "the same orders",
        "counted: holds, where last bits do not matter, if no score changes",
        "a score that changes",
        "16-bit weights, where the rounding is larger",
        _merges,
    ),
)


def table(records: list[Record]) -> str:
    """What moved, what it takes, what it weighs."""
    s = summary(records)
    lines = [
        [
            f"beside the base: `Library.use`, {s['orders']} orders of {SWITCHES:,} switches",
            *(s["switches_with_other_bits"], 0, 0, s["scores_changed"]),
        ]
    ]
    for way, title in WAYS.items():
        row = s["ways"][way]
        moved = [f"{row['drift'][SWITCHES][name]:.1e|.0e}" for name in ("weight", "logit")]
        name = f"{title}, {row['orders']} orders of {SWITCHES:,}"
        lines.append([name, "–", *moved, row["scores_changed"]])
    head = ["adapters switched", "switches with other logits"]
    head += ["a weight moved by", "a logit by", "scores changed"]
    size, took = s["bytes"], s["seconds"]
    costs = [
        ["`Library.use`", f"{1e6 * took['use_seconds']:.2g} µs"],
        ["unmerge one, merge another", f"{1e3 * took['unmerge_and_merge_seconds']:.2g} ms"],
        ["read an adapter's folder", f"{1e3 * took['load_adapter_seconds']:.2g} ms"],
        ["read a whole model's folder", f"{1e3 * took['load_model_seconds']:.2g} ms"],
        ["one base and five adapters", f"{size['library_bytes']:,} bytes"],
        ["five whole models", f"{size['models_bytes']:,} bytes"],
    ]
    return f"{markdown(head, lines)}\n\n{markdown(['', ''], costs)}"


def figure(records: list[Record], path: Path) -> None:
    """Drift of a logit against switches, beside the times of a switch."""
    s = summary(records)
    with common.panels(path, 14, 6, 1, 2, width_ratios=(1.4, 1)) as (left, right):
        for way, title in WAYS.items():
            drift = s["ways"][way]["drift"]
            logits = [row["logit"] for row in drift.values()]
            common.errorbars(left, drift, logits, LOOKS[way], label=title, capsize=3)
        left.set_xscale("log")
        left.set_yscale("log")
        left.set_ylim(bottom=left.get_ylim()[0] / 3, top=left.get_ylim()[1] * 8)
        left.set_xlabel("switches")
        left.set_ylabel("largest change of a logit")
        left.set_title("Adapters beside the base change by 0; merging drifts")
        left.legend(loc="upper left")
        _draw_times(right, s["seconds"])


def _draw_times(axes, took):
    names = {
        "use_seconds": "use another\nadapter",
        "unmerge_and_merge_seconds": "unmerge,\nmerge",
        "load_adapter_seconds": "read an\nadapter",
        "load_model_seconds": "read a whole\nmodel",
    }
    values = [took[name] for name in names]
    axes.barh(range(len(values)), values, 0.6, color="#5B8DB8")
    axes.set_yticks(range(len(values)), list(names.values()))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 60)
    for y, value in enumerate(values):
        text = f"{value * 1e3:.2g} ms" if value > 1e-4 else f"{value * 1e6:.2g} µs"
        axes.annotate(text, (value, y), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_xticks([1e-7, 1e-6, 1e-5, 1e-4, 1e-3], ["0.1 µs", "1 µs", "10 µs", "0.1 ms", "1 ms"])
    axes.grid(axis="y", visible=False)
    axes.set_title("Time of a switch")


TITLE = "Five adapters on one base, switched a thousand times: does anything change?"
STUDY = Study("swapping", TITLE, cells, quick, run, summary, table, figure, QUESTIONS)
