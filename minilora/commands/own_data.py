"""The data of a training run: read, written in the chat template, encoded as rows of tokens."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.files import data_folder
from ..text import tasks
from ..text.encode import Row, as_chats, encode
from ..text.pairs import read_pairs
from ..text.record_forms import Chat


@dataclass(frozen=True)
class Data:
    """The training data and the held-out data: rows of tokens, and pairs, chats or texts."""

    rows: list[Row]
    held_rows: list[Row]
    held_out: list[Any]
    chat: bool  # are all pairs conversations, in the base's chat template?


def read(a: Namespace, model: Any) -> Data:
    """The pairs of --data or --task, and the held-out ones; `encode` explains how they are cut.

    Raises ValueError for a wrong file, or one in which no row has a target.
    """
    pairs: list[Any]
    held_out: list[Any] = []
    if a.data is not None:
        pairs = _file(a, a.data)
    elif a.task is not None:
        pairs, _, held_out = tasks.load_task(a.task)
    else:
        raise ValueError("train: no training data, wanted --data FILE or --task NAME")
    pairs = as_chats(pairs, model.tokenizer, a.chat, a.system)
    held_out = _file(a, a.eval) if a.eval else held_out
    chat = all(isinstance(pair, Chat) for pair in pairs)
    held_out = as_chats(held_out, model.tokenizer, chat, a.system)
    most = model.config.max_position_embeddings if a.max_length is None else a.max_length
    rows, held_rows = (
        encode(some, model.tokenizer, chat=False, max_length=most, too_long=a.too_long)
        for some in (pairs, held_out)
    )
    return Data(rows, held_rows, held_out, chat)


def _file(a, path: Path) -> list[Any]:
    """A user's file; if data/… is not in this folder, the copy in the installed package."""
    if a.columns and len(a.columns) != 2:
        got = ",".join(a.columns)
        raise ValueError(f"--columns: got {got!r}, wanted two names and a comma")
    if not path.exists() and path.parts[:1] == ("data",):
        shipped = data_folder().joinpath(*path.parts[1:])
        path = shipped if shipped.is_file() else path
    return read_pairs(path, *(a.columns or ()))
