"""A training run as one file: everything that its next step depends on."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.safetensors import read_arrays, write_arrays
from ..llama.model import Llama
from ..support.files import check_kind, parse_json
from .adapters import Tuned
from .optim import AdamW

ABOUT = "minilora_checkpoint"  # the entry of the file's metadata
HISTORY = {
    "losses": [0.0],
    "rates": [0.0],
    "seconds": [0.0],
    "evaluations": [list],
    "batches_crc32": 0,
}


def save(
    path: str | Path,
    tuned: Tuned,
    adam: AdamW,
    run: Mapping[str, Any],
    history: Mapping[str, Any],
) -> None:
    """Arrays, moments, what the run is (`describe`) and its history in one safetensors file, which
    replaces the old one at once.
    """
    arrays = {f"array.{key}": a for key, a in tuned.arrays.items()}
    arrays |= {f"m.{key}": a for key, a in adam.m.items()}
    arrays |= {f"v.{key}": a for key, a in adam.v.items()}
    about = {**run, "steps": adam.steps, "history": history}
    write_arrays(path, arrays, {ABOUT: json.dumps(about)})


def load(path: str | Path, tuned: Tuned, adam: AdamW, settings: Mapping[str, Any]) -> dict:
    """Put a checkpoint's arrays and moments in place; returns its history.

    Raises ValueError where it is damaged, or of another run: another base, method, option or
    setting, or more steps than this one. More steps here than there are another run only where the
    schedule depends on their number.
    """
    arrays, about = read_arrays(path)
    if ABOUT not in about:
        raise ValueError(f"{path}: not a checkpoint of minilora")
    saved = parse_json(path, about[ABOUT])
    check_kind(path, "it", saved, {"settings": {}, "steps": 0, "history": HISTORY})
    for name, mine in json.loads(json.dumps(describe(tuned, settings))).items():
        if name == "settings":
            _check_settings(path, saved[name], mine)
        elif saved.get(name) != mine:
            raise ValueError(f"{path}: {name} is {saved.get(name)!r}, this run has {mine!r}")
    if not 0 <= saved["steps"] <= settings.get("steps", saved["steps"]):
        raise ValueError(
            f"{path}: it is of step {saved['steps']}, this run ends at {settings['steps']}"
        )
    for slot in tuned.trained():
        for kind in ("array", "m", "v"):
            found = arrays.get(f"{kind}.{slot.key}")
            if found is None or found.shape != slot.array.shape or not np.isfinite(found).all():
                raise ValueError(
                    f"{path}: no {kind}.{slot.key} of shape {slot.array.shape} and finite numbers"
                )
    foreign = {k.removeprefix("m.") for k in arrays if k.startswith("m.")} - adam.params.keys()
    if foreign:
        raise ValueError(f"{path}: its array {min(foreign)} has no place in this run")
    _restore(tuned, arrays)
    for name in adam.params:
        adam.m[name][:] = arrays[f"m.{name}"]
        adam.v[name][:] = arrays[f"v.{name}"]
    adam.steps = saved["steps"]
    return saved["history"]


def fingerprint(model: Llama) -> str:
    """CRC-32 over all weights, by name: tells one base from another."""
    crc = 0
    for name, a in sorted(model.params.items()):
        crc = zlib.crc32(f"{name}{a.shape}{a.dtype}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(a).data, crc)
    return f"{crc:08x}"


def describe(tuned: Tuned, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for the next step to be the same; reads every weight of the base."""
    return {
        "method": tuned.method,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "rank_pattern": tuned.rank_pattern,
        "alpha_pattern": tuned.alpha_pattern,
        "seed": tuned.seed,
        "options": tuned.options,
        "base": fingerprint(tuned.base),
        "settings": dict(settings),
    }


def _check_settings(path, saved, mine):
    for name, value in mine.items():
        free = name == "steps" and mine["schedule"] == "constant"
        if saved.get(name) != value and not free:
            raise ValueError(f"{path}: {name} was {saved.get(name)!r}, this run has {value!r}")


def _restore(tuned, arrays):
    """Write saved arrays into tuned's own; what a step rule adds (Delta-LoRA's start factors) comes
    and goes with them.
    """
    live = tuned.arrays
    for key, array in live.items():
        if f"array.{key}" in arrays:
            array[:] = arrays[f"array.{key}"]
    for layer, arguments in tuned.layers.items():
        place = tuned.key(layer, "")
        saved = {k.removeprefix("array.") for k in arrays if k.startswith(f"array.{place}")}
        for name in [n for n in arguments if (k := tuned.key(layer, n)) in live and k not in saved]:
            del arguments[name]
        for key in saved - live.keys():
            arguments[key.removeprefix(place)] = arrays[f"array.{key}"]
