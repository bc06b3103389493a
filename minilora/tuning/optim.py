"""AdamW with a learning rate per array, learning-rate schedules, clipping by global norm."""

import math
from collections.abc import Mapping

import numpy as np

from ..ops.adamw import adamw

SCHEDULES = ("constant", "linear", "cosine")


class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2), as torch
    computes it.

    params: name -> array, written in place. scale: name -> factor on the learning rate (1 where
    absent), and so on the decay lr·wd. State: two moments per array.
    """

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        scale: Mapping[str, float] | None = None,
    ):
        self.params, self.betas, self.eps, self.weight_decay = params, betas, eps, weight_decay
        self.scale = scale or {}
        self.steps = 0
        self.m = {name: np.zeros_like(p) for name, p in params.items()}
        self.v = {name: np.zeros_like(p) for name, p in params.items()}

    def step(self, grads: Mapping[str, np.ndarray], lr: float, factor: float = 1.0) -> None:
        """One step on every array, with its gradient times factor (see `clip_factor`)."""
        self.steps += 1
        for name, p in self.params.items():
            adamw(
                p,
                grads[name],
                self.m[name],
                self.v[name],
                lr * self.scale.get(name, 1.0),
                *self.betas,
                self.eps,
                self.weight_decay,
                self.steps,
                factor,
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the moments."""
        return sum(a.nbytes for a in (*self.m.values(), *self.v.values()))


def learning_rate(
    n: int, *, lr: float, steps: int, schedule: str = "constant", warmup: int = 0
) -> float:
    """The rate of step n = 1 … steps: lr·min(1, n/warmup), then constant, or linearly or along a
    cosine to 0 at `steps`.
    """
    if n <= warmup:
        return lr * n / warmup
    done = (n - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return lr * (1 - done)
    if schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * done))
    return lr


def global_norm(grads: Mapping[str, np.ndarray]) -> float:
    """‖g‖₂ over all arrays together, summed in float64: a square of 1e20 is beyond float32."""
    return math.sqrt(
        sum(float(np.einsum("i,i", g, g, dtype=np.float64)) for g in map(np.ravel, grads.values()))
    )


def clip_factor(grads: Mapping[str, np.ndarray], limit: float) -> float:
    """min(1, limit / (‖g‖ + 1e-6)): what clipping multiplies all gradients by.

    The step takes the factor, and no second copy of the gradients is made.
    """
    return min(1.0, limit / (global_norm(grads) + 1e-6))
