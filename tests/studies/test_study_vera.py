"""The study of VeRA: what its variants change, what a file weighs, what stands on record."""

import numpy as np
import pages
import pytest

from minilora.lab.sweep import the_model
from studies import common, vera

RANK = 16
each_variant = pytest.mark.parametrize("variant", vera.VARIANTS)


def made(variant):
    return vera.attach_variant(the_model("base"), RANK, variant, seed=3)


@each_variant
def test_a_variant_trains_what_it_says_and_starts_as_the_base(variant):
    """Trainable numbers by the paper's formula: each linear has O of b and r of d."""
    tuned = made(variant)
    outputs = sum(len(a["b"]) for a in tuned.layers.values())
    ds = RANK * len(tuned.layers)
    wanted = {"only b": outputs, "only d": ds}.get(variant, outputs + ds)
    assert sum(a.size for a in tuned.trainable.values()) == wanted
    assert all(not tuned.delta(layer).any() for layer in tuned.layers)


@pytest.mark.parametrize("variant", ["only b", "only d"])
def test_what_does_not_train_stays(variant):
    tuned = made(variant)
    kept = {"only b": "d", "only d": "b"}[variant]
    before = [a[kept].copy() for a in tuned.layers.values()]
    moving = [a.copy() for a in tuned.trainable.values()]
    pairs = [("Dwalk>", "walked"), ("Dcry>", "cried")]
    common.learn(tuned, pairs, lr=0.1, steps=2, seed=0, warmup=0)
    assert all(np.array_equal(a[kept], b) for a, b in zip(tuned.layers.values(), before))
    assert all((a != b).any() for a, b in zip(tuned.trainable.values(), moving))


def test_layers_share_a_pair_or_have_their_own():
    shared, own = made("as published"), made("A, B of its own each")
    first, *others = shared.layers.values()
    assert all(np.shares_memory(a["A"], first["A"]) for a in others)
    each = [a["A"] for a in own.layers.values()]
    assert len({a.tobytes() for a in each}) == len(each)
    for a in own.layers.values():  # drawn from ±√(6 / fan in), as the shared pair
        assert np.abs(a["A"]).max() == pytest.approx(np.sqrt(6 / a["A"].shape[1]), rel=0.01)
        assert np.abs(a["B"]).max() == pytest.approx(np.sqrt(6 / RANK), rel=0.01)


def test_the_draws_have_their_moments():
    """Kaiming: variance 2 / fan in, whichever distribution; U[0, 0.1]: mean 0.05, sd 0.1/√12."""
    uniform, normal, positive = (
        made(v).shared["A"] for v in ("as published", "A, B normal", "A, B in [0, 0.1]")
    )
    for A in (uniform, normal):
        assert A.var() == pytest.approx(2 / A.shape[1], rel=0.1)
        assert abs(A.mean()) < 0.01
    assert np.abs(normal).max() > np.abs(uniform).max() * 1.3
    assert positive.mean() == pytest.approx(0.05, rel=0.05) and positive.min() >= 0
    assert positive.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.05)
    first = next(iter(made("A, B normal").layers.values()))["A"]
    assert np.array_equal(first, normal)  # the layers see the new draw


def test_a_file_without_projections_is_made_whole_elsewhere():
    """Without: 4 bytes a trainable number and a header. With: 4 r (I + O) more, to the header."""
    found = vera.run(kind="file", method="vera", rank=RANK, seed=3)
    assert set(found["elsewhere"]) == set(vera.ELSEWHERE) and len(vera.ELSEWHERE) == 3
    for there in found["elsewhere"].values():
        assert there["same_arrays"] and there["same_answers"] and there["logits_apart"] < 1e-3
    assert found["elsewhere"]["the same"]["logits_apart"] == 0
    config = the_model("base").config
    assert found["trainable"] == config.num_hidden_layers * (128 + 64 + 2 * RANK)
    assert 0 < found["bytes"] - 4 * found["trainable"] < 4000
    extra = found["bytes_with_projections"] - found["bytes"]
    assert 0 <= extra - 4 * RANK * (128 + 128) < 400


def test_the_record():
    records = pages.whole("vera")
    s = vera.summary(records)
    for rows in s["files"].values():
        for row in rows.values():
            assert all(there["same_arrays"] for there in row["elsewhere"].values())
            assert row["bytes"] - 4 * row["trainable"] < 6000
    assert {row["exact_match"].n for row in s["variants"].values()} == {5}
