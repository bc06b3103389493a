"""What several runs say together: means over seeds, their intervals, the setting that validates
best.
"""

import json
import math
from collections.abc import Callable, Container, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from .cells import Record

# Student's t for a two-sided interval of 95 %, by the number of seeds
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


class Estimate(NamedTuple):
    """A mean over seeds, the standard deviation (n - 1) between them, and their number."""

    mean: float | None  # None where one of the runs diverged
    sd: float | None
    n: int

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of the mean; infinite for a single seed."""
        return T95[self.n] * (self.sd or 0.0) / math.sqrt(self.n) if self.n > 1 else math.inf

    @property
    def sign(self) -> int:
        """+1 or -1 where 0 lies outside the 95 % interval, else 0; 0 where a run diverged."""
        certain = self.mean is not None and abs(self.mean) > self.margin
        return int(math.copysign(certain, self.mean or 0))

    def times(self, factor: float) -> "Estimate":
        """The same in another unit."""
        if self.mean is None or self.sd is None:
            return self
        return Estimate(factor * self.mean, factor * self.sd, self.n)

    def __format__(self, how: str) -> str:
        """f"{e:.3f}" is 0.855 ± 0.004; f"{e:+.3f|.2g}": the mean by +.3f, the deviation by .2g."""
        if self.mean is None:
            return "diverged"
        mean, _, sd = (how or ".3g|.2g").partition("|")
        return f"{self.mean:{mean}} ± {self.sd:{sd or mean}}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Iterable[float | None]) -> Estimate:
    """Of one value for each seed; None is that of a run that diverged."""
    values = list(values)
    known = [float(value) for value in values if value is not None]
    if len(known) < len(values):
        return Estimate(None, None, len(values))
    return Estimate(fmean(known), stdev(known) if len(known) > 1 else 0.0, len(known))


def difference(ours: Iterable[float | None], theirs: Iterable[float | None]) -> Estimate:
    """Of ours less theirs, seed by seed."""
    pairs = zip(ours, theirs, strict=True)
    return estimate(None if a is None or b is None else a - b for a, b in pairs)


def rounded(value: float, digits: int = 6) -> float:
    """To so many significant digits: what a record keeps of a number."""
    return float(f"{value:.{digits}g}")


# ------------------------------------------------------------------------ choosing by validation

Merit = Callable[[Sequence[Record]], Any]  # the runs of one setting -> the higher, the better


def by_exact_match(runs: Sequence[Record]) -> tuple[float, float]:
    """Mean exact match on validation words; of equals the lower loss. A run that diverged has an
    infinite loss.
    """
    judged = [run["result"]["validation"] for run in runs]
    losses = [math.inf if score["loss"] is None else score["loss"] for score in judged]
    return fmean(score["exact_match"] for score in judged), -fmean(losses)


def lowest(name: str) -> Merit:
    """The merit of a low mean result of this name; a run that diverged is the worst."""

    def merit(runs):
        values = [run["result"][name] for run in runs]
        return -math.inf if None in values else -fmean(values)

    return merit


def chosen(
    runs: Iterable[Record],
    merit: Merit,
    free: Container[str] = ("lr",),
    seeds: Container[int] | None = None,
) -> list[list[Record]]:
    """Of each setting the runs of all seeds at the best of what was tried: at the best rate.

    free: the names in a cell that were tried out; what else it holds, but for the seed, is a
    setting. seeds: those that choose; None: all of them. Of equal merits the first tried wins.
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
