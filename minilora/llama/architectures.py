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
    own: tuple[str, ...] = ()  # fields of ModelConfig that no other model_type has
    off: tuple[str, ...] = ()  # fields of config.json that must be false: they change the formula
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of fields, if other than Llama's


MISTRAL = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32768}
SMOLLM3 = {"num_key_value_heads": 4, "rope_theta": 2e6, "tie_word_embeddings": True}

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", off=("attention_bias", "mlp_bias")),
    "mistral": Architecture(
        "MistralForCausalLM",
        own=("sliding_window",),
        defaults=MISTRAL,
    ),
    "qwen2": Architecture(
        "Qwen2ForCausalLM", qkv_bias=True, off=("use_sliding_window",), defaults=QWEN
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        qk_norm=True,
        off=("attention_bias", "use_sliding_window"),
        defaults={**QWEN, "head_dim": 128},
    ),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM",
        own=("no_rope_layers", "no_rope_layer_interval"),
        off=("attention_bias", "mlp_bias", "use_sliding_window"),
        defaults={**SMOLLM3, "max_position_embeddings": 32768},
    ),
}
