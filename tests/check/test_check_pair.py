"""A reader's own pair: a right one passes, what is wrong is described, each slip is named."""

import functools
import sys

import numpy as np
import pytest

from minilora.check import check_pair
from minilora.check.words import constant_ratio


def lora_forward(x, W, s, A, B):
    return x @ W.T + s * (x @ A.T) @ B.T


def lora_backward(dy, x, W, s, A, B):
    dz = s * dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)


def linear_backward(dy, x, W):
    return dy @ W, dy.T @ x


def per_row(dz, x):
    return dz[:, :, None] * x[:, None, :]


def pair(change=lambda grads, dy, x, W, s, A, B: grads):
    """LoRA as a reader may write it, with a change of its gradients."""

    def forward(x, W, s, A, B):
        return lora_forward(x, W, s, A, B), (x, W, s, A, B)

    def backward(dy, cache):
        x, W, s, A, B = cache
        dx, dA, dB = lora_backward(dy, x, W, s, A, B)
        return change((dx, None, None, dA, dB), dy, *cache)

    return forward, backward


def arrays(dtype=np.float64):
    rng = np.random.default_rng(0)
    x, W, A, B = (rng.normal(size=n).astype(dtype) for n in [(5, 6), (4, 6), (3, 6), (4, 3)])
    return x, W, 2.0, A, B


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_right_pair_passes_in_any_precision(dtype):
    verdict = check_pair(*pair(), *arrays(dtype), frozen="W")
    assert verdict and verdict.says == "dx, dA and dB are right, by finite differences"


@pytest.mark.parametrize(
    "slip, change",
    [
        ("scale missing", lambda g, dy, x, W, s, A, B: (*g[:3], g[3] / s, g[4])),
        ("scale twice", lambda g, dy, x, W, s, A, B: (*g[:4], g[4] * s)),
        ("transposed", lambda g, dy, x, W, s, A, B: (*g[:3], g[3].T, g[4])),
        ("no sum", lambda g, dy, x, W, s, A, B: (*g[:3], per_row(s * dy @ B, x), g[4])),
        ("no sum", lambda g, dy, x, W, s, A, B: (*g[:3], g[3] / len(dy), g[4])),
        ("path missing", lambda g, dy, x, W, s, A, B: (dy @ W, *g[1:])),
        ("path missing", lambda g, dy, x, W, s, A, B: (g[0] - dy @ W, *g[1:])),
        (None, lambda g, dy, x, W, s, A, B: (*g[:3], g[3] * 1.1, g[4])),
        (None, lambda g, dy, x, W, s, A, B: (*g[:3], g[3] + 1, g[4])),
    ],
)
def test_a_slip_in_a_readers_own_pair_is_named(slip, change):
    verdict = check_pair(*pair(change), *arrays(), frozen="W")
    assert not verdict and verdict.slip == slip, verdict
    assert verdict.status == "failed" and " is wrong" in verdict.says


@pytest.mark.parametrize("rows", [2, 3, 6])
@pytest.mark.parametrize(
    "factor, words",
    [
        (1 / 2, "dW is half of the right one"),
        (2, "dW is twice the right one"),
        (-1, "dW is minus the right one"),
        (-1 / 2, "dW is -1/2 of the right one"),
        (1 / 7, "dW is 1/7 of the right one"),
        (7, "dW is 7 times the right one"),
        (0.123, "dW is 0.123 times the right one"),
        (1.0001, "dW is 1.0001 times the right one"),
    ],
)
def test_a_gradient_times_a_number_is_told_by_this_number(rows, factor, words):
    def backward(dy, cache):
        dx, dW = linear_backward(dy, *cache)
        return dx, factor * dW

    x, W = np.random.default_rng(rows).normal(size=(rows, 4)), np.eye(3, 4) + 0.5
    verdict = check_pair(lambda x, W: (x @ W.T, (x, W)), backward, x, W)
    assert not verdict and verdict.slip == ("sign" if factor == -1 else None), verdict
    assert words in dict(verdict.notes)["looks like"]
    assert ("a mean over 2 rows" in repr(verdict)) == (rows == 2 and factor == 1 / 2)


def test_a_mean_over_rows_is_a_missing_sum():
    """Where the rows are two, it is half of the right one first of all."""

    def backward(dy, cache):
        return cache[1].T @ dy / len(dy), dy @ cache[0].T

    def forward(W, x):
        return x @ W, (W, x)

    x = np.random.default_rng(0).normal(size=(6, 4))
    six = check_pair(forward, backward, np.ones((4, 3)), x)
    assert six.slip == "no sum" and "dW is 1/6 of the right one: dW is not the sum" in repr(six)
    assert check_pair(forward, backward, np.ones((4, 3)), x[:3]).slip == "no sum"
    two = check_pair(forward, backward, np.ones((4, 3)), x[:2])
    assert two.slip is None and "half of the right one, as a mean over 2 rows" in repr(two)


def test_a_vector_has_no_rows_whose_sum_is_missing():
    verdict = check_pair(np.exp, lambda dy, x: dy * np.exp(x) / 5, np.ones(5))
    assert verdict.slip is None and "1/5 of the right one" in repr(verdict)


def test_a_scale_of_0_is_no_slip():
    def forward(x, p):
        return x * (1 - p), p

    verdict = check_pair(forward, lambda dy, p: (3 * dy, None), np.ones((2, 3)), 0)
    assert verdict.slip is None and "3 times the right one" in repr(verdict)


def test_four_gradients_in_another_order_are_swapped():
    def forward(a, b, c, d):
        return a * b * c * d, (a, b, c, d)

    def backward(dy, cache):
        a, b, c, d = cache
        return dy * a * c * d, dy * a * b * d, dy * a * b * c, dy * b * c * d

    arrays = np.random.default_rng(0).normal(size=(4, 2, 3))
    assert check_pair(forward, backward, *arrays).slip == "swapped"


def linear(x, W):
    return x @ W.T


def needs_a_cache(dy, cache):
    x, W = cache
    return dy @ W, dy.T @ x


@pytest.mark.parametrize(
    "backward",
    [
        linear_backward,
        needs_a_cache,
        lambda dy, W, x: (dy @ W, dy.T @ x),  # its own order, by the names of forward
        lambda g, a, b: [g @ b, g.T @ a],
        lambda *args: linear_backward(*args),
        functools.partial(lambda k, dy, x, W: (k * dy @ W, dy.T @ x), 1),
    ],
)
def test_a_forward_may_return_its_output_alone(backward):
    """As the exercises' functions do. Backward takes forward's arguments, or a tuple of them."""
    x, W = np.random.default_rng(0).normal(size=(6, 4)), np.eye(3, 4) + 0.5
    verdict = check_pair(linear, backward, x, W)
    assert verdict and verdict.says == "dx and dW are right, by finite differences"
    twice = check_pair(lambda x, W: 2 * linear(x, W), backward, x, W)
    assert not twice and "dx is half of the right one" in repr(twice)


def test_the_functions_of_the_exercises_are_a_pair():
    assert check_pair(lora_forward, lora_backward, *arrays(), frozen="W")

    def twice(dy, *args):
        dx, dA, dB = lora_backward(dy, *args)
        return dx, dA, 2 * dB

    wrong = check_pair(lora_forward, twice, *arrays(), frozen="W")
    assert wrong.says == "dB is wrong (dx and dA are right)" and wrong.slip == "scale twice"
    assert not check_pair(lora_forward, lora_backward, *arrays())  # W is not declared frozen
    assert check_pair(np.exp, lambda dy, x: dy * np.exp(x), np.ones(3))


def in_float32(x, W):
    return (x.astype(np.float32) @ W.T.astype(np.float32)).astype(np.float64), (x, W)


def empties(dy, cache):
    grads = needs_a_cache(dy, cache)
    for a in cache:
        a[...] = 0
    return grads


with_cache = lambda x, W: (x @ W.T, (x, W))  # noqa: E731
DIAGNOSES = {
    "float32 inside forward": (in_float32, needs_a_cache, "dtype", "moves in steps"),
    "float32 from forward": (
        lambda x, W: ((x @ W.T).astype(np.float32), (x, W)),
        *(needs_a_cache, "dtype", "the output is an array of float32, wanted float64"),
    ),
    "float32 from backward": (
        with_cache,
        lambda dy, cache: tuple(g.astype(np.float32) for g in needs_a_cache(dy, cache)),
        *("dtype", "dx is an array of float32, wanted float64"),
    ),
    "float16 inside backward": (
        with_cache,
        lambda dy, cache: (dy @ cache[1], np.float64(np.float16(dy.T @ cache[0]))),
        *("dtype", "dW is right to a few digits only, with a small error, as of float32"),
    ),
    "a cache that backward empties": (
        with_cache,
        empties,
        None,
        "it writes into cache[0], which is x:",
    ),
    "no return in forward": (lambda x, W: None, needs_a_cache, None, "is the return missing?"),
    "no return in backward": (with_cache, lambda *_: None, None, "is the return missing?"),
    "swapped": (
        with_cache,
        lambda dy, cache: needs_a_cache(dy, cache)[::-1],
        *("swapped", "in another order"),
    ),
    "sign": (
        with_cache,
        lambda dy, cache: (-dy @ cache[1], dy.T @ cache[0]),
        *("sign", "dx is minus the right one"),
    ),
    "sign of a path": (
        lambda x, W: (x @ W.T + 3 * x[:, :3], (x, W)),
        lambda dy, cache: (np.pad(3 * dy, [(0, 0), (0, 1)]) - dy @ cache[1], dy.T @ cache[0]),
        *("sign", "or a part of it, has the wrong sign"),
    ),
    "sign of the other path": (
        lambda x, W: (x @ W.T + 3 * x[:, :3], (x, W)),
        lambda dy, cache: (dy @ cache[1] - np.pad(3 * dy, [(0, 0), (0, 1)]), dy.T @ cache[0]),
        *("sign", "or a part of it, has the wrong sign"),
    ),
}


@pytest.mark.parametrize("forward, backward, slip, words", DIAGNOSES.values(), ids=DIAGNOSES)
def test_what_is_wrong_with_a_pair_is_not_misleading(forward, backward, slip, words):
    x, W = np.random.default_rng(0).normal(size=(6, 4)), np.eye(3, 4) + 0.5
    verdict = check_pair(forward, backward, x, W)
    assert verdict.status == "failed" and verdict.slip == slip, verdict
    assert words in repr(verdict), verdict


def test_a_misplaced_eps_in_a_pair_is_a_small_error():
    def forward(x):
        r = 1 / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
        return x * r, (x, r)

    def backward(dy, cache):
        x, r = cache
        r = 1 / (1 / r + 1e-5)  # once more
        return (r * dy - x * r**3 * (dy * x).mean(1, keepdims=True),)

    verdict = check_pair(forward, backward, np.random.default_rng(0).normal(size=(4, 6)))
    assert not verdict and verdict.slip is None
    assert "dx is right to a few digits only" in repr(verdict), verdict


def test_a_pair_of_the_wrong_form_is_told_so():
    forward, _ = pair()
    short = check_pair(forward, lambda dy, cache: (dy,), *arrays())
    assert "returned 1 gradient, wanted 5, one for each argument" in short.says
    bare = check_pair(forward, lambda dy, cache: dy, *arrays())
    assert "returned an array of float64, wanted the tuple (dx, dW, ds, dA, dB)" in bare.says
    no_cache = check_pair(lambda x: (x, x, x), lambda dy, cache: (dy,), np.ones((2, 2)))
    assert "wanted (output, cache)" in no_cache.says
    assert {v.status for v in (short, bare, no_cache)} == {"failed"}


def test_what_is_not_checked_does_not_pass():
    forward, backward = pair()
    undeclared = check_pair(forward, backward, *arrays())
    assert not undeclared and "None for W, a float array" in undeclared.says
    assert "frozen='W'" in undeclared.says
    nothing = check_pair(forward, lambda dy, cache: (None,) * 5, *arrays(), frozen="W")
    assert not nothing and "None for x, A and B" in nothing.says
    with pytest.raises(ValueError, match="nothing to check"):
        check_pair(*pair(lambda *_: (None,) * 5), *arrays(), frozen=("x", "W", "A", "B"))
    with pytest.raises(ValueError, match="unknown name in frozen 'V'"):
        check_pair(forward, backward, *arrays(), frozen="V")


def test_a_large_entry_does_not_hide_a_small_one_that_is_missing():
    scale = np.array([1.0, 1e-8])
    for factor in (1, 0):
        verdict = check_pair(
            lambda x: (scale * x, None),
            lambda dy, _, f=factor: (dy * scale * [1, f],),
            np.ones((3, 2)),
        )
        assert bool(verdict) == (factor == 1), verdict


def test_a_prompt_shows_its_verdicts_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert check_pair(*pair(), *arrays(), frozen="W")
    assert not capsys.readouterr().out


def test_a_name_stands_in_a_page_as_text():
    def backward(dy, cache):
        return (dy,)

    backward.__name__ = "f<b>"
    assert "<b>f" not in check_pair(lambda x: (x, None), backward, np.ones(3))._repr_html_()


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
