"""Two models small enough to train at many pairs of rates at once: which pair is fastest, and how
that moves with the width. η_A is the rate of A, η_B that of B.
"""

from typing import Any

import numpy as np

from minilora.tuning.optim import AdamW

# ------------------------------------------------------- one number, one sample: gradient descent

TOLERANCE = 0.01  # |f - y| at which the toy has learned its sample
LIMIT = 300  # steps after which it has not


def toy_steps(width: int, rates_a, rates_b, starts) -> np.ndarray:
    """Median over the starts of the steps until |f - 1| < 0.01, for each pair of rates.

    f = b (a·x), ‖x‖² = n = width; only p = a·x counts:  b ← b - η_B U p,  p ← p - η_A U b n,
    U = b p - 1, b = 0 at the start. rates_a, rates_b (G,), starts (D,) of p  ->  (G,), inf where
    never. Source: LoRA+, arXiv:2402.12354, the linear example of its section 3.
    """
    eta_a, eta_b = (np.asarray(rates, float)[:, None] for rates in (rates_a, rates_b))
    b = np.zeros((len(eta_a), len(starts)))
    p = np.tile(np.asarray(starts, float), (len(eta_a), 1))
    steps = np.full(b.shape, np.inf)
    for step in range(LIMIT + 1):
        error = b * p - 1
        steps[np.isinf(steps) & (abs(error) < TOLERANCE)] = step
        going = np.isinf(steps) & (abs(error) < 1e6)  # the rest has learned, or has flown away
        if not going.any():
            break
        error[~going] = 0
        b, p = b - eta_b * error * p, p - eta_a * error * b * width
    return np.median(steps, axis=1)


def toy(width: int, rates, pair, starts) -> dict[str, Any]:
    """The best equal rate and its steps; and those of η_A = pair[0] / n, η_B = pair[1].

    Of rates that are equally fast, their geometric mean.
    """
    steps = toy_steps(width, rates, rates, starts)
    best = [rate for rate, needed in zip(rates, steps, strict=True) if needed == steps.min()]
    apart = toy_steps(width, [pair[0] / width], [pair[1]], starts)
    return {
        "rate": float(np.exp(np.mean(np.log(best)))),
        "fastest_rates": [float(rate) for rate in best],
        "steps": float(steps.min()),
        "steps_apart": float(apart[0]),
    }


# ----------------------------------------------------------------- one layer: LoRA's pair and AdamW


def layer_steps(
    width: int, rank: int, rates_a, rates_b, target: float, limit: int, rows: int, seed: int
) -> np.ndarray:
    """Steps until the loss is `target` times that of the start, for every pair of rates.

    A layer relu(W x) is to become relu((W + D) x), D of the rank of B A: loss = mean squared error
    of the outputs, on `rows` new x ~ N(0, 1) a step, so that no loss is one of training. W, A, B
    and D (n, n), n = width, are such that all outputs are Θ(1) at any width; A and B start as
    LoRA's, s = 1; AdamW without decay.  ->  (len(rates_a), len(rates_b)), inf where never.
    """
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in rates_a for b in rates_b]

    def draw(*shape):
        return rng.standard_normal(shape, np.float32)

    W, down, up = draw(width, width) / width**0.5, draw(rank, width) / width**0.5, draw(width, rank)
    bound = width**-0.5
    A = rng.uniform(-bound, bound, (rank, width)).astype(np.float32)
    students = {k: student(A, pair) for k, pair in enumerate(pairs)}
    steps = np.full(len(pairs), np.inf)
    for step in range(limit + 1):
        x = draw(rows, width)
        plain = x @ W.T
        wanted = np.maximum(plain + x @ down.T @ (up / rank**0.5).T, 0)
        start = float(np.square(np.maximum(plain, 0) - wanted).mean())
        for k in list(students):
            loss = layer_step(*students[k], x, plain, wanted)
            if loss <= target * start:
                steps[k] = step
            if not target * start < loss < 1e3 * start:
                del students[k]
        if not students:
            break
    return steps.reshape(len(rates_a), len(rates_b))


def student(A, pair) -> tuple[dict[str, np.ndarray], AdamW]:
    """Fresh A and B with their optimizer, whose rates are the pair."""
    arrays = {"A": A.copy(), "B": np.zeros(A.T.shape, np.float32)}
    return arrays, AdamW(arrays, scale=dict(zip("AB", pair, strict=True)))


def layer_step(arrays, adam, x, plain, wanted) -> float:
    """One step of AdamW  ->  the loss before it."""
    A, B = arrays["A"], arrays["B"]
    z = x @ A.T
    y = plain + z @ B.T
    error = np.maximum(y, 0) - wanted
    dy = error * (y > 0) * np.float32(2 / error.size)  # loss has relu(y)
    adam.step({"A": (dy @ B).T @ x, "B": dy.T @ z}, lr=1.0)  # y has z Bᵀ, z = x Aᵀ
    return float(np.square(error).mean())
