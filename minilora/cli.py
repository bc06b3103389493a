"""`minilora …` reads the command line and runs one command. An error is one line, exit code 2."""

import argparse
import importlib
import sys
import warnings
from typing import NoReturn

from . import __version__
from .commands import COMMANDS
from .support import terminal


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 after an error, 130 after Ctrl-C, 141 where the
    reader of the output has gone.
    """
    terminal.set_up()
    arguments = parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        terminal.drop_output()
        return 141
    except (ValueError, OSError, AssertionError, MemoryError) as error:
        text = " ".join(str(error).split())
        print(f"minilora: {text or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"minilora: {stopped or 'stopped'}", file=sys.stderr)
        return 130
    return 0


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
        self.exit(2, f"{self.prog}: {message}\n")


class _Command(_Parser):
    """The parser of one command. Its module gives it its options when they are first needed."""

    module = ""

    def _fill(self):
        if self.module:
            module = importlib.import_module(f".commands.{self.module}", __package__)
            self.module = ""
            module.add(_Only(self.prog.split()[-1], self))

    def parse_known_args(self, args=None, namespace=None):
        self._fill()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        self._fill()
        return super().format_help()


class _Only:
    """What a module puts its commands on: one is kept, and the others are left out."""

    def __init__(self, name: str, parser: argparse.ArgumentParser):
        self.name, self.parser = name, parser

    def add_parser(self, name: str) -> argparse.ArgumentParser:
        """The parser for a command of this name."""
        return self.parser if name == self.name else argparse.ArgumentParser()


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"minilora: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
