"""The sizes of Llama and the techniques that are timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..llama.model import Llama, ModelConfig, init_params
from ..methods import METHODS
from ..ops.loss import IGNORED
from ..tuning.adapters import Tuned, attach

Batch = tuple[np.ndarray, np.ndarray]  # tokens, targets, both (N, T)


@dataclass(frozen=True)
class Size:
    """A model and the shape of a batch."""

    config: ModelConfig
    batch: int  # N, sequences
    length: int  # T, tokens of a sequence


def size(C, L, H, G, F, V, N, T, tied=False) -> Size:
    """A size from its numbers, in the symbols of this project; L: layers."""
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


def make(of: Size, case: Case) -> Tuned:
    """The case on a model of random weights, the same numbers each time."""
    return attach(Llama(of.config, init_params(of.config)), case.method, **case.how)


def batch(of: Size) -> Batch:
    """Random tokens (N, T), and the next tokens as targets; the last place of a row has none."""
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
    recipe: Mapping[str, Any]  # keywords of `train`: lr and others


def full_batches(of: Size, case: Case, lr: float) -> Training:
    """The case on a model of random weights and one batch without padding."""
    return Training(make(of, case), [batch(of)], {"lr": lr})


def flops(of: Size, case: Case) -> float:
    """Floating-point operations of the matrix products of a step, without the adapters' own.

    A multiplication and an addition are two. The linears and the head: forward, the same again for
    dx, and again for dW where W trains. Attention: half of its products, because it is causal,
    forward, and 2.5 times that backward.
    """
    c, M = of.config, of.batch * of.length
    weights = sum(O * I for O, I in c.linears().values()) + c.vocab_size * c.hidden_size
    heads = c.num_hidden_layers * c.num_attention_heads * c.head_dim
    attention = 4 * M * of.length * heads / 2
    passes = 3 if METHODS[case.method].whole_model else 2
    return passes * 2 * M * weights + 3.5 * attention


def adapter_flops(of: Size, tuned: Tuned) -> float:
    """Floating-point operations of the adapters: each trained factor once forward, twice back."""
    M = of.batch * of.length
    return 6.0 * M * sum(a.size for a in tuned.trainable.values())
