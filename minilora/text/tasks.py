"""The tasks in data/words/: their words, and rules of spelling to compare a model with."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..support.files import data_folder, find, read_text
from .record_forms import Words, right_pair


@dataclass(frozen=True)
class Task:
    """One table of data/words/, and the form of its prompts."""

    name: str  # also the table's file name
    tag: str  # the prompt's first character
    title: str  # what is asked
    example: str  # prompt and answer
    pretrain: bool = False  # the base was trained on it
    rules: tuple[str, ...] = ()  # names in RULES, whose scores are printed beside a model's

    def prompt(self, word: str) -> str:
        """The prompt for a word: tag + word + ">"."""
        return f"{self.tag}{word}>"


TASKS = {
    task.name: task
    for task in [
        Task("past", "D", "past tense", "Dwalk>walked", rules=("rule_ed", "rule_four")),
        Task("plural", "N", "plural", "Nchild>children", rules=("rule_s",)),
        Task("comparative", "C", "comparative", "Chappy>happier"),
        Task("lemma", "L", "lemma of a past tense", "Lwalked>walk"),
        Task("spelling", "W", "sounds to spelling", "Wwɔk>walk"),
        Task("third", "S", "third person", "Swalk>walks", pretrain=True),
        Task("ing", "G", "-ing form", "Gwalk>walking", pretrain=True),
        Task("phonemes", "P", "spelling to sounds", "Pwalk>wɔk", pretrain=True),
    ]
}


class TaskData(NamedTuple):
    """Pairs to train on, to choose settings with, and to report scores on."""

    train: list[Words]
    validation: list[Words]
    test: list[Words]


def load_task(name: str) -> TaskData:
    """All pairs of a task, in the order of the lemmas' md5. `select` fills validation.

    Raises ValueError for an unknown name.
    """
    task = find("task", name, TASKS)
    return read_table(
        f"words/{name}.tsv", lambda word, answers: (task.prompt(word), tuple(answers.split("/")))
    )


def read_table(name: str, to_pair: Callable[[str, str], Words]) -> TaskData:
    """A table in data/, whose columns are: word, answers, "train" or "test". validation is empty.

    to_pair: (word, answers) -> the pair.
    """
    pairs: dict[str, list[Words]] = {"train": [], "test": []}
    for line in read_text(data_folder() / name).splitlines()[1:]:
        word, answers, split = line.split("\t")
        pairs[split].append(to_pair(word, answers))
    return TaskData(pairs["train"], [], pairs["test"])


VALIDATION = 600  # words: two standard errors of a score of 0.85 are 0.03


def select(task: str | TaskData, train_size: int) -> TaskData:
    """Take the first `train_size` pairs for training, the next VALIDATION for validation.

    If fewer are left, validation gets these. Raises ValueError if none are left.
    """
    data = load_task(task) if isinstance(task, str) else task
    if not 1 <= train_size < len(data.train):
        raise ValueError(f"select: train_size {train_size}, wanted 1 to {len(data.train) - 1}")
    return TaskData(data.train[:train_size], data.train[train_size:][:VALIDATION], data.test)


def rule_four(word: str) -> str:
    """Past tense by spelling: smile -> smiled, cry -> cried, stop -> stopped, else + "ed"."""
    if word.endswith("e"):
        return word + "d"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ied"
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", word):
        return word + word[-1] + "ed"
    return word + "ed"


RULES: dict[str, Callable[[str], str]] = {
    "rule_ed": lambda word: word + "ed",
    "rule_s": lambda word: word + "s",
    "rule_four": rule_four,
}


def score_rule(rule: Callable[[str], str], pairs: Sequence[Words]) -> float:
    """The share of a task's pairs that a rule answers correctly; its input is the word alone.

    Raises ValueError for a pair without a right completion.
    """
    hits = sum(rule(prompt[1:-1]) in right for prompt, right in map(right_pair, pairs))
    return hits / len(pairs)
