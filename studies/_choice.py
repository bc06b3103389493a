"""Two settings, each at the rate that validation words choose: the difference of their results,
with an interval that holds the noise of the choice.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minilora.lab.cells import Record
from minilora.lab.statistics import Estimate

from . import _words

DRAWS = 4000
Value = Callable[[Any, Any], float | None]  # the results of two runs of one seed


def exact_match(ours: Any, theirs: Any) -> float:
    """The difference of the exact match on test words."""
    return ours["test"]["exact_match"] - theirs["test"]["exact_match"]


def gap(ours: Sequence[Record], theirs: Sequence[Record], value: Value = exact_match) -> Estimate:
    """value(our result, their result), seed by seed, both at their chosen rates: the estimate.

    ours, theirs: the runs of one setting each, at K and L rates with the same S seeds. Each side's
    rate is the one with the highest exact match on validation words, over all seeds.

    The standard error is a bootstrap's: each draw takes S seeds and V validation words with
    replacement, the same for both sides, chooses both rates anew and takes the mean of the values
    there. A bootstrap of S values gives (S - 1) / S of their variance, so it is multiplied by
    S / (S - 1). Where every draw chooses the same rates, this is the paired t interval.
    ->  mean, sd = standard error · √S, n = S; no number where a chosen run diverged.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 10.
    """
    one, other = _Grid(ours), _Grid(theirs)
    if one.seeds != other.seeds:
        raise ValueError(f"gap: seeds {one.seeds} and {other.seeds}, wanted the same")
    values = np.array(
        [
            [[_number(value(a, b)) for a, b in zip(x, y, strict=True)] for y in other.results]
            for x in one.results
        ]
    )  # (K, L, S)
    count = len(one.seeds)
    here = values[one.best(), other.best()]
    if not np.isfinite(here).all():
        return Estimate(None, None, count)
    if count < 2:
        return Estimate(float(here.mean()), 0.0, count)
    rng = np.random.default_rng(0)
    by_seed = rng.multinomial(count, np.full(count, 1 / count), DRAWS) / count  # (D, S)
    words = one.right.shape[-1]
    by_word = rng.multinomial(words, np.full(words, 1 / words), DRAWS) / words  # (D, V)
    at = values[one.chosen(by_seed, by_word), other.chosen(by_seed, by_word)]  # (D, S)
    drawn = np.where(by_seed > 0, by_seed * at, 0.0).sum(axis=1)
    if not np.isfinite(drawn).all():  # some draws choose a run that diverged
        return Estimate(None, None, count)
    error = drawn.std() * math.sqrt(count / (count - 1))
    return Estimate(float(here.mean()), float(error * math.sqrt(count)), count)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class _Grid:
    """The runs of one setting: results[rate][seed], right (rate, seed, word), loss (rate, seed)."""

    def __init__(self, records: Sequence[Record]):
        places: dict[str, dict[int, Any]] = {}
        for record in records:
            cell = {k: v for k, v in record["cell"].items() if k != "seed"}
            places.setdefault(str(cell), {})[record["cell"]["seed"]] = record["result"]
        self.seeds = sorted(set.union(*(set(by_seed) for by_seed in places.values())))
        whole = [by_seed for by_seed in places.values() if sorted(by_seed) == self.seeds]
        self.results = [[by_seed[seed] for seed in self.seeds] for by_seed in whole]
        judged = [[result["validation"] for result in row] for row in self.results]
        words = judged[0][0]["words"]
        self.right = np.array([[_words.hits(v["right"], words) for v in row] for row in judged])
        loss = [[math.inf if v["loss"] is None else v["loss"] for v in row] for row in judged]
        self.loss = np.array(loss)

    def best(self) -> int:
        """The place of the rate that all seeds and words choose; of equals the lower loss."""
        hits = self.right.sum(axis=(1, 2))
        return max(range(len(hits)), key=lambda k: (hits[k], -self.loss[k].mean()))

    def chosen(self, by_seed: np.ndarray, by_word: np.ndarray) -> np.ndarray:
        """by_seed (D, S), by_word (D, V): weights of each draw  ->  (D,) places."""
        score = np.einsum("ds,dks->dk", by_seed, np.einsum("dv,ksv->dks", by_word, self.right))
        lowest = 1e-9 * np.argsort(np.argsort(self.loss.mean(axis=1)))  # of equals: as in `best`
        return (score - lowest).argmax(axis=1)
