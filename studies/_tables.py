"""Means with their spread, as a page prints them."""

from collections.abc import Iterable
from typing import NamedTuple

from minilora.lab.cells import Record
from minilora.lab.spread import mean_sd


class Spread(NamedTuple):
    """A mean over seeds with the standard deviation between them."""

    mean: float
    sd: float
    n: int

    def __format__(self, how: str) -> str:
        """ "12.3 ± 0.4", or with % as its unit: "12 ± 3 %"."""
        if how == "%":
            return f"{100 * self.mean:.0f} ± {100 * self.sd:.0f} %"
        digits = how or ".3g"
        return f"{self.mean:{digits}} ± {self.sd:.2g}"

    def __str__(self) -> str:
        return format(self)


def spread(values: Iterable[float]) -> Spread:
    """Mean, sample standard deviation (0 of one value), number."""
    values = [float(v) for v in values]
    return Spread(*mean_sd(values), len(values))


def by_kind(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by what kind of cell they are of."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["cell"]["kind"], []).append(record)
    return found
