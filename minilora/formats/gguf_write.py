"""Write a Llama and its tokenizer as a GGUF file; gguf.py and gguf_llama.py read it."""

import dataclasses
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import Llama, check_base
from ..support.files import find, write_atomically
from ..support.meta import dense
from ..text.tokenizer import ForeignTokenizer
from .gguf import ALIGNMENT, ARRAY, MAGIC, NUMBERS, PACKINGS, STRING, in_q8_0
from .gguf_llama import FIELDS, MORE, REORDERED, names_of
from .gguf_tokenizer import write_tokenizer
from .safetensors import check_finite

TYPES = {"F32": (0, 0), "F16": (1, 1), "Q8_0": (8, 7)}  # name -> type of a tensor, of a file
KINDS = {bool: 7, int: 4, float: 6, str: STRING, list: ARRAY}  # of a value in the metadata
KINDS_IN_LISTS = {**KINDS, int: 5}
UNUSED = 5  # tokenizer.ggml.token_type of an embedding row that has no token


def save_gguf(model: Llama, path: str | Path, weights: str = "F16") -> int:
    """Write a .gguf file for llama.cpp, transformers and `load_model`; returns its size in bytes.

    weights: F32, F16 or Q8_0, for the matrices. A matrix whose rows are not whole blocks is F16; a
    vector is F32. If GGUF cannot hold the tokenizer, the file has none and a warning says so.
    Raises OSError; ValueError for another type, RoPE scaling, or a weight that is too large for the
    type; TypeError if `model` is not a Llama.
    """
    check_base("save_gguf", model)
    c, (_, of_file) = model.config, find("type of weights", weights, TYPES)
    if c.rope_scaling:
        raise ValueError("save_gguf: the model has RoPE scaling, which is not supported")
    rule = dataclasses.replace(c, no_rope_layers=(), no_rope_layer_interval=4)
    if any(c.rotates(i) != rule.rotates(i) for i in range(c.num_hidden_layers)):
        raise ValueError("save_gguf: wanted RoPE in every layer except each fourth one")
    about = {**_about(model), "general.file_type": of_file, "general.quantization_version": 2}
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    heads = heads if REORDERED[c.model_type] else {}
    listed, blocks, offset = b"", [], 0
    for name, mine in names_of(c).items():
        w = np.ascontiguousarray(dense(model.params[mine]), np.float32)
        if w.ndim > 1 and (of := heads.get(name.split(".")[-2])):
            w = interleaved(w, of)
        kind, data = _packed(path, name, w, weights)
        blocks.append(_padded(data))
        listed += _value(name) + struct.pack(f"<I{w.ndim}Q", w.ndim, *w.shape[::-1])
        listed += struct.pack("<IQ", kind, offset)
        offset += len(blocks[-1])
    head = MAGIC + struct.pack("<IQQ", 3, len(blocks), len(about))
    for key, value in about.items():
        head += _value(key) + struct.pack("<I", KINDS[type(value)]) + _value(value)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data := b"".join([_padded(head + listed), *blocks]))
    return len(data)


def interleaved(w: np.ndarray, heads: int) -> np.ndarray:
    """The rows of q or k in llama.cpp's order: the inverse of `half_split`.   (heads·D, C)."""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def _about(model):
    """The metadata: name -> value."""
    c = model.config
    kind = "llama" if c.model_type == "mistral" else c.model_type  # as llama.cpp does
    own = {key: getattr(c, name) for name, key in (FIELDS | MORE).items()}
    own |= {key: float(own[key]) for key in (MORE["rope_theta"], MORE["rms_norm_eps"])}
    own |= dict.fromkeys(("attention.value_length", "rope.dimension_count"), c.head_dim)
    own["vocab_size"] = c.vocab_size
    about: dict[str, Any] = {"general.architecture": kind, "general.name": model.name}
    about |= {f"{kind}.{key}": value for key, value in own.items() if value is not None}
    if model.tokenizer is None:
        return about
    try:
        about |= write_tokenizer(model.tokenizer)
    except ForeignTokenizer as error:
        warnings.warn(f"save_gguf: {error}; the file has no tokenizer", stacklevel=3)
        return about
    tokens = about["tokenizer.ggml.tokens"]
    about["tokenizer.ggml.token_type"] += [UNUSED] * (c.vocab_size - len(tokens))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), c.vocab_size)]
    return about


def _packed(path, name, w, weights):
    """A weight's type and its blocks; raises ValueError if the blocks are not finite."""
    fits = w.shape[-1] % PACKINGS[TYPES[weights][0]].weights == 0
    kind, _ = TYPES["F32" if w.ndim == 1 else weights if fits else "F16"]
    packing = PACKINGS[kind]
    with np.errstate(over="ignore", invalid="ignore"):
        data = in_q8_0(w) if packing.weights > 1 else w.astype(f"<f{packing.nbytes}")
        blocks = data.view(np.uint8).reshape(-1, packing.nbytes)
        check_finite(path, f"{name} in {packing.name}", packing.unpack(blocks))
    return kind, blocks.tobytes()


def _padded(data):
    return data + bytes(-len(data) % ALIGNMENT)


def _value(value):
    """A value of the metadata, without its kind."""
    if isinstance(value, str):
        return struct.pack("<Q", len(value.encode())) + value.encode()
    if isinstance(value, list):
        kind = KINDS_IN_LISTS[type(value[0])] if value else STRING
        return struct.pack("<IQ", kind, len(value)) + b"".join(map(_value, value))
    return struct.pack(f"<{NUMBERS[KINDS[type(value)]]}", value)
