"""Techniques, checkpoints and adapters on disk at the limits of what they say."""

import dataclasses
import importlib
import json
import warnings

import numpy as np
import pytest
from battery import BATCHES, base, shake, tune
from conftest import make_llama

import minilora as ml
from minilora.formats.safetensors import read_arrays, write_arrays
from minilora.methods.base import whole_number
from minilora.tuning import checkpoints, peft_config, storage
from minilora.tuning.choices import pick
from minilora.tuning.history import History
from minilora.tuning.optim import AdamW

# its name in the package is a function
training = importlib.import_module("minilora.tuning.train")

# ---------------------------------------- techniques


@pytest.mark.parametrize(
    "alpha, text",
    [(8.0, "8"), (200.0, "200"), (-3.0, "-3"), (0.5, "0.5"), (2.0**53, "9007199254740992.0")],
)
def test_whole_alphas_are_written_without_a_point_as_far_as_float64_tells_them_apart(alpha, text):
    assert json.dumps(whole_number(alpha)) == text


@pytest.mark.parametrize("steps, rest", [(1, 1), (74, 1), (100, 2), (1000, 20)])
def test_a_compared_delta_lora_s_weight_rests_for_a_fiftieth_of_the_run(steps, rest):
    assert ml.METHODS["delta_lora"].of_run(steps, 0) == {"start_step": rest}


def test_each_seed_of_a_comparison_draws_vera_s_matrices_anew():
    assert ml.METHODS["vera"].of_run(100, 7) == {"projection_prng_key": 7}


def test_an_adapter_of_the_first_layer_alone_comes_back_from_disk(tmp_path):
    tuned = ml.attach(base(), "lora", rank=2, targets=["q_proj"], layers_to_transform=0)
    ml.save_adapter(tuned, tmp_path)
    assert [*ml.load_adapter(base(), tmp_path).layers] == ["model.layers.0.self_attn.q_proj"]


def test_dora_wants_a_direction_of_every_row():
    model = make_llama()
    model.params["model.layers.0.self_attn.q_proj.weight"][1] = 0
    with pytest.raises(ValueError, match="dora: a row of the weight is all 0"):
        ml.attach(model, "dora")
    assert ml.attach(model, "dora", targets=("k_proj",)).layers


def test_an_adapter_shows_itself():
    tuned = tune("lora", rank=3, alpha=6.0)
    shown = tuned._repr_html_()
    assert "LoRA on Llama" in shown and "rank" in shown and "all-linear" in shown


def test_a_technique_without_factors_says_so():
    with pytest.raises(ValueError, match="dora: its change of a weight is not a product of fac"):
        tune("dora").factors("model.layers.0.self_attn.q_proj")


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
    with pytest.warns(UserWarning, match="loaded as lora, but saved by a technique of your own"):
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
    own["base"]["crc32"] = storage.mark(base("float32"))
    assert storage._other_base(base("float32"), own) == ""


def test_what_was_learned_for_a_linear_without_an_adapter_is_how_far_it_moved():
    layer = "model.layers.0.self_attn.q_proj"
    full, lora = tune("full"), tune("lora", targets=("v_proj",))
    full.weights[f"{layer}.weight"] += 0.5
    assert np.allclose(full.delta(layer), 0.5) and not lora.delta(layer).any()


def test_a_checkpoint_settles_its_method_and_its_options(tmp_path):
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora", targets=("q_proj",)), BATCHES, steps=1, lr=0.1, checkpoint=path)
    with pytest.raises(ValueError, match="stored as 'lora', which is not vera"):
        ml.load_adapter(base(), path, "vera")
    with pytest.raises(ValueError, match="a checkpoint settles its method and options"):
        ml.load_adapter(base(), path, dropout=0.1)
    assert ml.load_adapter(base(), path, "lora").method == "lora"


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


def test_a_rank_of_more_bytes_than_a_number_counts_names_the_file(tmp_path):
    model = base("float32")
    ml.save_adapter(ml.attach(model, "vera", rank=2), tmp_path, save_projection=False)
    path, arrays = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    write_arrays(arrays, read_arrays(arrays)[0])  # without our metadata, which has the rank
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 2**63}))
    with pytest.raises(ValueError, match=r"adapter_config\.json: .*rank is too large"):
        ml.load_adapter(model, tmp_path)


def test_the_first_pattern_that_matches_a_linear_is_taken():
    pattern = {"k_proj": 1, "q_proj": 2, r".*_proj": 3}
    picked = [pick(pattern, f"model.layers.0.self_attn.{kind}_proj", 8) for kind in "kqv"]
    assert picked == [1, 2, 3] and pick({"q_proj": 2}, "model.layers.0.self_attn.v_proj", 8) == 8
