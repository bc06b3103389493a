"""Read a Llama-like model from a GGUF file, with llama.cpp's names and layout translated."""

import contextlib
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama import rotation
from ..llama.model import EMBED, HEAD, NORM, Llama, ModelConfig
from ..llama.rotation import Llama3Scaling
from ..support.files import errors_at
from ..support.packed import Packed
from ..text.tokenizer import CharTokenizer, ForeignTokenizer
from .forms import choose, put
from .gguf import read_gguf
from .gguf_tokenizer import read_tokenizer

OUTER = {"token_embd.weight": EMBED, "output_norm.weight": NORM, "output.weight": HEAD}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# general.architecture, which is also the model_type -> are the rows of q and k reordered?
REORDERED = {"llama": True, "mistral": True, "qwen2": False, "qwen3": False, "smollm3": True}
FIELDS = {  # ModelConfig's field -> the metadata's key after the architecture's name; required
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
MORE = {  # the same; optional
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
}
FREQUENCIES = "rope_freqs.weight"  # Llama 3's scaling: a factor for each wavelength
LLAMA3 = 1.0, 4.0, 8192  # low_freq_factor, high_freq_factor, original_max_position_embeddings


def read_model(path: str | Path, **choices: str) -> Llama:
    """Read a .gguf file of an architecture in REORDERED, and its tokenizer.

    choices: as in `load_model`.
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
    if unknown := sorted(tensors.keys() - names.keys() - {FREQUENCIES}):
        shape = tensors[unknown[0]].shape
        raise ValueError(f"{path}: {unknown[0]} of shape {shape} has no place in this model")
    tokenizer = _tokenizer(path, about, config)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    heads = heads if REORDERED[config.model_type] else {}
    forms, params = choose(config, **choices), {}
    for theirs, mine in names.items():
        stored = tensors[theirs]
        kind = theirs.removesuffix(".weight").rsplit(".", 1)[-1]
        if kind in heads:  # a block is inside one row, so packed rows can be reordered
            parts = [half_split(part, heads[kind]) for part in stored.parts]
            stored = Packed(stored.kind, stored.shape, parts)
        params[mine] = put(path, theirs, stored, forms.get(mine, ""))
    return Llama(config, params, tokenizer)


def half_split(w: np.ndarray, heads: int) -> np.ndarray:
    """The rows of q or k, reordered for this library's RoPE.   (heads·D, C) -> (heads·D, C).

    llama.cpp rotates entries 2j and 2j + 1 of a head together, this library j and j + D/2.
    """
    return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def _config(path, about, tensors):
    """The metadata as a ModelConfig; raises ValueError with the first field that is wrong."""
    kind = about.get("general.architecture")
    if kind not in tuple(REORDERED):
        wanted = ", ".join(REORDERED)
        raise ValueError(f"{path}: general.architecture is {kind!r:.80}, wanted one of {wanted}")
    own = {k.removeprefix(f"{kind}."): v for k, v in about.items() if k.startswith(f"{kind}.")}
    rope, scaling = f"{path}: {kind}.rope", own.get("rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"{rope}.scaling.type is {scaling!r:.80}, supported is 'none'")
    given: dict[str, Any] = {"tie_word_embeddings": "output.weight" not in tensors}
    for name, key in FIELDS.items():
        if key not in own:
            raise ValueError(f"{path}: no {kind}.{key} in it")
        given[name] = own[key]
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: no token_embd.weight")
    given["vocab_size"] = tensors["token_embd.weight"].shape[0]
    given["num_key_value_heads"] = given["num_attention_heads"]
    given |= {name: _shortest(own[key]) for name, key in MORE.items() if key in own}
    # llama.cpp stores Mistral as "llama"; only the sliding window shows which it is
    windowed = kind == "llama" and given.get("sliding_window")
    given["model_type"] = "mistral" if windowed else kind
    with errors_at(path, "config: "):
        config = ModelConfig(**given)
    rotated, D = own.get("rope.dimension_count", config.head_dim), config.head_dim
    if rotated != D:
        raise ValueError(f"{rope}.dimension_count is {rotated!r:.80}, wanted {D}, the head's size")
    # a damaged file may claim 10⁹ layers, and a list of their arrays would fill the memory
    n, layers = len(tensors), config.num_hidden_layers
    if layers > n:
        raise ValueError(f"{path}: {n} tensors, too few for {layers} layers")
    if "no_rope_layers" in config.architecture.own:
        reason = "the file does not say which layers do not rotate q and k"
        warnings.warn(f"{path}: {reason}; assumed: every fourth, as in SmolLM3", stacklevel=4)
    return _scaled(path, config, tensors[FREQUENCIES]) if FREQUENCIES in tensors else config


def _scaled(path, config, tensor):
    """The config with Llama 3's RoPE scaling, recovered from the wavelengths' factors in the file.

    Raises ValueError if these do not follow Llama 3.1's and 3.2's rule, with any `factor`.
    """
    found, periods = np.asarray(tensor), rotation.periods(config.head_dim, config.rope_theta)
    with errors_at(f"{path}: {FREQUENCIES}", "config: rope scaling: "):
        scaling = Llama3Scaling(float(found.max()), *LLAMA3)
    wanted = scaling.scale(periods) / periods
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4):
        both = f"{found.tolist()!r:.80}, Llama 3's is {wanted.round(4).tolist()!r:.80}"
        raise ValueError(f"{path}: {FREQUENCIES} is {both}")
    return dataclasses.replace(config, rope_scaling=scaling)


def _shortest(value):
    """The shortest decimal that rounds to the same float32: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def names_of(config: ModelConfig) -> dict[str, str]:
    """llama.cpp's name -> this library's, for every array of the config."""
    wanted = config.shapes()
    names = {theirs: mine for theirs, mine in OUTER.items() if mine in wanted}
    for i in range(config.num_hidden_layers):
        for theirs, mine in INNER.items():
            for suffix in ("weight", "bias"):
                if (name := f"model.layers.{i}.{mine}.{suffix}") in wanted:
                    names[f"blk.{i}.{theirs}.{suffix}"] = name
    return names


def _characters(about):
    """A tokenizer of single characters, which GGUF calls "llama"; None for any other."""
    if about.get("tokenizer.ggml.model") == "llama":
        with contextlib.suppress(ForeignTokenizer):
            return CharTokenizer.from_gguf(about)
    return None


def _tokenizer(path, about, config):
    """The tokenizer in the metadata; None, with a warning, if this library cannot read it."""
    try:
        tokenizer = _characters(about) or read_tokenizer(about)
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
