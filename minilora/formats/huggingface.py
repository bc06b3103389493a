"""Bases in Hugging Face's layout: a folder with config.json, model.safetensors (or its shards and
their index) and, where there is one, a tokenizer.
"""

import contextlib
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import HEAD, Llama, ModelConfig
from ..llama.rotation import Llama3Scaling
from ..support.files import check_kind, read_json, write_together
from ..text.byte_pairs import BytePairTokenizer
from ..text.tokenizer import CharTokenizer, ForeignTokenizer
from .safetensors import array_bytes, read_weights, refuse_pickles

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DERIVED = "rotary_emb.inv_freq"  # old checkpoints store the rotation's frequencies, too
UNSUPPORTED = {  # config field -> the only values that leave the mathematics as it is here
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
}


def read_model(folder: str | Path) -> Llama:
    """The folder of a Hugging Face LlamaForCausalLM, in float32 (float64 kept).

    Warns where the tokenizer is of another kind than this library's: the model comes without one.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported field or a
    damaged file.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    path, params = _read_params(folder)
    params = {
        name: a if a.dtype == np.float64 else a.astype(np.float32, copy=False)
        for name, a in params.items()
        if not name.endswith(DERIVED)
    }
    if config.tie_word_embeddings:
        params.pop(HEAD, None)  # some writers store the tied matrix twice
    if config.num_hidden_layers > len(params):  # before anyone lists the arrays of all layers
        raise ValueError(
            f"{path}: {len(params)} arrays, too few for the "
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
        raise ValueError(f"{path}: {str(error).removeprefix('model: ')}") from None


def _read_params(folder):
    """The file to name in an error, and all arrays: of one file, or of the shards of an index."""
    path, index = folder / WEIGHTS, folder / INDEX
    if path.is_file() or not index.is_file():
        refuse_pickles(path)
        return path, read_weights(path)[0]
    place = read_json(index, {"weight_map": {str: str}})["weight_map"]
    params: dict[str, np.ndarray] = {}
    for shard in sorted(set(place.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{index}: weight_map has {shard!r:.80}, wanted a file beside it")
        found, _ = read_weights(folder / shard)
        for name in found:
            if place.get(name) != shard:
                raise ValueError(
                    f"{folder / shard}: holds {name}, which {INDEX} has in {place.get(name)}"
                )
        params |= found
    if missing := sorted(place.keys() - params.keys()):
        raise ValueError(f"{folder / place[missing[0]]}: no {missing[0]}, which {INDEX} has in it")
    return index, params


def _tokenizer(folder):
    """The folder's tokenizer; None where there is none, or none that this library can read."""
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        return CharTokenizer.load(folder)
    except ForeignTokenizer as error:
        with contextlib.suppress(ForeignTokenizer):
            return BytePairTokenizer.load(folder)
        warnings.warn(f"{error}; the model comes without a tokenizer", stacklevel=4)
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
    """config.json's contents; theta and a scaling stand under their old and their new names, so
    that every transformers reads them.
    """
    fields, tokens = dataclasses.asdict(model.config), {}
    stretched = fields.pop("rope_scaling")
    rope = {"rope_type": "llama3", **stretched} if stretched else {"rope_type": "default"}
    if model.tokenizer:
        tokens = {
            "eos_token_id": model.tokenizer.eos_id,
            "pad_token_id": model.tokenizer.pad_id,
            "bos_token_id": None,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **fields,
        **({"rope_scaling": rope} if stretched else {}),
        "rope_parameters": {**rope, "rope_theta": fields["rope_theta"]},
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
    given = {"rope_scaling": fields.pop("rope_scaling")}
    for field in dataclasses.fields(ModelConfig):
        if field.name in given:
            continue
        if field.name in fields:
            check_kind(path, field.name, fields[field.name], field.type)
            given[field.name] = fields[field.name]
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{path}: no {field.name} in it")
    try:
        return ModelConfig(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('config: ')}") from None


def _rope(path: str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    """{"rope_theta": θ where the config has one, "rope_scaling": Llama3Scaling or None}; both stand
    by themselves, in rope_parameters, or in that one's older name rope_scaling.

    Raises ValueError for other kinds of scaling, and where two places say two things.
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
    for said in (thetas, scalings):
        if len(set(said.values())) > 1:
            listed = ", ".join(f"{name} is {value!r:.200}" for name, value in said.items())
            raise ValueError(f"{path}: {listed}; wanted one and the same")
    scaling = {"rope_scaling": next(iter(scalings.values()), None)}
    return scaling | ({"rope_theta": next(iter(thetas.values()))} if thetas else {})


def _scaling(place, rope):
    """One of config.json's objects about RoPE, θ apart, as a Llama3Scaling, or None for "default".

    Raises ValueError naming what is not supported or not there.
    """
    kinds = {key: rope.pop(key) for key in ("rope_type", "type") if key in rope}  # new name, old
    for key, kind in kinds.items():
        if kind not in ("default", "llama3"):
            raise ValueError(
                f"{place}: {key} is {kind!r:.80}, supported are 'default' and 'llama3': "
                "it changes the mathematics"
            )
    stretched = "llama3" in kinds.values()
    wanted = [field.name for field in dataclasses.fields(Llama3Scaling)] if stretched else []
    if not rope.keys() <= set(wanted):
        supported = ", ".join(("rope_type", "rope_theta", *wanted))
        raise ValueError(f"{place} is {rope!r:.120}, supported are {supported}")
    for name in wanted:
        if name not in rope:
            raise ValueError(f"{place}: no {name} in it")
    try:
        return Llama3Scaling(**rope) if stretched else None
    except ValueError as error:
        raise ValueError(f"{place}: {str(error).removeprefix('config: rope scaling: ')}") from None
