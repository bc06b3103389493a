"""Tokenizers in the forms of the families' own, trained here: ids, decoding, files and GGUF."""

import itertools
import json
from pathlib import Path

import pytest

from minilora.formats.gguf_tokenizer import (
    CUTS,
    TEKKEN,
    WORDS,
    read_tokenizer,
    write_tokenizer,
)
from minilora.llama.generation import decode_more
from minilora.text.batches import batches
from minilora.text.byte_pairs import BytePairTokenizer
from minilora.text.tokenizer import ForeignTokenizer

tokenizers = pytest.importorskip("tokenizers", reason="extra: smollm")
from tokenizers import (  # noqa: E402
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The quick brown fox doesn't jump. I'LL say: it's 12345 or 3.14!",
    "naïve café, cafe\u0301 (composed or not), Ω ≈ ∑, ﬁne",
    "日本語のテキスト、中文字符，한국어 문장. Привет, мир! שלום عالم हिन्दी ไทย",
    "🙂🙃 👩‍👩‍👧‍👦 🇫🇷 emoji",
    "def f(x):\n    return {'a': x**2, \"b\": [1, 2]}  # code\n\tif x >= 0x1F: pass\r\n",
    "two  spaces, three   and a tab\t and the end  ",
    "\n\n\nlines\n\n of\n",
    "1 22 333 4444 1234567890 1,000.50 ½ ²",
    "a<|im_end|>b <|im_start|>user\nHi</s> there<s>x<think>hm</think>",
    "CamelCase XMLHttpRequest iOS McDonald's",
    "x",
    "",
]
SPACED = ["  begins with spaces", " one space", "\tone tab"]
CHATML = ["<|im_start|>", "<|im_end|>"]
MORE = ["Paris", " Paris", "12", "\n", "是", "<|im_end|>"]


def corpus():
    root = Path(__file__).parents[2]
    return [*TEXTS * 3, *(root / "README.md").read_text(encoding="utf-8").splitlines()]


def of_bytes(words, nfc=False, begins=None, whole=False, digits=False):
    """Byte pairs: Llama 3, Qwen, SmolLM3, Mistral Nemo, GPT-2."""
    inner = Tokenizer(models.BPE(ignore_merges=whole))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if words:
        steps.append(pre_tokenizers.Split(Regex(words), "isolated"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words)
    inner.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    if nfc:
        inner.normalizer = normalizers.NFC()
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", *CHATML, *([begins] if begins else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(corpus(), trainer)
    inner.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    if begins:
        inner.post_processor = template(inner, begins)
    return inner


def of_characters(spaces):
    """SentencePiece's pairs of characters, with bytes for the rest: Llama 2 and Mistral."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    ascii_only = [line for line in corpus() if line.isascii()]
    learner.train_from_iterator(
        ascii_only, trainers.BpeTrainer(vocab_size=400, show_progress=False)
    )
    pieces = [t for t, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1])]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *bytes_, *pieces])}
    merges = all_merges(vocab, {t: -i for t, i in vocab.items()})
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    inner = Tokenizer(model)
    if spaces == "prepended":
        parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        inner.normalizer = normalizers.Sequence(parts)
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)])
    inner.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    inner.post_processor = template(inner, "<s>")
    return inner


def all_merges(vocab, scores):
    """Every pair of tokens that makes a third one, that of the largest score first."""
    pairs = [(t[:i], t[i:]) for t in vocab for i in range(1, len(t)) if not t.startswith("<0x")]
    pairs = [(a, b) for a, b in pairs if a in vocab and b in vocab]
    return sorted(pairs, key=lambda pair: (-scores["".join(pair)], len(pair[0])))


def template(inner, begins):
    known = [(begins, inner.token_to_id(begins))]
    return processors.TemplateProcessing(single=[begins, "$A"], special_tokens=known)


BOS = "<|begin_of_text|>"
ONE_DIGIT = WORDS.replace("{1,3}", "")
FAMILIES = {  # form -> the tokenizer, its end token, and its name in GGUF
    "llama 3": (lambda: of_bytes(WORDS, begins=BOS, whole=True), "<|endoftext|>", "llama-bpe"),
    "qwen2": (lambda: of_bytes(ONE_DIGIT, nfc=True), "<|im_end|>", "qwen2"),
    "smollm3": (lambda: of_bytes(WORDS), "<|im_end|>", "smaug-bpe"),
    "smollm2": (lambda: of_bytes(None, digits=True), "<|im_end|>", "smollm"),
    "gpt-2": (lambda: of_bytes(None), "<|endoftext|>", "gpt-2"),
    "mistral nemo": (lambda: of_bytes(TEKKEN, begins=BOS, whole=True), "<|endoftext|>", "tekken"),
    "mistral": (lambda: of_characters("prepended"), "</s>", None),
    "mistral 0.3": (lambda: of_characters("metaspace"), "</s>", None),
}
_made: dict = {}


def made(family):
    """The family's tokenizer, trained once."""
    if family not in _made:
        _made[family] = FAMILIES[family][0]().to_str()
    return Tokenizer.from_str(_made[family])


def folder(tmp_path, family, **more):
    inner, end = made(family), FAMILIES[family][1]
    inner.save(str(tmp_path / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, **more}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    return tmp_path


each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_ids_and_texts_of_each_form(tmp_path, family):
    """The library's own, with the token that begins a text; decoding gives the text back."""
    inner = made(family)
    mine = BytePairTokenizer.load(folder(tmp_path, family))
    for text in [*TEXTS, *SPACED]:
        ids = mine.encode(text)
        assert ids == inner.encode(text).ids
        assert (ids[:1] == [mine.bos_id]) == (mine.bos_id is not None) or not ids
    begins = {"llama 3": BOS, "mistral nemo": BOS, "mistral": "<s>", "mistral 0.3": "<s>"}
    assert mine.bos_id == (inner.token_to_id(begins[family]) if family in begins else None)
    assert mine.eos_id == inner.token_to_id(FAMILIES[family][1])
    plain = [t for t in TEXTS[:8] if family != "qwen2" or "\u0301" not in t]
    assert [mine.decode(mine.encode(text)) for text in plain] == plain


@each_family
def test_a_text_goes_on_without_a_token_or_a_space(tmp_path, family):
    """The ids of both parts together stand for the text of both together."""
    mine = BytePairTokenizer.load(folder(tmp_path, family))
    ids = mine.encode("The capital is")
    for more in MORE[:-1]:
        new = mine.encode_more(more)
        assert decode_more(mine, ids, new) == more
        assert mine.decode([*ids, *new]) == "The capital is" + more
    assert mine.encode_more("<|im_end|>x")[-1:] == mine.encode_more("x")
    (row, targets), *_ = batches([("Say:", " yes")], mine, 1)
    assert row[0].tolist() == [*mine.encode("Say:"), *mine.encode_more(" yes")]
    assert targets[0, -1] == mine.eos_id


@each_family
def test_a_form_comes_back_from_its_files(tmp_path, family):
    mine = BytePairTokenizer.load(folder(tmp_path, family))
    for name, data in mine.files().items():
        (tmp_path / name).write_bytes(data)
    back = BytePairTokenizer.load(tmp_path)
    assert (back.bos_id, back.eos_id, back.pad_id) == (mine.bos_id, mine.eos_id, mine.pad_id)
    for text in [*TEXTS, *SPACED]:
        assert back.encode(text) == mine.encode(text)
        assert back.encode_more(text) == mine.encode_more(text)


def test_a_tokenizer_that_ends_every_text_is_refused(tmp_path):
    """Such a text could not be continued."""
    folder(tmp_path, "mistral")
    inner, end = made("mistral"), [("</s>", 2)]
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ForeignTokenizer, match="appends a token"):
        BytePairTokenizer.load(tmp_path)


def test_padding_and_truncation_of_a_file_are_not_for_ids(tmp_path):
    """As in transformers, where a call asks for them."""
    folder(tmp_path, "qwen2")
    inner = made("qwen2")
    inner.enable_padding(length=500)
    inner.enable_truncation(3)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert BytePairTokenizer.load(tmp_path).encode(TEXTS[0]) == made("qwen2").encode(TEXTS[0]).ids


def test_a_text_that_a_tokenizer_cannot_encode_makes_it_foreign(tmp_path):
    """Words without a token for unknown ones; a template with a token that is none."""
    config = json.dumps({"eos_token": "a"})
    (tmp_path / "tokenizer_config.json").write_text(config)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ForeignTokenizer, match="tokenizer: "):
        BytePairTokenizer.load(tmp_path)


def test_chatml_with_a_system_message_in_a_text_of_jinja(tmp_path):
    """Qwen2.5's template has the message between others that it computes, Qwen3's has none."""
    head = "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]"
    head += "['content'] + '<|im_end|>\\n' }}{%- else %}"
    own = "{{- '<|im_start|>system\\nYou help.\\nMuch<|im_end|>\\n' }}{%- endif %}"
    user = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for template, begin in (
        (head + own, "<|im_start|>system\nYou help.\nMuch<|im_end|>\n"),
        (head, ""),
    ):
        folder(tmp_path, "qwen2", chat_template=template)
        assert BytePairTokenizer.load(tmp_path).chat("Hi") == begin + user


# ---- GGUF


def metadata(family, **changes):
    """A tokenizer as a GGUF file's metadata has it."""
    inner, (_, end, cut) = made(family), FAMILIES[family]
    fields = json.loads(inner.to_str())
    vocab = inner.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    kinds = [6 if t.startswith("<0x") else 1 for t in tokens]
    for token in fields["added_tokens"]:
        kinds[token["id"]] = 3 if token["special"] else 4
    about = {"token_type": kinds, "tokens": tokens, "eos_token_id": vocab[end]}
    if cut:
        merges = [" ".join(pair) for pair in fields["model"]["merges"]]
        about |= {"model": "gpt2", "pre": cut, "merges": merges}
        about |= {"bos_token_id": vocab[BOS]} if BOS in vocab else {}
    else:
        kinds[0] = 2
        about |= {"model": "llama", "scores": [float(-i) for i in range(len(tokens))]}
        about |= {"bos_token_id": 1}
    return {f"tokenizer.ggml.{name}": value for name, value in {**about, **changes}.items()}


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mistral 0.3"])
def test_ids_of_a_gguf_file_s_tokenizer(family):
    inner, mine = made(family), read_tokenizer(metadata(family))
    for text in [*TEXTS, *SPACED]:
        assert mine.encode(text) == inner.encode(text).ids, text
        assert mine.decode(mine.encode(text)) == inner.decode(inner.encode(text).ids)
    for more in MORE:
        assert decode_more(mine, mine.encode("x"), mine.encode_more(more)) == (
            "" if more == "<|im_end|>" and family != "mistral" else more
        )


def by_scores(text, vocab, scores):
    """SentencePiece's rule: merge the neighbours whose token has the largest score, again and
    again; a character without a token becomes its bytes.
    """
    parts = list(text)
    while True:
        both = enumerate(a + b for a, b in itertools.pairwise(parts))
        pairs = [(scores[token], -i) for i, token in both if token in vocab]
        if not pairs:
            break
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [
        vocab[token]
        for part in parts
        for token in ([part] if part in vocab else [f"<0x{byte:02X}>" for byte in part.encode()])
    ]


def test_the_pair_of_the_largest_score_is_merged_first():
    """Against the rule itself, also where scores are not in the order of the ids."""
    about = metadata("mistral")
    tokens = about["tokenizer.ggml.tokens"]
    order = [(7 * i) % len(tokens) for i in range(len(tokens))]
    about["tokenizer.ggml.scores"] = [float(-n) for n in order]
    mine, vocab = read_tokenizer(about), {t: i for i, t in enumerate(tokens)}
    scores = dict(zip(tokens, about["tokenizer.ggml.scores"]))
    for text in [*TEXTS[:8], *SPACED]:
        assert mine.encode(text) == [1, *by_scores("▁" + text.replace(" ", "▁"), vocab, scores)]
    about["tokenizer.ggml.add_space_prefix"] = False
    mine = read_tokenizer(about)
    assert mine.encode("a b") == [1, *by_scores("a▁b", vocab, scores)]
    assert mine.decode(mine.encode(" a")) == " a"


def test_a_word_that_is_a_token_is_whole_in_llama_3():
    """Also where no merges lead to it."""
    about = metadata("llama 3", merges=[])
    token = about["tokenizer.ggml.tokens"].index("Ġthe")
    assert read_tokenizer(about).encode_more(" the") == [token]
    assert len(read_tokenizer({**about, "tokenizer.ggml.pre": "smaug-bpe"}).encode_more(" the")) > 1


def test_a_file_says_whether_a_text_begins_with_a_token():
    with_bos, without = (
        read_tokenizer(metadata("llama 3", add_bos_token=adds)) for adds in (True, False)
    )
    assert with_bos.bos_id is not None and without.bos_id is None
    assert with_bos.encode("x") == [with_bos.bos_id, *without.encode("x")]


def test_every_name_of_a_cut_is_read():
    assert {family[2] for family in FAMILIES.values()} - {None} <= CUTS.keys()
    for name in CUTS:
        assert read_tokenizer(metadata("gpt-2", pre=name)).encode("x")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scores": [0.0]}, "scores has 1, wanted"),
        ({"scores": "no"}, "scores is 'no', wanted a list of numbers"),
        ({"token_type": ["a"]}, "token_type is .*, wanted a list of whole numbers"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000, wanted a token's id"),
    ],
)
def test_damaged_metadata_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        read_tokenizer(metadata("mistral", **changes))


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.startswith("mistral")])
def test_metadata_that_is_written_gives_the_tokenizer_back(tmp_path, family):
    mine = BytePairTokenizer.load(folder(tmp_path, family))
    back = read_tokenizer(write_tokenizer(mine))
    assert (back.bos_id, back.eos_id, back.pad_id) == (mine.bos_id, mine.eos_id, mine.pad_id)
    assert [back.encode(text) for text in TEXTS] == [mine.encode(text) for text in TEXTS]
