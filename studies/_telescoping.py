"""Delta-LoRA's sum of steps telescopes: is it LoRA of another scaling, and of what rank is it?"""

import numpy as np

from minilora.lab.sweep import the_model
from minilora.text import tasks

from . import _lab

ROUNDING = 1e-12  # a smaller difference is one of rounding, whose size each processor has its own


def above_rounding(difference):
    """A relative difference, to two digits; ROUNDING for all that is below it."""
    return max(ROUNDING, float(f"{difference:.1e}"))


def same(ratio, start, rank, alpha, steps, seed):
    """Delta-LoRA beside LoRA of (1 + λ) times the scaling, in float64, on the same batches.

    ε is (1 + λ) times as large for LoRA, as its gradients are; without clipping, which looks at
    their size. -> the largest relative difference of the losses, the rank of what W learned.
    """
    model, words = the_model("base").astype(np.float64), tasks.select("past", 60)
    pair = [("delta_lora", alpha, 1.0), ("lora", (1 + ratio) * alpha, 1 + ratio)]
    losses, moved = [], {}
    for method, scaling, eps in pair:
        tuned = _lab.lora_or_delta(
            model, method, rank=rank, alpha=scaling, ratio=ratio, start=start, seed=seed
        )
        batches = _lab.word_batches(tuned, words.train, steps, seed)
        history = _lab.teach(tuned, batches, lr=0.01, steps=steps, clip=None, eps=eps * 1e-8)
        losses.append(np.array(history.losses))
        if tuned.record.owns_weight:
            moved = {
                name: a["W"] - model.params[f"{name}.weight"] for name, a in tuned.layers.items()
            }
    values = [np.linalg.svd(change, compute_uv=False) for change in moved.values()]
    return {
        "difference": above_rounding(np.max(np.abs(losses[0] - losses[1]) / losses[1])),
        "ranks": [int((v > 1e-9 * v[0]).sum()) for v in values],
    }
