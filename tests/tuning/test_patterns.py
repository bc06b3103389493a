"""Regular expressions that choose layers: `re`'s answers, without its exponential time."""

import json
import re
import time
import warnings

import numpy as np
import pytest
from battery import base
from conftest import make_llama
from hypothesis import given
from hypothesis import strategies as st

import minilora as ml
from minilora.tuning import patterns

NAMES = [
    f"model.layers.{i}.{part}"
    for i in (0, 1, 11)
    for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj")
]
HONEST = [
    "q_proj",
    r".*q_proj",
    r".*\.(q|v)_proj",
    r"model\.layers\.\d+\.mlp\..*",
    r".*layers\.(0|1)\..*_proj",
    r"^(?!.*mlp).*_proj$",
    r"(?<=x)q|.*(?<=self_attn\.)q_proj",
    r".*(?<!mlp\.)gate_proj|q_proj",
    r".*[^q]_proj",
    r"[\w.]{5,}[]q]_proj",
    r".*\.1{2}\..*",
    r"model\.layers\.1?1\.\S+?",
    r".*\.\d{1,}\.(?:self_attn|mlp)\.(?P<kind>[a-z]+)_proj",
    r"(?:.*?(?:self_attn|attention).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\."
    r"(?:(?:gate_proj)))",
    r"((a|b)*|model.*|)",
    r".*\Bproj",
    r".*(\.1{,}|o\b|{)\..*",
    "",
]


@pytest.mark.parametrize("pattern", HONEST)
def test_the_answers_are_re_s(pattern):
    for name in NAMES:
        assert patterns.full(pattern, name) == bool(re.fullmatch(pattern, name)), name
        wanted = bool(re.fullmatch(rf"(.*\.)?({pattern})", name))
        assert patterns.end(pattern, name) == wanted, name


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        ".",
        r"\.",
        "[ab]",
        "[^a]",
        r"\w",
        "^",
        "$",
        r"\b",
        r"\B",
        "(?=a)",
        "(?<=a)",
        "(?<!b.)",
    ]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join).map("({})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{0,}"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
        inner.map("(?!{})".format),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text("ab.", max_size=6))
def test_any_pattern_s_answer_is_re_s(pattern, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = bool(re.fullmatch(pattern, name))
    assert patterns.full(pattern, name) == wanted


HOSTILE = [
    r"(a+)+$",
    r"(.*)*x",
    r"([\w.]+)+!",
    r"(.*.*)*.*.*.*.*.*.*x",
    r"((((.*)*)*)*)*x",
    r"(.|.|.|.)*x",
    r"(.{0,1000}){1000}x",
    "(.*" * 30 + "x" + ")*" * 30 + "!",
    "(.*){60}" * 400 + "x",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_pattern_that_hangs_re_ends_here(pattern):
    """An answer or an error, within a second for every name."""
    start = time.process_time()
    for name in NAMES:
        try:
            assert not patterns.end(pattern, name + "a" * 30)
        except ValueError as error:
            assert "more than" in str(error)
    assert time.process_time() - start < 9


@pytest.mark.parametrize(
    "keys",
    [
        [rf"(.*a{i})*x" for i in range(64)],
        [rf"(?=(.*){{5}}x).*{i}" for i in range(64)],
        [r"(a|b)" * 790 + str(i) for i in range(64)],
        ["model.layers.0.self_attn.{:.<6}".format("q_proj"[: i % 7]) for i in range(5000)],
        ["." * n for n in range(8000)],
    ],
    ids=["stars", "looks", "long ones", "names", "dots"],
)
def test_all_patterns_of_an_adapter_share_one_budget(keys, tmp_path):
    """A load answers or refuses soon, however many patterns an adapter has."""
    model = base()
    ml.save_adapter(ml.attach(model, "lora", rank=2, targets="all-linear"), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config |= {"rank_pattern": dict.fromkeys(keys, 2)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    start = time.process_time()
    try:
        ml.load_adapter(model, tmp_path)
    except ValueError as error:
        said = "more than 250,000 steps|files of two adapters|at most 1048576 bytes"
        assert re.search(said, str(error))
    assert time.process_time() - start < 1


# 64 patterns of a kind each: what is slow to read, to compile, or to match at each place
SLOW = {
    "no boundary": [r".*" + r"\B" * 1900 + f"{i}" for i in range(64)],
    "boundaries": [r".*" + r"\b" * 1900 + f"{i}" for i in range(64)],
    "starts": ["^" * 3900 + f"{i}" for i in range(64)],
    "wide classes": ["[\u0100-\ufff0]" * 700 + f"{i}" for i in range(64)],
    "wide classes by their numbers": [r"[\u0100-\ufff0]" * 250 + f"{i}" for i in range(64)],
    "any case": ["(?i)" + "[\u0100-\ufff0]" * 600 + f"{i}" for i in range(64)],
    "counts in counts": ["(" * 30 + "." + "){1000}" * 30 + f"{i}" for i in range(64)],
    "large counts": [".{0,60000}" * 390 + f"{i}" for i in range(64)],
    "looking from each place": [r".*" + r"(?<=.)" * 600 + f"{i}" for i in range(64)],
    "classes in classes": ["[[a--b]" * 560 + f"{i}" for i in range(64)],
    "alternatives": [
        "(" + "|".join("abcdefgh"[k % 8] for k in range(1900)) + f")*{i}" for i in range(64)
    ],
}


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A base of 210 linears, and the folder of an adapter for it."""
    folder = tmp_path_factory.mktemp("adapter")
    model = make_llama(dtype=np.float32, num_hidden_layers=30)
    ml.save_adapter(ml.attach(model, "lora", rank=2, targets="all-linear"), folder)
    return model, folder


def _load_with(deep, **changes):
    """Load with these fields in the config: seconds of the processor, the error or None."""
    model, folder = deep
    path = folder / "adapter_config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | changes))
    patterns.parse.cache_clear()
    start, said = time.process_time(), None
    try:
        ml.load_adapter(model, folder)
    except ValueError as error:
        said = str(error)
    finally:
        path.write_text(before)
    return time.process_time() - start, said


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("field", ["rank_pattern", "exclude_modules"])
def test_a_load_with_slow_patterns_is_refused_soon(deep, kind, field):
    """A machine that does nothing else needs less than 0.2 seconds."""
    keys = SLOW[kind]
    change = dict.fromkeys(keys, 2) if field == "rank_pattern" else keys[0]
    seconds, said = _load_with(deep, **{field: change})
    assert seconds < 1, said
    assert said is None or ("adapter_config.json" in said and len(said) < 400)


@pytest.mark.parametrize(
    "change",
    [
        {"exclude_modules": [f"x{i}" for i in range(100_000)]},
        {"target_modules": ["q_proj"] * 100_000},
        {"target_modules": ["a" * 1_000_000]},
        {"layers_to_transform": [0] * 500_000},
    ],
    ids=["names left out", "names", "a long name", "numbers"],
)
def test_a_load_with_long_lists_ends_soon(deep, change):
    assert _load_with(deep, **change)[0] < 1


def test_patterns_of_honest_adapters_are_far_from_the_limit(deep):
    """A pattern for each of 30 layers, as PEFT's users write them."""
    keys = [rf"model\.layers\.{i}\..*\.(q|k|v|up)_proj" for i in range(30)]
    model, folder = deep
    with patterns.one_budget():
        names = list(model.config.linears())
        hits = [sum(patterns.end(key, name) for name in names) for key in keys]
        assert hits == [4] * 30
        assert patterns._shared.get().left > patterns.MOST_STEPS / 2


@pytest.mark.parametrize(
    "pattern, said",
    [
        ("(", "no regular expression"),
        ("*a", "no regular expression"),
        ("a{99999999999}", "no regular expression"),
        (r"(a)\1", "is not supported"),
        ("(?i)a", "is not supported"),
        ("a*+", "possessive"),
        ("(?>a)", "is not supported"),
        ("[é]", "beyond ASCII"),
        (r"[\xe9]", "is not supported"),
        ("a)", "no regular expression"),
        ("[a", "no regular expression"),
        ("\\", "no regular expression"),
        ("(" * 60 + "a" + ")" * 60, "a group inside more than 40 others"),
        ("a" * 5000, "has 5,000 characters, wanted at most 4,000"),
    ],
)
def test_what_is_refused(pattern, said):
    with pytest.raises(ValueError, match=said) as caught:
        patterns.full(pattern, "a")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
