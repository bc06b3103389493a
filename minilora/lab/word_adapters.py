"""The word lab's five adapters on its base, one for each task that the base never saw."""

from pathlib import Path

from ..formats.models import load_model
from ..support.files import data_folder
from ..text import tasks
from ..tuning.library import Library

NAMES = tuple(name for name, task in tasks.TASKS.items() if not task.pretrain)


def open_library(folder: str | Path | None = None) -> Library:
    """The base with every adapter in a folder of adapters; None: the committed ones.

    Raises FileNotFoundError if the folder has none, and what load_adapter raises.
    """
    folder = data_folder() / "adapters" if folder is None else Path(folder)
    library = Library(load_model("base"))
    for path in sorted(folder.glob("*/adapter_config.json")):
        library.load(path.parent)
    if not any(name in library for name in tasks.TASKS):
        raise FileNotFoundError(f"{folder}: no adapter in it that is named after a task")
    return library


def ask(library: Library, word: str) -> dict[str, str]:
    """The answers of the base and of each adapter of a task to one word  ->  task: answer.

    The spelling adapter reads sounds: those that the base gives for the word.
    Raises ValueError for a character that the base does not know.
    """
    answers: dict[str, str] = {}
    there = set(library)
    first = [name for name, task in tasks.TASKS.items() if task.pretrain]
    for name in dict.fromkeys([*first, *(name for name in tasks.TASKS if name in there)]):
        with library.using(name if name in there else None):
            prompt = tasks.TASKS[name].prompt(answers["phonemes"] if name == "spelling" else word)
            answers[name] = library.generate_text(prompt, 24)
    return answers
