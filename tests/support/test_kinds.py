"""What a JSON file may hold: kinds of values, bounds, places in the file, brackets."""

import json

import pytest

from minilora.support.files import parse_json
from minilora.support.kinds import OneOf, Within, check_kind

SHARE = Within(float, 0, 1)


@pytest.mark.parametrize(
    "value, wanted",
    [
        (True, bool),
        (2**64 - 1, int),
        (3, float),
        (-1e308, float),
        ([], list),
        ([1, 2], [int]),
        ([1, 2.5], (int, float)),
        ({"a": 1, "b": None}, {"a": int}),
        ({"a": 1}, {"a": int, "b?": str}),
        ({"x": 0, "y": 1}, {str: SHARE}),
        (None, OneOf(None, int)),
        (3, OneOf(None, int)),
        ("a", OneOf(int, str)),
    ],
)
def test_what_fits(value, wanted):
    check_kind("f", "it", value, wanted)


@pytest.mark.parametrize(
    "value, wanted, says",
    [
        (1, bool, "it is 1, wanted true or false"),
        (True, int, "it is True, wanted a whole number"),
        (2**64, int, f"it is {2**64}, wanted a whole number that is finite"),
        (float("nan"), float, "it is nan, wanted a number that is finite and of 64 bits"),
        ("1", float, "it is '1', wanted a number"),
        (1.5, SHARE, "it is 1.5, wanted a number from 0 to 1"),
        (0, Within(int, 1), "it is 0, wanted a whole number of at least 1"),
        ([1, "2"], [int], r"it[1] is '2', wanted a whole number"),
        ([1], (int, int), "it has 1 entries, wanted 2"),
        ({"a": {"b": [{}]}}, {"a": {"b": [{"c": int}]}}, "no a.b[0].c in it"),
        ({"a": 1, "b": 2}, {"a": int, "b?": str}, "b is 2, wanted a text"),
        ("a", OneOf(None, int), "it is 'a', wanted a whole number"),
        (None, int, "it is None, wanted a whole number"),
    ],
)
def test_what_does_not_fit(value, wanted, says):
    with pytest.raises(ValueError) as caught:
        check_kind("f", "it", value, wanted)
    assert str(caught.value).startswith(f"f: {says}")


@pytest.mark.parametrize(
    "text", ["[", "{", "[" * 10**5, '{"a":' * 10**5, "nul", "", "\ud800"], ids=len
)
def test_what_is_no_json(text):
    with pytest.raises(ValueError, match=r"^f: not JSON"):
        parse_json("f", text)


@pytest.mark.parametrize("of", ["[{}]", '{{"a": {}}}'])
def test_brackets_inside_one_another(of):
    """64 levels are read, 65 are not: what recurs over a value then never runs out of stack."""
    text = "1"
    for _ in range(64):
        text = of.format(text)
    assert parse_json("f", text) == json.loads(text)
    with pytest.raises(ValueError, match="its brackets are nested too deeply"):
        parse_json("f", of.format(text))
