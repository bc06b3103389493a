"""The one form of a question: what is claimed, what would answer it, and by which rule. It is
written down before its runs are made; what was known by then is said in the study's first lines.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from minilora.lab.statistics import Estimate

from ._verdicts import FAILS, HOLDS, UNKNOWN, interval

VERDICTS = (HOLDS, FAILS, UNKNOWN)
MARGIN = 0.03  # exact match: two standard errors of a score of 0.85 on 611 words


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the records say."""

    evidence: str  # numbers, each with its interval or deviation
    verdict: str  # "holds", "does not hold" or "cannot tell"; or several, see `of_parts`
    p: float | None = None  # of the test that the verdict rests on; None where nothing is tested
    when: str = ""  # the condition of a verdict that holds only so far
    parts: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)


def of_parts(evidence: str, parts: Mapping[str, tuple[str, float]]) -> Finding:
    """The finding of a sentence that is judged several times: part -> (verdict, p).

    One verdict where all parts agree; else which part has which: "holds: past; cannot tell: lemma".
    """
    by_verdict = {v: [name for name in parts if parts[name][0] == v] for v in VERDICTS}
    found = {verdict: names for verdict, names in by_verdict.items() if names}
    listed = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items())
    verdict = next(iter(found)) if len(found) == 1 else listed
    return Finding(evidence, verdict, parts=parts)


@dataclasses.dataclass(frozen=True)
class Question:
    """One sentence, put to the test."""

    numbers: str  # of the sentences that it answers: "F2 F5"
    sentence: str  # as it is said of the technique
    equal: str  # the fair comparison: what is equal on both sides
    rule: str  # of the verdict, with its margin
    opposite: str  # what would make the verdict the opposite
    silent: str  # what it cannot say
    judge: Callable[[Mapping[str, Any]], Finding]  # of the study's summary


def brief(gap: Estimate) -> str:
    """A mean with its 95 % interval, for a table: "-0.026 [-0.035, -0.017]"."""
    if gap.mean is None:
        return "diverged"
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(gap.mean, *interval(gap))


def shown(gap: Estimate, how: str = "+.3f", unit: str = "") -> str:
    """A mean with its 95 % interval: "-0.026 [-0.035, -0.017] (n = 5)"."""
    if gap.mean is None:
        return f"diverged (n = {gap.n})"
    low, high = interval(gap)
    unit = f" {unit}" if unit else ""
    if gap.n < 2:
        return f"{gap.mean:{how}}{unit} (n = 1, no interval)"
    return f"{gap.mean:{how}} [{low:{how}}, {high:{how}}]{unit} (n = {gap.n})"
