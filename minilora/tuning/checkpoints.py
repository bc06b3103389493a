"""A checkpoint: one file with everything that the next step of a training run depends on."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.safetensors import read_arrays, write_arrays
from ..llama.model import Llama
from ..support.files import check_kind, errors_at, parse_json
from .adapters import Tuned, attach
from .choices import find_method
from .optim import AdamW

ABOUT = "minilora_checkpoint"  # the name of our entry in the file's metadata
PATTERNS = "rank_pattern", "alpha_pattern"
HISTORY = {
    "losses": [0.0],
    "rates": [0.0],
    "seconds": [0.0],
    "evaluations": [list],
    "batches_crc32": 0,
}


def save(
    path: str | Path, tuned: Tuned, adam: AdamW, run: Mapping[str, Any], history: Mapping[str, Any]
) -> None:
    """Write arrays, AdamW's moments, run (`describe`) and history into one safetensors file.

    The file replaces an older one as a whole.
    """
    arrays = {f"array.{key}": a for key, a in tuned.arrays.items()}
    arrays |= {f"m.{key}": a for key, a in adam.m.items()}
    arrays |= {f"v.{key}": a for key, a in adam.v.items()}
    about = {**run, "steps": adam.steps, "history": history}
    write_arrays(path, arrays, {ABOUT: json.dumps(about)})


def load(path: str | Path, tuned: Tuned, adam: AdamW, settings: Mapping[str, Any]) -> dict:
    """Copy a checkpoint's arrays and moments into tuned and adam; returns its history.

    Raises ValueError if the file is damaged, was saved by another run (another base, method, option
    or setting), or has more steps than this run. A constant schedule may resume with another number
    of steps; with any other schedule that is another run, since each rate depends on the number.
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
    steps, last = saved["steps"], settings.get("steps", saved["steps"])
    if not 0 <= steps <= last:
        raise ValueError(f"{path}: it is of step {steps}, this run ends at {last}")
    for key, own in tuned.trainable.items():
        for name in (f"array.{key}", f"m.{key}", f"v.{key}"):
            a = arrays.get(name)
            if a is None or a.shape != own.shape or not np.isfinite(a).all():
                raise ValueError(f"{path}: no {name} of shape {own.shape} and finite numbers")
    unknown = {k.removeprefix("m.") for k in arrays if k.startswith("m.")} - adam.params.keys()
    if unknown:
        raise ValueError(f"{path}: its array {min(unknown)} has no place in this run")
    _restore(tuned, arrays)
    for name in adam.params:
        adam.m[name][:] = arrays[f"m.{name}"]
        adam.v[name][:] = arrays[f"v.{name}"]
    adam.steps = steps
    return saved["history"]


def load_tuned(path: str | Path, model: Llama) -> Tuned:
    """The adapter in a checkpoint, on the base that it was trained on: what an adapter's folder is.

    Raises ValueError for a damaged file, one that is no checkpoint, and another base.
    """
    arrays, about = read_arrays(path)
    if ABOUT not in about:
        raise ValueError(
            f"{path}: not a checkpoint of minilora; wanted one, or an adapter's folder"
        )
    saved = parse_json(path, about[ABOUT])
    check_kind(path, "it", saved, {"method": "", "base": "", "options": {}, "seed": 0})
    if saved["base"] != fingerprint(model):
        raise ValueError(
            f"{path}: its base has the fingerprint {saved['base']}, this one {fingerprint(model)}"
        )
    start = "array.base_model.model."
    given = {name: saved.get(name) for name in ("rank", "alpha", "rank_pattern", "alpha_pattern")}
    given["targets"] = [
        layer
        for layer in model.config.linears()
        if any(key.startswith(f"{start}{layer}.") for key in arrays)
    ]
    with errors_at(path):
        record = find_method(saved["method"])
        taken = {k: v for k, v in given.items() if v and k in (*record.takes, *PATTERNS)}
        tuned = attach(model, record, seed=saved["seed"], **taken, **saved["options"])
        for key, own in tuned.trainable.items():
            a = arrays.get(f"array.{key}")
            if a is None or a.shape != own.shape or not np.isfinite(a).all():
                raise ValueError(f"no array {key} of shape {own.shape} and finite numbers")
        _restore(tuned, arrays)
    return tuned


def fingerprint(model: Llama) -> str:
    """The CRC-32 of all weights and their names, which distinguishes one base from another."""
    crc = 0
    for name, a in sorted(model.params.items()):
        crc = zlib.crc32(f"{name}{a.shape}{a.dtype}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(a).data, crc)
    return f"{crc:08x}"


def describe(tuned: Tuned, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that must be equal for a run to resume. This reads every weight of the base."""
    names = ("rank", "alpha", "rank_pattern", "alpha_pattern", "seed", "options")
    own = {"method": tuned.method} | {name: getattr(tuned, name) for name in names}
    return own | {"base": fingerprint(tuned.base), "settings": dict(settings)}


def _check_settings(path, saved, mine):
    for name, value in mine.items():
        free = name == "steps" and mine["schedule"] == "constant"
        if saved.get(name) != value and not free:
            why = ""
            if name == "steps":
                why = (
                    f"; each rate of a {mine['schedule']} schedule depends on it. A new run can "
                    "start from this file as its adapter"
                )
            raise ValueError(f"{path}: {name} was {saved.get(name)!r}, this run has {value!r}{why}")


def _restore(tuned, arrays):
    """Copy the saved arrays into tuned's own.

    Delta-LoRA's step rule adds arrays (the start factors) during a run: those that the checkpoint
    does not have are deleted, those that only the checkpoint has are added.
    """
    own = tuned.arrays
    for key, array in own.items():
        if f"array.{key}" in arrays:
            array[:] = arrays[f"array.{key}"]
    for layer, arguments in tuned.layers.items():
        prefix = tuned.key(layer, "")
        saved = {k.removeprefix("array.") for k in arrays if k.startswith(f"array.{prefix}")}
        for name in [n for n in arguments if (k := tuned.key(layer, n)) in own and k not in saved]:
            del arguments[name]
        for key in saved - own.keys():
            arguments[key.removeprefix(prefix)] = arrays[f"array.{key}"]
