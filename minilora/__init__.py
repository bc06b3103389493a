"""minilora: LoRA, LoRA-FA, VeRA, Delta-LoRA and LoRA+ as mathematics to read, check and time.

import minilora as ml
model = ml.load_model("base")
tuned = ml.attach(model, "lora", rank=4)
history = ml.train(tuned, ml.batches(pairs, model.tokenizer, 32), steps=150, lr=1e-2)
"""

from .engine import Op, Tensor, backward, param
from .fast import plain
from .formats.huggingface import save_model
from .formats.models import load_model
from .gradcheck import gradcheck
from .llama.model import Llama, ModelConfig
from .memory import ledger, measure
from .methods import METHODS
from .text.tasks import batches, exact_match, load_task
from .tuning.adapters import Tuned, attach, detach, merge, unmerge
from .tuning.library import Library
from .tuning.storage import load_adapter, save_adapter
from .tuning.train import train

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Library",
    "Llama",
    "ModelConfig",
    "Op",
    "Tensor",
    "Tuned",
    "attach",
    "backward",
    "batches",
    "detach",
    "exact_match",
    "gradcheck",
    "ledger",
    "load_adapter",
    "load_model",
    "load_task",
    "measure",
    "merge",
    "param",
    "plain",
    "save_adapter",
    "save_model",
    "train",
    "unmerge",
]
