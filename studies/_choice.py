"""Two settings, each at the rate that validation words choose: the difference of their results,
with an interval that holds the noise of the choice.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minilora.lab.cells import Record
from minilora.lab.statistics import Estimate, by_exact_match

from . import _words

DRAWS = 20_000
Value = Callable[[Any, Any], float | None]  # of the results of two runs of one seed


class Tried:
    """The runs of one setting at all its rates (or other choices), with the same seeds at each.

    seeds (S); results[rate][seed]; best: the place of the rate that validation words choose.
    """

    def __init__(self, records: Sequence[Record]):
        places: dict[str, dict[int, Record]] = {}
        for record in records:
            cell = {k: v for k, v in record["cell"].items() if k != "seed"}
            key = json.dumps(cell, sort_keys=True)
            places.setdefault(key, {})[record["cell"]["seed"]] = record
        self.seeds = sorted(next(iter(places.values())))
        if any(sorted(by_seed) != self.seeds for by_seed in places.values()):
            raise ValueError("Tried: some rates have other seeds than the rest")
        runs = [[by_seed[seed] for seed in self.seeds] for by_seed in places.values()]
        self.results = [[run["result"] for run in row] for row in runs]
        self.best = max(range(len(runs)), key=lambda k: by_exact_match(runs[k]))
        judged = [[result["validation"] for result in row] for row in self.results]
        words = judged[0][0]["words"]
        # (rates, seeds, words) of 0 and 1; (rates,)
        self._right = np.array([[_words.hits(v["right"], words) for v in row] for row in judged])
        self._loss = np.array(
            [np.mean([math.inf if v["loss"] is None else v["loss"] for v in row]) for row in judged]
        )

    @property
    def words(self) -> int:
        """How many validation words chose."""
        return self._right.shape[-1]

    @functools.cached_property
    def chosen(self) -> np.ndarray:
        """(DRAWS,): the place of the rate that each draw of seeds and words chooses."""
        by_seed, by_word = draws(len(self.seeds), self.words)
        by_run = by_word @ self._right.reshape(-1, self.words).T  # (DRAWS, rates · seeds)
        score = np.einsum("ds,dks->dk", by_seed, by_run.reshape(DRAWS, -1, len(self.seeds)))
        equals = 1e-9 * np.argsort(np.argsort(self._loss))  # the lower loss, as in `best`
        return (score - equals).argmax(axis=1)


@functools.cache
def draws(seeds: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap weights (DRAWS, seeds) and (DRAWS, words): how often each is drawn, as a share."""
    rng = np.random.default_rng(0)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    by_word = rng.multinomial(words, np.full(words, 1 / words), DRAWS) / words
    return by_seed, by_word


def exact_match(ours: Any, theirs: Any) -> float:
    """The difference of the exact match on test words."""
    return ours["test"]["exact_match"] - theirs["test"]["exact_match"]


def gap(ours: Tried, theirs: Tried, value: Value = exact_match) -> Estimate:
    """value(our result, their result), seed by seed, both at their chosen rates: the estimate.

    Each side's rate is the one with the highest exact match on validation words, over all S seeds.
    The standard error is a bootstrap's: each draw takes S seeds and V validation words with
    replacement, the same for both sides, chooses both rates anew and takes the mean of the values
    there. A bootstrap of S values has (S - 1) / S of the variance of a mean, so its variance is
    multiplied by S / (S - 1): where every draw chooses the same rates, this is the paired t.
    ->  mean; sd, the standard error times √S; n = S. No number where a draw chooses a rate of which
    a value is None, as of a loss whose run diverged; the exact match of such a run is 0.
    Raises ValueError for sides of other seeds or validation words.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 10.
    """
    if (ours.seeds, ours.words) != (theirs.seeds, theirs.words):
        raise ValueError("gap: the two sides have other seeds or numbers of validation words")
    values = np.array(
        [
            [[_number(value(a, b)) for a, b in zip(x, y, strict=True)] for y in theirs.results]
            for x in ours.results
        ]
    )  # (our rates, their rates, S)
    count, here = len(ours.seeds), values[ours.best, theirs.best]
    by_seed, _ = draws(count, ours.words)
    drawn = (by_seed * values[ours.chosen, theirs.chosen]).sum(axis=1)  # (DRAWS,)
    if not np.isfinite(drawn).all() or not np.isfinite(here).all():
        return Estimate(None, None, count)
    error = drawn.std() * math.sqrt(count / (count - 1)) if count > 1 else 0.0
    return Estimate(float(here.mean()), float(error * math.sqrt(count)), count)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
