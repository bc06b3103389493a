"""Figures of the bench: records in, a matplotlib Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..support.plots import INK, canvas, style
from .turns import UNIT

FAMILIES = (  # of kernels: the beginning of its names, label, colour, marker
    ("matmul", "products", "#0072B2", "o"),
    ("attention", "attention", "#009E73", "D"),
    ("", "norm, positions, gate, feed-forward, loss, AdamW", "#D55E00", "^"),
)


def roofline(record: Mapping[str, Any]):
    """FLOP/s of each kernel against its operations a byte, under the two roofs of the machine."""
    flops, bandwidth = record["peaks"]["flops"], record["peaks"]["bandwidth"]
    with style():
        figure = canvas(11, 7)
        axes = figure.subplots()
        xs = np.geomspace(0.2, 1000, 200)
        if flops:
            roof = np.minimum(flops, bandwidth * xs) / 1e9
            label = f"{flops / 1e9:.0f} GFLOP/s in registers, {bandwidth / 1e9:.0f} GB/s of memory"
            axes.plot(xs, roof, color=INK, label=label)
        left = list(record["kernels"])
        for start, label, colour, marker in FAMILIES:
            mine = [r for r in left if r["name"].startswith(start)]
            left = [r for r in left if r not in mine]
            x = [r["flops"] / r["bytes"] for r in mine]
            y = [r["flops"] / r["sides"]["minilora"]["median"] / 1e9 for r in mine]
            other = [r["flops"] / r["sides"][r["best"]]["median"] / 1e9 for r in mine]
            axes.plot(x, y, ls="", marker=marker, color=colour, label=label)
            axes.plot(x, other, ls="", marker=marker, mec=colour, mfc="none", alpha=0.7)
        _on_unit(axes, record["kernels"])
        axes.plot(
            [], [], ls="", marker="o", mec=INK, mfc="none", label="NumPy or torch, the faster"
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("floating-point operations for each byte that must move")
        axes.set_ylabel("GFLOP/s")
        axes.set_title("What the kernels reach, and what the machine allows")
        axes.legend(loc="lower right")
    return figure


def _on_unit(axes, records) -> None:
    """The products once more, where they were timed on a matrix unit."""
    products = [r for r in records if r["name"].startswith("matmul") and UNIT in r["sides"]]
    x = [r["flops"] / r["bytes"] for r in products]
    y = [r["flops"] / r["sides"][UNIT]["median"] / 1e9 for r in products]
    if products:
        axes.plot(x, y, ls="", marker="+", ms=11, mew=2, color=INK, label="products, matrix unit")


def growth(records: Sequence[Mapping[str, Any]]):
    """A step's time and memory against each axis, measured and expected, with the exponents."""
    rows = (
        ("seconds", "flops", "ms a step", 1e3, "#0072B2"),
        ("bytes", "predicted", "MB at most", 1e-6, "#D55E00"),
    )
    from matplotlib.ticker import LogLocator

    with style():
        figure = canvas(4.2 * len(records), 8)
        panels = figure.subplots(2, len(records), squeeze=False)
        for column, record in enumerate(records):
            xs = np.array([p["value"] for p in record["points"]], float)
            for row, (what, expected, label, unit, colour) in enumerate(rows):
                axes = panels[row][column]
                ys = np.array([p[what] for p in record["points"]]) * unit
                form = np.array([p[expected] for p in record["points"]], float)
                scale = np.exp(np.mean(np.log(ys) - np.log(form)))
                powers = record["exponents"]
                axes.plot(xs, ys, "o-", color=colour, label=f"measured: {powers[what]:.2f}")
                text = f"expected: {powers[expected]:.2f}"
                axes.plot(xs, form * scale, "--", color=INK, lw=1.4, label=text)
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.set_xticks(xs, [f"{x:g}" for x in xs])
                axes.set_xticks([], minor=True)
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=20))
                axes.yaxis.set_minor_formatter("")
                axes.set_xlabel(record["axis"])
                if not column:
                    axes.set_ylabel(label)
                axes.legend(title="exponent", alignment="left")
        figure.suptitle("How the cost of a step grows (LoRA on all linears)")
    return figure
