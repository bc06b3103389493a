"""What a terminal can show: its width, and the characters of its encoding."""

import codecs
import os
import shutil
import sys
from typing import Any

WIDTH = 110  # columns of what is printed into a file or a pipe, and the most on a terminal
ERRORS = "minilora.plain"  # an error handler of codecs: other characters for those that are missing

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
    """The characters that could not be encoded, in plain ones; a question mark for any other."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, "?") for c in missing), error.end


codecs.register_error(ERRORS, _plain)


def set_up() -> None:
    """Let stdout and stderr print every text, in plain characters where theirs lack one."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def printable(text: str, stream: Any = None) -> str:
    """A text in characters that a stream (stdout where None) can encode."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, ERRORS).decode(encoding)


def width() -> int:
    """Columns for a text: COLUMNS or the terminal's, at most WIDTH; WIDTH where there is none."""
    return max(20, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def drop_output() -> None:
    """Send what is still to be printed nowhere: the reader of the pipe is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
