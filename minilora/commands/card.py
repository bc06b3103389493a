"""README.md, an adapter's card in PEFT's form, and loss.png, beside the adapter in --out."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..methods import own
from ..support import plots
from ..support.files import optional_files, write_atomically
from ..tuning.history import History
from ..tuning.storage import mark
from .arguments import forms

NAME, CURVES = "README.md", "loss.png"
SETTINGS = "steps", "batch_size", "accumulate", "schedule", "weight_decay", "clip", "seed"
CARD = """---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [minilora, {tuned.method}]
---

# {tuned.record.title}

| | |
|---|---|
{rows}
![the loss of each step](loss.png)

All settings: [run.toml](run.toml). To load it here, with minilora {version}:

```python
import minilora as ml

tuned = ml.load_adapter(ml.load_model({given}), {folder!r}{own_file})
```

{peft}
"""
IN_PEFT = """In PEFT, on the same base in the layout of Hugging Face:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("name or folder of the base")
model = PeftModel.from_pretrained(base, {folder!r})
```"""


def write(a: Namespace, tuned: Any, history: History, results: Mapping[str, str]) -> None:
    """Write both into --out, as far as it can.   results: what -> how it came out."""
    chosen = {name: getattr(tuned, name) for name in ("rank", "alpha", "options")}
    chosen |= {name.replace("_", " "): getattr(a, name) for name in SETTINGS}
    (trained, whole), record, folder = tuned.count_parameters(), tuned.record, str(a.out)
    facts = {
        "base": f"{tuned.base.name or a.base}, fingerprint {mark(tuned.base)}",
        "technique": record.source,
        "trainable numbers": f"{trained:,} of {whole:,}",
        "data": (a.data or Path(a.task)).name,
        **results,
        "highest learning rate": f"{max(history.rates):g}",
        **{name: value for name, value in chosen.items() if value is not None},
    }
    own_file = f", method={own.spelled(tuned.method)!r}" if tuned.method in own.FILES else ""
    peft = record.peft and not record.whole_model
    given = ", ".join([repr(a.base), *(f"{key}={form!r}" for key, form in forms(a).items())])
    card = CARD.format(
        given=given,
        tuned=tuned,
        base=json.dumps(tuned.base.name or str(a.base)),
        rows="".join(f"| {key} | {value} |\n" for key, value in facts.items()),
        version=__version__,
        folder=folder,
        own_file=own_file,
        peft=IN_PEFT.format(folder=folder) if peft else "PEFT does not read this form.",
    )
    with optional_files(a.out / NAME):
        write_atomically(a.out / NAME, card.encode())
        print(f"card: {a.out / NAME}")
    with optional_files(a.out / CURVES):
        write_atomically(a.out / CURVES, plots.png(_curves(history), dpi=100))


def _curves(history):
    """A figure of the loss against the steps, in training and on held-out data."""
    with plots.style():
        figure = plots.canvas(9, 5)
        axes, steps = figure.subplots(), range(1, len(history.losses) + 1)
        axes.plot(steps, history.losses, color="#a6a6a6", lw=1.3, label="in training, each step")
        if history.evaluations:
            axes.plot(*zip(*history.evaluations), marker="o", label="on held-out data")
        axes.set(xlabel="optimizer steps", ylabel="cross-entropy (nats per token)", ylim=(0, None))
        axes.legend()
    return figure
