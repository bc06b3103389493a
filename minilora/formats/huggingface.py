"""A base in Hugging Face's layout: a folder with config.json, weights, and often a tokenizer.

The weights are in model.safetensors, or in several such files (shards) with an index.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import HEAD, Llama, check_base, check_shapes
from ..support.files import errors_at, read_json, write_together
from ..support.terminal import printable
from ..text.byte_pairs import BytePairTokenizer
from ..text.tokenizer import CharTokenizer, ForeignTokenizer
from .bitsandbytes import joined
from .config import CONFIG, config_json, read_config
from .forms import choose, put
from .safetensors import array_bytes, check_finite, open_arrays, refuse_pickles

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHER_TOKENIZERS = "tokenizer.model", "tekken.json", "vocab.json"
DERIVED = "rotary_emb.inv_freq"  # old checkpoints also store the rotation's frequencies


def read_model(folder: str | Path, **choices: str) -> Llama:
    """Read a folder of an architecture in `ARCHITECTURES`; choices: as in `load_model`.

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
    """(file to name in errors, {name: (file, array on it)}) of one file or of an index's shards."""
    path, index = folder / WEIGHTS, folder / INDEX
    if path.is_file() or not index.is_file():
        refuse_pickles(path)
        return path, _open(path)
    shards = read_json(index, {"weight_map": {str: str}})["weight_map"]
    params: dict[str, Any] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or printable(shard) != shard:
            raise ValueError(f"{index}: weight_map has {shard!r:.80}, wanted a file beside it")
        arrays, _ = open_arrays(folder / shard)
        for name in arrays:
            if (listed := shards.get(name)) != shard:
                raise ValueError(f"{folder / shard}: holds {name}, but {INDEX} says {listed}")
        params |= _open(folder / shard)
    if missing := sorted(shards.keys() - params.keys()):
        first = printable(missing[0])
        raise ValueError(f"{folder / shards[missing[0]]}: no {first}, but {INDEX} says it is here")
    return index, params


def _open(path):
    """name -> (path, array on the file) of one file; raises ValueError for integers."""
    arrays = joined(path, open_arrays(path)[0])
    for name, a in arrays.items():
        if a.dtype.kind != "f":
            raise ValueError(f"{path}: {name} is of {a.dtype}, wanted floating-point numbers")
    return {name: (path, a) for name, a in arrays.items() if not name.endswith(DERIVED)}


def _tokenizer(folder):
    """The folder's tokenizer; None if there is none or, with a warning, if it cannot be read."""
    others, reasons = [n for n in OTHER_TOKENIZERS if (folder / n).is_file()], []
    if (folder / "tokenizer.json").is_file():
        for kind in (CharTokenizer, BytePairTokenizer):
            try:
                return kind.load(folder)
            except ForeignTokenizer as error:
                reasons.append(str(error))
    elif others:
        reasons.append(f"{folder}: {others[0]}, wanted tokenizer.json, which transformers saves")
    if reasons:
        reason = "; ".join([*reasons, "the model comes without a tokenizer"])
        warnings.warn(reason, stacklevel=4)
    return None


def save_model(model: Llama, folder: str | Path) -> None:
    """Write a model into a folder that `load_model` and transformers can load.

    Raises OSError; TypeError if `model` is not a Llama, for example a model with an adapter.
    """
    check_base("save_model", model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        **(model.tokenizer.files() if model.tokenizer else {}),
        WEIGHTS: array_bytes(model.params),
        CONFIG: json.dumps(config_json(model), indent=1).encode() + b"\n",
    }
    write_together({folder / name: data for name, data in files.items()})
