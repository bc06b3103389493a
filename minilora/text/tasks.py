"""The tasks in data/words/ and a user's own file: pairs of text, batches of ids, exact match."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..ops.loss import IGNORED
from ..support.files import data_folder, find, parse_json, read_text

Pair = tuple[str, str | tuple[str, ...]]  # a prompt, and its completion or every right one
Batch = tuple[np.ndarray, np.ndarray]  # ids (N, T), targets (N, T), int64
COLUMNS = ("prompt", "completion")  # of a user's own file


@dataclass(frozen=True)
class Task:
    """One table of data/words/ and how it is asked: tag + word + ">"."""

    name: str  # also the table's file name
    tag: str  # the prompt's first character
    title: str  # what is asked
    example: str  # prompt and answer
    pretrain: bool = False  # the base was trained on it
    rules: tuple[str, ...] = ()  # names in RULES, to print beside a model's score

    def prompt(self, word: str) -> str:
        """How a word is asked: tag + word + ">"."""
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
    """Pairs to train on, to choose settings by, and to report."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def load_task(name: str) -> TaskData:
    """All pairs of a task, in the order of the lemmas' md5; validation is empty until `select`.

    Raises ValueError on an unknown name.
    """
    task = find("task", name, TASKS)
    table = (data_folder() / "words" / f"{name}.tsv").read_text(encoding="utf-8")
    pairs: dict[str, list[Pair]] = {"train": [], "test": []}
    for line in table.splitlines()[1:]:
        word, answers, split = line.split("\t")
        pairs[split].append((task.prompt(word), tuple(answers.split("/"))))
    return TaskData(pairs["train"], [], pairs["test"])


def select(task: str | TaskData, train_size: int) -> TaskData:
    """The first `train_size` pairs to train on, as many of the next to validate on, and the test.

    Where fewer are left, the rest validates. Raises ValueError if none would be.
    """
    data = load_task(task) if isinstance(task, str) else task
    if not 1 <= train_size < len(data.train):
        raise ValueError(f"select: train_size {train_size}, wanted 1 to {len(data.train) - 1}")
    return TaskData(data.train[:train_size], data.train[train_size : 2 * train_size], data.test)


# ------------------------------------------------------------------------------- a user's own file


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """(prompt, completion) pairs from a .jsonl or a .csv file with these two names, in UTF-8.

    Blank lines do not count, nor do other names. Raises ValueError naming the line,
    FileNotFoundError.
    """
    path = Path(path)
    readers = {".jsonl": _jsonl_records, ".csv": _csv_records}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: suffix {path.suffix!r}, wanted .jsonl or .csv")
    pairs = []
    for line, record in readers[path.suffix.lower()](path, read_text(path)):
        for key in COLUMNS:
            value = record.get(key)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{path} line {line}: {key} is {value!r:.80}, wanted some text")
        pairs.append((record["prompt"], record["completion"]))
    if not pairs:
        raise ValueError(f"{path}: no pairs in it")
    return pairs


def _jsonl_records(path: Path, text: str):
    """(line number, object) of each line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 may stand inside a string
        if not line.strip():
            continue
        record = parse_json(f"{path} line {number}", line)
        if not isinstance(record, dict):
            raise ValueError(f"{path} line {number}: wanted an object, got {line.strip()[:40]}")
        yield number, record


def _csv_records(path: Path, text: str):
    """(number of its last line, row by column name) of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    try:
        line, columns = next(rows, (0, list(COLUMNS)))
        for name in COLUMNS:
            if (times := columns.count(name)) != 1:
                said = f"{times} columns" if times else "no column"
                raise ValueError(f"{path} line {line}: {said} {name!r} in {columns}")
        for line, row in rows:
            if len(row) > len(columns):
                raise ValueError(f"{path} line {line}: more cells than columns")
            yield line, dict(zip(columns, row))
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: not CSV: {error}") from None


# ------------------------------------------------------------------------------------------ batches


def batches(
    pairs: Sequence[Pair],
    tokenizer: Any,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    by_length: int = 1,
) -> list[Batch]:
    """targets[t] = ids[t+1] on the completion and its end, -100 on the prompt and the padding.

    Each epoch is shuffled anew, and its last batch filled up from the next one, so all batches have
    one size: batch_size, or all pairs if they are fewer. ids, targets (N, T), T by the longest.
    by_length: so many batches share their rows out by length, and come in a random order: less
    padding; their number is rounded up to whole sets of so many. More epochs only add batches.
    Raises ValueError on no pairs, an empty prompt, an end inside a completion, no tokenizer, or a
    character that it does not have.
    """
    if tokenizer is None:
        raise ValueError("batches: the model has no tokenizer to read its prompts with")
    if not pairs or min(batch_size, epochs, by_length) < 1:
        raise ValueError(
            f"batches: {len(pairs)} pairs, batch_size {batch_size}, epochs {epochs}, by_length "
            f"{by_length}; each from 1"
        )
    rows = [_row(pair, tokenizer) for pair in pairs]
    size = min(batch_size, len(rows))
    sets = -(-epochs * len(rows) // (size * by_length))  # rounded up: every pair in every epoch
    total = sets * by_length * size
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(-(-total // len(rows)))])
    chosen = order[:total].reshape(sets, by_length, size)
    if by_length > 1:
        lengths = np.array([len(ids) for ids, _ in rows])
        rng = np.random.default_rng((seed, by_length))  # its own: see "More epochs"
        chosen = np.stack([_alike(each, lengths, rng) for each in chosen])
    return [_pad([rows[i] for i in batch], tokenizer.pad_id) for batch in chosen.reshape(-1, size)]


def _alike(batches, lengths, rng):
    """The rows of some batches (K, size), shared out anew: those of one are alike in length."""
    rows = batches.ravel()
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    return rng.permutation(rows.reshape(batches.shape))


def enough_batches(
    steps: int,
    pairs: Sequence[Pair],
    tokenizer: Any,
    batch_size: int,
    seed: int,
    by_length: int = 1,
) -> list[Batch]:
    """`batches` of as many epochs as so many steps of one batch want."""
    epochs = -(-steps * batch_size // max(1, len(pairs)))
    return batches(pairs, tokenizer, batch_size, seed, epochs, by_length)


def all_once(pairs: Sequence[Pair], tokenizer: Any, batch_size: int = 64) -> list[Batch]:
    """All pairs, each once, in batches alike in length: what a mean loss is taken over."""
    pairs = sorted(pairs, key=lambda pair: len(pair[0]) + len(_right(pair[1])[0]))
    parts = [pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)]
    return [batch for part in parts for batch in batches(part, tokenizer, len(part))]


def _row(pair: Pair, tokenizer: Any) -> tuple[list[int], list[int]]:
    """ids and targets of prompt + completion + end."""
    (prompt, completion), place = pair, f"batches: {pair!r:.120}"
    try:
        asked, answer = tokenizer.encode(prompt), tokenizer.encode(_right(completion)[0])
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if not asked or tokenizer.eos_id in answer:
        raise ValueError(f"{place}: wanted a prompt, and no end token in the completion")
    text = [*asked, *answer, tokenizer.eos_id]
    return text[:-1], [IGNORED] * (len(asked) - 1) + text[len(asked) :]


def _pad(rows: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Rows of unequal length, filled up on the right."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids, targets = np.full(shape, pad_id, np.int64), np.full(shape, IGNORED, np.int64)
    for n, (row_ids, row_targets) in enumerate(rows):
        ids[n, : len(row_ids)] = row_ids
        targets[n, : len(row_targets)] = row_targets
    return ids, targets


def _right(completion: str | tuple[str, ...]) -> tuple[str, ...]:
    """Every right completion; the first is the one trained on. Raises ValueError on none."""
    right = (completion,) if isinstance(completion, str) else tuple(completion)
    if not right:
        raise ValueError("a pair has no right completion, wanted at least one")
    return right


# ------------------------------------------------------------------------------------------- scores


def exact_match(
    model: Any, pairs: Sequence[Pair], batch_size: int = 512, return_answers: bool = False
) -> Any:
    """The share of prompts whose greedy answer, up to the end token, is a right completion.

    model: has .tokenizer or .base.tokenizer, and .generate(ids (N, T), max_new_tokens, stop=id).
    Returns a float, or (float, the answers in the order of `pairs`). An answer that does not end
    within the length of the longest right completion is wrong. Raises ValueError on no pairs.
    """
    if not pairs:
        raise ValueError("exact_match: no pairs")
    tokenizer = getattr(getattr(model, "base", model), "tokenizer", None)
    if tokenizer is None:
        raise ValueError("exact_match: the model has no tokenizer to read its prompts with")
    prompts = [tokenizer.encode(prompt) for prompt, _ in pairs]
    right = [_right(completion) for _, completion in pairs]
    longest = max(len(tokenizer.encode(text)) for texts in right for text in texts)

    answers, hits = [""] * len(pairs), 0
    for places, ids in of_one_length(prompts, batch_size):
        out = model.generate(ids, longest + 1, stop=tokenizer.eos_id)
        for place, new in zip(places, out[:, ids.shape[1] :].tolist()):
            ended = tokenizer.eos_id in new
            text = tokenizer.decode(new[: new.index(tokenizer.eos_id)] if ended else new)
            answers[place] = text
            hits += ended and text in right[place]
    score = hits / len(pairs)
    return (score, answers) if return_answers else score


def of_one_length(
    prompts: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places among the prompts, and their ids (N, T): prompts of one length need no padding."""
    by_length = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    for places in by_length.values():
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            yield chosen, np.array([prompts[place] for place in chosen], np.int64)


def rule_ed(word: str) -> str:
    """word + "ed"."""
    return word + "ed"


def rule_s(word: str) -> str:
    """word + "s"."""
    return word + "s"


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
    "rule_ed": rule_ed,
    "rule_s": rule_s,
    "rule_four": rule_four,
}


def score_rule(rule: Callable[[str], str], pairs: Sequence[Pair]) -> float:
    """The share of a task's pairs that a rule on the bare word gets right."""
    return sum(rule(prompt[1:-1]) in _right(answers) for prompt, answers in pairs) / len(pairs)
