"""A base in Hugging Face's layout: a folder with config.json, the weights, perhaps a tokenizer.

The weights are in model.safetensors, or in several such files (shards) with an index.
"""

import contextlib
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import HEAD, Llama, ModelConfig, check_shapes
from ..llama.rotation import Llama3Scaling
from ..support.files import check_kind, errors_at, read_json, write_together
from ..text.byte_pairs import BytePairTokenizer
from ..text.tokenizer import CharTokenizer, ForeignTokenizer
from .bitsandbytes import joined
from .forms import choose, put
from .safetensors import array_bytes, check_finite, open_arrays, refuse_pickles

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DERIVED = "rotary_emb.inv_freq"  # old checkpoints also store the rotation's frequencies
UNSUPPORTED = {  # config field -> the only values that this library can compute with
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "quantization_config": (None,),
}


def read_model(folder: str | Path, **choices: str) -> Llama:
    """Read the folder of a Hugging Face LlamaForCausalLM; choices: of `load_model`.

    If this library cannot read the tokenizer, the model has none and a warning says so.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported field or a
    damaged file.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    path, stored = _open_params(folder)
    if config.tie_word_embeddings:
        stored.pop(HEAD, None)  # some programs store the tied matrix twice
    # a wrong config may claim 10⁹ layers, and a list of their arrays would fill the memory
    n, layers = len(stored), config.num_hidden_layers
    if layers > n:
        raise ValueError(f"{path}: {n} arrays, too few for the {layers} layers of {CONFIG}")
    tokenizer = _tokenizer(folder)
    tokens, rows = tokenizer.vocab_size if tokenizer else 0, config.vocab_size
    if tokens > rows:
        raise ValueError(f"{folder}: the tokenizer has {tokens} tokens, the model {rows}")
    with errors_at(path, "model: "):
        check_shapes(config, {name: a for name, (_, a) in stored.items()})
    forms, params = choose(config, **choices), {}
    for name, (file, a) in stored.items():
        if not forms and a.dtype == np.float64:
            check_finite(file, name, a)
            params[name] = np.array(a)
        else:
            params[name] = put(file, name, a, forms.get(name, ""))
    with errors_at(path, "model: "):
        return Llama(config, params, tokenizer)


def _open_params(folder):
    """(the file to name in errors, name -> (its file, array on the file)): of model.safetensors, or
    of an index's shards.
    """
    path, index = folder / WEIGHTS, folder / INDEX
    if path.is_file() or not index.is_file():
        refuse_pickles(path)
        return path, _open(path)
    shards = read_json(index, {"weight_map": {str: str}})["weight_map"]
    params: dict[str, Any] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{index}: weight_map has {shard!r:.80}, wanted a file beside it")
        arrays, _ = open_arrays(folder / shard)
        for name in arrays:
            if (listed := shards.get(name)) != shard:
                raise ValueError(f"{folder / shard}: holds {name}, which {INDEX} has in {listed}")
        params |= _open(folder / shard)
    if missing := sorted(shards.keys() - params.keys()):
        raise ValueError(f"{folder / shards[missing[0]]}: no {missing[0]}, which {INDEX} has in it")
    return index, params


def _open(path):
    """name -> (path, array on the file) of one file; raises ValueError for whole numbers."""
    arrays = joined(path, open_arrays(path)[0])
    for name, a in arrays.items():
        if a.dtype.kind != "f":
            raise ValueError(f"{path}: {name} is of {a.dtype}, wanted floating-point numbers")
    return {name: (path, a) for name, a in arrays.items() if not name.endswith(DERIVED)}


def _tokenizer(folder):
    """The folder's tokenizer; None if there is none or, with a warning, if it cannot be read."""
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
    """Write a model into a folder that `load_model` and transformers can load.

    Raises OSError, and TypeError for what is no Llama, such as a model under an adapter.
    """
    if not isinstance(model, Llama):
        kind = type(model).__name__
        raise TypeError(f"save_model: got a {kind}, wanted a Llama; merge gives one of a Tuned")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        **(model.tokenizer.files() if model.tokenizer else {}),
        WEIGHTS: array_bytes(model.params),
        CONFIG: json.dumps(config_json(model), indent=1).encode() + b"\n",
    }
    write_together({folder / name: data for name, data in files.items()})


def config_json(model: Llama) -> dict:
    """The contents of config.json.

    RoPE's θ and its scaling are written under their old and their new names, for old and new
    versions of transformers.
    """
    fields, tokens = dataclasses.asdict(model.config), {}
    scaling = fields.pop("rope_scaling")
    rope = {"rope_type": "llama3", **scaling} if scaling else {"rope_type": "default"}
    if model.tokenizer:
        eos, pad = model.tokenizer.eos_id, model.tokenizer.pad_id
        tokens = {"eos_token_id": eos, "pad_token_id": pad, "bos_token_id": None}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **fields,
        **({"rope_scaling": rope} if scaling else {}),
        "rope_parameters": {**rope, "rope_theta": fields["rope_theta"]},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **tokens,
        "torch_dtype": str(model.dtype),
    }


def read_config(path: str | Path) -> ModelConfig:
    """A ModelConfig from config.json; a field that is absent or null has transformers' default.

    Raises FileNotFoundError, or ValueError with the first field that is wrong or not supported.
    """
    fields = {name: value for name, value in read_json(path).items() if value is not None}
    if fields.get("model_type") != "llama":
        raise ValueError(f"{path}: model_type is {fields.get('model_type')!r:.80}, wanted 'llama'")
    quantised = fields.get("quantization_config")
    if isinstance(quantised, dict) and quantised.get("quant_method") == "bitsandbytes":
        del fields["quantization_config"]  # its arrays say how
    for name, allowed in UNSUPPORTED.items():
        if fields.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{path}: {name} is {fields[name]!r:.80}, supported is {allowed[0]!r}")
    absent = {"num_key_value_heads": fields.get("num_attention_heads"), "rms_norm_eps": 1e-6}
    fields = {**absent, **fields, **_rope(path, fields)}
    scaling = fields.pop("rope_scaling")
    kinds = {
        field.name: field.type
        for field in dataclasses.fields(ModelConfig)
        if field.name in fields or field.default is dataclasses.MISSING
    }
    check_kind(path, "it", fields, kinds)
    with errors_at(path, "config: "):
        return ModelConfig(**{name: fields[name] for name in kinds}, rope_scaling=scaling)


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
            raise ValueError(f"{path}: {listed}; wanted one and the same")
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
                "it changes the mathematics"
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
