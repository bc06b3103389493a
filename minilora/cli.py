"""`minilora …` reads the command line and runs one command. An error is one line, exit code 2."""

import argparse
import contextlib
import importlib
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from . import __version__
from .commands import COMMANDS
from .support import machine, terminal
from .support.terminal import printable

DEBUG = "MINILORA_DEBUG"  # environment variable: show tracebacks of unexpected errors


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0; 2 after an error; 1 after an unexpected error; 130 after Ctrl-C; 143 after SIGTERM; 141 if
    the output's reader has closed the pipe.
    """
    terminal.set_up()
    warnings.showwarning = terminal.show_warning
    arguments = parser().parse_args(argv)
    terminated = threading.Event()
    try:
        with _as_ctrl_c(terminated), contextlib.redirect_stdout(terminal.Printable(sys.stdout)):
            with machine.allocating("a size"):
                arguments.command(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        terminal.drop_output()
        return 141
    except (ValueError, OSError, AssertionError, MemoryError) as error:
        from .methods import own

        text = own.blame(error) + (" ".join(str(error).split()) or type(error).__name__)
        print(printable(f"minilora: {text}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(printable(f"minilora: {str(stop) or 'stopped'}"), file=sys.stderr)
        return 143 if terminated.is_set() else 130
    except Exception as error:  # the last resort: no user should see a traceback
        if os.environ.get(DEBUG):
            raise
        line = _unexpected(error, sys.argv[1:] if argv is None else argv)
        print(printable(line), file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _as_ctrl_c(came: threading.Event) -> Iterator[None]:
    """In the with block SIGTERM acts like Ctrl-C: a command saves its state and removes workers,
    locks and temporary files. It sets `came`. A program's own handler stays.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminated(number, frame):
        came.set()
        handler = signal.getsignal(signal.SIGINT)
        # a shell's background jobs ignore Ctrl-C
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unexpected(error: Exception, argv: list[str]) -> str:
    """One line about an unexpected error: what happened, and how to report it."""
    from .methods import own

    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    place = f"{Path(last.filename).name}:{last.lineno}"
    if own.FILES:  # a user's technique is loaded, and may be the cause
        more = f"minilora gradcheck --method {[*own.FILES.values()][-1][0]} checks a technique"
        return f"minilora: {own.blame(error) or f'{place}: '}{what}; {more}"
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
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    for name, (module, summary) in COMMANDS.items():
        p = commands.add_parser(name, help=summary, description=summary)
        p.module = module
    return top


class _Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"{self.prog}: {message}") + "\n")


class _Command(_Parser):
    """The parser of one command. Its module adds the options when they are first needed."""

    module = ""

    def _fill(self):
        if self.module:
            module = importlib.import_module(f".commands.{self.module}", __package__)
            self.module = ""
            module.add(_Only(self.prog.split()[-1], self))

    def parse_known_args(self, args=None, namespace=None):
        from .commands import config
        from .commands.arguments import with_techniques

        try:
            args = [*with_techniques(args)]
            self._fill()
            known, others = super().parse_known_args(args, namespace)
            if getattr(known, "config", None):  # the command line comes later, so it wins
                args = [*with_techniques(config.words(self, known)), *args]
                known, others = super().parse_known_args(args, namespace)
        except (OSError, ValueError) as error:
            self.error(" ".join(str(error).split()))
        for word in others:
            if word.startswith("--"):
                self._explain(word)
        return known, others

    def _explain(self, option: str) -> None:
        """Exit with the most similar options, or with this project's name for one of PEFT's."""
        from .support.files import nearest
        from .support.names import peft_hint

        name, known = option.split("=")[0], [*self._option_string_actions]
        if ours := peft_hint(name.lstrip("-").replace("-", "_")):
            self.error(f"no option {name}{ours}")
        self.error(str(nearest("option", name, [word for word in known if len(word) > 2])))

    def format_help(self) -> str:
        self._fill()
        return super().format_help()


class _Only:
    """Passed to a module's `add`: one command gets its real parser, the others are ignored."""

    def __init__(self, name: str, parser: argparse.ArgumentParser):
        self.name, self.parser = name, parser

    def add_parser(self, name: str) -> argparse.ArgumentParser:
        """The parser for a command of this name."""
        return self.parser if name == self.name else argparse.ArgumentParser()


if __name__ == "__main__":
    sys.exit(main())
