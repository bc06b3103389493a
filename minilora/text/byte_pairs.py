"""Text to ids and back by byte pairs, as SmolLM2 and GPT-2 have it (extra: smollm).

The pairs are merged by the tokenizers library; here stand the recipe, the ends and the chat.
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support.files import read_json, read_text
from .tokenizer import ForeignTokenizer

START, STOP = "<|im_start|>", "<|im_end|>"  # of a message: the ChatML of the chat templates
SPECIAL = 3  # tokenizer.ggml.token_type of what is no text


class BytePairTokenizer:
    """text -> ids. Any text has ids, and every id's bytes come back."""

    def __init__(self, inner: Any, eos_id: int, pad_id: int, template: str = ""):
        self._inner = inner  # a tokenizers.Tokenizer
        self.eos_id = eos_id  # ends an answer
        self.pad_id = pad_id  # fills up short rows
        self.template = template  # the chat's, in Jinja

    @classmethod
    def from_gguf(cls, about: Mapping[str, Any]) -> "BytePairTokenizer":
        """Out of a GGUF file's metadata.

        Raises ForeignTokenizer for another kind or where the library is not there, ValueError for
        metadata that is damaged.
        """
        for key, wanted in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
            if about.get(key) != wanted:
                raise ForeignTokenizer(f"{key} is {about.get(key)!r:.80}, supported is {wanted!r}")
        needed()
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = _listed(about, "tokenizer.ggml.tokens")
        merges = [tuple(pair.split(" ")) for pair in _listed(about, "tokenizer.ggml.merges")]
        kinds = about.get("tokenizer.ggml.token_type", [1] * len(tokens))
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) != len(tokens) or len(kinds) != len(tokens):
            raise ValueError(
                f"tokenizer.ggml.tokens has {len(ids)} different ones of {len(tokens)}, "
                f"token_type {len(kinds)}; wanted as many"
            )
        try:
            inner = Tokenizer(models.BPE(vocab=ids, merges=merges))
        except Exception as error:  # of no class of its own
            raise ValueError(f"tokenizer.ggml.merges: {error}") from None
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        special = [token for token, kind in zip(tokens, kinds) if kind == SPECIAL]
        inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
        eos = about.get("tokenizer.ggml.eos_token_id")
        if not (isinstance(eos, int) and 0 <= eos < len(tokens)):
            raise ValueError(f"tokenizer.ggml.eos_token_id is {eos!r:.40}, wanted a token's")
        pad = about.get("tokenizer.ggml.padding_token_id", eos)
        return cls(inner, eos, pad, about.get("tokenizer.chat_template", ""))

    @classmethod
    def load(cls, folder: str | Path) -> "BytePairTokenizer":
        """Out of tokenizer.json and tokenizer_config.json, which names the end token.

        Raises ForeignTokenizer where it is not named, or the library cannot read it or is not
        there.
        """
        folder = Path(folder)
        config = folder / "tokenizer_config.json"
        fields = read_json(config) if config.is_file() else {}
        if not fields.get("eos_token"):
            raise ForeignTokenizer(f"{config}: no eos_token")
        needed()
        from tokenizers import Tokenizer

        try:
            inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # of no class of its own
            raise ForeignTokenizer(f"{folder / 'tokenizer.json'}: {error}") from None
        eos = inner.token_to_id(_content(fields["eos_token"]))
        pad = inner.token_to_id(_content(fields.get("pad_token") or fields["eos_token"]))
        if eos is None or pad is None:
            raise ForeignTokenizer(f"{config}: its eos_token or pad_token is no token")
        beside = folder / "chat_template.jinja"
        template = read_text(beside) if beside.is_file() else fields.get("chat_template", "")
        return cls(inner, eos, pad, template if isinstance(template, str) else "")

    def files(self) -> dict[str, bytes]:
        """Name -> contents of the files that `load` and transformers read."""
        fields = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self._inner.id_to_token(self.eos_id),
            "pad_token": self._inner.id_to_token(self.pad_id),
            "clean_up_tokenization_spaces": False,
            **({"chat_template": self.template} if self.template else {}),
        }
        return {
            "tokenizer.json": self._inner.to_str(pretty=False).encode() + b"\n",
            "tokenizer_config.json": f"{json.dumps(fields, indent=1)}\n".encode(),
        }

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Text to ids; nothing is put before or after."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, special tokens left out. Raises ValueError on an id that is no token's."""
        ids = [int(i) for i in ids]
        wrong = [i for i in ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise ValueError(f"tokenizer: id {wrong[0]}, wanted 0 to {self.vocab_size - 1}")
        return self._inner.decode(ids)

    def chat(self, messages: str | Sequence[Mapping[str, str]]) -> str:
        """A conversation as text that the assistant is to continue, by the template's ChatML.

        messages: what the user says, or {"role", "content"} each; the template's own system message
        comes first where none is given. Raises ValueError for a template of another kind.
        """
        if START not in self.template or STOP not in self.template:
            raise ValueError("tokenizer: its chat template is not ChatML, or it has none")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        default = re.search(rf"{re.escape(START)}system\n(.*?){re.escape(STOP)}", self.template)
        if default and messages and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": default[1]}, *messages]
        said = (f"{START}{m['role']}\n{m['content']}{STOP}\n" for m in messages)
        return "".join(said) + f"{START}assistant\n"


def needed() -> None:
    """Raises ForeignTokenizer, saying what to install, where the library is not there."""
    if importlib.util.find_spec("tokenizers") is None:
        raise ForeignTokenizer(
            "its tokenizer needs the tokenizers library: pip install 'minilora[smollm]'"
        )


def _listed(about, key):
    found = about.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"{key} is {found!r:.80}, wanted a list of texts")
    return found


def _content(token):
    """A token of tokenizer_config.json: a text, or an object around it."""
    return str(token["content"] if isinstance(token, dict) else token)
