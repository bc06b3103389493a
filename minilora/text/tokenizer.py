"""A tokenizer with one token for each character."""

import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..support.files import check_kind, read_json

PAD = "<pad>"
END = "\n"  # the token that ends an answer
BLANK = "▁"  # what SentencePiece writes for a space
TEXT, SPECIAL = 1, 3  # tokenizer.ggml.token_type of a token
ANY_CHARACTER = r"[\s\S]"  # in this regular expression "." would not match the newline


class ForeignTokenizer(ValueError):
    """A tokenizer of a kind that a class here cannot read."""


@dataclass(frozen=True)
class CharTokenizer:
    """text -> ids, one for each character. Id 0 pads short rows; the newline ends an answer."""

    tokens: tuple[str, ...]  # id -> token: "<pad>", then single characters, one of them the newline

    pad_id = 0  # pads short rows

    def __post_init__(self):
        characters = self.tokens[1:]
        if self.tokens[:1] != (PAD,) or any(len(c) != 1 for c in characters):
            raise ValueError(f"tokenizer: {self.tokens[:3]}…, wanted {PAD!r}, then characters")
        if len(set(characters)) < len(characters) or END not in characters:
            raise ValueError("tokenizer: wanted each character once, and the newline among them")

    @classmethod
    def from_characters(cls, characters: Iterable[str]) -> "CharTokenizer":
        """Ids 1, 2, … in the given order, without repeats; a missing newline gets id 1."""
        once = list(dict.fromkeys(characters))
        return cls((PAD, *([] if END in once else [END]), *once))

    @classmethod
    def load(cls, folder: str | Path) -> "CharTokenizer":
        """Read a tokenizer.json as `files` gives it.

        Raises ForeignTokenizer for another kind, ValueError for a damaged file, FileNotFoundError.
        """
        path = Path(folder) / "tokenizer.json"
        fields = read_json(path, {"model": dict})
        model = fields["model"]
        if model.get("type") != "WordLevel":
            kind = str(model.get("type"))[:40]
            raise ForeignTokenizer(f"{path}: model {kind}, wanted WordLevel of characters")
        check_kind(path, "model", model, {"vocab": {str: int}})
        vocabulary = sorted(model["vocab"].items(), key=lambda item: item[1])
        if [i for _, i in vocabulary] != list(range(len(vocabulary))):
            raise ValueError(f"{path}: the ids are not 0 to {len(vocabulary) - 1}, each once")
        try:
            tokenizer = cls(tuple(token for token, _ in vocabulary))
        except ValueError as error:
            raise ForeignTokenizer(f"{path}: {error}") from None
        written = tokenizer._tokenizer_json()
        for name in ("normalizer", "pre_tokenizer", "post_processor"):
            if fields.get(name, written[name]) != written[name]:
                raise ForeignTokenizer(
                    f"{path}: {name} is {fields[name]!r:.80}, wanted {written[name]!r:.80}"
                )
        return tokenizer

    def files(self) -> dict[str, bytes]:
        """tokenizer.json and tokenizer_config.json in Hugging Face's layout: name -> contents."""
        tokenizer = json.dumps(self._tokenizer_json(), ensure_ascii=False, indent=1)
        return {"tokenizer.json": f"{tokenizer}\n".encode(), **tokenizer_config(PAD, END)}

    @classmethod
    def from_gguf(cls, about: Mapping[str, Any]) -> "CharTokenizer":
        """The tokenizer in a GGUF file's metadata, as `to_gguf` gives it.

        Raises ForeignTokenizer for another kind.
        """
        try:
            tokens = about.get("tokenizer.ggml.tokens", [])
            return cls(tuple(token.replace(BLANK, " ") for token in tokens))
        except (TypeError, AttributeError, ValueError):
            kind = "tokenizer.ggml.model is 'llama', supported are 'gpt2' and single characters"
            raise ForeignTokenizer(kind) from None

    def to_gguf(self) -> dict[str, Any]:
        """The metadata of a GGUF file: SentencePiece's kind, with nothing to merge."""
        tokens, more = [t.replace(" ", BLANK) for t in self.tokens], {"add_space_prefix": False}
        return gguf_about(self, "llama", tokens, {PAD}, scores=[0.0] * len(tokens), **more)

    def _tokenizer_json(self) -> dict:
        pad = {"id": 0, "content": PAD, "special": True}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [pad | flags],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": ANY_CHARACTER},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            # "<unk>" has no id, so other libraries also raise an error for an unknown character
            "model": {"type": "WordLevel", "vocab": dict(self._ids), "unk_token": "<unk>"},
        }

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens, with the padding."""
        return len(self.tokens)

    @property
    def eos_id(self) -> int:
        """The id of the newline, which ends an answer."""
        return self._ids[END]

    def encode(self, text: str) -> list[int]:
        """Text to ids. Raises ValueError with every character that has no id."""
        unknown = sorted(set(text).difference(self.tokens))
        if unknown:
            raise ValueError(f"tokenizer: no token for {', '.join(map(repr, unknown))}")
        return [self._ids[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, without padding. Raises ValueError for an id out of range."""
        return "".join(self.tokens[i] for i in known_ids(ids, self.vocab_size) if i != self.pad_id)


def tokenizer_config(pad: str, end: str, **more: Any) -> dict[str, bytes]:
    """The file tokenizer_config.json, which tells transformers the padding and end tokens."""
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
        **more,
    }
    return {"tokenizer_config.json": f"{json.dumps(fields, indent=1)}\n".encode()}


def gguf_about(tokenizer: Any, model: str, tokens: list[str], special: set[str], **more) -> dict:
    """A tokenizer in a GGUF file's metadata."""
    fields = {
        "model": model,
        "tokens": tokens,
        "token_type": [SPECIAL if token in special else TEXT for token in tokens],
        "eos_token_id": tokenizer.eos_id,
        "padding_token_id": tokenizer.pad_id,
        "add_bos_token": False,
        **more,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def known_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """The ids as ints. Raises ValueError for an id out of range."""
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(f"tokenizer: id {i}, wanted 0 to {vocab_size - 1}")
    return ids


# The word lab's tokens: end, prompt mark, a tag for each task, letters, sounds without a letter.
WORD_LAB = CharTokenizer.from_characters(
    "\n>" + "SGPDNCLW" + string.ascii_lowercase + "ɑæʌɔäïɛɝɪöʊʧðʤŋʃθʒ"
)


def encode_more(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that continues another one: no token and no space is added before it."""
    return getattr(tokenizer, "encode_more", tokenizer.encode)(text)


def require_tokenizer(place: str, tokenizer: Any) -> Any:
    """The tokenizer. Raises ValueError, which begins with `place`, if it is None."""
    if tokenizer is None:
        raise ValueError(f"{place}: the model has no tokenizer to read its prompts with")
    return tokenizer
