"""step: one training step, drawn line by line as a page for a browser."""

import argparse
from pathlib import Path

from ..lab import rates
from ..methods import DEFAULT
from ..tuning.choices import find_method
from .arguments import adapter_options, command, form_options, given, names, options, read_whole
from .text import ADAPTER, BASE, load_base

DEEP, FIRST = 8, (0, 1)


def add(commands) -> None:
    """Add this command to the parser."""
    p = command(commands, "step", step)
    p.add_argument("--base", default="base", help=BASE)
    form_options(p)
    adapter_options(p, default="lora")
    p.add_argument("--methods", type=names, help=f"several; key T switches: {','.join(DEFAULT)}")
    p.add_argument("--adapter", type=Path, help=f"draw a step of this adapter: {ADAPTER}")
    p.add_argument("--prompt", default="Dwalk>", help="the prompt (%(default)s)")
    p.add_argument("--answer", default="walked", help="the text to learn (%(default)s)")
    p.add_argument(
        "--steps",
        type=names,
        default=("0",),
        help="first train for this many steps on the pair; several: 0,1,20 (0)",
    )
    p.add_argument("--lr", type=float, help="learning rate (as minilora train chooses it)")
    p.add_argument(
        "--layers",
        type=names,
        help=f"layers to record line by line: 0,1 (all; if more than {DEEP}: 0, 1 and the last)",
    )
    p.add_argument("--out", type=Path, default=Path("step.html"), help="the page (%(default)s)")


def step(a: argparse.Namespace) -> None:
    """Write the page. Raises ValueError for a wrong method, pair, number of steps or layer."""
    import minilora as ml

    model = load_base(a)
    batch = ml.batches([(a.prompt, (a.answer,))], model.tokenizer, 1)[0]
    steps = sorted({read_whole("--steps", text) for text in a.steps})
    if not steps or steps[0] < 0:
        raise ValueError(f"--steps: got {', '.join(a.steps) or 'none'}, wanted numbers from 0")
    ignored = [name for name in ("methods", "rank", "targets") if getattr(a, name)]
    if a.adapter and (ignored or a.option):
        raise ValueError(f"--adapter has its own {(*ignored, 'options')[0]}, got another")
    layers, traces, record = _layers(a.layers, model.config.num_hidden_layers), {}, rates.read()
    for method in a.methods or (a.method,):
        if a.adapter:
            tuned = ml.load_adapter(model, a.adapter)
        else:
            takes = find_method(method).takes
            how = {name: v for name, v in given(a, "rank", "targets").items() if name in takes}
            tuned = ml.attach(model, method, **how, **options(a.option, method))
        lr = rates.of_run(record, tuned, None)[0] if a.lr is None else a.lr
        done = 0
        for n in steps:
            if n > done:
                ml.train(tuned, [batch], steps=n - done, lr=lr, progress=False)
            done = n
            title = f"{tuned.record.title}, step {n}" if len(steps) > 1 else tuned.record.title
            title += f" ({tuned.method})" if title in traces else ""
            traces[title] = ml.trace(tuned, *batch, lr=lr, layers=layers)
    path = ml.trace_page(a.out, traces)
    print(f"{', '.join(traces)}: {path}, {path.stat().st_size / 1e6:.1f} MB")


def _layers(texts, every: int) -> list[int] | None:
    """The layers to record: all, or a few of a deep model."""
    if texts is None:
        return None if every <= DEEP else [*FIRST, every - 1]
    return [read_whole("--layers", text) for text in texts]
