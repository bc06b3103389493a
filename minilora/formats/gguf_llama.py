"""A Llama out of a GGUF file: llama.cpp's names and layout as this library's own."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import EMBED, HEAD, NORM, Llama, ModelConfig
from ..text.byte_pairs import BytePairTokenizer
from ..text.tokenizer import ForeignTokenizer
from .gguf import read_gguf

OUTER = {"token_embd.weight": EMBED, "output_norm.weight": NORM, "output.weight": HEAD}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
FIELDS = {  # ModelConfig's field -> the metadata's
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "max_position_embeddings": "llama.context_length",
}


def read_model(path: str | Path) -> Llama:
    """A .gguf file of the llama architecture, unpacked to float32, with its tokenizer.

    Warns where the tokenizer is of a kind that this library does not read: the model comes without.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported type, a tensor
    that is missing, foreign or of another shape, or a tokenizer that does not fit.
    """
    about, tensors = read_gguf(path)
    config = _config(path, about, tensors)
    names = _names(config)
    wanted = config.shapes()
    for name, mine in names.items():
        if name not in tensors:
            raise ValueError(f"{path}: no {name}, wanted it with shape {wanted[mine]}")
        if tensors[name].shape != wanted[mine]:
            raise ValueError(
                f"{path}: {name} has shape {tensors[name].shape}, wanted {wanted[mine]}"
            )
    if foreign := sorted(tensors.keys() - names.keys()):
        raise ValueError(
            f"{path}: {foreign[0]} of shape {tensors[foreign[0]].shape} has no place in this Llama"
        )
    tokenizer = _tokenizer(path, about, config)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    params: dict[str, np.ndarray] = {}
    for name, mine in names.items():
        array = tensors[name].array()
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        params[mine] = half_split(array, heads[kind]) if kind in heads else array
    return Llama(config, params, tokenizer)


def half_split(w: np.ndarray, heads: int) -> np.ndarray:
    """q's or k's rows from llama.cpp's order, which rotates entries 2j and 2j + 1 of a head with
    each other, to this one's, which rotates j and j + D/2.   (heads·D, C) -> the same.
    """
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def _config(path, about, tensors):
    """The metadata as a ModelConfig; raises ValueError naming the field that is not as wanted."""
    kind = about.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"{path}: general.architecture is {kind!r:.80}, wanted 'llama'")
    scaling = about.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"{path}: llama.rope.scaling.type is {scaling!r:.80}, supported is 'none'")
    given: dict[str, Any] = {"tie_word_embeddings": "output.weight" not in tensors}
    for name, key in FIELDS.items():
        if key not in about:
            raise ValueError(f"{path}: no {key} in it")
        given[name] = about[key]
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: no token_embd.weight")
    heads = given["num_attention_heads"]
    given["vocab_size"] = tensors["token_embd.weight"].shape[0]
    given["num_key_value_heads"] = about.get("llama.attention.head_count_kv", heads)
    given["head_dim"] = about.get("llama.attention.key_length", 0)
    given["rope_theta"] = _short(about.get("llama.rope.freq_base", 10000.0))
    given["rms_norm_eps"] = _short(about.get("llama.attention.layer_norm_rms_epsilon", 1e-5))
    try:
        config = ModelConfig(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('config: ')}") from None
    turned = about.get("llama.rope.dimension_count", config.head_dim)
    if turned != config.head_dim:
        raise ValueError(
            f"{path}: llama.rope.dimension_count is {turned!r:.80}, wanted {config.head_dim}: "
            "all of a head"
        )
    if config.num_hidden_layers > len(tensors):  # before anyone lists the arrays of all layers
        raise ValueError(
            f"{path}: {len(tensors)} tensors, too few for {config.num_hidden_layers} layers"
        )
    return config


def _short(value):
    """A float32 of the file as the shortest decimal that means it: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _names(config):
    """llama.cpp's name -> this library's, of every array that the config wants."""
    names = {
        f"blk.{i}.{theirs}.weight": f"model.layers.{i}.{mine}.weight"
        for i in range(config.num_hidden_layers)
        for theirs, mine in INNER.items()
    }
    tied = config.tie_word_embeddings
    return {k: v for k, v in OUTER.items() if not (tied and v == HEAD)} | names


def _tokenizer(path, about, config):
    """The metadata's tokenizer, or None with a warning where it cannot be used."""
    try:
        tokenizer = BytePairTokenizer.from_gguf(about)
    except ForeignTokenizer as error:
        warnings.warn(f"{path}: {error}; the model comes without a tokenizer", stacklevel=4)
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"{path}: tokenizer.ggml.tokens has {tokenizer.vocab_size} tokens, "
            f"token_embd.weight {config.vocab_size} rows"
        )
    return tokenizer
