"""The figure of bytes against the length of a row: a panel for each method, its parts stacked."""

from collections.abc import Mapping, Sequence
from typing import Any

from minilora.llama.model import ModelConfig
from minilora.memory import Ledger, ledger
from minilora.methods import METHODS
from minilora.support import plots
from minilora.support.terminal import fill
from minilora.tuning.choices import DEFAULT_TARGETS

from .whatif import REFERENCE, Settings

PARTS = {  # label, from the bottom of the stack up -> (colour, its bytes)
    "frozen weights": ("#C9CED6", lambda row: row.frozen + row.shared),
    "weights that a step rule moves": ("#8A94A3", lambda row: row.moved),
    "trained weights": ("#4F9A6B", lambda row: row.trainable),
    "gradients": (plots.PARTS["gradients"][0], lambda row: row.gradients),
    "optimizer": (plots.PARTS["optimizer"][0], lambda row: row.optimizer),
    "activations": (plots.PARTS["activations"][0], lambda row: row.activations),
}


def overtaking(lengths: Sequence[int], rows: Sequence[Ledger]) -> int:
    """The first length, in tokens, at which activations have more bytes than weights.

    Activations grow on a straight line, so the first and the last given length determine it.
    """
    (start, end), (one, two) = (lengths[0], lengths[-1]), (rows[0], rows[-1])
    rise = two.activations - one.activations
    steps = (one.weights - one.activations) * (end - start) // rise + 1
    return max(1, start + steps)


def curves(config: ModelConfig, settings: Settings) -> tuple[list[int], dict[str, list[Ledger]]]:
    """Lengths in tokens, and the ledgers of each method for one row of these lengths.

    The longest is about twice the length from which the activations of every method are larger than
    its weights, but at most the model's own limit.
    """

    def rows(lengths):
        return {
            name: [ledger(config, 1, n, method=name, **how) for n in lengths]
            for name, how in settings.items()
        }

    last = max(overtaking((1, 2), row) for row in rows((1, 2)).values())
    top = min(1 << (2 * last - 1).bit_length(), config.max_position_embeddings)
    lengths = sorted({1, max(1, top // 2), top})
    return lengths, rows(lengths)


def memory_by_length(
    lengths: Sequence[int], ledgers: Mapping[str, Sequence[Ledger]], title: str
) -> Any:
    """A panel for each method: its parts, stacked, against the length of a row in tokens.

    A dotted line marks where activations overtake weights.
    """
    columns = min(3, len(ledgers))
    lines = -(-len(ledgers) // columns)
    with plots.style():
        width = 4.5 * columns + 2  # inches; one panel is wide enough for the legend
        figure = plots.canvas(width, 3.7 * lines + 1.5)
        title = fill(title, int(7 * width))  # a character of the title is about 1/7 inch wide
        figure.suptitle(title, fontsize=17, x=0.01, ha="left")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, (name, rows) in zip(panels, ledgers.items()):
            _stack(axes, lengths, rows)
            if name != REFERENCE and REFERENCE in ledgers:
                total = [row.total() for row in ledgers[REFERENCE]]
                label = f"all that {METHODS[REFERENCE].title} holds"
                axes.plot(lengths, total, color=plots.INK, ls="--", lw=1.8, label=label)
            axes.set_title(METHODS[name].title, fontsize=16)
        _scale(panels, lengths, max(row.total() for rows in ledgers.values() for row in rows))
        for axes in grid[-1]:
            axes.set_xlabel("tokens of a row", fontsize=14)
        for axes in panels[len(ledgers) :]:
            axes.remove()
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
        for part, (_, size) in PARTS.items():  # no entry for what none of the panels has
            if not any(size(row) for rows in ledgers.values() for row in rows):
                del handles[part]
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns + 1)
    return figure


def _stack(axes, lengths, rows):
    """The stacked parts, and a line where activations overtake weights."""
    colours, sizes = zip(*PARTS.values())
    heights = [[size(row) for row in rows] for size in sizes]
    axes.stackplot(lengths, heights, colors=colours, labels=PARTS, lw=0)
    here = overtaking(lengths, rows)
    if here > lengths[-1]:
        return
    axes.axvline(here, color=plots.INK, lw=1.6, ls=":")
    place = dict(xy=(here, 0.985), xycoords=("data", "axes fraction"), va="top", fontsize=13)
    text = f"activations > weights\nfrom {here:,} tokens"
    # on the side with more room
    left = here > (lengths[0] + lengths[-1]) / 2
    place |= dict(ha="right" if left else "left", xytext=(-7 if left else 7, 0))
    axes.annotate(text, textcoords="offset points", **place)


def _scale(panels, lengths, most):
    """The same scale in all panels, with ticks at round binary sizes; most: the highest stack."""
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    step = 2 ** (most.bit_length() - 3)  # four to eight ticks
    for axes in panels:
        axes.set_xlim(lengths[0], lengths[-1])
        axes.set_ylim(0, most * 1.18)  # room for two lines of text above the highest stack
        axes.yaxis.set_major_locator(MultipleLocator(step))
        axes.yaxis.set_major_formatter(lambda value, _: plots.round_human(value))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def heading(model: str, targets: Sequence[str] | str | None) -> str:
    """The title of the figure: of what model, with adapters on which linears."""
    linears = "all linears" if targets == "all-linear" else ", ".join(targets or DEFAULT_TARGETS)
    return f"{model}, one row, float32, adapters on {linears}: bytes of a training step"
