"""The engine, the elementary ops and gradcheck at the limits of what they take."""

import importlib
import types

import numpy as np
import pytest
from battery import BATCHES, tune

import minilora as ml
from minilora import engine, fast, ops
from minilora.engine import Tensor, backward, param
from minilora.fast import twins
from minilora.gradcheck import GradientError

# their names in the package are functions
training = importlib.import_module("minilora.tuning.train")
gradcheck = importlib.import_module("minilora.gradcheck")

# ---------------------------------------- gradients that are given away early


def test_a_leaf_is_ready_once_and_as_soon_as_its_gradient_is_whole():
    """d((a b + a) c): c is used by the last node alone, so it is ready before a and b are."""
    arrays = {name: np.array([2.0, 3.0]) + i for i, name in enumerate("abc")}

    def walked(ready):
        leaves = {name: param(array, name) for name, array in arrays.items()}
        total = ops.add(ops.mul(leaves["a"], leaves["b"]), leaves["a"])
        backward(ops.sum(ops.mul(total, leaves["c"])), ready=ready)
        return {name: leaf.grad for name, leaf in leaves.items()}

    told = []
    whole = walked(None)
    walked(lambda node: told.append((node.name, node.grad.copy())))
    assert [name for name, _ in told] == ["c", "a", "b"] or [n for n, _ in told] == ["c", "b", "a"]
    assert all(np.array_equal(grad, whole[name]) for name, grad in told)


def test_several_batches_never_hold_all_gradients_twice(monkeypatch):
    """In the sum and in a leaf at the same time: one of them at most. A single batch has no sum."""
    tuned, seen = tune("full"), []

    def counted(loss, ready=None):
        if ready is None:
            seen.append(None)
            return backward(loss)

        def told(node):
            ready(node)
            seen.append(sum(leaf.node.grad is not None for leaf in leaves[-1].values()))

        return backward(loss, ready=told)

    leaves, make = [], type(tuned).leaves
    monkeypatch.setattr(type(tuned), "leaves", lambda self: leaves.append(make(self)) or leaves[-1])
    monkeypatch.setattr(training, "backward", counted)
    training.gradients(tuned, BATCHES[:2])
    assert len(seen) == 2 * len(tuned.trainable) and max(seen) <= 1
    seen.clear()
    training.gradients(tuned, BATCHES[:1])
    assert seen == [None]


def test_the_gradient_of_the_output_has_its_shape():
    x = param(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dout has shape \(3,\), wanted \(2, 3\)"):
        backward(ops.mul(x, x), np.ones(3))


def test_a_third_gradient_is_added_into_the_tape_s_own_array():
    """The second makes it; an array that an op gave is never written into."""
    node, given = param(np.zeros(2)).node, np.ones(2)
    node.receive(given)
    assert node.grad is given
    node.receive(given)
    own = node.grad
    node.receive(given)
    assert node.grad is own and own.tolist() == [3, 3] and given.tolist() == [1, 1]


@pytest.mark.parametrize("has_twin", [True, False])
def test_a_twin_serves_arrays_that_it_answers_for(has_twin, monkeypatch):
    """Here float32 ones, by the first argument; elsewhere, and without a twin, the page's pair."""
    ran = []

    def noted(name, result):
        return lambda *args: ran.append(name) or result(*args)

    pair = {
        "forward": lambda a, b: (a * b, (a, b)),
        "backward": lambda dy, cache: (dy * cache[1], dy * cache[0]),
        "value": lambda a, b: a * b,
    }
    op = engine.Op("made_up", *(noted(f"page_{kind}", f) for kind, f in pair.items()))
    if has_twin:
        for kind, function in pair.items():
            page = getattr(op, kind)
            twin = fast.or_page(noted(f"fast_{kind}", function), page)
            monkeypatch.setitem(twins.TWINS, page, twin)
    for dtype, other in (("float32", "float64"), ("float64", "float32")):
        who = "fast" if has_twin and dtype == "float32" and fast.on() else "page"
        a, b = param(np.ones(2, dtype)), np.ones(2, other)
        op(a.data, b)
        out = op(a, b)
        backward(out, np.ones(2, dtype))
        assert ran == [f"{who}_value", f"{who}_forward", f"{who}_backward"]
        ran.clear()
    alone = engine.Op("made_up", noted("page_forward", pair["forward"]), pair["backward"])
    assert alone(np.ones(2), np.ones(2)).data.tolist() == [1, 1] and ran == ["page_forward"]


# ---------------------------------------- elementary ops


def test_a_node_is_named_after_its_linear():
    tuned = tune("lora", targets=("q_proj",))
    names = {node.name for node in engine.tape(tuned.loss(*BATCHES[0], leaves=tuned.leaves()))}
    assert "model.layers.1.self_attn.q_proj" in names and "model.layers.1.self_attn.v_proj" in names


@pytest.mark.parametrize("many", [1, 2, 3])
@pytest.mark.parametrize("name", ["add", "mul"])
def test_a_row_is_spread_over_one_two_or_three(name, many):
    """Its gradient is the sum over all, also where these are two."""
    op, rng = getattr(ops, name), np.random.default_rng(many)
    wide, row = rng.standard_normal((many, 3)), rng.standard_normal((1, 3))
    ml.gradcheck(op.forward, op.backward, wide, row)
    ml.gradcheck(op.forward, op.backward, row, wide)


@pytest.mark.parametrize("many", [0, 1, 2])
@pytest.mark.parametrize("made", [Tensor, param], ids=["the value alone", "on the tape"])
def test_a_loss_is_the_mean_of_none_of_one_and_of_two_targets(made, many):
    rng, targets = np.random.default_rng(0), np.array([2, 0, 1])
    h, W = rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    z = h @ W.T
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(3), targets]
    targets[many:] = -100
    wanted = losses[:many].sum() / max(1, many)
    assert np.isclose(ops.cross_entropy(made(z), targets).data, wanted)
    assert np.isclose(ops.head_loss(made(h), made(W), targets).data, wanted)
    assert np.isclose(ops.frozen_head_loss(made(h), W, targets).data, wanted)


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_what_dropout_keeps_it_divides_by_the_probability_of_keeping(p):
    kept = ops.dropout.forward(np.ones((40, 40)), p, (0, 1, 0, 0))[0]
    assert set(kept.ravel()) == {0.0, 1 / (1 - p)}
    assert abs(kept.mean() - 1) < 0.1


def test_dropout_drops_below_p_and_keeps_from_p_on(monkeypatch):
    drawn = np.array([[0.0, 0.125, 0.25, 0.5]], np.float32)
    bits = types.SimpleNamespace(random=lambda shape, dtype: drawn)
    monkeypatch.setattr(np.random, "Generator", lambda stream: bits)
    assert np.flatnonzero(ops.dropout.forward(np.ones((1, 4)), 0.25, (0,))[0]).tolist() == [2, 3]


@pytest.mark.parametrize("before, inside", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_segment_that_is_computed_again_is_on_the_tape_where_something_trains(before, inside):
    x, w = (param(np.full(3, 2.0)) if t else Tensor(np.full(3, 2.0)) for t in (before, inside))
    out = ops.recompute(lambda h: ops.mul(h, w), x)
    assert out.data.tolist() == [4, 4, 4] and (out.node is not None) == bool(before or inside)
    if out.node:
        backward(out)
        assert [None if t.grad is None else t.grad.tolist() for t in (x, w)] == [
            [2, 2, 2] if trains else None for trains in (before, inside)
        ]


def test_minus_and_division_of_tensors():
    a, b = param(np.array([2.0, -3.0])), param(np.array([4.0, 5.0]))
    backward(ops.sum(-a / b - b))
    assert np.allclose(a.grad, [-1 / 4, -1 / 5])
    assert np.allclose(b.grad, [2 / 16 - 1, -3 / 25 - 1])


# ---------------------------------------- gradcheck


@pytest.mark.parametrize("seed", range(8))
def test_two_errors_that_cancel_in_a_sum_do_not_hide_each_other(seed):
    wrong = np.array([1e-3, -1e-3, 0.0])
    with pytest.raises(GradientError, match="dx is wrong"):
        ml.gradcheck(
            lambda x: (2 * x, None), lambda dy, _: (2 * dy + wrong,), np.ones(3), seed=seed
        )


def test_a_gradient_below_the_rounding_of_a_large_output_is_right():
    ml.gradcheck(lambda x: (1e8 + 1e-12 * x, None), lambda dy, _: (1e-12 * dy,), np.ones(3))
    with pytest.raises(GradientError, match="dx is wrong"):
        ml.gradcheck(lambda x: (1e8 + 0 * x, None), lambda dy, _: (0.1 * dy,), np.ones(3))


def test_the_largest_tolerance_is_a_hundredth():
    pair = ops.exp.forward, ops.exp.backward
    assert ml.gradcheck(*pair, np.ones(3), tolerance=0.01) == ("a",)
    with pytest.raises(ValueError, match=r"at most 0\.01"):
        ml.gradcheck(*pair, np.ones(3), tolerance=0.011)


def test_a_direction_has_entries_of_both_signs_and_none_near_0():
    direction = gradcheck._random(types.SimpleNamespace(rng=np.random.default_rng(0)), 10_000)
    sizes = np.abs(direction)
    assert 1 <= sizes.min() < 1.01 and 1.99 < sizes.max() <= 2
    assert abs(np.sign(direction).mean()) < 0.05


def test_a_small_gradient_does_not_hide_a_smaller_one():
    scale, wrong = np.array([1e-4, 3e-12]), np.array([1e-4, 6e-12])
    ml.gradcheck(lambda x: (scale * x, None), lambda dy, _: (scale * dy,), np.ones(2))
    with pytest.raises(GradientError, match="dx is wrong"):
        ml.gradcheck(lambda x: (scale * x, None), lambda dy, _: (wrong * dy,), np.ones(2))


def test_the_worst_of_many_entries_is_looked_for_in_halves():
    calls, slopes = [], np.ones(1100)
    slopes[701] = 2

    def forward(x):
        calls.append(None)
        return x, None

    with pytest.raises(GradientError, match=r"at \[701\] got .*, ratio 2$"):
        ml.gradcheck(forward, lambda dy, _: (slopes * dy,), np.ones(1100))
    assert len(calls) < 3000
