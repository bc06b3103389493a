"""ask: one word for the word lab's base and all of its adapters."""

from pathlib import Path

from .arguments import command


def add(commands) -> None:
    """Put the command on the parser."""
    p = command(commands, "ask", ask)
    p.add_argument("word", help="a word in lowercase letters")
    p.add_argument(
        "--adapters", type=Path, help="a folder of adapters, each named as its task (the built-in)"
    )


def ask(a) -> None:
    """Print each task's answer to the word. Raises ValueError unless it is in letters a-z."""
    from ..lab import word_adapters
    from ..text import tasks

    if not (a.word.isascii() and a.word.isalpha() and a.word.islower()):
        raise ValueError(f"ask: got {a.word!r}, wanted a word in lowercase letters a-z")
    library = word_adapters.open_library(a.adapters)
    for name, answer in word_adapters.ask(library, a.word).items():
        who = "adapter" if name in library else "base"
        print(f"{tasks.TASKS[name].title:24} {answer:20} {who}")
