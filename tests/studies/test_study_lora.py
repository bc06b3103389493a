"""The study of LoRA: subspaces, known ranks, and what stands on record."""

import numpy as np
import pages
import pytest

from minilora.lab.sweep import the_model
from minilora.methods import METHODS
from studies import lora
from studies.lora import amplification, by_chance, directions, similarity


def orthonormal(rng, d, columns):
    return np.linalg.qr(rng.standard_normal((d, columns)))[0]


@pytest.mark.slow
def test_random_subspaces_agree_as_much_as_chance_has_it():
    """E φ(i, j) = max(i, j) / d; at d = 256 the pair (8, 64) has 0.25."""
    rng = np.random.default_rng(0)
    mean = np.mean(
        [similarity(orthonormal(rng, 256, 8), orthonormal(rng, 256, 64)) for _ in range(200)],
        axis=0,
    )
    np.testing.assert_allclose(mean, by_chance(8, 64, 256), rtol=0.15, atol=0.001)
    np.testing.assert_allclose(mean[7, 63], 0.25, rtol=0.02)


def test_a_subspace_agrees_wholly_with_itself_and_not_at_all_with_its_complement():
    rng = np.random.default_rng(1)
    both = orthonormal(rng, 32, 12)
    one, other = both[:, :4], both[:, 4:]
    np.testing.assert_allclose(similarity(one, one), 1, atol=1e-12)
    np.testing.assert_allclose(similarity(one, other), 0, atol=1e-12)
    turned = one @ orthonormal(rng, 4, 4)  # the same subspace, other columns
    np.testing.assert_allclose(similarity(one, turned)[3, 3], 1, atol=1e-12)


def test_amplification_of_what_points_along_and_across_the_weight():
    rng = np.random.default_rng(2)
    U, V = orthonormal(rng, 20, 20), orthonormal(rng, 16, 16)
    values = np.linspace(16, 1, 16)
    W = (U[:, :16] * values) @ V.T
    along = 5 * np.outer(U[:, 0], V[:, 0])  # W has 16 there
    across = 5 * np.outer(U[:, 0], V[:, 15]) + 1e-3 * W  # and next to nothing here
    found = amplification(along, W, 1)
    assert found["factor"] == pytest.approx(5 / 16)
    assert found["weight"] == pytest.approx(found["weight_own"]) == pytest.approx(16)
    assert amplification(across, W, 1)["factor"] > 50


def test_directions_are_the_right_singular_vectors():
    rng = np.random.default_rng(3)
    V = orthonormal(rng, 10, 3)
    matrix = (orthonormal(rng, 7, 3) * [3, 2, 1]) @ V.T
    np.testing.assert_allclose(np.abs(directions(matrix, 3).T @ V), np.eye(3), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [2, 3, 5])
def test_lora_comes_as_near_a_teacher_as_eckart_and_young_allow(rank):
    found = lora.known_rank(known=3, rank=rank, steps=400, lr=0.02, seed=5)
    assert found["error"] == pytest.approx(found["best"], rel=1e-4, abs=1e-6)
    assert (found["best"] > 0.1) == (rank < 3)


def test_the_inputs_are_white_and_the_change_of_its_rank():
    rng = np.random.default_rng(4)
    X = lora.white(rng, 40, 20)
    np.testing.assert_allclose(X.T @ X, 40 * np.eye(20), atol=1e-10)
    W = rng.standard_normal((12, 20))
    change = lora.teacher(rng, W, 4)
    assert np.linalg.matrix_rank(change) == 4
    assert np.linalg.norm(change) == pytest.approx(np.linalg.norm(W))
    assert lora.best_of_rank(change, 4) < 1e-25 < lora.best_of_rank(change, 3)


def test_one_budget_is_one_budget():
    """Trainable numbers of each choice, counted by the formula r (I + O), within a tenth."""
    linears = the_model("base").config.linears()
    counts = [
        sum(
            METHODS["lora"].count(I, O, rank)
            for name, (O, I) in linears.items()
            if name.rsplit(".", 1)[-1].removesuffix("_proj") in targets.split()
        )
        for targets, rank in lora.BUDGET.items()
    ]
    assert max(counts) / min(counts) < 1.11


def test_the_record():
    records = pages.whole("lora")
    s = lora.summary(records)
    for known, rows in s["teacher"].items():
        for row in rows.values():  # Eckart and Young's number, to a ten-thousandth of ‖Δ‖²
            assert row["error"].mean == pytest.approx(row["best"].mean, abs=1e-4)
        assert rows[known]["error"].mean < 1e-4
    for kinds in (pair["untrained A"] for pair in s["similarity"].values()):
        for values in kinds.values():  # before training there is nothing but chance
            assert all(abs(v.mean) < 0.05 for v in values.values())
    for cell in (r["cell"] for r in records if r["cell"]["kind"] == "pair"):  # at their own rates
        assert cell["rates"] == [s["ranks"][rank]["lr"] for rank in cell["ranks"]]
