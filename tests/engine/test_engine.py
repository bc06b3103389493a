"""The engine: what the tape remembers, its order, what it frees; and the elementary ops."""

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import as_pair, rel
from hypothesis import given
from hypothesis import strategies as st

from minilora import ops
from minilora import strategies as some
from minilora.engine import Op, Tensor, backward, param, place, scope, tape
from minilora.gradcheck import gradcheck


def positive(a):
    return np.asarray(1 + np.abs(a))


@contextlib.contextmanager
def no_gc():
    """Inside, an object dies when its last reference goes, or it stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ---- the elementary ops


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["add", "mul", "maximum"])
@given(pair=some.broadcast_pair())
def test_binary_op_broadcast(name, pair):
    op, numpy_op = getattr(ops, name), {"add": np.add, "mul": np.multiply, "maximum": np.maximum}
    a, b = pair
    if name == "maximum":  # no two numbers near each other: there it has no derivative
        a, b = np.asarray(np.round(a)), np.asarray(np.round(b) + 0.5)
    gradcheck(op.forward, op.backward, a, b)
    assert np.array_equal(op(a, b).data, numpy_op[name](a, b))


@pytest.mark.parametrize("name", ["exp", "log", "tanh"])
@given(a=some.arrays())
def test_unary_op(name, a):
    op = getattr(ops, name)
    a = positive(a) if name == "log" else a
    gradcheck(op.forward, op.backward, a)
    assert np.array_equal(op(a).data, getattr(np, name)(a))


@given(a=some.arrays(), exponent=st.sampled_from([-1.0, -0.5, 0.5, 1, 2, 3.0]))
def test_power(a, exponent):
    gradcheck(ops.power.forward, ops.power.backward, positive(a), exponent)


@given(pair=some.broadcast_pair(), M=some.sizes, K=some.sizes, N=some.sizes, seed=some.seeds)
def test_matmul_broadcasts_leading_axes(pair, M, K, N, seed):
    a = some.normal((*pair[0].shape, M, K), seed)
    b = some.normal((*pair[1].shape, K, N), seed + 1)
    gradcheck(ops.matmul.forward, ops.matmul.backward, a, b)
    assert rel(ops.matmul(a, b).data, np.einsum("...mk,...kn->...mn", a, b)) < 1e-14


@given(data=st.data(), a=some.arrays(some.shapes(1, 4)), keepdims=st.booleans())
def test_sum_and_mean_over_any_axes(data, a, keepdims):
    axes = data.draw(
        st.sets(st.integers(-a.ndim, a.ndim - 1)).filter(
            lambda chosen: len({i % a.ndim for i in chosen}) == len(chosen)
        )
    )
    axis = data.draw(st.sampled_from([None, -1, 0, tuple(axes)]))
    gradcheck(ops.sum.forward, ops.sum.backward, a, axis, keepdims)
    pair = as_pair(lambda t: ops.mean(t, axis, keepdims))
    gradcheck(*pair, a)
    assert np.allclose(pair[0](a)[0], a.mean(axis=axis, keepdims=keepdims), rtol=1e-13, atol=1e-15)


@given(data=st.data(), a=some.arrays(some.shapes(1, 4)))
def test_reshape_transpose_concat(data, a):
    axes = data.draw(st.one_of(st.none(), st.permutations(range(a.ndim)).map(tuple)))
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    b = data.draw(some.arrays((*a.shape[: axis % a.ndim], 3, *a.shape[axis % a.ndim + 1 :])))
    gradcheck(ops.reshape.forward, ops.reshape.backward, a, (-1,))
    gradcheck(ops.transpose.forward, ops.transpose.backward, a, axes)
    gradcheck(ops.concat.forward, ops.concat.backward, a, b, axis)


@pytest.mark.parametrize(
    "key",
    [
        2,
        slice(1, 3),
        (slice(None), 1),
        (..., None, 0),
        np.array([0, 2, 0, 0]),
        np.arange(4) % 2 == 0,
    ],
    ids=["int", "slice", "column", "newaxis", "repeated", "mask"],
)
def test_index(key, rng):
    a = rng.standard_normal((4, 3, 2))
    gradcheck(ops.index.forward, ops.index.backward, a, key)


def test_maximum_gives_a_tie_to_the_first():
    da, db = ops.maximum.backward(np.ones(3), ops.maximum.forward(np.zeros(3), np.zeros(3))[1])
    assert da.tolist() == [1, 1, 1] and db.tolist() == [0, 0, 0]


@given(pair=some.broadcast_pair())
def test_operators(pair):
    a, b = pair
    for f in (
        lambda a, b: a + b - (-a) * b,
        lambda a, b: 3 - a * 2 + (b + 1) - 4,
        lambda a, b: a / (b * b + 1) + 1 / (a * a + 1) + b / 2,
        lambda a, b: (a * a + 1) ** 0.5 * b,
    ):
        gradcheck(*as_pair(f), a, b)
        for x, y in ((param(a), param(b)), (a, param(b)), (param(a), b)):
            # an array on the left must not swallow the tensor on its right
            assert np.allclose(f(x, y).data, f(a, b), rtol=1e-12, atol=1e-13)


def test_operators_of_matrices(rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    gradcheck(*as_pair(lambda a, b: a @ b.T), a, b)
    gradcheck(*as_pair(lambda a, b: (a @ b.T)[1:, ::2]), a, b)
    assert isinstance(a @ param(b).T, Tensor)


# ---- adding up


@given(a=some.arrays(some.shapes(1, 2)))
def test_gradients_of_a_tensor_used_often_add_up(a):
    def f(t):
        u = ops.tanh(t)
        return u * u + u * t + t + ops.exp(u * t) + u + t

    gradcheck(*as_pair(f), a)


def test_receiving_never_writes_into_what_an_op_returned(rng):
    """One op gives its two parents one array, another gives out its cache."""
    kept = rng.standard_normal(3)
    both = Op("both", lambda a, b: (a + b, None), lambda dy, _: (dy, dy))
    stored = Op("stored", lambda a: (a * kept, kept), lambda dy, cache: (cache,))
    x, y = param(rng.standard_normal(3)), param(rng.standard_normal(3))
    before, dout = kept.copy(), np.ones(3)
    out = both(both(stored(x), stored(x)), both(both(x, x), both(x, y)))
    backward(out, dout)
    assert np.array_equal(kept, before) and np.array_equal(dout, np.ones(3))
    assert np.allclose(x.grad, 2 * kept + 3) and np.array_equal(y.grad, np.ones(3))


def test_leaf_gradients_add_up_over_calls_inner_ones_are_dropped():
    x = param(np.array([2.0]))
    for times in (1, 2):
        inner = x * x
        backward(ops.sum(inner))
        assert x.grad == times * 4 and inner.grad is None


# ---- what the tape holds


def watched(refs, seen):
    """An op that keeps an array of its own, and notes in backward which of all these are alive."""

    def forward(a):
        cache = np.empty(1000)
        refs.append(weakref.ref(cache))
        return a + 1, cache

    def backward_(dy, cache):
        seen.append([ref() is not None for ref in refs])
        return (dy,)

    return Op("watched", forward, backward_)


@pytest.mark.smoke
def test_caches_are_freed_as_backward_passes():
    refs, seen = [], []
    op = watched(refs, seen)
    with no_gc():
        out = op(op(op(param(np.zeros(2)))))
        assert all(ref() is not None for ref in refs)
        backward(out)
        assert seen == [[True, True, True], [True, True, False], [True, False, False]]
        assert all(ref() is None for ref in refs)
        assert not isinstance(out.node.cache, np.ndarray) and out.node.parents == ()


def test_gradients_of_inner_nodes_die_with_backward():
    grads = []

    def note(dy, _):
        grads.append(weakref.ref(dy))
        return (dy * 2,)

    op = Op("note", lambda a: (a + 1, None), note)
    with no_gc():
        x = param(np.zeros(2))
        out = op(op(op(x)))
        backward(out, np.ones(2))
        assert [ref() is not None for ref in grads] == [False, False, False]
        assert x.grad.tolist() == [8, 8]


def test_the_tape_holds_no_tensor_and_no_array_that_no_cache_keeps():
    with no_gc():
        before = sum(type(o) is Tensor for o in gc.get_objects())
        x = param(np.zeros(4))
        h = ops.add(x, 1.0)  # add keeps shapes only
        unused = weakref.ref(h.data)
        h = ops.tanh(h)  # tanh keeps its output
        used = weakref.ref(h.data)
        h = ops.add(h, 1.0)
        assert unused() is None
        assert used() is not None
        assert sum(type(o) is Tensor for o in gc.get_objects()) == before + 2  # x and h
        backward(ops.sum(h))
        assert used() is None


def test_a_graph_that_is_not_walked_dies_whole():
    refs = []
    op = watched(refs, [])
    with no_gc():
        out = op(op(param(np.zeros(2))))
        del out
        assert all(ref() is None for ref in refs)


def test_nothing_trainable_upstream_makes_no_node_and_keeps_no_cache():
    refs = []
    op = watched(refs, [])
    with no_gc():
        out = op(Tensor(np.zeros(2)))
        assert out.node is None and out.grad is None and refs[0]() is None
        assert ops.mul(np.ones(2), 3.0).node is None


def test_value_serves_where_nothing_trains():
    op = Op("v", lambda a: (a + 1, None), lambda dy, _: (dy,), value=lambda a: a + 100)
    assert op(np.zeros(1)).data == 100 and op(param(np.zeros(1))).data == 1


def test_a_chain_of_100_000_nodes():
    length = 100_000

    def chain(x):
        for _ in range(length):
            x = ops.add(x, 1.0)
        return x

    x = param(np.zeros(1))
    out = chain(x)
    assert out.data == length
    backward(out)
    assert x.grad == 1
    out = chain(x)
    del out  # no recursion on the way down either


# ---- order, flags, names, refusals


def test_a_diamond_is_walked_once_parents_before_children():
    calls = []

    def note(dy, _):
        calls.append(dy.copy())
        return (dy,)

    op = Op("note", lambda a: (a * 1, None), note)
    x = param(np.ones(1))
    shared = op(x)
    left, right = shared * 2.0, shared * 3.0
    out = left + right
    nodes = tape(out)
    assert [n.order for n in nodes] == sorted(n.order for n in nodes) and nodes[-1] is out.node
    assert len(nodes) == len(set(map(id, nodes))) == 5
    backward(out)
    assert len(calls) == 1 and calls[0] == 5 and x.grad == 5


def test_tape_of_several_outputs(rng):
    x = param(rng.standard_normal(2))
    a, b = ops.tanh(x), ops.exp(x)
    assert tape(a, b) == [x.node, a.node, b.node]


def test_need_says_which_arguments_train():
    told = []

    def backward_(dy, cache, need=(True, True, True)):
        told.append(need)
        return tuple(dy if n else None for n in need)

    op = Op("asks", lambda a, b, c: (a + b, None), backward_)
    x = param(np.ones(1))
    backward(op(x, np.ones(1), None))
    backward(op(np.ones(1), x * 2.0, x))
    assert told == [(True, False, False), (False, True, True)]


def test_gradients_go_to_no_one_where_nothing_trains_and_none_is_no_gradient():
    op = Op("half", lambda a, b: (a + b, None), lambda dy, _: (dy, None))
    x, y = param(np.ones(1)), param(np.ones(1))
    backward(op(x, ops.tanh(y)))
    assert x.grad == 1 and y.grad is None
    backward(op(ops.tanh(y), Tensor(np.ones(1))))
    assert y.grad is not None


def test_a_trained_exponent_is_refused():
    x, n = param(np.full(2, 2.0)), param(np.ones(2))
    with pytest.raises(ValueError, match="power: the exponent trains"):
        backward(ops.sum(x**n))


def test_a_wrong_number_of_gradients_is_refused():
    op = Op("short", lambda a, b: (a + b, None), lambda dy, _: (dy,))
    with pytest.raises(ValueError, match="short: backward gave 1 gradients, wanted 2"):
        backward(op(param(np.ones(1)), param(np.ones(1))))


def test_backward_twice_raises_and_changes_nothing():
    x = param(np.ones(1))
    inner = x * 2.0
    out = ops.tanh(inner)
    backward(out)
    grad = x.grad.copy()
    with pytest.raises(ValueError, match="walked before"):
        backward(out)
    with pytest.raises(ValueError, match="walked before"):
        backward(inner + x)  # shares a part that is gone
    assert np.array_equal(x.grad, grad)


def test_backward_without_anything_trainable_raises():
    with pytest.raises(ValueError, match="nothing upstream"):
        backward(ops.exp(Tensor(np.ones(1))))


def test_scope_names():
    x = param(np.ones(1), "leaf")
    with scope("outer"):
        a = ops.tanh(x)
        with scope("inner"):
            b = ops.tanh(a)
        with contextlib.suppress(KeyError), scope("broken"):
            raise KeyError
        c = ops.tanh(b)
    d = ops.tanh(c)
    assert [t.node.name for t in (x, a, b, c, d)] == ["leaf", "outer", "outer.inner", "outer", ""]
    assert "tanh" in repr(b.node) and "outer.inner" in repr(b.node)


def test_float32_stays_float32(rng):
    a, b = (rng.standard_normal((3, 3)).astype(np.float32) for _ in range(2))
    x, y = param(a), param(b)
    out = ops.mean(ops.tanh(x @ y + 1) ** 2 / 3 - ops.maximum(x, 0.0) * 2.0 + ops.exp(y)[0])
    assert out.dtype == np.float32
    backward(out)
    assert x.grad.dtype == y.grad.dtype == np.float32


def test_each_thread_has_its_own_scopes():
    """Two threads inside theirs at once: no node carries the other one's name."""
    both = threading.Barrier(2)

    def places(name):
        found = []
        for i in range(50):
            with scope(name):
                both.wait()
                with scope(str(i)):
                    both.wait()
                    found.append((ops.add(param(np.ones(1)), np.ones(1)).node.name, place()))
        return found, place()

    with ThreadPoolExecutor(2) as pool:
        for name, (found, after) in zip("ab", pool.map(places, "ab")):
            assert found == [(f"{name}.{i}",) * 2 for i in range(50)] and after == ""
