"""`minilora …` reads the command line and runs one command. An error is one line, exit code 2."""

import argparse
import contextlib
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .commands import MODULES
from .support.values import printable

DEBUG = "MINILORA_DEBUG"  # environment variable: show tracebacks of errors that should not happen


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 after an error, 1 after one that should not
    happen, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        with _terminated_in_order(), contextlib.redirect_stdout(_Printable(sys.stdout)):
            arguments.command(arguments)
    except (ValueError, OSError, AssertionError, MemoryError) as error:
        text = " ".join(str(error).split())
        print(printable(f"minilora: {text or type(error).__name__}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("minilora: stopped", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except Exception as error:  # the outermost net: no user should meet a traceback
        if os.environ.get(DEBUG):
            raise
        line = _unexpected(error, sys.argv[1:] if argv is None else argv)
        print(printable(line), file=sys.stderr)
        return 1
    return 0


class Terminated(KeyboardInterrupt):
    """SIGTERM came: end as after Ctrl-C, with workers, locks and temporary files cleared away."""


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, unless the program has a handler of its own."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminated(*_: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unexpected(error: Exception, argv: list[str]) -> str:
    """One line on an error that no code foresaw, with what to report and how."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    place = f"{Path(last.filename).name}:{last.lineno}"
    command = shlex.join(["minilora", *argv])
    return (
        f"minilora: this should not happen: {what} in {place}; please report it with this command: "
        f"{command} (with {DEBUG}=1 it prints a traceback), see SECURITY.md"
    )


def parser() -> argparse.ArgumentParser:
    """The parser with all commands and their options."""
    top = _Parser(
        prog="minilora",
        description="Five ways to fine-tune a language model, to read, check and time.",
    )
    top.add_argument("--version", action="version", version=f"minilora {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for module in MODULES:
        module.add(commands)
    return top


class _Printable:
    """A text stream on which a stranger's text (a vocabulary, a title, a path) cannot move the
    cursor or change what was printed before.
    """

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"{self.prog}: {message}") + "\n")


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(printable(f"minilora: warning: {message}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
