"""gradcheck is a judge: it passes what is right, names what is wrong, and never passes in vain."""

import functools
import math

import numpy as np
import pytest
from hypothesis import assume, given

import minilora as ml
from minilora import strategies as some
from minilora.gradcheck import GradientError, gradcheck


def forward(x, W):
    return x @ W.T, (x, W)


def backward(dy, cache):
    x, W = cache
    return dy @ W, dy.T @ x


def gives(*gradients):
    """A backward of (x, W) from a function (dy, x, W) for each gradient."""
    return lambda dy, cache: tuple(g(dy, *cache) for g in gradients)


def dx(dy, x, W):
    return dy @ W


def dW(dy, x, W):
    return dy.T @ x


def none(*_):
    return None


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


X, W3 = normal(4, 3), normal(3, 3, seed=1)


def spoil(a):
    a += 1.0


# ---- right pairs pass, and the answer says what was checked


@pytest.mark.smoke
def test_it_says_what_it_checked():
    assert gradcheck(forward, backward, X, W3) == ("x", "W")
    assert ml.gradcheck(forward, gives(dx, none), X, W3, frozen="W") == ("x",)
    assert gradcheck(forward, gives(none, dW), X, W3, frozen=["x"]) == ("W",)


def adapted(x, W, s, A, B, xd=None):
    """LoRA's signature: numbers among the arrays, a last argument that need not be passed."""
    xd = x if xd is None else xd
    return x @ W.T + s * (xd @ A.T) @ B.T, (x, xd, W, s, A, B)


def adapted_backward(dy, cache):
    x, xd, W, s, A, B = cache
    dz = s * dy @ B
    whole = dy @ W + dz @ A if xd is x else dy @ W
    return whole, None, None, dz.T @ xd, s * dy.T @ (xd @ A.T), None if xd is x else dz @ A


LORA = X, normal(5, 3, seed=2), 2.0, normal(2, 3, seed=3), normal(5, 2, seed=4)
ACCEPTED = {
    "a list of gradients": (forward, lambda dy, c: list(backward(dy, c)), (X, W3), (), ("x", "W")),
    "a number": (adapted, adapted_backward, LORA, "W", ("x", "A", "B")),
    "None": (adapted, adapted_backward, (*LORA, None), "W", ("x", "A", "B")),
    "an optional array": (adapted, adapted_backward, (*LORA, X + 1), "W", ("x", "A", "B", "xd")),
    "a partial": (
        functools.partial(adapted, LORA[0]),
        functools.partial(lambda f, dy, c: f(dy, c)[1:], adapted_backward),
        LORA[1:],
        ("W",),
        ("A", "B"),
    ),
    "ints": (lambda E, ids: (E[ids], ids), None, (X, np.array([1, 1])), (), ("E",)),
    "a loss": (
        lambda x: ((x * x).sum(), x),
        lambda dloss, x: (2 * x * dloss,),
        (X,),
        (),
        ("x",),
    ),
    "one empty array": (
        lambda a, b: (np.concatenate([a, b]), len(a)),
        lambda dy, n: (dy[:n], dy[n:]),
        (X, X[:0]),
        (),
        ("a",),
    ),
    "float32": (forward, backward, (X.astype(np.float32), W3.astype(np.float32)), (), ("x", "W")),
    "gradients near zero beside large outputs": (
        # softmax does not see a shift: the exact gradient of b is 0, what is computed is rounding
        lambda z, b: (lambda p: (50 * p, p))(np.exp(z + b) / np.exp(z + b).sum(1, keepdims=True)),
        lambda dy, p: (
            (d := 50 * p * (dy - (dy * p).sum(1, keepdims=True))),
            d.sum(1, keepdims=True),
        ),
        (X, X[:, :1]),
        (),
        ("z", "b"),
    ),
    "large numbers of which small steps matter": (
        lambda x: (x[:1] - 1e5, None),
        lambda dy, _: (np.concatenate([dy, np.zeros(3)]),),
        (np.array([1e5 + 0.3, 1, 2, 3]),),
        (),
        ("x",),
    ),
    "a bend within the step": (
        lambda x: (np.tanh(300 * x), x),
        lambda dy, x: (dy * 300 / np.cosh(300 * x) ** 2,),
        (np.array([0.002, 0.003]),),
        (),
        ("x",),
    ),
}


def embedded(dy, ids):
    dE = np.zeros_like(X)
    np.add.at(dE, ids, dy)
    return dE, None


@pytest.mark.parametrize("what", ACCEPTED)
def test_it_accepts(what):
    run, back, arrays, frozen, checked = ACCEPTED[what]
    assert gradcheck(run, back or embedded, *arrays, frozen=frozen) == checked


# ---- wrong gradients

WRONG = {
    "scale": (lambda *a: dx(*a) * (1 + 1e-5), dW, "dx is wrong"),
    "sign": (lambda *a: -dx(*a), dW, "dx is wrong: at .* ratio -1"),
    "twice": (dx, lambda *a: 2 * dW(*a), r"dW is wrong \(dx is right\): .* ratio 2"),
    "transposed": (dx, lambda *a: dW(*a).T, "dW is wrong"),
    "missing term": (
        dx,
        lambda dy, x, W: dy[:-1].T @ x[:-1],
        r"dW is wrong \(dx is right\): at",
    ),
    "one entry": (dx, lambda *a: dW(*a) + np.eye(3), r"at \[(0, 0|1, 1|2, 2)\] got"),
    "zero": (lambda dy, x, W: np.zeros_like(x), dW, "got 0, finite differences give"),
    "NaN": (lambda dy, x, W: np.full_like(x, np.nan), dW, r"dx is not finite: nan at \[0, 0\]"),
    "infinite": (dx, lambda *a: dW(*a) + [[0, 0, np.inf]], r"dW is not finite: inf at \[0, 2\]"),
    "shape": (dx, lambda *a: dW(*a)[:, :2], r"dW has shape \(3, 2\), W has \(3, 3\)"),
    "a number for an array": (lambda *_: 0.0, dW, r"dx has shape \(\), x has \(4, 3\)"),
    "float32": (lambda *a: dx(*a).astype(np.float32), dW, "dx is an array of float32"),
    "ignores dout": (lambda dy, x, W: np.ones_like(dy) @ W, dW, "dx is wrong"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("slip", WRONG)
def test_it_fails_on(slip):
    first, second, message = WRONG[slip]
    with pytest.raises(GradientError, match=message) as caught:
        gradcheck(forward, gives(first, second), X, W3)
    assert "\n" not in str(caught.value)


def test_it_says_where():
    """The place, both numbers and their ratio."""

    def wrong(dy, x):
        dx = dy.copy()
        dx[1, 2] *= 3
        return (dx,)

    with pytest.raises(GradientError, match=r"wrong: dx is wrong: at \[1, 2\] got .*, ratio 3"):
        gradcheck(lambda x: (x + 0, x), wrong, normal(2, 4))
    with pytest.raises(GradientError, match=r"dx is wrong: at \[\] got .*, ratio 2"):
        gradcheck(lambda x: (x + 0, x), lambda dy, x: (2.0 * float(dy),), np.array(3.0))


def test_among_few_entries_it_finds_the_worst():
    """Half of the entries are wrong; the worst one is among the others."""

    def wrong(dy, _):
        dx = dy.copy()
        dx[1::2] += 0.9
        dx[4] += 1.0
        return (dx,)

    for seed in range(5):
        with pytest.raises(GradientError, match=r"dx is wrong: at \[4\]"):
            gradcheck(lambda x: (x + 0, None), wrong, normal(512), seed=seed)


def test_among_many_entries_it_finds_the_worst_with_few_calls():
    calls = []

    def run(x):
        calls.append(x)
        return x + 0, None

    def wrong(dy, _):
        return (dy + (np.arange(dy.size) == 3000),)

    for seed in range(5):
        calls.clear()
        with pytest.raises(GradientError, match=r"dx is wrong: at \[3000\]"):
            gradcheck(run, wrong, normal(4096), seed=seed)
        assert len(calls) < 4 * 512 + 100  # four for an entry, and four for each half


@given(case=some.linears(), s=some.scalings, seed=some.seeds)
def test_it_is_blind_where_b_is_zero_and_sees_where_it_is_not(case, s, seed):
    """Why the strategies never draw zeros: at LoRA's start a wrong dA looks right."""

    def lora(x, A, B):
        return s * (x @ A.T) @ B.T, (x, A, B)

    def wrong(dy, cache):
        x, A, B = cache
        return s * dy @ B @ A, 2 * s * (dy @ B).T @ x, s * dy.T @ (x @ A.T)

    gradcheck(lora, wrong, case.x, case.A, np.zeros_like(case.B))
    assume(abs(case.B).max() > 0.1 and abs(case.x).max() > 0.1)
    with pytest.raises(GradientError, match="dA is wrong"):
        gradcheck(lora, wrong, case.x, case.A, case.B, seed=seed)


# ---- what would pass in vain: wrong gradients that are small, beside something large


@pytest.mark.parametrize("small", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("slip", [lambda d: 0 * d, lambda d: d / 2, lambda d: -d])
def test_a_large_entry_does_not_hide_a_small_one(small, slip):
    """Columns of one W that differ a thousandfold: a slip in the small one."""
    scale = np.array([1.0, 1.0, small])

    def run(x, W):
        return (x * scale) @ W.T, (x * scale, W)

    def wrong(dy, cache):
        x, W = cache
        grad = dy.T @ x
        grad[:, 2] = slip(grad[:, 2])
        return dy @ W * scale, grad

    gradcheck(run, gives(lambda dy, x, W: dy @ W * scale, dW), X, W3)
    with pytest.raises(GradientError, match=r"dW is wrong \(dx is right\): at \[\d, 2\]"):
        gradcheck(run, wrong, X, W3)


@pytest.mark.parametrize("s", [1e-6, 1e-9, 1e-11])
@pytest.mark.parametrize("factor", [0, 0.5, 2, -1])
def test_a_small_scale_does_not_hide_a_missing_gradient(s, factor):
    def run(x, A):
        return x + s * x @ A, (x, A)

    def back(dy, cache, factor=1.0):
        x, A = cache
        return dy + s * dy @ A.T, factor * s * x.T @ dy

    assert gradcheck(run, back, X, W3) == ("x", "A")
    with pytest.raises(GradientError, match=r"dA is wrong \(dx is right\)"):
        gradcheck(run, functools.partial(back, factor=factor), X, W3)


def test_a_large_output_does_not_hide_a_missing_gradient():
    def run(x, b):
        return 1e4 * x + 1e-3 * b, None

    gradcheck(run, lambda dy, _: (1e4 * dy, 1e-3 * dy), X, X)
    with pytest.raises(GradientError, match="db is wrong"):
        gradcheck(run, lambda dy, _: (1e4 * dy, 0 * dy), X, X)


@pytest.mark.parametrize("digits", [3, 4, 5, 6])
def test_noise_does_not_excuse_a_wrong_gradient(digits):
    """Small stairs in the output: finite differences of many sizes, none of them a derivative."""
    for seed in range(10):
        with pytest.raises(GradientError, match="dx is wrong"):
            gradcheck(
                lambda x: (np.round(x, digits), None), lambda dy, _: (1.1 * dy,), X, seed=seed
            )


def test_rounding_does_not_excuse_a_larger_error():
    """The derivative is 0, and the differences are rounding: about 1e-12."""
    for seed in range(20):
        with pytest.raises(GradientError, match="dx is wrong"):
            gradcheck(lambda x: ((1 + x) - x, None), lambda dy, _: (0 * dy + 2e-11,), X, seed=seed)


@pytest.mark.parametrize("tolerance", [0, -1e-7, 0.5, math.inf, math.nan])
def test_a_tolerance_that_says_nothing_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance is .*, wanted above 0 and at most 0\.01"):
        gradcheck(forward, backward, X, W3, tolerance=tolerance)


def test_the_tolerance_is_relative():
    off = gives(lambda *a: dx(*a) * (1 + 1e-5), dW)
    assert gradcheck(forward, off, X, W3, tolerance=1e-4) == ("x", "W")


# ---- None, frozen, and nothing to check


@pytest.mark.smoke
@given(case=some.linears(), s=some.scalings)
def test_a_backward_of_nones_never_passes(case, s):
    arrays = case.x, case.W, s, case.A, case.B
    with pytest.raises(GradientError, match="returned None for x, W, A and B, float arrays"):
        gradcheck(adapted, lambda *_: (None,) * 5, *arrays)
    with pytest.raises(GradientError, match="returned None for x, A and B"):
        gradcheck(adapted, lambda *_: (None,) * 5, *arrays, frozen="W")
    with pytest.raises(ValueError, match="nothing to check"):
        gradcheck(adapted, lambda *_: (None,) * 5, *arrays, frozen=("x", "W", "A", "B"))


FROZEN = {
    "a None that is not declared": (
        gives(dx, none),
        (),
        "returned None for W, a float array: return the gradient, or declare .*: frozen='W'",
    ),
    "two, one declared": (
        gives(none, none),
        "W",
        r"returned None for x, a float array: .* frozen=\('x', 'W'\)",
    ),
    "declared, with a gradient": (
        backward,
        ("W",),
        "returned dW, and W is declared frozen: return None",
    ),
    "an unknown name": (
        backward,
        "WW",
        r"unknown name in frozen 'WW'; did you mean 'W'\? \(x, W\)",
    ),
}


@pytest.mark.parametrize("what", FROZEN)
def test_frozen(what):
    back, frozen, message = FROZEN[what]
    with pytest.raises((GradientError, ValueError), match=message):
        gradcheck(forward, back, X, W3, frozen=frozen)


NOTHING = {
    "no arguments": (lambda: (np.ones(3), None), (), "no arguments"),
    "numbers": (lambda n: (np.ones(3) * n, None), (3.0,), "n is a float"),
    "ints": (lambda x: (x * 1.0, None), (np.arange(3),), "x is an array of int64"),
    "an empty array": (lambda x: (np.ones(3), None), (X[:0],), "x is empty"),
    "an empty output": (lambda x: (x[:0], None), (X,), r"the output has the shape \(0, 3\)"),
}


@pytest.mark.parametrize("what", NOTHING)
def test_a_check_of_nothing_is_an_error(what):
    run, arrays, message = NOTHING[what]
    with pytest.raises(ValueError, match="gradcheck: nothing to check: .*" + message):
        gradcheck(run, lambda dy, _: (None,) * len(arrays), *arrays)


UNSEEN = {
    "a list of numbers": ([[1.0, 2.0]], "x is a list, wanted a NumPy array"),
    "a list of arrays": ([X], "x is a list that holds float arrays: pass each as an argument"),
    "a tensor": (ml.Tensor(X), "x is a Tensor, wanted a NumPy array"),
    "complex numbers": (X + 0j, "x is an array of complex128, wanted floats"),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_numbers_that_would_go_unchecked_are_refused(what):
    x, message = UNSEEN[what]
    with pytest.raises(ValueError, match=message):
        gradcheck(lambda x, y: (y + 0, None), lambda dy, _: (None, dy), x, X)
    checked = gradcheck(lambda x, y: (y + 0, None), lambda dy, _: (None, dy), x, X, frozen="x")
    assert checked == ("y",)


# ---- the form of a pair


def with_noise(x, W):
    return x @ W.T + np.random.default_rng().random(3), (x, W)


def spoils(i):
    """A backward that writes into a part of its cache."""

    def back(dy, cache):
        spoil(cache[i])
        return (dy,)

    return back


FORWARD = {
    "no cache": (lambda x, W: x @ W.T, r"returned an array of float64, wanted \(output, cache\)"),
    "the cache spread": (lambda x, W: (x @ W.T, x, W), r"returned a tuple of 3, wanted \(output"),
    "a list for the output": (lambda x, W: ([1.0], None), "the output is a list, wanted an array"),
    "a tensor": (lambda x, W: (ml.Tensor(x), x), "the output is a Tensor, wanted an array"),
    "ints": (lambda x, W: (x.argmax(1), (x, W)), "the output is an array of int64, wanted float64"),
    "float32": (
        lambda x, W: ((x @ W.T).astype(np.float32), (x, W)),
        "the output is an array of float32, wanted float64",
    ),
    "NaN": (lambda x, W: (x * np.nan, (x, W)), r"the output is not finite: nan at \[0, 0\]"),
    "an infinite loss": (lambda x, W: (x.sum() * np.inf, None), "the output is not finite: -?inf$"),
    "random numbers": (
        with_noise,
        "with_noise: two calls with the same arguments gave two outputs",
    ),
    "writes an argument": (
        lambda x, W: (spoil(W), forward(x, W))[1],
        "^<lambda>: it writes into W: make a",
    ),
}


@pytest.mark.parametrize("what", FORWARD)
def test_a_forward_of_another_form(what):
    run, message = FORWARD[what]
    with pytest.raises(GradientError, match=message) as caught:
        gradcheck(run, backward, X, W3)
    assert "\n" not in str(caught.value)


BACKWARD = {
    "one array": (lambda dy, c: dy @ c[1], r"returned an array of float64, wanted .* \(dx, dW\)"),
    "nothing": (lambda dy, c: None, r"returned None, wanted the tuple \(dx, dW\)"),
    "too few": (
        lambda dy, c: (dy @ c[1],),
        r"returned 1 gradient, wanted 2, one for each argument: \(dx, dW\)",
    ),
    "too many": (
        lambda dy, c: (*backward(dy, c), dy),
        r"returned 3 gradients, wanted 2, .*: \(dx, dW\)",
    ),
    "writes an argument": (
        lambda dy, c: (backward(dy, c), spoil(c[0]))[0],
        r"it writes into cache\[0\], which is x: make a new array",
    ),
    "writes dout": (lambda dy, c: (backward(dy, c), spoil(dy))[0], "it writes into dout: make a"),
}


@pytest.mark.parametrize("what", BACKWARD)
def test_a_backward_of_another_form(what):
    back, message = BACKWARD[what]
    with pytest.raises(GradientError, match=message) as caught:
        gradcheck(forward, back, X, W3)
    assert "\n" not in str(caught.value)


CACHES = {
    "the cache": (lambda x: x + 1, lambda c: spoil(c), "it writes into cache: make"),
    "a part": (lambda x: (3, x + 1), lambda c: spoil(c[1]), r"it writes into cache\[1\]: make"),
    "by name": (lambda x: {"z": [x + 1]}, lambda c: spoil(c["z"][0]), r"into cache\['z'\]\[0\]"),
    "taken out": (lambda x: [x + 1], lambda c: c.pop(), r"it writes into cache\[0\]"),
    "NaNs overwritten": (lambda x: x * np.nan, lambda c: c.fill(0), "it writes into cache"),
}


@pytest.mark.parametrize("what", CACHES)
def test_a_backward_that_writes_into_its_cache(what):
    keep, write, message = CACHES[what]
    with pytest.raises(GradientError, match=message):
        gradcheck(lambda x: (x + 0, keep(x)), lambda dy, c: (write(c), (dy,))[1], X)
    assert gradcheck(lambda x: (x + 0, keep(x)), lambda dy, c: (dy,), X) == ("x",)


def test_a_gradient_for_what_has_none():
    for n, kind in (
        (3, "an int"),
        (np.arange(2), "an array of int64"),
    ):
        with pytest.raises(GradientError, match=f"it returned dn, and n is {kind}: only a float"):
            gradcheck(lambda x, n: (x * 1, None), lambda dy, _: (dy, 0.0), X, n)


def test_too_many_arguments():
    with pytest.raises(ValueError, match="forward: got 3 arguments, and it takes 2"):
        gradcheck(forward, backward, X, W3, X)


def test_the_form_must_hold_close_to_the_arguments_too():
    with pytest.raises(GradientError, match="the output's shape changes with the values of x"):
        gradcheck(lambda x: (x[x > 1], None), lambda dy, _: (np.ones(2),), np.array([1.0, 2.0]))
    with (
        np.errstate(all="ignore"),
        pytest.raises(GradientError, match="the output is not finite close to this x"),
    ):
        gradcheck(lambda x: (np.log(x), x), lambda dy, x: (dy / x,), np.array([1e-3, 1.0]))


def test_the_callers_arrays_stay_as_they_are():
    x, ids = X.copy(), np.array([0, 1])

    def run(x, ids):
        out = x[ids] + 0
        spoil(x)
        ids[:] = 0
        return out, None

    with pytest.raises(GradientError, match="it writes into x"):
        gradcheck(run, lambda dy, _: (dy, None), x, ids)
    assert np.array_equal(x, X) and ids.tolist() == [0, 1]


def test_it_draws_nothing_from_the_global_state():
    before = np.random.get_state()[1].tobytes()
    gradcheck(forward, backward, X, W3)
    assert np.random.get_state()[1].tobytes() == before
