"""What the notebooks show: figures with captions, and sliders that draw them again.

From kept: `keep`, `mine` and `technique`, for what a student has written.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minilora.lab.cells import Record, read
from minilora.lab.runs import trainable_numbers
from minilora.lab.statistics import estimate
from minilora.memory import ledger
from minilora.methods import METHODS
from minilora.support import plots
from minilora.support.files import data_folder
from minilora.support.terminal import STATIC
from minilora.tuning.adapters import Tuned

from .kept import keep, mine, technique

__all__ = [
    "beside",
    "explore",
    "figure",
    "keep",
    "look",
    "mine",
    "race",
    "records",
    "show",
    "technique",
    "where",
]


@contextlib.contextmanager
def figure(
    caption: str, width: float = 9, height: float = 4.5, columns: int = 1, **settings: Any
) -> Iterator[Any]:
    """Axes in the project's style, for a with block; after it the figure and its caption are shown.

    width, height: inches. columns: panels side by side; above 1 the axes are an array. settings:
    for Matplotlib's `subplots`.
    """
    with plots.style():
        canvas = plots.canvas(width, height)
        yield canvas.subplots(1, columns, **settings)
        for axes in canvas.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() == "log":
                    _plain_numbers(axis)
    show(canvas, caption)


def _plain_numbers(axis) -> None:
    """0.1, 20 and 1,000 on a logarithmic axis, not powers of ten; ticks that were set stay."""
    from matplotlib.ticker import FixedLocator, LogLocator

    if isinstance(axis.get_major_locator(), FixedLocator):
        axis.set_minor_formatter("")
        return
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=12))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter("")


def show(canvas, caption: str) -> None:
    """Display a figure as a PNG, with its caption below it."""
    from IPython.display import Image, Markdown, display

    display(Image(_small(plots.png(canvas)), alt=caption), Markdown(f"**Figure.** {caption}"))


def _small(png: bytes) -> bytes:
    """The same picture in 256 colours: about a third of the bytes, since notebooks hold many."""
    from PIL import Image

    file = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def look(name: str) -> dict[str, str]:
    """A method's own colour, marker and title, as keywords for Matplotlib's `plot`."""
    colour, marker = plots.looks([name])[name]
    return {"color": colour, "marker": marker, "label": METHODS[name].title}


def beside(
    runs: Mapping[str, tuple[Tuned, Any]], batch_size: int, seq_len: int, caption: str
) -> None:
    """Three small figures: how many numbers train, the bytes of a step, the loss in training.

    runs: title -> (a model, the losses (seeds, steps) of its training), in the order of the rows:
    LoRA first. batch_size, seq_len: of the step whose bytes the ledger predicts. Notebooks on one
    base have the same axes; the dotted lines are full fine-tuning of this base in float32.
    """
    tuned = [model for model, _ in runs.values()]
    losses = [np.asarray(of_seeds) for _, of_seeds in runs.values()]
    counts = [trainable_numbers(model) for model in tuned]
    sizes = [ledger(model, batch_size, seq_len) for model in tuned]
    full = ledger(tuned[0].base.config, batch_size, seq_len, method="full")
    _say_beside(runs, counts, sizes, losses)
    with figure(caption, 11, 3.4, columns=3, width_ratios=(0.8, 1.1, 1)) as (left, middle, right):
        plots.stacks(middle, sizes)
        box = dict(fc="w", ec="none", pad=1)
        for place, (title, look_) in enumerate(zip(runs, _looks_of(tuned))):
            label = dict(xytext=(0, 10), textcoords="offset points", ha="center")
            left.plot(counts[place], place, **look_, ms=11, zorder=9)  # above its label
            left.annotate(f"{counts[place]:,}", (counts[place], place), **label, bbox=box)
            tenths = np.array_split(losses[place], 10, axis=1)
            ends = np.cumsum([tenth.shape[1] for tenth in tenths])
            means = np.array([tenth.mean(1) for tenth in tenths])
            right.plot(ends, means.mean(1), **look_, ms=6, label=title)
            right.fill_between(
                ends, means.min(1), means.max(1), color=look_["color"], alpha=0.2, lw=0
            )
        for axes, line in ((left, full.trainable // 4), (middle, full.total() / 2**20)):
            axes.axvline(line, color=plots.INK, ls=":", lw=1.6)
            axes.set_ylim(len(runs) - 0.4, -0.7)  # puts the first row on top
            axes.set_yticks(range(len(runs)), runs if axes is left else [""] * len(runs))
            axes.grid(axis="y", visible=False)
        left.set(xscale="log", xlim=(min(300, *counts), 4 * max(full.trainable // 4, *counts)))
        decades = [10**k for k in range(3, 13) if 10**k < left.get_xlim()[1]]
        left.set_xticks(
            decades, [f"{n // 10**6:,} M" if n >= 10**6 else f"{n // 1000} k" for n in decades]
        )
        middle.set_xlim(0, 1.05 * max(size.total() for size in (full, *sizes)) / 2**20)
        right.set_yscale("log")
        right.set_ylim(min(0.01, right.get_ylim()[0]), max(5, right.get_ylim()[1]))
        left.set(title="What trains", xlabel="numbers (dotted: full)")
        middle.set(title="Bytes of a step", xlabel="MiB (dotted: full)")
        right.set(title="Loss in training", xlabel="optimizer steps", ylabel="nats per token")
        right.legend(loc="upper right", fontsize=11)
        legend = dict(loc="outside lower center", ncols=len(plots.PARTS), fontsize=12)
        middle.figure.legend(middle.containers, list(plots.PARTS), **legend)


def _say_beside(runs, counts, sizes, losses) -> None:
    """Print the numbers of the three figures, one line per row."""
    for title, count, size, of_seeds in zip(runs, counts, sizes, losses):
        end = estimate(np.array_split(of_seeds, 10, axis=1)[-1].mean(1))
        held = f"{plots.human(size.total())}, {plots.human(size.activations)} of them activations"
        print(f"{title}: {count:,} numbers train; a step holds {held}; "
              f"loss at the end {end:.3f}, mean and sd of {end.n} seeds")  # fmt: skip


def _looks_of(tuned) -> list[dict[str, str]]:
    """A colour and a marker for each model: its technique's, or a free one where that is taken."""
    names = [model.method for model in tuned]
    names = [f"{name} {i}" if name in names[:i] else name for i, name in enumerate(names)]
    return [{"color": c, "marker": m} for c, m in plots.looks(names).values()]


def explore(draw: Callable[..., None], **values: list) -> None:
    """Show sliders for the values; moving one calls draw(**chosen). Without widgets, print a line.

    The first value of each list is the one that the figure above shows.
    """
    names = ", ".join(values)
    if os.environ.get(STATIC):
        print(f"In a running notebook, sliders for {names} stand here.")
        return
    try:
        from ipywidgets import SelectionSlider, interact
    except ImportError:
        print(f"For sliders over {names}: pip install ipywidgets")
        return
    sliders = {
        name: SelectionSlider(options=sorted(v), value=v[0], description=name)
        for name, v in values.items()
    }
    interact(draw, **sliders)


def records(study: str, **cell: Any) -> list[Record]:
    """The committed runs of a study whose cells have these settings: records("cost", kind="bytes").

    Raises FileNotFoundError if the study has no record here.
    """
    path = data_folder() / "results" / f"{study}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; python -m studies {study} --out data/results")
    return [r for r in read(path) if all(r["cell"].get(k) == v for k, v in cell.items())]


def race(calls: Mapping[str, Callable[[], Any]], flops: float, rounds: int = 7) -> None:
    """Print each call's rate on this machine; when notebooks are built, a line of text instead.

    flops: operations of a call. Times differ from run to run, and a built notebook must not.
    """
    if os.environ.get(STATIC):
        print(f"In a running notebook, this machine's rates for {', '.join(calls)} stand here.")
        return
    from statistics import median

    from minilora.bench.turns import race as seconds_of_each

    for name, seconds in seconds_of_each(calls, rounds).items():
        print(f"{name:15} {flops / median(seconds) / 1e9:6.1f} GFLOP/s")


def where(base: str = "base", case: str = "lora", rows: int = 512, seconds: float = 3.0) -> None:
    """Print and draw where the milliseconds of a training step go on this machine.

    When notebooks are built, print only what all machines have in common: the work of each row.
    """
    from minilora.bench import tables
    from minilora.bench.where import figure as bars
    from minilora.bench.where import of_base

    static = bool(os.environ.get(STATIC))
    record = of_base(base, case, rows, 0.0 if static else seconds)
    if static:
        known = [row for row in record["rows"] if "flops" in row]
        known.sort(key=lambda row: (-row["flops"], row["row"]))
        columns = [c for c in tables.WHERE if c[0] in ("row", "calls", "MFLOP", "MB")]
        print(*tables.table(columns, known), sep="\n")
        print("In a running notebook, this machine's milliseconds and their figure stand here.")
        return
    print(*tables.where(record), sep="\n")
    show(bars(record), "A step's time by row; in each bar the time that the roofline allows.")
