"""A base by its name or its place: the word lab's, SmolLM2, a folder, a .gguf file."""

from pathlib import Path

from ..files import data_folder
from ..model import Llama
from . import huggingface
from .safetensors import refuse_pickles


def load_model(source: str | Path) -> Llama:
    """ "base", the word lab's pretrained base, or the folder of a Hugging Face LlamaForCausalLM, in
    float32 (float64 kept).

    Warns where the tokenizer is of another kind than this library's: the model comes without one.
    Raises FileNotFoundError, or ValueError for another architecture, an unsupported field or a
    damaged file.
    """
    path = data_folder() / "base" if str(source) == "base" else Path(source)
    refuse_pickles(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"load_model: {path} is no folder; wanted 'base' or a folder with config.json"
        )
    return huggingface.read_model(path)
