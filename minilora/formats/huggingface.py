"""Bases in Hugging Face's layout: a folder with config.json, model.safetensors and, where there is
one, a tokenizer.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from ..files import data_folder, write_atomically
from ..model import HEAD, Llama, ModelConfig
from ..tokenizer import CharTokenizer
from .safetensors import read_arrays, write_arrays

UNSUPPORTED = {  # config field -> the only values that leave the mathematics as it is here
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "rope_scaling": (None,),
}


def load_model(source: str | Path) -> Llama:
    """ "base", the word lab's pretrained base, or a folder of a Hugging Face LlamaForCausalLM, in
    float32 (float64 kept).

    Raises FileNotFoundError, or ValueError for another architecture, an unsupported field or a
    damaged file.
    """
    folder = data_folder() / "base" if str(source) == "base" else Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"load_model: {folder} is no folder; wanted 'base' or a folder with config.json"
        )
    config = read_config(folder / "config.json")
    params, _ = read_arrays(folder / "model.safetensors")
    params = {
        name: a if a.dtype == np.float64 else a.astype(np.float32, copy=False)
        for name, a in params.items()
    }
    if config.tie_word_embeddings:
        params.pop(HEAD, None)  # some writers store the tied matrix twice
    tokenizer = CharTokenizer.load(folder) if (folder / "tokenizer.json").is_file() else None
    if tokenizer and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the model {config.vocab_size}"
        )
    return Llama(config, params, tokenizer)


def save_model(model: Llama, folder: str | Path) -> None:
    """Write a folder that load_model and transformers can load."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if model.tokenizer:
        model.tokenizer.save(folder)
    write_arrays(folder / "model.safetensors", model.params)
    write_atomically(
        folder / "config.json", json.dumps(config_json(model), indent=1).encode() + b"\n"
    )


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
    """A ModelConfig from config.json; raises ValueError naming the field that this Llama does not
    have.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict) or fields.get("model_type") != "llama":
        kind = fields.get("model_type") if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f"{path}: model_type is {kind!r}, wanted 'llama'")
    for name, allowed in UNSUPPORTED.items():
        if fields.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{path}: {name} is {fields[name]!r}, supported is {allowed[0]!r}")
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{path}: rope_type is {rope['rope_type']!r}, supported is 'default'")
    fields = {"num_key_value_heads": fields.get("num_attention_heads"), **rope, **fields}
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    try:
        return ModelConfig(**{k: v for k, v in fields.items() if k in known and v is not None})
    except TypeError as error:
        raise ValueError(f"{path}: {str(error).split(') ')[-1]}") from None
