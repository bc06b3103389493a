"""Files of models at the limits of their formats: safetensors, GGUF."""

import importlib.util
import struct
import types
import warnings

import numpy as np
import pytest
from conftest import make_llama
from test_formats import entry, with_header
from test_gguf import gguf, parts
from test_gguf import llama as small_llama

import minilora as ml
from minilora.formats import huggingface, models
from minilora.formats.gguf import PACKINGS, read_gguf
from minilora.formats.safetensors import AXES, MOST, read_arrays, refuse_pickles

# ---------------------------------------- safetensors


@pytest.mark.parametrize("dtype, width", {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.items())
def test_a_place_of_another_size_than_its_shape_is_told_in_bytes(tmp_path, dtype, width):
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": entry(dtype, (3,), (0, 3 * width + 1))}, b"0" * 25))
    wanted = rf"a of shape \[3\] is {3 * width} bytes, its place has {3 * width + 1}"
    with pytest.raises(ValueError, match=wanted):
        read_arrays(path)
    path.write_bytes(with_header({"a": entry(dtype, (3,), (0, 3 * width))}, bytes(3 * width)))
    assert read_arrays(path)[0]["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"data_offsets": [0]}, r"a.data_offsets is \[0\], wanted \[start, end\]"),
        ({"data_offsets": [0, 4, 8]}, "data_offsets is"),
        ({"data_offsets": [8, 0]}, r"data_offsets is \[8, 0\]"),
        ({"data_offsets": [-1, 7]}, r"data_offsets is \[-1, 7\]"),
        ({"data_offsets": [0, MOST]}, "data_offsets is"),
        ({"shape": [-2]}, r"a.shape is \[-2\], wanted sizes"),
        ({"shape": [MOST]}, "a.shape is"),
        ({"shape": [1] * (AXES + 1)}, "a.shape is"),
    ],
)
def test_headers_that_say_nothing_possible(tmp_path, fields, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": {**entry(), **fields}}, bytes(8)))
    with pytest.raises(ValueError, match=said) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_two_arrays_in_bfloat16_one_after_the_other(tmp_path):
    """The second one's place begins where the first one's ends."""
    header = {"a": entry("BF16", (2,), (0, 4)), "b": entry("BF16", (2,), (4, 8))}
    path = tmp_path / "x.safetensors"
    numbers = np.array([1, 2, 3, -4], np.float32)
    path.write_bytes(with_header(header, (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()))
    arrays, _ = read_arrays(path)
    assert arrays["a"].tolist() == [1, 2] and arrays["b"].tolist() == [3, -4]


def test_a_header_without_arrays(tmp_path):
    """It promises no bytes beside itself: one more byte is one too many."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({}))
    assert read_arrays(path) == ({}, {})
    path.write_bytes(with_header({}, b"0"))
    with pytest.raises(ValueError, match="11 bytes, its header promises 10"):
        read_arrays(path)


TWO = {"a": entry("F32", (2,), (0, 8))}


PROMISED = 8 + len(with_header(TWO))


@pytest.mark.parametrize(
    "data, says",
    [
        (with_header(TWO), f"{PROMISED - 8} bytes, its header promises {PROMISED}"),
        (with_header(TWO)[:-1], f"{PROMISED - 9} bytes, its header alone would be {PROMISED - 16}"),
        (with_header({"a": entry("I64", (2,), (0, 16))}, bytes(8)), "its header promises"),
        (with_header({"a": entry("F32", (0,), (0, 0))}, b"0"), "its header promises"),
        (b"\x80\x05" + bytes(40), "it begins as a pickle"),
        (b"PK\x03\x04" + bytes(40), "it begins as a pickle or a zip of one"),
        (b"\x80\x06" + bytes(40), "42 bytes, its header alone would be 1664"),
    ],
    ids="no-arrays cut-header whole-numbers no-size pickle zip no-pickle".split(),
)
def test_why_a_file_is_not_whole(tmp_path, data, says):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        read_arrays(path)


def test_a_pickle_beside_the_weights_is_refused_only_where_they_are_missing(tmp_path):
    path = tmp_path / "model.safetensors"
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: a pickle"):
        refuse_pickles(path)
    path.write_bytes(b"")
    refuse_pickles(path)


def test_float32_weights_are_not_copied(tmp_path, monkeypatch):
    read, arrays = huggingface.read_weights, {}
    ml.save_model(make_llama(dtype=np.float32), tmp_path)
    monkeypatch.setattr(
        huggingface, "read_weights", lambda path: (arrays.update(read(path)[0]) or arrays, {})
    )
    assert all(a is arrays[name] for name, a in ml.load_model(tmp_path).params.items())


# ---------------------------------------- GGUF, other files of models


def test_a_gguf_file_of_as_many_tensors_as_there_is_room_for(tmp_path):
    """An entry of the list has 24 bytes at least: a name's length, axes, type, place."""
    path, more = tmp_path / "x.gguf", 24
    for tensors, says in ((2, "has 0 axes, wanted 1 to 4"), (3, "48 bytes, too few for 3 items")):
        head = struct.pack("<4sIQQ", b"GGUF", 3, tensors, 0)
        path.write_bytes(head + b"\0" * more)
        with pytest.raises(ValueError, match=says):
            read_gguf(path)


def test_a_gguf_file_of_as_many_entries_as_there_is_room_for(tmp_path):
    """12 bytes at least: a name's length, a kind."""
    path = tmp_path / "x.gguf"
    for entries, says in ((4, "'' stands twice"), (5, "48 bytes, too few for 5 items")):
        path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, entries) + b"\0" * 24)
        with pytest.raises(ValueError, match=says):
            read_gguf(path)


def test_a_gguf_file_may_be_one_long_text(tmp_path):
    (tmp_path / "x.gguf").write_bytes(gguf({"k" * 500: 1}, {}))
    assert read_gguf(tmp_path / "x.gguf") == ({"k" * 500: 1}, {})


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=lambda packing: packing.name)
def test_a_block_has_as_many_weights_as_its_packing_says(packing):
    blocks = np.zeros((3, packing.nbytes), np.uint8)
    assert packing.unpack(blocks).shape == (3, packing.weights)


def test_a_gguf_file_that_says_little_gets_the_usual_numbers(tmp_path):
    model = small_llama()
    about, tensors = parts(model)
    del about["llama.attention.layer_norm_rms_epsilon"], about["llama.rope.freq_base"]
    (tmp_path / "x.gguf").write_bytes(gguf(about, tensors))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no tokenizer
        config = ml.load_model(tmp_path / "x.gguf").config
    assert config.rms_norm_eps == 1e-5 and config.rope_theta == 10_000


def test_heads_of_their_own_width(tmp_path):
    model = make_llama(head_dim=6, dtype=np.float32)
    about, tensors = parts(model)
    about["llama.attention.key_length"] = about["llama.rope.dimension_count"] = 6
    (tmp_path / "x.gguf").write_bytes(gguf(about, tensors))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no tokenizer
        loaded = ml.load_model(tmp_path / "x.gguf")
    assert loaded.config.head_dim == 6 and loaded.name == "x.gguf"


def test_a_model_has_the_name_that_it_was_loaded_by(tmp_path, monkeypatch):
    ml.save_model(make_llama(), tmp_path / "mine")
    assert ml.load_model(tmp_path / "mine").name == "mine"
    monkeypatch.setattr(models, "smollm2_path", lambda: "file")
    monkeypatch.setattr(models.gguf_llama, "read_model", lambda path: make_llama())
    assert ml.load_model("smollm2-135m").name == "smollm2-135m"


def test_smollm2_is_the_file_in_its_installed_package(tmp_path, monkeypatch):
    empty, full = tmp_path / "empty", tmp_path / "full"
    for folder in (empty, full):
        folder.mkdir()
    package = types.SimpleNamespace(submodule_search_locations=[str(empty), str(full)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(FileNotFoundError, match="its weights are not installed"):
        models.smollm2_path()
    (full / models.GGUF).write_bytes(b"")
    assert models.smollm2_path() == full / models.GGUF


def test_smollm2_says_how_it_is_installed_where_it_is_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="its weights are not installed; wanted: make smo"):
        ml.load_model("smollm2-135m")
