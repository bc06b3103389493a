"""The lines of a Llama's step that are worth a look; a technique's moments are in its own file."""

from ..methods.base import Moment

MODEL = (
    Moment(
        "who looks at whom",
        "Each row is a query token, each column a key token. Grey is the future, which no token "
        "may see.",
        "forward",
        "s = scores",
        "attention",
    ),
    Moment(
        "softmax undone",
        "Each row of ds adds up to 0: more attention to one token is less to the others.",
        "backward",
        "ds = p",
        "attention",
    ),
)
