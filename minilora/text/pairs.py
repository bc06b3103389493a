"""Pairs of a prompt and its right completions, and how they are read from a user's file."""

import csv
import io
from pathlib import Path
from typing import Any

from ..support.files import parse_json, read_text
from .chats import Chat

Words = tuple[str, str | tuple[str, ...]]  # a prompt, and its completion or all right completions
Pair = Words | Chat


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


def check_pair(place: str, pair: Any) -> None:
    """Raises ValueError, which begins with `place`, unless this is a prompt and its completions."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ValueError(f"{place}: wanted a pair (prompt, completion)")


def right_completions(completion: str | tuple[str, ...]) -> tuple[str, ...]:
    """All right completions; training uses the first. Raises ValueError if there is none."""
    right = (completion,) if isinstance(completion, str) else tuple(completion)
    if not right:
        raise ValueError("a pair has no right completion, wanted at least one")
    return right
