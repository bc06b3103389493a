"""The byte-pair tokenizer of SmolLM2 and GPT-2 (optional: pip install 'minilora[smollm]').

The tokenizers library merges the pairs. This file builds it from a model's files, and writes chats.
"""

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support.files import read_json, read_text
from .tokenizer import SPECIAL, ForeignTokenizer, gguf_about, known_ids, tokenizer_config

START, STOP = "<|im_start|>", "<|im_end|>"  # around each message of a chat (ChatML)


class BytePairTokenizer:
    """text -> ids. Every text can be encoded, and decoding gives it back."""

    def __init__(self, inner: Any, eos_id: int, pad_id: int, template: str = ""):
        self._inner = inner  # a tokenizers.Tokenizer
        self.eos_id = eos_id  # ends an answer
        self.pad_id = pad_id  # pads short rows
        self.template = template  # the chat template, in Jinja
        self._size = 1 + max(inner.get_vocab().values(), default=-1)

    @classmethod
    def from_gguf(cls, about: Mapping[str, Any]) -> "BytePairTokenizer":
        """The tokenizer in a GGUF file's metadata.

        Raises ForeignTokenizer if it is of another kind or the tokenizers library is not installed,
        ValueError if the metadata is damaged.
        """
        for key, wanted in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
            if about.get(key) != wanted:
                raise ForeignTokenizer(f"{key} is {about.get(key)!r:.80}, supported is {wanted!r}")
        needed()
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = _texts(about, "tokenizer.ggml.tokens")
        merges = [tuple(pair.split(" ")) for pair in _texts(about, "tokenizer.ggml.merges")]
        if wrong := [" ".join(merge) for merge in merges if len(merge) != 2]:
            raise ValueError(f"tokenizer.ggml.merges: {wrong[0]!r:.80} is no pair of tokens")
        kinds = about.get("tokenizer.ggml.token_type", [1] * len(tokens))
        if not isinstance(kinds, list | memoryview):
            raise ValueError(f"tokenizer.ggml.token_type is {kinds!r:.80}, wanted a list")
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) != len(tokens) or len(kinds) != len(tokens):
            raise ValueError(
                f"tokenizer.ggml.tokens has {len(ids)} different ones of {len(tokens)}, "
                f"token_type {len(kinds)}; wanted as many"
            )
        with _in_rust("tokenizer.ggml.merges"):
            inner = Tokenizer(models.BPE(vocab=ids, merges=merges))
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        inner.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
        inner.decoder = decoders.ByteLevel()
        special = [token for token, kind in zip(tokens, kinds) if kind == SPECIAL]
        with _in_rust("tokenizer.ggml.token_type"):
            added = [AddedToken(token, special=True, normalized=False) for token in special]
            inner.add_special_tokens(added)
        eos = _id(about, "tokenizer.ggml.eos_token_id", len(tokens))
        pad = _id(about, "tokenizer.ggml.padding_token_id", len(tokens), eos)
        template = about.get("tokenizer.chat_template", "")
        if not isinstance(template, str):
            raise ValueError(f"tokenizer.chat_template is {template!r:.80}, wanted a text")
        return cls(inner, eos, pad, template)

    @classmethod
    def load(cls, folder: str | Path) -> "BytePairTokenizer":
        """The tokenizer in tokenizer.json and tokenizer_config.json.

        Raises ForeignTokenizer if tokenizer_config.json names no end token, the tokenizers library
        cannot read tokenizer.json, or the library is not installed.
        """
        folder = Path(folder)
        config = folder / "tokenizer_config.json"
        fields = read_json(config) if config.is_file() else {}
        if not fields.get("eos_token"):
            raise ForeignTokenizer(f"{config}: no eos_token")
        needed()
        from tokenizers import Tokenizer

        with _in_rust(folder / "tokenizer.json", ForeignTokenizer):
            inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
        with _in_rust(config, ForeignTokenizer):  # a text that is no Unicode
            eos = _id_of(inner, fields["eos_token"])
            pad = _id_of(inner, fields.get("pad_token") or fields["eos_token"])
        if eos is None or pad is None:
            raise ForeignTokenizer(f"{config}: its eos_token or pad_token is no token")
        jinja = folder / "chat_template.jinja"
        template = read_text(jinja) if jinja.is_file() else fields.get("chat_template", "")
        return cls(inner, eos, pad, template if isinstance(template, str) else "")

    def files(self) -> dict[str, bytes]:
        """File name -> contents, for `load` and for transformers."""
        pad, end = map(self._inner.id_to_token, (self.pad_id, self.eos_id))
        more = {"chat_template": self.template} if self.template else {}
        tokenizer = self._inner.to_str(pretty=False)
        return {"tokenizer.json": f"{tokenizer}\n".encode(), **tokenizer_config(pad, end, **more)}

    def to_gguf(self) -> dict[str, Any]:
        """The metadata of a GGUF file; raises ForeignTokenizer unless `from_gguf` gives it back."""
        mine = json.loads(self._inner.to_str())
        special = {token["content"] for token in mine["added_tokens"]}
        tokens = [self._inner.id_to_token(i) or f"[PAD{i}]" for i in range(self._size)]
        merges = [" ".join(pair) for pair in mine["model"].get("merges", [])]
        about = gguf_about(self, "gpt2", tokens, special, pre="smollm", merges=merges)
        about["tokenizer.chat_template"] = self.template
        again = json.loads(BytePairTokenizer.from_gguf(about)._inner.to_str())
        parts = "normalizer", "pre_tokenizer", "added_tokens", "model"
        if any(again[part] != mine[part] for part in parts):
            raise ForeignTokenizer("the tokenizer splits words in another way than SmolLM2's")
        return about

    @property
    def vocab_size(self) -> int:
        """V: one more than the largest id."""
        return self._size

    def encode(self, text: str) -> list[int]:
        """Text to ids; no token is added. Raises ValueError for what the library refuses."""
        with _in_rust("tokenizer"):
            return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, without special tokens. Raises ValueError for an id out of range."""
        known = known_ids(ids, self.vocab_size)
        with _in_rust("tokenizer"):
            return self._inner.decode(known)

    @property
    def has_chat(self) -> bool:
        """Is its chat template ChatML, which `chat` and `turns` write?"""
        return START in self.template and STOP in self.template

    def chat(self, messages: str | Sequence[Mapping[str, str]]) -> str:
        """A conversation as one ChatML text, which the model continues with the assistant's answer.

        messages: the user's message, or a list of {"role", "content"}. If the first message is no
        system message, the template's own comes first. Raises ValueError if the template is not
        ChatML.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return "".join(text for text, _ in self.turns(messages)) + f"{START}assistant\n"

    def turns(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
        """The parts of a conversation's ChatML text, each with: does the assistant say it?

        It says the content of its turns, and the token that ends each of them. Raises ValueError as
        `chat` does.
        """
        if not self.has_chat:
            raise ValueError("tokenizer: its chat template is not ChatML, or it has none")
        default = re.search(rf"{re.escape(START)}system\n(.*?){re.escape(STOP)}", self.template)
        if default and messages and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": default[1]}, *messages]
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


def _texts(about, key):
    texts = about.get(key)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is {texts!r:.80}, wanted a list of texts")
    return texts


def _id(about, key, size, default=None):
    """The id of a token in a GGUF file's metadata; raises ValueError where it is none."""
    value = about.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
        raise ValueError(f"{key} is {value!r:.40}, wanted a token's")
    return value


def _id_of(inner, token):
    """The id of a token in tokenizer_config.json: a text, or an object with its "content".

    None if the tokenizer has no such token.
    """
    text = token.get("content") if isinstance(token, dict) else token
    return inner.token_to_id(text) if isinstance(text, str) else None


@contextlib.contextmanager
def _in_rust(place: Any, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """An error of the tokenizers library becomes a ValueError that begins with `place`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        reason = " ".join(str(error).split())
        raise kind(f"{place}: {reason[:160]}") from None
