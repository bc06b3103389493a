"""Statistics of several runs: means, intervals, and the choice of a setting by validation."""

import functools
import json
import math
from collections.abc import Callable, Container, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from .cells import Record

LEVEL = 0.95  # of every interval


class Estimate(NamedTuple):
    """A mean over seeds, the standard deviation (n - 1) between them, and their number."""

    mean: float | None  # None if one of the runs diverged
    sd: float | None
    n: int

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of the mean; infinite for a single seed."""
        if self.n < 2:
            return math.inf
        return t_quantile((1 + LEVEL) / 2, self.n - 1) * (self.sd or 0.0) / math.sqrt(self.n)

    @property
    def sign(self) -> int:
        """+1 or -1 if 0 lies outside the 95 % interval, else 0; 0 if a run diverged."""
        certain = self.mean is not None and abs(self.mean) > self.margin
        return int(math.copysign(certain, self.mean or 0))

    def __format__(self, how: str) -> str:
        """f"{e:.3f}" is 0.855 ± 0.004; f"{e:+.3f|.2g}": the mean by +.3f, the deviation by .2g."""
        if self.mean is None:
            return "diverged"
        mean, _, sd = (how or ".3g|.2g").partition("|")
        return f"{self.mean:{mean}} ± {self.sd:{sd or mean}}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Iterable[float | None]) -> Estimate:
    """The estimate from one value for each seed; None stands for a run that diverged."""
    values = list(values)
    known = [float(value) for value in values if value is not None]
    if len(known) < len(values):
        return Estimate(None, None, len(values))
    return Estimate(fmean(known), stdev(known) if len(known) > 1 else 0.0, len(known))


def rounded(value: float, digits: int = 6) -> float:
    """value with `digits` significant digits, for a record."""
    return float(f"{value:.{digits}g}")


# ------------------------------------------------------------------------------------ Student's t


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t.

    P(|T| > t) = I_x(f/2, 1/2) at x = f / (f + t²), I the regularized incomplete beta function.
    Source: DLMF 8.17.
    """
    tail = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return 1 - tail if t > 0 else tail


@functools.cache
def t_quantile(p: float, freedom: int) -> float:
    """The t with P(T <= t) = p, for p above one half, by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), from the last term to the first."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _incomplete_beta(b, a, 1 - x)
    fraction = 1.0
    for m in range(200, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + even / (1 + odd / fraction)
    fraction = 1 - (a + b) * x / (a + 1) / fraction
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / (a * fraction)


# ------------------------------------------------------------------------ choosing by validation

Merit = Callable[[Sequence[Record]], Any]  # the runs of one setting -> the higher, the better


def by_exact_match(runs: Sequence[Record]) -> tuple[float, float]:
    """(mean exact match on validation words, minus the mean loss).

    The loss of a run that diverged is infinite. The matches are rounded, since two equal means may
    differ in their last bits.
    """
    judged = [run["result"]["validation"] for run in runs]
    losses = [math.inf if score["loss"] is None else score["loss"] for score in judged]
    return round(fmean(score["exact_match"] for score in judged), 4), -fmean(losses)


def chosen(
    runs: Iterable[Record],
    merit: Merit,
    free: Container[str] = ("lr",),
    seeds: Container[int] | None = None,
) -> list[list[Record]]:
    """For each setting, the runs (all seeds) of the best values tried, such as the best rate.

    free: the names in a cell whose values were tried; all other names, without the seed, make a
    setting. seeds: only their runs decide; None: all. Of equal merits, the first tried wins.
    """
    settings: dict[str, dict[str, list[Record]]] = {}
    for run in runs:
        fixed = {k: v for k, v in run["cell"].items() if k not in free and k != "seed"}
        tried = {k: v for k, v in run["cell"].items() if k in free}
        keys = [json.dumps(part, sort_keys=True) for part in (fixed, tried)]
        settings.setdefault(keys[0], {}).setdefault(keys[1], []).append(run)

    def of_choosing_seeds(group: list[Record]) -> Any:
        return merit([run for run in group if seeds is None or run["cell"]["seed"] in seeds])

    return [max(groups.values(), key=of_choosing_seeds) for groups in settings.values()]
