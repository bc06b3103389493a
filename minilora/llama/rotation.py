"""RoPE's angles: one wavelength for each pair of a head's entries; Llama 3 scales the long ones."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from ..support.values import is_finite, shown


@dataclass(frozen=True)
class Llama3Scaling:
    """Longer wavelengths, for rows longer than in pretraining; names as in config.json."""

    factor: float  # multiplies the long wavelengths
    low_freq_factor: float  # wavelengths above original / low_freq_factor are long
    high_freq_factor: float  # wavelengths below original / high_freq_factor do not change
    original_max_position_embeddings: int  # T of the pretraining, tokens

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            whole = isinstance(value, int) or not name.startswith("original")
            if not (whole and is_finite(value) and value > 0):
                raise ValueError(
                    f"config: rope scaling: {name} is {shown(value)}, wanted it above 0"
                )
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"config: rope scaling: high_freq_factor is {self.high_freq_factor!r}, wanted it "
                f"above low_freq_factor {self.low_freq_factor!r}"
            )

    def scale(self, periods: np.ndarray) -> np.ndarray:
        """p -> p / ((1-k)/factor + k), where k = (T/2πp - low) / (high - low), clipped to 0 … 1.

        p: tokens a radian. Source: transformers' rope type "llama3", for Llama 3.1's checkpoints.
        """
        turns = self.original_max_position_embeddings / (2 * math.pi * periods)
        k = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        k = k.clip(0, 1)
        return periods / ((1 - k) / self.factor + k)


def periods(head_dim: int, theta: float) -> np.ndarray:
    """p_j = θ^(2j/D), in tokens a radian.   -> (D/2,)."""
    return theta ** (np.arange(0, head_dim, 2) / head_dim)


def tables(
    head_dim: int, theta: float, scaling: Llama3Scaling | None, length: int, dtype
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of t / p_j, where p_j = θ^(2j/D), t = 0 … length - 1.   -> (length, D/2) each.

    They are computed in float64 and then rounded to dtype.
    """
    p = periods(head_dim, theta)
    if scaling:
        p = scaling.scale(p)
    angle = np.arange(length)[:, None] / p
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)
