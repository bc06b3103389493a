"""LoRA+: LoRA whose B learns faster than its A.

The pair is LoRA's; the optimizer gets a ratio of the two learning rates.
"""

from dataclasses import replace

from ..support.values import number
from . import lora
from .base import Moment, check_probability


def lr_scale(options):
    """η_B = ratio · η_A, where η_A is the learning rate.

    AdamW's weight decay is η · wd, so B's decay grows by the ratio too.
    Source: Hayou et al. 2024, arXiv:2402.12354: for a width n → ∞, features are learned efficiently
    with η_A = Θ(1/n), η_B = Θ(1).
    """
    return {"B": options["ratio"]}


def check(options):
    """Raises ValueError unless the ratio is a number above 0."""
    check_probability(options)
    number("lora_plus: ratio", options["ratio"], above=0)


METHOD = replace(
    lora.METHOD,
    name="lora_plus",
    title="LoRA+",
    source="Hayou et al. 2024, arXiv:2402.12354, section 4",
    formula="W + s B A, B's learning rate times a ratio",
    options={**lora.METHOD.options, "ratio": 16.0},
    about=lora.ABOUT | {"ratio": "learning rate of B divided by that of A, above 0"},
    check=check,
    lr_scale=lr_scale,
    moments=(
        *lora.MOMENTS,
        Moment(
            "LoRA+ moves B farther",
            "The learning rate of B is that of A times the ratio: compare Δp with LoRA's.",
            "step",
            "p -= ",
            "adamw",
            "q_proj.lora_B",
        ),
    ),
)
