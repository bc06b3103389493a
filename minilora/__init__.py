"""minilora: LoRA, LoRA-FA, VeRA, Delta-LoRA and LoRA+ as mathematics to read, check and time.

import minilora as ml
model = ml.load_model("base")
tuned = ml.attach(model, "lora", rank=4)
history = ml.train(tuned, ml.batches(pairs, model.tokenizer, 32), steps=150, lr=1e-2)
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; at run time a name is imported when first used
    from .engine import Op as Op, Tensor as Tensor, backward as backward, param as param
    from .fast import plain as plain
    from .formats.gguf_write import save_gguf as save_gguf
    from .formats.huggingface import save_model as save_model
    from .formats.models import load_model as load_model
    from .gradcheck import gradcheck as gradcheck
    from .llama.model import Llama as Llama, ModelConfig as ModelConfig
    from .memory import ledger as ledger, measure as measure
    from .methods import METHODS as METHODS
    from .step.trace import trace as trace, trace_page as trace_page
    from .text.batches import batches as batches
    from .text.pairs import read_pairs as read_pairs
    from .text.score import exact_match as exact_match
    from .text.tasks import load_task as load_task
    from .tuning.adapters import (
        Tuned as Tuned,
        attach as attach,
        detach as detach,
        merge as merge,
        unmerge as unmerge,
    )
    from .tuning.callbacks import (
        Callback as Callback,
        EarlyStopping as EarlyStopping,
        KeepBest as KeepBest,
    )
    from .tuning.library import Library as Library
    from .tuning.storage import load_adapter as load_adapter, save_adapter as save_adapter
    from .tuning.train import train as train

__version__ = "0.2.0"

HOMES = {  # module -> the public names in it
    "engine": ("Op", "Tensor", "backward", "param"),
    "fast": ("plain",),
    "formats.gguf_write": ("save_gguf",),
    "formats.huggingface": ("save_model",),
    "formats.models": ("load_model",),
    "gradcheck": ("gradcheck",),
    "llama.model": ("Llama", "ModelConfig"),
    "memory": ("ledger", "measure"),
    "methods": ("METHODS",),
    "step.trace": ("trace", "trace_page"),
    "text.batches": ("batches",),
    "text.pairs": ("read_pairs",),
    "text.score": ("exact_match",),
    "text.tasks": ("load_task",),
    "tuning.adapters": ("Tuned", "attach", "detach", "merge", "unmerge"),
    "tuning.callbacks": ("Callback", "EarlyStopping", "KeepBest"),
    "tuning.library": ("Library",),
    "tuning.storage": ("load_adapter", "save_adapter"),
    "tuning.train": ("train",),
}
HOME = {name: home for home, names in HOMES.items() for name in names}

__all__ = sorted(HOME)


def __getattr__(name: str):
    """A public name or a subpackage, imported when it is first used."""
    if name in HOME:
        value = getattr(importlib.import_module(f".{HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    wanted = importlib.import_module(".support.names", __name__).peft_hint(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{wanted}")


def __dir__() -> list[str]:
    """What an editor offers: the public names, and the subpackages imported so far."""
    rooms = {name for name in globals() if f"{__name__}.{name}" in sys.modules}
    return sorted({*__all__, *rooms, *(name for name in globals() if name.startswith("__"))})


class _Package(types.ModuleType):
    """This module's class: importing minilora.gradcheck does not hide the function gradcheck."""

    def __setattr__(self, name, value):
        if not (name in HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
