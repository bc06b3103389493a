"""A Hugging Face config.json as a ModelConfig, and back."""

import dataclasses
from pathlib import Path
from typing import Any

from ..llama.architectures import ARCHITECTURES, Architecture
from ..llama.model import Llama, ModelConfig
from ..llama.rotation import Llama3Scaling
from ..support.files import check_kind, errors_at, read_json

CONFIG = "config.json"
# a field of any model_type -> the only supported value
SUPPORTED = {"hidden_act": "silu", "pretraining_tp": 1, "quantization_config": None}
# field -> its kind in JSON, where this is not the type of ModelConfig's field
OTHER_KINDS = {"sliding_window": int, "no_rope_layers": [int]}


def config_json(model: Llama) -> dict:
    """The contents of config.json.

    RoPE's θ and its scaling are written under their old and their new names, for old and new
    versions of transformers.
    """
    architecture, fields = model.config.architecture, dataclasses.asdict(model.config)
    scaling = fields.pop("rope_scaling")
    rope = {"rope_type": "llama3", **scaling} if scaling else {"rope_type": "default"}
    tokens = {"pad_token_id": None}  # SmolLM3's default id is outside a small vocabulary
    if model.tokenizer:
        eos, pad = model.tokenizer.eos_id, model.tokenizer.pad_id
        bos = getattr(model.tokenizer, "bos_id", None)
        tokens = {"eos_token_id": eos, "pad_token_id": pad, "bos_token_id": bos}
    return {
        "architectures": [architecture.class_name],
        "model_type": fields.pop("model_type"),
        **{k: value for k, value in fields.items() if _has(architecture, k) and value != ()},
        **({"rope_scaling": rope} if scaling else {}),
        "rope_parameters": {**rope, "rope_theta": fields["rope_theta"]},
        "hidden_act": "silu",
        **dict.fromkeys(architecture.off, False),
        **tokens,
        "torch_dtype": str(model.dtype),
    }


def _has(architecture: Architecture, name: str) -> bool:
    """Does this architecture have this field of a ModelConfig?"""
    return name in architecture.own or not any(name in a.own for a in ARCHITECTURES.values())


def read_config(path: str | Path) -> ModelConfig:
    """A ModelConfig from config.json; a field that is absent or null has transformers' default.

    Raises FileNotFoundError, or ValueError with the first field that is wrong or not supported.
    """
    stored = read_json(path)
    fields = {name: value for name, value in stored.items() if value is not None}
    kind = fields.get("model_type")
    if kind not in tuple(ARCHITECTURES):
        wanted = ", ".join(ARCHITECTURES)
        raise ValueError(f"{path}: model_type is {kind!r:.80}, wanted one of {wanted}")
    architecture = ARCHITECTURES[kind]
    quantised = fields.get("quantization_config")
    if isinstance(quantised, dict) and quantised.get("quant_method") == "bitsandbytes":
        del fields["quantization_config"]  # the weight file holds these settings
    for name, value in supported(architecture).items():
        if fields.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {fields[name]!r:.80}, supported is {value!r}")
    check_kind(path, "it", fields, {"layer_types?": [str]})
    if other := sorted(set(fields.get("layer_types", [])) - {"full_attention"}):
        raise ValueError(f"{path}: layer_types has {other[0]!r:.80}, supported is 'full_attention'")
    absent = {"num_key_value_heads": fields.get("num_attention_heads"), "rms_norm_eps": 1e-6}
    # null does not mean "the default": Mistral then has no window, and G is H
    absent |= {name: v for name, v in architecture.defaults.items() if name not in stored}
    fields = {**absent, **fields, **_rope(path, fields)}
    scaling = fields.pop("rope_scaling")
    kinds: dict[str, Any] = {
        field.name: field.type
        for field in dataclasses.fields(ModelConfig)
        if _has(architecture, field.name)
        and (field.name in fields or field.default is dataclasses.MISSING)
    }
    kinds |= {name: kind for name, kind in OTHER_KINDS.items() if name in kinds}
    check_kind(path, "it", fields, kinds)
    if "no_rope_layers" in kinds:  # a longer list is allowed
        rotated = fields["no_rope_layers"][: fields["num_hidden_layers"]]
        fields["no_rope_layers"] = tuple(rotated)
    with errors_at(path, "config: "):
        return ModelConfig(**{name: fields[name] for name in kinds}, rope_scaling=scaling)


def supported(architecture: Architecture) -> dict[str, Any]:
    """Field of config.json -> the only supported value."""
    return SUPPORTED | dict.fromkeys(architecture.off, False)


def _rope(path: str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    """{"rope_scaling": Llama3Scaling or None}, and "rope_theta": θ if the config has one.

    θ is a field of the config, of its object rope_parameters, or of rope_scaling, the older name of
    that object. A scaling is in one of the two objects.
    Raises ValueError for other kinds of scaling, or if two places have different values.
    """
    thetas: dict[str, Any] = {"rope_theta": fields.get("rope_theta")}
    scalings: dict[str, Llama3Scaling | None] = {}
    for name in ("rope_parameters", "rope_scaling"):
        check_kind(path, name, fields.get(name, {}), dict)
        rope = {key: value for key, value in fields.get(name, {}).items() if value is not None}
        thetas[f"{name}.rope_theta"] = rope.pop("rope_theta", None)
        if rope:
            scalings[name] = _scaling(f"{path}: {name}", rope)
    thetas = {name: theta for name, theta in thetas.items() if theta is not None}
    for name, theta in thetas.items():
        check_kind(path, name, theta, float)
    for values in (thetas, scalings):
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} is {value!r:.200}" for name, value in values.items())
            raise ValueError(f"{path}: {listed}; wanted the same value")
    scaling = {"rope_scaling": next(iter(scalings.values()), None)}
    return scaling | ({"rope_theta": next(iter(thetas.values()))} if thetas else {})


def _scaling(place, rope):
    """The object rope_parameters or rope_scaling, without θ, as a Llama3Scaling; None: "default".

    Raises ValueError with the first field that is missing or not supported.
    """
    # "type" is the older name of "rope_type"
    kinds = {key: rope.pop(key) for key in ("rope_type", "type") if key in rope}
    for key, kind in kinds.items():
        if kind not in ("default", "llama3"):
            raise ValueError(
                f"{place}: {key} is {kind!r:.80}, supported are 'default' and 'llama3': "
                "any other kind computes other angles"
            )
    llama3 = "llama3" in kinds.values()
    wanted = [field.name for field in dataclasses.fields(Llama3Scaling)] if llama3 else []
    if not rope.keys() <= set(wanted):
        supported = ", ".join(("rope_type", "rope_theta", *wanted))
        raise ValueError(f"{place} is {rope!r:.120}, supported are {supported}")
    for name in wanted:
        if name not in rope:
            raise ValueError(f"{place}: no {name} in it")
    with errors_at(place, "config: rope scaling: "):
        return Llama3Scaling(**rope) if llama3 else None
