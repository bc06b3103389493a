"""What a terminal can show: its width, the characters of its encoding, no control ones, a bar."""

import codecs
import os
import re
import shutil
import sys
from typing import Any

WIDTH = 110  # columns of what is printed into a file or a pipe, and the most on a terminal
STATIC = "MINILORA_STATIC"  # set where notebooks are built or graded, and nobody watches them
ERRORS = "minilora.plain"  # an error handler of codecs: other characters for those that are missing

# What a terminal obeys instead of printing it; the last ones turn the direction of writing.
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
    """The characters that could not be encoded, in plain ones; a question mark for any other."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, "?") for c in missing), error.end


codecs.register_error(ERRORS, _plain)


def set_up() -> None:
    """Let stdout and stderr print every text, in plain characters where theirs lack one; nowhere
    where they are closed, as by >&- in a shell.
    """
    sys.stdout, sys.stderr = (s or _nowhere() for s in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)


def _nowhere():
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def hides_bar(progress: bool | None) -> bool | None:
    """What tqdm calls `disable`.   progress: None shows a bar where a reader is there to see it.

    That is on a terminal (tqdm's None) and in a notebook, whose stderr is no terminal.
    """
    if progress is not None:
        return not progress
    return False if "ipykernel" in sys.modules and not os.environ.get(STATIC) else None


def printable(text: str) -> str:
    """The text with its control characters written out, but for newlines and tabs: "\\x1b"."""
    return CONTROLS.sub(lambda c: ascii(c[0])[1:-1], text)


class Printable:
    """A text stream on which a stranger's text (a vocabulary, a title, a path) cannot move the
    cursor or change what was printed before.
    """

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        """As the stream's own: the number of characters."""
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def encodable(text: str, stream: Any = None) -> str:
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
