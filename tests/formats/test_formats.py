"""Files: bases in Hugging Face's layout, adapters in PEFT's; damaged files, full disks."""

import ast
import dataclasses
import json
import os
import pickle
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import make_llama, rel

import minilora as ml
from minilora.formats.config import read_config, supported
from minilora.formats.huggingface import INDEX
from minilora.formats.safetensors import read_arrays, write_arrays
from minilora.llama.architectures import ARCHITECTURES
from minilora.llama.model import EMBED, HEAD, Llama
from minilora.llama.rotation import Llama3Scaling
from minilora.ops import nf4
from minilora.text.tokenizer import CharTokenizer, ForeignTokenizer
from minilora.tuning.peft_config import CHANGES
from minilora.tuning.storage import ABOUT, ARRAYS, CONFIG

PEFT_SHAPE = dict(
    vocab_size=128, hidden_size=64, intermediate_size=128
)  # with 4 heads on 2, 2 layers
IDS = np.random.default_rng(5).integers(0, 29, (2, 7))


def narrow(**shape):
    return make_llama(dtype=np.float32, **shape)


def trained(method, model=None, steps=4, **how):
    """An adapter in which no array is as it was drawn."""
    model = narrow() if model is None else model
    if "rank" in ml.METHODS[method].takes:
        how = {"rank": 3, **how}
    tuned = ml.attach(model, method, seed=1, **how)
    rng = np.random.default_rng(2)
    batches = [tuple(rng.integers(0, model.config.vocab_size, (2, 2, 6))) for _ in range(2)]
    ml.train(tuned, batches, steps=steps, lr=3e-2)
    return tuned


def one_line(caught):
    return "\n" not in str(caught.value)


# ---- bases


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_bit_for_bit(tmp_path, tied, dtype):
    model = make_llama(dtype=dtype, tie_word_embeddings=tied, head_dim=6, rope_theta=123.5)
    ml.save_model(model, tmp_path / "new" / "folder")
    back = ml.load_model(tmp_path / "new" / "folder")
    assert back.config == model.config and back.params.keys() == model.params.keys()
    for name, a in model.params.items():
        assert back.params[name].dtype == dtype and np.array_equal(back.params[name], a), name
    assert np.array_equal(back.logits(IDS), model.logits(IDS))
    fields = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert fields["architectures"] == ["LlamaForCausalLM"] and fields["model_type"] == "llama"
    assert fields["torch_dtype"] == np.dtype(dtype).name
    assert fields["rope_theta"] == fields["rope_parameters"]["rope_theta"] == 123.5


def test_the_tokenizer_travels_with_the_model(tmp_path):
    tokenizer = CharTokenizer.from_characters("abc")
    model = narrow(tokenizer=tokenizer)
    ml.save_model(model, tmp_path)
    assert ml.load_model(tmp_path).tokenizer.tokens == tokenizer.tokens
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["eos_token_id"] == tokenizer.eos_id and fields["pad_token_id"] == 0
    ml.save_model(narrow(vocab_size=3, tokenizer=None), tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has 5 tokens, the model 3"):
        ml.load_model(tmp_path)


def test_float16_weights_are_read_as_float32(tmp_path):
    model = narrow()
    ml.save_model(model, tmp_path)
    halves = {name: a.astype(np.float16) for name, a in model.params.items()}
    write_arrays(tmp_path / "model.safetensors", halves)
    back = ml.load_model(tmp_path)
    assert all(np.array_equal(back.params[n], a.astype(np.float32)) for n, a in halves.items())


def test_a_tied_head_and_frequencies_that_are_stored_too_are_dropped(tmp_path):
    model = narrow()
    ml.save_model(model, tmp_path)
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2) for i in range(2)}
    extra[HEAD] = model.params[EMBED]
    write_arrays(tmp_path / "model.safetensors", {**model.params, **extra})
    assert ml.load_model(tmp_path).params.keys() == model.params.keys()


def changed_config(folder, **changes):
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v != "drop"}))
    return path


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', supported is 'silu'"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling is {'factor': 2}, supported are"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling: type is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters: no factor in it"),
        ({"rope_scaling": {**LLAMA3, "factor": "8"}}, "rope_scaling: factor is '8', wanted"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4}}, "wanted it above low_freq_factor 4"),
        ({"rope_scaling": {**LLAMA3, "mscale": 1}}, "'mscale': 1.*supported are rope_type, rope_"),
        ({"rope_scaling": LLAMA3}, "rope_parameters is None, rope_scaling is Llama3Scaling"),
        ({"rope_parameters": {"type": "dynamic"}}, "rope_parameters: type is 'dynamic'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "supported are rope_type"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default', wanted an object"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta is 'big', wanted a number"),
        (
            {"rope_parameters": {"rope_theta": 5e5}},
            "rope_theta is 10000.0, rope_parameters.rope_theta is 500000.0; wanted the same",
        ),
        ({"rope_theta": True}, "rope_theta is True, wanted a number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', wanted true or false"),
        ({"hidden_size": 0}, "hidden_size is 0, wanted a whole number of at least 1"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', wanted one of llama, mistral, qwen2"),
        ({"model_type": "drop"}, "model_type is None"),
        ({"vocab_size": "drop"}, "no vocab_size in it"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"num_key_value_heads": 3}, "not a multiple of 3 key heads"),
        ({"hidden_size": 32}, "has shape"),
        ({"num_hidden_layers": 3}, "9 arrays are missing"),
        ({"num_hidden_layers": 1}, "9 arrays are not in the config"),
        ({"rope_theta": 10**400}, "rope_theta is 1000000"),
        ({"num_hidden_layers": 10**9}, "20 arrays, too few for the 1000000000 layers"),
    ],
)
def test_a_config_that_this_llama_is_not(tmp_path, changes, message):
    """The file is named too, and the answer comes at once."""
    ml.save_model(narrow(), tmp_path)
    changed_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        ml.load_model(tmp_path)
    assert one_line(caught) and str(tmp_path) in str(caught.value)


def test_what_a_config_leaves_out_is_as_in_transformers(tmp_path):
    ml.save_model(narrow(), tmp_path)
    for absent in ("drop", None):
        path = changed_config(
            tmp_path,
            rms_norm_eps=absent,
            rope_theta=absent,
            rope_parameters=absent,
            pretraining_tp=None,
            rope_scaling={"rope_type": "default", "type": "default", "factor": None},
        )
        assert read_config(path).rms_norm_eps == 1e-6 and read_config(path).rope_theta == 1e4
    rotated = changed_config(tmp_path, rope_scaling={"rope_theta": 77}, unheard="of")
    assert read_config(rotated).rope_theta == 77
    model = narrow(num_key_value_heads=4, rope_theta=500.0)
    ml.save_model(model, tmp_path)
    changed_config(tmp_path, rope_theta="drop", num_key_value_heads="drop", head_dim=None)
    assert read_config(path) == model.config  # theta from rope_parameters, as transformers 5 has it


def test_llama_3s_wavelengths_come_back(tmp_path):
    """By hand: of 16 tokens, with turns a word for T / wavelength, 4 turns stay and 1 is stretched
    by 8; what lies between is between.
    """
    scaling = Llama3Scaling(**{k: v for k, v in LLAMA3.items() if k != "rope_type"})
    turns = np.array([9.0, 4.0, 2.5, 1.0, 0.3])
    periods = 16 / (2 * np.pi * turns)
    stretched = [1, 1, 1 / (0.5 / 8 + 0.5), 8, 8]
    np.testing.assert_allclose(scaling.scale(periods) / periods, stretched, rtol=1e-14)
    model = narrow(rope_scaling=scaling, hidden_size=64)
    ml.save_model(model, tmp_path)
    back = ml.load_model(tmp_path)
    assert back.config == model.config and np.array_equal(back.logits(IDS), model.logits(IDS))
    assert rel(narrow(hidden_size=64).logits(IDS), model.logits(IDS)) > 1e-3
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["rope_scaling"] == LLAMA3
    assert fields["rope_parameters"] == {**LLAMA3, "rope_theta": 10000.0}
    changed_config(tmp_path, rope_parameters="drop")  # as transformers 4 writes it
    assert ml.load_model(tmp_path).config == model.config


# ---- shards


def sharded(folder, model, parts=3):
    """The model's folder with its arrays in several files; returns the index."""
    ml.save_model(model, folder)
    (folder / "model.safetensors").unlink()
    place = {}
    for i, name in enumerate(model.params):
        place[name] = f"model-{i % parts + 1:05}-of-{parts:05}.safetensors"
    for file in set(place.values()):
        write_arrays(folder / file, {n: model.params[n] for n in place if place[n] == file})
    index = {"metadata": {"total_size": 1}, "weight_map": place}
    (folder / INDEX).write_text(json.dumps(index))
    return index


def test_a_model_in_several_files(tmp_path):
    model = narrow()
    sharded(tmp_path, model)
    back = ml.load_model(tmp_path)
    assert back.params.keys() == model.params.keys()
    assert all(np.array_equal(back.params[n], a) for n, a in model.params.items())


def test_an_index_that_is_not_its_files(tmp_path):
    """One line names the file, the array, and what was wanted; a file outside is not touched."""
    model = narrow()
    index = sharded(tmp_path, model)
    place, first = index["weight_map"], min(model.params)
    other = next(file for file in place.values() if file != place[first])
    for changes, message in (
        ({first: other}, f"{place[first]}: holds {first}, but {INDEX} says {other}"),
        ({"more": place[first]}, f"{place[first]}: no more, but {INDEX} says it is here"),
        ({first: "../x.safetensors"}, f"{INDEX}: weight_map has '../x.safetensors', wanted a file"),
        ({first: 3}, f"{INDEX}: weight_map.{first} is 3, wanted a text"),
    ):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": {**place, **changes}}))
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            ml.load_model(tmp_path)
        assert one_line(caught) and str(tmp_path) in str(caught.value)
    (tmp_path / INDEX).write_text(json.dumps(index))
    (tmp_path / place[first]).unlink()
    with pytest.raises(FileNotFoundError, match=place[first]):
        ml.load_model(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_pickle_is_refused(tmp_path, name):
    """With the reason, before it is opened; beside a .safetensors file it does not matter."""
    tuned = trained("lora")
    ml.save_model(tuned.base, tmp_path)
    ml.save_adapter(tuned, tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps({"weight": 1}))
    assert ml.load_adapter(ml.load_model(tmp_path), tmp_path).rank == tuned.rank
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / ARRAYS).unlink()
    for load in (
        lambda: ml.load_model(tmp_path),
        lambda: ml.load_model(tmp_path / name),
        lambda: ml.load_adapter(tuned.base, tmp_path),
    ):
        with pytest.raises(ValueError, match=f"{name}: a pickle, which can run any code") as caught:
            load()
        assert one_line(caught) and "wanted .safetensors" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_are_not_finite_are_named(tmp_path, dtype, value):
    tuned = trained("lora")
    ml.save_model(tuned.base, tmp_path / "base")
    ml.save_adapter(tuned, tmp_path / "adapter")
    for path, load in (
        (tmp_path / "base" / "model.safetensors", lambda p: ml.load_model(p)),
        (tmp_path / "adapter" / ARRAYS, lambda p: ml.load_adapter(tuned.base, p)),
    ):
        arrays, about = read_arrays(path)
        name = sorted(arrays)[1]
        bad = arrays[name].astype(dtype)
        bad.flat[1] = value
        write_arrays(path, {**arrays, name: bad}, about)
        with pytest.raises(ValueError, match=f"1 of {bad.size} numbers not finite") as caught:
            load(path.parent)
        assert f"{path}: {name} has" in str(caught.value) and one_line(caught)


def test_whole_numbers_are_no_weights(tmp_path):
    """A quantised file, say: to read it as it stands would be silently wrong."""
    model = narrow()
    ml.save_model(model, tmp_path)
    codes = model.params[EMBED].astype(np.int8)
    write_arrays(tmp_path / "model.safetensors", {**model.params, EMBED: codes})
    with pytest.raises(ValueError, match=f"{EMBED} is of int8, wanted floating-point numbers"):
        ml.load_model(tmp_path)


# ---- tokenizers


FOREIGN = {
    "byte pairs": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    "byte pairs of an old file": {"vocab": {"a": 0}, "merges": []},
    "pieces": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5]]},
    "words": {"type": "WordLevel", "vocab": {"<pad>": 0, "a word": 1}},
    "characters without a newline": {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 1}},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_tokenizer_leaves_a_model_without_one(tmp_path, kind):
    model = narrow()
    ml.save_model(model, tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": FOREIGN[kind]}))
    with pytest.warns(UserWarning, match=r"tokenizer\.json: .*without a tokenizer") as caught:
        back = ml.load_model(tmp_path)
    assert back.tokenizer is None and np.array_equal(back.logits(IDS), model.logits(IDS))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "no model in it"),
        ("[]", r"it is \[\], wanted an object"),
        ('{"model": "BPE"}', "model is 'BPE', wanted an object"),
        ('{"model": {"type": "WordLevel"}}', "no model.vocab in it"),
        ('{"model": {"type": "WordLevel", "vocab": {"<pad>": true}}}', "<pad> is True, wanted"),
        ('{"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 2}}}', "ids are not 0 to 1"),
        ("{", "not JSON: "),
        ("\udcff", "line 1: not UTF-8"),
    ],
)
def test_a_damaged_tokenizer_is_told_in_a_line(tmp_path, text, message):
    ml.save_model(narrow(), tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        ml.load_model(tmp_path)
    assert one_line(caught) and f"{tmp_path / 'tokenizer.json'}: " in str(caught.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", None),
        ("post_processor", {"type": "TemplateProcessing"}),
    ],
)
def test_characters_that_are_changed_before_they_are_ids_are_another_s(tmp_path, name, value):
    """A normaliser that were passed over would give other ids than the model was trained on."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(CharTokenizer.from_characters("ab").files()["tokenizer.json"])
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(ForeignTokenizer, match=f"{name} is .*, wanted") as caught:
        CharTokenizer.load(tmp_path)
    assert one_line(caught) and str(path) in str(caught.value)


def test_every_unsupported_field_is_refused(tmp_path):
    ml.save_model(narrow(), tmp_path)
    good = (tmp_path / "config.json").read_text()
    for name in supported(ARCHITECTURES["llama"]):
        (tmp_path / "config.json").write_text(good)
        with pytest.raises(ValueError, match=f"{name} is 'other'"):
            read_config(changed_config(tmp_path, **{name: "other"}))


def model_and_adapter(folder):
    """Both in one folder -> the two ways to load from it."""
    tuned = trained("lora")
    ml.save_model(tuned.base, folder)
    ml.save_adapter(tuned, folder)
    return lambda: ml.load_model(folder), lambda: ml.load_adapter(tuned.base, folder)


@pytest.mark.parametrize("which, name", [(0, "config.json"), (1, CONFIG)])
@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\udcff"])
def test_a_config_that_is_no_json_object(tmp_path, text, which, name):
    load = model_and_adapter(tmp_path)[which]
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{name}: ") as caught:
        load()
    assert one_line(caught)


FILES = [(0, "config.json"), (0, "model.safetensors"), (1, CONFIG), (1, ARRAYS)]


@pytest.mark.parametrize("which, lacking", FILES)
def test_a_folder_that_lacks_a_file(tmp_path, which, lacking):
    load = model_and_adapter(tmp_path)[which]
    (tmp_path / lacking).unlink()
    with pytest.raises(FileNotFoundError, match=lacking):
        load()
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; wanted 'base' or"):
        ml.load_model("nowhere")


# ---- damaged and foreign files


def with_header(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


DAMAGED = {
    "empty": b"",
    "seven bytes": b"1234567",
    "text": b"These are not the weights that you are looking for.\n" * 5,
    "pickle": pickle.dumps({"weight": np.arange(50.0)}),
    "zip": b"PK\x03\x04" + b"\0" * 200,
    "header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "header of 2**64 - 1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header that is no JSON": with_header(b"{'a': 1}"),
    "header that is a list": with_header([1, 2]),
    "header without offsets": with_header({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "deep header": with_header(b"[" * 100_000),
    "data cut off": with_header({"a": entry()}, b"\0" * 7),
    "offsets beyond the end": with_header({"a": entry(offsets=(0, 1 << 40))}, b"\0" * 8),
    "shape that is too large": with_header({"a": entry(shape=(2**40, 2**40))}, b"\0" * 8),
    "unknown type": with_header({"a": entry(dtype="F33")}, b"\0" * 8),
    "offset of another kind": with_header({"a": entry(offsets=("0", "8"))}, b"\0" * 8),
    "number as an entry": with_header({"a": 5}, b"\0" * 8),
    "number as metadata": with_header({"__metadata__": 5, "a": entry()}, b"\0" * 8),
    "type that NumPy lacks": with_header({"a": entry(dtype="F8_E4M3", shape=(8,))}, b"\0" * 8),
    "two arrays in one place": with_header({"a": entry(), "b": entry()}, b"\0" * 8),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_safetensors(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(ValueError, match="not a whole safetensors file") as caught:
        read_arrays(path)
    assert one_line(caught) and str(path) in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.smoke
def test_a_truncated_model_says_what_is_there(tmp_path):
    ml.save_model(narrow(), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for size in (5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{size} bytes") as caught:
            ml.load_model(tmp_path)
        assert one_line(caught)


def test_bfloat16_is_read_as_float32(tmp_path):
    """By hand: 1, -2, the smallest step above 1, an infinity; beside an array of another type and
    one more in bfloat16.
    """
    upper = np.array([0x3F80, 0xC000, 0x3F81, 0x7F80, 0x4000], "<u2")
    header = {"a": entry("BF16", (2, 2), (8, 16)), "b": entry("F32", (2,), (0, 8))}
    header["c"] = entry("BF16", (1,), (16, 18))
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header, np.array([3, 4], "<f4").tobytes() + upper.tobytes()))
    arrays, _ = read_arrays(path)
    assert arrays["c"].tolist() == [2]
    assert arrays["a"].dtype == np.float32 and arrays["b"].tolist() == [3, 4]
    assert arrays["a"].tolist() == [[1, -2], [1 + 2**-7, np.inf]]


# ---- a kill or a full disk while saving


@pytest.mark.smoke
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_files(tmp_path, monkeypatch, step):
    old, new = trained("lora"), trained("lora", steps=6)
    ml.save_model(old.base, tmp_path)
    ml.save_adapter(old, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    for save in (
        lambda: ml.save_model(make_llama(7), tmp_path),
        lambda: ml.save_adapter(new, tmp_path),
    ):
        with pytest.raises(OSError, match=f"No space left.*{tmp_path}"):
            save()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert np.array_equal(ml.load_adapter(old.base, tmp_path).logits(IDS), old.logits(IDS))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_disk_that_fills_up_on_the_way_leaves_the_old_files(tmp_path, monkeypatch, steps):
    """The arrays are written and the config no more: neither takes the old one's place."""
    old, new = trained("lora"), trained("lora", rank=5)
    ml.save_adapter(old, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    left, fsync = [steps], os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ml.save_adapter(new, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


CHANGED_SETTINGS = {
    "rank": ("lora", {"rank": 5}, "r is 3, but adapter_model.safetensors was saved with 5"),
    "alpha": ("lora", {"alpha": 7.5}, "lora_alpha is 6, but .* with 7.5"),
    "scaling": ("lora", {"rank_stabilized": True}, "use_rslora is False, but .* with True"),
    "dropout": ("lora", {"dropout": 0.1}, "lora_dropout is 0.0, but .* with 0.1"),
    "targets": ("lora", {"targets": ("k_proj",)}, "target_modules is .*but .* with .'k_proj'"),
    "method": ("vera", {}, "peft_type is 'LORA', but .* with 'VERA'"),
    "whole weights": ("full", {}, "peft_type is 'LORA', but .* with 'FULL'"),
    "key": ("vera", {"projection_prng_key": 9}, "projection_prng_key is 0, but .* with 9"),
}


@pytest.mark.parametrize("kind", CHANGED_SETTINGS)
def test_an_old_config_with_new_arrays_is_refused(tmp_path, kind):
    """What a kill between the two renamings leaves behind."""
    method, settings, message = CHANGED_SETTINGS[kind]
    old = trained("vera" if kind == "key" else "lora")
    ml.save_adapter(old, tmp_path)
    config = (tmp_path / CONFIG).read_bytes()
    ml.save_adapter(trained(method, **settings), tmp_path)
    (tmp_path / CONFIG).write_bytes(config)
    with pytest.raises(ValueError, match=f"{message}.*: files of two adapters") as caught:
        ml.load_adapter(old.base, tmp_path)
    assert one_line(caught) and str(tmp_path / CONFIG) in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON: "),
        ('{"method": ["lora"], "options": {}}', r"method is \['lora'\], wanted a text"),
        ('{"method": "lora", "options": {}, "config": []}', r"config is \[\], wanted an object"),
    ],
)
def test_metadata_that_this_library_did_not_write(tmp_path, text, message):
    tuned = trained("lora")
    ml.save_adapter(tuned, tmp_path)
    arrays, _ = read_arrays(tmp_path / ARRAYS)
    write_arrays(tmp_path / ARRAYS, arrays, {"minilora": text})
    with pytest.raises(ValueError, match=message) as caught:
        ml.load_adapter(tuned.base, tmp_path)
    assert one_line(caught) and f"{tmp_path / ARRAYS}: " in str(caught.value)


# ---- adapters


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ml.METHODS)
def test_an_adapter_comes_back(tmp_path, method, dtype):
    model = make_llama(dtype=dtype)
    before = {k: a.copy() for k, a in model.params.items()}
    tuned = trained(method, model)
    nbytes = ml.save_adapter(tuned, tmp_path)
    assert nbytes == (tmp_path / ARRAYS).stat().st_size
    back = ml.load_adapter(model, tmp_path)
    assert back.method == method
    assert rel(model.logits(IDS), tuned.logits(IDS)) > 1e-3  # it does something
    assert rel(back.logits(IDS), tuned.logits(IDS)) < (1e-6 if dtype == np.float32 else 1e-13)
    assert rel(ml.merge(back).logits(IDS), tuned.logits(IDS)) < (
        1e-5 if dtype == np.float32 else 1e-13
    )
    assert all(np.array_equal(model.params[k], a) for k, a in before.items())


@pytest.mark.parametrize("alpha", [7, 0.1, 5.3, -2, 1e300])
@pytest.mark.parametrize("stabilized", [True, False])
def test_alpha_comes_back_as_it_was_given(tmp_path, stabilized, alpha):
    tuned = ml.attach(make_llama(), "lora", rank=3, alpha=alpha, rank_stabilized=stabilized)
    ml.save_adapter(tuned, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["lora_alpha"] == alpha and config["use_rslora"] is stabilized
    back = ml.load_adapter(tuned.base, tmp_path)
    assert back.alpha == alpha and back.options == tuned.options
    for layer, arguments in tuned.layers.items():
        assert back.layers[layer]["s"] == arguments["s"]


@pytest.mark.parametrize("method", ml.METHODS)
def test_a_loaded_adapter_trains_on_as_what_it_was(tmp_path, method):
    """The same technique, options, targets, ranks, alphas and arrays; then the same steps."""
    own = {"lora": {"rank_stabilized": True}, "lora_plus": {"ratio": 4.0}}
    own["lora_fa"] = {"corrected": True, "rank_stabilized": True}
    own["delta_lora"] = {"update_ratio": 0.7, "start_step": 1}
    own["vera"] = {"d_initial": 0.3, "projection_prng_key": 2**32 + 5}
    how = own.get(method, {})
    if "targets" in ml.METHODS[method].takes:
        how["targets"] = ("down_proj", "v_proj", "model.layers.1.self_attn.q_proj")
    if "alpha" in ml.METHODS[method].takes:
        how |= {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 11.0}}
    tuned = trained(method, **how)
    ml.save_adapter(tuned, tmp_path)
    back = ml.load_adapter(tuned.base, tmp_path)
    assert (back.method, back.options) == (method, tuned.options)
    assert (back.rank, back.alpha) == (tuned.rank, tuned.alpha)
    assert (back.rank_pattern, back.alpha_pattern) == (tuned.rank_pattern, tuned.alpha_pattern)
    assert back.arrays.keys() == tuned.arrays.keys()
    for key, a in tuned.arrays.items():
        assert back.arrays[key].dtype == np.float32 and rel(back.arrays[key], a) < 1e-6, key
    for each in (tuned, back):
        ml.train(each, [(IDS, IDS)], steps=3, lr=1e-2)
    assert all(rel(back.arrays[key], a) < 1e-5 for key, a in tuned.arrays.items())


def test_delta_lora_whose_b_is_not_in_its_file(tmp_path):
    """λ = -1: the product that PEFT reads has lost B; what was learned is there as a LoRA."""
    tuned = trained("delta_lora", update_ratio=-1.0)
    ml.save_adapter(tuned, tmp_path)
    with pytest.raises(ValueError, match=r"update_ratio is -1.* checkpoint .*method='lora'") as e:
        ml.load_adapter(tuned.base, tmp_path)
    assert one_line(e) and str(tmp_path / ARRAYS) in str(e.value)
    back = ml.load_adapter(tuned.base, tmp_path, "lora")
    assert rel(back.logits(IDS), tuned.logits(IDS)) < 1e-6
    ml.save_adapter(trained("delta_lora", update_ratio=1.5), tmp_path)
    with pytest.raises(ValueError, match="update_ratio is settled by the adapter's own files"):
        ml.load_adapter(tuned.base, tmp_path, update_ratio=2.0)


def test_a_saved_technique_that_is_unknown_here_is_told(tmp_path):
    mine = dataclasses.replace(ml.METHODS["lora_plus"], name="mine")
    tuned = ml.attach(narrow(), mine, rank=3, ratio=5.0)
    ml.save_adapter(tuned, tmp_path)
    with pytest.warns(UserWarning, match="saved by a technique of your own") as caught:
        assert ml.load_adapter(tuned.base, tmp_path).method == "lora"
    assert caught[0].filename == __file__
    assert ml.load_adapter(tuned.base, tmp_path, mine).options["ratio"] == 5.0


@pytest.mark.smoke
def test_vera_without_its_projections(tmp_path):
    """The key draws A and B again: the same logits to the bit, from a far smaller file."""
    tuned = trained("vera", rank=64, projection_prng_key=7)
    large = ml.save_adapter(tuned, tmp_path / "with")
    small = ml.save_adapter(tuned, tmp_path / "without", save_projection=False)
    arrays, _ = read_arrays(tmp_path / "without" / ARRAYS)
    assert small < large / 3 and not any("vera_A" in k or "vera_B" in k for k in arrays)
    for folder in ("with", "without"):
        back = ml.load_adapter(tuned.base, tmp_path / folder)
        assert np.array_equal(back.logits(IDS), tuned.logits(IDS))


def test_vera_whose_promised_projections_are_missing(tmp_path):
    tuned = trained("vera")
    ml.save_adapter(tuned, tmp_path, save_projection=False)
    changed(tmp_path, save_projection=True)
    with pytest.raises(ValueError, match=r"2 arrays are missing, the first is base_model\.vera_A"):
        ml.load_adapter(tuned.base, tmp_path)


@pytest.mark.parametrize("stabilized", [True, False])
@pytest.mark.parametrize("start_step, rank", [(0, 3), (2, 6)])
def test_delta_lora_is_stored_as_a_lora_of_twice_the_rank(tmp_path, start_step, rank, stabilized):
    """On the untouched base it does what the moved weight did. Where W moved from the first step, B
    was 0 then: half of the columns of twice the rank would be zeros, and are not stored.
    """
    how = {"start_step": start_step, "update_ratio": 1.7, "rank_stabilized": stabilized}
    tuned = trained("delta_lora", make_llama(), steps=6, **how)
    assert any(
        rel(a["W"], tuned.base.params[f"{n}.weight"]) > 1e-3 for n, a in tuned.layers.items()
    )
    ml.save_adapter(tuned, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["r"] == rank and config["peft_type"] == "LORA"
    times = rank // 3
    assert config["lora_alpha"] == pytest.approx(6 * (times**0.5 if stabilized else times))
    assert ml.load_adapter(tuned.base, tmp_path).method == "delta_lora"
    back = ml.load_adapter(tuned.base, tmp_path, "lora")  # as PEFT reads it
    assert back.rank == rank
    assert all(a["B"].any(axis=0).all() for a in back.layers.values())
    assert rel(back.logits(IDS), tuned.logits(IDS)) < 1e-13


def test_delta_lora_before_it_moves_is_stored_as_it_is(tmp_path):
    tuned = trained("delta_lora", start_step=100)
    ml.save_adapter(tuned, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["r"] == 3
    assert np.array_equal(ml.load_adapter(tuned.base, tmp_path).logits(IDS), tuned.logits(IDS))


def test_method_says_who_trains_on(tmp_path):
    tuned = trained("lora")
    ml.save_adapter(tuned, tmp_path)
    loras = [
        m for m, r in ml.METHODS.items() if r.peft and r.peft.type == "LORA" and not r.peft.claims
    ]
    assert {"lora", "lora_fa", "lora_plus", "delta_lora"} <= set(loras)
    for method in loras:
        back = ml.load_adapter(tuned.base, tmp_path, method=method)
        assert back.method == method and np.array_equal(back.logits(IDS), tuned.logits(IDS))
        ml.train(back, [(IDS, IDS)], steps=1, lr=1e-3)
        moved = {k for k, a in back.arrays.items() if not np.array_equal(a, tuned.arrays.get(k))}
        assert set(back.trainable) <= moved  # and it trains what this method trains
    assert ml.load_adapter(tuned.base, tmp_path, "lora_plus", ratio=4.0).options["ratio"] == 4.0
    ml.save_adapter(trained("full"), tmp_path / "whole")
    for method, folder, message in (
        ("vera", "", "stored as LORA, which vera cannot read; wanted one of lora, lora_fa"),
        ("full", "", "stored as LORA, which full cannot"),
        ("lorra", "", "unknown method 'lorra'; did you mean"),
        ("lora", "whole", "stored as whole weights, which lora cannot read"),
    ):
        with pytest.raises(ValueError, match=message):
            ml.load_adapter(tuned.base, tmp_path / folder, method=method)


# PEFT 0.21.2's own listings for 2 layers, width 64, 4 heads on 2, targets q_proj and v_proj
LORA_KEYS = {
    "q_proj": {"lora_A": (4, 64), "lora_B": (64, 4)},
    "v_proj": {"lora_A": (4, 64), "lora_B": (32, 4)},
}
VERA_KEYS = {
    "q_proj": {"vera_lambda_b": (64,), "vera_lambda_d": (8,)},
    "v_proj": {"vera_lambda_b": (32,), "vera_lambda_d": (8,)},
}


def listing(keys, suffix):
    return {
        f"base_model.model.model.layers.{i}.self_attn.{linear}.{name}{suffix}": shape
        for i in range(2)
        for linear, names in keys.items()
        for name, shape in names.items()
    }


@pytest.mark.parametrize("method", ["lora", "lora_fa", "lora_plus", "delta_lora"])
def test_lora_on_disk_is_peft_s(tmp_path, method):
    tuned = ml.attach(narrow(**PEFT_SHAPE), method, rank=4, alpha=8)
    ml.save_adapter(tuned, tmp_path)
    arrays, about = read_arrays(tmp_path / ARRAYS)
    assert {k: a.shape for k, a in arrays.items()} == listing(LORA_KEYS, ".weight")
    assert about["format"] == "pt" and {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    assert json.loads((tmp_path / CONFIG).read_text()) == {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def test_the_name_of_the_base_is_written_and_outlives_a_loading(tmp_path):
    tuned = ml.attach(narrow(**PEFT_SHAPE), "lora", rank=4)
    ml.save_adapter(tuned, tmp_path, base_name="someone/base")
    again = ml.load_adapter(tuned.base, tmp_path)
    for base_name, wanted in ((None, "someone/base"), (Path("my") / "base", str(Path("my/base")))):
        ml.save_adapter(again, tmp_path, base_name)
        config = json.loads((tmp_path / CONFIG).read_text())
        assert config["base_model_name_or_path"] == wanted


@pytest.mark.parametrize("saved", [True, False])
def test_vera_on_disk_is_peft_s(tmp_path, saved):
    tuned = ml.attach(narrow(**PEFT_SHAPE), "vera", rank=8, projection_prng_key=3)
    ml.save_adapter(tuned, tmp_path, save_projection=saved)
    arrays, _ = read_arrays(tmp_path / ARRAYS)
    wanted = listing(VERA_KEYS, "")
    if saved:
        wanted |= {"base_model.vera_A": (8, 64), "base_model.vera_B": (64, 8)}
    assert {k: a.shape for k, a in arrays.items()} == wanted
    assert json.loads((tmp_path / CONFIG).read_text()) == {
        "base_model_name_or_path": None,
        "bias": "none",
        "d_initial": 0.1,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_weights": True,
        "peft_type": "VERA",
        "projection_prng_key": 3,
        "r": 8,
        "save_projection": saved,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "vera_dropout": 0.0,
    }


def changed(folder, **changes):
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**fields, **changes}))


def test_a_folder_written_by_peft(tmp_path):
    """Its config has thirty more fields, null or neutral; rank-stabilised scaling is alpha / √r."""
    rng = np.random.default_rng(0)
    model = narrow(**PEFT_SHAPE)
    arrays = {
        k: rng.standard_normal(shape).astype(np.float32) * 0.3
        for k, shape in listing(LORA_KEYS, ".weight").items()
    }
    write_arrays(tmp_path / ARRAYS, arrays)
    neutral = dict.fromkeys(
        ("eva_config", "layers_pattern", "modules_to_save", "revision", "use_qalora")
    )
    fields = {
        **neutral,
        "alpha_pattern": {},
        "loftq_config": {},
        "megatron_core": "megatron.core",
        "peft_version": "0.21.2",
        "rank_pattern": {},
        "use_dora": False,
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "use_rslora": True,
        "target_modules": ["v_proj", "q_proj"],
    }
    (tmp_path / CONFIG).write_text(json.dumps(fields))
    tuned = ml.load_adapter(model, tmp_path)
    assert tuned.options["dropout"] == 0.05 and tuned.options["rank_stabilized"]
    layer = "model.layers.1.self_attn.v_proj"
    A, B = (arrays[f"base_model.model.{layer}.lora_{x}.weight"].astype(np.float64) for x in "AB")
    assert rel(tuned.delta(layer), 8 / 2 * B @ A) < 1e-6
    params = {
        k: a + tuned.delta(k.removesuffix(".weight")).astype(np.float32)
        if "q_proj" in k or "v_proj" in k
        else a
        for k, a in model.params.items()
    }
    assert rel(tuned.logits(IDS), Llama(model.config, params).logits(IDS)) < 1e-5


PATTERNS = {
    "rank_pattern": {"v_proj": 5, r"layers\.1\.self_attn\.q_proj": 2, "q_proj": 4},
    "alpha_pattern": {"model.layers.0.self_attn.v_proj": 10},
}


@pytest.mark.parametrize("stabilized", [True, False])
@pytest.mark.parametrize("method", ["lora", "lora_fa", "lora_plus", "delta_lora"])
def test_ranks_and_alphas_of_single_layers_come_back(tmp_path, method, stabilized):
    """The first pattern that a name matches counts, in memory and on disk."""
    tuned = trained(method, rank=3, alpha=6, rank_stabilized=stabilized, **PATTERNS)
    ranks, scalings = {}, {}
    for layer, a in tuned.layers.items():
        ranks[layer.replace("model.layers.", "")], scalings[layer] = len(a["A"]), a["s"]
    assert list(ranks.values()) == [4, 5, 2, 5]
    alphas = [6, 10, 6, 6]
    roots = [r**0.5 if stabilized else r for r in ranks.values()]
    assert list(scalings.values()) == pytest.approx([a / r for a, r in zip(alphas, roots)])
    ml.save_adapter(tuned, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert list(config["rank_pattern"]) == list(PATTERNS["rank_pattern"])
    back = ml.load_adapter(tuned.base, tmp_path)
    assert rel(back.logits(IDS), tuned.logits(IDS)) < 1e-6
    assert {n: a["s"] for n, a in back.layers.items()} == pytest.approx(scalings)
    if not tuned.record.owns_weight:
        assert (back.rank_pattern, back.alpha_pattern) == tuple(PATTERNS.values())
    assert ml.ledger(tuned, 2, 6)["weights"] == ml.measure(tuned, 2, 6)["weights"]


def test_a_pattern_of_no_adapted_layer_is_passed_over_in_a_folder(tmp_path):
    """As PEFT does; attach, which has a person before it, refuses it."""
    tuned = trained("lora")
    ml.save_adapter(tuned, tmp_path)
    of_peft(tmp_path, rank_pattern={"fc1": 9}, alpha_pattern={"k_proj": 2.5})
    back = ml.load_adapter(tuned.base, tmp_path)
    assert (back.rank_pattern, back.alpha_pattern) == ({}, {})
    assert np.array_equal(back.logits(IDS), tuned.logits(IDS))


@pytest.mark.parametrize(
    "method, patterns, message",
    [
        ("lora", {"rank_pattern": {"v_prj": 2}}, "'v_prj' matches no adapted layer; adapted are"),
        ("lora", {"rank_pattern": {"v_proj": 0}}, "rank_pattern: v_proj is 0, wanted a whole"),
        ("lora", {"alpha_pattern": {"v_proj": 0}}, "alpha is 0, wanted a finite number"),
        ("lora", {"alpha_pattern": {"(": 1}}, "pattern '.': no regular expression"),
        ("lora", {"alpha_pattern": [{}]}, r"alpha_pattern is \[\{\}\], wanted \{name of a layer"),
        ("lora", {"rank_pattern": {5: 5}}, r"rank_pattern is \{5: 5\}, wanted \{name of a layer"),
        ("vera", {"rank_pattern": {"v_proj": 2}}, "vera: takes no rank_pattern"),
        ("full", {"alpha_pattern": {"v_proj": 2}}, "full: takes no alpha_pattern"),
    ],
)
def test_patterns_that_attach_refuses(method, patterns, message):
    with pytest.raises(ValueError, match=message) as caught:
        ml.attach(narrow(), method, **patterns)
    assert one_line(caught)


def test_a_field_of_a_newer_peft_is_told_of_where_it_is_set(tmp_path):
    tuned = trained("lora")
    ml.save_adapter(tuned, tmp_path)
    of_peft(tmp_path, use_newest=False, newest_config={}, newest_scale=None)
    ml.load_adapter(tuned.base, tmp_path)
    of_peft(tmp_path, newest_scale=2)
    said = "newest_scale is 2: unknown here, assumed to change nothing"
    with pytest.warns(UserWarning, match=said) as caught:
        back = ml.load_adapter(tuned.base, tmp_path)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert np.array_equal(back.logits(IDS), tuned.logits(IDS))


def test_arrays_that_do_not_fit_are_named(tmp_path):
    tuned = trained("lora")
    ml.save_adapter(tuned, tmp_path)
    arrays, _ = read_arrays(tmp_path / ARRAYS)
    first = min(arrays)
    for other, message in (
        (
            {k: a for k, a in arrays.items() if k != first},
            f"1 arrays are missing, the first is {first}",
        ),
        (
            {**arrays, "more": arrays[first]},
            "1 arrays have no place in this base, the first is more",
        ),
        (
            {**arrays, first: arrays[first].T},
            rf"{first} has shape \(16, 3\), this base wants \(3, 16\)",
        ),
    ):
        write_arrays(tmp_path / ARRAYS, other)
        with pytest.raises(ValueError, match=message) as caught:
            ml.load_adapter(tuned.base, tmp_path)
        assert one_line(caught)


@pytest.mark.parametrize(
    "changes, message",
    [
        *(
            ({name: ["something"]}, f"{name} is .*: not supported, it changes")
            for name in CHANGES
            if name != "use_dora"
        ),
        ({"use_dora": ["yes"]}, "use_dora is .*, wanted true or false"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', supported are LORA and VERA"),
        ({"r": "4"}, "rank is '4'"),
        ({"lora_alpha": "8"}, "alpha is '8'"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes', wanted true or false"),
        ({"rank_pattern": ["v_proj"]}, "rank_pattern is .*, wanted an object"),
        ({"rank_pattern": {"v_proj": "2"}}, "rank_pattern.v_proj is '2', wanted a whole number"),
        ({"alpha_pattern": {"v_proj": None}}, "alpha_pattern.v_proj is None, wanted a number"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern: pattern '.': no regular expression"),
        ({"target_modules": 3}, "target_modules is 3, wanted a list"),
        ({"target_modules": ["q_proj", 3]}, r"target_modules\[1\] is 3, wanted a text"),
        ({"target_modules": "q_proj"}, "which matches no linear's whole name"),
        ({"target_modules": "a{99999999999999999999}"}, "no regular expression"),
        ({"target_modules": ".*"}, "cannot be adapted"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True: not supported"),
        *(
            ({"init_lora_weights": name}, f"init_lora_weights is '{name}': not supported")
            for name in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "eva", "lora_ga")
        ),
        ({"target_modules": ["q_prj", "v_proj"]}, "q_prj"),
        ({"target_modules": ["lm_head"]}, "lm_head cannot be adapted"),
        ({"lora_dropout": 1.5}, "dropout: got 1.5"),
        ({"r": 10**400}, "rank is above 18446744073709551615"),
    ],
)
def test_an_adapter_config_that_is_not_ours(tmp_path, changes, message):
    tuned = trained("lora")
    ml.save_adapter(tuned, tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        ml.load_adapter(tuned.base, tmp_path)
    assert one_line(caught) and f"{tmp_path / CONFIG}: " in str(caught.value)
    assert "two adapters" not in str(caught.value)


@pytest.mark.parametrize(
    "method, changes, how",
    [
        ("lora", {"r": 300_000}, {}),
        ("dora", {"r": 300_000}, {}),
        ("lora", {"rank_pattern": {"v_proj": 300_000}}, {}),
        ("lora", {"target_modules": "all-linear"}, {}),
        ("vera", {"r": 300_000}, {}),
        ("vera", {"r": 300_000}, {"save_projection": False}),
    ],
)
def test_a_config_cannot_ask_for_more_memory_than_its_arrays_have(tmp_path, method, changes, how):
    """The header's shapes are compared first. On the narrow base a rank of 300,000 is 19 MB."""
    tuned = trained(method)
    ml.save_adapter(tuned, tmp_path, **how)
    of_peft(tmp_path, **changes)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"this base wants|arrays are missing") as caught:
            ml.load_adapter(tuned.base, tmp_path)
        assert one_line(caught) and tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_projections_that_are_drawn_again_are_bounded_by_the_base(tmp_path):
    """The file has lambda_d, of the rank that its config claims, and neither A nor B."""
    model, rank = narrow(**PEFT_SHAPE), 200_000
    layers = [f"model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in ("q_proj", "v_proj")]
    arrays = {}
    for layer in layers:
        arrays[f"base_model.model.{layer}.vera_lambda_d"] = np.ones(rank, np.float32)
        out = model.params[f"{layer}.weight"].shape[0]
        arrays[f"base_model.model.{layer}.vera_lambda_b"] = np.ones(out, np.float32)
    write_arrays(tmp_path / ARRAYS, arrays)
    tuned = ml.attach(model, "vera", rank=4)
    ml.save_adapter(tuned, tmp_path / "small", save_projection=False)
    config = json.loads((tmp_path / "small" / CONFIG).read_text()) | {"r": rank}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="25,600,000 numbers of shared arrays would be drawn"):
            ml.load_adapter(model, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    # a large rank on a small base is no attack
    wide = ml.attach(model, "vera", rank=20_000)
    ml.save_adapter(wide, tmp_path / "wide", save_projection=False)
    assert ml.load_adapter(model, tmp_path / "wide").rank == 20_000


@pytest.mark.parametrize("method", ["lora", "vera", "full"])
def test_an_adapter_that_is_too_large_for_the_base_s_dtype(tmp_path, method):
    """1e39 is a number of float64 and an infinity of float32."""
    wide = trained(method, make_llama())
    next(iter(wide.trainable.values())).flat[1] = 1e39
    ml.save_adapter(wide, tmp_path)
    with pytest.raises(ValueError, match=r"as float32 has 1 of \d+ numbers not finite") as caught:
        ml.load_adapter(narrow(), tmp_path)
    assert one_line(caught) and str(tmp_path / ARRAYS) in str(caught.value)
    ml.load_adapter(make_llama(), tmp_path)


def test_a_start_factor_of_another_shape_is_refused(tmp_path):
    mine = dataclasses.replace(ml.METHODS["delta_lora"], name="mine", peft=None)
    tuned = ml.attach(narrow(), mine, rank=2)
    ml.train(tuned, [(IDS, IDS)], steps=2, lr=1e-2)
    ml.save_adapter(tuned, tmp_path)
    arrays, about = read_arrays(tmp_path / ARRAYS)
    name = next(name for name in arrays if name.endswith("B_start"))
    write_arrays(tmp_path / ARRAYS, {**arrays, name: arrays[name][:1]}, about)
    with pytest.raises(ValueError, match=r"B_start has shape \(1, 2\), this base wants"):
        ml.load_adapter(tuned.base, tmp_path, method=mine)
    del arrays[name]
    write_arrays(tmp_path / ARRAYS, arrays, about)
    with pytest.raises(ValueError, match=r"1 arrays are missing, .*B_start"):
        ml.load_adapter(tuned.base, tmp_path, method=mine)


def test_a_rank_in_the_metadata_of_delta_lora_takes_no_memory(tmp_path):
    """Its arrays have twice the rank; the rank itself stands in the metadata alone."""
    tuned = ml.attach(narrow(), "delta_lora", rank=2)
    ml.train(tuned, [(IDS, IDS)], steps=2, lr=1e-2)
    ml.save_adapter(tuned, tmp_path)
    arrays, about = read_arrays(tmp_path / ARRAYS)
    own = json.loads(about[ABOUT])
    assert ml.load_adapter(narrow(), tmp_path).rank == 2
    write_arrays(tmp_path / ARRAYS, arrays, {ABOUT: json.dumps({**own, "rank": 10**12})})
    with pytest.raises(ValueError, match=r"this base wants .*1000000000000"):
        ml.load_adapter(narrow(), tmp_path)


def of_peft(folder, **changes):
    """An adapter's folder as PEFT would write it: without this library's metadata."""
    arrays, _ = read_arrays(folder / ARRAYS)
    write_arrays(folder / ARRAYS, arrays)
    changed(folder, **changes)


@pytest.mark.parametrize(
    "targets, pattern",
    [
        ("q_proj", r".*q_proj"),
        (("q_proj", "v_proj"), r".*\.(q|v)_proj"),
        ("model.layers.1.self_attn.k_proj", r"model\.layers\.1\.self_attn\.k_proj"),
        ("up_proj", r"model\.layers\.\d+\.mlp\.up_proj"),
        ("all-linear", "all-linear"),
        ("all-linear", "All-Linear"),
    ],
)
def test_target_modules_may_be_one_regular_expression(tmp_path, targets, pattern):
    """Matched against whole names, as PEFT does."""
    tuned = trained("lora", targets=targets)
    ml.save_adapter(tuned, tmp_path)
    of_peft(tmp_path, target_modules=pattern)
    back = ml.load_adapter(tuned.base, tmp_path)
    assert back.layers.keys() == tuned.layers.keys()
    assert np.array_equal(back.logits(IDS), tuned.logits(IDS))


def test_what_peft_s_config_leaves_out_is_peft_s_default(tmp_path):
    """lora_alpha 8 and r 8; an absent alpha is not 2·r, as it is in attach."""
    tuned = trained("lora", rank=8, alpha=8)
    ml.save_adapter(tuned, tmp_path)
    absent = {"lora_alpha": None, "r": None, "use_rslora": None}, {"lora_alpha": None}
    leave_the_base = [{"init_lora_weights": v} for v in (False, None, "gaussian", "orthogonal")]
    for changes in (*absent, *leave_the_base):
        of_peft(tmp_path, **changes)
        assert np.array_equal(ml.load_adapter(tuned.base, tmp_path).logits(IDS), tuned.logits(IDS))


@pytest.mark.parametrize(
    "method, settled",
    [
        ("lora", {"rank": 4}),
        ("lora", {"alpha": 2.0}),
        ("lora", {"targets": "all-linear"}),
        ("lora", {"rank_stabilized": True}),
        ("vera", {"projection_prng_key": 5}),
    ],
)
def test_what_the_files_settle_is_refused_and_dropout_is_not(tmp_path, method, settled):
    model = make_llama()
    ml.save_adapter(ml.attach(model, method, rank=2), tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(settled))} is settled by the adapter's"):
        ml.load_adapter(model, tmp_path, **settled)
    assert ml.load_adapter(model, tmp_path, dropout=0.3).options["dropout"] == 0.3


def test_nothing_is_ever_unpickled():
    """No import of pickle or what hides it, no allow_pickle, no np.load.

    joblib runs the cells of a sweep in processes of their own: there it may be imported, and loads
    nothing.
    """
    allowed = {"lab/workers.py": {"joblib"}}
    hiding = {
        "pickle",
        "_pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "marshal",
        "shelve",
        "torch",
    }
    package = Path(ml.__file__).parent
    for path in package.rglob("*.py"):
        beside = allowed.get(path.relative_to(package).as_posix(), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module.split(".")[0]]
            assert not hiding & set(names) - beside, f"{path}:{node.lineno}"
            assert not (beside and isinstance(node, ast.Attribute) and node.attr == "load")
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), path
            assert not (
                isinstance(node, ast.Attribute) and ast.unparse(node) in ("np.load", "eval")
            ), path


def test_shared_arrays_that_the_key_would_not_draw_are_not_lost(tmp_path):
    tuned = ml.attach(make_llama(), "vera", rank=2)
    tuned.shared["A"] *= -1
    with pytest.raises(ValueError, match="does not give back the shared A"):
        ml.save_adapter(tuned, tmp_path, save_projection=False)
    ml.save_adapter(tuned, tmp_path)


@pytest.mark.parametrize("name", ["lora", "delta_lora"])
def test_a_technique_without_a_form_of_peft_s_comes_back_whole(tmp_path, name):
    """Ranks and alphas of single linears, and what a step rule keeps; as itself and as no other."""
    mine = dataclasses.replace(ml.METHODS[name], name="mine", peft=None)
    patterns = {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 100.0}}
    tuned = ml.attach(make_llama(), mine, rank=2, **patterns)
    ml.save_adapter(tuned, tmp_path / "fresh")
    assert ml.load_adapter(tuned.base, tmp_path / "fresh", method=mine).alpha_pattern
    ml.train(tuned, [(IDS, IDS)], steps=3, lr=1e-2)
    ml.save_adapter(tuned, tmp_path)
    again = ml.load_adapter(tuned.base, tmp_path, method=mine)
    assert all(np.array_equal(again.arrays[k], a) for k, a in tuned.arrays.items())
    assert np.array_equal(again.logits(IDS), tuned.logits(IDS))
    with pytest.raises(ValueError, match="stored as 'mine', which is not other"):
        other = dataclasses.replace(mine, name="other")
        ml.load_adapter(tuned.base, tmp_path, method=other)


# ---------------------------------------- weights in NF4 as bitsandbytes stores them


def in_bitsandbytes(model, folder, **changes):
    """A folder with the model's linears as bitsandbytes writes them; changes: of every state."""
    arrays = {}
    for name, a in model.params.items():
        if name.removesuffix(".weight") not in model.config.linears():
            arrays[name] = a
            continue
        codes, c2, c1, mean = nf4.quantise(a)
        state = {"quant_type": "nf4", "blocksize": 64, "nested_blocksize": 256, "shape": a.shape}
        state |= {"nested_offset": float(mean), "dtype": "float32"} | changes
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        arrays |= {name: codes[:, None], f"{name}.absmax": c2, f"{name}.nested_absmax": c1}
        arrays |= {f"{name}.quant_map": np.float32(nf4.LEVELS)}
        arrays |= {f"{name}.nested_quant_map": nf4.dynamic_levels()}
        arrays |= {f"{name}.quant_state.bitsandbytes__nf4": text}
    write_arrays(folder / "model.safetensors", arrays)
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    return arrays


def test_weights_that_bitsandbytes_stored(tmp_path):
    model = make_llama(dtype=np.float32)
    ml.save_model(model, tmp_path)
    in_bitsandbytes(model, tmp_path)
    stored, whole = ml.load_model(tmp_path, weights="stored"), ml.load_model(tmp_path)
    for layer in model.config.linears():
        W = model.params[f"{layer}.weight"]
        wanted = nf4.dequantise(*nf4.quantise(W), W.shape)
        assert stored.params[f"{layer}.weight"].form == "nf4"
        assert np.array_equal(stored.params[f"{layer}.weight"], wanted)
        assert np.array_equal(whole.params[f"{layer}.weight"], wanted)


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "changes, spoilt, says",
    [
        ({"blocksize": 128}, {}, r"block sizes \(128, 256\), wanted 64 and 256"),
        ({"shape": [3, 5]}, {}, r"\d+ of uint8, wanted 8 of uint8"),
        ({"nested_offset": "x"}, {}, "nested_offset"),
        ({}, {f"{Q_PROJ}.nested_absmax": None}, "0 of float64, wanted 1 of float32: NF4"),
        ({}, {Q_PROJ: None}, "0 of float64, wanted 128 of uint8"),
        ({}, {f"{Q_PROJ}.quant_map": np.zeros(16, np.float32)}, "levels are not those of NF4"),
        ({}, {f"{Q_PROJ}.quant_state.bitsandbytes__nf4": np.zeros(3, np.uint8)}, "not JSON"),
        ({}, {f"{Q_PROJ}.quant_state.bitsandbytes__nf4": None}, "do not belong|of uint8, wanted"),
    ],
)
def test_weights_of_bitsandbytes_that_do_not_fit(tmp_path, changes, spoilt, says):
    model = make_llama(dtype=np.float32)
    ml.save_model(model, tmp_path)
    arrays = in_bitsandbytes(model, tmp_path, **changes) | spoilt
    write_arrays(tmp_path / "model.safetensors", {n: a for n, a in arrays.items() if a is not None})
    with pytest.raises(ValueError, match=says) as caught:
        ml.load_model(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
