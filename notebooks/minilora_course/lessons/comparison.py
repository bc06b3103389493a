"""Notebook 10, the fair comparison: how far a score can be trusted, and what may choose a rate."""

import math

import numpy as np

from ..slips import Case
from .exercise import blank, broken, predict, widths


def choose(rates, validation, test):
    """The rate with the highest validation score; the test words choose nothing."""
    return {"rate": rates[np.argmax(validation)]}


def by_test(rates, validation, test):
    """The rate that looks best on the words to be reported."""
    return {"rate": rates[np.argmax(test)]}


def mixed(validation, test):
    """Scores that use both kinds of words."""
    return (
        validation + test,
        0.9 * validation + 0.1 * test,
        np.maximum(validation, test),
    )


CHOICES = {
    "that is the index of the best score: return the rate at this index": (
        lambda rates, validation, test: [{"rate": np.argmax(validation)}]
    ),
    "that is the best score itself: return its rate": (
        lambda rates, validation, test: [{"rate": validation.max()}]
    ),
    "the test words were used: choose by validation only": lambda rates, validation, test: [
        by_test(rates, validation, scores) for scores in (test, *mixed(validation, test))
    ],
}


def scores(rng, count, highest):
    """validation, whose highest is 0.6, and test: the best place of each, and of sums, differ."""
    best = rng.integers(1, count - 1)  # neither the first nor the last
    while True:
        validation, test = rng.uniform(0, 0.58, count), rng.uniform(0, 1, count)
        validation[best] = 0.6
        test *= highest / test.max()
        both, weighted, _ = (a.argmax() for a in mixed(validation, test))
        reported = test.argmax()
        if best in (reported, both, weighted, test.argmin()):
            continue
        if reported not in (both, validation.argmin()):
            return {"validation": validation, "test": test}


def choice_cases(rng):
    """For rate = f(rates, validation, test): the two kinds of words choose different rates.

    The higher of the two scores is that of validation once, and else that of test.
    """
    cases = []
    for count, highest in zip(widths(rng, 3), (0.5, 1.0, 1.0)):
        rates = 10 ** np.sort(rng.uniform(-5, 1, count))
        cases.append(Case({"rates": rates, **scores(rng, count, highest)}, choose, slips=CHOICES))
    return cases


def difference(a, b, freedom=1, root=math.sqrt):
    """The mean of a - b over the seeds, and its standard error.   a, b (n,)."""
    spread = (a - b).std(ddof=freedom)
    return {"difference": (a - b).mean(), "its error": spread / root(len(a))}


def apart(a, b):
    """The error of samples without a common seed: also without √n, and as a sum of two errors."""
    n, sums = len(a), [a.var(ddof=k) + b.var(ddof=k) for k in (0, 1)]
    added = [(a.std(ddof=k) + b.std(ddof=k)) / math.sqrt(n) for k in (0, 1)]
    return [{"its error": e} for e in (*np.sqrt(np.divide(sums, n)), *np.sqrt(sums), *added)]


DIFFERENCES = {
    "a − b keeps its sign: below 0, the second technique is better": lambda a, b: [
        {"difference": abs((a - b).mean())},
        {"difference": abs(a - b).mean()},
        *({"its error": abs(a - b).std(ddof=k) / math.sqrt(len(a))} for k in (1, 0)),
    ],
    "a seed is common to both: take the difference of each seed first, then its spread": apart,
    "that is the spread of one difference: the mean of n is divided by √n": lambda a, b: [
        difference(a, b, root=lambda n: 1, freedom=freedom) for freedom in (1, 0)
    ],
    "that is the error squared: take the root": lambda a, b: [
        {"its error": difference(a, b)["its error"] ** 2}
    ],
    "the variance of a sample divides by n - 1, not by n (ddof=1)": lambda a, b: [
        difference(a, b, freedom=0)
    ],
    "the spread was divided by n: the mean of n is divided by √n": lambda a, b: [
        difference(a, b, root=float, freedom=freedom) for freedom in (1, 0)
    ],
}


def difference_cases(rng):
    """For (difference, its error) = f(a, b): a seed moves both techniques, and each is better once.

    The difference is small, so that single seeds have one of the other sign.
    """
    cases = []
    for count, gap in zip(widths(rng, 2), (0.005, -0.005)):
        seed, *own = rng.normal(0, 0.03, (3, count))
        b, ahead = 0.7 + seed + own[1] / 3, (own[0] - own[1]) / 3
        a = b + ahead - ahead.mean() + gap
        cases.append(Case({"a": a, "b": b}, difference, slips=DIFFERENCES))
    return cases


EXERCISES = (
    predict(
        "fair_error",
        "0.8 of 400 words are right: what is the standard error of that share?",
        (
            "Each word is a coin that falls right with p = 0.8.",
            "The share of n coins has the variance p (1 - p) / n.",
        ),
        number=lambda: math.sqrt(0.8 * 0.2 / 400),
        because="√(p (1-p) / n): 95 of 100 samples of words give a share within two of these.",
        near={
            0.8 * 0.2 / 400: "that is the variance: take its root",
            math.sqrt(0.8 * 0.2): "that is one word's: divide by √n",
            0.4: "that is one word's: divide by √n",
        },
        tolerance=0.01,
    ),
    blank(
        "fair_choice",
        "Which rate is used? rates, validation, test (n each) -> a rate",
        (
            "The test words are only for the report.",
            "np.argmax gives the index of the highest score.",
        ),
        choice_cases,
    ),
    blank(
        "fair_difference",
        "Two techniques on the same seeds: a, b (n,) -> the mean of a - b, its standard error",
        (
            "One difference for each seed. Only these n numbers are used further.",
            "The spread of n numbers is std(ddof=1); the error of their mean is smaller.",
        ),
        difference_cases,
    ),
    broken(
        "fair_break",
        "Choose the rate by the test words: the same arguments -> a rate",
        (
            "What would look best in the table?",
            "The highest of six test scores is too high, because it was chosen as the highest.",
        ),
        choice_cases,
        wanted=by_test,
    ),
)
