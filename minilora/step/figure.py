"""One line of a recorded step as an equation of pictures, for notebooks and slides."""

import re
from typing import Any

import numpy as np

from ..support import plots

WORD = re.compile(r'[A-Za-z_]\w*(?:\["\w+"\])?(?:\.(?:T|shape)\b)?|\s+|.')
LIMITS = 9.0, 3.0  # inches: the width of a line, the height of a picture; exceeded if necessary
UNITS = np.geomspace(0.3, 0.13, 30)  # inches of an axis with one entry, the largest first
LETTER, NOTE, GAP = 0.088, 0.066, 0.1  # inches: a letter of code, a letter of a note, a gap


def draw(title: str, text: str, names: dict[str, np.ndarray], changes: dict) -> Any:
    """A line's code as an equation: each name as a picture; an axis of n entries is as long as √n.

    names: the arrays of its names; changes: what it changed in place, and by how much. Above a
    picture are its name and shape, below it its largest absolute value. Red is positive, blue
    negative, white 0, grey -∞.
    """
    parts = _parts(text, names)
    for change in changes.items():
        parts += [" changes by ", change]
    unit = next((u for u in UNITS if np.less_equal(_size(parts, u), LIMITS).all()), UNITS[-1])
    wide, tall = np.maximum(_size(parts, unit), (LETTER * len(title), 0)) + (0, 1.25)
    middle = 0.5 - 0.15 / tall  # there is more above a picture than below it
    with plots.style():
        figure = plots.canvas(wide, tall)
        figure.set_layout_engine("none")
        figure.text(GAP / wide, 1 - 0.08 / tall, title, fontsize=10, va="top")
        x = GAP
        for part in parts:
            if isinstance(part, str):
                figure.text(x / wide, middle, part, family="monospace", fontsize=10, va="center")
            else:
                _picture(figure, x, middle, unit, *part)
            x += _slot(part, unit)
    return figure


def _parts(text: str, names: dict[str, np.ndarray]) -> list:
    """A line's code as text and (name, array), the transposed array for name.T."""
    parts: list = []
    for word in WORD.findall(re.sub(r"\s*#.*", "", text)):
        name = word.removesuffix(".T")
        a = names.get(name)
        if a is None or not a.ndim:
            before = parts.pop() if parts and isinstance(parts[-1], str) else ""
            parts.append(before + word)
        else:
            parts.append((word, a) if word == name else (f"{name}ᵀ", a.T))
    return parts


def _rows(a: np.ndarray) -> np.ndarray:
    """An array as rows and columns; three axes become blocks side by side, with gaps between."""
    if a.ndim < 3:
        return np.atleast_2d(a)
    blocks = a if a.shape[0] <= a.shape[1] else a.swapaxes(0, 1)
    gap = np.full((blocks.shape[1], 1), np.nan)
    return np.concatenate([part for block in blocks for part in (block, gap)], axis=1)[:, :-1]


def _notes(name: str, a: np.ndarray) -> tuple[str, str, float]:
    """The text above a picture, the text below it, and its largest absolute value."""
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0))
    below = f"up to\n±{largest:.3g}" if largest else "all 0"
    return f"{name}\n{'×'.join(map(str, a.shape))}", below, largest


def _slot(part, unit: float) -> float:
    """Width of a part of the line, in inches."""
    if isinstance(part, str):
        return LETTER * len(part)
    letters = max(map(len, "\n".join(_notes(*part)[:2]).split("\n")))
    return max(unit * _rows(part[1]).shape[1] ** 0.5, NOTE * letters) + GAP


def _size(parts, unit: float) -> tuple[float, float]:
    """Width of the line and height of its tallest picture, in inches."""
    rows = [len(_rows(part[1])) for part in parts if not isinstance(part, str)]
    return 2 * GAP + sum(_slot(p, unit) for p in parts), unit * max(rows, default=0) ** 0.5


def _picture(figure, x: float, middle: float, unit: float, name: str, a: np.ndarray) -> None:
    """Draw an array in the middle of its slot, which begins x inches from the left."""
    rows, (above, below, largest) = _rows(a.astype(float)), _notes(name, a)
    x += (_slot((name, a), unit) - GAP - unit * rows.shape[1] ** 0.5) / 2
    high, wide = unit * np.sqrt(rows.shape) / figure.get_size_inches()[::-1]
    axes = figure.add_axes((x / figure.get_figwidth(), middle - high / 2, wide, high))
    if largest:
        shown = np.sign(rows) * np.sqrt(np.abs(rows) / largest)  # the root shows small numbers too
        axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    else:
        axes.patch.set(hatch="////", edgecolor="#bbbbbb")
    axes.set(xticks=[], yticks=[], facecolor="#cdcbc6" if largest else "white")
    axes.spines[:].set(visible=True, linewidth=0.5)
    axes.set_title(above, fontsize=8, loc="center")
    axes.set_xlabel(below, fontsize=7)
