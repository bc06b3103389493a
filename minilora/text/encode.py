"""Encode pairs, chats and texts as rows of tokens, with a chat template and a maximum length."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from ..ops.loss import IGNORED
from ..support.files import errors_at, nearest
from ..support.terminal import many
from ..support.values import whole
from .record_forms import Chat, Pair, Text, right_pair
from .tokenizer import encode_more

TOO_LONG = {"cut": "cut there", "skip": "left out"}  # what to do with a long row -> in words


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
    """The rows that have at least one target.   chat, system: see `as_chats`.

    max_length: the most tokens of a row. A longer row is cut to them, or left out ("skip").
    Warns how many rows are cut or left out. Raises ValueError as `batches` does, and if no row is
    left.
    """
    if too_long not in TOO_LONG:
        raise nearest("too_long", str(too_long), TOO_LONG)
    most = sys.maxsize if max_length is None else whole("max_length", max_length, 1)
    rows = [_row(pair, tokenizer) for pair in as_chats(pairs, tokenizer, chat, system)]
    long = sum(len(row.ids) > most for row in rows)
    fits = [row for row in rows if len(row.ids) <= most or too_long == "cut"]
    kept = [Row(row.ids[:most], row.targets[:most]) for row in fits]
    left = [row for row in kept if any(target != IGNORED for target in row.targets)]
    said = [f"{long} longer than {most} tokens ({TOO_LONG[too_long]})"] if long else []
    if len(left) < len(kept):
        said.append(f"{len(kept) - len(left)} with nothing to learn (left out)")
    if said and not left:
        raise ValueError(f"batches: of {many(len(rows), 'row')}: {', '.join(said)}; none is left")
    if said:
        warnings.warn(f"of {many(len(rows), 'row')}: {', '.join(said)}", stacklevel=3)
    return left


def as_chats(
    pairs: Iterable[Any], tokenizer: Any, chat: bool | None = None, system: str | None = None
) -> list[Any]:
    """The pairs as conversations for the tokenizer's chat template; texts stay as they are.

    chat: True: a prompt is the user's turn and its completion the assistant's, both stripped of
    white space. None: as False, with a warning if the tokenizer has a template. system: the text of
    a system turn, added to conversations that do not begin with one.
    Raises ValueError for chat=True without a template, and for system with prompts but no chat.
    """
    pairs = list(pairs)
    plain = [not isinstance(pair, Chat | Text | Row) for pair in pairs]
    template = getattr(tokenizer, "has_chat", False)
    if chat and not template:
        raise ValueError("chat: the base's tokenizer has no chat template in ChatML")
    if system is not None and not chat and any(plain):
        raise ValueError("system: wanted chat too: a plain prompt has no system turn")
    if template and chat is None and any(plain):
        warnings.warn(
            "the base has a chat template, but the pairs are trained without it; chat=True "
            "(--chat) uses it, chat=False (--no-chat) hides this warning",
            stacklevel=4,
        )
    if chat:
        pairs = [_chat(pair) if words else pair for pair, words in zip(pairs, plain)]
    if system is None:
        return pairs
    first = {"role": "system", "content": system}
    silent = [isinstance(p, Chat) and p.messages[0]["role"] != "system" for p in pairs]
    return [Chat((first, *p.messages)) if add else p for p, add in zip(pairs, silent)]


def _chat(pair) -> Chat:
    """A prompt and its completion as two turns."""
    with errors_at(f"batches: {pair!r:.120}"):
        prompt, right = right_pair(pair)
    said = {"user": prompt, "assistant": right[0]}
    return Chat(tuple({"role": role, "content": text.strip()} for role, text in said.items()))


def _parts(pair: Pair, tokenizer: Any) -> list[tuple[str, bool]]:
    """The texts of a row, each with True if it is learned."""
    if isinstance(pair, Text):
        return [(pair.text, True)]
    if isinstance(pair, Chat):
        if not hasattr(tokenizer, "turns"):
            raise ValueError("its tokenizer has no chat template, which messages need")
        return tokenizer.turns(pair.messages)
    prompt, right = right_pair(pair)
    return [(prompt, False), (right[0], True)]


def _row(pair: Pair | Row, tokenizer: Any) -> Row:
    """ids and targets of prompt + completion + end, of a conversation, or of a text + end."""
    if isinstance(pair, Row):
        return pair
    parts: list[tuple[list[int], bool]] = []
    with errors_at(f"batches: {pair!r:.120}"):
        for text, learned in _parts(pair, tokenizer):
            ids = encode_more(tokenizer, text) if parts else tokenizer.encode(text)
            parts.append((ids, learned))
        plain = not isinstance(pair, Chat | Text)
        if plain and (not parts[0][0] or tokenizer.eos_id in parts[1][0]):
            raise ValueError("wanted a prompt, and no end token in the completion")
    if not isinstance(pair, Chat):
        parts.append(([tokenizer.eos_id], True))
    ids = [token for part, _ in parts for token in part]
    targets = [token if learned else IGNORED for part, learned in parts for token in part]
    return Row(ids[:-1], targets[1:])


def question(pair: Pair, tokenizer: Any) -> tuple[str, tuple[str, ...]]:
    """A prompt and its right completions, to score. For a chat: the text before the assistant's
    last turn, and that turn. For a text: its first 24 characters, and the rest.
    """
    if isinstance(pair, Text):
        return pair.text[:24], (pair.text[24:],)
    if not isinstance(pair, Chat):
        return right_pair(pair)
    last = max(i for i, m in enumerate(pair.messages) if m["role"] == "assistant")
    *before, _, _ = _parts(Chat(pair.messages[: last + 1]), tokenizer)
    return "".join(text for text, _ in before), (pair.messages[last]["content"],)
