"""Read a user's training file: pairs of a prompt and a completion, chats, or texts."""

import contextlib
import csv
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..support.files import MOST_TEXT, parse_json, read_text
from ..support.terminal import many
from .record_forms import Pair, learned


def read_pairs(
    path: str | Path, prompt: str | None = None, completion: str | None = None
) -> list[Pair]:
    """Read the training examples in a .jsonl, .json or .csv file in UTF-8, one for each record.

    A record's names decide its form: prompt, completion; instruction, input, output (Alpaca);
    messages, a list of {"role", "content"}; conversations, a list of {"from", "value"} (ShareGPT);
    text. Other names and blank lines are ignored. prompt, completion: your own names for these.
    Warns how many records are left out because they are empty.
    Raises FileNotFoundError, or ValueError with the number of the wrong line.
    """
    path = Path(path)
    readers = {".jsonl": _jsonl_records, ".json": _json_records, ".csv": _csv_records}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: suffix {path.suffix!r}, wanted {', '.join(readers)}")
    columns = (prompt or "prompt", completion or "completion") if prompt or completion else None
    found: dict[str, Pair | None] = {}  # place in the file -> example
    for place, record in readers[path.suffix.lower()](path, read_text(path)):
        if not isinstance(record, dict):
            raise ValueError(f"{path} {place}: wanted an object, got {record!s:.40}")
        if columns and not found and "input" in record and "input" not in columns:
            said = "input is not read; without named columns, the record's names decide its form"
            warnings.warn(f"{path}: {said}", stacklevel=2)
        found[place] = learned(f"{path} {place}", record, columns)
    pairs = [pair for pair in found.values() if pair is not None]
    empty = [place for place, pair in found.items() if pair is None]
    if not pairs:
        raise ValueError(f"{path}: no pairs in it{f'; {empty[0]} is empty' if empty else ''}")
    if empty:
        said = f"of {many(len(found), 'record')}: {len(empty)} left out as empty"
        warnings.warn(f"{path}: {said}, the first is {empty[0]}", stacklevel=2)
    return pairs


def _jsonl_records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """("line" and its number, value) of each line that is not blank."""
    with contextlib.suppress(ValueError):  # one object on several lines
        if "\n" in text.strip() and isinstance(value := parse_json(path, text), dict):
            yield "record 1", value
            return
    # not splitlines(): it also splits at U+2028, which a JSON string may contain
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", parse_json(f"{path} line {number}", line)


def _json_records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """("record" and its number, value) of a list; a file that is not a list is read as lines."""
    if not text.lstrip().startswith("["):
        yield from _jsonl_records(path, text)
        return
    for number, value in enumerate(parse_json(path, text, MOST_TEXT), 1):
        yield f"record {number}", value


def _csv_records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """("line" and the number of its last line, {column: cell}) of each row that is not blank."""
    reader = csv.DictReader(io.StringIO(text.lstrip("\n"), newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise ValueError(f"{path} line {reader.line_num}: more cells than columns")
            if any(cell and cell.strip() for cell in row.values()):
                if missing := [name for name, cell in row.items() if name and cell is None]:
                    place = f"{path} line {reader.line_num}"
                    raise ValueError(f"{place}: fewer cells than columns, no {missing[0]}")
                yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.reader.line_num}: not CSV: {error}") from None
