"""LoRA-FA's corrected gradient on a problem that is solved in closed form: a linear fit to white
inputs, where loss(B) = ½ ‖s B A - D‖² and the steps to the optimum follow from A Aᵀ alone.
"""

import math
from typing import Any

import numpy as np

from minilora.methods import METHODS
from minilora.methods.lora_fa import corrected_gradient
from minilora.tuning.optim import AdamW

LIMIT = 5000  # steps


def condition(A: np.ndarray) -> float:
    """λmax / λmin of A Aᵀ: how unequally a step of B moves ΔW = s B A in its r directions."""
    values = np.linalg.eigvalsh(A @ A.T)
    return float(values[-1] / values[0])


def expected_condition(width: int, rank: int) -> float:
    """((1 + √(r/n)) / (1 - √(r/n)))²: its limit for large r and n.

    Source: Marchenko and Pastur 1967; a finite random A lies below it.
    """
    root = math.sqrt(rank / width)
    return ((1 + root) / (1 - root)) ** 2


class Problem:
    """D (O, I) random, A (r, I) as LoRA-FA draws it, s = 2, in float64."""

    def __init__(self, width: int, outputs: int, rank: int, seed: int):
        rng = np.random.default_rng(seed)
        self.D = rng.standard_normal((outputs, width))
        record = METHODS["lora_fa"]
        how = {**record.options, "alpha": 2 * rank}
        arrays = record.init(np.zeros((outputs, width)), rank, how, rng, {})
        self.A, self.s, self.B = arrays["A"], arrays["s"], arrays["B"]
        self.best = self.D @ np.linalg.pinv(self.A) / self.s

    def gradient(self, B, corrected: bool) -> np.ndarray:
        """∂loss/∂B = s (s B A - D) Aᵀ, by the method's own rule where corrected."""
        grads = {"B": self.s * (self.s * B @ self.A - self.D) @ self.A.T}
        corrected_gradient({"A": self.A, "s": self.s}, grads, {"corrected": corrected})
        return grads["B"]

    def excess(self, B) -> float:
        """loss(B) - min loss, as a share of that at B = 0."""
        far = self.s * (B - self.best) @ self.A
        return float(np.square(far).sum() / np.square(self.s * self.best @ self.A).sum())

    def sgd_rate(self, corrected: bool) -> float:
        """The fastest constant rate: 2 / (λmin + λmax) of s² A Aᵀ, of which the corrected gradient
        makes the identity.
        """
        if corrected:
            return 1.0
        values = np.linalg.eigvalsh(self.s**2 * self.A @ self.A.T)
        return float(2 / (values[0] + values[-1]))

    def sgd_steps(self, corrected: bool, tolerance: float) -> int | None:
        """Steps of gradient descent at its best rate until the excess is at the tolerance."""
        B, rate = self.B, self.sgd_rate(corrected)
        for step in range(LIMIT + 1):
            if self.excess(B) <= tolerance:
                return step
            B = B - rate * self.gradient(B, corrected)
        return None

    def adam_steps(self, corrected: bool, tolerance: float, rate: float) -> int | None:
        """The same by Adam at a constant rate; None where it does not get there in 500 steps."""
        arrays = {"B": self.B.copy()}
        adam = AdamW(arrays)
        for step in range(501):
            if self.excess(arrays["B"]) <= tolerance:
                return step
            adam.step({"B": self.gradient(arrays["B"], corrected)}, rate)
        return None


def solve(width, outputs, rank, seed, tolerance, rates) -> dict[str, Any]:
    """Steps with and without the correction: by gradient descent, and by Adam at the best of the
    rates for each.
    """
    problem = Problem(width, outputs, rank, seed)
    results: dict[str, Any] = {"condition": condition(problem.A)}
    for name, corrected in (("plain", False), ("corrected", True)):
        results[f"sgd_{name}"] = problem.sgd_steps(corrected, tolerance)
        steps = [problem.adam_steps(corrected, tolerance, rate) for rate in rates]
        results[f"adam_{name}"] = min((s for s in steps if s is not None), default=None)
    return results
