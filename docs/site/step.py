"""The site's page step.html: one step of every technique on the embedded base, drawn."""

import functools
from pathlib import Path

import minilora as ml
from minilora.step.trace import Trace

RANKS = {"full": None, "vera": 16}  # small, so that the page is; 4 for the others


@functools.cache
def traces() -> dict[str, Trace]:
    """Title -> the first step of a technique on one pair."""
    model = ml.load_model("base")
    batch = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
    return {
        record.title: ml.trace(ml.attach(model, name, rank=RANKS.get(name, 4)), *batch)
        for name, record in ml.METHODS.items()
    }


def places() -> set[str]:
    """The names of the pages that the step has: "step.html#lora" leads to one."""
    return {name for trace in traces().values() for name in trace.pages}


def write(folder: Path) -> None:
    """Write step.html."""
    ml.trace_page(folder / "step.html", traces())
