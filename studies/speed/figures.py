"""Figures of speed: records in, a matplotlib Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minilora.bench.turns import OURS
from minilora.support.plots import INK, canvas, style

FAMILIES = (  # of kernels: the beginning of its names, label, colour, marker
    ("matmul", "products", "#0072B2", "o"),
    ("attention", "attention", "#009E73", "D"),
    ("", "norm, positions, gate, feed-forward, loss, AdamW", "#D55E00", "^"),
)


def roofline(measured: Mapping[str, Any]):
    """FLOP/s of each kernel against its operations a byte, under the two limits of the machine."""
    flops, bandwidth = measured["peaks"]["flops"], measured["peaks"]["bandwidth"]
    with style():
        figure = canvas(11, 7)
        axes = figure.subplots()
        if flops:
            xs = np.geomspace(0.2, 1000, 200)
            roof = np.minimum(flops, bandwidth * xs) / 1e9
            label = f"{flops / 1e9:.0f} GFLOP/s of vectors, {bandwidth / 1e9:.0f} GB/s of memory"
            axes.plot(xs, roof, color=INK, label=label)
        left = list(measured["kernels"])
        for start, label, color, marker in FAMILIES:
            mine = [r for r in left if r["name"].startswith(start)]
            left = [r for r in left if r not in mine]
            look: dict[str, Any] = {"ls": "", "marker": marker, "color": color}
            axes.plot(*_points((r, OURS) for r in mine), **look, label=label)
            axes.plot(*_points((r, r["best"]) for r in mine), **look, mfc="none", alpha=0.7)
        look = {"ls": "", "marker": "o", "mec": INK, "mfc": "none"}
        axes.plot([], [], **look, label="NumPy or torch, the faster")
        axes.set(xscale="log", yscale="log", ylabel="GFLOP/s")
        axes.set_xlabel("floating-point operations for each byte that must move")
        axes.set_title("What the kernels reach, and what vectors and memory allow")
        axes.text(
            0.02,
            0.98,
            "Above the slope: the numbers stand in a cache, so memory is no limit.",
            transform=axes.transAxes,
            va="top",
            fontsize=11,
        )
        axes.set_ylim(top=3 * axes.get_ylim()[1])
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _points(kernels) -> tuple[list[float], list[float]]:
    """Pairs of a kernel's record and a side -> operations a byte, GFLOP/s."""
    kernels = list(kernels)
    rates = [r["flops"] / r["sides"][side]["median"] / 1e9 for r, side in kernels]
    return [r["flops"] / r["bytes"] for r, _ in kernels], rates


def growth(records: Sequence[Mapping[str, Any]]):
    """A step's time and memory against each axis, measured and expected, with the exponents."""
    with style():
        figure = canvas(4.2 * len(records), 8)
        panels = figure.subplots(2, len(records), squeeze=False)
        for (above, below), record in zip(panels.T, records):
            _growth_of(above, record, "seconds", "flops", 1e3, "#0072B2")
            _growth_of(below, record, "bytes", "predicted", 1e-6, "#D55E00")
        panels[0][0].set_ylabel("ms a step")
        panels[1][0].set_ylabel("MB at most")
        figure.suptitle("How the cost of a step grows (LoRA on all linears)")
    return figure


def _growth_of(axes, record, what, expected, unit, color) -> None:
    """One panel: the points, and the expected values times the factor that fits the points."""
    from matplotlib.ticker import LogLocator

    xs = np.array([p["value"] for p in record["points"]], float)
    ys = np.array([p[what] for p in record["points"]]) * unit
    form = np.array([p[expected] for p in record["points"]], float)
    scale = np.exp(np.mean(np.log(ys) - np.log(form)))
    powers = record["exponents"]
    axes.plot(xs, ys, "o-", color=color, label=f"measured: {powers[what]:.2f}")
    label = f"expected: {powers[expected]:.2f}"
    axes.plot(xs, form * scale, "--", color=INK, lw=1.4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=20))
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel(record["axis"])
    axes.legend(title="exponent", alignment="left")
