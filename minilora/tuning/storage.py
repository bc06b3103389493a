"""Adapters on disk in PEFT's layout: adapter_config.json and adapter_model.safetensors.

What a technique writes, it says itself (`Method.peft`). Full fine-tuning is stored as the weights
themselves, under the peft_type "FULL", and a technique that PEFT does not know under "MINILORA".
"""

import contextlib
import json
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.safetensors import array_bytes, check_finite, read_weights, refuse_pickles
from ..llama.model import EMBED, HEAD, Llama
from ..methods import METHODS
from ..methods.base import Method, Settings
from ..support.files import check_kind, errors_at, parse_json, read_json, write_together
from ..support.meta import is_array
from . import checkpoints, patterns
from .adapters import Tuned, attach, check_base, shapes_of
from .choices import SELECTION, find_method, match_targets

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"
ABOUT = "minilora"  # the entry of the arrays' metadata; PEFT reads none
DESCRIPTIVE = ("base_model_name_or_path", "task_type", "inference_mode", "save_projection")
FLAGS = ("use_rslora", "use_dora", "save_projection")
# A change has to come back to this part of its own size, and to so many roundings of the weight's.
LOST, ROUNDING = 1e-5, 3e-6
START = ("dropout", "d_initial")  # options that do not change what the stored arrays compute
# Fields of PEFT's configs that, set, make another formula or other layers. A technique claims those
# that it knows.
CHANGES = (
    "bias",
    "fan_in_fan_out",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "monteclora_config",
    "lora_bias",
    "alora_invocation_tokens",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)
HARMLESS = set(  # fields that are read here, or say how the arrays were made or what they are for
    "peft_type r target_modules lora_alpha lora_dropout use_rslora init_lora_weights init_weights "
    "rank_pattern alpha_pattern vera_dropout d_initial projection_prng_key save_projection "
    "base_model_name_or_path task_type inference_mode auto_mapping revision peft_version "
    "layers_to_transform layers_pattern exclude_modules loftq_config eva_config corda_config "
    "lora_ga_config megatron_config megatron_core qalora_group_size ensure_weight_tying "
    "runtime_config".split()
)
SAME_BASE = (True, False, "gaussian", "orthogonal")  # init_lora_weights that leave W as it is


def save_adapter(tuned: Tuned, folder: str | Path, *, save_projection: bool = True) -> int:
    """Write tuned's adapter for PEFT and load_adapter to read; returns the bytes of its arrays.

    save_projection=False leaves out VeRA's shared A and B, which its key draws again. Raises
    ValueError where what would be written does not give every linear's change back.
    """
    config, arrays = export(tuned, save_projection)
    _check_written(tuned, config, arrays)
    own = {
        "method": tuned.method,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "rank_pattern": tuned.rank_pattern,
        "alpha_pattern": tuned.alpha_pattern,
        "options": tuned.options,
        "base": {"name": tuned.base.name, "crc32": _mark(tuned.base)},
        "config": {k: v for k, v in config.items() if k not in DESCRIPTIVE},
    }
    data = array_bytes(arrays, {ABOUT: json.dumps(own)})
    text = json.dumps(dict(sorted(config.items())), indent=1) + "\n"  # patterns keep their order
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_together({folder / ARRAYS: data, folder / CONFIG: text.encode()})
    return len(data)


def export(
    tuned: Tuned, save_projection: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """adapter_config.json's contents and the arrays under their names on disk."""
    record, peft = tuned.record, tuned.record.peft
    config: dict[str, Any] = {
        "peft_type": "FULL" if record.whole_model else "MINILORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
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
    """Read what was written as a stranger would; compare each linear's whole change and numbers."""
    if tuned.record.whole_model:
        return
    own = {}
    if tuned.record.peft is None:
        own = {"method": tuned.record, "options": tuned.options, "alpha": tuned.alpha}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attach warned of the ranks
        again = _empty(tuned.base, tuned.method, config, own, None, {})
        _fill(again, tuned.method, arrays, _drawn(again.record, config))
    form = f"its form on disk ({config['peft_type']}, read as {again.method})"
    for layer, arguments in tuned.layers.items():
        change, weight = tuned.delta(layer), tuned.base.params[f"{layer}.weight"]
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
    """The kinds of linears that were adapted, where that names them all; else the full names."""
    kinds = sorted({name.rsplit(".", 1)[-1] for name in tuned.layers})
    same = [n for n in tuned.config.linears() if n.rsplit(".", 1)[-1] in kinds]
    return kinds if len(same) == len(tuned.layers) else sorted(tuned.layers)


def load_adapter(
    model: Llama, folder: str | Path, method: str | Method | None = None, **options
) -> Tuned:
    """Put a stored adapter on a model.

    method: the technique that trains on. None: the one that was saved, which the arrays' metadata
    names; in a file of PEFT's own, what its config says. options: the technique's, where the files
    do not settle them. Delta-LoRA's own arrays come back up to the rounding of float32.
    folder: or a checkpoint of `train`, which settles all of it.
    Warns where it was saved on another base of the same shapes.
    Raises ValueError for an adapter of another kind or of a base of other shapes, for a damaged
    file, for files of two adapters, and for a keyword that the files settle; FileNotFoundError;
    TypeError for what is no Llama.
    """
    check_base("load_adapter", model)
    if Path(folder).is_file():
        if method is not None or options:
            raise ValueError(f"{folder}: a checkpoint settles its method and options; got others")
        return checkpoints.load_tuned(folder, model)
    return _load(model, folder, method, options)


def load_unmoved(model: Llama, folder: str | Path) -> Tuned:
    """`load_adapter` for use, not for training: a technique that moves a weight is loaded as PEFT
    reads it, so that no weight of the base is copied.
    """
    return _load(model, folder, None, {}, unmoved=True)


def _load(model, folder, method, options, unmoved=False):
    path = Path(folder) / CONFIG
    config = {name: value for name, value in read_json(path).items() if value is not None}
    refuse_pickles(Path(folder) / ARRAYS)
    arrays, about = read_weights(Path(folder) / ARRAYS)
    own = _own(Path(folder) / ARRAYS, about)
    if unmoved and _wrote_others(METHODS.get(own.get("method")), own):
        own = {"config": own.get("config", {})}
    shapes = _on_shapes(model, path, config, own, method, options)
    for name, value in own.get("config", {}).items():
        if config.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {config.get(name)!r:.80}, but {ARRAYS} was saved with "
                f"{value!r:.80}: files of two adapters"
            )
    if shapes:
        _check_sizes(shapes, Path(folder) / ARRAYS, arrays, _drawn(shapes.record, config))
    tuned = _empty(model, path, config, own, method, options)
    with errors_at(Path(folder) / ARRAYS):
        arrays = _restored(tuned, arrays, own)
    wanted = _other_base(model, own)
    try:
        _fill(tuned, Path(folder) / ARRAYS, arrays, _drawn(tuned.record, config))
    except ValueError as error:
        raise ValueError(f"{error}{f'; wanted {wanted}' if wanted else ''}") from None
    if wanted:
        this = f"{model.name!r} ({_mark(model)})" if model.name else f"({_mark(model)})"
        warnings.warn(f"{folder}: saved on {wanted}, and this is another, {this}", stacklevel=3)
    return tuned


def _on_shapes(model, path, config, own, method, options):
    """`_empty` on shapes alone; None for a reader's own technique that computes what shapes alone
    cannot.
    """
    with warnings.catch_warnings(), contextlib.suppress(TypeError):
        warnings.simplefilter("ignore")  # attach on numbers warns
        return _empty(shapes_of(model), path, config, own, method, options)
    return None


def _check_sizes(shapes, path, arrays, optional):
    """Raises ValueError where attach would make a larger array than the file has: a wrong rank
    would fill the memory before it is noticed.
    """
    _check_missing(shapes, path, arrays, optional)
    wanted = shapes.arrays
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
    """The base that the adapter was saved on, in words, if it is another; "" where it is not told.

    The number in brackets is its fingerprint.
    """
    saved = own.get("base")
    if not isinstance(saved, dict) or saved.get("crc32") == _mark(model):
        return ""
    name = f"{saved['name']!r:.40} " if saved.get("name") else ""
    return f"the base {name}({saved.get('crc32')!s:.8})"


MARKS: weakref.WeakKeyDictionary[Llama, str] = weakref.WeakKeyDictionary()  # a base -> its own


def _mark(model) -> str:
    """The fingerprint of a base's weights in float32: of one base in any precision. Kept, since an
    adapter is read in less time than a base's weights.
    """
    if model not in MARKS:
        narrow = model if model.dtype == np.float32 else model.astype(np.float32)
        MARKS[model] = checkpoints.fingerprint(narrow)
    return MARKS[model]


def _restored(tuned, arrays, own):
    """The technique's own arrays by their keys, where it wrote others for PEFT to read.

    Arrays of which it makes nothing stay as they are: `_fill` refuses them.
    """
    peft = tuned.record.peft
    if not _wrote_others(tuned.record, own):
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


def _wrote_others(record, own):
    """Did this technique write the file, and other arrays than its own?"""
    peft = record.peft if record else None
    return bool(peft and peft.restore) and _name(own.get("method")) == record.name


def _drawn(record, config):
    """The keys of shared arrays that may be missing, since a key draws them again."""
    peft = record.peft
    left_out = peft and peft.drawn and config.get(peft.drawn) is False
    return set(peft.shared.values()) if left_out else set()


def _own(path, about):
    """What this library wrote beside the arrays; {} in a file of another's."""
    own = parse_json(f"{path}: metadata {ABOUT!r}", about.get(ABOUT, "{}"))
    written = {"method": str, "options": dict}
    check_kind(path, f"metadata {ABOUT!r}", own, written if own else dict)
    check_kind(path, f"metadata {ABOUT!r}: config", own.get("config", {}), dict)
    return own


def _fill(tuned, path, arrays, optional):
    """Write the stored arrays into tuned's own; raises ValueError where they are not the same."""
    for layer, arguments in tuned.layers.items():  # what a step rule adds is not there yet
        keys = {name: tuned.key(layer, name) for name in tuned.record.remembers}
        for name, like in tuned.record.remembers.items():
            if any(key in arrays for key in keys.values()):
                _check_like(path, keys[name], arrays, like, arguments[like].shape)
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


def _check_like(path, key, arrays, like, shape):
    """Raises ValueError unless the file has this array, in the shape of the argument `like`."""
    if key not in arrays:
        raise ValueError(f"{path}: {key} is missing")
    if (found := arrays[key].shape) != shape:
        raise ValueError(f"{path}: {key} has shape {found}, wanted that of {like}, {shape}")


def _empty(model, path, config, own, method, options):
    """attach as the config says; the arrays come afterwards."""
    kind = config.get("peft_type")
    for name in FLAGS:
        check_kind(path, name, config.get(name, False), bool)
    record, fields = _technique(path, config, own, method)
    if kind == "FULL":
        return attach(model, record, **options)
    claims = record.peft.claims if record.peft else ()
    _check_formula(path, config, claims)
    given: dict[str, Any] = {"targets": _targets(path, config, model)}
    given |= {k: v for k, v in fields.items() if k in record.takes}
    settings = config
    if _wrote_others(record, own):
        settings = own
        given |= {name: own.get(name) for name in ("rank", "alpha") if name in record.takes}
    for name, of in (("rank_pattern", int), ("alpha_pattern", float)):
        given[name] = _pattern(path, name, settings, of, model, given["targets"])
    read = {k: v for k, v in fields.items() if k in record.options and v is not None}
    mine = own["options"] if _name(own.get("method")) == record.name else {}  # ratio and the like
    mine = {k: v for k, v in mine.items() if k in record.options}
    settle = mine | read if _wrote_others(record, own) else read
    differ = {k for k in settle.keys() & options.keys() - {*START} if options[k] != settle[k]}
    if settled := given.keys() & options.keys() | differ:
        raise ValueError(f"{path}: {min(settled)} is settled by the adapter's own files")
    options = {**mine, **read, **options}
    try:
        return attach(model, record, **given, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _name(method):
    return method.name if isinstance(method, Method) else method


def _technique(path, config, own, method) -> tuple[Method, dict[str, Any]]:
    """The record that trains on, and what it reads out of the config as attach's keywords.

    method: a name or a record; None: the one that was saved, or the first whose form this is.
    """
    kind = config.get("peft_type")
    if kind in ("FULL", "MINILORA"):
        whole = next(name for name, record in METHODS.items() if record.whole_model)
        stored = whole if kind == "FULL" else own.get("method")
        chosen = stored if method is None else method
        if chosen is None:
            raise ValueError(f"{path}: peft_type is {kind!r}, and nothing says which technique")
        record = chosen if isinstance(chosen, Method) else find_method(chosen)
        if kind == "MINILORA" and record.name != _name(stored):
            raise ValueError(f"{path}: stored as {_name(stored)}, which is not {record.name}")
        if (kind == "FULL") != record.whole_model:
            form = "whole weights" if kind == "FULL" else "an adapter"
            raise ValueError(f"{path}: stored as {form}, which {record.name} cannot train on")
        return record, {"rank": config.get("r"), "alpha": own.get("alpha")}
    records = dict(METHODS)
    if method is not None:
        record = method if isinstance(method, Method) else find_method(method)
        records[record.name] = record
    try:
        readings = {n: r.peft.from_peft(config) for n, r in records.items() if r.peft}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    fits = {name: fields for name, fields in readings.items() if fields is not None}
    if not fits:
        raise ValueError(f"{path}: peft_type is {kind!r:.80}, supported are LORA and VERA")
    saved = own.get("method")
    if method is not None:
        name = record.name
    elif saved in fits:
        name = saved
    else:
        # a technique that claims a field goes before those that would refuse it
        claims = {name: r.peft.claims for name, r in records.items() if r.peft}
        name = max(fits, key=lambda n: bool(claims[n]))
        if saved is not None and saved not in METHODS:
            warnings.warn(
                f"{path}: saved by {saved!r:.80}, which is unknown here, and loaded as {name}; "
                "method= takes your own Method",
                stacklevel=5,
            )
    if name not in fits:
        raise ValueError(
            f"{path}: stored as {kind}, which {name} cannot train on; "
            f"wanted one of {', '.join(fits)}"
        )
    return records[name], fits[name]


def _check_formula(path, config, claims):
    """Raises ValueError for a field that makes another formula than the technique's, which claims
    some; warns of a field that is not known here.
    """
    given = {k: v for k, v in config.items() if v not in (None, False, "none", {}, [])}
    for name in CHANGES:
        if name in given and name not in claims:
            raise ValueError(
                f"{path}: {name} is {given[name]!r:.80}: not supported, it changes the mathematics"
            )
    if unknown := sorted(given.keys() - HARMLESS - set(claims)):
        warnings.warn(
            f"{path}: {unknown[0]} is {given[unknown[0]]!r:.80}: unknown here, and taken to change "
            "nothing",
            stacklevel=5,
        )
    init = config.get("init_lora_weights", True)
    if init not in SAME_BASE and "init_lora_weights" not in claims:
        raise ValueError(
            f"{path}: init_lora_weights is {init!r:.80}: not supported; wanted one that is known "
            f"to leave the base as it is: {', '.join(map(repr, SAME_BASE))}"
        )


def _pattern(path, name, config, kind, model, targets):
    """A pattern of the config, without what matches no adapted layer: PEFT passes over that,
    too.
    """
    pattern = config.get(name, {})
    check_kind(path, name, pattern, {str: kind})
    try:
        adapted = match_targets(model.config, targets) if pattern else []
        return {k: v for k, v in pattern.items() if any(patterns.end(k, n) for n in adapted)}
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from None


def _targets(path, config, model):
    """target_modules and what else chooses layers in PEFT's config, as attach's targets."""
    modules = config.get("target_modules")
    selection = {name: config[name] for name in SELECTION if config.get(name)}
    if isinstance(config.get("layers_to_transform"), int):  # 0 too
        selection["layers_to_transform"] = config["layers_to_transform"]
    for name, value in selection.items():
        kind = int if name == "layers_to_transform" else str
        check_kind(path, name, value, [kind] if isinstance(value, list) else kind)
    if isinstance(excluded := selection.get("exclude_modules"), str):
        selection["exclude_modules"] = f"(?:{excluded})"  # PEFT takes a name for a pattern, too
    if not isinstance(modules, str):
        check_kind(path, "target_modules", modules, [str])
        targets: Any = tuple(modules)
    elif modules.lower() == "all-linear":
        targets = "all-linear"
    else:
        targets = _whole_names(path, modules, model)
    if not selection:
        return targets
    with errors_at(path):
        return tuple(match_targets(model.config, targets, **selection))


def _whole_names(path, pattern, model):
    """The names that PEFT's regular expression matches as a whole."""
    ends = [name.removesuffix(".weight") for name in (EMBED, HEAD)]
    with errors_at(f"{path}: target_modules"):
        hits = [n for n in (*ends, *model.config.linears()) if patterns.full(pattern, n)]
    if not hits:
        raise ValueError(
            f"{path}: target_modules is {pattern!r:.80}, which matches no linear's whole name, "
            f"as {next(iter(model.config.linears()))} is one"
        )
    return tuple(hits)
