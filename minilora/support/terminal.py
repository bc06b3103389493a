"""Text for a terminal: its width, characters that its encoding has, no control characters."""

import codecs
import os
import re
import shutil
import sys
from typing import Any

WIDTH = 110  # columns of text in a file or a pipe, and the most on a terminal
ERRORS = "minilora.plain"  # an error handler of codecs: other characters for those that are missing

# Characters that a terminal obeys instead of printing; the last ones set the direction of text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PLAIN = {  # character -> what stands for it where the encoding lacks it
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
}


def _plain(error):
    """Replace the characters that cannot be encoded by PLAIN's, all others by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, "?") for c in missing), error.end


codecs.register_error(ERRORS, _plain)


def set_up() -> None:
    """Let stdout and stderr print every text, with plain characters for those that they lack.

    Where one is closed, as by >&- in a shell, its text is discarded.
    """
    sys.stdout, sys.stderr = (s or _nowhere() for s in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def _nowhere():
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def printable(text: str) -> str:
    """The text with its control characters, except newline and tab, as escapes: "\\x1b"."""
    return CONTROLS.sub(lambda c: ascii(c[0])[1:-1], text)


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


def width() -> int:
    """Columns for a text: COLUMNS or the terminal's, at most WIDTH; WIDTH where there is none."""
    return max(20, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def drop_output() -> None:
    """Discard the text that is not printed yet, since the reader of the pipe has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
