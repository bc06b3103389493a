"""The site's page step.html: one step of every technique on the embedded base, drawn.

`python docs/site/step.py docs/figures/step.png` makes the picture of it in README, with Chromium.
"""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import minilora as ml
from minilora.methods.base import Moment
from minilora.step.trace import Trace

RANKS = {"full": None, "vera": 16}  # small, so that the page is; 4 for the others


@functools.cache
def traces() -> dict[str, Trace]:
    """Title -> the first step of a technique on one pair, LoRA's first."""
    model = ml.load_model("base")
    batch = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
    return {
        ml.METHODS[name].title: ml.trace(ml.attach(model, name, rank=RANKS.get(name, 4)), *batch)
        for name in sorted(ml.METHODS, key="lora".__ne__)
    }


def anchors(title: str, ops: list[str]) -> list[str]:
    """Where in step.html a technique, or these ops, are: its moments, else the ops' names."""
    first: dict[str, tuple[Trace, Moment, int]] = {}  # a moment, and the step that shows it
    for trace in traces().values():
        for moment, event, _ in trace.moments():
            first.setdefault(moment.name, (trace, moment, event))
    found = [
        moment.name
        for trace, moment, event in first.values()
        if (moment in trace.record.moments and trace.record.title == title)
        or (not title and trace.events[event].op in ops)
    ]
    return found or [op for op in ops if any(op in trace.pages for trace in traces().values())]


def write(folder: Path) -> None:
    """Write step.html."""
    ml.trace_page(folder / "step.html", traces())


def shot(png: Path) -> None:
    """Write a picture of LoRA's moment "dA is 0 in the first step", 1280 x 760, in 256 colours."""
    from check import chromium  # beside this file
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        address = f"file://{folder}/step.html#dA%20is%200%20in%20the%20first%20step"
        flags = "--headless --no-sandbox --hide-scrollbars --window-size=1280,760".split()
        command = [
            chromium(),
            *flags,
            "--virtual-time-budget=5000",
            f"--screenshot={folder}/step.png",
        ]
        subprocess.run([*command, address], check=True, capture_output=True)
        Image.open(f"{folder}/step.png").convert("RGB").quantize(256).save(png, optimize=True)


if __name__ == "__main__":
    shot(Path(sys.argv[1]))
