"""LoRA+ put to the test: the toy beside its table, one layer beside the package's own pair, steps
to a target on curves that are known; and what the record lora_plus.
"""

import itertools
import math

import numpy as np
import pages
import pytest

from minilora.methods import METHODS
from studies import _small_models as small
from studies import lora_plus


@pytest.fixture(scope="module")
def found():
    return lora_plus.summary(pages.whole("lora_plus"))


def starts(seed):
    return abs(np.random.default_rng(seed).standard_normal(31))


@pytest.mark.parametrize("width", lora_plus.KNOWN)
def test_the_toy_gives_the_table_that_is_known(width):
    """Within one point of the grid of rates (a factor 10^(1/8)) and one step."""
    rate, steps, apart = lora_plus.KNOWN[width]
    got = small.toy(width, lora_plus.TOY_RATES, lora_plus.TOY_PAIR, starts(0))
    assert abs(math.log10(got["rate"] / rate)) < 0.125 + 1e-3
    assert abs(got["steps"] - steps) <= 1 and abs(got["steps_apart"] - apart) <= 1


def test_the_toy_is_the_linear_model_by_gradient_descent():
    """f = b (a·x) in all its n numbers takes the steps that p = a·x alone predicts."""
    n, rate_a, rate_b = 50, 0.02, 0.3
    rng = np.random.default_rng(3)
    x, a, b = np.ones(n), rng.standard_normal(n) / n**0.5, 0.0
    start, steps = a @ x, 0
    while abs(b * (a @ x) - 1) >= small.TOLERANCE:
        error = b * (a @ x) - 1
        a, b = a - rate_a * error * b * x, b - rate_b * error * (a @ x)
        steps += 1
    assert small.toy_steps(n, [rate_a], [rate_b], [start]) == [steps]


def test_a_rate_that_is_too_high_never_learns():
    assert small.toy_steps(256, [10.0, 0.04], [10.0, 0.04], starts(0))[0] == math.inf


def test_the_layer_steps_by_the_true_gradient():
    """Its B after a step is AdamW's on loras's own backward; ratio and rates fall on A and B."""
    rng = np.random.default_rng(0)
    n, rank, rows = 12, 3, 5
    A, B = rng.standard_normal((rank, n)), rng.standard_normal((n, rank))
    x, W = rng.standard_normal((rows, n)), rng.standard_normal((n, n))
    wanted = rng.standard_normal((rows, n))

    class Remembers:
        def step(self, grads, lr):
            self.grads = grads

    adam = Remembers()
    loss = small.layer_step({"A": A, "B": B}, adam, x, x @ W.T, wanted)
    forward, backward = METHODS["lora"].op.forward, METHODS["lora"].op.backward
    y, cache = forward(x, W, 1.0, A, B)
    error = np.maximum(y, 0) - wanted
    assert loss == pytest.approx(float(np.square(error).mean()))
    dA, dB = backward(2 * error * (y > 0) / error.size, cache)[3:5]
    np.testing.assert_allclose(adam.grads["A"], dA, rtol=1e-6)  # 2 / size is a float32
    np.testing.assert_allclose(adam.grads["B"], dB, rtol=1e-6)


def test_the_layer_gives_each_factor_its_own_rate():
    arrays, adam = small.student(np.ones((2, 3), np.float32), (0.1, 0.5))
    adam.step({"A": np.ones((2, 3), np.float32), "B": np.ones((3, 2), np.float32)}, lr=1.0)
    np.testing.assert_allclose(arrays["A"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(arrays["B"], -0.5, rtol=1e-6)


def test_steps_to_a_target_lie_between_two_evaluations():
    curve = [[4, 1.0, 8.0], [8, 0.25, 8.0], [12, 0.1, 1.0]]
    assert lora_plus.steps_to(curve, 0.5, 1) == pytest.approx(6)  # half of the way in the logarithm
    assert lora_plus.steps_to(curve, 0.25, 1) == pytest.approx(8)
    assert lora_plus.steps_to(curve, 2.0, 2) == pytest.approx(8 + 4 * 2 / 3)
    assert lora_plus.steps_to(curve, 0.01, 1) == math.inf
    assert lora_plus.steps_to([], 0.5, 1) == math.inf  # it diverged


def test_a_rate_is_chosen_on_validation_and_reported_on_test():
    def of(ratio, lr, seed, valid, test):
        cell = {"kind": "words", "ratio": ratio, "lr": lr, "seed": seed, "steps": 100}
        curve = [[0, 1.0, 1.0], [valid, 0.2, 1.0], [test, 0.2, 0.2]]
        return {"cell": cell, "result": {"curve": curve}}

    runs = [of(1, 0.1, s, 40, 100) for s in (0, 1)] + [of(1, 0.2, s, 60, 61) for s in (0, 1)]
    runs += [of(4, 0.1, 0, 30, 50), of(4, 0.1, 1, 30, 80)]
    ratios = lora_plus.at_target(runs, 0.2)["ratios"]
    assert ratios[1]["lr"] == 0.1 and ratios[1]["steps"].mean == pytest.approx(100)
    assert ratios[4]["saved"].mean == pytest.approx(0.35)
    assert ratios[4]["saved"].sd == pytest.approx(0.15 * 2**0.5, rel=0.05)  # a bootstrap's


def test_the_share_saved_has_the_error_of_every_draw_of_seeds_there_is():
    """Three seeds, 27 draws; the setting that is fastest by validation words changes with them."""
    ours = [[20, 34, 24], [26, 25, 26.5], [90, 90, 90]], [[22, 30, 26], [10, 14, 12], [1, 1, 1]]
    lora = [[40, 44, 50], [46, 45, 46]], [[40, 42, 45], [50, 60, 55]]

    def fastest(side, seeds):
        return min(range(len(side[0])), key=lambda k: sum(side[0][k][s] for s in seeds))

    def saved(seeds):
        a, b = fastest(ours, seeds), fastest(lora, seeds)
        return sum(1 - ours[1][a][s] / lora[1][b][s] for s in seeds) / 3

    drawn = [saved(seeds) for seeds in itertools.product(range(3), repeat=3)]
    found = lora_plus.share_saved(*(tuple(map(np.array, side)) for side in (ours, lora)))
    assert found.mean == pytest.approx(saved((0, 1, 2))) and found.n == 3
    error = math.sqrt(sum((d - sum(drawn) / 27) ** 2 for d in drawn) / 27 * 3 / 2)
    assert found.sd / math.sqrt(3) == pytest.approx(error, rel=0.05)


# ---------------------------------------------------------------------------------------- on record


def test_the_best_equal_rate_falls_as_the_root_of_the_width(found):
    assert abs(found["toy"]["exponent"].mean + 0.5) < 0.03
    apart = [row["steps_apart"].mean for row in found["toy"]["widths"].values()]
    assert max(apart) - min(apart) <= 1  # Θ(1/n), Θ(1): the same at any width
    equal = [row["steps"].mean for row in found["toy"]["widths"].values()]
    assert equal[-1] > equal[0] + 2


def test_ratio_one_is_lora_on_record(found):
    assert found["same"]["largest_difference"] == 0
