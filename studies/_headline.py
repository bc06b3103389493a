"""The README's figure: exact match against trainable numbers, both placements, from the record of
`cost`. Every arm stands at its own number of trainable numbers.
"""

from pathlib import Path
from typing import Any

from minilora.methods import METHODS
from minilora.support import plots

from . import common

PLACES = {"q v": ("q and v", "--", "white"), "all-linear": ("all linears", "-", None)}


def headline(arms: dict[str, Any], path: Path) -> None:
    """Lines join the ranks of one technique on the same linears; arms: `summary(...)["arms"]`."""
    usual = [row for row in arms.values() if "alpha" not in row["cell"]["options"]]
    with common.panels(path, 11, 6.8) as axes:
        for method, look in plots.looks(r["cell"]["method"] for r in usual).items():
            mine = [row for row in usual if row["cell"]["method"] == method]
            for targets in dict.fromkeys(row["cell"]["targets"] for row in mine):
                if targets in PLACES or targets is None:
                    _line(axes, [r for r in mine if r["cell"]["targets"] == targets], look)
        axes.set(xscale="log", xlabel="trainable numbers")
        common.plain_log(axes.xaxis, subs=(1,), how=",.0f")
        axes.set_ylabel("share answered exactly")
        axes.set_title("Past tenses of 611 held-out verbs after 300 verbs, each arm tuned")
        note = (
            "Open, dashed: q and v are adapted. Filled: all linears. A line joins ranks.\n"
            "Bars: standard deviation over 5 seeds. Two points less than 0.03 apart are a tie."
        )
        axes.figure.legend(loc="outside lower center", ncols=6, title=note, fontsize=11)


def _line(axes, rows, look):
    place, style, fill = PLACES.get(rows[0]["cell"]["targets"], ("", "none", look[0]))
    rows = sorted(rows, key=lambda row: row["trainable"])
    x, matches = zip(*((row["trainable"], row["exact_match"]) for row in rows))
    label = METHODS[rows[0]["cell"]["method"]].title if place != "q and v" else None
    look_of = {"mfc": fill or look[0], "ls": style if len(rows) > 1 else "none", "label": label}
    common.errorbars(axes, x, matches, look, capsize=3, lw=1.4, ms=9, elinewidth=1, **look_of)
