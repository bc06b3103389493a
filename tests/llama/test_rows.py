"""Only the rows that can matter are computed: the loss, the gradients and the bytes show it."""

import numpy as np
import pytest
from battery import shake
from conftest import make_llama, rel
from hypothesis import given
from hypothesis import strategies as st

import minilora as ml
from minilora import ops
from minilora.engine import Tensor, backward, tape
from minilora.llama.rows import needed_rows
from minilora.ops.dropout import mask
from minilora.ops.loss import IGNORED

METHODS = tuple(ml.METHODS)


def some_targets(rng, N, T, V):
    """Targets with masked prompts, padding, gaps, and in one sequence none at all."""
    targets = rng.integers(0, V, (N, T))
    for row in targets:
        begin, end = np.sort(rng.integers(0, T + 1, 2))
        row[:begin] = row[end:] = IGNORED
    targets[rng.random((N, T)) < 0.2] = IGNORED
    targets[rng.integers(N)] = IGNORED
    targets[0, T // 2] = 3
    return targets


def tuned_of(method, dtype=np.float64, **how):
    """A technique on a small model, with random numbers in its arrays: nowhere B = 0."""
    tuned = ml.attach(make_llama(dtype=dtype), method, **how)
    shake(tuned)
    return tuned


def rectangle_loss(tuned, ids, targets, leaves, key=None):
    """The loss with every row of the batch computed in every layer."""
    how = tuned.forward(leaves, key)
    h, W = tuned.base.hidden(ids, how), tuned.base.head(how)
    op = ops.head_loss if isinstance(W, Tensor) else ops.frozen_head_loss
    return op(h, W, targets.reshape(-1), None)


def gradients(loss, leaves):
    backward(loss)
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("recompute", [None, "layers"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_are_those_of_the_rectangle(method, recompute, dropout, rng):
    if dropout and "dropout" not in ml.METHODS[method].options:
        pytest.skip("takes no dropout")
    options = {"dropout": dropout} if dropout else {}
    if not ml.METHODS[method].whole_model:
        options["targets"] = "all-linear"
    tuned = tuned_of(method, recompute=recompute, **options)
    for _ in range(3):
        ids, targets = rng.integers(0, 29, (5, 9)), some_targets(rng, 5, 9, 29)
        leaves, again = tuned.leaves(), tuned.leaves()
        loss = tuned.loss(ids, targets, leaves=leaves, key=(0, 1, 0))
        whole = rectangle_loss(tuned, ids, targets, again, key=(0, 1, 0))
        assert rel(loss.data, whole.data) < 1e-12
        mine, theirs = gradients(loss, leaves), gradients(whole, again)
        for name, grad in theirs.items():
            assert np.abs(grad).max() > 0
            assert rel(mine[name], grad) < 1e-12, name


def test_a_batch_without_a_counted_target_has_the_loss_0(rng):
    tuned = tuned_of("lora")
    leaves = tuned.leaves()
    loss = tuned.loss(rng.integers(0, 29, (2, 5)), np.full((2, 5), IGNORED), leaves=leaves)
    assert loss.data == 0
    assert all(not grad.any() for grad in gradients(loss, leaves).values())


def rows_of_ops(loss, name):
    """The number of rows that each op of a name gave on."""
    return [node.cache[0].shape[0] for node in tape(loss) if node.op and node.op.name == name]


def test_the_last_layer_computes_only_rows_from_the_first_target_on(rng):
    tuned, ids = tuned_of("lora"), rng.integers(0, 29, (3, 8))
    targets = np.full((3, 8), IGNORED)
    targets[0, 3:6] = targets[2, 7] = 1  # rows: 6, none, 8; with a target: 3, none, 1
    loss = tuned.loss(ids, targets, leaves=tuned.leaves())
    layers = tuned.config.num_hidden_layers
    seen = rows_of_ops(loss, "attention")
    assert seen == [14] * (layers - 1) + [4] and layers > 1
    assert rows_of_ops(loss, "lora") == [14, 14] * (layers - 1) + [4, 14]  # q, then v


def test_where_every_target_counts_nothing_is_taken(rng):
    every, asked = needed_rows(rng.integers(0, 29, (3, 8)), (np.ones((8, 2)), np.ones((8, 2))))
    assert asked is every and every.batch is None


def test_where_no_target_counts_one_row_stays():
    tables = np.zeros((8, 1)), np.zeros((8, 1))
    every, asked = needed_rows(np.full((3, 8), IGNORED), tables)
    assert asked is every and every.batch.tolist() == [0]
    assert every.spans.tolist() == [[0, 1, 0, 1]]


@given(st.data())
def test_rows_are_those_up_to_each_last_target(data):
    N, T = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    counts = np.array(data.draw(st.lists(st.booleans(), min_size=N * T, max_size=N * T)))
    targets = np.where(counts, 1, IGNORED).reshape(N, T)
    tables = np.arange(T)[:, None], -np.arange(T)[:, None]
    every, asked = needed_rows(targets, tables)
    kept, wanted = [], []  # by the definition: places that see no later target are not computed
    for n in range(N):
        places = np.flatnonzero(targets[n] != IGNORED)
        if len(places):
            kept += [n * T + t for t in range(places[-1] + 1)]
            wanted += [n * T + t for t in range(places[0], places[-1] + 1)]
    kept, wanted = kept or [0], wanted or [0]
    flat = np.arange(N * T) if every.batch is None else every.batch
    assert flat.tolist() == kept
    assert (flat if asked is every else asked.batch).tolist() == wanted
    for rows in (every, asked):
        at = np.arange(N * T) if rows.batch is None else rows.batch
        assert np.array_equal(rows.angles[0][:, 0], at % T)
        assert np.array_equal(rows.angles[1][:, 0], -(at % T))
        for q0, q1, k0, k1 in rows.spans:
            assert at[q0] // T == at[q1 - 1] // T == kept[k0] // T == kept[k1 - 1] // T
            assert k1 - k0 == at[q1 - 1] % T + 1  # the last row sees all keys up to itself


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [8, 24, 5])
def test_a_mask_on_some_rows_is_the_batches_mask_there(columns, dtype, rng):
    for _ in range(20):
        rows = np.flatnonzero(rng.random(30) < rng.random())
        if len(rows):
            x, key = np.ones((30, columns), dtype), (7, int(rng.integers(9)), 0, 1)
            assert np.array_equal(mask(x[rows], 0.4, key, rows), mask(x, 0.4, key)[rows])


@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_follows_the_targets(method, rng):
    tuned = tuned_of(method, np.float32)
    ids, targets = rng.integers(0, 29, (5, 9)), some_targets(rng, 5, 9, 29)
    said, real = ml.ledger(tuned, batch=(ids, targets)), ml.measure(tuned, batch=(ids, targets))
    assert dict(said) == dict(real)
    assert said["activations"] < ml.ledger(tuned, 5, 9)["activations"]
    with_more = np.concatenate([ids, ids]), np.concatenate([targets, np.full_like(ids, IGNORED)])
    assert dict(ml.ledger(tuned, batch=with_more)) == dict(said)  # they cost nothing


def test_the_ledger_wants_a_batch_or_sizes(rng):
    tuned, ids = tuned_of("lora"), rng.integers(0, 29, (2, 4))
    with pytest.raises(ValueError, match="give one of them"):
        ml.ledger(tuned, 2, 4, batch=(ids, ids))
    with pytest.raises(ValueError, match="batch_size"):
        ml.ledger(tuned)


@pytest.mark.parametrize("stop", [None, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_of_several_lengths_are_continued_as_each_alone(stop, temperature, rng):
    model = make_llama(dtype=np.float64)
    prompts = [rng.integers(0, 29, n).tolist() for n in (4, 1, 7, 4, 2)]
    together = model.generate(prompts, 8, stop=stop, temperature=temperature, seed=5)
    for prompt, row in zip(prompts, together):
        assert row[: len(prompt)].tolist() == prompt
        if temperature == 0:
            alone = model.generate([prompt], 8, stop=stop)[0]
            assert row[: len(alone)].tolist() == alone.tolist()
            assert all(token == stop for token in row[len(alone) :])
