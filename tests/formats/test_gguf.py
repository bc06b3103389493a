"""GGUF files: blocks by hand, a tiny Llama in each packing, damaged and foreign files."""

import json
import struct
import types

import numpy as np
import pytest
from conftest import make_llama, rel

import minilora as ml
from minilora.formats.gguf import PACKINGS, read_gguf
from minilora.formats.gguf_llama import INNER, OUTER, REORDERED, half_split

IDS = np.random.default_rng(5).integers(0, 29, (2, 7))
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30


def scales(packing):
    """Where the float16 numbers of a block are, in bytes."""
    return {"Q6_K": (208,), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}.get(packing.name, (0,))


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    """A value of metadata with its kind before it."""
    if isinstance(v, list):
        return struct.pack("<I", 9) + value(v[0])[:4] + len64(v) + b"".join(value(x)[4:] for x in v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    return struct.pack("<II", 4, v)


def len64(v):
    return struct.pack("<Q", len(v))


def packed(a, kind):
    """An array as a file's bytes: by rounding to the block's steps."""
    if kind in (F32, F16):
        return a.astype("<f4" if kind == F32 else "<f2").tobytes()
    if kind == BF16:
        return (a.view("<u4") >> 16).astype("<u2").tobytes()
    if kind not in (Q4_0, Q4_1, Q8_0):  # any codes: what they mean is asked of the gguf package
        packing = PACKINGS[kind]
        drawn = np.random.default_rng(a.size).integers(
            0, 256, (a.size // packing.weights, packing.nbytes)
        )
        drawn = drawn.astype(np.uint8)
        for place in scales(packing):
            drawn[:, place : place + 2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
        return drawn.tobytes()
    blocks = a.reshape(-1, 32).astype(np.float64)
    low = blocks.min(1) if kind == Q4_1 else 0 * blocks[:, 0]
    steps = {Q4_0: 7, Q4_1: 15, Q8_0: 127}[kind]
    reach = blocks.max(1) - low if kind == Q4_1 else np.abs(blocks).max(1)
    d, m = (reach / steps).astype("<f2"), low.astype("<f2")
    q = np.rint((blocks - m[:, None]) / np.where(d == 0, 1, d)[:, None].astype(float))
    out = []
    for i, row in enumerate(q):
        if kind == Q8_0:
            out.append(d[i].tobytes() + row.clip(-127, 127).astype(np.int8).tobytes())
            continue
        code = (row + (8 if kind == Q4_0 else 0)).clip(0, 15).astype(np.uint8)
        nibbles = (code[:16] | code[16:] << 4).tobytes()
        out.append(d[i].tobytes() + (m[i].tobytes() if kind == Q4_1 else b"") + nibbles)
    return b"".join(out)


def gguf(about, tensors, version=3):
    """A file's bytes.   tensors: name -> (shape, type, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(about))
    head += b"".join(text(k) + value(v) for k, v in about.items())
    body = b""
    for name, (shape, kind, data) in tensors.items():
        body += b"\0" * (-len(body) % 32)
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += text(name) + axes + struct.pack("<IQ", kind, len(body))
        body += data
    return head + b"\0" * (-len(head) % 32) + body


def llama(kind=F32):
    """A Llama whose rows are whole blocks of this kind."""
    width = 32 if PACKINGS[kind].weights <= 32 else 256
    shape = {"hidden_size": width, "intermediate_size": 64 * width // 32}
    return make_llama(dtype=np.float32, **shape, rope_theta=5e4, rms_norm_eps=1e-5)


def interleaved(w, heads):
    """The rows of q or k as llama.cpp's converter writes them: half_split the other way."""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def parts(model, kind=F32):
    """The metadata and the tensors of a model, as `gguf` takes them."""
    c, of = model.config, model.config.model_type
    about = {
        "general.architecture": of,
        f"{of}.embedding_length": c.hidden_size,
        f"{of}.feed_forward_length": c.intermediate_size,
        f"{of}.block_count": c.num_hidden_layers,
        f"{of}.attention.head_count": c.num_attention_heads,
        f"{of}.attention.head_count_kv": c.num_key_value_heads,
        f"{of}.attention.key_length": c.head_dim,
        f"{of}.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        f"{of}.rope.freq_base": c.rope_theta,
        f"{of}.context_length": c.max_position_embeddings,
        "general.languages": ["en", "fr"],
        "general.numbers": [1, 2, 3],
    }
    tensors = {}
    heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    heads = heads if REORDERED[of] else {}
    for theirs, mine in OUTER.items():
        if mine in model.params:
            tensors[theirs] = model.params[mine]
    for i in range(c.num_hidden_layers):
        for theirs, mine in INNER.items():
            for suffix in ("weight", "bias"):
                w, n = model.params.get(f"model.layers.{i}.{mine}.{suffix}"), heads.get(theirs)
                if w is not None:
                    tensors[f"blk.{i}.{theirs}.{suffix}"] = interleaved(w, n) if n else w
    kinds = {name: kind if a.ndim > 1 else F32 for name, a in tensors.items()}
    return about, {n: (a.shape, kinds[n], packed(a, kinds[n])) for n, a in tensors.items()}


def write(tmp_path, about, tensors, **how):
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(about, tensors, **how))
    return path


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """A model without a tokenizer says so; most files here have none."""


def test_blocks_by_hand():
    half = np.float16
    nibbles = bytes(range(16))  # of weight i: i low, 0 high
    q4_1 = half(0.5).tobytes() + half(-2).tobytes() + nibbles
    low = [0.5 * i - 2 for i in range(16)]
    assert PACKINGS[Q4_1].unpack(blocks(q4_1)).tolist() == [low + [-2.0] * 16]
    q4_0 = half(0.5).tobytes() + bytes(i << 4 for i in range(16))
    high = [0.5 * (i - 8) for i in range(16)]
    assert PACKINGS[Q4_0].unpack(blocks(q4_0)).tolist() == [[-4.0] * 16 + high]
    q8_0 = half(0.25).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
    assert PACKINGS[Q8_0].unpack(blocks(q8_0)).tolist() == [[0.25 * i for i in range(-16, 16)]]


def blocks(raw):
    return np.frombuffer(raw, np.uint8).reshape(1, -1)


@pytest.mark.parametrize(
    "kind, near", [(F32, 0), (F16, 1e-3), (BF16, 1e-2), (Q8_0, 1e-2), (Q4_0, 0.15), (Q4_1, 0.12)]
)
@pytest.mark.parametrize("version", [2, 3])
def test_a_model_in_every_packing(tmp_path, kind, near, version):
    model = llama()
    back = ml.load_model(write(tmp_path, *parts(model, kind), version=version))
    assert back.config == model.config and back.dtype == np.float32
    for name, a in model.params.items():
        assert rel(back.params[name], a) <= near, name
    if kind == F32:
        assert np.array_equal(back.logits(IDS), model.logits(IDS))


def test_a_head_of_its_own(tmp_path):
    model = make_llama(dtype=np.float32, tie_word_embeddings=False, num_key_value_heads=4)
    back = ml.load_model(write(tmp_path, *parts(model)))
    assert back.config == model.config and np.array_equal(back.logits(IDS), model.logits(IDS))


def test_half_split_is_undone_by_interleaving(rng):
    w = rng.standard_normal((24, 5))
    assert half_split(w, 3)[:8].tolist() == w[[0, 2, 4, 6, 1, 3, 5, 7]].tolist()
    assert np.array_equal(half_split(interleaved(w, 3), 3), w)
    assert not np.array_equal(half_split(w, 3), w)


def spoil(about, tensors, what):
    """One thing changed: metadata by name, a tensor by name (None: taken out)."""
    for key, v in what.items():
        place = tensors if key.endswith(".weight") else about
        if v is None:
            del place[key]
        else:
            place[key] = v
    return about, tensors


Q = "blk.1.attn_q.weight"
WRONG = {
    "another architecture": ({"general.architecture": "gpt2"}, "architecture is 'gpt2', wanted"),
    "no width": ({"llama.embedding_length": None}, "no llama.embedding_length in it"),
    "another width": ({"llama.embedding_length": 64}, "has shape .*, wanted .*64"),
    "scaled wavelengths": ({"llama.rope.scaling.type": "yarn"}, "type is 'yarn', supported is"),
    "a part of a head": ({"llama.rope.dimension_count": 4}, "dimension_count is 4, wanted 8"),
    "too many layers": ({"llama.block_count": 10**9}, "too few for 1000000000 layers"),
    "a layer more": ({"llama.block_count": 3}, r"no blk\.2\.attn_norm\.weight, wanted it with"),
    "a layer less": ({"llama.block_count": 1}, r"blk\.1\..* has no place in this model"),
    "no embedding": ({"token_embd.weight": None}, r"no token_embd\.weight"),
    "no tensor": ({Q: None}, r"no blk\.1\.attn_q\.weight, wanted it with shape \(32, 32\)"),
    "another shape": (
        {Q: ((16, 32), F32, b"\0" * 2048)},
        r"blk\.1\.attn_q\.weight has shape \(16, 32\), wanted \(32, 32\)",
    ),
    "a tensor more": (
        {"blk.1.attn_q_norm.weight": ((8,), F32, b"\0" * 32)},
        r"blk\.1\.attn_q_norm\.weight of shape \(8,\) has no place",
    ),
    "a wavelength more": (
        {"rope_freqs.weight": ((5,), F32, np.ones(5, "<f4").tobytes())},
        r"rope_freqs\.weight is \[1\.0, 1\.0, 1\.0, 1\.0, 1\.0\], Llama",
    ),
    "wavelengths of 0": (
        {"rope_freqs.weight": ((4,), F32, b"\0" * 16)},
        r"rope_freqs\.weight: factor is 0\.0, wanted it above 0",
    ),
    "other wavelengths": (
        {"rope_freqs.weight": ((4,), F32, np.array([1, 2, 2, 2], "<f4").tobytes())},
        r"rope_freqs\.weight is \[1\.0, 2\.0, 2\.0, 2\.0\], Llama 3's is \[1\.0, ",
    ),
    "a type of 2 bits": (
        {Q: ((32, 32), 10, b"\0" * 336)},
        r"blk\.1\.attn_q\.weight is of type 10, supported are 0 \(F32\), 1 \(F16\), 2 \(Q4_0\)",
    ),
    "a row of half a block": (
        {Q: ((64, 16), Q8_0, b"\0" * 1088)},
        "has rows of 16, Q8_0 wants multiples of 32",
    ),
    "an alignment of 0": ({"general.alignment": 0}, "general.alignment is 0, wanted"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_of_something_else_is_told_in_a_line(tmp_path, case):
    changes, message = WRONG[case]
    path = write(tmp_path, *spoil(*parts(llama()), changes))
    with pytest.raises(ValueError, match=message) as caught:
        ml.load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_off_anywhere_is_told_in_a_line(tmp_path):
    whole = gguf(*parts(llama()))
    path = tmp_path / "x.gguf"
    for size in [0, 3, 20, 24, 31, *range(40, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError) as caught:
            ml.load_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), size


LYING = {
    "magic": (b"GGML" + b"\0" * 40, "begins with b'GGML', wanted b'GGUF'"),
    "version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1, supported are 2 and 3"),
    "tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "too few for 1152921504606846976"),
    "entries": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "too few for 9223372036854775808"),
    "text": (
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40) + b"a" * 9,
        "too few for 1099511627776",
    ),
    "not text": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"\xff" * 9, "is not UTF-8"),
    "kind": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + b"\x63\0\0\0",
        "of kind 99, known",
    ),
    "nested": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1),
        "an array of kind 9, known are 0 to 8",
    ),
    "axes": (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + b"\x09\0\0\0" + b"\0" * 24,
        "has 9",
    ),
}


@pytest.mark.parametrize("case", LYING)
def test_a_header_that_lies_costs_nothing(tmp_path, case):
    raw, message = LYING[case]
    (tmp_path / "x.gguf").write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        read_gguf(tmp_path / "x.gguf")
    assert "\n" not in str(caught.value)


def test_names_that_stand_twice(tmp_path):
    """The second one would win without a word."""
    about, tensors = parts(llama())
    data = gguf(about, tensors)
    key, other = (text(name) for name in ("llama.block_count", "llama.block_coun2"))
    twice = gguf(about | {"llama.block_coun2": 1}, tensors).replace(other, key)
    for wrong, says in (
        (twice, "'llama.block_count' appears twice in the metadata"),
        (data.replace(text("blk.1.ffn_up.weight"), text("blk.0.ffn_up.weight")), "appears twice"),
    ):
        (tmp_path / "x.gguf").write_bytes(wrong)
        with pytest.raises(ValueError, match=says):
            ml.load_model(tmp_path / "x.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", PACKINGS)
def test_numbers_that_are_not_finite_are_named(tmp_path, kind, value):
    """A weight of F32 or F16, the scale of one block of the others."""
    about, tensors = parts(llama(kind), kind)
    name = "blk.1.ffn_up.weight"
    shape, kind, data = tensors[name]
    wrong = np.array(value, "<f4" if kind == F32 else "<f2").tobytes()
    if kind == BF16:
        wrong = np.array(value, "<f4").tobytes()[2:]
    place = 6 * PACKINGS[kind].nbytes + scales(PACKINGS[kind])[0]
    tensors[name] = shape, kind, data[:place] + wrong + data[place + len(wrong) :]
    with pytest.raises(ValueError, match=rf"{name} has \d+ of \d+ numbers not finite") as caught:
        ml.load_model(path := write(tmp_path, about, tensors))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("shape", [(2**40, 2**40), (0, 32)])
def test_a_tensor_of_no_or_of_endless_size(tmp_path, shape):
    about, tensors = parts(llama())
    path = write(tmp_path, about, {**tensors, Q: (shape, F32, b"")})
    with pytest.raises(ValueError, match=r"blk\.1\.attn_q"):
        ml.load_model(path)


def moved(data, name, to, by=0):
    """The file with the offset of one tensor changed: that of another one, plus some bytes."""

    def place(which):
        start = data.index(text(which)) + len(text(which))
        return start + 4 + 8 * data[start] + 4

    (offset,) = struct.unpack_from("<Q", data, place(to))
    at = place(name)
    return data[:at] + struct.pack("<Q", offset + by) + data[at + 8 :]


@pytest.mark.parametrize(
    "name, to, by, says",
    [
        (
            "blk.0.ffn_gate",
            "blk.0.ffn_up",
            0,
            "blk.0.ffn_(gate|up).weight begins inside blk.0.ffn_",
        ),
        ("blk.0.attn_q", "blk.1.attn_q", 32, "blk.0.attn_q.weight begins inside blk.1.attn_q.weig"),
        ("blk.1.ffn_up", "blk.1.ffn_up", 4, "blk.1.ffn_up.weight begins at .* multiple of 32"),
        ("blk.1.ffn_up", "blk.1.ffn_up", 2**63, "blk.1.ffn_up.weight would end at"),
    ],
)
def test_tensors_lie_apart_and_aligned(tmp_path, name, to, by, says):
    """One at another's place would be read twice, and could fill the memory from a small file."""
    data = moved(gguf(*parts(llama())), f"{name}.weight", f"{to}.weight", by)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ValueError, match=says) as caught:
        read_gguf(tmp_path / "x.gguf")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_many_tensors_at_one_place_cost_nothing(tmp_path):
    """300 matrices of 4 MB in a file of 4 MB are told before one of them is read."""
    import tracemalloc

    names = [f"blk.{i}.ffn_up.weight" for i in range(300)]
    about, size = {"general.architecture": "llama"}, 1 << 20
    one = gguf(about, dict.fromkeys(names, ((1024, 1024), F32, b"")))
    (tmp_path / "x.gguf").write_bytes(one + bytes(4 * size))
    tracemalloc.start()
    with pytest.raises(ValueError, match="begins inside"):
        ml.load_model(tmp_path / "x.gguf")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


NUMBERS_OF = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}


@pytest.mark.parametrize("kind", NUMBERS_OF)
def test_numbers_of_the_metadata_take_what_they_take_in_the_file(tmp_path, kind):
    import tracemalloc

    numbers = np.arange(1 << 20).astype(NUMBERS_OF[kind])
    key = text("a") + struct.pack("<IIQ", 9, kind, numbers.size)
    raw = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + numbers.tobytes()
    (tmp_path / "x.gguf").write_bytes(raw)
    tracemalloc.start()
    about, _ = read_gguf(tmp_path / "x.gguf")
    assert tracemalloc.get_traced_memory()[1] < 1.1 * numbers.nbytes + (1 << 16)
    tracemalloc.stop()
    assert np.array_equal(np.asarray(about["a"]), numbers)


@pytest.mark.parametrize(
    "key", ["general.architecture", "llama.rope.scaling.type", "llama.block_count"]
)
def test_numbers_where_a_text_or_a_number_belongs(tmp_path, key):
    about, tensors = parts(llama())
    with pytest.raises(ValueError, match=r"x\.gguf: ") as caught:
        ml.load_model(write(tmp_path, about | {key: [1, 2]}, tensors))
    assert "\n" not in str(caught.value)


def test_no_file():
    with pytest.raises(FileNotFoundError, match=r"nothing\.gguf: no such file"):
        ml.load_model("nothing.gguf")


# ---- tokenizers

BYTES = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]


def with_tokenizer(about, tokens, **changes):
    mine = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.token_type": [3] * 2 + [1] * (len(tokens) - 2),
        "tokenizer.ggml.eos_token_id": 1,
    }
    return about | mine | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}


TOKENS = ["<|im_start|>", "<|im_end|>", *BYTES, "ab", "abc"]
CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}…"
)


@pytest.fixture
def with_text(tmp_path):
    """A tiny model with byte pairs, from its file."""
    pytest.importorskip("tokenizers", reason="extra: smollm")
    model = make_llama(dtype=np.float32, vocab_size=len(TOKENS), hidden_size=32)
    about, tensors = parts(model)
    about = with_tokenizer(about, TOKENS) | {"tokenizer.chat_template": CHAT}
    return ml.load_model(write(tmp_path, about, tensors))


def test_byte_pairs(with_text):
    tokenizer = with_text.tokenizer
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (len(TOKENS), 1, 1)
    ids = tokenizer.encode("abcab")
    assert [TOKENS[i] for i in ids] == ["abc", "ab"]
    for said in ("", "naïve 12 — 日本\n\n\t x", "a<b"):
        assert tokenizer.decode(tokenizer.encode(said)) == said
    assert tokenizer.encode("<|im_end|>a")[0] == 1 and tokenizer.decode([1, *ids]) == "abcab"
    with pytest.raises(ValueError, match=f"id {len(TOKENS)}, wanted 0 to"):
        tokenizer.decode([len(TOKENS)])
    user = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.chat("Hi") == "<|im_start|>system\nBe kind<|im_end|>\n" + user
    both = [{"role": "system", "content": "No"}, {"role": "user", "content": "Hi"}]
    assert tokenizer.chat(both) == "<|im_start|>system\nNo<|im_end|>\n" + user


def test_byte_pairs_travel_with_the_model(with_text, tmp_path):
    """To a folder of Hugging Face's layout, and back from it."""
    ml.save_model(with_text, tmp_path / "folder")
    back = ml.load_model(tmp_path / "folder").tokenizer
    mine = with_text.tokenizer
    for said in ("abcab 12<|im_end|>", "naïve"):
        assert back.encode(said) == mine.encode(said)
    assert (back.eos_id, back.pad_id, back.chat("x")) == (1, 1, mine.chat("x"))


@pytest.mark.parametrize(
    "tokens, changes, message",
    [
        ([*TOKENS, "more"], {}, f"{len(TOKENS) + 1} tokens, token_embd.weight {len(TOKENS)}"),
        ([*TOKENS[:-1], "a"], {}, f"{len(TOKENS)} entries, {len(TOKENS) - 1} of them"),
        (TOKENS, {"chat_template": 7}, r"tokenizer\.chat_template is 7, wanted a text"),
        (TOKENS, {"token_type": [1, 1]}, "token_type 2; wanted equal numbers"),
        (TOKENS, {"eos_token_id": 10**6}, "eos_token_id is 1000000, wanted a token's id"),
        (TOKENS, {"merges": ["a é9"]}, "tokenizer.ggml.merges: "),
        (TOKENS, {"merges": ["a b", "ab"]}, "merges: 'ab' is not a pair of tokens"),
        (TOKENS, {"padding_token_id": 10**6}, "padding_token_id is 1000000, wanted a token's id"),
    ],
)
def test_a_tokenizer_that_does_not_fit(tmp_path, tokens, changes, message):
    pytest.importorskip("tokenizers", reason="extra: smollm")
    template = changes.get("chat_template", CHAT)
    model = make_llama(dtype=np.float32, vocab_size=len(TOKENS), hidden_size=32)
    about, tensors = parts(model)
    about = with_tokenizer(about, tokens, **changes) | {"tokenizer.chat_template": template}
    path = write(tmp_path, about, tensors)
    with pytest.raises(ValueError, match=message) as caught:
        ml.load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Panic(BaseException):
    """As a panic of Rust comes: no Exception."""


@pytest.mark.parametrize("call", ["encode", "decode"])
def test_a_panic_of_the_tokenizers_library_is_an_error(with_text, call):
    def panic(*_, **__):
        raise Panic("index out\nof range")

    tokenizer = with_text.tokenizer
    tokenizer._inner = types.SimpleNamespace(encode=panic, decode=panic)
    with pytest.raises(ValueError, match="tokenizer: index out of range"):
        getattr(tokenizer, call)("ab" if call == "encode" else [2])


def test_a_panic_while_a_file_is_read_leaves_a_model_without_a_tokenizer(
    with_text, tmp_path, monkeypatch
):
    import tokenizers

    def panic(*_):
        raise Panic("called `Option::unwrap()` on a `None` value")

    ml.save_model(with_text, tmp_path / "folder")
    wrong = types.SimpleNamespace(from_file=panic)
    monkeypatch.setattr(tokenizers, "Tokenizer", wrong)
    with pytest.warns(UserWarning, match="comes without a tokenizer"):
        assert ml.load_model(tmp_path / "folder").tokenizer is None


def test_an_id_beyond_the_vocabulary_is_refused(with_text, tmp_path):
    """Also where there are few tokens: it would be no row of the embedding."""
    ml.save_model(with_text, tmp_path / "folder")
    path = tmp_path / "folder" / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"]["vocab"]["abc"] = 10**6
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="the tokenizer has 1000001 tokens, the model"):
        ml.load_model(tmp_path / "folder")


@pytest.mark.parametrize("token", [7, {"content": 5}, "no token"])
def test_an_end_token_that_is_none_leaves_a_model_without_a_tokenizer(with_text, tmp_path, token):
    ml.save_model(with_text, tmp_path / "folder")
    path = tmp_path / "folder" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": token}))
    with pytest.warns(UserWarning, match="comes without a tokenizer"):
        assert ml.load_model(tmp_path / "folder").tokenizer is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pre": "bloom"}, "pre is 'bloom', supported are gpt-2, smollm, llama-bpe"),
        ({"model": "t5"}, "model is 't5', supported are gpt2, llama"),
        ({"add_eos_token": 1}, "add_eos_token is true: no text could be continued"),
    ],
)
def test_a_tokenizer_of_another_kind_leaves_a_model_without_one(tmp_path, changes, message):
    about, tensors = parts(llama())
    path = write(tmp_path, with_tokenizer(about, TOKENS, **changes), tensors)
    with pytest.warns(
        UserWarning, match=f"{message}.*the model comes without a tokenizer"
    ) as caught:
        assert ml.load_model(path).tokenizer is None
    assert caught[0].filename == __file__


def test_without_the_tokenizers_library_a_line_says_what_to_install(tmp_path, monkeypatch):
    import minilora.text.byte_pairs

    monkeypatch.setattr(minilora.text.byte_pairs.importlib.util, "find_spec", lambda name: None)
    about, tensors = parts(llama())
    path = write(tmp_path, with_tokenizer(about, TOKENS), tensors)
    with pytest.warns(UserWarning, match=r"pip install 'minilora\[smollm\]'"):
        assert ml.load_model(path).tokenizer is None
