"""How an object is shown: a line at a prompt, a small table in a notebook."""

import html
from collections.abc import Mapping, Sequence


def line(title: str, facts: Mapping[str, str]) -> str:
    """LoRA on 'base': rank 4, alpha 8   from {"rank": "4", "alpha": "8"}."""
    return f"<{title}: {', '.join(f'{name} {value}' for name, value in facts.items())}>"


def table(title: str, facts: Mapping[str, str], below: str = "") -> str:
    """The same as HTML, with a row for each fact. below: HTML under the table."""
    left = "text-align:left"
    rows = "".join(
        f'<tr><td style="{left}">{html.escape(name)}</td>'
        f'<td style="{left}">{html.escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<div><b>{html.escape(title)}</b><table>{rows}</table>{below}</div>"


def curve(values: Sequence[float], width: int = 240, height: int = 60) -> str:
    """A line through the values, in SVG. width, height: pixels. Empty for fewer than two."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    across, up = (width - 4) / (len(values) - 1), (height - 4) / ((high - low) or 1)
    points = " ".join(
        f"{2 + i * across:.1f},{height - 2 - (v - low) * up:.1f}" for i, v in enumerate(values)
    )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="the loss of each step">'
        f'<polyline points="{points}" fill="none" stroke="#0072B2" stroke-width="1.5"/></svg>'
    )
