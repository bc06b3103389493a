"""The tokenizer in a GGUF file's metadata, built with the tokenizers library.

There are two kinds. "gpt2" splits a text into words (the pre-tokenizer), and merges pairs of bytes
inside each word. "llama" is SentencePiece's: it always merges the neighbours whose joined token has
the highest score. A character without a token becomes bytes.

Source: llama.cpp's llama-vocab.cpp; the tokenizer.json of the models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..text.byte_pairs import PARTS, BytePairTokenizer, in_rust, needed
from ..text.tokenizer import TEXT, CharTokenizer, ForeignTokenizer, gguf_about

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # kinds of tokens in tokenizer.ggml.token_type
LONGEST = 256  # characters; a longer token gets no merges: a damaged file could make them slow
SPACE = "▁"  # stands for a space in the tokens of "llama"

# contractions; words, with one sign before them; digits; other signs; white space
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# words may begin with capitals; there are no contractions
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Cut:
    """How a text is split into words. Pairs are merged inside a word only."""

    words: str | None = None  # a regular expression; None: GPT-2's
    digits: bool = False  # is each digit a word of its own?
    whole: bool = False  # is a word that is a token kept whole, without merging?
    begins: bool = False  # does a text begin with BOS if the file does not say?
    composed: bool = False  # are letters and their accents composed first (NFC)? not in llama.cpp


CUTS = {  # tokenizer.ggml.pre -> how it splits
    "gpt-2": Cut(),
    "smollm": Cut(digits=True),
    "llama-bpe": Cut(WORDS, whole=True, begins=True),  # Llama 3
    "smaug-bpe": Cut(WORDS),  # SmolLM3
    "qwen2": Cut(WORDS.replace("{1,3}", ""), composed=True),  # Qwen3 too
    "tekken": Cut(TEKKEN, whole=True, begins=True),  # Mistral Nemo
}


def read_tokenizer(about: Mapping[str, Any]) -> BytePairTokenizer:
    """The tokenizer in a file's metadata.

    Raises ForeignTokenizer if it is of another kind or the tokenizers library is not installed,
    ValueError if the metadata is damaged.
    """
    kind = _known(about, "tokenizer.ggml.model", ("gpt2", "llama"))
    cut = CUTS[_known(about, "tokenizer.ggml.pre", tuple(CUTS))] if kind == "gpt2" else None
    if about.get("tokenizer.ggml.add_eos_token", False):
        raise ForeignTokenizer("tokenizer.ggml.add_eos_token is true: no text could be continued")
    needed()
    from tokenizers import AddedToken, processors

    tokens = _list(about, "tokenizer.ggml.tokens", str)
    kinds = _list(about, "tokenizer.ggml.token_type", int, [1] * len(tokens))
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens) or len(kinds) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.tokens has {len(tokens)} entries, {len(ids)} of them different, "
            f"token_type {len(kinds)}; wanted equal numbers"
        )
    inner = _bytes(about, ids, cut) if cut else _scores(about, ids, kinds)
    special = (CONTROL,) if cut else (CONTROL, UNKNOWN)
    with in_rust("tokenizer.ggml.token_type"):
        added = [
            AddedToken(token, special=of in special, normalized=False)
            for token, of in zip(tokens, kinds)
            if of in (*special, USER_DEFINED)
        ]
        inner.add_tokens(added)
    begins = "tokenizer.ggml.bos_token_id" in about and (cut is None or cut.begins)
    if about.get("tokenizer.ggml.add_bos_token", begins):
        bos = _id(about, "tokenizer.ggml.bos_token_id", len(tokens))
        inner.post_processor = processors.TemplateProcessing(
            single=[tokens[bos], "$A"], special_tokens=[(tokens[bos], bos)]
        )
    eos = _id(about, "tokenizer.ggml.eos_token_id", len(tokens))
    pad = _id(about, "tokenizer.ggml.padding_token_id", len(tokens), eos)
    template = about.get("tokenizer.chat_template", "")
    if not isinstance(template, str):
        raise ValueError(f"tokenizer.chat_template is {template!r:.80}, wanted a text")
    return BytePairTokenizer(inner, eos, pad, template)


def write_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer as metadata; raises ForeignTokenizer if reading it gives another tokenizer."""
    if isinstance(tokenizer, CharTokenizer):
        return tokenizer.to_gguf()
    mine = _form(tokenizer)
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    added = {t["content"]: CONTROL if t["special"] else USER_DEFINED for t in mine["added_tokens"]}
    more: dict[str, Any] = {"token_type": [added.get(token, TEXT) for token in tokens]}
    more["merges"] = [" ".join(pair) for pair in mine["model"].get("merges", [])]
    if tokenizer.bos_id is not None:
        more |= {"bos_token_id": tokenizer.bos_id, "add_bos_token": True}
    for cut in CUTS:
        about = gguf_about(tokenizer, "gpt2", tokens, set(), pre=cut, **more)
        about["tokenizer.chat_template"] = tokenizer.template
        if _form(read_tokenizer(about)) == mine:
            return about
    raise ForeignTokenizer(f"the tokenizer splits words in another way than {', '.join(CUTS)}")


def _form(tokenizer):
    """The parts of tokenizer.json that decide a text's ids, except the vocabulary."""
    form = tokenizer.form()
    model = {name: value for name, value in form["model"].items() if name != "vocab"}
    return {name: form[name] for name in (*PARTS, "added_tokens")} | {"model": model}


def _bytes(about, ids, cut: Cut):
    """The kind "gpt2": pairs of bytes, in the order of the file's merges."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [tuple(pair.split(" ")) for pair in _list(about, "tokenizer.ggml.merges", str)]
    if wrong := [" ".join(merge) for merge in merges if len(merge) != 2]:
        raise ValueError(f"tokenizer.ggml.merges: {wrong[0]!r:.80} is not a pair of tokens")
    with in_rust("tokenizer.ggml.merges"):
        inner = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=cut.whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if cut.digits else []
    if cut.words:
        steps.append(pre_tokenizers.Split(Regex(cut.words), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut.words))
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if cut.composed:
        inner.normalizer = normalizers.NFC()
    inner.decoder = decoders.ByteLevel()
    return inner


def _scores(about, ids, kinds):
    """The kind "llama". Each pair of tokens that joins to a third token is a merge; the merge whose
    joined token has the highest score comes first.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = _list(about, "tokenizer.ggml.scores", float)
    if len(scores) != len(ids):
        raise ValueError(f"tokenizer.ggml.scores has {len(scores)}, wanted {len(ids)}")
    merges = [
        (token[:i], token[i:])
        for token, _ in sorted(zip(ids, scores), key=lambda pair: -pair[1])
        if len(token) <= LONGEST
        for i in range(1, len(token))
        if token[:i] in ids and token[i:] in ids
    ]
    unknown = next((token for token, kind in zip(ids, kinds) if kind == UNKNOWN), None)
    with in_rust("tokenizer.ggml.tokens"):
        model = models.BPE(
            vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
        inner = Tokenizer(model)
    begins = about.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(SPACE)] if begins else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if begins else [])])
    return inner


def _known(about, key, names):
    if (value := about.get(key)) not in names:
        raise ForeignTokenizer(f"{key} is {value!r:.80}, supported are {', '.join(names)}")
    return value


def _list(about, key, kind, default=None):
    """A list in the metadata; raises ValueError unless all its values are of this kind."""
    values = about.get(key, default)
    if not isinstance(values, list | memoryview) or not all(
        isinstance(value, kind) for value in values
    ):
        wanted = {str: "texts", int: "whole numbers", float: "numbers"}[kind]
        raise ValueError(f"{key} is {values!r:.80}, wanted a list of {wanted}")
    return values


def _id(about, key, size, default=None):
    """A token's id in the metadata; raises ValueError if no token has it."""
    value = about.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
        raise ValueError(f"{key} is {value!r:.40}, wanted a token's id")
    return value
