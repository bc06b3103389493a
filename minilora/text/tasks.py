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

from ..llama.model import Llama
from ..ops.loss import IGNORED
from ..support.files import data_folder, errors_at, find, parse_json, read_text
from ..support.values import named
from .chats import Chat

Words = tuple[str, str | tuple[str, ...]]  # a prompt, and its completion or all right completions
Pair = Words | Chat
Batch = tuple[np.ndarray, np.ndarray]  # ids (N, T), targets (N, T), int64


@dataclass(frozen=True)
class Task:
    """One table of data/words/, and its form of a prompt."""

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
    """Pairs: to train on, to choose settings with, and to report scores on."""

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


def select(task: str | TaskData, train_size: int) -> TaskData:
    """Take the first `train_size` pairs for training, the next `train_size` for validation.

    If fewer are left, validation gets these. Raises ValueError if none are left.
    """
    data = load_task(task) if isinstance(task, str) else task
    if not 1 <= train_size < len(data.train):
        raise ValueError(f"select: train_size {train_size}, wanted 1 to {len(data.train) - 1}")
    return TaskData(data.train[:train_size], data.train[train_size : 2 * train_size], data.test)


def read_pairs(
    path: str | Path, prompt: str = "prompt", completion: str = "completion"
) -> list[Pair]:
    """(prompt, completion) pairs from a .jsonl or .csv file in UTF-8.

    prompt, completion: their names in the file. A line of JSONL may have "messages" instead, a list
    of {"role", "content"}: it is read as a `Chat`. Blank lines and other names are skipped.
    Raises FileNotFoundError, or ValueError with the number of the line that is wrong.
    """
    columns = prompt, completion
    path = Path(path)
    readers = {".jsonl": _jsonl_records, ".csv": _csv_records}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: suffix {path.suffix!r}, wanted .jsonl or .csv")
    pairs: list[Pair] = []
    for line, record in readers[path.suffix.lower()](path, read_text(path), columns):
        if isinstance(record.get("messages"), list) and prompt not in record:
            pairs.append(Chat.read(f"{path} line {line}", record["messages"]))
            continue
        for key in columns:
            value = record.get(key)
            if not isinstance(value, str) or not value:
                has = "" if key in record else f"; its names are {', '.join(record):.80}"
                raise ValueError(
                    f"{path} line {line}: {key} is {value!r:.80}, wanted some text{has}"
                )
        pairs.append((record[prompt], record[completion]))
    if not pairs:
        raise ValueError(f"{path}: no pairs in it")
    return pairs


def _jsonl_records(path: Path, text: str, columns: tuple[str, ...]):
    """(line number, object) of each line that is not blank."""
    # not splitlines(): it also splits at U+2028, which a JSON string may contain
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = parse_json(f"{path} line {number}", line)
        if not isinstance(record, dict):
            raise ValueError(f"{path} line {number}: wanted an object, got {line.strip()[:40]}")
        yield number, record


def _csv_records(path: Path, text: str, wanted: tuple[str, ...]):
    """(number of its last line, {column: cell}) of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    try:
        line, columns = next(rows, (0, list(wanted)))
        for name in wanted:
            if (times := columns.count(name)) != 1:
                count = f"{times} columns" if times else "no column"
                raise ValueError(f"{path} line {line}: {count} {name!r} in {columns}")
        for line, row in rows:
            if len(row) > len(columns):
                raise ValueError(f"{path} line {line}: more cells than columns")
            yield line, dict(zip(columns, row))
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: not CSV: {error}") from None


def batches(
    pairs: Sequence[Pair],
    tokenizer: Any,
    batch_size: int | None = None,
    seed: int = 0,
    epochs: int = 1,
    by_length: int = 1,
    max_tokens: int | None = None,
) -> list[Batch]:
    """targets[t] = ids[t+1] on the completion and its end, -100 on the prompt and the padding.

    ids, targets (N, T), T of the longest row. Each epoch has its own order. The last batch of an
    epoch is completed from the next one: all batches have batch_size rows, or all pairs if fewer.
    by_length: the rows of this many batches are sorted by length and divided into batches again, so
    that there is less padding. These batches come in random order, and the number of all batches is
    a multiple of by_length. With more epochs the first batches stay the same.
    max_tokens, instead of batch_size: a batch takes rows until the next one would give it more
    tokens than this, padding not counted. So all batches cost about the same.
    Raises ValueError for no pairs, no tokenizer, an empty prompt, an end token inside a completion,
    a character without a token, or a row longer than max_tokens; TypeError for another object in
    the tokenizer's place.
    """
    require_tokenizer("batches", tokenizer)
    if not hasattr(tokenizer, "eos_id"):
        its = "its tokenizer: model.tokenizer" if hasattr(tokenizer, "tokenizer") else "a tokenizer"
        raise TypeError(f"batches: got a {type(tokenizer).__name__}, wanted {its}")
    if (batch_size is None) == (max_tokens is None):
        raise ValueError(
            f"batches: batch_size {batch_size}, max_tokens {max_tokens}; wanted one of them"
        )
    if max_tokens is not None and by_length != 1:
        raise ValueError("batches: by_length is for batch_size; max_tokens counts no padding")
    if not pairs or min(batch_size or max_tokens or 0, epochs, by_length) < 1:
        raise ValueError(
            f"batches: {len(pairs)} pairs, batch_size {batch_size}, epochs {epochs}, by_length "
            f"{by_length}, max_tokens {max_tokens}; each from 1"
        )
    rows = [_row(pair, tokenizer) for pair in pairs]
    rng = np.random.default_rng(seed)
    if max_tokens is not None:
        chosen = _by_tokens([len(ids) for ids, _ in rows], max_tokens, epochs, rng)
    else:
        chosen = _by_number(rows, batch_size, seed, epochs, by_length, rng)
    return [pad([rows[i] for i in batch], tokenizer.pad_id) for batch in chosen]


def _by_number(rows, batch_size, seed, epochs, by_length, rng):
    """Which rows are in each batch, where all batches have batch_size rows: (batches, size)."""
    size = min(batch_size, len(rows))
    sets = -(-epochs * len(rows) // (size * by_length))  # rounded up: every pair in every epoch
    total = sets * by_length * size
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(-(-total // len(rows)))])
    chosen = order[:total].reshape(sets, by_length, size)
    if by_length > 1:
        lengths = np.array([len(ids) for ids, _ in rows])
        # not the generator above: more epochs would change the order of the first batches
        rng = np.random.default_rng((seed, by_length))
        chosen = np.stack([_by_length(each, lengths, rng) for each in chosen])
    return chosen.reshape(-1, size)


def _by_tokens(lengths: list[int], most: int, epochs: int, rng) -> list[list[int]]:
    """Which rows are in each batch, where a batch has at most `most` tokens."""
    if max(lengths) > most:
        raise ValueError(
            f"batches: a row has {max(lengths)} tokens, wanted at most max_tokens {most}"
        )
    most = min(most, sum(lengths))  # no batch has a row twice
    chosen: list[list[int]] = [[]]
    tokens, taken = 0, 0
    while True:  # until the batch that has the last row of the last epoch is full
        for i in rng.permutation(len(lengths)):
            if tokens + lengths[i] > most:
                if taken >= epochs * len(lengths):
                    return chosen
                chosen.append([])
                tokens = 0
            chosen[-1].append(int(i))
            tokens, taken = tokens + lengths[i], taken + 1


def _by_length(batches, lengths, rng):
    """The rows of K batches (K, size), sorted by length into batches, which are then shuffled."""
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
    """`batches` with enough epochs for this number of steps. Raises ValueError as `batches`."""
    epochs = -(-steps * batch_size // max(1, len(pairs)))
    return batches(pairs, tokenizer, batch_size, seed, epochs, by_length)


def all_once(pairs: Sequence[Pair], tokenizer: Any, batch_size: int = 64) -> list[Batch]:
    """All pairs, each once, in batches of similar length, for a mean loss.

    Raises ValueError as `batches`.
    """
    pairs = sorted(pairs, key=_length)
    parts = [pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)]
    return [batch for part in parts for batch in batches(part, tokenizer, len(part))]


def _length(pair):
    """Characters of a pair or a conversation."""
    if isinstance(pair, Chat):
        return sum(len(message["content"]) for message in pair.messages)
    return len(pair[0]) + len(_right(pair[1])[0])


def _row(pair: Pair, tokenizer: Any) -> tuple[list[int], list[int]]:
    """ids and targets of prompt + completion + end."""
    place = f"batches: {pair!r:.120}"
    if isinstance(pair, Chat):
        with errors_at(place):
            return pair.row(tokenizer)
    _check_pair(place, pair)
    with errors_at(place):
        prompt, answer = tokenizer.encode(pair[0]), tokenizer.encode(_right(pair[1])[0])
    if not prompt or tokenizer.eos_id in answer:
        raise ValueError(f"{place}: wanted a prompt, and no end token in the completion")
    return answer_row([*prompt, *answer, tokenizer.eos_id], len(prompt))


def _check_pair(place: str, pair: Any) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ValueError(f"{place}: wanted a pair (prompt, completion)")


def answer_row(tokens: list[int], prompt: int) -> tuple[list[int], list[int]]:
    """ids and targets of a row of tokens, whose first `prompt` tokens are no targets."""
    return tokens[:-1], [IGNORED] * (prompt - 1) + tokens[prompt:]


def pad(rows: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """ids and targets (N, T) of N rows, padded on the right to the longest one."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids, targets = np.full(shape, pad_id, np.int64), np.full(shape, IGNORED, np.int64)
    for n, (row_ids, row_targets) in enumerate(rows):
        ids[n, : len(row_ids)] = row_ids
        targets[n, : len(row_targets)] = row_targets
    return ids, targets


def random_batch(
    vocab_size: int, batch_size: int, prompts: tuple[int, int], answers: tuple[int, int]
) -> Batch:
    """Random tokens in the form of instruction data: a prompt without targets, then an answer.

    prompts, answers: the least and the most tokens of each, drawn for every row.
    ->  ids, targets (batch_size, T), the same at each call.
    """
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(batch_size):
        prompt, answer = (int(rng.integers(least, most + 1)) for least, most in (prompts, answers))
        rows.append(answer_row(rng.integers(0, vocab_size, prompt + answer).tolist(), prompt))
    return pad(rows, 0)


def _right(completion: str | tuple[str, ...]) -> tuple[str, ...]:
    """All right completions; training uses the first. Raises ValueError if there is none."""
    right = (completion,) if isinstance(completion, str) else tuple(completion)
    if not right:
        raise ValueError("a pair has no right completion, wanted at least one")
    return right


def exact_match(
    model: Any, pairs: Sequence[Pair], batch_size: int = 512, return_answers: bool = False
) -> Any:
    """The share of prompts whose greedy answer, up to the end token, is a right completion.

    model: has .tokenizer or .base.tokenizer, and .generate(ids (N, T), max_new_tokens, stop=id). A
    model of this package gets prompts of several lengths at once.
    Returns a float; with return_answers: (float, answers in the order of `pairs`). An answer longer
    than the longest right completion is wrong.
    Raises ValueError for an empty list of pairs or a model without a tokenizer; TypeError for what
    is no model.
    """
    if not hasattr(model, "generate"):
        raise TypeError(
            f"exact_match: got {named(model)}, wanted a model: load_model gives one, by its name"
        )
    if not pairs:
        raise ValueError("exact_match: no pairs")
    base = getattr(model, "base", model)
    tokenizer = require_tokenizer("exact_match", getattr(base, "tokenizer", None))
    words = [pair.pair(tokenizer) if isinstance(pair, Chat) else pair for pair in pairs]
    for pair in words:
        _check_pair(f"exact_match: {pair!r:.120}", pair)
    prompts = [tokenizer.encode(prompt) for prompt, _ in words]
    right = [_right(completion) for _, completion in words]
    longest = max(len(tokenizer.encode(text)) for texts in right for text in texts)

    answers, hits = [""] * len(pairs), 0
    for places, ids in prompt_batches(base, prompts, batch_size):
        out = model.generate(ids, longest + 1, stop=tokenizer.eos_id)
        for place, row in zip(places, out):
            new = row[len(prompts[place]) :].tolist()
            ended = tokenizer.eos_id in new
            text = tokenizer.decode(new[: new.index(tokenizer.eos_id)] if ended else new)
            answers[place] = text
            hits += ended and text in right[place]
    score = hits / len(pairs)
    return (score, answers) if return_answers else score


def require_tokenizer(place: str, tokenizer: Any) -> Any:
    """The tokenizer. Raises ValueError, which begins with `place`, if it is None."""
    if tokenizer is None:
        raise ValueError(f"{place}: the model has no tokenizer to read its prompts with")
    return tokenizer


def prompt_batches(
    base: Any, prompts: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[list[int], Any]]:
    """Batches of prompts for `generate`: their places, their ids. A Llama takes several lengths at
    once; another model gets arrays (N, T).
    """
    if not isinstance(base, Llama):
        yield from of_one_length(prompts, batch_size)
        return
    for start in range(0, len(prompts), batch_size):
        chosen = prompts[start : start + batch_size]
        yield list(range(start, start + len(chosen))), chosen


def of_one_length(
    prompts: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Batches of prompts of equal length, without padding: their places, their ids (N, T)."""
    by_length = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    for places in by_length.values():
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            yield chosen, np.array([prompts[place] for place in chosen], np.int64)


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
    """The share of a task's pairs that a rule answers right; it is applied to the word itself.

    Raises ValueError for a pair without a right completion.
    """
    return sum(rule(prompt[1:-1]) in _right(answers) for prompt, answers in pairs) / len(pairs)
