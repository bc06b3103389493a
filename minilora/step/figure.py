"""One line of a recorded step as an equation of pictures, for notebooks and slides."""

import re
from typing import Any

import numpy as np

from ..support import plots

WORD = re.compile(r'[A-Za-z_]\w*(?:\["\w+"\])?|\s+|.')
WIDTH, HIGH = 9.0, 3.0  # inches of a figure, of a picture
SHORT = 16  # an axis of fewer entries has larger cells
LETTER, GAP, SMALL = 0.11, 0.11, 0.01  # inches of a letter, between pictures, of a small cell


def draw(title: str, text: str, names: dict[str, np.ndarray], changes: dict) -> Any:
    """A line's code as an equation: each name as a picture, zeros white; equal axes equally long.

    names: what its names stand for; changes: what it changed in place, and by how much. Above each
    picture stands its name and shape, below it the largest size of a number in it.
    """
    parts = _parts(text, names)
    for change in changes.items():
        parts += [" changes by ", change]
    cell, letter = _sizes(parts)
    arrays = [part[1] for part in parts if not isinstance(part, str)]
    tall = max((_length(len(_rows(a)), cell) for a in arrays), default=0.0)
    with plots.style():
        figure = plots.canvas(WIDTH, tall + 1)
        figure.set_layout_engine("none")
        figure.suptitle(title, fontsize=10, y=0.98)
        x = 0.1
        for part in parts:
            if isinstance(part, str):
                size = 12 * letter / LETTER
                figure.text(x / WIDTH, 0.45, part, family="monospace", fontsize=size, va="center")
                x += letter * len(part)
            else:
                x += _picture(figure, x, cell, *part) + GAP
    return figure


def _parts(text: str, names: dict[str, np.ndarray]) -> list:
    """A line's code as text and (name, array), the transposed array for name.T."""
    parts: list = []
    words = WORD.findall(re.sub(r"\s*#.*", "", text))
    while words:
        word = words.pop(0)
        if word not in names or not names[word].ndim:
            text = parts.pop() if parts and isinstance(parts[-1], str) else ""
            parts.append(text + word)
        elif words[:2] == [".", "T"] and names[word].ndim == 2:
            del words[:2]
            parts.append((f"{word}ᵀ", names[word].T))
        else:
            parts.append((word, names[word]))
    return parts


def _rows(a: np.ndarray) -> np.ndarray:
    """An array as rows and columns: of three axes the shortest side by side, with a gap between."""
    if a.ndim < 3:
        return np.atleast_2d(a)
    blocks = a if a.shape[0] <= a.shape[1] else a.swapaxes(0, 1)
    gap = np.full((blocks.shape[1], 1), np.nan)
    return np.concatenate([part for block in blocks for part in (block, gap)], axis=1)[:, :-1]


def _length(n: int, cell: float) -> float:
    """Inches of an axis with n entries."""
    return n * (cell if n > SHORT else 0.09)


def _sizes(parts) -> tuple[float, float]:
    """Inches of a cell and of a letter, so that all fits into the width."""
    letters = sum(len(part) for part in parts if isinstance(part, str))
    shapes = [_rows(part[1]).shape for part in parts if not isinstance(part, str)]
    pictures, tallest = [n for _, n in shapes], max((m for m, _ in shapes), default=1)
    left = WIDTH * 0.97 - GAP * len(pictures) - sum(_length(n, 0) for n in pictures if n <= SHORT)
    cells = sum(n for n in pictures if n > SHORT)
    letter = min(LETTER, (left - SMALL * cells) / max(1, letters))
    fits = min((left - letter * letters) / max(1, cells), HIGH / tallest, 0.06)
    return max(SMALL, fits), letter


def _picture(figure, x, cell, name, a) -> float:
    """Draw an array at x inches -> its width in inches."""
    rows = _rows(a.astype(float))
    largest = np.abs(rows[np.isfinite(rows)]).max(initial=0)
    high, wide = (max(_length(n, cell), 0.1) for n in rows.shape)
    share = high / figure.get_figheight()
    axes = figure.add_axes((x / WIDTH, 0.45 - share / 2, wide / WIDTH, share))
    if largest:
        shown = np.sign(rows) * np.sqrt(np.abs(rows) / largest)  # small numbers are seen too
        axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    else:
        axes.patch.set(hatch="////", edgecolor="#bbbbbb")
    axes.set(xticks=[], yticks=[], facecolor="#cdcbc6" if largest else "white")
    axes.set_title(f"{name} {'×'.join(map(str, a.shape))}", fontsize=8)
    axes.set_xlabel(f"up to ±{largest:.3g}" if largest else "all 0", fontsize=7)
    return wide
