"""Text for a terminal: its width, the characters that it can print, progress bars, tables."""

import codecs
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

WIDTH = 110  # columns of text in a file or a pipe, and the most on a terminal
STATIC = "MINILORA_STATIC"  # set when notebooks are built or graded without a reader
ANY = 10_000  # columns: no line is broken
NOTE = 88  # most columns of the sentences below a table
GAP = 2  # spaces between the columns of a narrow table
ERRORS = "minilora.plain"  # an error handler of codecs, which replaces characters

# Characters that a terminal obeys instead of printing; the last ones set the direction of text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PLAIN = {  # character -> its replacement in an encoding that lacks it
    "─": "-",
    "–": "-",
    "…": "...",
    "±": "+-",
    "×": "x",
    "·": "*",
    "√": "sqrt",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "‖": "||",
    "▁": "_",
    "✓": "ok",
    "✗": "wrong",
    "○": "o",
    "Δ": "Delta ",
    "Λ": "Lambda ",
    "λ": "lambda",
    "∂": "d",
    "ᵀ": "^T",
    "₀": "0",
    "²": "^2",
    "³": "^3",
    "⁶": "^6",
    "⁹": "^9",
    "¹": "^1",
    "⁻": "^-",
    "µ": "u",
    "α": "alpha",
    "ε": "epsilon",
    "η": "eta",
    "ρ": "rho",
    "σ": "sigma",
    "Σ": "Sum ",
}


def _plain(error):
    """Replace each character that cannot be encoded by its text in PLAIN, or a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, "?") for c in missing).replace("^-^", "^-"), error.end


codecs.register_error(ERRORS, _plain)


def set_up() -> None:
    """Let stdout and stderr print any text: characters that their encoding lacks are replaced.

    If one is closed, as by >&- in a shell, its text is discarded.
    """
    sys.stdout, sys.stderr = (s or _nowhere() for s in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def _nowhere():
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def hides_bar(progress: bool | None) -> bool | None:
    """tqdm's argument `disable`.   progress: None shows a bar only where somebody can see it.

    That is on a terminal (tqdm's None) and in a notebook, whose stderr is not a terminal.
    """
    if progress is not None:
        return not progress
    return False if "ipykernel" in sys.modules and not os.environ.get(STATIC) else None


def bar(**how: Any) -> Any:
    """A tqdm bar with a lock for threads. tqdm's default lock is a semaphore, which stays in shared
    memory if this process is killed. A lock that the program has set is kept.
    """
    from tqdm import tqdm

    if not hasattr(tqdm, "_lock"):
        tqdm.set_lock(threading.RLock())
    return tqdm(**how)


def printable(text: str) -> str:
    """The text with its control characters, except newline and tab, as escapes: "\\x1b"."""
    return CONTROLS.sub(lambda c: ascii(c[0])[1:-1], text)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """As warnings.showwarning: one line on stderr, without the place in the code."""
    # one call, so that lines of several processes do not mix
    sys.stderr.write(printable(f"minilora: warning: {message}\n"))


class Printable:
    """A text stream without control characters.

    So no text of a file (a vocabulary, a title, a path) moves the cursor or changes earlier output.
    """

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        """As the stream's own: the number of characters."""
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def encodable(text: str) -> str:
    """A text in characters that stdout can encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, ERRORS).decode(encoding)


def width(most: int = WIDTH) -> int:
    """Columns for a text: COLUMNS or the terminal's, at most `most`; `most` where there is none."""
    return max(20, min(most, shutil.get_terminal_size((most, 24)).columns))


def many(n: int, what: str) -> str:
    """n and a noun: "1 seed", "3 seeds"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def fill(text: str, width: int, indent: int = 0) -> str:
    """Wrap a text to `width` columns, with `indent` spaces before all lines except the first. A
    longer word is not split.
    """
    how: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, width, subsequent_indent=" " * indent, **how)


def blocks(widths: Sequence[int], width: int, keep: int) -> list[list[int]]:
    """Split a table's columns (by index) into tables of at most `width`. Each has the first `keep`
    columns, which name the row, and at least one more.
    """
    names = list(range(keep))
    found = [names]
    for i in range(keep, len(widths)):
        wider = [*found[-1], i]
        if len(wider) > keep + 1 and sum(widths[j] for j in wider) > width:
            found.append([*names, i])
        else:
            found[-1] = wider
    return found


def table(
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    width: int,
    left: Collection[int] = (0,),
    keep: int = 1,
) -> Iterator[str]:
    """Rows of cells as lines, in columns of these widths; left: columns that start at the left.

    If a line would be wider than `width`, the columns get narrower. Columns that still do not fit
    go into a further table below, which repeats the first `keep` and omits rows of empty cells.
    """
    if max(map(len, _lines(rows, widths, range(len(widths)), left))) > width:
        widths = [max(map(len, column)) + GAP for column in zip(*rows)]
        widths[0] -= GAP
    first, *others = blocks(widths, width, keep)
    yield from _lines(rows, widths, first, left)
    for block in others:
        yield ""
        told = [row for row in rows if any(row[i].strip() for i in block[keep:])]
        yield from _lines(told, widths, block, left)


def _lines(rows, widths, block, left):
    """The lines of these columns."""
    for row in rows:
        cells = [(i in left, row[i], widths[i]) for i in block]
        yield "".join(
            (" " * GAP * (n > 0) + cell).ljust(w) if at_left else cell.rjust(w)
            for n, (at_left, cell, w) in enumerate(cells)
        ).rstrip()


def drop_output() -> None:
    """Discard the text that is not printed yet: the reader of the pipe has closed it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
