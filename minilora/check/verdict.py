"""The answer of a check: plain in a terminal, rich in a notebook."""

import html
import sys
from dataclasses import dataclass

from ..support.terminal import encodable

# Each colour can be read on white (contrast 4.6 and more) and on a dark page (3.5 and more).
MARKS = {"passed": ("✓", "#00845F"), "failed": ("✗", "#C64C00"), "open": ("○", "#757575")}


@dataclass(frozen=True)
class Verdict:
    """What is right or wrong with an answer. True where it passed."""

    exercise: str  # its name; for a reader's own pair, backward's
    status: str  # "passed", "failed", or "open": nothing is written yet
    says: str  # one line
    notes: tuple[tuple[str, str], ...] = ()  # (label, words)
    slip: str | None = None  # the known slip that it looks like: a name of SLIPS
    hints: tuple[str, ...] = ()  # those that are shown
    hints_in_all: int = 2
    seed: int | None = None  # draws the arguments again with which the answer failed

    def __bool__(self):
        return self.status == "passed"

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The notes, the seed, then the hints: (label, words)."""
        hints = enumerate(self.hints, 1)
        again = f'check("{self.exercise}", …, seed={self.seed}) calls it with the same arguments'
        return [
            *self.notes,
            *((("again", again),) if self.seed is not None else ()),
            *((f"hint {i} of {self.hints_in_all}", words) for i, words in hints),
        ]

    def __repr__(self):
        lines = [f"{MARKS[self.status][0]} {self.exercise}: {self.says}"]
        width = max((len(label) for label, _ in self.rows), default=0)
        return "\n".join([*lines, *(f"  {label:{width}}  {words}" for label, words in self.rows)])

    def _repr_html_(self):
        mark, colour = MARKS[self.status]
        rows = "".join(
            f'<tr><td style="text-align:left;opacity:.7;vertical-align:top">{html.escape(label)}'
            f'</td><td style="text-align:left">{html.escape(words)}</td></tr>'
            for label, words in self.rows
        )
        return (
            f'<div style="border-left:4px solid {colour};padding:.3em .8em">'
            f'<b style="color:{colour}">{mark} {html.escape(self.exercise)}</b>: '
            f"{html.escape(self.says)}{f'<table>{rows}</table>' if rows else ''}</div>"
        )

    def _ipython_display_(self):
        """Display it without making it the cell's result, which nbgrader would take for a score."""
        from IPython.display import display

        display({"text/plain": repr(self), "text/html": self._repr_html_()}, raw=True)


def show(verdict: Verdict) -> Verdict:
    """Print a verdict in a script; a notebook and a prompt display it themselves."""
    if not hasattr(sys, "ps1"):  # a prompt
        print(encodable(str(verdict)))
    return verdict
