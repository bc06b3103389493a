"""save_gguf: what it writes is read back, by our reader and by the tests' own second writer."""

import dataclasses

import numpy as np
import pytest
from conftest import make_llama, rel
from test_gguf import CHAT, IDS, TOKENS, llama, parts, with_tokenizer, write

import minilora as ml
from minilora.cli import main
from minilora.formats.gguf import in_q8_0, read_gguf
from minilora.formats.gguf_write import TYPES
from minilora.llama.rotation import Llama3Scaling
from minilora.text.tokenizer import WORD_LAB, CharTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*the model comes without a tokenizer")
SHAPES = {
    "tied": {},
    "own head": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    "wide heads": {"head_dim": 12, "num_key_value_heads": 1, "rope_theta": 5e5},
}


@pytest.mark.smoke
@pytest.mark.parametrize("kind, near", [("F32", 0), ("F16", 1e-3), ("Q8_0", 1e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_comes_back(tmp_path, shape, kind, near):
    fields = {"hidden_size": 32, "intermediate_size": 64, "rms_norm_eps": 1e-6, **SHAPES[shape]}
    model, path = make_llama(dtype=np.float32, **fields), tmp_path / "new" / "x.gguf"
    assert ml.save_gguf(model, path, kind) == path.stat().st_size
    back = ml.load_model(path)
    assert back.config == model.config
    for name, a in model.params.items():
        assert rel(back.params[name], a) <= (near if a.ndim > 1 else 0), name
    ml.save_gguf(back, tmp_path / "again.gguf", kind)
    twice = ml.load_model(tmp_path / "again.gguf")
    assert all(np.array_equal(twice.params[n], a) for n, a in back.params.items())


def test_names_shapes_and_order_are_those_of_the_second_writer(tmp_path):
    """The one in test_gguf.py, which shares no code with this one."""
    model = llama()
    ml.save_gguf(model, tmp_path / "mine.gguf", "F32")
    about, mine = read_gguf(tmp_path / "mine.gguf")
    wanted, theirs = read_gguf(write(tmp_path, *parts(model)))
    assert {k: about[k] for k in wanted if k.startswith("llama.")} == {
        k: v for k, v in wanted.items() if k.startswith("llama.")
    }
    assert {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
    one, other = (ml.load_model(tmp_path / name) for name in ("mine.gguf", "x.gguf"))
    assert all(np.array_equal(one.params[n], a) for n, a in other.params.items())
    assert np.array_equal(one.logits(IDS), model.logits(IDS))


def test_a_block_of_8_bits_by_hand():
    """127 steps of 0.5: a half goes away from 0; zeros stay zeros."""
    w = np.zeros((2, 32), np.float32)
    w[0, :6] = 63.5, 0.25, -0.25, 0.2, -31.75, 10
    d, q = np.split(in_q8_0(w), [2], axis=1)
    assert d.copy().view("<f2").tolist() == [[0.5], [0.0]]
    assert q.view(np.int8)[0, :6].tolist() == [127, 1, -1, 0, -64, 20]
    assert not q[1].any()


def test_rows_that_are_no_whole_blocks_are_in_16_bits(tmp_path):
    model = make_llama(dtype=np.float32, hidden_size=32, intermediate_size=48)
    ml.save_gguf(model, tmp_path / "x.gguf", "Q8_0")
    back = ml.load_model(tmp_path / "x.gguf").params
    narrow = {n: a.astype(np.float16).astype(np.float32) for n, a in model.params.items()}
    same = {name for name, a in narrow.items() if np.array_equal(back[name], a)}
    assert same == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    assert all(np.array_equal(back[n], a) for n, a in model.params.items() if a.ndim == 1)


# ---- tokenizers


@pytest.mark.parametrize("tokens", [WORD_LAB.tokens, ("<pad>", "a", "\n", " ", "é", "日")])
def test_characters_travel_with_the_model(tmp_path, tokens):
    model = make_llama(dtype=np.float32, vocab_size=len(tokens), tokenizer=CharTokenizer(tokens))
    ml.save_gguf(model, tmp_path / "x.gguf")
    assert ml.load_model(tmp_path / "x.gguf").tokenizer == model.tokenizer


def test_byte_pairs_travel_with_the_model_to_gguf(tmp_path):
    """Also where the embedding has more rows than there are tokens."""
    pytest.importorskip("tokenizers", reason="extra: smollm")
    model = make_llama(dtype=np.float32, vocab_size=len(TOKENS), hidden_size=32)
    about, tensors = parts(model)
    about = with_tokenizer(about, TOKENS) | {"tokenizer.chat_template": CHAT}
    model = ml.load_model(write(tmp_path, about, tensors))
    wide = make_llama(dtype=np.float32, vocab_size=len(TOKENS) + 3, tokenizer=model.tokenizer)
    for some in (model, wide):
        ml.save_gguf(some, tmp_path / "new.gguf")
        back = ml.load_model(tmp_path / "new.gguf")
        assert back.config == some.config
        for said in ("abcab 12<|im_end|>", "naïve"):
            assert back.tokenizer.encode(said) == model.tokenizer.encode(said)
        assert (back.tokenizer.eos_id, back.tokenizer.pad_id) == (1, 1)
        assert back.tokenizer.template == CHAT


def test_a_tokenizer_without_a_form_in_gguf_is_left_out_and_told(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="extra: smollm")
    from minilora.text.byte_pairs import BytePairTokenizer

    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model = make_llama(dtype=np.float32, tokenizer=BytePairTokenizer(inner, 0, 0))
    with pytest.warns(UserWarning, match="in another way than gpt-2, .*; the file has no") as told:
        ml.save_gguf(model, tmp_path / "x.gguf")
    assert told[0].filename == __file__
    back = ml.load_model(tmp_path / "x.gguf")
    assert back.tokenizer is None and back.config == model.config


# ---- what cannot be written


def test_what_cannot_be_written_is_told_in_a_line(tmp_path):
    model, path = llama(), tmp_path / "x.gguf"
    scaled = ml.Llama(
        dataclasses.replace(model.config, rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 16)),
        model.params,
    )
    large = {n: a.copy() for n, a in model.params.items()}
    large["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e8
    wrong = {
        "unknown type of weights 'Q4_0'.*F32, F16, Q8_0": (model, "Q4_0"),
        "save_gguf: the model has RoPE scaling": (scaled, "F32"),
        r"ffn_up\.weight in F16 has 1 of 2048 numbers not finite": (
            large := ml.Llama(model.config, large),
            "F16",
        ),
        r"ffn_up\.weight in Q8_0 has 32 of 2048 numbers not finite": (large, "Q8_0"),
    }
    for message, (given, kind) in wrong.items():
        with pytest.raises(ValueError, match=message) as caught:
            ml.save_gguf(given, path, kind)
        assert "\n" not in str(caught.value) and not path.exists()
    ml.save_gguf(large, path, "F32")


def test_merge_writes_it(tmp_path, capsys):
    model = ml.load_model("base")
    tuned = ml.attach(model, "lora", rank=4)
    for t in tuned.trained():
        t.array += 0.02
    ml.save_adapter(tuned, tmp_path / "adapter")
    line = ["merge", "--adapter", str(tmp_path / "adapter")]
    assert main(line) == 2
    assert "merge: wanted --out FOLDER, --gguf FILE or both" in capsys.readouterr().err
    path, out = tmp_path / "mine.gguf", tmp_path / "folder"
    for kind in TYPES:
        given = ["--gguf", str(path), "--gguf-type", kind, "--out", str(out)]
        assert main([*line, *given]) == 0
        assert f"LoRA merged into 8 arrays: {out}, {path}" in capsys.readouterr().out
        merged, ids = ml.load_model(path), [[6, 33, 11, 22, 21, 2]]
        assert rel(merged.logits(ids), tuned.logits(ids)) < 0.02
        assert main(["generate", "--base", str(path), "--prompt", "Dwalk>"]) == 0
        assert capsys.readouterr().out.strip() == tuned.generate_text("Dwalk>")
    assert ml.load_model(out).config == merged.config
    assert main([*line, "--gguf", str(path), "--gguf-type", "Q4_0"]) == 2
    assert "unknown type of weights 'Q4_0'" in capsys.readouterr().err


# ---- other architectures

OTHERS = {
    "mistral": {"model_type": "mistral", "sliding_window": 9},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4},
}


@pytest.mark.filterwarnings("ignore:.*every fourth, as in SmolLM3")
@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_come_back(tmp_path, kind):
    model = make_llama(dtype=np.float32, **OTHERS[kind])
    ml.save_gguf(model, tmp_path / "x.gguf", "F32")
    back = ml.load_model(tmp_path / "x.gguf")
    assert back.config == model.config
    assert all(np.array_equal(back.params[n], a) for n, a in model.params.items())


def test_layers_without_a_rotation_that_a_file_cannot_name_are_refused(tmp_path):
    model = make_llama(dtype=np.float32, model_type="smollm3", no_rope_layers=(0, 1))
    with pytest.raises(ValueError, match="save_gguf: wanted RoPE in every layer except"):
        ml.save_gguf(model, tmp_path / "x.gguf")
