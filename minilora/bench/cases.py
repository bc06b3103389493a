"""The sizes of Llama, and the techniques, that are timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..llama.model import Llama, ModelConfig, init_params
from ..methods import METHODS, own
from ..ops.loss import IGNORED
from ..support.files import find
from ..tuning.adapters import Tuned, attach
from ..tuning.train import train
from . import turns

LR = 1e-3
Batch = tuple[np.ndarray, np.ndarray]  # tokens, targets, both (N, T)


@dataclass(frozen=True)
class Size:
    """A model and the shape of a batch."""

    config: ModelConfig
    batch: int  # N, sequences
    length: int  # T, tokens of a sequence


def size(C, L, H, G, F, V, N, T, tied=False) -> Size:
    """A size from its numbers, in this project's symbols; L: layers."""
    config = ModelConfig(
        vocab_size=V,
        hidden_size=C,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=G,
        tie_word_embeddings=tied,
    )
    return Size(config, N, T)


SIZES = {
    "toy": size(C=32, L=2, H=2, G=1, F=64, V=64, N=2, T=16),
    "tiny": size(C=128, L=4, H=4, G=2, F=384, V=512, N=16, T=64),
    "small": size(C=256, L=6, H=8, G=4, F=768, V=2048, N=8, T=128),
    "smollm2": size(C=576, L=30, H=9, G=3, F=1536, V=49152, N=1, T=256, tied=True),
}


@dataclass(frozen=True)
class Case:
    """A technique and how it is attached."""

    title: str
    method: str
    how: dict[str, Any] = field(default_factory=dict)  # keywords of attach


def _of_method(record) -> Case:
    if "rank" not in record.takes:
        return Case(record.title, record.name)
    rank = 64 if record.rank_above_width else 8
    return Case(record.title, record.name, {"rank": rank, "targets": ("q_proj", "v_proj")})


CASES = {name: _of_method(record) for name, record in METHODS.items()} | {
    "lora-all": Case("LoRA, all linears", "lora", {"rank": 8, "targets": "all-linear"})
}


def case(name: str) -> Case:
    """The case of a name or of FILE.py:METHOD; raises ValueError with the most similar names."""
    return _of_method(own.read(name)) if own.is_place(name) else find("case", name, CASES)


def make(of: Size, case: Case) -> Tuned:
    """The case on a model with random weights, which are the same each time."""
    return attach(Llama(of.config, init_params(of.config)), case.method, **case.how)


def batch(of: Size) -> Batch:
    """Random tokens (N, T), with the next token as target; a row's last position has no target."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, of.config.vocab_size, (of.batch, of.length))
    targets = np.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    return ids, targets


@dataclass(frozen=True)
class Training:
    """What is trained, on which batches, and how."""

    tuned: Tuned
    batches: Sequence[Batch]  # cycled
    recipe: Mapping[str, Any] = field(default_factory=lambda: {"lr": LR})  # keywords of `train`


def ours(training: Training) -> turns.Train:
    """Training steps in this package."""

    def steps(n, first=0):
        batches = [training.batches[k % len(training.batches)] for k in range(first, first + n)]
        history = train(training.tuned, batches, steps=n, progress=False, **training.recipe)
        return history.losses, history.seconds

    return steps
