"""A teacher whose weight is of known rank away from the base's: how near LoRA of a rank comes."""

import numpy as np

from minilora.lab.sweep import rounded, the_model
from minilora.methods import METHODS
from minilora.methods.lora import lora_backward, lora_forward
from minilora.tuning.optim import AdamW, learning_rate

LAYER = "model.layers.0.self_attn.q_proj.weight"


def known_rank(known, rank, steps, lr, seed):
    """The squared distance from the teacher that LoRA leaves, and that the best matrix of its rank
    leaves by the Eckart-Young theorem; both as shares of ‖Δ‖², Δ of rank `known` as large as W.

    The inputs are white, XᵀX = M·1, so that the mean squared error is the squared distance of the
    weights.
    """
    rng = np.random.default_rng((seed, known))
    W = the_model("base").params[LAYER].astype(np.float64)
    change = teacher(rng, W, known)
    X = white(rng, 2 * W.shape[1], W.shape[1])
    goal = X @ (W + change).T
    made = METHODS["lora"].init(W, rank, {"alpha": rank, "rank_stabilized": False}, rng, {})
    adam = AdamW({"A": made["A"], "B": made["B"]}, betas=(0.9, 0.98))
    for step in range(1, steps + 1):
        y, cache = lora_forward(X, W, **made)
        _, _, _, dA, dB, *_ = lora_backward((y - goal) / len(X), cache)
        rate = learning_rate(step, lr=lr, steps=steps, schedule="linear", warmup=steps // 10)
        adam.step({"A": dA, "B": dB}, rate)
    left = np.sum((change - METHODS["lora"].delta(**made)) ** 2)
    return {
        "error": rounded(float(left / np.sum(change**2))),
        "best": rounded(best_of_rank(change, rank)),
    }


def teacher(rng, W, known):
    """Δ, a random product of rank `known`, as large as W."""
    change = rng.standard_normal((len(W), known)) @ rng.standard_normal((known, W.shape[1]))
    return change * np.linalg.norm(W) / np.linalg.norm(change)


def white(rng, rows, columns):
    """X (rows, columns) with XᵀX = rows · 1."""
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0] * np.sqrt(rows)


def best_of_rank(change, rank):
    """The share of ‖Δ‖² that the best matrix of that rank leaves: the singular values after it.
    What is rounding, and comes out otherwise each time, counts as 0, as in NumPy's matrix_rank.

    Source: Eckart & Young 1936, Psychometrika 1, 211-218.
    """
    values = np.linalg.svd(change, compute_uv=False)
    values[values < values[0] * max(change.shape) * np.finfo(values.dtype).eps] = 0
    return float(np.sum(values[rank:] ** 2) / np.sum(values**2))
