"""Every pair under two judges: finite differences, and the same op written in elementary ops.

The second judge is the engine, which differentiates exactly: what it says holds to rounding.
"""

import functools
import inspect
import math
from dataclasses import dataclass

import numpy as np
import pytest
from cases import running
from conftest import as_pair
from hypothesis import given
from hypothesis import strategies as st

from minilora import engine, fast, ops
from minilora import strategies as some
from minilora.engine import Op, Tensor, backward, param
from minilora.gradcheck import gradcheck

# ---- each op a second time, in elementary ops


def linear(x, W):
    return x @ W.T


def embedding(E, ids):
    return E[ids]


def rmsnorm(x, g, eps):
    return x * (ops.mean(x**2, -1, True) + eps) ** -0.5 * g


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = cos[:, None], sin[:, None]
    return ops.concat(a * cos - b * sin, b * cos + a * sin, -1)


def softmax(z):
    e = ops.exp(z)
    return e / ops.sum(e, -1, True)


def attention(q, k, v, spans):
    """Key head h // (H / G) of each query head, picked by index; an additive mask of -∞."""
    H, G, D = q.shape[1], k.shape[1], q.shape[2]
    heads, parts = np.arange(H) // (H // G), []
    for q0, q1, k0, k1 in spans:
        T, S = q1 - q0, k1 - k0
        qs, ks, vs = q[q0:q1], k[k0:k1, heads], v[k0:k1, heads]
        qs, ks, vs = (ops.transpose(t, (1, 0, 2)) for t in (qs, ks, vs))
        mask = np.triu(np.full((T, S), -math.inf), S - T + 1)
        p = softmax(qs @ ops.transpose(ks, (0, 2, 1)) * (1 / math.sqrt(D)) + mask)
        parts.append(ops.transpose(p @ vs, (1, 0, 2)))
    return functools.reduce(lambda a, b: ops.concat(a, b, 0), parts)


def swiglu(gate, up):
    return gate / (1 + ops.exp(-gate)) * up


def feed_forward(x, Wg, Wu, Wd):
    return swiglu(x @ Wg.T, x @ Wu.T) @ Wd.T


def cross_entropy(z, targets, count=None):
    rows = np.flatnonzero(targets != -100)
    z = z[rows]
    losses = ops.log(ops.sum(ops.exp(z), -1)) - z[np.arange(len(rows)), targets[rows]]
    return ops.sum(losses) * (1 / (count or max(1, len(rows))))


def head_loss(h, W, targets, count=None):
    return cross_entropy(h @ W.T, targets, count)


# ---- arguments, drawn


@dataclass
class Case:
    """An op's elementary twin, a strategy of its arguments, and which of these have a gradient."""

    twin: object
    arguments: st.SearchStrategy
    trains: tuple


@st.composite
def linear_arguments(draw):
    case = draw(some.linears())
    return case.x, case.W


@st.composite
def embedding_arguments(draw):
    V, M, seed = draw(some.sizes), draw(some.sizes), draw(some.seeds)
    return some.normal((V, 3), seed), np.random.default_rng(seed).integers(0, V, M)


@st.composite
def rmsnorm_arguments(draw):
    M, C, seed = draw(some.sizes), draw(some.sizes), draw(some.seeds)
    x = some.normal((M, C), seed)
    x += np.copysign(0.3, x)  # a row near 0 bends faster than finite differences step
    return x, some.normal((C,), seed + 1), draw(st.sampled_from([1e-6, 1e-5, 0.1]))


@st.composite
def rope_arguments(draw):
    M, H, half = (draw(some.sizes) for _ in range(3))
    angle = some.normal((M, half), draw(some.seeds))
    return draw(some.arrays((M, H, 2 * half))), np.cos(angle), np.sin(angle)


@st.composite
def attention_arguments(draw):
    """One to three sequences of their own lengths, some with keys of earlier tokens."""
    size = st.tuples(some.sizes, st.sampled_from([0, 1, 5]))  # queries, earlier keys
    sizes = draw(st.lists(size, min_size=1, max_size=3))
    ends, keys = np.cumsum([0, *(T for T, _ in sizes)]), np.cumsum([0, *map(sum, sizes)])
    spans = np.stack([ends[:-1], ends[1:], keys[:-1], keys[1:]], axis=1)
    G, group, seed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(some.seeds)
    D, shapes = draw(some.sizes), ((ends[-1], G * group), (keys[-1], G), (keys[-1], G))
    return *(some.normal((*shape, D), seed + i) for i, shape in enumerate(shapes)), spans


@st.composite
def swiglu_arguments(draw):
    M, F, seed = draw(some.sizes), draw(some.sizes), draw(some.seeds)
    return 2 * some.normal((M, F), seed), some.normal((M, F), seed + 1)


@st.composite
def feed_forward_arguments(draw):
    M, C, F, seed = draw(some.sizes), draw(some.sizes), draw(some.sizes), draw(some.seeds)
    shapes = (M, C), (F, C), (F, C), (C, F)
    return tuple(some.normal(shape, seed + i) for i, shape in enumerate(shapes))


@st.composite
def loss_arguments(draw, head):
    M, V, C, seed = draw(some.sizes), draw(some.sizes), draw(some.sizes), draw(some.seeds)
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, V, M)
    targets[rng.random(M) < draw(st.sampled_from([0.0, 0.4, 1.0]))] = -100
    h, W, count = some.normal((M, C), seed), some.normal((V, C), seed + 1), draw(COUNTS)
    return (h, W, targets, count) if head else (h @ W.T, targets, count)


COUNTS = st.sampled_from([None, 9])


CASES = {
    "linear": Case(linear, linear_arguments(), (True, True)),
    "frozen_linear": Case(linear, linear_arguments(), (True, False)),
    "embedding": Case(embedding, embedding_arguments(), (True, False)),
    "rmsnorm": Case(rmsnorm, rmsnorm_arguments(), (True, True, False)),
    "rope": Case(rope, rope_arguments(), (True, False, False)),
    "attention": Case(attention, attention_arguments(), (True, True, True, False)),
    "swiglu": Case(swiglu, swiglu_arguments(), (True, True)),
    "frozen_feed_forward": Case(
        feed_forward, feed_forward_arguments(), (True, False, False, False)
    ),
    "cross_entropy": Case(cross_entropy, loss_arguments(False), (True, False, False)),
    "head_loss": Case(head_loss, loss_arguments(True), (True, True, False, False)),
    "frozen_head_loss": Case(head_loss, loss_arguments(True), (True, False, False, False)),
}
each_op = pytest.mark.parametrize("name", CASES)


@pytest.mark.smoke
@each_op
@given(data=st.data())
def test_against_finite_differences(name, data):
    op, case = getattr(ops, name), CASES[name]
    args = data.draw(case.arguments)
    trains = dict(zip(inspect.signature(op.forward).parameters, case.trains, strict=True))
    frozen = [name for name in trains if not trains[name]]
    checked = gradcheck(op.forward, op.backward, *args, frozen=frozen)
    assert checked == tuple(name for name in trains if trains[name])


@pytest.mark.smoke
@each_op
@given(data=st.data())
def test_against_elementary_ops(name, data):
    op, case = getattr(ops, name), CASES[name]
    args = data.draw(case.arguments)
    out, cache = op.forward(*args)
    twin_forward, twin_backward = as_pair(case.twin)
    wanted, twin_cache = twin_forward(*args)
    assert out.shape == wanted.shape and np.allclose(out, wanted, rtol=1e-12, atol=1e-13)
    dout = np.asarray(some.normal(out.shape, 1))
    grads, exact = op.backward(dout, cache), twin_backward(dout, twin_cache)
    for got, want, trains in zip(grads, exact, case.trains, strict=True):
        if trains:
            size = 1e-12 * (1 + np.linalg.norm(want))
            assert got.shape == want.shape and np.linalg.norm(got - want) <= size


@pytest.mark.smoke
@each_op
@given(data=st.data())
def test_float32_stays_float32_and_agrees_with_float64(name, data):
    """In value and gradients; and nothing writes into its arguments."""
    op = getattr(ops, name)
    args = data.draw(CASES[name].arguments)
    wide, narrow = (
        [a.astype(t) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in args]
        for t in (np.float64, np.float32)
    )
    before = [np.copy(a) if isinstance(a, np.ndarray) else a for a in narrow]
    (out, cache), (out32, cache32) = op.forward(*wide), op.forward(*narrow)
    assert out32.dtype == np.float32
    assert np.linalg.norm(out32 - out) <= 1e-5 * (1 + np.linalg.norm(out))
    dout = np.asarray(some.normal(out.shape, 1))
    pairs = zip(op.backward(dout, cache), op.backward(np.asarray(dout, np.float32), cache32))
    for a, (g, g32) in zip(narrow, pairs, strict=True):
        if g is not None:
            assert g32.dtype == np.float32 and g32.shape == np.shape(a)
            assert np.linalg.norm(g32 - g) <= 2e-5 * (1 + np.linalg.norm(g))
    for a, b in zip(narrow, before):
        assert not isinstance(a, np.ndarray) or np.array_equal(a, b)


@pytest.mark.parametrize("name", ["add", "mul", "matmul", "linear", "rmsnorm"])
def test_need_gives_the_same_gradients_and_none_where_not_asked(name, rng):
    args = (rng.standard_normal((3, 3)), rng.standard_normal((3, 3)))
    if name == "rmsnorm":
        args = (args[0], args[1][0], 1e-5)
    op = getattr(ops, name)
    assert op.takes_need
    out, cache = op.forward(*args)
    full = op.backward(out, cache)
    for need in ((True, False), (False, True), (False, False), (True, True)):
        grads = op.backward(out, cache, need + (False,) * (len(args) - 2))
        for g, all_, n in zip(grads, full, need):
            assert (g is not None) == n and (g is None or np.array_equal(g, all_))


@pytest.mark.skipif(fast.backend() == "numpy", reason="about Numba's twins")
def test_rmsnorm_s_twin_adds_to_the_gradient_of_the_residual(rng, monkeypatch):
    """x + rmsnorm(x): one pass has the bits of two, and the slope of the page in float64."""
    x, dout = (rng.standard_normal((5, 8)).astype(np.float32) for _ in range(2))
    g, sums = rng.standard_normal(8).astype(np.float32), []

    def gradient(norm, dtype=np.float32):
        leaf = param(x.astype(dtype))
        backward(ops.add(leaf, norm(leaf, g.astype(dtype), 1e-5)), dout.astype(dtype))
        return leaf.grad

    monkeypatch.setattr(engine, "add", lambda a, b: sums.append(1) or a + b)
    forward, back = running("rmsnorm")
    wanted = gradient(Op("in two passes", forward, lambda dy, cache: back(dy, cache)))
    exact = gradient(ops.rmsnorm, np.float64)
    assert len(sums) == 2
    np.testing.assert_array_equal(gradient(ops.rmsnorm), wanted)
    assert len(sums) == 2, "a second pass over the numbers"
    np.testing.assert_allclose(wanted, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_the_gradient_to_which_a_twin_adds_may_be_of_another_dtype_and_one_of_three(wide, rng):
    """x is used by rmsnorm between two other uses; the second one's gradient may be float64."""
    x, g, scale = *rng.standard_normal((2, 8)).astype(np.float32), np.float64(3 if wide else 0)
    x = x[None]

    def forward(a, b):
        return (scale * a + b).astype(np.float32), None

    mix = Op("mix", forward, lambda dy, cache: (scale * dy if wide else 0 * dy, dy))
    leaf = param(x)
    first = ops.mul(leaf, Tensor(np.float32(2)))
    backward(ops.sum(ops.add(mix(leaf, ops.rmsnorm(leaf, g, 1e-5)), first)))
    y, cache = ops.rmsnorm.forward(x.astype(float), g.astype(float), 1e-5)
    wanted = ops.rmsnorm.backward(np.ones_like(y), cache)[0] + 2 + scale
    np.testing.assert_allclose(leaf.grad, wanted, rtol=1e-5, atol=1e-5)


@each_op
@given(data=st.data())
def test_the_tape_gives_what_the_pair_gives(name, data):
    """Each argument trained alone; those with a default left out where they are None."""
    op, case = getattr(ops, name), CASES[name]
    args = data.draw(case.arguments)
    args = args[:-1] if args[-1] is None else args
    out, cache = op.forward(*args)
    dout = np.asarray(some.normal(out.shape, 1))
    for i, want in enumerate(op.backward(dout, cache)):
        if want is None:
            continue
        leaf = param(args[i])
        backward(op(*args[:i], leaf, *args[i + 1 :]), dout)
        assert np.array_equal(leaf.grad, want)


# ---- the loss and the head


@pytest.mark.parametrize("ignored", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [None, 40])
def test_head_loss_is_linear_then_cross_entropy(ignored, count, rng):
    h, W = rng.standard_normal((10, 4)), rng.standard_normal((6, 4))
    targets = rng.integers(0, 6, 10)
    targets[rng.random(10) < ignored] = -100

    def apart(h, W):
        return ops.cross_entropy(ops.linear(h, W), targets, count)

    leaves, twins = (param(h), param(W)), (param(h), param(W))
    loss, wanted = ops.head_loss(*leaves, targets, count), apart(*twins)
    backward(loss, np.asarray(3.0))
    backward(wanted, np.asarray(3.0))
    assert np.isclose(loss.data, wanted.data, rtol=1e-14)
    for leaf, twin in zip(leaves, twins):
        assert np.allclose(leaf.grad, twin.grad, rtol=1e-12, atol=1e-14)
    frozen = param(h)
    backward(ops.frozen_head_loss(frozen, W, targets, count), np.asarray(3.0))
    assert np.array_equal(frozen.grad, leaves[0].grad)
    for op in (ops.head_loss, ops.frozen_head_loss):  # the value alone
        assert np.isclose(op(h, W, targets, count).data, wanted.data, rtol=1e-14)


def test_cross_entropy_of_huge_logits():
    z = np.array([[1e4, 0.0, -1e4], [-1e300, 1e300, 0.0]])
    loss, (dz, _) = ops.cross_entropy.forward(z, np.array([0, 1]))
    assert loss == 0 and np.array_equal(dz, np.zeros((2, 3)))


def test_rope_turns_and_keeps_lengths(rng):
    """Scores depend on the distance of two places, not on the places."""
    q, k = rng.standard_normal((2, 6, 1, 4))
    q[:], k[:] = q[:1], k[:1]
    angle = np.arange(6)[:, None] * np.array([1.0, 0.3])
    q, k = (ops.rope(a, np.cos(angle), np.sin(angle)).data[:, 0] for a in (q, k))
    scores = q @ k.T
    assert np.allclose(np.diag(scores, 2), scores[0, 2])
    assert not np.isclose(scores[0, 2], scores[0, 1])
    assert np.allclose(np.linalg.norm(q, axis=1), np.linalg.norm(q[0]))


def test_attention_looks_at_no_later_key_and_at_no_other_sequence(rng):
    q, k, v = (rng.standard_normal((10, 2, 4)) for _ in range(3))
    spans = np.array([[0, 5, 0, 5], [5, 10, 5, 10]])
    o = ops.attention(q, k, v, spans).data
    k[3:5], v[3:5] = 99, 99
    again = ops.attention(q, k, v, spans).data
    assert np.array_equal(again[:3], o[:3]) and np.array_equal(again[5:], o[5:])
    assert not np.isclose(again[4], o[4]).any()


def test_caches_hold_what_the_docstrings_say(rng):
    """A frozen linear keeps its weight alone, an embedding its ids, rope its tables."""
    x, W = rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
    assert ops.frozen_linear.forward(x, W)[1] is W
    assert ops.linear.forward(x, W)[1][0] is x
    ids, cos, sin = np.array([1, 0]), np.ones((3, 2)), np.zeros((3, 2))
    kept, shape = ops.embedding.forward(x, ids)[1]
    assert kept is ids and shape == x.shape
    _, tables = ops.rope.forward(x.reshape(3, 1, 4), cos, sin)
    assert tables[0] is cos and tables[1] is sin
