"""Beside an adapter in --out: its card in the form of PEFT's, README.md, and loss.png."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..support import plots
from ..support.files import write_together
from ..tuning.history import History
from ..tuning.storage import mark
from . import config
from .arguments import forms

NAME, CURVES = "README.md", "loss.png"
PEFT = """To load it in PEFT, on the same base in the layout of Hugging Face:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("name or folder of the base")
model = PeftModel.from_pretrained(base, {folder!r})
```"""


def write(
    a: Namespace, tuned: Any, history: History, results: Mapping[str, str], kept: int
) -> None:
    """Write both into --out.   results: what -> how it came out; kept: the step of the adapter."""
    image = plots.png(_curves(history, kept), dpi=100)
    write_together({a.out / NAME: _card(a, tuned, results).encode(), a.out / CURVES: image})


def _curves(history, kept):
    """A figure of the loss against the steps, in training and on what is held out."""
    with plots.style():
        figure = plots.canvas(9, 5)
        axes = figure.subplots()
        steps = range(1, len(history.losses) + 1)
        axes.plot(steps, history.losses, color="#a6a6a6", lw=1.3, label="in training, each step")
        if history.evaluations:
            held = dict(color="#0072B2", marker="o", ms=6, label="on what is held out")
            axes.plot(*zip(*history.evaluations), **held)
        if kept:
            axes.axvline(kept, color=plots.INK, ls=":", lw=1.4, label=f"kept: step {kept}")
        axes.set(xlabel="optimizer steps", ylabel="cross-entropy (nats per token)", ylim=(0, None))
        axes.legend()
    return figure


def _card(a, tuned, results):
    """The card: the base, the data, the results, and how the adapter is loaded."""
    trained, whole = tuned.count_parameters()
    record, name = tuned.record, tuned.base.name or str(a.base)
    facts = {
        "base": f"{name}, fingerprint {mark(tuned.base)}",
        "technique": f"{record.title}, {record.source}",
        "trainable numbers": f"{trained:,} of {whole:,}",
        "data": (a.data or Path(a.task)).name,
        **results,
    }
    base = ", ".join([repr(a.base), *(f"{key}={form!r}" for key, form in forms(a).items())])
    rows = "".join(f"| {key} | {value} |\n" for key, value in facts.items())
    peft = record.peft is not None and not record.whole_model
    return f"""---
base_model: {json.dumps(name)}
library_name: peft
pipeline_tag: text-generation
tags: ["minilora", {json.dumps(tuned.method)}]
---

# {record.title} on {name}

| | |
|---|---|
{rows}
![the loss of each step]({CURVES})

All settings: [{config.NAME}]({config.NAME}). To load it here, with minilora {__version__}:

```python
import minilora as ml

tuned = ml.load_adapter(ml.load_model({base}), {str(a.out)!r})
```

{PEFT.format(folder=str(a.out)) if peft else "PEFT does not read this form."}
"""
