"""What a study may say of its numbers: three verdicts, several tests, a bootstrap over words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from minilora.lab.statistics import LEVEL, Estimate, Merit, estimate, t_cdf


def interval(e: Estimate) -> tuple[float, float]:
    """The 95 % interval of the mean; all numbers where a run diverged."""
    if e.mean is None:
        return -math.inf, math.inf
    return e.mean - e.margin, e.mean + e.margin


def p_value(e: Estimate, bound: float = 0.0) -> float:
    """Two-sided p of the t test that the mean is `bound`; 1 where it cannot be tested."""
    if e.mean is None or e.n < 2:
        return 1.0
    far = abs(e.mean - bound)
    if not e.sd:
        return 0.0 if far else 1.0
    return 2 * t_cdf(-far / e.sd * math.sqrt(e.n), e.n - 1)


def times(factor: float, e: Estimate) -> Estimate:
    """The estimate times a factor, for another unit."""
    if e.mean is None or e.sd is None:
        return e
    return Estimate(factor * e.mean, abs(factor) * e.sd, e.n)


HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot tell"


def higher(gap: Estimate, enough: float) -> tuple[str, float]:
    """Is ours higher?  gap: ours minus theirs; enough: the smallest gain that matters.

    holds: the 95 % interval lies above 0. does not hold: it lies below `enough`. Else cannot tell.
    ->  the verdict, and the p of its test.
    """
    low, high = interval(gap)
    if low > 0:
        return HOLDS, p_value(gap)
    return (FAILS if high < enough else UNKNOWN), p_value(gap, enough)


def lower(gap: Estimate, enough: float) -> tuple[str, float]:
    """Is ours lower?  `higher` with the opposite sign, for a loss, a time or bytes."""
    return higher(times(-1, gap), enough)


def as_good(gap: Estimate, margin: float) -> tuple[str, float]:
    """Is ours as good, up to `margin`?  gap: ours minus theirs; high is good.

    holds: the 95 % interval lies above -margin. does not hold: it reaches below -margin, and all of
    it lies below 0. Else cannot tell: there may be a difference that these seeds do not show.
    ->  the verdict, and the p of its test.
    """
    low, high = interval(gap)
    if low > -margin:
        return HOLDS, p_value(gap, -margin)
    return (FAILS if high < 0 else UNKNOWN), p_value(gap)


def stratified(gaps: Iterable[Estimate]) -> Estimate:
    """The mean of several strata's means, each of runs of its own, such as those of three bases.

    Its variance is that of the mean of independent means, (Σ sd²/n) / k². Its degrees of freedom
    are Satterthwaite's: n - 1 of the answer, rounded down, is that number, and sd is the standard
    error times √n. The strata themselves are not a sample: it says nothing of a further one.
    Source: Satterthwaite 1946, Biometrics Bulletin 2, 110-114.
    """
    gaps = list(gaps)
    if any(e.mean is None or e.n < 2 for e in gaps):
        return Estimate(None, None, sum(e.n for e in gaps))
    mean = fmean(e.mean for e in gaps if e.mean is not None)
    parts = [((e.sd or 0.0) ** 2 / e.n, e.n - 1) for e in gaps]
    variance = sum(v for v, _ in parts)
    if not variance:
        return Estimate(mean, 0.0, sum(e.n for e in gaps))
    freedom = int(variance**2 / sum(v**2 / n for v, n in parts) + 1e-9)  # 11.999… is 12
    error = math.sqrt(variance) / len(gaps)
    return Estimate(mean, error * math.sqrt(freedom + 1), freedom + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of several tests, adjusted so that all verdicts together err in 1 of 20 cases.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the one before it.
    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted, last = [1.0] * len(ps), 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        last = max(last, min(1.0, (len(ps) - place) * ps[i]))
        adjusted[i] = last
    return adjusted


# --------------------------------------------------------------------------- bootstrap over words


def resampled(hits: Mapping[Any, np.ndarray], draws: int = 1000) -> dict[Any, np.ndarray]:
    """Bootstrap over words: name -> (words,)  ->  name -> (draws,).

    hits: the share of the seeds that answered each word. Each draw is the mean over words drawn
    with replacement, the same words for every name. The words are hundreds, while a few seeds are
    too few for a bootstrap. Raises ValueError if the names have different numbers of words.
    """
    count = {len(values) for values in hits.values()}
    if len(count) != 1:
        raise ValueError(f"resampled: {sorted(count)} words, wanted the same for every name")
    rng = np.random.default_rng(0)
    (words,) = count
    weights = rng.multinomial(words, np.full(words, 1 / words), draws) / words
    return {name: weights @ np.asarray(values, float) for name, values in hits.items()}


def middle(draws: np.ndarray) -> tuple[float, float]:
    """(low, high): the middle 95 % of a bootstrap's draws (draws,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def difference(ours: Iterable[float | None], theirs: Iterable[float | None]) -> Estimate:
    """The estimate of ours minus theirs, seed by seed. Raises ValueError for unequal numbers."""
    pairs = zip(ours, theirs, strict=True)
    return estimate(None if a is None or b is None else a - b for a, b in pairs)


def lowest(name: str) -> Merit:
    """The merit of a low mean result of this name; a run that diverged is the worst."""

    def merit(runs):
        values = [run["result"][name] for run in runs]
        return -math.inf if None in values else -fmean(values)

    return merit
