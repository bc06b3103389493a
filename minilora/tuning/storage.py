"""Adapters on disk in PEFT's layout: adapter_config.json and adapter_model.safetensors.

Each technique says what it writes (`Method.peft`). Full fine-tuning is stored as the weights
themselves, with the peft_type "FULL"; a technique that PEFT does not know, with "MINILORA".
"""

import contextlib
import json
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.safetensors import array_bytes, check_finite, read_weights, refuse_pickles
from ..llama.model import Llama
from ..methods import METHODS
from ..methods.base import Method, Settings
from ..support.files import check_kind, errors_at, parse_json, read_json, write_together
from ..support.meta import dense, is_array
from ..support.terminal import printable
from . import checkpoints
from .adapters import Tuned, adapted, check_base, shapes_of
from .patterns import one_budget
from .peft_config import attach_as_stored, drawn_keys, restores_arrays

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"
ABOUT = "minilora"  # the entry of the arrays' metadata; PEFT reads none
DESCRIPTIVE = ("base_model_name_or_path", "task_type", "inference_mode", "save_projection")
# The largest error of a change that is read back: this share of the change's norm, plus this share
# of the weight's norm.
LOST, ROUNDING = 1e-5, 3e-6
MOST_DRAWN = 1 << 24  # numbers of shared arrays, 64 MiB, that any adapter may let attach draw


def save_adapter(
    tuned: Tuned,
    folder: str | Path,
    base_name: str | Path | None = None,
    *,
    save_projection: bool = True,
    evaluation: tuple[int, float] | None = None,
) -> int:
    """Write tuned's adapter for PEFT and load_adapter to read; returns the bytes of its arrays.

    base_name: the base's folder, or its name on a hub, where PEFT's AutoPeftModelForCausalLM finds
    it; None: the name in the config of a loaded adapter, if any. save_projection=False leaves out
    VeRA's shared A and B, which its key draws again. evaluation: for `saved_evaluation`.
    Raises ValueError, and writes nothing, if reading the files would not give back every linear's
    change. Raises TypeError if tuned is not what `attach` returned.
    """
    config, arrays = export(adapted(tuned, "save_adapter"), save_projection)
    if base_name is not None:
        config["base_model_name_or_path"] = str(base_name)
    _check_written(tuned, config, arrays)
    own: dict[str, Any] = {
        "method": tuned.method,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "rank_pattern": tuned.rank_pattern,
        "alpha_pattern": tuned.alpha_pattern,
        "options": tuned.options,
        "base": {"name": tuned.base.name, "crc32": mark(tuned.base)},
        "config": {k: v for k, v in config.items() if k not in DESCRIPTIVE},
    }
    own |= {"evaluation": evaluation} if evaluation else {}
    data = array_bytes(arrays, {ABOUT: json.dumps(own)})
    text = json.dumps(dict(sorted(config.items())), indent=1) + "\n"  # patterns keep their order
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_together({folder / ARRAYS: data, folder / CONFIG: text.encode()})
    return len(data)


def saved_evaluation(folder: Path) -> list[Any] | None:
    """[step, value] of an adapter that `KeepBest` wrote; None for another, or a damaged one."""
    with contextlib.suppress(ValueError, OSError):
        return _own(folder / ARRAYS, read_weights(folder / ARRAYS)[1]).get("evaluation")
    return None


def export(
    tuned: Tuned, save_projection: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields of adapter_config.json, and key on disk -> array."""
    record, peft = tuned.record, tuned.record.peft
    config: dict[str, Any] = {
        "peft_type": "FULL" if record.whole_model else "MINILORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": tuned.base_name,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    if record.whole_model:
        return config, tuned.trainable
    config |= {"r": tuned.rank, "target_modules": _target_modules(tuned)}
    if peft is None:
        patterns = {"rank_pattern": tuned.rank_pattern, "alpha_pattern": tuned.alpha_pattern}
        return config | {name: p for name, p in patterns.items() if p}, tuned.arrays
    settings = Settings(
        tuned.rank, tuned.alpha, tuned.options, tuned.rank_pattern, tuned.alpha_pattern
    )
    fields, layers = peft.to_peft(settings, tuned.layers)
    arrays = {tuned.key(n, argument): a for n, row in layers.items() for argument, a in row.items()}
    if peft.drawn:
        fields[peft.drawn] = save_projection
    if save_projection:
        arrays |= {peft.shared[name]: a for name, a in tuned.shared.items()}
    return config | {"peft_type": peft.type} | fields, arrays


def _check_written(tuned, config, arrays):
    """Raises ValueError unless the files, read as by PEFT, give back each linear's change."""
    if tuned.record.whole_model:
        return
    own, method = {}, None
    if tuned.record.peft is None:
        own = {"method": tuned.method, "options": tuned.options, "alpha": tuned.alpha}
        method = tuned.record
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attach has already warned of the ranks
        again = attach_as_stored(tuned.base, tuned.method, config, own, method, {})
        _fill(again, tuned.method, arrays, drawn_keys(again.record, config))
    form = f"its form on disk ({config['peft_type']}, read as {again.method})"
    for layer, arguments in tuned.layers.items():
        change, weight = tuned.delta(layer), dense(tuned.base.params[f"{layer}.weight"])
        most = LOST * np.linalg.norm(change) + ROUNDING * np.linalg.norm(weight)
        numbers = {n: v for n, v in again.layers[layer].items() if not is_array(v)}
        same = all(np.isclose(v, arguments.get(n, v)) for n, v in numbers.items())
        if not (same and np.linalg.norm(again.delta(layer) - change) <= most):
            raise ValueError(
                f"{tuned.method}: {form} does not give back the change of {layer}; "
                "nothing was saved"
            )
    for name in again.shared.keys() & tuned.shared.keys():
        if not np.array_equal(again.shared[name], tuned.shared[name]):
            raise ValueError(
                f"{tuned.method}: {form} does not give back the shared {name}; nothing was saved"
            )


def _target_modules(tuned):
    """The last parts of the adapted names if these match no other linear, else the full names."""
    kinds = sorted({name.rsplit(".", 1)[-1] for name in tuned.layers})
    same = [n for n in tuned.config.linears() if n.rsplit(".", 1)[-1] in kinds]
    return kinds if len(same) == len(tuned.layers) else sorted(tuned.layers)


def load_adapter(
    model: Llama, folder: str | Path, method: str | Method | None = None, **options
) -> Tuned:
    """Put a stored adapter on a model.

    folder: an adapter's folder, or a checkpoint of `train`. method: the technique to train with;
    None: the one that was saved, or for PEFT's own files what their config says. options:
    the technique's, if the files do not settle them; a checkpoint settles everything. Delta-LoRA's
    own arrays are computed from the files, up to the rounding of float32.
    Warns if the adapter was saved on another base of the same shapes.
    Raises FileNotFoundError; ValueError for an adapter of another kind or of a base of other
    shapes, for a damaged file, for files of two adapters, or for a keyword that the files settle;
    TypeError if model is not a Llama.
    """
    check_base("load_adapter", model)
    with one_budget():
        if not Path(folder).is_file():
            return _load(model, folder, method, options)
        if options:
            raise ValueError(f"{folder}: a checkpoint settles its method and options; got others")
        return checkpoints.load_tuned(folder, model, method)


def load_unmoved(model: Llama, folder: str | Path) -> Tuned:
    """`load_adapter` for use without training; no weight of the base is copied.

    A technique that moves a weight is loaded as PEFT reads it: as a LoRA. Raises what
    `load_adapter` raises.
    """
    with one_budget():
        return _load(model, folder, None, {}, unmoved=True)


def _load(model, folder, method, options, unmoved=False):
    path = Path(folder) / CONFIG
    stored = read_json(path, most=1 << 20)  # bytes: many patterns take long
    config = {name: value for name, value in stored.items() if value is not None}
    refuse_pickles(Path(folder) / ARRAYS)
    arrays, about = read_weights(Path(folder) / ARRAYS)
    own = _own(Path(folder) / ARRAYS, about)
    if unmoved and restores_arrays(METHODS.get(own.get("method")), own):
        own = {"config": own.get("config", {})}
    shapes = _on_shapes(model, path, config, own, method, options)
    for name, value in own.get("config", {}).items():
        if config.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {config.get(name)!r:.80}, but {ARRAYS} was saved with "
                f"{value!r:.80}: files of two adapters"
            )
    if shapes:
        _check_sizes(shapes, Path(folder) / ARRAYS, arrays, drawn_keys(shapes.record, config))
    tuned = attach_as_stored(model, path, config, own, method, options)
    tuned.base_name = config.get("base_model_name_or_path")
    with errors_at(Path(folder) / ARRAYS):
        arrays = _restored(tuned, arrays, own)
    wanted = _other_base(model, own)
    try:
        _fill(tuned, Path(folder) / ARRAYS, arrays, drawn_keys(tuned.record, config))
    except ValueError as error:
        raise ValueError(f"{error}{f'; wanted {wanted}' if wanted else ''}") from None
    if wanted:
        this = f"{model.name!r} ({mark(model)})" if model.name else f"({mark(model)})"
        warnings.warn(f"{folder}: saved on {wanted}, and this is another, {this}", stacklevel=3)
    return tuned


def _on_shapes(model, path, config, own, method, options):
    """`attach_as_stored` on a shape-only model; None if the technique needs real numbers."""
    with warnings.catch_warnings(), contextlib.suppress(TypeError):
        warnings.simplefilter("ignore")  # attach on numbers warns
        try:
            return attach_as_stored(shapes_of(model), path, config, own, method, options)
        except MemoryError as error:  # a rank that no file of arrays can have
            raise ValueError(f"{path}: {error}") from None
    return None


def _check_sizes(shapes, path, arrays, optional):
    """Raises ValueError if attach would make a larger array than the file has, or draw more numbers
    than the base has and MOST_DRAWN.

    It is checked before attach runs: a wrong rank could fill the memory.
    """
    _check_missing(shapes, path, arrays, optional)
    wanted = shapes.arrays
    drawn = sum(wanted[name].size for name in optional - arrays.keys())
    if drawn > (most := max(MOST_DRAWN, shapes.count_parameters()[1])):
        raise ValueError(
            f"{path}: {drawn:,} numbers of shared arrays would be drawn, wanted at most {most:,}"
        )
    for name, array in arrays.items():
        if name in wanted and array.size < wanted[name].size:
            raise ValueError(
                f"{path}: {name} has shape {array.shape}, this base wants {wanted[name].shape}"
            )


def _check_missing(tuned, path, arrays, optional):
    derived = {k for k in tuned.arrays if k.endswith(".base_layer.weight")}
    if missing := sorted(tuned.arrays.keys() - derived - optional - arrays.keys()):
        raise ValueError(f"{path}: {len(missing)} arrays are missing, the first is {missing[0]}")


def _other_base(model, own) -> str:
    """The base that the adapter was saved on, if it is another: its name and (fingerprint).

    "" if it is this base, or if the file does not say it.
    """
    saved = own.get("base")
    if not isinstance(saved, dict) or saved.get("crc32") == mark(model):
        return ""
    name = f"{saved['name']!r:.40} " if saved.get("name") else ""
    return printable(f"the base {name}({saved.get('crc32')!s:.8})")


MARKS: weakref.WeakKeyDictionary[Llama, str] = weakref.WeakKeyDictionary()  # a base -> its own


def mark(model) -> str:
    """The fingerprint of a base's weights in float32, whatever their dtype.

    It is kept for each base, since computing it takes longer than reading an adapter.
    """
    if model not in MARKS:
        narrow = model if model.dtype == np.float32 else model.astype(np.float32)
        MARKS[model] = checkpoints.fingerprint(narrow)
    return MARKS[model]


def _restored(tuned, arrays, own):
    """The technique's own arrays by their keys, computed from those that it wrote for PEFT.

    Other arrays stay as they are; `_fill` refuses them.
    """
    peft = tuned.record.peft
    if not restores_arrays(tuned.record, own):
        return arrays
    found = dict(arrays)
    for layer, arguments in tuned.layers.items():
        keys = {name: tuned.key(layer, name) for name in peft.names}
        written = {name: arrays[key] for name, key in keys.items() if key in arrays}
        if len(written) == len(keys):
            # what overflows is refused by `_fill`
            with np.errstate(over="ignore", invalid="ignore"):
                whole = peft.restore(tuned.options, arguments, written)
            found |= {tuned.key(layer, name): a for name, a in whole.items()}
    return found


def _own(path, about):
    """The settings that this library wrote beside the arrays; {} for another library's file."""
    own = parse_json(f"{path}: metadata {ABOUT!r}", about.get(ABOUT, "{}"))
    written = {"method": str, "options": dict}
    check_kind(path, f"metadata {ABOUT!r}", own, written if own else dict)
    check_kind(path, f"metadata {ABOUT!r}: config", own.get("config", {}), dict)
    return own


def _fill(tuned, path, arrays, optional):
    """Copy the stored arrays into tuned's own. Raises ValueError if names or shapes differ."""
    for layer, arguments in tuned.layers.items():  # what a step rule adds is not there yet
        keys = {name: tuned.key(layer, name) for name in tuned.record.remembers}
        for name, like in tuned.record.remembers.items():
            if any(key in arrays for key in keys.values()):
                arguments[name] = np.empty_like(arguments[like])
    live = tuned.arrays
    _check_missing(tuned, path, arrays, optional)
    if extra := sorted(arrays.keys() - live.keys()):
        raise ValueError(
            f"{path}: {len(extra)} arrays have no place in this base, the first is {extra[0]}"
        )
    for name, array in arrays.items():
        if array.shape != live[name].shape:
            raise ValueError(
                f"{path}: {name} has shape {array.shape}, this base wants {live[name].shape}"
            )
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            live[name][...] = array
        check_finite(path, f"{name} as {live[name].dtype}", live[name])
