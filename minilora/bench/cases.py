"""What is timed: some sizes of Llama, and each technique as it is attached to them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..llama.model import Llama, ModelConfig, init_params
from ..methods import METHODS
from ..ops.loss import IGNORED
from ..tuning.adapters import Tuned, attach


@dataclass(frozen=True)
class Size:
    """A model and a batch of tokens."""

    config: ModelConfig
    batch: int  # N, rows of tokens
    length: int  # T, tokens in a row


def size(C, L, H, G, F, V, N, T, tied=False) -> Size:
    """A size by the letters of its numbers."""
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
    """A technique as it is attached."""

    title: str
    method: str
    how: dict[str, Any] = field(default_factory=dict)  # keywords of attach


def _cases() -> dict[str, Case]:
    cases = {}
    for name, record in METHODS.items():
        how: dict[str, Any] = {}
        if "rank" in record.takes:
            how = {"rank": 64 if record.rank_above_width else 8, "targets": ("q_proj", "v_proj")}
        cases[name] = Case(record.title, name, how)
    everywhere = {"rank": 8, "targets": "all-linear"}
    cases["lora-all"] = Case("LoRA, all linears", "lora", everywhere)
    return cases


CASES = _cases()


def make(of: Size, case: Case) -> Tuned:
    """The case on a model of random weights: the same numbers each time."""
    return attach(Llama(of.config, init_params(of.config)), case.method, **case.how)


def batch(of: Size) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens (N, T), and as targets the token after each; after the last none counts."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, of.config.vocab_size, (of.batch, of.length))
    targets = np.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    return ids, targets


def flops(of: Size, case: Case) -> float:
    """Floating-point operations of a step's matrix products: 2 a multiply-add.

    Every linear and the head forward, as much again for dx, and for dW where W trains; half of
    attention (it is causal) forward and 2.5 times that backward. Without the adapters' own.
    """
    c, M = of.config, of.batch * of.length
    weights = sum(O * I for O, I in c.linears().values()) + c.vocab_size * c.hidden_size
    heads = c.num_hidden_layers * c.num_attention_heads * c.head_dim
    attention = 4 * M * of.length * heads / 2
    products = 3 if METHODS[case.method].whole_model else 2
    return products * 2 * M * weights + 3.5 * attention


def adapter_flops(of: Size, tuned: Tuned) -> float:
    """The adapters' own: of a linear (O, I), each of its trained factors forward and twice back."""
    M = of.batch * of.length
    return 6.0 * M * sum(a.size for a in tuned.trainable.values())
