"""Delta-LoRA: LoRA whose frozen weight follows the change of the product B A from step to step.

The pair is LoRA's, without dropout, so that ∂loss/∂(B A) = s ∂loss/∂W. W gets no gradient and no
moments of its own.
"""

from dataclasses import replace

import numpy as np

from ..engine import Function
from ..support.values import number, whole
from . import lora
from .base import Moment


def add_product(W, left, right):
    """W ← W + left right, in place.   W (O, I), left (O, 2r), right (2r, I)."""
    W += left @ right


add_product = Function(add_product)


def before_step(arrays):
    """Copies of A and B: (I + O) r numbers; their product would have I·O."""
    return arrays["A"].copy(), arrays["B"].copy()


def after_step(arrays, kept, step, options):
    """W ← W + λ s (B'A' - B A) in place, if step > start_step; A', B': after AdamW's step.

    W (O, I), A (r, I), B (O, r); step counts from 1. The difference is computed as one product of
    rank 2r. A_start, B_start are A and B just before W first moved. From then on W moves in every
    step, so W - W₀ = λ s (B'A' - B_start A_start).
    Source: Zi et al. 2023, arXiv:2309.02411, algorithm 1 (its K is start_step - 1).
    """
    A, B = kept
    if "A_start" not in arrays:
        if step <= options["start_step"]:
            return
        arrays["A_start"], arrays["B_start"] = A, B
    rate = options["update_ratio"] * arrays["s"]
    left = np.concatenate([arrays["B"], -B], axis=1) * rate
    right = np.concatenate([arrays["A"], A], axis=0)
    add_product(arrays["W"], left, right)  # λ s (B'A' - B A)


def factors(options, A, B, A_start=None, B_start=None, **_):
    """s B A + λ s (B A - B_start A_start) = s · [(1+λ) B, -λ B_start] [A; A_start].

    ->  (O, 2r), (2r, I). Only (O, r), (r, I) if W has not moved yet, or if B_start = 0: then W
    moved from the first step on.
    """
    if A_start is None:
        return B, A
    ratio = options["update_ratio"]
    if not B_start.any():
        return (1 + ratio) * B, A
    left = np.concatenate([(1 + ratio) * B, -ratio * B_start], axis=1)
    return left, np.concatenate([A, A_start], axis=0)


def to_peft(settings, layers):
    """A LoRA of rank 2r that has the same effect on the unchanged base: see `factors`.

    Its alpha grows with its rank, so that the scaling s stays the same.
    """
    written = {}
    for layer, arguments in layers.items():
        if settings.options["start_step"] == 0 and "A_start" not in arguments:
            # a B other than 0 was set by hand here; with rank r it would be read as (1+λ) B
            arguments = {**arguments, "A_start": arguments["A"], "B_start": arguments["B"]}
        B, A = factors(settings.options, **arguments)
        written[layer] = {"A": A, "B": B}
    times = max(len(written[layer]["A"]) // len(a["A"]) for layer, a in layers.items())
    alphas = times ** (0.5 if settings.options["rank_stabilized"] else 1)
    wider = replace(
        settings,
        rank=settings.rank * times,
        alpha=settings.alpha * alphas,
        rank_pattern={k: r * times for k, r in settings.rank_pattern.items()},
        alpha_pattern={k: a * alphas for k, a in settings.alpha_pattern.items()},
    )
    return lora.to_peft(wider, layers)[0], written


def restore(options, arguments, written):
    """A, B, A_start, B_start and the moved W, from the arrays that `factors` gave.

    written: [A; A_start] (2r, I) and [(1+λ) B, -λ B_start] (O, 2r). With rank r they are A and
    (1+λ) B if W moves from the first step on (then B_start = 0), else A and B: W had not moved yet.
    Raises ValueError if λ = -1: then (1+λ) B = 0, and B is lost.
    """
    W, s, (O, r) = arguments["W"], arguments["s"], arguments["B"].shape
    right, left = written["A"].astype(np.float64), written["B"].astype(np.float64)
    if left.shape == (O, r) and options["start_step"] == 0:
        right, left = np.concatenate([right, right]), np.concatenate([left, 0 * left], axis=1)
    if (left.shape, right.shape) != ((O, 2 * r), (2 * r, W.shape[1])):
        return {}
    ratio = options["update_ratio"]
    if ratio == -1:
        raise ValueError(
            "delta_lora: update_ratio is -1, so the files do not hold B; wanted the run's "
            "checkpoint to train further, or method='lora' to use what was learned"
        )
    A, A_start = right[:r], right[r:]
    # where λ = 0, W never moves and nothing reads B_start
    B, B_start = left[:, :r] / (1 + ratio), left[:, r:] / (-ratio or 1)
    W = W + ratio * s * (B @ A - B_start @ A_start)
    return {"W": W, "A": A, "B": B, "A_start": A_start, "B_start": B_start}


def of_run(steps, seed):
    """W does not move in the first 2 % of the steps, and at least in the first step.

    The paper's K = 500 was this share of its E2E run (42,061 pairs, 5 epochs, batches of 8).
    """
    return {"start_step": max(1, round(0.02 * steps))}


def check(options):
    """Raises ValueError unless update_ratio is finite and start_step a whole number from 0."""
    number("delta_lora: update_ratio", options["update_ratio"])
    whole("delta_lora: start_step", options["start_step"])


METHOD = replace(
    lora.METHOD,
    name="delta_lora",
    title="Delta-LoRA",
    source="Zi et al. 2023, arXiv:2309.02411, algorithm 1",
    formula="W + s B A, W moved by λ s Δ(B A) each step",
    options={"rank_stabilized": False, "update_ratio": 2.0, "start_step": 0},
    about={
        "rank_stabilized": lora.ABOUT["rank_stabilized"],
        "update_ratio": "λ: in each step W moves by λ times the change of s B A",
        "start_step": "optimizer steps before W first moves",
    },
    of_run=of_run,
    check=check,
    factors=factors,
    before_step=before_step,
    after_step=after_step,
    remembers={"A_start": "A", "B_start": "B"},
    owns_weight=True,
    peft=replace(lora.PEFT, to_peft=to_peft, restore=restore),
    moments=(
        *lora.MOMENTS,
        Moment(
            "Delta-LoRA moves W by a thin product",
            "W moves by the change of s B A, a matrix of rank 2r at most: ΔW shows it as stripes.",
            "step",
            "add_product(",
            "delta_lora.after_step",
            "q_proj",
            zero="-left",
        ),
    ),
)
