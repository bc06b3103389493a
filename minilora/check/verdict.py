"""What a check answers: plain in a terminal, rich in a notebook, JSON for a grader."""

import html
import json
from dataclasses import asdict, dataclass
from typing import Any

MARKS = {"passed": ("✓", "#009E73"), "failed": ("✗", "#D55E00"), "open": ("○", "#7F7F7F")}


@dataclass(frozen=True)
class Verdict:
    """An answer, judged. True where it passed."""

    exercise: str  # its name
    status: str  # "passed", "failed", or "open": nothing is written yet
    says: str  # in a line
    notes: tuple[tuple[str, str], ...] = ()  # (label, what was found)
    slip: str | None = None  # the known slip that it looks like: a name of SLIPS
    hints: tuple[str, ...] = ()  # those that are shown by now
    hints_in_all: int = 3

    def __bool__(self):
        return self.status == "passed"

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The notes, then the hints: (label, words)."""
        of = self.hints_in_all
        return [*self.notes, *((f"hint {i} of {of}", h) for i, h in enumerate(self.hints, 1))]

    def __repr__(self):
        lines = [f"{MARKS[self.status][0]} {self.exercise}: {self.says}"]
        wide = max((len(label) for label, _ in self.rows), default=0)
        return "\n".join([*lines, *(f"  {label:{wide}}  {words}" for label, words in self.rows)])

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
        """Shown, and no result of its cell: nbgrader would take that for a score."""
        from IPython.display import display

        display({"text/plain": repr(self), "text/html": self._repr_html_()}, raw=True)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, with the score of 0 or 1."""
        return {**asdict(self), "score": int(bool(self))}

    def to_json(self) -> str:
        """For a grader: one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)
