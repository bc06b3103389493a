"""Notebook 07, Delta-LoRA: the step by which W follows B A, and the rank that it reaches."""

from typing import Any

import numpy as np

from minilora.methods.delta_lora import after_step

from ..slips import Case, Slips
from .exercise import blank, broken, draw, number, old_and_step, predict
from .lora import shapes

OPTIONS = {"update_ratio": 2.0, "start_step": 0}


def step(W, s, ratio, lr, A, B, dA, dB):
    """W', A', B' after a step of plain gradient descent: W' = W + λ s (B'A' - B A)."""
    new = {"W": W.copy(), "s": s, "A": A - lr * dA, "B": B - lr * dB}
    after_step(new, (A, B), 1, {**OPTIONS, "update_ratio": ratio})
    return {"W'": new["W"], "A'": new["A"], "B'": new["B"]}


def by_gradients(W, s, ratio, lr, A, B, dA, dB):
    """W moved by the product of the factors' differences, by gradients, by the new product."""
    to_first_order = W - ratio * s * lr * (dB @ A + B @ dA)
    return [
        {"W'": W + ratio * s * lr**2 * (dB @ dA)},  # (B' - B)(A' - A)
        {"W'": W - ratio * s * lr * (dB @ dA)},
        {"W'": to_first_order},
        {"W'": W + ratio * s * (B - lr * dB) @ (A - lr * dA)},
    ]


def without_ratio(W, s, ratio, lr, A, B, dA, dB):
    """W moved by s (B'A' - B A)."""
    return [{"W'": step(W, s, 1.0, lr, A, B, dA, dB)["W'"]}]


def old_minus_new(W, s, ratio, lr, A, B, dA, dB):
    """W moved by λ s (B A - B'A'); also without λ or s."""
    scales = ((s, -ratio), (s, -1.0), (1.0, -ratio))
    return [{"W'": step(W, k, by, lr, A, B, dA, dB)["W'"]} for k, by in scales]


def by_the_differences(W, s, ratio, lr, A, B, dA, dB):
    """W moved by (B' - B)(A' - A)."""
    moved = W + ratio * s * lr**2 * (dB @ dA)
    return {**step(W, s, ratio, lr, A, B, dA, dB), "W'": moved}


def step_cases(rng):
    """For W', A', B' = f(W, s, ratio, lr, A, B, dA, dB)."""
    cases = []
    for _, I, O, r, s in shapes(rng):
        a = draw(rng, W=(O, I), A=(r, I), B=(O, r), dA=(r, I), dB=(O, r))
        rates = {"ratio": number(rng, 1.5, 3), "lr": number(rng, 0.05, 0.5)}
        args = {"W": a.pop("W"), "s": s, **rates, **a}
        slips: Slips = {
            "the update ratio is missing: W moves by λ s times the difference": without_ratio,
            "W moved by the old product minus the new one: wanted is B'A' - BA": old_minus_new,
            "not the products' difference": by_gradients,
            "{name} is W: were A and B replaced before the old product was taken?": (
                lambda W, **a: [{"W'": W}]
            ),
        }
        cases.append(Case(args, step, slips=slips, **old_and_step("W'", "A'", "B'")))
    return cases


def rank_reached(r=3):
    """The rank of W - W₀ after ten steps, where W stands still in the first three."""
    rng = np.random.default_rng(0)
    a: dict[str, Any] = {
        "W": np.zeros((20, 30)),
        "s": 2.0,
        "A": rng.normal(size=(r, 30)),
        "B": np.zeros((20, r)),
    }
    for n in range(1, 11):
        kept = a["A"].copy(), a["B"].copy()
        a["A"], a["B"] = (m + 0.1 * rng.normal(size=m.shape) for m in kept)
        after_step(a, kept, n, {**OPTIONS, "start_step": 3})
    return int(np.linalg.matrix_rank(a["W"]))


EXERCISES = (
    predict(
        "delta_lora_rank",
        "Rank 3, W begins to move after step 3: what is the rank of W - W₀ after 10 steps?",
        (
            "Write out the sum of the moves: what cancels?",
            "W - W₀ = λ s (B'A' - B_start A_start): a difference of two products.",
        ),
        number=rank_reached,
        because="2r: in the sum of the moves all products cancel but the last and the first.",
        near={
            3: "that is r: it would be so if W moved from the very first step, with B = 0",
            21: "the ranks of the seven moves do not add up: most of their sum cancels",
            20: "that is full rank: most of the sum cancels, so it stays far below",
        },
    ),
    blank(
        "delta_lora_step",
        "One step with plain gradient descent: W, s, ratio, lr, A, B, dA, dB -> W', A', B'",
        (
            "First A and B take their step. W moves afterwards, and has no gradient.",
            "W follows the product: by how much did s·B A change in this step?",
        ),
        step_cases,
    ),
    broken(
        "delta_lora_break",
        "Move W by the product of the factors' differences: the same arguments -> W', A', B'",
        (
            "B'A' - B A is not (B' - B)(A' - A).",
            "The second leaves out the two largest terms.",
        ),
        step_cases,
        wanted=by_the_differences,
    ),
)
