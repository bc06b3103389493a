"""Text to ids and back, one token a character."""

import json
import string
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..support.files import check_kind, read_json, write_together

PAD = "<pad>"
END = "\n"  # the end of an answer
ANY_CHARACTER = r"[\s\S]"  # a dot would leave the newline out


class ForeignTokenizer(ValueError):
    """A tokenizer.json of another kind: of byte pairs, pieces or words."""


@dataclass(frozen=True)
class CharTokenizer:
    """text -> ids, a character each. Id 0 fills up short rows, the newline ends an answer."""

    tokens: tuple[str, ...]  # id -> token: "<pad>", then single characters, the newline among them

    def __post_init__(self):
        characters = self.tokens[1:]
        if self.tokens[:1] != (PAD,) or any(len(c) != 1 for c in characters):
            raise ValueError(f"tokenizer: {self.tokens[:3]}…, wanted {PAD!r}, then characters")
        if len(set(characters)) < len(characters) or END not in characters:
            raise ValueError("tokenizer: wanted each character once, and the newline among them")

    @classmethod
    def from_characters(cls, characters: Iterable[str]) -> "CharTokenizer":
        """Ids from 1 in the order given; a repeat counts once; a missing newline comes first."""
        once = list(dict.fromkeys(characters))
        return cls((PAD, *([] if END in once else [END]), *once))

    @classmethod
    def load(cls, folder: str | Path) -> "CharTokenizer":
        """Read tokenizer.json as `save` writes it.

        Raises ForeignTokenizer on any other kind, ValueError on a damaged file, FileNotFoundError.
        """
        path = Path(folder) / "tokenizer.json"
        model = read_json(path, {"model": dict})["model"]
        if model.get("type") != "WordLevel":
            kind = str(model.get("type"))[:40]
            raise ForeignTokenizer(f"{path}: model {kind}, wanted WordLevel of characters")
        check_kind(path, "model", model, {"vocab": {str: int}})
        vocabulary = sorted(model["vocab"].items(), key=lambda item: item[1])
        if [i for _, i in vocabulary] != list(range(len(vocabulary))):
            raise ValueError(f"{path}: the ids are not 0 to {len(vocabulary) - 1}, each once")
        try:
            return cls(tuple(token for token, _ in vocabulary))
        except ValueError as error:
            raise ForeignTokenizer(f"{path}: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json in Hugging Face's layout."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_together({folder / name: data for name, data in self.files().items()})

    def files(self) -> dict[str, bytes]:
        """Name -> contents of what `save` writes."""
        records = {
            "tokenizer.json": self._tokenizer_json(),
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": PAD,
                "eos_token": END,
                "clean_up_tokenization_spaces": False,
            },
        }
        return {
            name: f"{json.dumps(record, ensure_ascii=False, indent=1)}\n".encode()
            for name, record in records.items()
        }

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
            # no such token: an unknown character is an error there as it is here
            "model": {"type": "WordLevel", "vocab": dict(self._ids), "unk_token": "<unk>"},
        }

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def vocab_size(self) -> int:
        """V, the padding included."""
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        """The id that fills up short rows."""
        return 0

    @property
    def eos_id(self) -> int:
        """The id that ends an answer: the newline's."""
        return self._ids[END]

    def encode(self, text: str) -> list[int]:
        """Text to ids. Raises ValueError naming every character that has none."""
        unknown = sorted(set(text).difference(self.tokens))
        if unknown:
            raise ValueError(f"tokenizer: no token for {', '.join(map(repr, unknown))}")
        return [self._ids[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, padding left out. Raises ValueError on an id that is no token's."""
        ids = [int(i) for i in ids]
        wrong = [i for i in ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise ValueError(f"tokenizer: id {wrong[0]}, wanted 0 to {self.vocab_size - 1}")
        return "".join(self.tokens[i] for i in ids if i != self.pad_id)


# The word lab's: end, prompt mark, a tag a task, letters, and the sounds that no letter stands for.
WORD_LAB = CharTokenizer.from_characters(
    "\n>" + "SGPDNCLW" + string.ascii_lowercase + "ɑæʌɔäïɛɝɪöʊʧðʤŋʃθʒ"
)
