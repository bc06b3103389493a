"""The lines of a Llama's training step that are worth a look; a technique's stand in its file."""

from ..methods.base import Moment

MODEL = (
    Moment(
        "who looks at whom",
        "Each row is a token that asks, each column a token that answers. Grey is the future: no "
        "token may look there.",
        "forward",
        "s = scores",
        "attention",
    ),
    Moment(
        "softmax undone",
        "Each row of ds adds up to 0: to look more at one token is to look less at the others.",
        "backward",
        "ds = p",
        "attention",
    ),
)
