"""What no other test noticed when a line was changed: tests/tools/mutate.py finds such lines."""

import dataclasses
import gc
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import re
import signal
import struct
import sys
import threading
import time
import tracemalloc
import types
import warnings

import numpy as np
import pytest
from battery import BATCHES, base, shake, tune
from conftest import make_llama
from test_formats import entry, with_header
from test_gguf import gguf, parts
from test_gguf import llama as small_llama

import minilora as ml
from minilora import engine, fast, ops
from minilora.check import EXERCISES, SLIPS, check_pair, course, grading
from minilora.check.grading import points
from minilora.check.hints import hints_for
from minilora.check.judge import Judgement, constant_ratio
from minilora.engine import Tensor, backward, param
from minilora.formats import huggingface, models
from minilora.formats.gguf import PACKINGS, read_gguf
from minilora.formats.safetensors import AXES, MOST, read_arrays, refuse_pickles, write_arrays
from minilora.gradcheck import GradientError
from minilora.llama import generation
from minilora.memory import figure, savers, tables, whatif
from minilora.memory.count import count
from minilora.memory.saved import Saved
from minilora.memory.step import Ledger, largest
from minilora.methods.base import whole_number
from minilora.text.tokenizer import CharTokenizer
from minilora.tuning import checkpoints, peft_config, storage
from minilora.tuning.callbacks import Callback
from minilora.tuning.choices import pick
from minilora.tuning.divergence import Diverged
from minilora.tuning.history import History
from minilora.tuning.optim import AdamW, clip_factor

# their names in the package are functions
training = importlib.import_module("minilora.tuning.train")
gradcheck = importlib.import_module("minilora.gradcheck")
doctoring = importlib.import_module("minilora.check.doctor")

# ---------------------------------------- gradients that are given away early


def test_a_leaf_is_ready_once_and_as_soon_as_its_gradient_is_whole():
    """d((a b + a) c): c is used by the last node alone, so it is ready before a and b are."""
    arrays = {name: np.array([2.0, 3.0]) + i for i, name in enumerate("abc")}

    def walked(ready):
        leaves = {name: param(array, name) for name, array in arrays.items()}
        total = ops.add(ops.mul(leaves["a"], leaves["b"]), leaves["a"])
        backward(ops.sum(ops.mul(total, leaves["c"])), ready=ready)
        return {name: leaf.grad for name, leaf in leaves.items()}

    told = []
    whole = walked(None)
    walked(lambda node: told.append((node.name, node.grad.copy())))
    assert [name for name, _ in told] == ["c", "a", "b"] or [n for n, _ in told] == ["c", "b", "a"]
    assert all(np.array_equal(grad, whole[name]) for name, grad in told)


def test_several_batches_never_hold_all_gradients_twice(monkeypatch):
    """In the sum and in a leaf at the same time: one of them at most. A single batch has no sum."""
    tuned, seen = tune("full"), []

    def counted(loss, ready=None):
        if ready is None:
            seen.append(None)
            return backward(loss)

        def told(node):
            ready(node)
            seen.append(sum(leaf.node.grad is not None for leaf in leaves[-1].values()))

        return backward(loss, ready=told)

    leaves, make = [], type(tuned).leaves
    monkeypatch.setattr(type(tuned), "leaves", lambda self: leaves.append(make(self)) or leaves[-1])
    monkeypatch.setattr(training, "backward", counted)
    training.gradients(tuned, BATCHES[:2])
    assert len(seen) == 2 * len(tuned.trainable) and max(seen) <= 1
    seen.clear()
    training.gradients(tuned, BATCHES[:1])
    assert seen == [None]


@pytest.mark.parametrize("saver", savers.SAVERS, ids=lambda saver: saver.title)
def test_a_step_that_frees_gradients_keeps_none(saver, monkeypatch):
    tuned, leaves = tune("lora", base("float32")), []
    make = type(tuned).leaves
    monkeypatch.setattr(type(tuned), "leaves", lambda self: leaves.append(make(self)) or leaves[-1])
    savers.step(tuned, saver)(BATCHES[0][0])
    kept = [leaf.grad is not None for leaf in leaves[-1].values()]
    assert kept == [not saver.frees] * len(kept)


def test_the_gradient_of_the_output_has_its_shape():
    x = param(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dout has shape \(3,\), wanted \(2, 3\)"):
        backward(ops.mul(x, x), np.ones(3))


def test_a_third_gradient_is_added_into_the_tape_s_own_array():
    """The second makes it; an array that an op gave is never written into."""
    node, given = param(np.zeros(2)).node, np.ones(2)
    node.receive(given)
    assert node.grad is given
    node.receive(given)
    own = node.grad
    node.receive(given)
    assert node.grad is own and own.tolist() == [3, 3] and given.tolist() == [1, 1]


@pytest.mark.parametrize("has_twin", [True, False])
def test_a_twin_serves_arrays_that_it_answers_for(has_twin, monkeypatch):
    """Here float32 ones, by the first argument; elsewhere, and without a twin, the page's pair."""
    ran = []

    def noted(name, result):
        def function(*args):
            ran.append(function.__name__)
            return result(*args)

        function.__name__, function.__module__ = name, "minilora.made_up"
        return function

    pair = {
        "forward": lambda a, b: (a * b, (a, b)),
        "backward": lambda dy, cache: (dy * cache[1], dy * cache[0]),
        "value": lambda a, b: a * b,
    }
    monkeypatch.setattr(engine, "answers", lambda first: first.dtype == np.float32)
    if has_twin:
        for kind, function in pair.items():
            monkeypatch.setitem(fast.TWINS, f"page_{kind}", noted(f"fast_{kind}", function))
    op = engine.Op("made_up", *(noted(f"page_{kind}", f) for kind, f in pair.items()))
    for dtype, other in (("float32", "float64"), ("float64", "float32")):
        who = "fast" if has_twin and dtype == "float32" else "page"
        a, b = param(np.ones(2, dtype)), np.ones(2, other)
        op(a.data, b)
        out = op(a, b)
        backward(out, np.ones(2, dtype))
        assert ran == [f"{who}_value", f"{who}_forward", f"{who}_backward"]
        ran.clear()
    alone = engine.Op("made_up", noted("page_forward", pair["forward"]), pair["backward"])
    assert alone(np.ones(2), np.ones(2)).data.tolist() == [1, 1] and ran == ["page_forward"]


# ---------------------------------------- counts and ledgers


def test_count_warns_of_a_rank_above_the_width():
    config = base().config
    with pytest.warns(UserWarning, match="rank 999 is above"):
        count(config, "lora", rank=999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(config, "full")["rank"] is None
        assert count(config, "lora")["rank"] == ml.METHODS["lora"].default_rank


def test_a_ledger_of_a_model_wants_a_method():
    for model in (base(), base().config):
        with pytest.raises(ValueError, match="ledger: wanted method= for a model without one"):
            ml.ledger(model, 1, 8)


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
        (b"\x80\x06" + bytes(40), "42 bytes, its header alone would be 1664"),
    ],
    ids=["no arrays", "a cut header", "whole numbers", "of no size", "a pickle", "no pickle"],
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


# ---------------------------------------- checkpoints


@pytest.mark.parametrize("name", ml.METHODS)
def test_a_checkpoint_is_an_adapter(name, tmp_path):
    path, tuned = tmp_path / "run.safetensors", tune(name, targets=("q_proj",))
    ml.train(tuned, BATCHES, steps=2, lr=1e-2, checkpoint=path)
    loaded = ml.load_adapter(base(), path)
    assert loaded.method == name and list(loaded.layers) == list(tuned.layers)
    assert np.array_equal(loaded.logits(BATCHES[0][0]), tuned.logits(BATCHES[0][0]))
    with pytest.raises(ValueError, match=r"its base has the fingerprint [0-9a-f]{8}, this"):
        ml.load_adapter(make_llama(seed=7), path)


def test_a_checkpoint_from_before_the_first_step(tmp_path):
    path, tuned = tmp_path / "run.safetensors", tune("lora")
    settings = training._settings(
        steps=2, lr=0.01, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8,
        schedule="constant", warmup=0, clip=None, accumulate=1,
    )  # fmt: skip
    adam = AdamW(tuned.trainable)
    about = checkpoints.describe(tuned, settings)
    checkpoints.save(path, tuned, adam, about, History().to_dict())
    assert checkpoints.load(path, tuned, adam, settings)["losses"] == []


@pytest.mark.parametrize("change", [{"steps": 3}, {"lr": 0.02}], ids=str)
def test_only_another_number_of_steps_is_explained_by_the_schedule(change, tmp_path):
    how = {"steps": 1, "lr": 0.01, "schedule": "cosine", "warmup": 1}
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora", targets=("q_proj",)), BATCHES, checkpoint=path, **how)
    with pytest.raises(ValueError, match=f"{next(iter(change))} was") as caught:
        tuned = tune("lora", targets=("q_proj",))
        ml.train(tuned, BATCHES, checkpoint=path, resume=True, **{**how, **change})
    explained = "each rate of a cosine schedule depends on it" in str(caught.value)
    assert explained == ("steps" in change)


def test_a_checkpoint_as_an_adapter_warns_of_its_rank_once(tmp_path):
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora", rank=20, targets=("q_proj",)), BATCHES, steps=1, lr=0.1, checkpoint=path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ml.load_adapter(base(), path)
    assert [str(w.message).count("rank 20 is above") for w in told] == [1]


@pytest.mark.parametrize("on, kernels", [(True, "numba"), (False, "numpy")])
def test_a_checkpoint_names_the_kernels_that_answer(on, kernels, monkeypatch):
    monkeypatch.setattr(checkpoints.fast, "on", lambda: on)
    monkeypatch.setattr(checkpoints.fast, "backend", lambda: "numba")
    assert checkpoints.machine()["kernels"] == kernels


@pytest.mark.parametrize("steps, right", [([1, 2], True), ([1, 1], False), ([2, 1], False)])
def test_evaluations_stand_in_the_order_of_their_steps(steps, right):
    history = {name: [0.5, 0.5] for name in ("losses", "rates", "seconds")}
    history["evaluations"] = [[step, 0.5] for step in steps]
    if right:
        checkpoints._check_history("x", history, 2)
        return
    with pytest.raises(ValueError, match=r"evaluations\[1\] is .*wanted \[step, value\]"):
        checkpoints._check_history("x", history, 2)


# ---------------------------------------- techniques


@pytest.mark.parametrize(
    "alpha, text",
    [(8.0, "8"), (200.0, "200"), (-3.0, "-3"), (0.5, "0.5"), (2.0**53, "9007199254740992.0")],
)
def test_whole_alphas_are_written_without_a_point_as_far_as_float64_tells_them_apart(alpha, text):
    assert json.dumps(whole_number(alpha)) == text


@pytest.mark.parametrize("steps, rest", [(1, 1), (74, 1), (100, 2), (1000, 20)])
def test_a_compared_delta_lora_s_weight_rests_for_a_fiftieth_of_the_run(steps, rest):
    assert ml.METHODS["delta_lora"].of_run(steps) == {"start_step": rest}


def test_dora_wants_a_direction_of_every_row():
    model = make_llama()
    model.params["model.layers.0.self_attn.q_proj.weight"][1] = 0
    with pytest.raises(ValueError, match="dora: a row of the weight is 0 in all its entries"):
        ml.attach(model, "dora")
    assert ml.attach(model, "dora", targets=("k_proj",)).layers


# ---------------------------------------- PEFT's configs


@pytest.mark.parametrize(
    "absent, default", [("use_rslora", False), ("lora_dropout", 0.0), ("lora_alpha", 8)]
)
def test_a_field_that_peft_s_config_lacks_has_peft_s_default(absent, default, tmp_path):
    tuned = shake(tune("lora", base("float32"), rank=4, alpha=8.0))
    ml.save_adapter(tuned, tmp_path)
    path = tmp_path / "adapter_config.json"
    fields = json.loads(path.read_text())
    assert fields.pop(absent) == default
    path.write_text(json.dumps(fields))
    arrays = tmp_path / "adapter_model.safetensors"
    write_arrays(arrays, read_arrays(arrays)[0])  # as PEFT writes it, without our metadata
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = ml.load_adapter(base("float32"), tmp_path)
    assert loaded.options == tuned.options
    assert np.array_equal(loaded.logits(BATCHES[0][0]), tuned.logits(BATCHES[0][0]))


def test_an_unknown_technique_s_adapter_is_loaded_with_a_warning(tmp_path):
    mine = dataclasses.replace(ml.METHODS["lora"], name="mine")
    ml.save_adapter(ml.attach(base("float32"), mine, rank=2), tmp_path)
    with pytest.warns(UserWarning, match="saved by 'mine', which is unknown here, and loaded as"):
        assert ml.load_adapter(base("float32"), tmp_path).method == "lora"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ml.load_adapter(base("float32"), tmp_path, mine).method == "mine"


@pytest.mark.parametrize("excluded, left", [("v_proj", 4), (r".*v_proj", 2), (["v_proj"], 2)])
def test_a_text_in_peft_s_exclude_modules_is_a_pattern_of_whole_names(excluded, left, tmp_path):
    config = {"target_modules": ["q_proj", "v_proj"], "exclude_modules": excluded}
    assert len(peft_config._targets("x", config, base())) == left


@pytest.mark.parametrize("kind", ["LORA", "VERA"])
def test_a_field_of_peft_that_is_known_makes_no_warning(kind, tmp_path):
    config = {"peft_type": kind, "auto_mapping": {"a": "b"}, "init_lora_weights": "gaussian"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft_config._check_formula("x", config, ())
    with pytest.warns(UserWarning, match="x: new is 1: unknown here"):
        peft_config._check_formula("x", config | {"new": 1}, ())
    for field, value in {"init_lora_weights": "pissa", "use_dora": True}.items():
        peft_config._check_formula("x", config | {field: value}, (field,))
        with pytest.raises(ValueError, match=f"{field} is {value!r}: not supported"):
            peft_config._check_formula("x", config | {field: value}, ())


@pytest.mark.parametrize(
    "name, words", [("mine", "the base 'mine' (0123abcd)"), ("", "the base (")]
)
def test_another_base_is_told_by_its_name_and_its_mark(name, words):
    own = {"base": {"name": name, "crc32": "0123abcd"}}
    assert storage._other_base(base("float32"), own).startswith(words)
    own["base"]["crc32"] = storage._mark(base("float32"))
    assert storage._other_base(base("float32"), own) == ""


def test_what_was_learned_for_a_linear_without_an_adapter_is_how_far_it_moved():
    layer = "model.layers.0.self_attn.q_proj"
    full, lora = tune("full"), tune("lora", targets=("v_proj",))
    full.weights[f"{layer}.weight"] += 0.5
    assert np.allclose(full.delta(layer), 0.5) and not lora.delta(layer).any()


def test_a_checkpoint_settles_its_method_and_its_options(tmp_path):
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora", targets=("q_proj",)), BATCHES, steps=1, lr=0.1, checkpoint=path)
    for more in ({"method": "lora"}, {"dropout": 0.1}):
        with pytest.raises(ValueError, match="a checkpoint settles its method and options"):
            ml.load_adapter(base(), path, **more)


def test_kinds_of_linears_are_written_where_they_name_all_that_were_adapted():
    one = "model.layers.1.self_attn.q_proj"
    assert storage._target_modules(tune("lora", targets=("q_proj",))) == ["q_proj"]
    assert storage._target_modules(tune("lora", targets=(one,))) == [one]


def test_a_pattern_of_peft_s_config_keeps_what_matches_an_adapted_linear():
    config = {"rank_pattern": {"q_proj": 2, "k_proj": 3}}
    found = peft_config._pattern("x", "rank_pattern", config, int, base(), ("q_proj",))
    assert found == {"q_proj": 2}
    assert peft_config._pattern("x", "rank_pattern", {}, int, base(), ("q_proj",)) == {}


def test_an_adapter_s_files_settle_what_its_arrays_were_made_with(tmp_path):
    """Delta-LoRA's stored arrays depend on its ratio; LoRA+'s are LoRA's at any ratio."""
    model = base("float32")
    ml.save_adapter(shake(tune("lora_plus", model)), tmp_path / "plus")
    assert ml.load_adapter(model, tmp_path / "plus", ratio=4.0).options["ratio"] == 4
    ml.save_adapter(tune("delta_lora", model), tmp_path / "delta")
    with pytest.raises(ValueError, match="update_ratio is settled by the adapter's own files"):
        ml.load_adapter(model, tmp_path / "delta", update_ratio=1.0)


def test_an_adapter_shows_itself_and_its_share(capsys):
    tuned = tune("lora", rank=3, alpha=6.0)
    shown = tuned._repr_html_()
    assert "LoRA on Llama" in shown and "rank" in shown and "all-linear" in shown
    tuned.print_trainable_parameters()
    some, every = tuned.count_parameters()
    assert capsys.readouterr().out.endswith(f"|| trainable%: {100 * some / every:.4f}\n")


def test_a_larger_rank_than_the_file_s_is_refused_before_an_array_is_made(tmp_path, monkeypatch):
    model, made = base("float32"), []
    ml.save_adapter(tune("lora", model), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"r": 3', '"r": 4'))
    arrays = tmp_path / "adapter_model.safetensors"
    write_arrays(arrays, read_arrays(arrays)[0])  # as PEFT writes it, without our metadata
    attach = peft_config.attach
    monkeypatch.setattr(
        peft_config, "attach", lambda of, *a, **k: made.append(of) or attach(of, *a, **k)
    )
    with pytest.raises(ValueError, match=r"has shape .*, this base wants"):
        ml.load_adapter(model, tmp_path)
    assert len(made) == 1 and made[0] is not model
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    arrays.unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.bin: a pickle"):
        ml.load_adapter(model, tmp_path)


def test_peft_s_patterns_and_fields_are_read_from_its_config(tmp_path):
    model, pattern = base("float32"), {"q_proj": 2}
    tuned = ml.attach(model, "lora", rank=3, targets=("q_proj", "v_proj"), rank_pattern=pattern)
    ml.save_adapter(tuned, tmp_path)
    path, arrays = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    write_arrays(arrays, read_arrays(arrays)[0])  # as PEFT writes it, without our metadata
    loaded = ml.load_adapter(model, tmp_path)
    assert loaded.rank_pattern == pattern and loaded.rank == 3
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": ["lm_head"]}))
    with pytest.raises(ValueError, match=r"modules_to_save is .*: not supported"):
        ml.load_adapter(model, tmp_path)


def test_a_technique_without_factors_says_so():
    with pytest.raises(ValueError, match="dora: its change of a weight is no product of two fac"):
        tune("dora").factors("model.layers.0.self_attn.q_proj")


def test_the_first_pattern_that_matches_a_linear_is_taken():
    pattern = {"k_proj": 1, "q_proj": 2, r".*_proj": 3}
    picked = [pick(pattern, f"model.layers.0.self_attn.{kind}_proj", 8) for kind in "kqv"]
    assert picked == [1, 2, 3] and pick({"q_proj": 2}, "model.layers.0.self_attn.v_proj", 8) == 8


def test_a_node_is_named_after_its_linear():
    tuned = tune("lora", targets=("q_proj",))
    names = {node.name for node in engine.tape(tuned.loss(*BATCHES[0], leaves=tuned.leaves()))}
    assert "model.layers.1.self_attn.q_proj" in names and "model.layers.1.self_attn.v_proj" in names


# ---------------------------------------- elementary ops


@pytest.mark.parametrize("many", [1, 2, 3])
@pytest.mark.parametrize("name", ["add", "mul"])
def test_a_row_is_spread_over_one_two_or_three(name, many):
    """Its gradient is the sum over all, also where these are two."""
    op, rng = getattr(ops, name), np.random.default_rng(many)
    wide, row = rng.standard_normal((many, 3)), rng.standard_normal((1, 3))
    ml.gradcheck(op.forward, op.backward, wide, row)
    ml.gradcheck(op.forward, op.backward, row, wide)


@pytest.mark.parametrize("many", [0, 1, 2])
@pytest.mark.parametrize("made", [Tensor, param], ids=["the value alone", "on the tape"])
def test_a_loss_is_the_mean_of_none_of_one_and_of_two_targets(made, many):
    rng, targets = np.random.default_rng(0), np.array([2, 0, 1])
    h, W = rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    z = h @ W.T
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(3), targets]
    targets[many:] = -100
    wanted = losses[:many].sum() / max(1, many)
    assert np.isclose(ops.cross_entropy(made(z), targets).data, wanted)
    assert np.isclose(ops.head_loss(made(h), made(W), targets).data, wanted)
    assert np.isclose(ops.frozen_head_loss(made(h), W, targets).data, wanted)


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_what_dropout_keeps_it_divides_by_the_probability_of_keeping(p):
    kept = ops.dropout.forward(np.ones((40, 40)), p, (0, 1, 0, 0))[0]
    assert set(kept.ravel()) == {0.0, 1 / (1 - p)}
    assert abs(kept.mean() - 1) < 0.1


def test_dropout_drops_below_p_and_keeps_from_p_on(monkeypatch):
    drawn = np.array([[0.0, 0.125, 0.25, 0.5]], np.float32)
    bits = types.SimpleNamespace(random=lambda shape, dtype: drawn)
    monkeypatch.setattr(np.random, "Generator", lambda stream: bits)
    assert np.flatnonzero(ops.dropout.forward(np.ones((1, 4)), 0.25, (0,))[0]).tolist() == [2, 3]


@pytest.mark.parametrize("before, inside", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_segment_that_is_computed_again_is_on_the_tape_where_something_trains(before, inside):
    x, w = (param(np.full(3, 2.0)) if t else Tensor(np.full(3, 2.0)) for t in (before, inside))
    out = ops.recompute(lambda h: ops.mul(h, w), x)
    assert out.data.tolist() == [4, 4, 4] and (out.node is not None) == bool(before or inside)
    if out.node:
        backward(out)
        assert [None if t.grad is None else t.grad.tolist() for t in (x, w)] == [
            [2, 2, 2] if trains else None for trains in (before, inside)
        ]


@pytest.mark.parametrize("op, keeps", [("linear", True), ("frozen_linear", False)])
def test_h_is_not_kept_and_is_made_again_only_for_an_op_that_keeps_it(op, keeps, monkeypatch):
    recompute, ran, rng = importlib.import_module("minilora.ops.recompute"), [], np.random
    h = ops.swiglu(*(param(rng.standard_normal((2, 3))) for _ in "gu"))
    W = rng.standard_normal((4, 3))
    y = recompute.remaking(getattr(ops, op), h)(h, param(W) if keeps else W)
    parts = y.node.cache if isinstance(y.node.cache, tuple) else (y.node.cache,)
    assert any(part is W for part in parts) and not any(part is h.data for part in parts)
    monkeypatch.setattr(recompute, "twin", lambda f, first: ran.append(f.__name__) or f)
    backward(y)
    assert ran == ["swiglu_forward"] * keeps + [f"{op}_backward"]


def test_minus_and_division_of_tensors():
    a, b = param(np.array([2.0, -3.0])), param(np.array([4.0, 5.0]))
    backward(ops.sum(-a / b - b))
    assert np.allclose(a.grad, [-1 / 4, -1 / 5])
    assert np.allclose(b.grad, [2 / 16 - 1, -3 / 25 - 1])


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupted_run_says_where_it_goes_on(kept, tmp_path):
    class CtrlC(Callback):
        def step(self, run):
            signal.raise_signal(signal.SIGINT)

    path = tmp_path / "run.safetensors" if kept else None
    with pytest.raises(KeyboardInterrupt) as caught:
        ml.train(tune("lora"), BATCHES, steps=3, lr=0.01, checkpoint=path, callbacks=[CtrlC()])
    goes_on = f"; resume=True goes on from {path}" if kept else ""
    assert str(caught.value) == f"train: stopped after step 1 of 3{goes_on}"


class AtTheFirstStep(Callback):
    """Calls a function while the first step of a run ends."""

    def __init__(self, act):
        self.act = act

    def step(self, run):
        if run.step == 1:
            self.act()


def two_steps(*callbacks):
    return ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, callbacks=callbacks)


def test_a_second_ctrl_c_stops_at_once_and_afterwards_it_is_python_s_again():
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        two_steps(AtTheFirstStep(twice))
    assert str(caught.value) == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    two_steps()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ctrl_c_that_is_not_python_s_stays():
    def mine(number, frame):
        seen.append(number)

    seen, before = [], signal.signal(signal.SIGINT, mine)
    try:
        two_steps(AtTheFirstStep(lambda: signal.raise_signal(signal.SIGINT)))
        assert seen == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_trains_without_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(two_steps()))
    thread.start()
    thread.join()
    assert len(found) == 1 and len(found[0].losses) == 2


@pytest.mark.parametrize("batch", [np.zeros((2, 3, 4), int), (*BATCHES[0], BATCHES[0][0]), 3])
def test_a_batch_is_a_pair(batch):
    with pytest.raises(ValueError, match=r"got a batch of \w+, wanted a pair"):
        training.gradients(tune("lora"), [batch])


@pytest.mark.parametrize("betas", [(0.9, 1.0), (1.0, 0.9), (-0.1, 0.9), (0.9,), 0.9])
def test_betas_are_two_numbers_below_1(betas):
    ml.train(tune("lora"), BATCHES, steps=1, lr=0.01, betas=(0, 0))
    with pytest.raises(ValueError, match=r"betas is .*, wanted two numbers in \[0, 1\)"):
        ml.train(tune("lora"), BATCHES, steps=1, lr=0.01, betas=betas)


@pytest.mark.parametrize(
    "wrong", [{"accumulate": 0}, {"steps": 0}, {"eps": 0}, {"clip": 0}, {"warmup": -1}], ids=str
)
def test_settings_below_their_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=f"train: {next(iter(wrong))}"):
        ml.train(tune("lora"), BATCHES, **{"steps": 1, "lr": 0.0, **wrong})


def test_nothing_is_done_every_0_steps(tmp_path):
    for what, value in {"evaluate": lambda tuned: 0.0, "checkpoint": tmp_path / "x"}.items():
        with pytest.raises(ValueError, match=f"train: {what}_every"):
            ml.train(tune("lora"), BATCHES, steps=1, lr=0.0, **{what: value, f"{what}_every": 0})


@pytest.mark.parametrize("lr, steps, told", [(0.1, 1, 1), (0.0, 1, 0), (0.1, 2, 0)])
def test_one_step_of_a_falling_rate_is_warned_of(lr, steps, told):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ml.train(tune("lora"), BATCHES, steps=steps, lr=lr, schedule="linear")
    assert [str(w.message) for w in found] == [
        "train: with one step the linear schedule's rate is 0"
    ] * told


def test_a_callback_saves_a_run_that_has_no_checkpoint_of_its_own(tmp_path):
    class Saves(Callback):
        def step(self, run):
            run.save(tmp_path / f"{run.step}.safetensors")

    wanted = two_steps(Saves()).losses
    how = {"steps": 2, "lr": 0.01, "checkpoint": tmp_path / "1.safetensors", "resume": True}
    assert ml.train(tune("lora"), BATCHES, **how).losses == wanted


def test_arrays_that_are_not_finite_are_not_written(tmp_path):
    tuned, path = tune("lora"), tmp_path / "run.safetensors"
    first = next(iter(tuned.trainable.values()))
    spoil = AtTheFirstStep(lambda: first.fill(np.nan))
    with pytest.raises(Diverged, match="step 1"):
        ml.train(tuned, BATCHES, steps=1, lr=0.01, checkpoint=path, callbacks=[spoil])
    assert not path.exists()


def test_the_seconds_of_the_steps_are_those_of_the_run():
    start = time.perf_counter()
    seconds = two_steps().seconds
    assert min(seconds) > 0 and sum(seconds) <= time.perf_counter() - start


def test_one_target_is_enough_and_none_is_refused():
    ids, targets = BATCHES[0][0], np.full_like(BATCHES[0][0], -100)
    with pytest.raises(ValueError, match="step 1: no target counts, all are -100"):
        training.gradients(tune("lora"), [(ids, targets)])
    targets[0, 0] = 3
    assert training.gradients(tune("lora"), [(ids, targets)])[0] > 0


def test_a_warm_up_as_long_as_the_run_reaches_the_rate():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, warmup=2)
    assert history.rates == [0.005, 0.01]
    with pytest.warns(UserWarning, match="warmup is 3, steps is 2: the rate never reaches lr"):
        ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, warmup=3)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_corrected_gradient_reaches_the_step_once(clip):
    """With a huge eps AdamW's first step is -lr·g/eps: the gradient that it got shows."""
    tuned = shake(tune("lora_fa", corrected=True))
    _, grads = training.gradients(tuned, BATCHES[:1])
    factor = 1.0 if clip is None else clip_factor(grads, clip)
    wanted = {}
    for name, arrays in tuned.layers.items():
        key = tuned.key(name, "B")
        rule = {"B": factor * grads[key]}
        tuned.record.grad_rule(arrays, rule, tuned.options)
        wanted[key] = rule["B"]
    start = {key: a.copy() for key, a in tuned.trainable.items()}
    ml.train(tuned, BATCHES[:1], steps=1, lr=1e9, eps=1e9, betas=(0.0, 0.0), clip=clip)
    for key, a in tuned.trainable.items():
        assert np.abs(a - start[key] + wanted[key]).max() < 1e-6 * np.abs(wanted[key]).max() + 1e-12


def test_adamw_has_torch_s_defaults():
    for function in (AdamW, ml.train):
        defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        assert defaults["betas"] == (0.9, 0.999) and defaults["eps"] == 1e-8
        assert defaults["weight_decay"] == 0.0


def test_an_array_of_a_larger_rate_moves_as_many_times_as_far():
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    AdamW(params, scale={"b": 16.0}).step({name: np.ones(3) for name in params}, lr=0.01)
    assert np.allclose(params["a"], -0.01) and np.allclose(params["b"], -0.16)


# ---------------------------------------- gradcheck


@pytest.mark.parametrize("seed", range(8))
def test_two_errors_that_cancel_in_a_sum_do_not_hide_each_other(seed):
    wrong = np.array([1e-3, -1e-3, 0.0])
    with pytest.raises(GradientError, match="dx is wrong"):
        ml.gradcheck(
            lambda x: (2 * x, None), lambda dy, _: (2 * dy + wrong,), np.ones(3), seed=seed
        )


def test_a_gradient_below_the_rounding_of_a_large_output_is_right():
    ml.gradcheck(lambda x: (1e8 + 1e-12 * x, None), lambda dy, _: (1e-12 * dy,), np.ones(3))
    with pytest.raises(GradientError, match="dx is wrong"):
        ml.gradcheck(lambda x: (1e8 + 0 * x, None), lambda dy, _: (0.1 * dy,), np.ones(3))


def test_the_largest_tolerance_is_a_hundredth():
    pair = ops.exp.forward, ops.exp.backward
    assert ml.gradcheck(*pair, np.ones(3), tolerance=0.01) == ("a",)
    with pytest.raises(ValueError, match=r"at most 0\.01"):
        ml.gradcheck(*pair, np.ones(3), tolerance=0.011)


def test_a_direction_has_entries_of_both_signs_and_none_near_0():
    direction = gradcheck._random(types.SimpleNamespace(rng=np.random.default_rng(0)), 10_000)
    sizes = np.abs(direction)
    assert 1 <= sizes.min() < 1.01 and 1.99 < sizes.max() <= 2
    assert abs(np.sign(direction).mean()) < 0.05


def test_a_small_gradient_does_not_hide_a_smaller_one():
    scale, wrong = np.array([1e-4, 3e-12]), np.array([1e-4, 6e-12])
    ml.gradcheck(lambda x: (scale * x, None), lambda dy, _: (scale * dy,), np.ones(2))
    with pytest.raises(GradientError, match="dx is wrong"):
        ml.gradcheck(lambda x: (scale * x, None), lambda dy, _: (wrong * dy,), np.ones(2))


def test_the_worst_of_many_entries_is_looked_for_in_halves():
    calls, slopes = [], np.ones(1100)
    slopes[701] = 2

    def forward(x):
        calls.append(None)
        return x, None

    with pytest.raises(GradientError, match=r"at \[701\] got .*, ratio 2$"):
        ml.gradcheck(forward, lambda dy, _: (slopes * dy,), np.ones(1100))
    assert len(calls) < 3000


# ---------------------------------------- generation


@pytest.mark.parametrize(
    "temperature, top_p, u, token",
    [
        (1.0, 1.0, 0.0, 1),
        (1.0, 1.0, 0.49, 1),
        (1.0, 1.0, 0.51, 2),
        (1.0, 1.0, 0.79, 2),
        (1.0, 1.0, 0.81, 0),
        (1.0, 0.49, 0.99, 1),  # the first alone
        (1.0, 0.51, 0.99, 2),  # the first two
        (1.0, 0.79, 0.62, 1),  # of 0.8, the first has 0.625
        (1.0, 0.81, 0.99, 0),
        (2.0, 1.0, 0.45, 2),  # the shares are as the square roots: 0.415, 0.322, 0.263
        (0.0, 1.0, 0.99, 1),
    ],
)
def test_a_token_is_drawn_by_its_share(temperature, top_p, u, token):
    logits = np.log([[0.2, 0.5, 0.3]])
    chosen = generation._choose(logits, temperature, top_p, np.array([[u]]))
    assert chosen.tolist() == [token]


@pytest.mark.parametrize("top_p, u, token", [(0.5, 0.99, 0), (0.51, 0.99, 1), (1.0, 0.5, 0)])
def test_of_two_equal_tokens_the_first_is_drawn_up_to_the_half(top_p, u, token):
    assert generation._choose(np.zeros((1, 2)), 1.0, top_p, np.array([[u]])).tolist() == [token]


def test_a_draw_from_huge_logits():
    logits = np.array([[-1e4, 1e4, 1e4]])
    assert generation._choose(logits, 1.0, 1.0, np.array([[0.9]])).tolist() == [2]


def test_a_row_that_ended_with_token_0_repeats_it(monkeypatch):
    drawn = iter([[0, 5], [7]])
    monkeypatch.setattr(generation, "_choose", lambda *_: np.array(next(drawn)))
    found = base().generate(np.array([[1], [2]]), 2, stop=0)
    assert found.tolist() == [[1, 0, 0], [2, 5, 7]]


def test_two_prompts_of_two_lengths():
    found = base().generate([[1, 2], [3]], 2)
    alone = [base().generate(np.array([ids]), 2)[0] for ids in ([1, 2], [3])]
    assert [row.tolist() for row in found] == [row.tolist() for row in alone]


def test_a_text_wants_a_tokenizer_and_a_prompt():
    with pytest.raises(ValueError, match="generate_text: the model has no tokenizer"):
        base().generate_text("a")
    model = make_llama(tokenizer=CharTokenizer(("<pad>", "\n", *map(chr, range(97, 124)))))
    assert isinstance(model.generate_text("a", 2), str)
    with pytest.raises(ValueError, match="generate_text: prompt is '', wanted some text"):
        model.generate_text("")


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.01}, {"temperature": float("nan")}]
)
def test_settings_of_a_draw_have_their_ranges(wrong):
    model, ids = base(), np.array([[0, 28]])  # the first and the last token
    assert model.generate(ids, 1, temperature=0.0, top_p=1.0).shape == (1, 3)
    assert model.generate(ids, 0).shape == (1, 2)
    with pytest.raises(ValueError, match="generate: temperature"):
        model.generate(ids, 1, **wrong)


@pytest.mark.parametrize("ids", [[[-1]], [[29]], [], [[]], [[0.5]], [0], [[[0]]]])
def test_ids_that_are_none(ids):
    with pytest.raises(ValueError, match="ids: "):
        base().generate(np.array(ids), 1)


def test_an_ended_row_repeats_the_stop_and_all_ended_rows_end_the_text():
    model, ids = base(), np.array([[1, 2], [3, 4], [5, 6]])
    told, free = [], model.generate(ids, 6)[:, 2:]
    stop = int(free[0, 1])
    found = model.generate(ids, 6, stop=stop, on_token=lambda token: told.append(token.copy()))
    ends = [row.tolist().index(stop) if stop in row else 6 for row in free]
    wanted = [row.tolist()[:end] + [stop] * (6 - end) for row, end in zip(free, ends, strict=True)]
    length = min(6, max(ends) + 1)
    assert found[:, 2:].tolist() == [row[:length] for row in wanted]
    assert np.array_equal(np.stack(told, axis=1), found[:, 2:])


# ---------------------------------------- helpers of the course


@pytest.mark.parametrize("static", ["1", ""])
def test_a_line_stands_for_sliders_and_rates_where_notebooks_are_built(static, monkeypatch, capsys):
    monkeypatch.setenv(course.STATIC, static)
    course.race({"twice": lambda: None}, 1e9, rounds=1)
    said = capsys.readouterr().out
    assert ("this machine's rates for twice stand here" in said) == bool(static)
    assert ("GFLOP/s" in said) == (not static)
    if static:
        course.explore(lambda **_: None, rank=[1, 2])
        assert capsys.readouterr().out == ("In a running notebook, sliders for rank stand here.\n")


def test_a_picture_of_a_notebook_is_a_smaller_one():
    image, file = pytest.importorskip("PIL.Image"), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image.fromarray(noise).save(file, "PNG")
    small = course._small(file.getvalue())
    assert small.startswith(b"\x89PNG") and len(small) < len(file.getvalue())


def test_the_hint_of_a_slip_comes_before_the_exercise_s_own():
    exercise = types.SimpleNamespace(kind="blank", hints=("a", "b"))
    number = types.SimpleNamespace(kind="number", hints=("a", "b"))
    slip, about = next(iter(SLIPS.items()))
    assert hints_for(exercise, slip) == (about.hint, "a", "b")
    assert hints_for(exercise, None) == hints_for(number, slip) == ("a", "b")


def test_the_points_of_an_exercise_are_its_outputs_or_one():
    for name, exercise in EXERCISES.items():
        outputs = exercise.drawn(0)[0].true.values() if exercise.kind == "blank" else ()
        assert points(name) == (len([o for o in outputs if o is not None]) if outputs else 1)


@pytest.mark.parametrize("low, high, ticks", [(1, 30, [1, 2, 5, 10, 20]), (1, 200, [1, 10, 100])])
def test_a_logarithmic_axis_has_plain_numbers_and_keeps_ticks_that_were_set(low, high, ticks):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(low, high))
    course._plain_numbers(axes.xaxis)
    assert [t for t in axes.get_xticks() if low <= t <= high] == pytest.approx(ticks)
    axes.set_yscale("log")
    axes.set_yticks([3, 7])
    course._plain_numbers(axes.yaxis)
    assert [*axes.get_yticks()] == [3, 7]


def test_a_slider_begins_at_the_first_value_and_a_line_says_what_it_needs(monkeypatch, capsys):
    widgets, made = pytest.importorskip("ipywidgets"), {}
    monkeypatch.delenv("MINILORA_STATIC", raising=False)
    monkeypatch.setattr(widgets, "interact", lambda draw, **sliders: made.update(sliders))
    course.explore(lambda rank: None, rank=[8, 2, 4])
    assert made["rank"].value == 8 and tuple(made["rank"].options) == (2, 4, 8)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    course.explore(lambda rank: None, rank=[8, 2, 4])
    assert capsys.readouterr().out == "For sliders over rank: pip install ipywidgets\n"


def test_a_grade_shows_the_draw_that_is_wrong_and_no_two_seeds_share_a_draw(monkeypatch, capsys):
    drawn = []

    def judged(name, answer, seed):
        drawn.append(seed)
        return Judgement(*(("failed", "the second") if len(drawn) == 2 else ("passed", "right")))

    monkeypatch.setattr(grading, "judged", judged)
    assert grading.grade("lora_count", 3, seed=1) == 0
    said = capsys.readouterr().out
    assert "the second" in said and "hint" not in said
    assert drawn == [*range(grading.DRAWS, 2 * grading.DRAWS)]


@pytest.mark.parametrize("terminal, said", [(True, "progress bars"), (False, "no progress bars")])
def test_the_doctor_says_whether_bars_are_shown(terminal, said, monkeypatch):
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: terminal))
    assert f"terminal    {said}" in itertools.islice(doctoring.machine(), 11)


def test_two_functions_disagree_by_a_share_of_the_largest_number(monkeypatch):
    monkeypatch.setattr(fast, "twin", lambda function, like: lambda x: 1.01 * function(x))
    found = doctoring.disagreement(lambda x: 100 * x, (np.ones(3),))
    assert found == pytest.approx(0.01)


def test_a_ratio_is_one_for_all_entries_to_a_millionth():
    true, got = np.ones(100), np.full(100, 2.0)
    for gap, ratio in ((1e-6, 2), (3e-6, 0)):
        got[0] = 2 + gap
        assert constant_ratio(got, true) == pytest.approx(ratio)


def test_20_000_numbers_are_checked_and_one_more_is_refused():
    def check_of(n):
        return check_pair(lambda x: 2 * x, lambda dout, x: 2 * dout, np.ones(n))

    assert check_of(20_000).status == "passed"
    with pytest.raises(ValueError, match="got 20,001 numbers, wanted at most 20,000"):
        check_of(20_001)


# ---------------------------------------- bytes


@pytest.mark.parametrize("budget, wanted", [(12, 0), (13, 1), (15, 1), (16, 2), (3010, 1000)])
def test_the_largest_number_that_fits_is_found_in_a_few_tries(budget, wanted):
    tried = []

    def size(n):
        tried.append(n)
        return 10 + 3 * n

    assert largest(size, budget) == wanted and len(tried) <= 6
    assert largest(size, 10**9, limit=50) == 50
    assert largest(lambda n: n**3, budget) == max(n for n in range(20) if n**3 <= budget)


def test_activations_overtake_the_weights_at_the_first_length_with_more_bytes():
    rows = [types.SimpleNamespace(activations=100 * n, weights=1000) for n in (1, 2)]
    assert figure.overtaking((1, 2), rows) == 11
    light = [types.SimpleNamespace(activations=100 * n, weights=50) for n in (1, 2)]
    assert figure.overtaking((1, 2), light) == 1


def test_the_parts_of_a_ledger_add_up_to_its_peak():
    row = ml.ledger(base().config, 1, 8, method="lora")
    parts = row.weights, row.optimizer, row.scratch, row.activations, row.transient
    assert sum(parts) == row.peak and row.frozen + row.trainable + row.moved == row.weights


@pytest.mark.parametrize("mixed", [False, True])
def test_a_table_of_bytes_says_whether_they_were_measured_so(mixed):
    row = ml.ledger(base().config, 1, 8, method="lora", mixed=mixed)
    more = dataclasses.replace(row, activations=row.activations + 1)
    same, other = (
        "\n".join(tables.overview({"lora": row}, {"lora": r}, True, mixed)) for r in (row, more)
    )
    assert "the same bytes, peak +0.0%" in same and "NOT the same bytes" not in same
    assert "NOT the same bytes" in other
    assert ("master copy" in same) == mixed and ("a 32-bit master copy" in same) == mixed


@pytest.mark.parametrize("saver", savers.SAVERS, ids=lambda saver: saver.title)
def test_a_step_with_a_saver_trains(saver):
    tuned, plain = tune("full", base("float32")), tune("full", base("float32"))
    savers.step(tuned, saver, 0.01)(BATCHES[0][0])
    savers.step(plain, savers.SAVERS[0], 0.01)(BATCHES[0][0])
    assert tuned.recompute == saver.recompute
    for name, array in tuned.trainable.items():
        assert np.array_equal(array, plain.trainable[name])
        assert not np.array_equal(array, tuned.base.params[name]), name


def test_the_seconds_of_savers_are_those_of_a_step():
    start = time.perf_counter()
    found = savers.seconds(tune("lora", base("float32")), 1, 4, rounds=1)
    assert found.keys() == {saver.title for saver in savers.SAVERS}
    assert min(found.values()) > 0 and max(found.values()) < time.perf_counter() - start


def test_a_case_of_what_an_op_keeps_needs_more_bytes():
    kept = whatif.what_ifs(base().config, {"lora": {}, "vera": {}}, 1, 8)
    for row in kept.values():
        first = row["as it is"]
        assert row["every x"] > first and row["norm's y"] > first
        assert row["mask, floats"] > row["mask, bytes"] > row["dropout"]


SEEN = Saved("model.layers.0.mlp.gate", "linear", "x", (2, 3), 200, ("model.layers.0.mlp.up",))
ROW = Ledger(
    weights=1000, gradients=20, optimizer=40, activations=500, frozen=900, trainable=70, shared=10,
    moved=20, base_kept=0, scratch=64, peak=1624, transient=20,
    saved=(
        SEEN,
        dataclasses.replace(SEEN, where="model.layers.1.mlp.gate"),
        Saved("model.norm", "rmsnorm", "x", (2, 3), 100, ()),
    ),
)  # fmt: skip


def cells(line):
    """Each cell of a line of a table with the place at which it ends."""
    return [(m[0], m.end()) for m in re.finditer(r"\S+(?: \S+)*", line)]


def test_the_overview_has_its_numbers_under_the_names_of_their_columns():
    head, lora, real, *notes = tables.overview({"lora": ROW}, {"lora": ROW})
    names = ("method", "weights", "gradients", "optimizer", "activations", "peak")
    assert cells(head) == list(zip(names, (6, 32, 45, 58, 71, 84)))
    numbers = ("0.98 KiB", "20 B", "40 B", "500 B", "1.59 KiB")
    assert cells(lora) == list(zip(("LoRA", *numbers), (4, 32, 45, 58, 71, 84)))
    assert real == f"  measured{lora[10:]}   the same bytes, peak +0.0%" and len(notes) == 1
    assert lora.startswith("LoRA ")


def test_what_is_kept_of_the_base_is_said_once():
    row, said = dataclasses.replace(ROW, base_kept=2048), "base kept, in addition"
    short, long = ("\n".join(tables.overview({"full": row}, {}, d)) for d in (False, True))
    assert short.endswith(f"{said}, so that detach gives it back: Full fine-tuning 2.00 KiB")
    assert said not in long and long.count("base kept") == 1


def test_the_parts_and_the_saved_arrays_stand_in_columns():
    _, *found = tables.parts(ROW)
    assert cells(found[0]) == [("frozen,", 7), ("weights that do not train", 39), ("900", 69)]
    assert found[1].index("weights that train") == 14 and len(found) == 11
    _, *found = tables.saved(ROW)
    wanted = [
        [("saved for backward", 18), ("arrays", 52), ("bytes", 69), ("also kept by", 84)],
        [("mlp.gate: x (linear)", 20), ("2", 52), ("400", 69), ("mlp.up", 78)],
        [("model.norm: x (rmsnorm)", 23), ("1", 52), ("100", 69)],
        [("together", 8), ("3", 52), ("500", 69)],
    ]
    assert [cells(line) for line in found] == wanted


def test_a_budget_of_nothing_is_refused_and_the_other_sizes_are_the_last_that_fit():
    config = base().config
    with pytest.raises(ValueError, match=r"--fit is 0, wanted a number of GB above 0"):
        tables.fits(config, {"lora": {}}, 0, 4)
    peaks = [ml.ledger(config, 1, n, method="lora").peak for n in range(1, 40)]
    more = [ml.ledger(config, n, 4, method="lora").peak for n in range(1, 40)]
    budget = peaks[20]
    assert tables.fits(config, {"lora": {}}, budget / 1e9, 4)["lora"] == {
        "rows": sum(peak <= budget for peak in more),
        "tokens": 21,
    }


def test_the_table_of_what_fits():
    limits = {"lora": {"rows": 0, "tokens": 1234}, "vera": {"rows": 4096, "tokens": 2**17}}
    first, *rows, last = tables.fit_table(limits, base().config, 0.5, 128)
    assert first == "within 0.5 GB (10⁹ bytes), by the predicted peak:"
    wanted = [
        [("method", 6), ("rows of 128 tokens", 41), ("tokens of one row", 62)],
        [("LoRA", 4), ("none", 41), ("1,234", 62)],
        [("VeRA", 4), ("4,096 or more", 41), ("131,072 or more", 62)],
    ]
    assert [cells(row) for row in rows] == wanted
    assert last == "memory only: the model was made for 2,048 tokens a row"


def test_the_table_of_the_rows_that_matter_counts_targets():
    """In row 1 the positions up to its last target can matter; row 2 has no target."""
    ids, targets = np.ones((2, 3), int), np.array([[-100, 2, -100], [-100, -100, -100]])
    kept = {"lora": {"every": 2048, "matter": 1024, "recomputed": 512}}
    head, lora, which, _ = tables.rows_table(kept, (ids, targets))
    names = ("kept for backward", "every position", "that matter", "and recompute")
    assert cells(head) == list(zip(names, (17, 34, 56, 78)))
    assert [end for _, end in cells(lora)] == [4, 34, 49, 56, 71, 78]
    assert lora.split() == "LoRA 2.00 KiB 1.00 KiB 50.0% 512 B 25.0%".split()
    assert which == "2 × 3 positions, of which 2 can matter and 1 have a counted target"


def test_bytes_kept_in_three_ways_are_the_ledger_s():
    config, batch = base().config, BATCHES[0]
    found = tables.kept_by_rows(config, {"lora": {}}, batch)["lora"]
    N, T = batch[0].shape
    again = ml.ledger(config, batch=batch, method="lora", recompute="layers")
    assert found == {
        "every": ml.ledger(config, N, T, method="lora").activations,
        "matter": ml.ledger(config, batch=batch, method="lora").activations,
        "recomputed": again.activations,
    }


def test_the_table_of_savers_compares_with_the_first():
    row = {"saved": 100, "peak": 900, "measured_peak": 905, "seconds": 0.002}
    less = row | {"peak": 600, "seconds": 0.0025}
    more = row | {"peak": 1000, "seconds": 0.001}
    titles = [saver.title for saver in savers.SAVERS]
    head, *rows = [*savers.table({"lora": dict(zip(titles, (row, less, more, row)))})][:4]
    names = ("LoRA", "saved", "peak", "measured", "less", "time")
    assert cells(head) == list(zip(names, (4, 30, 42, 54, 66, 78)))
    assert cells(rows[0])[1:] == [("100 B", 30), ("900 B", 42), ("905 B", 54), ("2.0 ms", 78)]
    assert cells(rows[1])[4:] == [("300 B", 66), ("+25%", 78)]
    assert cells(rows[2])[4:] == [("-100 B", 66), ("-50%", 78)]


@pytest.mark.parametrize("saver", savers.SAVERS[:3], ids=lambda saver: saver.title)
def test_the_bytes_of_a_saver_are_those_of_its_recompute(saver):
    config = base("float32").config
    said, found = savers.bytes_of(tune("lora", base("float32"), rank=8), saver, 2, 8)
    how = dict(method="lora", targets="all-linear", recompute=saver.recompute)
    wanted = ml.ledger(config, 2, 8, **how)
    assert said.activations == found.activations == wanted.activations and said.peak == wanted.peak


def test_the_table_of_cases_has_shares_of_lora_s_first_and_meanings():
    titles = [case.title for case in whatif.CASES]
    kept = dict(zip(titles, (200, 300, 400, None, None, None)))
    found = [*whatif.table({"lora": kept, "vera": dict.fromkeys(titles, 50)}, 110)]
    places = (17, 32, 46, 60, 74, 88, 102)
    assert cells(found[0]) == list(zip(("kept for backward", *titles), places))
    numbers = ("LoRA", "200 B", "300 B", "400 B", "–", "–", "–")
    assert cells(found[1]) == list(zip(numbers, (4, 32, 46, 60, 74, 88, 102)))
    assert cells(found[2]) == [("100.0%", 32), ("150.0%", 46), ("200.0%", 60)]
    assert found[4].split() == ["25.0%"] * 6
    narrow = [*whatif.table({"vera": dict.fromkeys(titles, 50)}, 60)]
    first = f"as it is:     each op keeps what its backward reads, and\n{14 * ' '}nothing else"
    assert first in narrow


# ---------------------------------------- a ledger


def test_in_mixed_precision_the_parts_add_up_to_the_peak():
    """AdamW keeps 12 bytes a trained number: a master copy and two moments."""
    row = ml.ledger(base().config, 2, 8, method="lora", mixed=True)
    assert row.weights + row.optimizer + row.scratch + row.activations + row.transient == row.peak
    assert row.optimizer == 12 * row.trainable // 2


def test_scratch_is_the_tables_of_64_places_and_the_angles_of_each_row():
    """cos and sin of D/2 = 2 float32 numbers: 16 bytes a place."""
    row = ml.ledger(base().config, 200, 2, method="lora")
    assert row.scratch == 16 * (64 + 200 * 2)


def test_a_vocabulary_of_one_token_is_measured():
    llama = make_llama(dtype="float32", vocab_size=1)
    tuned = ml.attach(llama, "lora")
    assert ml.measure(tuned, 2, 4).activations == ml.ledger(tuned, 2, 4).activations


def test_of_two_measured_steps_the_smaller_peak_counts():
    """A first step that holds 8 MB for a moment does not change what is measured."""
    tuned, calls = tune("lora", base("float32")), []

    def walk(loss):
        calls.append(len(calls) or np.zeros(10**6).size)
        backward(loss)

    assert ml.measure(tuned, 2, 8, walk=walk).peak < 8e6 and len(calls) == 2


def test_garbage_from_before_is_no_part_of_what_is_measured():
    """8 MB that only the garbage collector frees, and that are traced, do not hide 0.8 MB."""

    def walk(loss):
        gc.collect()
        held = np.zeros(10**5)
        backward(loss)
        assert held.nbytes == 800_000

    tuned = tune("lora", base("float32"))
    tracemalloc.start()
    gc.disable()
    try:
        ring = [np.zeros(10**6)]
        ring.append(ring)
        del ring
        assert ml.measure(tuned, 2, 8, walk=walk).transient > 800_000
        assert tracemalloc.is_tracing()
    finally:
        gc.enable()
        tracemalloc.stop()


def test_next_is_tried_where_a_straight_line_meets_the_budget():
    """A line is met at once. n²: the line through the last two sizes; the eighth try halves."""
    tried = []

    def counted(size):
        tried.clear()
        return lambda n: tried.append(n) or size(n)

    assert largest(counted(lambda n: 1000 + 3 * n), 1172) == 57 and tried == [1, 2, 57, 58]
    assert largest(counted(lambda n: n * n), 100) == 10
    assert tried == [1, 2, 34, 3, 25, 6, 13, 9, 10, 11]
    assert largest(counted(lambda n: 0 if n <= 700_000 else 10**12), 10) == 700_000
    assert len(tried) <= 2 + 8 + 20


# ---------------------------------------- the figure of bytes


def test_a_line_through_the_first_and_the_last_length_gives_where_weights_are_overtaken():
    rows = [types.SimpleNamespace(activations=a, weights=1000) for a in (100, 150, 1100)]
    assert figure.overtaking((1, 5, 11), rows) == 11
    heavy = [types.SimpleNamespace(activations=100 * n + 500, weights=50) for n in (1, 2)]
    assert figure.overtaking((1, 2), heavy) == 1


def test_the_lengths_of_the_figure_reach_twice_where_weights_are_overtaken():
    config, settings = base().config, {"lora": {}, "full": {}}
    lengths, found = figure.curves(config, settings, 1)

    def more(name, n):
        row = ml.ledger(config, 1, n, method=name)
        return row.activations > row.weights

    last = max(next(n for n in range(1, 99) if more(name, n)) for name in settings)
    top = next(2**k for k in range(9) if 2**k >= 2 * last)
    assert lengths == [1, top // 2, top] and list(found) == ["lora", "full"]
    short = dataclasses.replace(config, max_position_embeddings=3)
    assert figure.curves(short, settings, 1)[0] == [1, 3]


def test_the_figure_has_a_titled_panel_for_each_method_on_one_scale():
    methods = ["lora", "lora_fa", "vera", "full"]
    lengths, found = figure.curves(base().config, {name: {} for name in methods}, 1)
    lengths = [1, 512, 1024]

    def drawn(names):
        return figure.memory_by_length(lengths, {name: found[name] for name in names}, "bytes")

    four, two, one = drawn(methods), drawn(methods[:2]), drawn(methods[:1])
    most = max(row.total() for rows in found.values() for row in rows)
    assert [axes.get_title("left") for axes in four.axes] == [
        ml.METHODS[name].title for name in methods
    ]
    first = four.axes[0]
    for axes in four.axes:
        assert axes.get_xlim() == (1, 1024) and axes.get_ylim()[0] == 0
        assert most <= axes.get_ylim()[1] <= 1.05 * most
        assert axes is first or axes.get_shared_y_axes().joined(axes, first)
        assert all(not part.get_linewidth().any() for part in axes.collections)
    assert [t for t in first.xaxis.get_major_locator()() if 0 <= t <= 1024] == [0, 500, 1000]
    assert first.yaxis.get_major_formatter()(2048, 0) == "2 KiB"
    assert four.get_suptitle() == "bytes"
    labels = [text.get_text() for text in four.legends[0].get_texts()]
    assert labels == [*figure.PARTS, "all that LoRA holds"]
    (w1, h1), (w2, h2), (w4, h4) = (f.get_size_inches() for f in (one, two, four))
    assert (w2 - w1, h2 - h1) == pytest.approx((4.5, 0))
    assert (w4 - w2, h4 - h2) == pytest.approx((4.5, 3.7))
