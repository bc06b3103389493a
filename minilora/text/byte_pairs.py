"""Byte-pair tokenizers (optional: pip install 'minilora[smollm]').

The tokenizers library does the merging. This file loads tokenizer.json and writes chats.
"""

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support.files import read_json, read_text
from .tokenizer import ForeignTokenizer, known_ids, tokenizer_config

PARTS = "normalizer", "pre_tokenizer"  # of tokenizer.json: the steps before pairs are merged
START, STOP = "<|im_start|>", "<|im_end|>"  # around each message of a chat (ChatML)


class BytePairTokenizer:
    """text -> ids. Every text can be encoded, and decoding gives it back."""

    def __init__(self, inner: Any, eos_id: int, pad_id: int, template: str = ""):
        """inner: a tokenizers.Tokenizer. Raises ForeignTokenizer if it appends a token to texts."""
        with in_rust("tokenizer", ForeignTokenizer):
            inner.no_truncation()
            inner.no_padding()
            self._inner, self._more = inner, _going_on(inner)
            both = [inner.encode("x", add_special_tokens=add).ids for add in (True, False)]
        with_added, alone = both
        begin = len(with_added) - len(alone)  # the number of tokens that it adds before a text
        if with_added[begin:] != alone:
            raise ForeignTokenizer("the tokenizer appends a token, so no text could be continued")
        self.bos_id = with_added[0] if begin else None  # begins a text
        self.eos_id = eos_id  # ends an answer
        self.pad_id = pad_id  # pads short rows
        self.template = template  # the chat template, in Jinja
        self._size = 1 + max(inner.get_vocab().values(), default=-1)

    @classmethod
    def load(cls, folder: str | Path) -> "BytePairTokenizer":
        """The tokenizer in tokenizer.json and tokenizer_config.json.

        Raises ForeignTokenizer if tokenizer_config.json names no end token, a token is added after
        every text, or the tokenizers library cannot read tokenizer.json or is not installed.
        """
        folder = Path(folder)
        config = folder / "tokenizer_config.json"
        fields = read_json(config) if config.is_file() else {}
        if not fields.get("eos_token"):
            raise ForeignTokenizer(f"{config}: no eos_token")
        needed()
        from tokenizers import Tokenizer

        with in_rust(folder / "tokenizer.json", ForeignTokenizer):
            inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
        with in_rust(config, ForeignTokenizer):  # it fails for a text that is not valid Unicode
            eos = _id_of(inner, fields["eos_token"])
            pad = _id_of(inner, fields.get("pad_token") or fields["eos_token"])
            bos = _id_of(inner, fields.get("bos_token"))
            named = [inner.id_to_token(i) for i in {eos, pad, bos} - {None}]
            inner.add_special_tokens(named)
        if eos is None or pad is None:
            raise ForeignTokenizer(f"{config}: its eos_token or pad_token is not a token")
        jinja = folder / "chat_template.jinja"
        template = read_text(jinja) if jinja.is_file() else fields.get("chat_template", "")
        return cls(inner, eos, pad, template if isinstance(template, str) else "")

    def files(self) -> dict[str, bytes]:
        """File name -> contents, for `load` and for transformers."""
        pad, end = map(self._inner.id_to_token, (self.pad_id, self.eos_id))
        more = {"chat_template": self.template} if self.template else {}
        if self.bos_id is not None:
            more["bos_token"] = self._inner.id_to_token(self.bos_id)
        tokenizer = self._inner.to_str(pretty=False)
        return {"tokenizer.json": f"{tokenizer}\n".encode(), **tokenizer_config(pad, end, **more)}

    def form(self) -> dict[str, Any]:
        """The contents of tokenizer.json."""
        return json.loads(self._inner.to_str())

    def token(self, i: int) -> str:
        """The token of an id; a padding token if the id has none."""
        return self._inner.id_to_token(i) or f"[PAD{i}]"

    @property
    def vocab_size(self) -> int:
        """V: one more than the largest id."""
        return self._size

    def encode(self, text: str) -> list[int]:
        """Text to ids, beginning with bos_id if there is one. Raises ValueError for the library's
        errors.
        """
        with in_rust("tokenizer"):
            return self._inner.encode(text).ids

    def encode_more(self, text: str) -> list[int]:
        """The ids of a text that continues another one. Raises ValueError as `encode`."""
        with in_rust("tokenizer"):
            return self._more.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, without special tokens. Raises ValueError for an id out of range."""
        known = known_ids(ids, self.vocab_size)
        with in_rust("tokenizer"):
            return self._inner.decode(known)

    @property
    def has_chat(self) -> bool:
        """Is its chat template ChatML, which `chat` and `turns` write?"""
        return START in self.template and STOP in self.template

    def chat(self, messages: str | Sequence[Mapping[str, str]]) -> str:
        """A conversation as one ChatML text, which the model continues with the assistant's answer.

        messages: the user's message, or a list of {"role", "content"}. Without a system message at
        the start, the template's own is added. Raises ValueError if the template is not ChatML.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return "".join(text for text, _ in self.turns(messages)) + f"{START}assistant\n"

    def turns(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
        """The parts of a conversation's ChatML text, each with True if the assistant says it.

        The assistant says the content of its turns, and the token that ends each turn. Raises
        ValueError as `chat` does.
        """
        if not self.has_chat:
            raise ValueError("tokenizer: its chat template is not ChatML, or it has none")
        # the newline stands in the template itself, or as "\n" in one of Jinja's strings
        own = rf"{re.escape(START)}system(?:\n|\\n)([^{{}}]*?){re.escape(STOP)}"
        default = next((t for t in re.findall(own, self.template) if "messages" not in t), None)
        if default and messages and messages[0]["role"] != "system":
            system = default.replace("\\n", "\n")
            messages = [{"role": "system", "content": system}, *messages]
        return [
            part
            for m in messages
            for part in (
                (f"{START}{m['role']}\n", False),
                (f"{m['content']}{STOP}", m["role"] == "assistant"),
                ("\n", False),
            )
        ]


def needed() -> None:
    """Raises ForeignTokenizer, with the command to install it, if tokenizers is not installed."""
    if importlib.util.find_spec("tokenizers") is None:
        raise ForeignTokenizer(
            "its tokenizer needs the tokenizers library: pip install 'minilora[smollm]'"
        )


def _going_on(inner):
    """The tokenizer for a text that continues another: it adds no space before the first word."""
    parts = {name: getattr(inner, name) for name in PARTS}
    before = {name: json.loads(part.__getstate__()) for name, part in parts.items() if part}
    after = json.loads(json.dumps(before), object_hook=_without_space)
    if after == before:
        return inner
    return type(inner).from_str(json.dumps(json.loads(inner.to_str()) | after))


def _without_space(part):
    """A normaliser or pre-tokenizer of tokenizer.json, changed to add no space before a text."""
    if part.get("type") == "Prepend":
        return {"type": "Sequence", "normalizers": []}
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    return part | {name: value for name, value in changed.items() if name in part}


def _id_of(inner, token):
    """The id of a token in tokenizer_config.json: a text, or an object with its "content".

    None if the tokenizer has no such token.
    """
    text = token.get("content") if isinstance(token, dict) else token
    return inner.token_to_id(text) if isinstance(text, str) else None


@contextlib.contextmanager
def in_rust(place: Any, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """An error of the tokenizers library becomes a ValueError that begins with `place`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a Rust panic is not an Exception
        reason = " ".join(str(error).split())
        raise kind(f"{place}: {reason[:160]}") from None
