"""Bases in Hugging Face's layout: a folder with config.json, model.safetensors and, where there is
one, a tokenizer.
"""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..files import check_kind, data_folder, read_json, write_together
from ..model import HEAD, Llama, ModelConfig
from ..tokenizer import CharTokenizer, ForeignTokenizer
from .safetensors import array_bytes, read_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
UNSUPPORTED = {  # config field -> the only values that leave the mathematics as it is here
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
}


def load_model(source: str | Path) -> Llama:
    """ "base", the word lab's pretrained base, or a folder of a Hugging Face LlamaForCausalLM, in
    float32 (float64 kept).

    Warns where the tokenizer is of another kind than this library's: the model comes without one.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported field or a
    damaged file.
    """
    folder = data_folder() / "base" if str(source) == "base" else Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"load_model: {folder} is no folder; wanted 'base' or a folder with config.json"
        )
    config = read_config(folder / CONFIG)
    params, _ = read_weights(folder / WEIGHTS)
    params = {
        name: a if a.dtype == np.float64 else a.astype(np.float32, copy=False)
        for name, a in params.items()
    }
    if config.tie_word_embeddings:
        params.pop(HEAD, None)  # some writers store the tied matrix twice
    if config.num_hidden_layers > len(params):  # before anyone lists the arrays of all layers
        raise ValueError(
            f"{folder / WEIGHTS}: {len(params)} arrays, too few for the "
            f"{config.num_hidden_layers} layers of {CONFIG}"
        )
    tokenizer = _tokenizer(folder)
    if tokenizer and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the model {config.vocab_size}"
        )
    try:
        return Llama(config, params, tokenizer)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {str(error).removeprefix('model: ')}") from None


def _tokenizer(folder):
    """The folder's tokenizer; None where there is none, or none that this library can read."""
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        return CharTokenizer.load(folder)
    except ForeignTokenizer as error:
        warnings.warn(f"{error}; the model comes without a tokenizer", stacklevel=3)
        return None


def save_model(model: Llama, folder: str | Path) -> None:
    """Write a folder that load_model and transformers can load."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        **(model.tokenizer.files() if model.tokenizer else {}),
        WEIGHTS: array_bytes(model.params),
        CONFIG: json.dumps(config_json(model), indent=1).encode() + b"\n",
    }
    write_together({folder / name: data for name, data in files.items()})


def config_json(model: Llama) -> dict:
    """config.json's contents; theta stands under its old and its new name, so that every
    transformers reads it.
    """
    c = model.config
    tokens = {}
    if model.tokenizer:
        tokens = {
            "eos_token_id": model.tokenizer.eos_id,
            "pad_token_id": model.tokenizer.pad_id,
            "bos_token_id": None,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **dataclasses.asdict(c),
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **tokens,
        "torch_dtype": str(model.dtype),
    }


def read_config(path: str | Path) -> ModelConfig:
    """A ModelConfig from config.json; what is absent or null is as in transformers.

    Raises FileNotFoundError, or ValueError naming the field that this Llama does not have.
    """
    fields = {name: value for name, value in read_json(path).items() if value is not None}
    if fields.get("model_type") != "llama":
        raise ValueError(f"{path}: model_type is {fields.get('model_type')!r:.80}, wanted 'llama'")
    for name, allowed in UNSUPPORTED.items():
        if fields.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{path}: {name} is {fields[name]!r:.80}, supported is {allowed[0]!r}")
    absent = {"num_key_value_heads": fields.get("num_attention_heads"), "rms_norm_eps": 1e-6}
    fields = {**absent, **fields, **_rope(path, fields)}
    given = {}
    for field in dataclasses.fields(ModelConfig):
        if field.name in fields:
            check_kind(path, field.name, fields[field.name], field.type)
            given[field.name] = fields[field.name]
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{path}: no {field.name} in it")
    try:
        return ModelConfig(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('config: ')}") from None


def _rope(path: str | Path, fields: dict[str, Any]) -> dict[str, float]:
    """{"rope_theta": θ} where the config has one: by itself, in rope_parameters, or in that one's
    older name rope_scaling. Raises ValueError for other wavelengths than θ's, and for two θ.
    """
    thetas: dict[str, Any] = {"rope_theta": fields.get("rope_theta")}
    for name in ("rope_parameters", "rope_scaling"):
        check_kind(path, name, fields.get(name, {}), dict)
        rope = {key: value for key, value in fields.get(name, {}).items() if value is not None}
        thetas[f"{name}.rope_theta"] = rope.pop("rope_theta", None)
        for key in ("rope_type", "type"):  # the new name and the old
            if (kind := rope.pop(key, "default")) != "default":
                raise ValueError(
                    f"{path}: {name}: {key} is {kind!r:.80}, supported is 'default': "
                    "it changes the mathematics"
                )
        if rope:
            raise ValueError(
                f"{path}: {name} is {fields[name]!r:.80}, supported are rope_type and rope_theta"
            )
    thetas = {name: theta for name, theta in thetas.items() if theta is not None}
    for name, theta in thetas.items():
        check_kind(path, name, theta, float)
    if len(set(thetas.values())) > 1:
        said = ", ".join(f"{name} is {theta!r:.20}" for name, theta in thetas.items())
        raise ValueError(f"{path}: {said}; wanted one and the same")
    return {"rope_theta": next(iter(thetas.values()))} if thetas else {}
