"""Figures of a comparison: a function takes results and returns a Matplotlib Figure."""

import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

INK, GRID = "#222222", "#dddddd"

# Okabe and Ito's colours: colour-blind readers can distinguish them. The markers differ as well.
LOOKS = {
    "full": ("#4d4d4d", "s"),
    "lora": ("#0072B2", "o"),
    "lora_fa": ("#56B4E9", "v"),
    "vera": ("#009E73", "D"),
    "delta_lora": ("#CC79A7", "^"),
    "lora_plus": ("#D55E00", "P"),
    "scratch": ("#a6a6a6", "X"),
}
FREE_LOOKS = [("#E69F00", "*"), ("#7A5195", "h"), ("#8C564B", "<"), ("#B5A800", ">")]

REFERENCES = {  # name in results["references"] -> label
    "base": "untrained base",
    "scratch": "trained from scratch",
    "rule_ed": 'rule: add "ed"',
    "rule_s": 'rule: add "s"',
    "rule_four": "rule: four cases of spelling",
}

PARTS = {  # part of a record's bytes -> colour of its bar, its marker
    "activations": ("#5B8DB8", "o"),
    "weights": ("#C9CED6", "s"),
    "optimizer": ("#E3A857", "D"),
    "gradients": ("#A23B3B", "^"),
}


def human(n: float) -> str:
    """n bytes with three digits and a binary unit: 28672 -> "28.0 KiB"."""
    if n < 1000:
        return f"{n:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        n /= 1024
        if n < 999.5 or unit == "TiB":
            break
    return f"{n:.{2 if n < 9.995 else 1 if n < 99.95 else 0}f} {unit}"


def round_human(n: float) -> str:
    """`human` without zeros after the point, for an axis: 28672 -> "28 KiB"."""
    return re.sub(r"\.0+ ", " ", human(n))


def rows(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> record of every row: the methods in their order, then "scratch" if it was run."""
    scratch = {"scratch": results["scratch"]} if "scratch" in results else {}
    return {**results["methods"], **scratch}


def reference_title(name: str) -> str:
    """The label of a reference."""
    return REFERENCES.get(name, name.replace("_", " "))


def literal(text: str) -> str:
    """The text with $ escaped: matplotlib would read the part between two of them as a formula."""
    return text.replace("$", r"\$")


def looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name -> (colour, marker): the fixed one, or the next free one for a name that has none."""
    names = list(names)
    unknown = [name for name in names if name not in LOOKS]
    free = {name: FREE_LOOKS[i % len(FREE_LOOKS)] for i, name in enumerate(unknown)}
    return {name: {**LOOKS, **free}[name] for name in names}


def style() -> Any:
    """A context manager for the style of all figures: large type, no frame, a light grid."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",  # part of matplotlib: the same on every machine
            "font.size": 13,
            "axes.titlesize": 14,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "legend.frameon": False,
            "lines.linewidth": 2.4,
            "lines.markersize": 8,
            "savefig.facecolor": "white",
        }
    )


def canvas(width: float = 11, height: float = 6) -> Any:
    """An empty figure, width × height inches, on an Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure, dpi: int = 140) -> bytes:
    """The bytes of a figure as a PNG file. dpi: dots an inch. Equal figures give equal bytes."""
    file = io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def convergence(results: Mapping[str, Any]) -> Any:
    """Loss against optimizer steps: left on validation words, right in training.

    Each row has its colour. The legend lists the rows from the lowest final loss to the highest.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    records = rows(results)
    appearance = looks(records)
    with style():
        figure = canvas(13, 6)
        validating, training = figure.subplots(1, 2, width_ratios=(1.5, 1))
        by_loss = sorted(records, key=lambda name: records[name]["curve"][-1][2])
        for place, name in enumerate(by_loss):
            steps, train, validation = zip(*records[name]["curve"])
            colour, marker = appearance[name]
            line = dict(color=colour, ls="--" if name == "scratch" else "-")
            label = f"{validation[-1]:.3f}  {literal(records[name]['title'])}"
            # lines may be close together, so neighbouring lines mark different points
            marked = (place % 3, 3) if len(steps) > 6 else 1
            validating.plot(steps, validation, **line, marker=marker, markevery=marked, label=label)
            training.plot(steps, train, **line, lw=1.3)
        for axes, title in ((validating, "On validation words"), (training, "In training")):
            axes.set_title(title)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter("")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
            axes.set_xlabel("optimizer steps")
        validating.set_ylabel("cross-entropy (nats per token)")
        title = "validation loss\nafter the last step"
        figure.legend(loc="outside right upper", title=title, alignment="left")
    return figure


def accuracy(results: Mapping[str, Any]) -> Any:
    """Exact match on held-out words against trainable numbers (log); references are dotted lines.

    References 0.15 or more below the lowest method are not drawn: the title names them.
    """
    records, references = results["methods"], results["references"]
    with style():
        figure = canvas(11, 6.6)
        axes, size = figure.subplots(), results["settings"]["test_size"]
        ends = [r["exact_match"] + s * _bar(r, size) for r in records.values() for s in (-1, 1)]
        below = {n: v for n, v in references.items() if v <= min(ends) - 0.15}
        near = [value for name, value in references.items() if name not in below]
        axes.set_ylim(*_with_margin([*ends, *near], 0.1, least=0.32))
        _points(axes, records, size)
        _lines(axes, {n: v for n, v in references.items() if n not in below})
        title = f"Exact match on {size:,} held-out words"
        listed = ", ".join(f"{literal(reference_title(n))} {v:.3f}" for n, v in below.items())
        axes.set_title(f"{title}\nbelow the axis: {listed}" if below else title)
        axes.set_ylabel("share answered exactly")
        axes.set_xlabel(f"trainable numbers, equal ones side by side (bars: {_bars(records)})")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _bars(records):
    """What the error bars show: see `_bar`."""
    counts = {len(record["seeds"]) for record in records.values()}
    if counts == {1}:
        return "one seed, standard error over the words"
    return f"standard deviation over {' or '.join(map(str, sorted(counts)))} seeds"


def _bar(record, size):
    """Half of the error bar: the standard deviation over the seeds.

    For one seed it is the standard error √(p(1-p)/n) of a share p of n words.
    """
    p = record["exact_match"]
    return record["exact_match_sd"] if len(record["seeds"]) > 1 else math.sqrt(p * (1 - p) / size)


def _with_margin(values, share, least):
    """(low, high): the range of the values with a margin of `share` times its width, at least 0.02.

    The result is at least `least` wide if 0 and 1 allow it, so that small differences look small.
    """
    width = max(values) - min(values)
    margin = max(share * width, 0.02, (least - width) / 2)
    return max(min(values) - margin, -0.02), min(max(values) + margin, 1.02)


def _points(axes, records, size):
    """A point with its error bar for every method; equal numbers are drawn side by side."""
    from matplotlib.ticker import LogLocator

    appearance = looks(records)
    counts = [r["trainable"] for r in records.values()]
    apart = (max(counts) / min(counts) * 4) ** 0.025  # a factor: a 40th of the axis
    for place, (name, record) in enumerate(records.items()):
        (colour, marker), score = appearance[name], record["exact_match"]
        before, same = counts[:place].count(counts[place]), counts.count(counts[place])
        x = counts[place] * apart ** (before - (same - 1) / 2)
        point = dict(color=colour, marker=marker, ms=11, capsize=5, ls="none")
        deviation = _bar(record, size) or None
        label = f"{literal(record['title'])}  {score:.3f}"
        axes.errorbar(x, score, yerr=deviation, label=label, **point)
    axes.set_xscale("log")
    axes.set_xlim(min(counts) / 2, max(counts) * 2)
    subs = (1, 2, 5) if max(counts) < 30 * min(counts) else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter("")


def _lines(axes, references):
    """A dotted line for every reference, its label in the right margin."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_figheight() * 0.8  # roughly, in inches
    places = spread([(v - low) / (high - low) for v in references.values()], 0.24 / height)
    line = dict(arrowstyle="-", color="#777777", lw=0.8, relpos=(0, 0.5), shrinkB=0)
    for (name, value), place in zip(references.items(), places):
        axes.axhline(value, color="#777777", ls=":", lw=1.6, zorder=1)
        text = f"{literal(reference_title(name))}  {value:.3f}"
        end = (1, (value - low) / (high - low))
        at = dict(xy=end, xytext=(1.03, place), xycoords="axes fraction", va="center", fontsize=12)
        axes.annotate(text, **at, arrowprops=line)


def spread(places: Iterable[float], gap: float) -> list[float]:
    """The positions, moved up or down so that any two are at least `gap` apart; same mean."""
    places = list(places)
    moved, last = list(places), float("-inf")
    for i in sorted(range(len(places)), key=places.__getitem__):
        last = moved[i] = max(places[i], last + gap)
    shift = sum(m - p for m, p in zip(moved, places)) / max(len(places), 1)
    return [m - shift for m in moved]


def memory(results: Mapping[str, Any]) -> Any:
    """Bytes of a step. Left: the parts stacked, in MiB; right: each part on a logarithmic scale."""
    records = rows(results)
    titles = [literal(record["title"]) for record in records.values()]
    with style():
        figure = canvas(13, 1.9 + 0.56 * len(records))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
        stacks(left, [record["bytes"] for record in records.values()])
        for part, (colour, marker) in PARTS.items():
            values = [record["bytes"][part] or float("nan") for record in records.values()]
            dots = dict(ls="none", marker=marker, ms=10, color=colour, mec=INK, mew=0.6)
            right.plot(values, range(len(values)), **dots, label=part)
        left.set_yticks(range(len(titles)), titles)
        left.set_ylim(len(titles) - 0.4, -0.6)  # puts the first row on top
        left.grid(axis="y", visible=False)
        right.tick_params(axis="y", length=0)
        right.set_xscale("log", base=2)
        right.xaxis.set_major_locator(_powers_of_two(records.values()))
        right.xaxis.set_major_formatter(lambda value, _: round_human(value))
        left.set_xlabel("MiB (1,048,576 bytes)")
        right.set_xlabel("bytes, logarithmic")
        left.set_title("Memory of one training step")
        right.set_title("The same, each part by itself")
        legend = right.get_legend_handles_labels()
        figure.legend(*legend, loc="outside lower center", ncols=len(PARTS))
    return figure


def stacks(axes, sizes):
    """A stacked bar for each row; a label gives the bytes of its largest part."""
    edges = [0.0] * len(sizes)
    for part, (colour, _) in PARTS.items():
        lengths = [size[part] / 2**20 for size in sizes]
        axes.barh(range(len(sizes)), lengths, 0.66, left=edges, color=colour)
        for y, (size, start, length) in enumerate(zip(sizes, edges, lengths)):
            if part == max(PARTS, key=size.__getitem__):
                centred = dict(ha="center", va="center", fontsize=12)
                axes.text(start + length / 2, y, human(size[part]), **centred)
        edges = [start + length for start, length in zip(edges, lengths)]


def _powers_of_two(records):
    """At most seven ticks, at powers of two, over the bytes of all parts of the records."""
    from matplotlib.ticker import FixedLocator

    sizes = [record["bytes"][part] for record in records for part in PARTS]
    low, high = min(s for s in sizes if s).bit_length() - 1, max(sizes).bit_length()
    return FixedLocator([2**k for k in range(low, high + 1, max(1, -(-(high - low) // 5)))])
