"""A Llama from a GGUF file: llama.cpp's names and layout, translated into this library's."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import EMBED, HEAD, NORM, Llama, ModelConfig
from ..support.files import errors_at
from ..text.byte_pairs import BytePairTokenizer
from ..text.tokenizer import CharTokenizer, ForeignTokenizer
from .gguf import read_gguf
from .safetensors import check_finite

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
FIELDS = {  # ModelConfig's field -> the metadata's, which must be there
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "max_position_embeddings": "llama.context_length",
}
MORE = {
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
    "rope_theta": "llama.rope.freq_base",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
}


def read_model(path: str | Path) -> Llama:
    """Read a .gguf file of the llama architecture, unpacked to float32, with its tokenizer.

    If this library cannot read the tokenizer, the model has none and a warning says so.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported type, a tensor
    that is missing, unknown, of another shape or not finite, or a tokenizer of another size.
    """
    about, tensors = read_gguf(path)
    config = _config(path, about, tensors)
    names = names_of(config)
    wanted = config.shapes()
    for theirs, mine in names.items():
        if theirs not in tensors:
            raise ValueError(f"{path}: no {theirs}, wanted it with shape {wanted[mine]}")
        shape = tensors[theirs].shape
        if shape != wanted[mine]:
            raise ValueError(f"{path}: {theirs} has shape {shape}, wanted {wanted[mine]}")
    if unknown := sorted(tensors.keys() - names.keys()):
        shape = tensors[unknown[0]].shape
        raise ValueError(f"{path}: {unknown[0]} of shape {shape} has no place in this Llama")
    tokenizer = _tokenizer(path, about, config)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    params: dict[str, np.ndarray] = {}
    for theirs, mine in names.items():
        array = tensors[theirs].array()
        check_finite(path, theirs, array)
        kind = theirs.removesuffix(".weight").rsplit(".", 1)[-1]
        params[mine] = half_split(array, heads[kind]) if kind in heads else array
    return Llama(config, params, tokenizer)


def half_split(w: np.ndarray, heads: int) -> np.ndarray:
    """The rows of q or k, reordered for this library's RoPE.   (heads·D, C) -> (heads·D, C).

    llama.cpp rotates entries 2j and 2j + 1 of a head together, this library j and j + D/2.
    """
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def _config(path, about, tensors):
    """The metadata as a ModelConfig; raises ValueError with the first field that is wrong."""
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
    given["vocab_size"] = tensors["token_embd.weight"].shape[0]
    given["num_key_value_heads"] = given["num_attention_heads"]
    given |= {name: _shortest(about[key]) for name, key in MORE.items() if key in about}
    with errors_at(path, "config: "):
        config = ModelConfig(**given)
    rotated, D = about.get("llama.rope.dimension_count", config.head_dim), config.head_dim
    if rotated != D:
        raise ValueError(
            f"{path}: llama.rope.dimension_count is {rotated!r:.80}, wanted {D}: all of a head"
        )
    # a damaged file may claim 10⁹ layers, and a list of their arrays would fill the memory
    n, layers = len(tensors), config.num_hidden_layers
    if layers > n:
        raise ValueError(f"{path}: {n} tensors, too few for {layers} layers")
    return config


def _shortest(value):
    """The shortest decimal that is the same float32: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def names_of(config: ModelConfig) -> dict[str, str]:
    """llama.cpp's name -> this library's, for every array of the config."""
    inner = {
        f"blk.{i}.{theirs}.weight": f"model.layers.{i}.{mine}.weight"
        for i in range(config.num_hidden_layers)
        for theirs, mine in INNER.items()
    }
    tied = config.tie_word_embeddings
    return {k: v for k, v in OUTER.items() if not (tied and v == HEAD)} | inner


def _tokenizer(path, about, config):
    """The tokenizer in the metadata; None, with a warning, if this library cannot read it."""
    characters = about.get("tokenizer.ggml.model") == "llama"
    try:
        tokenizer = (CharTokenizer if characters else BytePairTokenizer).from_gguf(about)
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
