"""Over seeds: means with their spread, and what may be chance."""

import math
import statistics
from collections.abc import Iterable, Sequence

# Student's t, both sides, 95 in 100, by number of seeds
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def mean_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; the latter is 0 for a single one."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def plus_minus(mean: float, sd: float, digits: int = 3) -> str:
    """0.855 ± 0.004."""
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def milliseconds(spread: tuple[float, float]) -> str:
    """Of seconds, as mean and standard deviation: 12.3 ± 0.4 ms."""
    return f"{1e3 * spread[0]:.1f} ± {1e3 * spread[1]:.1f} ms"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, int]:
    """Seed by seed: mean, standard deviation, number."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return *mean_sd(gaps), len(gaps)


def chance(sd: float, n: int) -> float:
    """How far from 0 the mean of n seeds lies by chance alone, 95 times in 100; for a single seed
    that is not known.
    """
    return T95[n] * sd / math.sqrt(n) if n > 1 else math.inf


def sign(mean: float | None, sd: float, n: int) -> int:
    """+1 or -1 where the mean of n seeds is further from 0 than chance brings it; 0 where it is
    not, or where a run diverged.
    """
    certain = mean is not None and abs(mean) > chance(sd, n)
    return int(math.copysign(certain, mean or 0))
