"""What differs between the architectures that this Llama computes: a row for each model_type.

Source: the configuration and modeling files of transformers 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One model_type of a config.json."""

    class_name: str  # in transformers
    qkv_bias: bool = False  # are biases added to q, k and v?
    qk_norm: bool = False  # is each head's q and k normalised, before the rotation?
    unrotated: bool = False  # do some layers not rotate q and k?
    window: bool = False  # does the config have a window of attention?
    off: tuple[str, ...] = ()  # fields that are false, or the mathematics is another
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of fields, where not Llama's


LONG = {"max_position_embeddings": 32768}

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", off=("attention_bias", "mlp_bias")),
    "mistral": Architecture(
        "MistralForCausalLM",
        window=True,
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
    ),
    "qwen2": Architecture(
        "Qwen2ForCausalLM",
        qkv_bias=True,
        off=("use_sliding_window",),
        defaults={**LONG, "num_key_value_heads": 32},
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        qk_norm=True,
        off=("attention_bias", "use_sliding_window"),
        defaults={**LONG, "num_key_value_heads": 32, "head_dim": 128},
    ),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM",
        unrotated=True,
        off=("attention_bias", "mlp_bias", "use_sliding_window"),
        defaults={
            **LONG,
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
        },
    ),
}
