"""The nine known slips, as data: each gives the wrong outputs that it leads to.

Where a slip gives the very numbers of a reader's wrong answer, it is named.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Outputs = dict[str, Any]  # name -> array, number, or None where nothing is to be returned


@dataclass(frozen=True)
class Case:
    """One set of arguments for an exercise's function, and what is right for it."""

    args: Outputs  # in the order in which the function takes them
    reference: Callable[..., Outputs]  # (**args) -> the right outputs, by name
    rows: tuple[str, ...] = ()  # arguments with one row for each token
    summed: tuple[str, ...] = ()  # outputs that are sums over those rows
    adapter: str = ""  # the argument that switches the adapter off when it is zero
    two_paths: tuple[str, ...] = ()  # outputs with a base path and an adapter path
    # the wrong outputs of a known slip here, or of a slip of this exercise alone, by its words
    slips: Mapping[str, Callable[..., list[Outputs]]] = field(default_factory=dict)

    @property
    def true(self) -> Outputs:
        """The right outputs."""
        return self.reference(**self.args)

    def but(self, **changed) -> "Case":
        """The same case with other arguments."""
        return replace(self, args={**self.args, **changed})

    def base(self, name: str) -> Any:
        """An output with the adapter switched off; 0 where it has no base path."""
        if name not in self.two_paths:
            return 0.0
        off = np.zeros_like(self.args[self.adapter])
        return self.but(**{self.adapter: off}).true[name]


Tries = Callable[[Case, str], Iterator[Any]]  # (case, output) -> wrong values of this output


def _scaled(power: int) -> Tries:
    """The adapter's part times a power of s."""

    def tries(case, name):
        true, base = case.true[name], case.base(name)
        if true is not None and "s" in case.args:
            yield base + (true - base) * case.args["s"] ** power

    return tries


def _transposed(case: Case, name: str) -> Iterator[Any]:
    """The output transposed, or its adapter's part; or made from transposed square matrices."""
    true, base = case.true[name], case.base(name)
    if np.ndim(true) != 2:
        return
    yield true.T
    square = {
        n: a.T
        for n, a in case.args.items()
        if n not in case.rows and np.ndim(a) == 2 and a.shape[0] == a.shape[1]
    }
    if name in case.two_paths and true.shape[0] == true.shape[1]:
        yield base + (true - base).T
        factors = {n: a for n, a in square.items() if n != "W"}
        yield base + (case.but(**factors).true[name] - base).T  # A B for B A
    for changed in [*({n: a} for n, a in square.items()), square]:
        yield case.but(**changed).true[name]


def _no_sum(case: Case, name: str) -> Iterator[Any]:
    """Each row's part by itself, their mean, one row's or one sequence's alone."""
    if name not in case.summed:
        return
    M = len(case.args[case.rows[0]])
    rows = [{r: case.args[r][i : i + 1] for r in case.rows} for i in range(M)]
    parts = np.stack([case.but(**row).true[name] for row in rows])
    yield from (parts, parts.mean(0), parts[0], parts[-1])
    for N in (n for n in range(2, M) if M % n == 0):  # N sequences of M/N tokens
        sequences = parts.reshape(N, M // N, *parts.shape[1:])
        yield from (sequences.sum(1), sequences.sum(0), sequences.sum(1).mean(0))


def _path_missing(case: Case, name: str) -> Iterator[Any]:
    """One of the two paths alone."""
    if name in case.two_paths:
        base = case.base(name)
        yield from (base, case.true[name] - base)


@dataclass(frozen=True)
class Slip:
    """A known slip."""

    says: str  # {name}: the output; {s}: " = 16" where the scale is known
    tries: Tries | None = None  # besides the exercise's own variants


SLIPS = {
    "scale missing": Slip("the scale s = α/r{s} was left out of {name}", _scaled(-1)),
    "scale twice": Slip("the scale s = α/r{s} is in {name} twice", _scaled(1)),
    "transposed": Slip("{name} is transposed, or was made with a transposed matrix", _transposed),
    "no sum": Slip(
        "{name} is not the sum over all rows: all tokens of all sequences in the batch", _no_sum
    ),
    "path missing": Slip(
        "{name} has only one of its two paths: one goes through W, one through the adapter",
        _path_missing,
    ),
    "frozen moved": Slip("A is frozen here, but {name} would move it"),
    "b on the wrong side": Slip(
        "in {name}, b scales the r numbers before B: it belongs after B, one number an output"
    ),
    "not the products' difference": Slip(
        "{name} moved by gradients or by the factors' differences: it moves by B'A' - BA"
    ),
    "ratio on A": Slip("the ratio went to A: B is the one that learns faster, see {name}"),
}


def agree(got: Any, wanted: Any, tolerance: float = 1e-7) -> bool:
    """Do two outputs have one shape and one value, relative to the largest entry?"""
    if got is None or wanted is None:
        return got is None and wanted is None
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape or got.dtype.kind not in "fiu":
        return False
    size = np.abs(wanted).max(initial=0.0)
    return bool(np.all(np.abs(got - wanted) <= tolerance * (size + 1e-12)))


def recognise(runs: list[tuple[Case, Outputs]], name: str) -> str | None:
    """The slip that gives the reader's output in every case where this output is wrong.

    runs: (case, the outputs of the reader's function for it).
    """
    wrong = [(case, got[name]) for case, got in runs if not agree(got[name], case.true[name])]
    if any(case.true[name] is None for case, _ in wrong):
        return "frozen moved"
    own = {slip: None for case, _ in wrong for slip in case.slips if slip not in SLIPS}
    for slip in (*own, *SLIPS) if wrong else ():
        if all(any(agree(got, v) for v in _values(slip, case, name)) for case, got in wrong):
            return slip
    return None


def slip_in_words(slip: str, name: str, s: str = "") -> str:
    """A slip in words.   name: the output that is wrong; s: the scale where it is known."""
    return SLIPS[slip].says.format(name=name, s=s) if slip in SLIPS else slip


def _values(slip, case, name) -> Iterator[Any]:
    """The wrong values of an output that a slip gives in a case."""
    tries = SLIPS[slip].tries if slip in SLIPS else None
    variants = case.slips.get(slip)
    if tries:
        yield from tries(case, name)
    for outputs in variants(**case.args) if variants else ():
        if name in outputs:
            yield outputs[name]
