"""A checkpoint: one file with everything that the next step of a training run depends on."""

import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import fast
from ..formats.safetensors import read_arrays, write_arrays
from ..llama.model import Llama
from ..methods.base import Method
from ..support import blas
from ..support.files import MOST_TEXT, check_kind, errors_at, parse_json
from ..support.meta import dense, form_of
from ..support.packed import Packed
from .adapters import Tuned, attach, shapes_of
from .choices import check_options, saved_method
from .optim import AdamW

ABOUT = "minilora_checkpoint"  # the name of our entry in the file's metadata
CHECKSUM = "minilora_crc32"  # another entry: of ABOUT and of all arrays
PATTERNS = "rank_pattern", "alpha_pattern"
HISTORY = {
    "losses": [0.0],
    "rates": [0.0],
    "seconds": [0.0],
    "evaluations": [list],
    "batches_crc32": 0,
}
MACHINE = {"kernels": "kernels", "blas_threads": "BLAS threads"}  # name -> as a warning says it


def save(
    path: str | Path, tuned: Tuned, adam: AdamW, run: Mapping[str, Any], history: Mapping[str, Any]
) -> None:
    """Write arrays, AdamW's moments, run (`describe`) and history into one safetensors file.

    The file replaces an older one as a whole.
    """
    arrays = {f"array.{key}": a for key, a in tuned.arrays.items()}
    arrays |= {f"m.{key}": a for key, a in adam.m.items()}
    arrays |= {f"v.{key}": a for key, a in adam.v.items()}
    about = json.dumps({**run, **machine(), "steps": adam.steps, "history": history})
    write_arrays(path, arrays, {ABOUT: about, CHECKSUM: checksum(arrays, about)})


def load(path: str | Path, tuned: Tuned, adam: AdamW, settings: Mapping[str, Any]) -> dict:
    """Copy a checkpoint's arrays and moments into tuned and adam; returns its history.

    Warns if the kernels or the threads of BLAS are not those of the saved run: then the run does
    not continue to the same bits.
    Raises ValueError if the file is damaged, was saved by another run (another base, method, option
    or setting), or has more steps than this run. With a constant schedule the number of steps may
    differ; with any other schedule each rate depends on it, so that is another run.
    """
    arrays, saved = _read(path)
    check_kind(path, "it", saved, {"settings": {}, "steps": 0, "history": HISTORY})
    for name, mine in json.loads(json.dumps(describe(tuned, settings))).items():
        if name == "settings":
            _check_settings(path, saved[name], mine)
        elif saved.get(name) != mine:
            raise ValueError(f"{path}: {name} is {saved.get(name)!r:.200}, this run has {mine!r}")
    steps, last = saved["steps"], settings.get("steps", saved["steps"])
    if not 0 <= steps <= last:
        raise ValueError(f"{path}: saved at step {steps}, but this run ends at {last}")
    _check_history(path, saved["history"], steps)
    _check_arrays(path, arrays, tuned)
    for name, mine in machine().items():
        if saved.get(name) != mine:
            warnings.warn(
                f"{path}: {MACHINE[name]}: {saved.get(name)!r:.40} when it was saved, {mine!r} "
                "now: the run goes on, but its bits differ",
                stacklevel=3,
            )
    _restore(tuned, arrays)
    for name in adam.params:
        adam.m[name][:] = arrays[f"m.{name}"]
        adam.v[name][:] = arrays[f"v.{name}"]
    adam.steps = steps
    return saved["history"]


def load_tuned(path: str | Path, model: Llama, method: str | Method | None = None) -> Tuned:
    """The adapter in a checkpoint, on the base that it was trained on; method: see `saved_method`.

    Raises ValueError for a damaged file, a file of another kind, another base or technique.
    """
    arrays, saved = _read(path)
    check_kind(path, "it", saved, {"method": "", "base": "", "options": {}, "seed": 0})
    if saved["base"] != fingerprint(model):
        raise ValueError(
            f"{path}: its base has the fingerprint {saved['base']!s:.80}, "
            f"this one {fingerprint(model)}"
        )
    given = {name: saved.get(name) for name in ("rank", "alpha", *PATTERNS)}
    given["targets"] = _layers(model, arrays)
    record = saved_method(path, saved["method"], method)
    with errors_at(path):
        taken = {k: v for k, v in given.items() if v and k in (*record.takes, *PATTERNS)}
        how = {"seed": saved["seed"], **taken, **check_options(record, saved["options"])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # attach on numbers warns
            shapes = attach(shapes_of(model), record, **how)
    _check_arrays(path, arrays, shapes)
    tuned = attach(model, record, **how)
    _restore(tuned, arrays)
    return tuned


def _layers(model, arrays):
    """The linears that have an adapter's arrays in the file."""
    starts = {name: f"array.base_model.model.{name}." for name in model.config.linears()}
    return [name for name, start in starts.items() if any(key.startswith(start) for key in arrays)]


def _read(path):
    """The arrays and the description of the run, both as they were saved."""
    arrays, about = read_arrays(path)
    if ABOUT not in about:
        raise ValueError(
            f"{path}: not a checkpoint of minilora; wanted one, or an adapter's folder"
        )
    if (found := checksum(arrays, about[ABOUT])) != about.get(CHECKSUM):
        raise ValueError(
            f"{path}: damaged: its checksum is {about.get(CHECKSUM)!r:.40}, its contents give "
            f"{found!r}"
        )
    return arrays, parse_json(path, about[ABOUT], MOST_TEXT)  # a long run has a long history


def machine() -> dict[str, Any]:
    """The settings on which the bits of a sum depend: the kernels, and the threads of BLAS."""
    return {"kernels": fast.backend() if fast.on() else "numpy", "blas_threads": blas.threads()}


def checksum(arrays: Mapping[str, np.ndarray], text: str = "") -> str:
    """The CRC-32 of a text and of all weights: names, shapes, dtypes, and numbers or parts."""
    crc = zlib.crc32(text.encode())
    for name, a in sorted(arrays.items()):
        crc = zlib.crc32(f"{name}{a.shape}{a.dtype}{form_of(a)}".encode(), crc)
        for part in a.parts if isinstance(a, Packed) else [dense(a)]:
            crc = zlib.crc32(np.ascontiguousarray(part).data, crc)
    return f"{crc:08x}"


def fingerprint(model: Llama) -> str:
    """The `checksum` of all weights, which distinguishes one base from another."""
    return checksum(model.params)


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


def _check_history(path, history, steps):
    """Raises ValueError unless the history has one entry for each step, and none of later steps."""
    for name in ("losses", "rates", "seconds"):
        if (length := len(history[name])) != steps:
            raise ValueError(f"{path}: history.{name} has {length} entries, wanted {steps}")
    last = -1
    for i, point in enumerate(history["evaluations"]):
        step = point[0] if len(point) == 2 else None
        if not isinstance(step, int) or not last < step <= steps:
            raise ValueError(
                f"{path}: history.evaluations[{i}] is {point!r:.80}, wanted [step, value] with a "
                f"step of {last + 1} to {steps}"
            )
        last = step


def _check_arrays(path, arrays, tuned):
    """Raises ValueError unless the file has the arrays of this run: names, shapes, dtypes, and
    numbers that are finite. The arrays that a step rule adds (Delta-LoRA's start factors) may all
    be absent.
    """
    added: dict[str, np.ndarray] = {}
    own = tuned.arrays
    for layer in tuned.layers:
        for name, like in tuned.record.remembers.items():
            own.pop(tuned.key(layer, name), None)
            added[f"array.{tuned.key(layer, name)}"] = own[tuned.key(layer, like)]
    wanted = {f"array.{key}": a for key, a in own.items()}
    wanted |= {f"{moment}.{key}": a for key, a in tuned.trainable.items() for moment in "mv"}
    if added.keys() & arrays.keys():
        wanted |= added
    for name, mine in wanted.items():
        a = arrays.get(name)
        if a is None or a.shape != mine.shape or a.dtype != mine.dtype:
            found = "none" if a is None else f"{a.shape} of {a.dtype}"
            raise ValueError(f"{path}: {name}: got {found}, wanted {mine.shape} of {mine.dtype}")
        if not np.isfinite(a).all():
            raise ValueError(f"{path}: {name} has numbers that are not finite")
        if name.startswith("v.") and a.size and a.min() < 0:
            raise ValueError(
                f"{path}: {name}, a mean of squares, has the negative number {a.min()}"
            )
    if unknown := arrays.keys() - wanted.keys():
        raise ValueError(f"{path}: its array {min(unknown)} does not belong to this run")


def _restore(tuned, arrays):
    """Copy the saved arrays into tuned's own; arrays of a step rule are added or removed first."""
    for layer, arguments in tuned.layers.items():
        for name in tuned.record.remembers:
            arguments.pop(name, None)
            if (key := f"array.{tuned.key(layer, name)}") in arrays:
                arguments[name] = arrays[key].copy()
    for key, array in tuned.arrays.items():
        array[:] = arrays[f"array.{key}"]
