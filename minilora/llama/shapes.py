"""The sizes of published models. With them one can count what a technique trains, without weights.

All models use one set of names: q_proj k_proj v_proj o_proj up_proj down_proj, and gate_proj where
the feed-forward is gated. q, k and v are three linears even where the original fuses them.
Embeddings, head, pooler and classifier are not counted as linears.
"""

from dataclasses import dataclass
from typing import Any

from .model import ModelConfig


@dataclass(frozen=True)
class Shape:
    """A Transformer's sizes."""

    name: str
    source: str  # where the sizes are published
    layers: int  # L
    width: int  # C
    feed_forward: int  # F
    llama: dict[str, Any] | None = None  # of a Llama or a similar model: ModelConfig's other fields

    def linears(self) -> dict[str, tuple[int, int]]:
        """Name -> (O, I) of every linear of the layers."""
        other = self.llama or _llama(1, 1, 1, 1e4, 1e-5, 1)  # these fields change no size
        linears = ModelConfig(**self._sizes(), **other).linears()
        return {n: size for n, size in linears.items() if self.llama or "gate_proj" not in n}

    def config_fields(self) -> dict[str, Any]:
        """A ModelConfig's fields; raises ValueError if the model is not a Llama."""
        if self.llama is None:
            llamas = ", ".join(name for name, shape in SHAPES.items() if shape.llama)
            reason = "is not a Llama, so its activations are not known here"
            raise ValueError(f"{self.name} {reason}; wanted one of {llamas}")
        return self._sizes() | self.llama

    def _sizes(self) -> dict[str, Any]:
        return {
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
        }


def _llama(vocab_size, heads, kv_heads, theta, eps, context, tied=False, **others):
    return {
        "vocab_size": vocab_size,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rope_theta": theta,
        "rms_norm_eps": eps,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **others,
    }


LLAMA = "Touvron et al. 2023, arXiv:2302.13971, table 2"
LLAMA_3_2 = "Meta 2024, the model's config.json"
SMOLLM2 = "Allal et al. 2025, arXiv:2502.02737, the model's config.json"
MISTRAL = "Jiang et al. 2023, arXiv:2310.06825, table 1; version 0.1's config.json"
QWEN2_5 = "Qwen 2024, arXiv:2412.15115, table 1; the model's config.json"
QWEN3 = "Qwen 2025, arXiv:2505.09388, table 1; the model's config.json"
SMOLLM3 = "Hugging Face 2025, the model's config.json"

# fmt: off
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gpt3-175b", "Brown et al. 2020, arXiv:2005.14165, table 2.1", 96, 12288, 49152),
        Shape("gpt2-medium", "Radford et al. 2019, table 2", 24, 1024, 4096),
        Shape("gpt2-large", "Radford et al. 2019, table 2", 36, 1280, 5120),
        Shape("roberta-base", "Liu et al. 2019, arXiv:1907.11692, section 2", 12, 768, 3072),
        Shape("roberta-large", "Liu et al. 2019, arXiv:1907.11692, table 9", 24, 1024, 4096),
        Shape("deberta-xxl", "He et al. 2021, arXiv:2006.03654, version 2", 48, 1536, 6144),
        Shape("vit-base", "Dosovitskiy et al. 2021, arXiv:2010.11929, table 1", 12, 768, 3072),
        Shape("vit-large", "Dosovitskiy et al. 2021, arXiv:2010.11929, table 1", 24, 1024, 4096),
        Shape("llama-7b", LLAMA, 32, 4096, 11008, _llama(32000, 32, 32, 1e4, 1e-6, 2048)),
        Shape("llama-13b", LLAMA, 40, 5120, 13824, _llama(32000, 40, 40, 1e4, 1e-6, 2048)),
        Shape("llama-3.2-3b", LLAMA_3_2, 28, 3072, 8192,
              _llama(128256, 24, 8, 5e5, 1e-5, 131072, tied=True)),
        Shape("smollm2-135m", SMOLLM2, 30, 576, 1536,
              _llama(49152, 9, 3, 1e5, 1e-5, 8192, tied=True)),
        Shape("mistral-7b", MISTRAL, 32, 4096, 14336,
              _llama(32000, 32, 8, 1e4, 1e-5, 32768, model_type="mistral", sliding_window=4096)),
        Shape("qwen2.5-0.5b", QWEN2_5, 24, 896, 4864,
              _llama(151936, 14, 2, 1e6, 1e-6, 32768, tied=True, model_type="qwen2")),
        Shape("qwen2.5-7b", QWEN2_5, 28, 3584, 18944,
              _llama(152064, 28, 4, 1e6, 1e-6, 131072, model_type="qwen2")),
        Shape("qwen3-0.6b", QWEN3, 28, 1024, 3072,
              _llama(151936, 16, 8, 1e6, 1e-6, 40960, tied=True, model_type="qwen3", head_dim=128)),
        Shape("qwen3-8b", QWEN3, 36, 4096, 12288,
              _llama(151936, 32, 8, 1e6, 1e-6, 40960, model_type="qwen3", head_dim=128)),
        Shape("smollm3-3b", SMOLLM3, 36, 2048, 11008,
              _llama(128256, 16, 4, 5e6, 1e-6, 65536, tied=True, model_type="smollm3")),
    )
}
# fmt: on
