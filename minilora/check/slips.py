"""The nine known slips, as data: each says what a wrong answer would be had it been made.

A check tries them: where one gives the reader's own wrong numbers, it is named.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Outputs = dict[str, Any]  # name -> array, number, or None where nothing is to come back


@dataclass(frozen=True)
class Case:
    """One set of arguments for an exercise's function, and what is right for it."""

    args: Outputs  # in the order in which the function takes them
    reference: Callable[..., Outputs]  # (**args) -> the right outputs, by name
    rows: tuple[str, ...] = ()  # arguments with a row a token
    summed: tuple[str, ...] = ()  # outputs that are sums over those rows
    adapter: str = ""  # the argument that switches the adapter off when it is zero
    two_paths: tuple[str, ...] = ()  # outputs that have a base path and an adapter path
    slips: Mapping[str, Callable[..., list[Outputs]]] = field(default_factory=dict)  # its own

    @property
    def true(self) -> Outputs:
        """The right outputs."""
        return self.reference(**self.args)

    def but(self, **changed) -> "Case":
        """The same case with other arguments."""
        return replace(self, args={**self.args, **changed})

    def base(self, name: str) -> Any:
        """An output's base path: with the adapter switched off; 0 for one without such a path."""
        if name not in self.two_paths:
            return 0.0
        off = np.zeros_like(self.args[self.adapter])
        return self.but(**{self.adapter: off}).true[name]

    def own(self, slip: str, name: str) -> Iterator[Any]:
        """What this exercise's own variants of a slip give for an output."""
        for outputs in self.slips.get(slip, lambda **_: [])(**self.args):
            if name in outputs:
                yield outputs[name]


def _scaled(case: Case, name: str, power: int) -> Iterator[Any]:
    true, base = case.true[name], case.base(name)
    if true is not None and "s" in case.args:
        yield base + (true - base) * case.args["s"] ** power


def scale_missing(case: Case, name: str) -> Iterator[Any]:
    """The adapter's part over s."""
    yield from _scaled(case, name, -1)


def scale_twice(case: Case, name: str) -> Iterator[Any]:
    """The adapter's part times s."""
    yield from _scaled(case, name, 1)


def transposed(case: Case, name: str) -> Iterator[Any]:
    """The transposed output, or its adapter's part; the output from transposed square matrices."""
    true, base = case.true[name], case.base(name)
    if np.ndim(true) != 2:
        return
    yield true.T
    turned = {
        argument: a.T
        for argument, a in case.args.items()
        if argument not in case.rows and np.ndim(a) == 2 and a.shape[0] == a.shape[1]
    }
    changes = [{argument: a} for argument, a in turned.items()] + [turned]
    if name in case.two_paths and true.shape[0] == true.shape[1]:
        yield base + (true - base).T
        factors = {argument: a for argument, a in turned.items() if argument != "W"}
        yield base + (case.but(**factors).true[name] - base).T  # A B for B A
    for changed in changes:
        yield case.but(**changed).true[name]


def no_sum(case: Case, name: str) -> Iterator[Any]:
    """A gradient a row, its mean, one row's or one sequence's alone."""
    if name not in case.summed:
        return
    count = len(case.args[case.rows[0]])
    cuts = [{r: case.args[r][i : i + 1] for r in case.rows} for i in range(count)]
    terms = np.stack([case.but(**cut).true[name] for cut in cuts])
    yield from (terms, terms.mean(0), terms[0], terms[-1])
    for n in (n for n in range(2, count) if count % n == 0):  # N sequences of M/N tokens
        by_sequence = terms.reshape(n, count // n, *terms.shape[1:])
        yield from (by_sequence.sum(1), by_sequence.sum(0), by_sequence.sum(1).mean(0))


def path_missing(case: Case, name: str) -> Iterator[Any]:
    """One of the two paths alone."""
    if name in case.two_paths:
        base = case.base(name)
        yield from (base, case.true[name] - base)


@dataclass(frozen=True)
class Slip:
    """A known slip: how it is said, and what it would have given for an output of a case."""

    says: str  # {name}: the output, {s}: the scale
    tries: Callable[[Case, str], Iterator[Any]] | None = None  # None: the exercise's own variants

    def gives(self, slip: str, case: Case, name: str) -> Iterator[Any]:
        """Every wrong value that this slip could give."""
        if self.tries:
            yield from self.tries(case, name)
        yield from case.own(slip, name)


SLIPS = {
    "scale missing": Slip("the scale s = α/r{s} was left out of {name}", scale_missing),
    "scale twice": Slip("the scale s = α/r{s} went into {name} twice", scale_twice),
    "transposed": Slip("{name} is transposed, or was made with a transposed matrix", transposed),
    "no sum": Slip(
        "{name} is not the sum over all rows: in a batch, all tokens of all sequences", no_sum
    ),
    "path missing": Slip(
        "{name} has one of its two paths only: one goes through W, one through the adapter",
        path_missing,
    ),
    "frozen moved": Slip("A is frozen here, but {name} would move it"),
    "b on the wrong side": Slip(
        "b scaled the r numbers before B: it belongs after B, one number an output, in {name}"
    ),
    "not the products' difference": Slip(
        "{name} moved by gradients or by the factors' differences: it moves by B'A' - BA"
    ),
    "ratio on A": Slip("the ratio went to A: it is B that learns faster, see {name}"),
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


def recognise(cases: list[tuple[Case, Outputs]], name: str) -> str | None:
    """The slip that gives the reader's wrong output in every case where it is wrong.

    cases: (case, what the reader's function gave for it).
    """
    wrong = [(case, got[name]) for case, got in cases if not agree(got[name], case.true[name])]
    if any(case.true[name] is None for case, _ in wrong):
        return "frozen moved"
    for slip, record in SLIPS.items():
        if wrong and all(
            any(agree(value, wanted) for wanted in record.gives(slip, case, name))
            for case, value in wrong
        ):
            return slip
    return None
