"""Conversations to train on: only what the assistant says counts in the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ops.loss import IGNORED
from .tokenizer import encode_more


@dataclass(frozen=True)
class Chat:
    """A conversation: {"role": "system", "user" or "assistant", "content": text} in order."""

    messages: tuple[Mapping[str, str], ...]

    def row(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """ids and targets of the whole conversation; -100 where the assistant does not speak.

        Raises ValueError if the tokenizer has no chat template.
        """
        ids: list[int] = []
        targets: list[int] = []
        for text, counts in _turns(tokenizer, self.messages):
            part = encode_more(tokenizer, text) if ids else tokenizer.encode(text)
            ids += part
            targets += part if counts else [IGNORED] * len(part)
        return ids[:-1], targets[1:]

    def with_system(self, system: str | None) -> "Chat":
        """The same with this text of the system first, if there is one and the chat has none."""
        if system is None or self.messages[0]["role"] == "system":
            return self
        return Chat(({"role": "system", "content": system}, *self.messages))

    def pair(self, tokenizer: Any) -> tuple[str, str]:
        """The text before the assistant's last turn, and the content of this turn, for a score.

        Raises ValueError if the tokenizer has no chat template.
        """
        last = max(i for i, m in enumerate(self.messages) if m["role"] == "assistant")
        *before, _, _ = _turns(tokenizer, self.messages[: last + 1])
        return "".join(text for text, _ in before), self.messages[last]["content"]


def _turns(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
    if not hasattr(tokenizer, "turns"):
        raise ValueError("its tokenizer has no chat template, which messages need")
    return tokenizer.turns(messages)
