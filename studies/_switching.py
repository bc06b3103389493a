"""Adapters switched beside their base, and merged into its weights and taken out again."""

import copy
import statistics
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minilora.formats.models import load_model
from minilora.lab.sweep import rounded
from minilora.lab.word_adapters import NAMES, open_library
from minilora.llama.model import Llama
from minilora.support.files import data_folder
from minilora.text import tasks
from minilora.tuning.adapters import Tuned, merge, unmerge
from minilora.tuning.checkpoints import fingerprint
from minilora.tuning.library import Library

CHECKED = (1, 3, 10, 30, 100, 300, 1000)  # switches after which the drift is looked at


def switch(switches: int, words: int, seed: int) -> dict[str, Any]:
    """Adapters beside the base: are logits, scores and the base the same bits afterwards?"""
    library = open_library()
    before, scores = _logits(library), _scores(_speakers(library), words)
    base, started = fingerprint(library.base), _adapters_crc(library)
    other = 0
    for name in _order(switches, seed):
        library.use(name)
        other += not _same(library.logits(_ids(library, name)), before[name])
    return {
        "switches_with_other_bits": other,
        "exact_match_before": scores,
        "exact_match_after": _scores(_speakers(library), words),
        "base_is_the_same": fingerprint(library.base) == base,
        "adapters_are_the_same": _adapters_crc(library) == started,
        "arrays_of_the_base_that_an_adapter_copied": _copied(library),
    }


def merging(way: str, switches: int, words: int, seed: int) -> dict[str, Any]:
    """One adapter after another merged into the weights and taken out again: how far do the
    weights, and the logits under each adapter, move?
    """
    library = open_library()
    model = Llama(library.config, dict(library.base.params), library.tokenizer)
    into, out_of = {"library": (merge, unmerge), "in_place": (_add, _subtract)}[way]
    before, drift = _logits(library), []
    for i, name in enumerate(_order(switches, seed), 1):
        tuned = _on(model, library[name])
        model = out_of(into(tuned), tuned)
        if i in CHECKED or i == switches:
            drift.append([i, *map(rounded, _drift(library, model, before))])
    merged = {name: merge(_on(model, library[name])) for name in library}
    return {
        "drift": drift,  # [switches, largest change of a weight, of a logit]
        "exact_match_before": _scores(_speakers(library), words),
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
    """Medians of getting from one adapter to the next, in five ways."""
    library, names = open_library(), list(NAMES)
    folder = data_folder()
    merged = {name: merge(library[name]) for name in names}

    def median(what: Callable[[str], Any], count: int) -> float:
        found = []
        for i in range(count):
            start = time.perf_counter()
            what(names[i % len(names)])
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    return {
        "use_seconds": median(library.use, 50 * repeats),
        "unmerge_and_merge_seconds": median(
            lambda name: (unmerge(merged[name], library[name]), merge(library[name])), repeats
        ),
        "load_adapter_seconds": median(
            lambda name: Library(library.base).load(folder / "adapters" / name), repeats
        ),
        "load_model_seconds": median(lambda name: load_model("base"), repeats // 4),
        "answer_seconds": median(lambda name: library[name].logits(_ids(library, name)), repeats),
    }


def _order(switches: int, seed: int) -> list[str]:
    """Adapters in a random order, none after itself."""
    steps = np.random.default_rng(seed).integers(1, len(NAMES), switches)
    return [NAMES[place] for place in np.cumsum(steps) % len(NAMES)]


def _ids(library: Library, name: str) -> np.ndarray:
    """Prompts of the adapter's task, of one length."""
    prompts = [library.tokenizer.encode(prompt) for prompt, _ in tasks.load_task(name).test[:200]]
    return max((ids for _, ids in tasks.of_one_length(prompts, 8)), key=len)


def _logits(library: Library) -> dict[str, np.ndarray]:
    return {name: library[name].logits(_ids(library, name)) for name in library}


def _speakers(library: Library) -> dict[str, Tuned]:
    return {name: library[name] for name in library}


def _scores(speakers: dict[str, Any], words: int) -> dict[str, float]:
    """Exact match of each on the first held-out words of its task."""
    return {
        name: rounded(tasks.exact_match(speaker, tasks.load_task(name).test[:words]))
        for name, speaker in speakers.items()
    }


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def _adapters_crc(library: Library) -> int:
    arrays: Iterable = (a for tuned in _speakers(library).values() for a in tuned.arrays.values())
    return zlib.crc32(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))


def _copied(library: Library) -> int:
    """Arrays of the base that stand in memory once more for some adapter."""
    return sum(
        not np.shares_memory(array, weights[name])
        for tuned in _speakers(library).values()
        for weights in [tuned.how()["weights"]]
        for name, array in library.base.params.items()
    )


def _on(model: Llama, tuned: Tuned) -> Tuned:
    """The same adapter on another base."""
    other = copy.copy(tuned)
    other.base = model
    return other


def _add(tuned: Tuned) -> Llama:
    return _moved(tuned.base, tuned, np.float32(1))


def _subtract(model: Llama, tuned: Tuned) -> Llama:
    return _moved(model, tuned, np.float32(-1))


def _moved(model, tuned, sign):
    """W ± s B A, all in float32."""
    params = dict(model.params)
    for layer, arrays in tuned.layers.items():
        left, right = tuned.factors(layer)
        change = np.float32(arrays["s"]) * (left @ right)
        params[f"{layer}.weight"] = params[f"{layer}.weight"] + sign * change
    return Llama(model.config, params, model.tokenizer)


def _drift(library, model, before) -> tuple[float, float]:
    """The largest change of a weight, and of a logit under any adapter."""
    weights = max(np.abs(a - library.base.params[name]).max() for name, a in model.params.items())
    logits = max(
        np.abs(_on(model, library[name]).logits(_ids(library, name)) - before[name]).max()
        for name in library
    )
    return float(weights), float(logits)
