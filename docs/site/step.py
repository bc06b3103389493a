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


def anchors(title: str, ops: list[str]) -> list[str]:
    """Where in step.html a technique, or these ops, are: its moments, else the ops' names."""
    first: dict[str, tuple[str, str]] = {}  # a moment -> the technique that shows it, and its page
    for shown, trace in traces().items():
        for moment, event, _ in trace.moments():
            first.setdefault(moment.name, (shown, trace.events[event].op))
    found = [
        name for name, (shown, op) in first.items() if (shown == title if title else op in ops)
    ]
    pages = {name for trace in traces().values() for name in trace.pages}
    return found or [op for op in ops if op in pages]


def write(folder: Path) -> None:
    """Write step.html."""
    ml.trace_page(folder / "step.html", traces())
