"""The comparison's figure: six panels, a colour and a marker for each method in all of them."""

from pathlib import Path
from typing import Any

from minilora.methods import METHODS
from minilora.support import plots

COSTS = {
    "numbers": "trainable numbers",
    "step": "MiB kept for a step, weights aside",
}


def figure(found: dict[str, Any], path: Path) -> None:
    """Draw the summary into the file."""
    looks = plots.looks(found["methods"])
    with plots.style():
        canvas = plots.canvas(15.5, 9.4)
        axes = canvas.subplots(2, 3)
        _curves(axes[0, 0], found, looks, "optimizer steps", lambda row: 1.0)
        one_thread = "seconds on one thread"
        _curves(axes[0, 1], found, looks, one_thread, lambda row: row["step_seconds"][0])
        _tasks(axes[0, 2], found, looks)
        _against(axes[1, 0], found, looks, "numbers", 1.0)
        _against(axes[1, 1], found, looks, "step", 2**20)
        _sizes(axes[1, 2], found, looks)
        axes[0, 0].set_title("Past tense: loss on validation words")
        axes[0, 1].set_title("The same against time")
        lines = axes[0, 0].get_legend_handles_labels()
        canvas.legend(*lines, loc="outside lower center", ncols=len(looks))
    Path(path).write_bytes(plots.png(canvas, dpi=75))


def _curves(axes, found, looks, label, scale):
    """Validation loss with a band of one standard deviation."""
    for name, row in found["methods"].items():
        steps, means, sds = zip(*row["curve"])
        x = [step * scale(row) for step in steps]
        colour, marker = looks[name]
        axes.plot(x, means, color=colour, marker=marker, label=METHODS[name].title)
        low, high = zip(*((m - s, m + s) for m, s in zip(means, sds)))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter("")
    axes.yaxis.set_major_locator(_ticks((1, 2, 5)))
    axes.set_xlabel(label)
    axes.set_ylabel("cross-entropy (nats per token)")


def _tasks(axes, found, looks):
    """Exact match by task, the methods side by side."""
    width = 0.12
    tasks = list(next(iter(found["methods"].values()))["tasks"])
    for i, (name, row) in enumerate(found["methods"].items()):
        means, sds = zip(*row["tasks"].values())
        x = [k + (i - (len(looks) - 1) / 2) * width for k in range(len(means))]
        _points(axes, x, means, sds, looks[name])
    axes.set_xticks(range(len(tasks)), tasks)
    axes.tick_params(axis="x", labelsize=11)
    axes.set_ylabel("held-out exact match")
    axes.set_title("300 words of each task, five seeds")


def _against(axes, found, looks, cost, unit):
    """Mean exact match over the tasks against a cost; the front as a line of steps."""
    costs = [row["cost"][cost] / unit for row in found["methods"].values()]
    for i, (name, row) in enumerate(found["methods"].items()):
        mean, sd = row["mean"]
        beside = costs[:i].count(costs[i]) - (costs.count(costs[i]) - 1) / 2  # of equal ones
        apart = 1.1**beside if cost == "numbers" else 1 + beside / 60
        _points(axes, [costs[i] * apart], [mean], [sd], looks[name], size=11)
    front = [found["methods"][name] for name in found["fronts"][cost]]
    best = sorted((row["cost"][cost] / unit, row["mean"][0]) for row in front)
    axes.plot(*zip(*best), color="#999999", ls="--", lw=1.5, drawstyle="steps-post", zorder=1)
    if cost == "numbers":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("exact match, mean of five tasks")
    axes.set_title("Dashed: what nothing cheaper beats")


def _sizes(axes, found, looks):
    """Exact match against the number of words: a line style a task."""
    for task, style in {"past": "-", "spelling": ":"}.items():
        for name, row in found["methods"].items():
            sizes = row["sizes"][task]
            means, sds = zip(*sizes.values())
            axes.plot(list(sizes), means, color=looks[name][0], ls=style, lw=1.8)
            _points(axes, list(sizes), means, sds, looks[name])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_ticks((1, 3)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("words to train on (always 150 steps of 32)")
    axes.set_ylabel("held-out exact match")
    axes.set_title("Past tense (—) and sounds to spelling (···)")


def _points(axes, x, means, sds, look, size=8):
    colour, marker = look
    axes.errorbar(x, means, yerr=sds, color=colour, marker=marker, ms=size, capsize=3, ls="none")


def _ticks(subs):
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=subs, numticks=20)
