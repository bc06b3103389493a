"""Pairs, chats and texts as rows of tokens: with the chat template, within a length."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from ..ops.loss import IGNORED
from ..support.files import errors_at, nearest
from ..support.values import whole
from .chats import Chat
from .pairs import check_pair, right_completions
from .record_forms import Pair, Text
from .tokenizer import encode_more

TOO_LONG = {"cut": "cut there", "skip": "left out"}  # what is done with a row -> in words


class Row(NamedTuple):
    """A row of T tokens; targets[t] = ids[t+1], or -100 where nothing is learned."""

    ids: list[int]
    targets: list[int]


def encode(
    pairs: Sequence[Pair | Row],
    tokenizer: Any,
    *,
    chat: bool | None = None,
    system: str | None = None,
    max_length: int | None = None,
    too_long: Literal["cut", "skip"] = "cut",
) -> list[Row]:
    """The rows in which there is something to learn.   chat, system: see `as_chats`.

    max_length: the most tokens of a row. A longer one is cut after them, or left out ("skip").
    Warns of how many rows are cut or left out. Raises ValueError as `batches` does, and where no
    row is left.
    """
    if too_long not in TOO_LONG:
        raise nearest("too_long", str(too_long), TOO_LONG)
    most = sys.maxsize if max_length is None else whole("max_length", max_length, 1)
    rows = [_row(pair, tokenizer) for pair in as_chats(pairs, tokenizer, chat, system)]
    long = sum(len(row.ids) > most for row in rows)
    fits = [row for row in rows if len(row.ids) <= most or too_long == "cut"]
    kept = [Row(row.ids[:most], row.targets[:most]) for row in fits]
    left = [row for row in kept if any(target != IGNORED for target in row.targets)]
    said = [f"{long} have more than {most} tokens and are {TOO_LONG[too_long]}"] if long else []
    if len(left) < len(kept):
        said.append(f"{len(kept) - len(left)} have nothing to learn and are left out")
    if said and not left:
        raise ValueError(f"batches: of {len(rows)} rows {', '.join(said)}; none is left")
    if said:
        warnings.warn(f"of {len(rows)} rows {', '.join(said)}", stacklevel=3)
    return left


def as_chats(
    pairs: Iterable[Any], tokenizer: Any, chat: bool | None = None, system: str | None = None
) -> list[Any]:
    """The pairs as conversations for the tokenizer's chat template; texts stay as they are.

    chat: True: a prompt is what the user says, its completion what the assistant says, without the
    spaces around them. None: as False, with a warning if the tokenizer has a template. system: what
    the system says first, in conversations that do not begin with it.
    Raises ValueError for chat=True without a template, and for a system text that has no place.
    """
    pairs = list(pairs)
    plain = [not isinstance(pair, Chat | Text | Row) for pair in pairs]
    template = getattr(tokenizer, "has_chat", False)
    if chat and not template:
        raise ValueError("chat: the base's tokenizer has no chat template that is ChatML")
    if system is not None and not chat and any(plain):
        raise ValueError("system: wanted chat too, since a prompt alone has no place for it")
    if template and chat is None and any(plain):
        warnings.warn(
            "the base has a chat template, and the pairs are learned without it; chat=True "
            "(--chat) takes it, chat=False (--no-chat) says that this is meant",
            stacklevel=4,
        )
    if chat:
        pairs = [_chat(pair) if words else pair for pair, words in zip(pairs, plain)]
    return [pair.with_system(system) if isinstance(pair, Chat) else pair for pair in pairs]


def _chat(pair) -> Chat:
    """A prompt and its completion as two turns."""
    check_pair(f"batches: {pair!r:.120}", pair)
    said = {"user": pair[0], "assistant": right_completions(pair[1])[0]}
    return Chat(tuple({"role": role, "content": text.strip()} for role, text in said.items()))


def _row(pair: Pair, tokenizer: Any) -> Row:
    """ids and targets of prompt + completion + end, of a conversation or of a text."""
    if isinstance(pair, Row):
        return pair
    place = f"batches: {pair!r:.120}"
    if isinstance(pair, Chat | Text):
        with errors_at(place):
            return Row(*pair.row(tokenizer))
    check_pair(place, pair)
    with errors_at(place):
        prompt = tokenizer.encode(pair[0])
        answer = encode_more(tokenizer, right_completions(pair[1])[0])
    if not prompt or tokenizer.eos_id in answer:
        raise ValueError(f"{place}: wanted a prompt, and no end token in the completion")
    return answer_row([*prompt, *answer, tokenizer.eos_id], len(prompt))


def answer_row(tokens: list[int], prompt: int) -> Row:
    """The row of these tokens, whose first `prompt` tokens are no targets."""
    return Row(tokens[:-1], [IGNORED] * (prompt - 1) + tokens[prompt:])
