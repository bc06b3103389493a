"""The statistics of every study, against scipy 1.17.1's numbers, written down, and by hand."""

import math

import numpy as np
import pytest

from minilora.lab.statistics import Estimate, estimate, t_cdf, t_quantile
from studies._verdicts import (
    FAILS,
    HOLDS,
    UNKNOWN,
    as_good,
    difference,
    higher,
    holm,
    interval,
    lower,
    middle,
    p_value,
    resampled,
    stratified,
    times,
)

OURS, THEIRS = [0.855, 0.849, 0.861, 0.838, 0.852], [0.81, 0.829, 0.823, 0.805, 0.842]


@pytest.mark.parametrize(
    "freedom, wanted",  # scipy.stats.t.ppf([0.95, 0.975, 0.995], freedom)
    [
        (1, (6.313751514675037, 12.706204736174694, 63.656741162871526)),
        (2, (2.9199855803537242, 4.302652729749462, 9.924843200918287)),
        (4, (2.1318467863266495, 2.7764451051977934, 4.604094871349992)),
        (9, (1.833112932656237, 2.262157162798205, 3.249835541592126)),
        (29, (1.6991270265334972, 2.045229642132703, 2.756385903670605)),
        (200, (1.6525081009108769, 1.9718962236339088, 2.600634436191558)),
    ],
)
def test_quantiles_of_student_are_scipys(freedom, wanted):
    assert [t_quantile(p, freedom) for p in (0.95, 0.975, 0.995)] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "t, freedom, wanted",  # scipy.stats.t.cdf(t, freedom)
    [
        (0.5, 1, 0.6475836176504333),
        (2.0, 4, 0.9419417382415922),
        (-3.3, 7, 0.006560357469219056),
        (12.0, 2, 0.9965635331614208),
        (1e-3, 30, 0.5003956321167575),
    ],
)
def test_probabilities_of_student_are_scipys(t, freedom, wanted):
    assert t_cdf(t, freedom) == pytest.approx(wanted, rel=1e-12)


def test_a_paired_difference_is_scipys():
    """ttest_rel, its confidence_interval, and ttest_1samp against a margin on one side."""
    gap = difference(OURS, THEIRS)
    assert gap == (pytest.approx(0.0292), pytest.approx(0.01409609875107291), 5)
    assert interval(gap) == pytest.approx((0.011697381665667708, 0.04670261833433226), rel=1e-9)
    assert p_value(gap) == pytest.approx(0.009792490787026448, rel=1e-9)
    assert p_value(gap, -0.03) == pytest.approx(2 * 0.00035822236403122666, rel=1e-9)
    assert p_value(gap, 0.03) == pytest.approx(2 * 0.45256991445275574, rel=1e-9)


def test_an_interval_wants_two_seeds_and_no_diverged_run():
    assert interval(estimate([0.5])) == (-math.inf, math.inf) and p_value(estimate([0.5])) == 1
    assert interval(estimate([0.5, None])) == (-math.inf, math.inf)
    assert interval(estimate([0.5] * 12)) == (0.5, 0.5) and p_value(estimate([0.5] * 12)) == 0


def gap(mean, sd, n=5):
    return Estimate(mean, sd, n)


@pytest.mark.parametrize(
    "found, verdict",
    [
        (gap(0.05, 0.01), HOLDS),
        (gap(0.004, 0.001), HOLDS),  # small, and sure
        (gap(0.0, 0.01), FAILS),  # surely no gain of 0.03
        (gap(-0.2, 0.01), FAILS),
        (gap(0.02, 0.05), UNKNOWN),  # the interval is too wide
        (gap(None, None), UNKNOWN),  # a run diverged
        (gap(0.05, 0.0, 1), UNKNOWN),  # one seed
    ],
)
def test_higher_has_three_verdicts(found, verdict):
    assert higher(found, 0.03)[0] == verdict
    assert lower(times(-1, found), 0.03)[0] == verdict


@pytest.mark.parametrize(
    "found, verdict",
    [
        (gap(0.0, 0.01), HOLDS),
        (gap(0.1, 0.02), HOLDS),  # better is as good
        (gap(-0.026, 0.007), FAILS),  # surely worse, and the interval passes the margin
        (gap(-0.1, 0.01), FAILS),
        (gap(-0.01, 0.03), UNKNOWN),  # no difference seen, and none ruled out
        (gap(None, None), UNKNOWN),
    ],
)
def test_as_good_has_three_verdicts(found, verdict):
    assert as_good(found, 0.03)[0] == verdict


@pytest.mark.parametrize("judge", [higher, lower, as_good])
def test_a_verdict_that_is_sure_has_a_small_p(judge):
    for mean in np.linspace(-0.1, 0.1, 41):
        for sd in (0.001, 0.01, 0.05):
            verdict, p = judge(gap(float(mean), sd), 0.03)
            assert (p < 0.05) == (verdict != UNKNOWN), (judge, mean, sd, verdict, p)


def test_strata_by_hand():
    """Three bases: 0.09/5 + 0.04/4 + 0 = 0.028, a third of its root; 0.028² / (0.018²/4 + 0.01²/3)
    = 6.86 degrees of freedom, of which 6 count: n = 7.
    """
    found = stratified([gap(0.4, 0.3), gap(0.1, 0.2, 4), gap(0.1, 0.0)])
    assert found.n == 7 and found.mean == pytest.approx(0.2)
    error = math.sqrt(0.028) / 3
    assert found.sd == pytest.approx(error * math.sqrt(7))
    assert found.margin == pytest.approx(2.4469118511449786 * error)  # scipy.stats.t.ppf(0.975, 6)


def test_two_strata_are_welchs_test():
    """scipy.stats.ttest_ind(OURS, [-x for x in THEIRS], equal_var=False): t; df is 6.37."""
    found = stratified([estimate(OURS), estimate(THEIRS)])
    assert found.mean / (found.sd / math.sqrt(found.n)) == pytest.approx(
        218.44747995955984, rel=1e-9
    )
    assert found.n == 1 + 6


def test_strata_that_spread_alike_add_their_freedom():
    """4 + 4 + 4, whatever the rounding of the sums; without a spread there is nothing to test."""
    for sd in np.linspace(0.001, 0.1, 200):
        assert stratified([gap(0.1, float(sd))] * 3).n == 13
    assert stratified([gap(0.1, 0.0)] * 3) == (pytest.approx(0.1), 0.0, 15)
    for untold in (gap(None, None), gap(0.1, 0.0, 1)):
        assert stratified([gap(0.1, 0.01), untold]).mean is None


def test_an_interval_over_strata_holds_the_truth_in_19_of_20_cases():
    """Three strata of five normal runs, whose deviations are 1, 2 and 5."""
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(2000, 3, 5)) * np.array([[1.0], [2.0], [5.0]])
    means, sds = runs.mean(axis=2), runs.std(axis=2, ddof=1)
    held = [
        abs(found.mean) <= found.margin
        for mean, sd in zip(means.tolist(), sds.tolist())
        for found in [stratified(gap(m, d) for m, d in zip(mean, sd))]
    ]
    assert 0.93 <= np.mean(held) <= 0.97


def test_holm_by_hand():
    """0.005 · 4, 0.01 · 3, then 0.03 · 2, and 0.04 · 1 is raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_bootstrap_has_the_deviation_of_a_share():
    """√(p (1 - p) / n) for words that all seeds answer alike; a copy moves with its original."""
    hits = np.repeat([1.0, 0.0], [480, 120])
    drawn = resampled({"a": hits, "b": hits, "c": 1 - hits}, draws=4000)
    assert drawn["a"].std() == pytest.approx(math.sqrt(0.8 * 0.2 / 600), rel=0.05)
    assert np.array_equal(drawn["a"], drawn["b"])
    assert drawn["a"] + drawn["c"] == pytest.approx(np.ones(4000))
    low, high = middle(drawn["a"])
    assert (low, high) == pytest.approx((0.8 - 1.96 * 0.01633, 0.8 + 1.96 * 0.01633), abs=0.003)
    with pytest.raises(ValueError, match="wanted the same"):
        resampled({"a": hits, "b": hits[:5]})
