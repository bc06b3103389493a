"""The figures of single questions: summaries in, files out."""

from pathlib import Path
from typing import Any

from minilora.support.plots import INK, LOOKS, canvas, png, style

SEQUENCE = ("#9ecae1", "#4292c6", "#2171b5", "#08306b")  # from narrow to wide


def lora_plus(found: dict[str, Any], path: Path) -> None:
    """Left: the toy's steps by width. Middle: which pair of rates is fast for a layer. Right: the
    word lab's steps by ratio.
    """
    with style():
        figure = canvas(15, 5.2)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.15, 1.1))
        _toy(left, found["toy"])
        _basin(figure, middle, found["layer"])
        _ratios(right, found["words"])
    path.write_bytes(png(figure))


def _toy(axes, toy):
    widths = list(toy["widths"])
    for name, key, label in (
        ("lora", "steps", "equal rates, the best at this width"),
        ("lora_plus", "steps_apart", "η_A = 0.316 / n, η_B = 1"),
    ):
        colour, marker = LOOKS[name]
        spreads = [row[key] for row in toy["widths"].values()]
        bars = {"yerr": [s.sd for s in spreads], "capsize": 4}
        means = [s.mean for s in spreads]
        axes.errorbar(widths, means, **bars, color=colour, marker=marker, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths)
    axes.set_ylim(0, 14)
    axes.set_xlabel("width n")
    axes.set_ylabel("steps until |f − y| < 0.01")
    axes.set_title("One number, gradient descent")
    axes.legend(loc="lower right", fontsize=12)


def _basin(figure, axes, layer):
    """Steps of every pair at the largest width, and the middle of the basin at each width."""
    import numpy as np

    width = max(layer)
    rates = np.log10(layer[width]["rates"])
    steps = np.array(layer[width]["steps"], float)  # None: nan
    half = (rates[1] - rates[0]) / 2
    extent = (rates[0] - half, rates[-1] + half) * 2
    shown = axes.imshow(
        steps, origin="lower", extent=extent, cmap="viridis_r", vmin=20, vmax=90, aspect="auto"
    )
    bar = figure.colorbar(shown, ax=axes, extend="max")
    bar.set_label("steps to a tenth of the loss (white: not in 120)")
    axes.plot(extent[:2], extent[:2], color="white", ls="--", lw=2)
    axes.text(rates[0], rates[0] + 0.15, "equal rates", color=INK, rotation=38, fontsize=12)
    best = np.argwhere(steps <= 1.05 * np.nanmin(steps))
    axes.plot(rates[best[:, 1]], rates[best[:, 0]], "o", mfc="none", mec="white", ms=11, mew=2)
    axes.grid(visible=False)
    axes.set_xlabel("log₁₀ η_B")
    axes.set_ylabel("log₁₀ η_A")
    axes.set_title(f"A layer of width {width}, AdamW")


def _ratios(axes, words):
    for target, colour in zip(words, ("#7f7f7f", LOOKS["lora_plus"][0])):
        ratios = words[target]["ratios"]
        spreads = [row["steps"] for row in ratios.values()]
        axes.errorbar(
            list(ratios),
            [s.mean for s in spreads],
            yerr=[s.sd for s in spreads],
            color=colour,
            marker=LOOKS["lora_plus"][1],
            capsize=4,
            label=f"to {target:g} nats a token",
        )
        axes.plot([1], [spreads[0].mean], LOOKS["lora"][1], color=LOOKS["lora"][0], ms=12, zorder=5)
    axes.plot([], [], LOOKS["lora"][1], color=LOOKS["lora"][0], ms=12, label="LoRA (ratio 1)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ratios), [str(ratio) for ratio in ratios])
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel("ratio η_B / η_A, each at its own best η_A")
    axes.set_ylabel("optimizer steps to a test loss")
    axes.set_title("The word lab: past tense")
    axes.legend(loc="upper right")


def lora_fa(found: dict[str, Any], path: Path) -> None:
    """Left: exact match by rank. Middle: bytes kept for backward. Right: what the corrected
    gradient does for gradient descent and for Adam.
    """
    with style():
        figure = canvas(15, 5.2)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
        _quality(left, found["words"])
        _kept(middle, found["memory"])
        _corrected(right, found["linear"])
    path.write_bytes(png(figure))


def _quality(axes, words):
    for name, title in (("lora", "LoRA"), ("lora_fa", "LoRA-FA")):
        ranks, (colour, marker) = words[name], LOOKS[name]
        spreads = [row["exact_match"] for row in ranks.values()]
        means, bars = [s.mean for s in spreads], [s.sd for s in spreads]
        look = {"color": colour, "marker": marker, "capsize": 4, "label": title}
        axes.errorbar(list(ranks), means, yerr=bars, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ranks), [str(rank) for rank in ranks])
    axes.set_xlabel("rank, each at its own best rate")
    axes.set_ylabel("share of 655 held-out words exact")
    axes.set_title("Quality")
    axes.legend(loc="lower right")


def _kept(axes, memory):
    """Bytes of saved activations as a share of LoRA's, and the bytes themselves."""
    from minilora.support.plots import human

    names = {"base": "word lab", "llama-7b": "Llama-7B"}
    places = [place for place in memory if place[2] in (4, 16)]
    labels = [f"{names[shape]}\n{where}\nrank {rank}" for shape, where, rank in places]
    for k, (method, title) in enumerate((("lora", "LoRA"), ("lora_fa", "LoRA-FA"))):
        for place, key in enumerate(places):
            size, of_lora = (memory[key][m]["activations"] for m in (method, "lora"))
            x = place + 0.4 * (k - 0.5)
            label = title if place == 0 else None
            axes.bar(x, 100 * size / of_lora, 0.38, color=LOOKS[method][0], label=label)
            ink = "white" if method == "lora" else INK
            inside = {"rotation": 90, "ha": "center", "va": "center", "color": ink}
            axes.text(x, 40, human(size), **inside)
    axes.set_xticks(range(len(places)), labels, fontsize=11)
    axes.set_ylim(0, 125)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("kept for backward, % of LoRA's")
    axes.set_title("Memory: activations")
    axes.legend(loc="upper center", ncols=2)


def _corrected(axes, linear):
    """Steps with and without, by the condition of A Aᵀ at width 128."""
    rows = {rank: row for (width, rank), row in linear.items() if width == 128}
    for optimizer, colour, title in (("sgd", INK, "SGD"), ("adam", "#E69F00", "Adam")):
        for kind, line, marker in (("plain", "-", "o"), ("corrected", "--", "s")):
            key = f"{optimizer}_{kind}"
            ranks = [rank for rank, row in rows.items() if key in row]
            means, bars = zip(*[rows[rank][key][:2] for rank in ranks])
            look = {"color": colour, "marker": marker, "ls": line, "capsize": 4}
            axes.errorbar(ranks, means, yerr=bars, **look, label=f"{title}, {kind}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(rows), [str(rank) for rank in rows])
    axes.set_yscale("log")
    axes.set_xlabel("rank of A (r, 128)")
    axes.set_ylabel("steps to 1 % of the excess loss")
    axes.set_title("Corrected gradient, a linear fit")
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(0, 0.62), fontsize=12)
