"""Adapters in PEFT's layout: a folder with adapter_config.json and adapter_model.safetensors.

LoRA-FA and LoRA+ are stored as plain LoRA. Delta-LoRA is stored as the LoRA of rank 2r that does
the same on the untouched base: see its `factors`; its moved base is what `merge` and save_model
write. Full fine-tuning is stored as the weights themselves, under adapter_config.json's "FULL",
which PEFT does not know.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.safetensors import array_bytes, read_weights, refuse_pickles
from ..llama.model import EMBED, HEAD, Llama
from ..methods import METHODS
from ..support.files import check_kind, parse_json, read_json, write_together
from .adapters import Tuned, attach
from .choices import find_method, match_targets, matches

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"
ABOUT = "minilora"  # the entry of the arrays' metadata; PEFT reads none
DESCRIPTIVE = ("base_model_name_or_path", "task_type", "inference_mode", "save_projection")
CHANGES = (  # fields of PEFT's configs that, set, make another formula or other layers
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
    "exclude_modules",
    "layers_to_transform",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)
HARMLESS = set(  # fields that are read here, or say how the arrays were made or what they are for
    "peft_type r target_modules lora_alpha lora_dropout use_rslora init_lora_weights init_weights "
    "rank_pattern alpha_pattern vera_dropout d_initial projection_prng_key save_projection "
    "base_model_name_or_path task_type inference_mode auto_mapping revision peft_version "
    "layers_pattern loftq_config eva_config corda_config lora_ga_config megatron_config "
    "megatron_core qalora_group_size ensure_weight_tying runtime_config".split()
)
SAME_BASE = (True, False, "gaussian", "orthogonal")  # init_lora_weights that leave W as it is


def save_adapter(tuned: Tuned, folder: str | Path, *, save_projection: bool = True) -> int:
    """Write tuned's adapter for PEFT (and load_adapter) to read; returns the bytes of its arrays'
    file.

    save_projection=False leaves out VeRA's shared A and B, which its key regenerates.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, arrays = export(tuned, save_projection)
    own = {
        "method": tuned.method,
        "rank": tuned.rank,
        "alpha": tuned.alpha,
        "options": tuned.options,
        "config": {k: v for k, v in config.items() if k not in DESCRIPTIVE},
    }
    data = array_bytes(arrays, {ABOUT: json.dumps(own)})
    text = json.dumps(dict(sorted(config.items())), indent=1) + "\n"  # patterns keep their order
    write_together({folder / ARRAYS: data, folder / CONFIG: text.encode()})
    return len(data)


def export(
    tuned: Tuned, save_projection: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """adapter_config.json's contents and the arrays under their names on disk."""
    record, peft = tuned.record, tuned.record.peft
    arrays = dict(tuned.trainable)
    config: dict[str, Any] = {
        "peft_type": peft.type if peft else "MINILORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    if record.whole_model:
        return config | {"peft_type": "FULL"}, arrays
    config |= {"r": tuned.rank, "target_modules": _target_modules(tuned)}
    if peft and peft.type == "LORA":
        arrays, times = _as_plain_lora(tuned)
        stabilized = tuned.options["rank_stabilized"]
        louder = times ** (0.5 if stabilized else 1)  # of another rank, the same scaling
        config |= {
            "r": tuned.rank * times,
            "lora_alpha": _plain(tuned.alpha * louder),
            "lora_dropout": tuned.options.get("dropout", 0.0),
            "use_rslora": stabilized,
            "init_lora_weights": True,
        }
        patterns = {
            "rank_pattern": {k: r * times for k, r in tuned.rank_pattern.items()},
            "alpha_pattern": {k: _plain(a * louder) for k, a in tuned.alpha_pattern.items()},
        }
        config |= {name: pattern for name, pattern in patterns.items() if pattern}
    elif peft and peft.type == "VERA":
        config |= {
            "projection_prng_key": tuned.options["projection_prng_key"],
            "d_initial": tuned.options["d_initial"],
            "vera_dropout": tuned.options["dropout"],
            "save_projection": save_projection,
            "init_weights": True,
        }
        if save_projection:
            arrays |= {peft.shared[name]: a for name, a in tuned.shared.items()}
    else:
        arrays = dict(tuned.arrays)
    return config, arrays


def _target_modules(tuned):
    """The kinds of linears that were adapted, where that names them all; else the full names."""
    kinds = sorted({name.rsplit(".", 1)[-1] for name in tuned.layers})
    same = [n for n in tuned.config.linears() if n.rsplit(".", 1)[-1] in kinds]
    return kinds if len(same) == len(tuned.layers) else sorted(tuned.layers)


def _as_plain_lora(tuned):
    """All arrays of a LoRA that does the same on the untouched base, and how many times the rank it
    has.
    """
    arrays, times = {}, 1
    for layer, arguments in tuned.layers.items():
        B, A = tuned.factors(layer)
        times = len(A) // len(arguments["A"])
        arrays[tuned.key(layer, "A")], arrays[tuned.key(layer, "B")] = A, B
    return arrays, times


def _plain(alpha):
    """8.0 as 8: PEFT writes whole alphas as whole numbers."""
    return int(alpha) if abs(alpha) < 2**53 and alpha == int(alpha) else alpha


def load_adapter(model: Llama, folder: str | Path, method: str | None = None, **options) -> Tuned:
    """Put a stored adapter on a model. method says which technique trains on: LoRA-FA and LoRA+ are
    stored as LoRA.

    Raises ValueError for an adapter of another kind or of a base of other shapes (as PEFT's files,
    these do not tell two of one shape apart), for a damaged file, for files of two adapters, and
    for a keyword that the files settle; FileNotFoundError.
    """
    path = Path(folder) / CONFIG
    config = {name: value for name, value in read_json(path).items() if value is not None}
    refuse_pickles(Path(folder) / ARRAYS)
    arrays, about = read_weights(Path(folder) / ARRAYS)
    own = _own(Path(folder) / ARRAYS, about)
    tuned = _empty(model, path, config, own, method, options)
    for name, value in own.get("config", {}).items():
        if config.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {config.get(name)!r:.80}, but {ARRAYS} was saved with "
                f"{value!r:.80}: files of two adapters"
            )
    drawn = tuned.record.peft and config.get("save_projection") is False  # the key draws them again
    optional = set(tuned.record.peft.shared.values()) if drawn else set()
    _fill(tuned, Path(folder) / ARRAYS, arrays, optional)
    return tuned


def _own(path, about):
    """What this library wrote beside the arrays; {} in a file of another's."""
    own = parse_json(f"{path}: metadata {ABOUT!r}", about.get(ABOUT, "{}"))
    written = {"method": str, "options": dict}
    check_kind(path, f"metadata {ABOUT!r}", own, written if own else dict)
    check_kind(path, f"metadata {ABOUT!r}: config", own.get("config", {}), dict)
    return own


def _fill(tuned, path, arrays, optional):
    """Write the stored arrays into tuned's own; raises ValueError where they are not the same."""
    live = tuned.arrays
    derived = {k for k in live if k.endswith(".base_layer.weight")}
    if missing := sorted(live.keys() - derived - optional - arrays.keys()):
        raise ValueError(f"{path}: {len(missing)} arrays are missing, the first is {missing[0]}")
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
        live[name][...] = array


def _empty(model, path, config, own, method, options):
    """attach as the config says; the arrays come afterwards."""
    kind = config.get("peft_type")
    kinds = {"LORA": "lora", "VERA": "vera", "FULL": "full"}
    stored = own.get("method") if kind == "MINILORA" else kinds.get(str(kind))
    if stored is None:
        raise ValueError(f"{path}: peft_type is {kind!r:.80}, supported are LORA and VERA")
    method = method or stored
    record = find_method(method)
    if kind == "FULL":
        if not record.whole_model:
            raise ValueError(f"{path}: stored as whole weights, which {method} cannot train on")
        return attach(model, method, **options)
    if kind != "MINILORA" and (record.peft is None or record.peft.type != kind):
        same = [m for m, r in METHODS.items() if r.peft and r.peft.type == kind]
        raise ValueError(
            f"{path}: stored as {kind}, which {method} cannot train on; "
            f"wanted one of {', '.join(same)}"
        )
    _check_formula(path, config)
    given: dict[str, Any] = {"targets": _targets(path, config.get("target_modules"), model)}
    if "rank" in record.takes:
        given["rank"] = config.get("r")
    if "alpha" in record.takes:
        given["alpha"] = config.get("lora_alpha", own.get("alpha", 8))  # PEFT's where it is absent
    for name, kind in (("rank_pattern", int), ("alpha_pattern", float)):
        given[name] = _pattern(path, name, config, kind, model, given["targets"])
    if settled := given.keys() & options.keys():
        raise ValueError(f"{path}: {min(settled)} is settled by the adapter's own files")
    read = {
        "rank_stabilized": config.get("use_rslora"),
        "dropout": config.get("lora_dropout", config.get("vera_dropout")),
        "projection_prng_key": config.get("projection_prng_key"),
        "d_initial": config.get("d_initial"),
    }
    read = {k: v for k, v in read.items() if k in record.options and v is not None}
    mine = own["options"] if own.get("method") == method else {}  # ratio, update_ratio, …
    options = {**{k: v for k, v in mine.items() if k in record.options}, **read, **options}
    try:
        return attach(model, method, **given, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_formula(path, config):
    """Raises ValueError for a field that makes another formula than this library's; warns of one
    that it does not know.
    """
    given = {k: v for k, v in config.items() if v not in (None, False, "none", {}, [])}
    for name in CHANGES:
        if name in given:
            raise ValueError(
                f"{path}: {name} is {given[name]!r:.80}: not supported, it changes the mathematics"
            )
    if unknown := sorted(given.keys() - HARMLESS):
        warnings.warn(
            f"{path}: {unknown[0]} is {given[unknown[0]]!r:.80}: unknown here, and taken to change "
            "nothing",
            stacklevel=4,
        )
    init = config.get("init_lora_weights", True)
    if init not in SAME_BASE:
        raise ValueError(
            f"{path}: init_lora_weights is {init!r:.80}: not supported; wanted one that is known "
            f"to leave the base as it is: {', '.join(map(repr, SAME_BASE))}"
        )
    for name in ("use_rslora", "save_projection"):
        check_kind(path, name, config.get(name, False), bool)


def _pattern(path, name, config, kind, model, targets):
    """A pattern of the config, without what matches no adapted layer: PEFT passes over that,
    too.
    """
    pattern = config.get(name, {})
    check_kind(path, name, pattern, {str: kind})
    try:
        adapted = match_targets(model.config, targets) if pattern else []
        return {k: v for k, v in pattern.items() if any(matches(k, n) for n in adapted)}
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from None


def _targets(path, modules, model):
    """target_modules as attach takes them: names, or PEFT's regular expression for whole ones."""
    if not isinstance(modules, str):
        check_kind(path, "target_modules", modules, [str])
        return tuple(modules)
    if modules.lower() == "all-linear":
        return "all-linear"
    ends = [name.removesuffix(".weight") for name in (EMBED, HEAD)]
    try:
        hits = [n for n in (*ends, *model.config.linears()) if re.fullmatch(modules, n)]
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: target_modules is {modules!r:.80}, no regular expression: {error}"
        ) from None
    if not hits:
        raise ValueError(
            f"{path}: target_modules is {modules!r:.80}, which matches no linear's whole name, "
            f"as {next(iter(model.config.linears()))} is one"
        )
    return tuple(hits)
