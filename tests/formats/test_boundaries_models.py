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
from minilora.formats import models
from minilora.formats.gguf import PACKINGS, read_gguf
from minilora.formats.safetensors import read_arrays, refuse_pickles

# ---------------------------------------- safetensors


def test_two_arrays_in_bfloat16_one_after_the_other(tmp_path):
    """The second one's place begins where the first one's ends."""
    header = {"a": entry("BF16", (2,), (0, 4)), "b": entry("BF16", (2,), (4, 8))}
    path = tmp_path / "x.safetensors"
    numbers = np.array([1, 2, 3, -4], np.float32)
    path.write_bytes(with_header(header, (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()))
    arrays, _ = read_arrays(path)
    assert arrays["a"].tolist() == [1, 2] and arrays["b"].tolist() == [3, -4]


def test_a_pickle_beside_the_weights_is_refused_only_where_they_are_missing(tmp_path):
    path = tmp_path / "model.safetensors"
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: a pickle"):
        refuse_pickles(path)
    path.write_bytes(b"")
    refuse_pickles(path)


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
    for entries, says in ((4, "'' appears twice"), (5, "48 bytes, too few for 5 items")):
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
    monkeypatch.setattr(models.gguf_llama, "read_model", lambda path, **choices: make_llama())
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
