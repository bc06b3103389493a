"""adapters, ask: five adapters on the word lab's base, and one word for all of them."""

from pathlib import Path

from ..support.files import make_folder
from .arguments import command


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "adapters", adapters)
    p.add_argument(
        "--out", type=Path, default=Path("runs/adapters"), help="folder of folders (%(default)s)"
    )
    p.add_argument("--steps", type=int, help="optimizer steps, in place of each recipe's own")

    p = command(commands, "ask", ask)
    p.add_argument("word", help="a word in lowercase letters")
    p.add_argument(
        "--adapters", type=Path, help="a folder of adapters, each named as its task (the built-in)"
    )


def adapters(a) -> None:
    """Train, score and write the adapters, with a line for each."""
    import dataclasses

    from ..lab import word_adapters
    from ..support.values import whole

    recipes = dict(word_adapters.RECIPES)
    if a.steps is not None:
        steps = whole("--steps", a.steps, 1)
        for name, recipe in recipes.items():
            recipes[name] = dataclasses.replace(recipe, steps=steps, warmup=steps // 10)
    make_folder(a.out)
    heads = ("task", "trainable", "bytes", "seconds", "exact match, held out")
    print("{:12} {:>10} {:>10} {:>8} {:>22}".format(*heads))
    word_adapters.make(a.out, recipes, lambda name, row: print(_line(name, row), flush=True))
    print(f"written to {a.out}: a folder for each task, and {word_adapters.RECORD}")


def _line(name, row):
    return (
        f"{name:12} {row['trainable']:>10,} {row['bytes']:>10,} {row['seconds']:>8.1f} "
        f"{row['held_out_exact_match']:>10.3f} of {row['held_out_words']:,} words"
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
