"""LoRA-FA put to the test: the corrected gradient beside closed forms, the ledger's difference, the
choice of a rate; and what the record says.
"""

import math

import made_up
import numpy as np
import pages
import pytest

from minilora.text.tasks import TaskData
from studies import _linear_fit as linear
from studies import _words, lora_fa


@pytest.fixture(scope="module")
def found():
    return lora_fa.summary(pages.whole("lora_fa"))


@pytest.mark.parametrize("width, rank", lora_fa.KNOWN_CONDITION)
def test_the_condition_of_a_fresh_a_is_the_known_one(width, rank):
    """Within 10 %: a draw of a random matrix; and below the limit of large ones, or at most 5 %
    above.
    """
    got = linear.condition(linear.Problem(width, 1, rank, 0).A)
    assert got == pytest.approx(lora_fa.KNOWN_CONDITION[width, rank], rel=0.1)
    assert got < 1.05 * linear.expected_condition(width, rank)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_one_corrected_step_of_gradient_descent_is_the_optimum(rank):
    problem = linear.Problem(24, 8, rank, 0)
    assert problem.sgd_steps(True, 1e-20) == 1
    B = problem.B - problem.gradient(problem.B, True)
    best = np.linalg.lstsq(problem.s * problem.A.T, problem.D.T, rcond=None)[0].T
    np.testing.assert_allclose(B, best, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 8, 16])
def test_plain_gradient_descent_takes_the_steps_of_its_eigenvalues(rank):
    """In the eigenbasis of A Aᵀ each direction shrinks by |1 - η s² λ| a step."""
    problem = linear.Problem(24, 8, rank, 1)
    values, vectors = np.linalg.eigh(problem.s**2 * problem.A @ problem.A.T)
    weights = values * np.square(problem.best @ vectors).sum(axis=0)
    shrinks = abs(1 - problem.sgd_rate(False) * values)
    wanted = next(n for n in range(10_000) if weights @ shrinks ** (2 * n) <= 0.01 * weights.sum())
    assert problem.sgd_steps(False, 0.01) == wanted


@pytest.mark.parametrize("rank", [2, 8, 16])
def test_no_rate_of_gradient_descent_shrinks_the_slowest_direction_more(rank):
    """(κ - 1) / (κ + 1) a step, κ the condition of A Aᵀ: the best that a constant rate can do."""
    problem = linear.Problem(24, 8, rank, 1)
    values = np.linalg.eigvalsh(problem.s**2 * problem.A @ problem.A.T)
    condition = linear.condition(problem.A)
    slowest = abs(1 - problem.sgd_rate(False) * values).max()
    assert slowest == pytest.approx((condition - 1) / (condition + 1))


def test_a_scalar_correction_is_nothing_to_adam():
    """At rank 1 A Aᵀ is a number, which Adam cancels; gradient descent at its own best rate takes
    one step either way.
    """
    problem = linear.Problem(24, 8, 1, 0)
    for rate in (0.01, 0.1):
        assert problem.adam_steps(True, 0.01, rate) == problem.adam_steps(False, 0.01, rate)
    assert problem.sgd_steps(True, 1e-20) == problem.sgd_steps(False, 1e-20) == 1


@pytest.mark.parametrize("targets", [lora_fa.Q_V, lora_fa.ALL])
def test_what_lora_fa_saves_is_the_inputs(targets):
    """Word lab, 32 x 29 rows of float32: q, k and v share an x, gate and up another, down has its
    own; o's is kept by attention anyway.
    """
    fixed = {"shape": "base", "rank": 4, "dropout": 0.0, "rows": 32, "tokens": 29}
    kept = [
        lora_fa.memory(method=method, targets=targets, **fixed)["activations"]
        for method in ("lora", "lora_fa")
    ]
    width, inner, layers, rows = 128, 336, 4, 32 * 29
    inputs = width if targets == lora_fa.Q_V else 2 * width + inner
    assert kept[0] - kept[1] == layers * rows * inputs * 4


def test_the_rate_is_the_best_on_validation_and_the_test_score_its_own():
    def result(valid, test):
        return {
            "validation": made_up.validated(valid, loss=0.1),
            "test": made_up.judged(test, 10, loss=0.2),
        }

    nothing = _words.nothing(TaskData([], [None] * made_up.VALIDATION, [None] * 10))
    rates = {
        0.1: [result(0.5, 0.9), result(0.5, 0.9)],
        0.2: [result(0.6, 0.7), result(0.6, 0.5)],
        0.5: [{"diverged": 3, **nothing}, result(0.9, 0.9)],
    }
    cell = {"method": "lora_fa", "targets": "q v", "rank": 4, "options": {"corrected": False}}
    records = [
        {
            "cell": {**cell, "lr": lr, "seed": seed},
            "result": found,
        }
        for lr, results in rates.items()
        for seed, found in enumerate(results)
    ]
    got = lora_fa.words_summary(records)["plain"]["r 4 on q and v"]
    assert (got["lr"], got["at_an_end"]) == (0.2, False)
    assert got["exact_match"].mean == pytest.approx(0.6)
    assert got["exact_match"].sd == pytest.approx(0.2 / math.sqrt(2))


# ---------------------------------------------------------------------------------------- on record


def test_the_correction_matters_to_gradient_descent_where_the_condition_is_bad(found):
    steps = found["linear"]
    assert steps[128, 1]["sgd_plain"].mean == steps[128, 1]["sgd_corrected"].mean == 1
    assert steps[128, 64]["sgd_plain"].mean > 10 * steps[128, 64]["sgd_corrected"].mean
    adam = steps[128, 1]
    assert adam["adam_plain"].mean == adam["adam_corrected"].mean
    assert found["scalar"]["largest_share"] < 1e-4


def test_lora_fa_keeps_less_of_everything(found):
    for row in found["memory"].values():
        assert row["activations_saved"] > 0 and row["gradients_and_moments_saved"] > 0.4


def test_llama_7b_keeps_its_inputs_less(found):
    """8 x 1024 rows: of 4096 + 4096 + 11008 numbers a layer, without attention's output."""
    row = found["memory"]["llama-7b", "all-linear", 16]
    kept = row["lora"]["activations"] - row["lora_fa"]["activations"]
    assert kept == 32 * 8 * 1024 * (4096 + 4096 + 11008) * 4
