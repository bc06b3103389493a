"""Several adapters on one base, and the word lab's five."""

import dataclasses
import importlib.util
import json
import re
import tracemalloc

import numpy as np
import pytest
from conftest import make_llama, rel

import minilora as ml
from minilora import cli
from minilora.formats.safetensors import read_arrays
from minilora.lab import word_adapters
from minilora.support.files import data_folder
from minilora.text import tasks
from minilora.tuning.checkpoints import fingerprint
from minilora.tuning.storage import ARRAYS

IDS = np.random.default_rng(5).integers(0, 29, (2, 7))
ADAPTERS = [name for name, record in ml.METHODS.items() if record.factors]


def trained(base, method, seed=1, **how):
    tuned = ml.attach(base, method, seed=seed, **how)
    rng = np.random.default_rng(seed)
    batches = [tuple(rng.integers(0, 29, (2, 2, 6))) for _ in range(2)]
    ml.train(tuned, batches, steps=5, lr=2e-2)
    return tuned


@pytest.fixture
def library(tiny):
    """Two adapters of different layers, ranks and scalings."""
    found = ml.Library(tiny)
    found.add("one", trained(tiny, "lora", rank=3, alpha=5))
    found.add("two", trained(tiny, "vera", seed=2, rank=7, targets=("v_proj", "up_proj")))
    return found


def test_switching_by_name_and_in_a_with_block(library, tiny):
    plain, one, two = (f.logits(IDS) for f in (tiny, library["one"], library["two"]))
    assert rel(one, plain) > 1e-3 and rel(two, one) > 1e-3
    assert np.array_equal(library.logits(IDS), plain) and library.current is None
    library.use("one")
    assert np.array_equal(library.logits(IDS), one)
    with library.using("two") as speaker:
        assert np.array_equal(speaker.logits(IDS), two)
        with library.using(None):
            assert np.array_equal(library.logits(IDS), plain)
        assert library.current == "two"
    assert library.current == "one" and np.array_equal(library.logits(IDS), one)
    with pytest.raises(ZeroDivisionError), library.using("two"):
        1 / 0  # noqa: B018
    assert library.current == "one"
    wanted = library["one"].generate(IDS, 3)
    assert np.array_equal(library.generate(IDS, 3), wanted)
    assert list(library) == ["one", "two"] and len(library) == 2


def test_removing(library, tiny):
    library.use("one")
    with library.using("two"):
        library.remove("one")
    assert library.current is None  # what was in use before is gone
    library.use("two")
    library.remove("two")
    assert library.current is None and list(library) == [] and library.nbytes == 0
    assert np.array_equal(library.logits(IDS), tiny.logits(IDS))


@pytest.mark.parametrize("method", ADAPTERS)
def test_factors_are_the_whole_change(tiny, method):
    tuned = trained(tiny, method, rank=3)
    for layer, arrays in tuned.layers.items():
        left, right = tuned.factors(layer)
        assert rel(arrays.get("s", 1.0) * (left @ right), tuned.delta(layer)) < 1e-12


def test_a_weighted_sum_is_the_sum_of_the_changes(tiny):
    """Of all techniques, in other layers and with other ranks; kept on disk as a LoRA."""
    library, weights = ml.Library(tiny), {}
    for i, method in enumerate(ADAPTERS):
        targets = ("q_proj", "v_proj") if i % 2 else ("v_proj", "down_proj")
        library.add(method, trained(tiny, method, seed=i, rank=2 + i, targets=targets))
        weights[method] = 0.5 - 0.3 * i
    mixed = library.combine("mixed", weights)
    params = dict(tiny.params)
    for method, w in weights.items():
        for layer in library[method].layers:
            params[f"{layer}.weight"] = params[f"{layer}.weight"] + w * library[method].delta(layer)
    wanted = ml.Llama(tiny.config, params).logits(IDS)
    assert rel(wanted, tiny.logits(IDS)) > 1e-3
    assert rel(mixed.logits(IDS), wanted) < 1e-12
    with library.using("mixed"):
        assert rel(library.logits(IDS), wanted) < 1e-12
    assert library["mixed"].layers.keys() == {n for m in ADAPTERS for n in library[m].layers}


def test_a_sum_of_one_with_weight_one_is_itself_on_disk_too(library, tmp_path):
    mixed = library.combine("copy", {"one": 1.0})
    assert rel(mixed.logits(IDS), library["one"].logits(IDS)) < 1e-13
    ml.save_adapter(mixed, tmp_path / "again")
    assert rel(library.load(tmp_path / "again").logits(IDS), mixed.logits(IDS)) < 1e-13
    assert list(library) == ["one", "two", "copy", "again"]


def test_the_base_is_never_copied(tmp_path):
    base = make_llama(dtype=np.float32, hidden_size=128, intermediate_size=512, vocab_size=500)
    size = sum(a.nbytes for a in base.params.values())
    ml.save_adapter(trained(base, "delta_lora", rank=2), tmp_path / "delta")
    ml.save_adapter(trained(base, "lora", rank=2), tmp_path / "lora")
    before = {name: a.copy() for name, a in base.params.items()}
    tracemalloc.start()
    library = ml.Library(base)
    for i in range(5):
        library.load(tmp_path / "lora", f"lora{i}")
        library.load(tmp_path / "delta", f"delta{i}")
    library.combine("sum", dict.fromkeys(library, 0.1))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 2 * library.nbytes < size / 2
    assert all(library[name].base is base for name in library)
    assert all(np.array_equal(base.params[name], a) for name, a in before.items())


@pytest.mark.parametrize(
    "do, message",
    [
        (lambda lib: lib.use("on"), "unknown adapter 'on'; did you mean 'one'"),
        (lambda lib: lib["three"], "unknown adapter 'three'; wanted one of: one, two"),
        (lambda lib: lib.remove("six"), "unknown adapter 'six'"),
        (lambda lib: lib.combine("x", {"six": 1}), "unknown adapter 'six'"),
        (lambda lib: lib.combine("x", {}), "got no weights"),
        (lambda lib: lib.combine("x", {"one": np.nan}), "weight of one is nan, wanted a finite"),
        (lambda lib: lib.combine("one", {"one": 1}), "one is taken; remove it first"),
        (lambda lib: lib.add("one", lib["two"]), "one is taken"),
        (lambda lib: lib.load("some/where/one"), "one is taken"),
        (lambda lib: lib.add("x", ml.attach(make_llama(), "lora")), "x is on another base"),
        (lambda lib: lib.add("x", ml.attach(lib.base, "full")), "x trains the whole model"),
    ],
)
def test_what_a_library_refuses(library, do, message):
    with pytest.raises(ValueError, match=message) as caught:
        do(library)
    assert "\n" not in str(caught.value) and list(library) == ["one", "two"]


def test_an_adapter_of_another_base_leaves_nothing_behind(library, tmp_path):
    wide = make_llama(hidden_size=32)
    ml.save_adapter(ml.attach(wide, "lora"), tmp_path)
    with pytest.raises(ValueError, match=r"has shape .*, this base wants"):
        library.load(tmp_path)
    assert list(library) == ["one", "two"]
    assert read_arrays(tmp_path / "adapter_model.safetensors")[0]


# ---- the word lab's five


@pytest.fixture(scope="module")
def five():
    return word_adapters.open_library()


@pytest.fixture(scope="module")
def build():
    """data/build_adapters.py as a module."""
    path = data_folder() / "build_adapters.py"
    spec = importlib.util.spec_from_file_location("build_adapters", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_adapters_are_those_of_their_record(five, build):
    """Of this base, by these recipes, of these sizes; the smallest task is scored again."""
    text = (data_folder() / "adapters" / build.RECORD).read_text(encoding="utf-8")
    record = json.loads(text)
    assert set(five) == set(record["adapters"]) == set(word_adapters.NAMES)
    assert record["base_crc32"] == fingerprint(five.base)
    for name, row in record["adapters"].items():
        recipe = json.loads(json.dumps(dataclasses.asdict(build.RECIPES[name])))
        assert row["recipe"] == recipe
        assert row["trainable"] == sum(a.size for a in five[name].trainable.values())
        assert row["bytes"] == (data_folder() / "adapters" / name / ARRAYS).stat().st_size
        assert row["held_out_words"] == len(ml.load_task(name).test)
    with five.using("comparative"):
        score = ml.exact_match(five, ml.load_task("comparative").test)
    assert score == pytest.approx(
        record["adapters"]["comparative"]["held_out_exact_match"], abs=0.03
    )
    bare = ml.exact_match(five.base, ml.load_task("comparative").test)
    assert bare < 0.05 < 0.8 < score


def test_one_word_for_all_of_them(five):
    """Each answers as it does alone; spelling hears what the base says."""
    answers = word_adapters.ask(five, "laugh")
    assert list(answers) == ["third", "ing", "phonemes", *word_adapters.NAMES]
    assert (answers["third"], answers["past"]) == ("laughs", "laughed")
    words = {**dict.fromkeys(("past", "plural", "lemma"), "laugh"), "spelling": answers["phonemes"]}
    for name, word in words.items():
        assert answers[name] == five[name].generate_text(tasks.TASKS[name].prompt(word), 24)
    assert five.current is None


def test_one_word_on_the_command_line(build, tmp_path, capsys):
    """ask reads what build_adapters wrote, or the committed ones."""
    build.make(tmp_path, steps=1)
    said = capsys.readouterr().out
    assert all(name in said for name in word_adapters.NAMES)
    assert cli.main(["ask", "laugh", "--adapters", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert cli.main(["ask", "laugh"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["past", "tense", "laughed", "adapter"] in lines
    assert ["third", "person", "laughs", "base"] in lines
    for line, message in (
        ("ask laugh!", "lowercase letters"),
        (f"ask laugh --adapters {tmp_path / 'past'}", "no adapter in it that is named after"),
    ):
        assert cli.main(line.split()) == 2
        assert message in capsys.readouterr().err


def test_the_snippet_of_the_page_runs(monkeypatch, capsys):
    page = data_folder().parent / "docs" / "formats.md"
    if not page.is_file():
        pytest.skip("an installed package has no pages")
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(page.parent.parent)
    exec(snippet, {"ml": ml, "model": ml.load_model("base"), "words": ml.load_task("past")})
    score, names = capsys.readouterr().out.splitlines()
    assert float(score) > 0.85 and names == "['past', 'plural', 'both']"
