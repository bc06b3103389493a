"""The byte-pair tokenizer of SmolLM2 and GPT-2 (optional: pip install 'minilora[smollm]').

The tokenizers library merges the pairs. This file builds it from a model's files, and writes chats.
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support.files import read_json, read_text
from .tokenizer import ForeignTokenizer, known_ids, tokenized, tokenizer_config

START, STOP = "<|im_start|>", "<|im_end|>"  # around each message of a chat (ChatML)
SPECIAL = 3  # tokenizer.ggml.token_type of a token that is not text


class BytePairTokenizer:
    """text -> ids. Every text can be encoded, and decoding gives it back."""

    def __init__(self, inner: Any, eos_id: int, pad_id: int, template: str = ""):
        self._inner = inner  # a tokenizers.Tokenizer
        self.eos_id = eos_id  # ends an answer
        self.pad_id = pad_id  # pads short rows
        self.template = template  # the chat template, in Jinja

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
        kinds = about.get("tokenizer.ggml.token_type", [1] * len(tokens))
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) != len(tokens) or len(kinds) != len(tokens):
            raise ValueError(
                f"tokenizer.ggml.tokens has {len(ids)} different ones of {len(tokens)}, "
                f"token_type {len(kinds)}; wanted as many"
            )
        try:
            inner = Tokenizer(models.BPE(vocab=ids, merges=merges))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"tokenizer.ggml.merges: {error}") from None
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        inner.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
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

        try:
            inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ForeignTokenizer(f"{folder / 'tokenizer.json'}: {error}") from None
        eos = inner.token_to_id(_content(fields["eos_token"]))
        pad = inner.token_to_id(_content(fields.get("pad_token") or fields["eos_token"]))
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

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens."""
        return self._inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Text to ids; no token is added before or after."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def __call__(self, text: str | Sequence[str]) -> dict[str, Any]:
        """{"input_ids": …} of a text, or of each of several: see `tokenizer.tokenized`."""
        return tokenized(self, text)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, without special tokens. Raises ValueError for an id out of range."""
        return self._inner.decode(known_ids(ids, self.vocab_size))

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
        """The parts of a conversation's ChatML text, and which of them the assistant says: the
        content of its turns, with the token that ends a turn. Raises ValueError as `chat` does.
        """
        if START not in self.template or STOP not in self.template:
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


def _content(token):
    """The text of a token in tokenizer_config.json: the value itself, or its field "content"."""
    return str(token["content"] if isinstance(token, dict) else token)
