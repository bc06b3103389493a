"""The difference of two settings at chosen rates, against the paired t interval, and against every
draw that a bootstrap can make, one by one.
"""

import itertools
import math
from statistics import fmean, stdev

import numpy as np
import pytest

from minilora.lab.statistics import estimate
from studies import _choice, _words, common

NOISE = 0.05  # of a deviation over 4,000 draws: 1 / √8000 is 0.011, for each of two sides


def runs(rates):
    """Records: rate -> for each seed which validation words are right, and the test score; and,
    where it is not 1, the validation loss.
    """
    records = []
    for lr, (right, test, *loss) in rates.items():
        for seed, (hits, score) in enumerate(zip(right, test, strict=True)):
            judged = {"exact_match": round(fmean(map(float, hits)), 6), "words": len(hits)}
            judged |= {"right": _words.bits(hits), "loss": loss[0] if loss else 1.0}
            result = {"validation": judged, "test": {"exact_match": score}}
            records.append({"cell": {"lr": lr, "seed": seed}, "result": result})
    return records


def tried(rates):
    return _choice.Tried(runs(rates))


def share(rng, right, seeds=5, words=600):
    return rng.random((seeds, words)) < right


def paired(ours, theirs):
    return estimate(a - b for a, b in zip(ours, theirs, strict=True))


def test_where_one_rate_is_far_better_the_gap_is_the_paired_t():
    rng = np.random.default_rng(0)
    good, bad, other = (rng.normal(m, 0.02, 5).tolist() for m in (0.8, 0.9, 0.75))
    ours = tried({1: (share(rng, 0.9), good), 2: (share(rng, 0.1), bad)})
    theirs = tried({1: (share(rng, 0.2), bad), 2: (share(rng, 0.8), other)})
    found, wanted = _choice.gap(ours, theirs), paired(good, other)
    assert found.n == 5 and found.mean == pytest.approx(wanted.mean, rel=1e-12)
    assert found.margin == pytest.approx(wanted.margin, rel=NOISE)


def test_rates_that_validate_alike_make_the_interval_wider():
    """Where they differ on test words by 0.06, half of the draws have the one and half the other:
    a deviation of 0.03, beside which that of the seeds is nothing.
    """
    rng = np.random.default_rng(1)
    right = share(rng, 0.8)
    alike = np.roll(right, 300, axis=1)  # as many right words of each seed, but other ones
    one, two, other = (rng.normal(m, 0.002, 5).tolist() for m in (0.80, 0.86, 0.80))
    theirs = tried({1: (share(rng, 0.8), other)})
    sure = _choice.gap(tried({1: (right, one)}), theirs)
    found = _choice.gap(tried({1: (right, one), 2: (alike, two)}), theirs)
    assert found.mean == pytest.approx(paired(one, other).mean)
    assert found.margin > 5 * sure.margin
    assert found.sd / math.sqrt(5) == pytest.approx(0.03 * math.sqrt(5 / 4), rel=NOISE)


def best_of(rates, seeds, words):
    """The rate that the drawn seeds and words choose: of equals the lower loss, then the first."""

    def merit(lr):
        right, _, *loss = rates[lr]
        return sum(int(right[s][v]) for s in seeds for v in words), -(loss[0] if loss else 1.0)

    return max(rates, key=merit)


def test_the_error_is_that_of_every_draw_there_is():
    """3 seeds, 4 words: 27 × 256 draws, each as likely as any other."""
    ours = {  # a seed that scores well with a rate also wants it
        1: ([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0]], [0.9, 0.1, 0.5]),
        2: ([[0, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 1]], [0.1, 0.7, 0.8], 0.5),
        4: ([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]], [0.90, 0.95, 0.93]),
    }
    theirs = {
        1: ([[1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]], [0.40, 0.47, 0.45]),
        2: ([[0, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]], [0.52, 0.50, 0.41]),
    }
    drawn = []
    for seeds in itertools.product(range(3), repeat=3):
        for words in itertools.product(range(4), repeat=4):
            a, b = (side[best_of(side, seeds, words)][1] for side in (ours, theirs))
            drawn.append(fmean(a[s] - b[s] for s in seeds))
    found = _choice.gap(tried(ours), tried(theirs))
    assert found.mean == pytest.approx(fmean(np.subtract(ours[2][1], theirs[1][1])))
    wanted = stdev(drawn) * math.sqrt(3 / 2)
    assert found.sd / math.sqrt(3) == pytest.approx(wanted, rel=NOISE)


def test_the_chosen_rate_is_the_one_of_all_studies():
    """`Tried.best` and `at_best_rates` are one rule, on records with ties and diverged runs."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        rates = {
            lr: (rng.random((2, 3)) < 0.5, [lr, lr], rng.choice([0.5, 0.7, None]))
            for lr in (1, 2, 3)
        }
        (best,) = common.at_best_rates(runs(rates))
        mine = tried(rates)
        assert mine.results[mine.best][0]["test"]["exact_match"] == best[0]["cell"]["lr"]


def test_a_value_that_is_missing_gives_no_number_where_its_rate_may_be_chosen():
    rng = np.random.default_rng(3)
    values = [0.5, 0.6, None, 0.7, 0.5]  # such as the loss of a run that diverged

    def loss(ours, theirs):
        ours = ours["test"]["exact_match"]
        return None if ours is None else ours - theirs["test"]["exact_match"]

    theirs = tried({1: (share(rng, 0.8), [0.5] * 5)})
    chosen = tried({1: (share(rng, 0.8), values), 2: (share(rng, 0.2), [0.5] * 5)})
    assert _choice.gap(chosen, theirs, loss) == (None, None, 5)
    never = tried({1: (share(rng, 0.2), values), 2: (share(rng, 0.8), [0.5] * 5)})
    assert _choice.gap(never, theirs, loss).mean == 0


def test_sides_of_other_seeds_or_words_have_no_gap():
    rng = np.random.default_rng(4)
    one, few, short = (
        tried({1: (share(rng, 0.5, *shape), [0.5] * shape[0])})
        for shape in ((3, 600), (2, 600), (3, 599))
    )
    for other in (few, short):
        with pytest.raises(ValueError, match="gap: the two sides have other seeds or numbers of"):
            _choice.gap(one, other)
    records = runs({1: (share(rng, 0.5, 3), [0.5] * 3), 2: (share(rng, 0.5, 2), [0.5] * 2)})
    with pytest.raises(ValueError, match="Tried: some rates have other seeds"):
        _choice.Tried(records)
