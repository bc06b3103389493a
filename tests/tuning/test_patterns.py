"""Regular expressions that choose layers: `re`'s answers, without its exponential time."""

import json
import re
import time
import warnings

import pytest
from battery import base
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
    "",
]


@pytest.mark.parametrize("pattern", HONEST)
def test_the_answers_are_re_s(pattern):
    for name in NAMES:
        assert patterns.full(pattern, name) == bool(re.fullmatch(pattern, name)), name
        wanted = bool(re.fullmatch(rf"(.*\.)?({pattern})", name))
        assert patterns.end(pattern, name) == wanted, name


ATOMS = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", "^", "$", r"\b", "(?=a)"])
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
        assert re.search("more than 400,000 steps|files of two adapters", str(error))
    assert time.process_time() - start < 1


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
        ("(" * 60 + "a" + ")" * 60, "a group inside more than 40 others"),
        ("a" * 5000, "has 5,000 characters, wanted at most 4,000"),
    ],
)
def test_what_is_refused(pattern, said):
    with pytest.raises(ValueError, match=said) as caught:
        patterns.full(pattern, "a")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
