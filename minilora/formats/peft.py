"""Adapters in PEFT's layout: a folder with adapter_config.json and adapter_model.safetensors.

LoRA-FA and LoRA+ are stored as plain LoRA. Delta-LoRA is stored as the LoRA of rank 2r that does
the same on the untouched
base: W₀ + λs(BA - B_k A_k) + sBA = W₀ + s [(1+λ)B, -λB_k] [A; A_k], where the index k marks the
start step. Full fine-tuning is stored as the weights themselves, under adapter_config.json's
"FULL", which PEFT does not know.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters import Tuned, attach, find_method
from ..files import write_atomically
from ..methods import METHODS
from ..model import Llama
from .safetensors import read_arrays, write_arrays

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"


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
    }
    write_arrays(folder / ARRAYS, arrays, {"minilora": json.dumps(own)})  # PEFT reads no metadata
    write_atomically(folder / CONFIG, json.dumps(config, indent=1, sort_keys=True).encode() + b"\n")
    return (folder / ARRAYS).stat().st_size


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
        arrays, rank = _as_plain_lora(tuned)
        s = next(iter(tuned.layers.values()))["s"]
        config |= {
            "r": rank,
            "lora_alpha": _whole(s * rank),
            "lora_dropout": tuned.options.get("dropout", 0.0),
            "use_rslora": False,
            "init_lora_weights": True,
        }
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
    """All arrays of a LoRA that does the same on the untouched base, and its rank."""
    arrays, rank = {}, tuned.rank
    ratio = tuned.options.get("update_ratio", 0.0) if tuned.record.owns_weight else 0.0
    moved = any("A_start" in a for a in tuned.layers.values())
    for layer, a in tuned.layers.items():
        A, B = a["A"], a["B"]
        if moved:
            rank = 2 * tuned.rank
            A = np.concatenate([A, a["A_start"]], axis=0)
            B = np.concatenate([(1 + ratio) * B, -ratio * a["B_start"]], axis=1)
        arrays[tuned.key(layer, "A")], arrays[tuned.key(layer, "B")] = A, B
    return arrays, rank


def _whole(alpha):
    """8.0 as 8: PEFT writes whole alphas as whole numbers."""
    nearest = round(alpha)
    return nearest if abs(alpha - nearest) < 1e-9 else alpha


def load_adapter(model: Llama, folder: str | Path, method: str | None = None, **options) -> Tuned:
    """Put a stored adapter on a model. method says which technique trains on: LoRA-FA and LoRA+ are
    stored as LoRA.

    Raises ValueError for an adapter of another kind or another base, FileNotFoundError.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder / CONFIG}: no such file")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"{folder / CONFIG}: a {type(config).__name__}, wanted an object of settings"
        )
    arrays, about = read_arrays(folder / ARRAYS)
    own = json.loads(about.get("minilora", "{}"))
    tuned = _empty(model, folder, config, own, method, options)
    live = tuned.arrays
    drawn = tuned.record.peft and config.get("save_projection") is False  # the key draws them again
    shared = set(tuned.record.peft.shared.values()) if drawn else set()
    derived = {k for k in live if k.endswith(".base_layer.weight")}
    if missing := sorted(live.keys() - derived - shared - arrays.keys()):
        raise ValueError(f"{folder}: {len(missing)} arrays are missing, the first is {missing[0]}")
    if extra := sorted(arrays.keys() - live.keys()):
        raise ValueError(
            f"{folder}: {len(extra)} arrays have no place in this base, the first is {extra[0]}"
        )
    for name, array in arrays.items():
        if array.shape != live[name].shape:
            raise ValueError(
                f"{folder}: {name} has shape {array.shape}, this base wants {live[name].shape}"
            )
    for name, array in arrays.items():
        live[name][...] = array
    return tuned


CHANGES = (  # fields of PEFT's configs that, set, make another formula or other layers
    "bias",
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)


def _empty(model, folder, config, own, method, options):
    """attach as the config says; the arrays come afterwards."""
    kind = config.get("peft_type")
    if kind == "FULL":
        method = method or "full"
        if not find_method(method).whole_model:
            raise ValueError(f"{folder}: stored as whole weights, which {method} cannot train on")
        return attach(model, method, **options)
    stored = {"LORA": "lora", "VERA": "vera"}.get(kind) or (
        own.get("method") if kind == "MINILORA" else None
    )
    if stored is None:
        raise ValueError(f"{folder}: peft_type is {kind!r}, supported are LORA and VERA")
    for name in CHANGES:
        if config.get(name) not in (None, False, "none", {}, []):
            raise ValueError(
                f"{folder}: {name} is {config[name]!r}: not supported, it changes the mathematics"
            )
    method = method or stored
    record = find_method(method)
    if kind in ("LORA", "VERA") and (record.peft is None or record.peft.type != kind):
        same = [m for m, r in METHODS.items() if r.peft and r.peft.type == kind]
        raise ValueError(
            f"{folder}: stored as {kind}, which {method} cannot train on; "
            f"wanted one of {', '.join(same)}"
        )
    given: dict[str, Any] = {"targets": _targets(config.get("target_modules"))}
    if "rank" in record.takes:
        given["rank"] = config.get("r")
    if "alpha" in record.takes:
        given["alpha"] = config.get("lora_alpha", own.get("alpha"))
    inherited = {
        "rank_stabilized": config.get("use_rslora"),
        "dropout": config.get("lora_dropout", config.get("vera_dropout")),
        "projection_prng_key": config.get("projection_prng_key"),
        "d_initial": config.get("d_initial"),
        **(own.get("options", {}) if kind not in ("LORA", "VERA") else {}),
    }
    inherited = {k: v for k, v in inherited.items() if k in record.options and v is not None}
    return attach(model, method, **given, **{**inherited, **options})


def _targets(modules):
    return modules if modules == "all-linear" else tuple(modules or ())
