"""Bad input: each is answered in one line that says what, what was got and what was wanted."""

import contextlib
import copy
import functools
import json
import pickle
import re
import time
import warnings

import numpy as np
import pytest
from battery import BATCHES, base, same_bits, tune

import minilora as ml
from minilora.cli import main, parser
from minilora.support.machine import allocating
from minilora.support.names import PEFT_NAMES

NAMES = list(ml.METHODS)
RANKED = [n for n in NAMES if "rank" in ml.METHODS[n].takes]


def refuses(call, *said, error=ValueError):
    """call() raises one line, and every one of `said` stands in it."""
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line.strip() and len(line) < 250
    for part in said:
        assert re.search(part, line), f"{part!r} is not in {line!r}"


# ---------------------------------------- attach


@pytest.mark.smoke
@pytest.mark.parametrize("rank", [0, 2.5, True, "4", float("nan")])
@pytest.mark.parametrize("name", RANKED)
def test_ranks(name, rank):
    refuses(lambda: ml.attach(base(), name, rank=rank), name, "rank", repr(rank), "at least 1")


@pytest.mark.parametrize("name", RANKED)
def test_a_rank_above_the_width(name):
    """The LoRA family warns once, for all targets together; VeRA's rank has no such bound."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuned = ml.attach(base(), name, rank=20, targets="all-linear")
    assert tuned.rank == 20
    if name == "vera":
        assert not caught
    else:
        (warning,) = caught
        assert re.search(f"{name}: rank 20 is above 8", str(warning.message))
        assert warning.filename == __file__  # it points at the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ml.attach(base(), name, rank=8, targets="all-linear")


def test_a_layer_s_own_rank_above_its_width():
    """Each rank is held against the layers that have it."""
    for own, says in (({"q_proj": 9999}, "9999 is above 16"), ({"v_proj": 9}, "9 is above 8")):
        with pytest.warns(UserWarning, match=f"lora: rank {says}") as caught:
            ml.attach(base(), "lora", rank=4, rank_pattern=own)
        assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning) as caught:
        ml.attach(base(), "lora", rank=20, rank_pattern={"q_proj": 30})
    assert len(caught) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ml.attach(base(), "lora", rank=20, rank_pattern={"q_proj": 2, "v_proj": 8})


def test_what_a_method_does_not_take():
    for word, value in {"rank": 4, "alpha": 8, "targets": ("q_proj",)}.items():
        refuses(
            lambda w=word, v=value: ml.attach(base(), "full", **{w: v}), "full", word, "4|8|q_p"
        )
    refuses(lambda: ml.attach(base(), "vera", alpha=8), "vera: takes no alpha, got 8")
    refuses(lambda: ml.attach(base(), "full", dropout=0.1), "option of full", "dropout")


@pytest.mark.smoke
def test_unknown_names_come_with_the_nearest():
    refuses(lambda: ml.attach(base(), "lorra"), "method 'lorra'", "did you mean 'lora'")
    refuses(lambda: ml.attach(base(), "zzz"), "method 'zzz'", "full, lora, lora_fa, vera")
    refuses(lambda: ml.attach(base(), None), "method None", "full, lora")
    refuses(lambda: ml.attach(base(), "lora_plus", ration=4), "option of lora_plus", "'ratio'")
    refuses(lambda: ml.attach(base(), "lora", ratio=4), "option of lora", "'ratio'")
    refuses(lambda: ml.attach(base(), "lora", targets="q_porj"), "target 'q_porj'", "'q_proj'")
    refuses(lambda: ml.attach(base(), "lora", targets=("q_proj", "attn")), "'attn'", "all-linear")
    refuses(lambda: ml.attach(base(), "lora", targets=(3,)), "target 3", "q_proj")
    refuses(lambda: ml.attach(base(), "lora", targets="allinear"), "'all-linear'")


@pytest.mark.parametrize("target", ["lm_head", "model.embed_tokens"])
def test_head_and_embedding_are_refused_with_the_reason(target):
    refuses(lambda: ml.attach(base(), "lora", targets=target), target, "tied", "tokens")


def test_targets_that_match_nothing():
    refuses(lambda: ml.attach(base(), "lora", targets=()), "targets: got none", "q_proj")
    for number in (3, 2.5, True):
        refuses(lambda t=number: ml.attach(base(), "lora", targets=t), "targets is", "q_proj")
    refuses(
        lambda: ml.attach(base(), "lora", targets="model.layers.7.self_attn.q_proj"),
        "layers.7",
        "all-linear",
    )
    refuses(lambda: ml.attach(base(), "lora", targets="input_layernorm"), "input_layernorm")
    one = ml.attach(base(), "lora", targets="model.layers.1.self_attn.q_proj")
    assert list(one.layers) == ["model.layers.1.self_attn.q_proj"]


LAYER = "model.layers.{}.{}"
Q, V = "self_attn.q_proj", "self_attn.v_proj"


@pytest.mark.parametrize(
    "given, wanted",
    [
        ({"targets": r".*\.(q|v)_proj"}, [(0, Q), (0, V), (1, Q), (1, V)]),
        ({"targets": (r"layers\.1\..*q_proj", "v_proj")}, [(0, V), (1, Q), (1, V)]),
        ({"layers_to_transform": 1}, [(1, Q), (1, V)]),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, [(0, Q), (0, V)]),
        ({"layers_to_transform": 0, "layers_pattern": ["h", "layers"]}, [(0, Q), (0, V)]),
        ({"exclude_modules": "v_proj"}, [(0, Q), (1, Q)]),
        ({"exclude_modules": ["v_proj", LAYER.format(0, Q)]}, [(1, Q)]),
        ({"exclude_modules": r".*\.1\..*"}, [(0, Q), (0, V)]),
        ({"targets": r"(?!.*mlp).*[qv]_proj", "layers_to_transform": 0}, [(0, Q), (0, V)]),
    ],
)
def test_layers_are_chosen_by_patterns_and_numbers(given, wanted, tmp_path):
    tuned = ml.attach(base(), "lora", rank=2, **given)
    assert list(tuned.layers) == [LAYER.format(*each) for each in wanted]
    ml.save_adapter(tuned, tmp_path)
    assert ml.load_adapter(base(), tmp_path).layers.keys() == tuned.layers.keys()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"targets": ".*x_proj"}, "'.*x_proj' matches no linear; their names are as model"),
        ({"targets": "(q_proj"}, "no regular expression"),
        ({"layers_to_transform": 2}, "no layer 2, wanted 0 to 1"),
        ({"layers_to_transform": [0, 1.5]}, "layers_to_transform is 1.5"),
        ({"layers_pattern": "layers"}, "wanted layers_to_transform too"),
        ({"exclude_modules": ".*"}, "no linear is left.*exclude_modules '.*'"),
        ({"layers_to_transform": 0, "layers_pattern": "h"}, "no linear is left.*pattern 'h'"),
    ],
)
def test_a_choice_of_layers_that_chooses_none(given, said):
    refuses(lambda: ml.attach(base(), "lora", **given), said)
    refuses(lambda: ml.attach(base(), "full", **given), f"full: takes no {next(iter(given))}")


def test_a_stranger_s_pattern_does_not_hang(tmp_path):
    """In each field of PEFT's config that chooses layers."""
    ml.save_adapter(tune("lora", targets="q_proj"), tmp_path)
    path = tmp_path / "adapter_config.json"
    fields = json.loads(path.read_text())
    evil, start = r"(.*.*)*.*.*.*.*.*.*x", time.process_time()
    for name, value in (
        ("target_modules", evil),
        ("exclude_modules", evil),
        ("rank_pattern", {evil: 2}),
        ("alpha_pattern", {evil: 2}),
        ("layers_pattern", evil),
    ):
        number = {"layers_to_transform": 0} if name == "layers_pattern" else {}
        path.write_text(json.dumps({**fields, **number, name: value}))
        with contextlib.suppress(ValueError):  # it chooses no layer, or takes too many steps
            ml.load_adapter(base(), tmp_path)
    assert time.process_time() - start < 9


@pytest.mark.parametrize(
    "name, option, values, wanted",
    [
        ("lora", "seed", [-1, 1.5, "3", None, True], "at least 0"),
        ("lora", "alpha", [0, float("nan"), float("inf"), "8", True], "other than 0"),
        ("lora", "dropout", [-0.1, 1, float("nan"), "0.1", None], "below 1"),
        ("lora", "rank_stabilized", ["yes", 1, None], "True or False"),
        ("lora_plus", "ratio", [0, -1, float("inf"), "16", None, True], "above 0"),
        ("delta_lora", "update_ratio", [float("nan"), "2", None], "a finite number"),
        ("delta_lora", "start_step", [-1, 1.5, "3", None, True], "at least 0"),
        ("vera", "projection_prng_key", [1.5, "3", None, True], "a whole number"),
        ("vera", "d_initial", [float("nan"), "0.1", None], "a finite number"),
        ("lora_fa", "corrected", ["yes", 1, None], "True or False"),
    ],
)
def test_options_out_of_range(name, option, values, wanted):
    for value in values:
        call = functools.partial(ml.attach, base(), name, **{option: value})
        refuses(call, option, re.escape(repr(value)), wanted)


# ---------------------------------------- ids and batches


@pytest.mark.parametrize("name", NAMES)
def test_ids(name):
    tuned = tune(name)
    for ids, said in (
        (np.zeros(3, int), r"shape \(3,\)"),
        (np.zeros((1, 2, 3), int), r"shape \(1, 2, 3\)"),
        (np.zeros((0, 3), int), r"shape \(0, 3\)"),
        (np.zeros((2, 3)), "float64"),
        (np.full((1, 2), 29), "29.*0 … 28"),
        (np.full((1, 2), -1), "-1.*0 … 28"),
    ):
        refuses(lambda i=ids: tuned.logits(i), "ids", said)
        refuses(lambda i=ids: tuned.generate(i, 2), "ids", said)
        refuses(lambda i=ids: ml.train(tuned, [(i, i)], steps=1, lr=0.1), "ids", said)


def test_batches():
    tuned = tune("lora")
    ids, targets = BATCHES[0]
    before = tune("lora").arrays

    def run(batches):
        return lambda: ml.train(tuned, batches, steps=1, lr=0.1)

    refuses(run([]), "no batches", "at least one")
    refuses(run([(ids, targets[:, :-1])]), "targets", r"\(3, 5\)", r"\(3, 6\)")
    refuses(run([(ids, targets.astype(float))]), "targets", "float64", "whole numbers")
    refuses(run([(ids, np.full_like(ids, 29))]), "target is 29", "0 … 28 or -100")
    refuses(run([(ids, np.full_like(ids, -1))]), "target is -1", "0 … 28 or -100")
    refuses(run([("walk ", "walked")]), "a pair of texts, .*: see ml.batches")
    refuses(run(None), "batches", "NoneType")
    assert same_bits(tuned.arrays, before)
    lists = [(ids.tolist(), targets.tolist())]
    assert ml.train(tuned, lists, steps=1, lr=0.1).losses


# ---------------------------------------- train


@pytest.mark.parametrize(
    "setting, values",
    [
        ("steps", [1.5, True, "3", None]),
        ("lr", [-0.1, float("nan"), float("inf"), "fast", None]),
        ("weight_decay", [-0.1, float("nan"), float("inf"), "a"]),
        ("betas", [("a", "b"), (float("nan"), 0.9)]),
        ("eps", [-1e-8, float("nan"), "a"]),
        ("warmup", [0.5, None, True]),
        ("clip", [-1.0, float("nan"), "a"]),
        ("accumulate", [1.5, True, None]),
        ("schedule", ["cosin", None]),
    ],
)
def test_settings_of_train(setting, values):
    tuned = tune("lora")
    for value in values:
        settings = {"steps": 1, "lr": 0.1, setting: value}
        refuses(lambda s=settings: ml.train(tuned, BATCHES, **s), setting, re.escape(repr(value)))
    assert same_bits(tuned.arrays, tune("lora").arrays)


# ---------------------------------------- adapters on another base


def test_an_adapter_of_another_base(tmp_path):
    ml.save_adapter(tune("lora"), tmp_path)
    refuses(lambda: ml.load_adapter(base(width=24), tmp_path), "shape", r"\(3, 24\)", r"\(3, 36\)")
    refuses(lambda: ml.load_adapter(base(), tmp_path, method="vera"), "LORA", "vera", "lora_fa")
    refuses(
        lambda: ml.load_adapter(base(), tmp_path / "no"), "no such file", error=FileNotFoundError
    )
    refuses(lambda: ml.load_adapter(base(), tmp_path, ratio=3), "option of lora", "ratio")


def test_unmerge_of_another_model(tmp_path):
    """Shapes that do not fit are refused, not broadcast."""
    refuses(lambda: ml.unmerge(base(width=24), tune("lora")), "config|shape")


# ---------------------------------------- names of PEFT


@pytest.mark.parametrize(
    "method, given, said",
    [
        ("lora", {"r": 4}, "lora: got the option r; wanted rank"),
        ("vera", {"vera_dropout": 0.1}, "vera: got the option vera_dropout; wanted dropout"),
        ("lora", {"use_dora": True}, "lora: got the option use_dora; wanted the method 'dora'"),
        ("LoRA", {}, "unknown method 'LoRA'; did you mean 'lora'"),
        ("lora+", {}, "did you mean 'lora_plus'"),
        ("LoRA-FA", {}, "did you mean 'lora_fa'"),
        ("Delta LoRA", {}, "did you mean 'delta_lora'"),
    ],
)
def test_peft_s_names_are_answered_with_ours(method, given, said):
    refuses(lambda: ml.attach(base(), method, **given), re.escape(said))


# ---------------------------------------- what newcomers type


def test_texts_are_no_pairs():
    """Nor is a prompt a list of pairs."""
    model = ml.load_model("base")
    for pairs in (["abc"], ["ab"], [("a",)], [3], [(1, "a")]):
        refuses(lambda p=pairs: ml.batches(p, model.tokenizer, 1), "wanted a pair .prompt, comp")
    refuses(lambda: ml.exact_match(model, "Dwalk>"), "exact_match: 'D': wanted a pair .prompt")


@pytest.mark.parametrize(
    "line, said",
    [
        (["generate", "--prompt", ""], "--prompt is empty, wanted some text"),
        (["compare", "--lr", "0.1"], "--lr: got '0.1', wanted METHOD=RATE, as lora=0.1"),
        (["memory", "--batch", "100000000"], "tokens, wanted at most"),
    ],
)
def test_lines_of_newcomers(line, said, capsys):
    assert main(line) == 2
    (err,) = capsys.readouterr().err.splitlines()
    assert said in err


def test_the_base_that_an_adapter_wants_is_named(tmp_path):
    """Of other shapes: with the error; of the same shapes: in a warning, once it is loaded."""
    model = ml.load_model("base")
    ml.save_adapter(ml.attach(model, "lora", rank=2), tmp_path)
    which = r"the base 'base' \([0-9a-f]{8}\)"
    refuses(lambda: ml.load_adapter(base(), tmp_path), "arrays|shape", f"; wanted {which}")
    params = {**model.params, "model.norm.weight": 2 * model.params["model.norm.weight"]}
    other = ml.Llama(model.config, params)
    said = rf"saved on {which}, and this is another, \([0-9a-f]{{8}}\)"
    with pytest.warns(UserWarning, match=said) as caught:
        ml.load_adapter(other, tmp_path)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ml.load_adapter(model.astype("float64"), tmp_path)


# ---------------------------------------- what a reader of PEFT and transformers would try


@pytest.mark.smoke
def test_an_adapter_where_a_model_is_wanted():
    tuned = ml.attach(base(), "lora", rank=4)
    wrong = {"attach": lambda m: ml.attach(m, "vera"), "library": ml.Library}
    wrong["load_adapter"] = lambda m: ml.load_adapter(m, "folder")
    for who, call in wrong.items():
        refuses(
            lambda c=call: c(tuned),
            rf"{who}: got a Tuned.*detach and merge return one",
            error=TypeError,
        )
        refuses(lambda c=call: c("base"), rf"{who}: got a str.*load_model", error=TypeError)


@pytest.mark.smoke
def test_a_model_where_an_adapter_is_wanted(tmp_path):
    model, tuned = base(), ml.attach(base(), "lora", rank=4)
    for who, more in (("save_adapter", [tmp_path]), ("measure", [1, 4]), ("merge", [])):
        call = functools.partial(getattr(ml, who), model, *more)
        refuses(call, rf"{who}: got a Llama, wanted a Tuned", error=TypeError)
    calls = {
        "save_model: got a Tuned.*merge return one": lambda: ml.save_model(tuned, tmp_path),
        "save_gguf: got a Tuned.*merge return one": lambda: ml.save_gguf(
            tuned, tmp_path / "x.gguf"
        ),
        "unmerge: got a Tuned, wanted a Llama": lambda: ml.unmerge(tuned, tuned),
        "merge: got a Llama, wanted a Tuned": lambda: ml.unmerge(model, model),
        "Llama.*attach": lambda: ml.train(model, BATCHES, steps=1, lr=0.1),
    }
    for words, call in calls.items():
        refuses(call, words, error=TypeError)


@pytest.mark.smoke
def test_a_name_where_a_model_is_wanted():
    """As in transformers, where a name is enough."""
    pairs = [("Dwalk>", "walked")]
    calls = {
        "ledger: got 'base', wanted .*: load_model gives one": lambda: ml.ledger(
            "base", 1, 16, method="lora"
        ),
        "ledger: got a NoneType, wanted a Tuned": lambda: ml.ledger(None, 1, 16, method="lora"),
        "exact_match: got 'base', wanted a model: load_model gives one": lambda: ml.exact_match(
            "base", pairs
        ),
        "batches: got a Llama, wanted its tokenizer: model.tokenizer": lambda: ml.batches(
            pairs, base(), 1
        ),
        "batches: got a str, wanted a tokenizer": lambda: ml.batches(pairs, "base", 1),
    }
    for words, call in calls.items():
        refuses(call, words, error=TypeError)
    wanted = "memory: got no sizes, wanted batch_size and seq_len, or batch="
    refuses(lambda: ml.ledger(ml.attach(base(), "lora")), wanted)


@pytest.mark.smoke
def test_arguments_in_another_order():
    calls = {
        "gradcheck: forward is 1, wanted a function": lambda: ml.gradcheck(1, 2),
        "gradcheck: backward is None, wanted a function": lambda: ml.gradcheck(abs, None),
    }
    for words, call in calls.items():
        refuses(call, words, error=TypeError)


@pytest.mark.smoke
def test_names_of_peft():
    """They are named in an error; copies and pickles, which look for other attributes, work."""
    tuned = ml.attach(base(), "lora")
    for theirs, ours in PEFT_NAMES.items():
        words = f"no attribute '{theirs}'; wanted {re.escape(ours)}$"
        for thing in (ml, tuned) if theirs != "__call__" else (ml,):
            refuses(lambda x=thing, t=theirs: getattr(x, t), words, error=AttributeError)
    for thing in (ml, tuned):
        refuses(lambda x=thing: x.made_up, "no attribute 'made_up'$", error=AttributeError)
    for other in (copy.deepcopy(tuned), pickle.loads(pickle.dumps(tuned))):
        assert np.array_equal(other.logits(BATCHES[0][0]), tuned.logits(BATCHES[0][0]))


@pytest.mark.smoke
def test_calls_and_keywords_of_peft_and_transformers():
    tuned = ml.attach(base(), "lora")
    refuses(lambda: tuned([[1]]), "not callable; wanted tuned.logits", error=TypeError)
    for thing in (tuned, tuned.base, ml.Library(tuned.base)):
        for theirs in ("do_sample", "max_length", "adapter_names"):
            words = f"generate: got the keyword {theirs}; wanted {re.escape(PEFT_NAMES[theirs])}$"
            refuses(lambda x=thing, t=theirs: x.generate([[1]], **{t: 1}), words, error=TypeError)
    for theirs in ("modules_to_save", "init_lora_weights", "bias", "task_type"):
        words = f"lora: got the option {theirs}; wanted {re.escape(PEFT_NAMES[theirs])}$"
        refuses(lambda t=theirs: ml.attach(tuned.base, "lora", **{t: 1}), words)


@pytest.mark.smoke
def test_an_array_that_cannot_be(monkeypatch, capsys):
    """Too large for the memory, or for a number of bytes: one line says which, and how large."""
    model, tuned = base(), ml.attach(base(), "lora")

    def no_room(*_):
        with allocating("a rank"):
            raise np._core._exceptions._ArrayMemoryError((10**9, 128), np.dtype("float32"))

    for call, said in {
        no_room: r"a rank is too large: an array of 477 GiB, \(1000000000, 128\) of float32",
        lambda: ml.attach(model, "vera", rank=10**19): "attach: rank is too large: an array of",
        lambda: tuned.generate([[1]], 10**18): "max_new_tokens is too large: an array of",
        lambda: ml.ledger(tuned, 10**18, 8): "memory: the batch is too large: an array of",
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refuses(call, said, error=MemoryError)
    monkeypatch.setattr("minilora.commands.sizes.count", no_room)
    assert main(["count"]) == 2 and "minilora: a rank is too large" in capsys.readouterr().err
    with pytest.raises(MemoryError, match=r"^$"), allocating("another"):
        raise MemoryError
    with pytest.raises(ValueError, match=r"^another$"), allocating("x"):
        raise ValueError("another")


@pytest.mark.parametrize("line", ["train --method lora --task past", "count --method lora"])
def test_r_means_rank(line):
    assert parser().parse_args([*line.split(), "--r", "4"]).rank == 4


@pytest.mark.smoke
def test_a_warning_of_train_names_the_line_that_calls_it(tmp_path):
    path = tmp_path / "run.safetensors"
    train = functools.partial(ml.train, ml.attach(base(), "lora"), BATCHES, lr=0.1, checkpoint=path)
    stop = [ml.EarlyStopping(1)]
    with pytest.warns(UserWarning) as told:
        train(steps=1, warmup=2)
        train(steps=1, callbacks=stop)
    assert len(told) == 2 and {warning.filename for warning in told} == {__file__}
    assert "got no evaluation; wanted evaluate=" in str(told[1].message)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "line, says",
    [
        ("train --task past --lora-alpha 4", "no option --lora-alpha; wanted alpha"),
        ("compare --seed 3 --lerning 4", "unknown option '--lerning'"),
        ("train --task past --warm-up 3", "unknown option '--warm-up'; did you mean '--warmup'"),
    ],
)
def test_unknown_options(capsys, line, says):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and says in error and error.count("\n") == 1


@pytest.mark.smoke
def test_a_part_of_a_ledger_by_another_name():
    found = ml.ledger(ml.attach(base(), "lora", rank=4), 1, 4)
    refuses(lambda: found["activation"], "did you mean 'activations'")


@pytest.mark.smoke
def test_the_name_of_an_adapter_on_many_linears_is_short():
    model = base()
    tuned = ml.attach(model, "lora", rank=4, targets="all-linear", exclude_modules=["down_proj"])
    assert "linears, trainable" in repr(tuned) and len(repr(tuned)) < 150
    few = ml.attach(model, "lora", rank=4, targets=["q_proj"], layers_to_transform=0)
    assert "targets model.layers.0.self_attn.q_proj, trainable" in repr(few)


@pytest.mark.smoke
def test_what_an_editor_offers():
    import minilora.tuning.train

    assert minilora.tuning.train and {"attach", "tuning", "__version__"} <= set(dir(ml))
    assert not {"importlib", "sys", "types", "HOMES", "TYPE_CHECKING"} & set(dir(ml))
