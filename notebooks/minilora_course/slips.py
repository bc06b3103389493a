"""The known slips, as data: each computes the wrong outputs that it leads to.

If these are the numbers of a reader's wrong answer, the slip is named.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np

from minilora.check.slips import OVER, PATHS
from minilora.check.slips import SLIPS as NAMED
from minilora.check.words import agree, numbers

Outputs = dict[str, Any]  # name -> array, number, or None where nothing is to be returned
# the wrong outputs of a known slip; or of a slip of one exercise alone, by its words
Slips = Mapping[str, Callable[..., list[Outputs]]]

SINGLE = 1e-5  # the same mathematics in float32


@dataclass(frozen=True)
class Case:
    """One set of arguments for an exercise's function, and what is right for it."""

    args: Outputs  # in the order in which the function takes them
    reference: Callable[..., Outputs]  # (**args) -> the right outputs, by name
    rows: tuple[str, ...] = ()  # arguments with one row for each token
    summed: tuple[str, ...] = ()  # outputs that are sums over those rows
    over: str = OVER  # what they sum over
    adapter: str = ""  # the argument that switches the adapter, or the step, off when it is zero
    two_paths: tuple[str, ...] = ()  # outputs with a base path and an adapter path
    paths: str = PATHS
    slips: Slips = field(default_factory=dict)

    @cached_property
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
        switch = self.args[self.adapter]
        return self.but(**{self.adapter: np.zeros_like(switch) if np.ndim(switch) else 0.0}).true[
            name
        ]


Tries = Callable[[Case, str, Any], Iterator[Any]]  # (case, output, what came) -> wrong values


def _scaled(power: int) -> Tries:
    """The adapter's part times a power of s."""

    def tries(case, name, got):
        true, base = case.true[name], case.base(name)
        if "s" in case.args:
            yield base + (true - base) * case.args["s"] ** power

    return tries


def _transposed(case: Case, name: str, got: Any) -> Iterator[Any]:
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


def _no_sum(case: Case, name: str, got: Any) -> Iterator[Any]:
    """The rows' parts without a sum, one part, their mean, a sum of some, or sums by sequence."""
    if name not in case.summed:
        return
    M = len(case.args[case.rows[0]])
    rows = [{r: case.args[r][i : i + 1] for r in case.rows} for i in range(M)]
    parts = np.stack([case.but(**row).true[name] for row in rows])
    yield from (parts.transpose(order) for order in permutations(range(parts.ndim)))
    yield from (parts.mean(0), *parts, parts.max(0), parts.min(0), np.median(parts, 0))
    for reduce in (np.sum, np.mean):  # before the product in place of after it
        once = {r: reduce(case.args[r], axis=0, keepdims=True) for r in case.rows}
        yield case.but(**once).true[name]
    for N in (n for n in range(2, M) if M % n == 0):  # N sequences of M/N tokens
        sequences = parts.reshape(N, M // N, *parts.shape[1:])
        yield from (sequences.sum(1), sequences.sum(0), sequences.sum(1).mean(0))
    if np.shape(got) == parts.shape[1:] and got.size >= 2 * M:
        # a sum of the parts with weights that are not the same for all rows
        weights, *_ = np.linalg.lstsq(parts.reshape(M, -1).T, got.ravel(), rcond=None)
        if not agree(weights, np.full(M, weights.mean()), SINGLE):
            yield np.tensordot(weights, parts, 1)


def _path_missing(case: Case, name: str, got: Any) -> Iterator[Any]:
    """One of the two paths alone."""
    if name in case.two_paths:
        base = case.base(name)
        yield from (base, case.true[name] - base)


def _other_sign(case: Case, name: str, got: Any) -> Iterator[Any]:
    """Minus the output, or one of its two paths subtracted."""
    true, base = case.true[name], case.base(name)
    yield from (-true, 2 * base - true, true - 2 * base)


def _rounded(case: Case, name: str, got: Any) -> Iterator[Any]:
    """Values that float16 or integers can hold."""
    true = case.true[name]
    if not np.ndim(true) or np.asarray(true).dtype.kind != "f" or np.shape(got) != true.shape:
        return
    if not got.any():
        return
    yield from (np.trunc(true), np.rint(true), np.floor(true))
    with np.errstate(over="ignore"):
        if np.array_equal(got, got.astype(np.float16)) and agree(got, true, 0.01):
            yield got


def _moved(case: Case, name: str, got: Any) -> Iterator[Any]:
    """Other numbers, if the right output is one of the arguments, unchanged."""
    true = case.true[name]
    if true is case.args.get(name, ...) and np.shape(got) == np.shape(true):
        yield got


@dataclass(frozen=True)
class Slip:
    """A known slip."""

    # {name}: the output; {of}: what it is the gradient of; {s}: " = 16" where the scale is known;
    # {over}, {paths}: see Case
    says: str
    hint: str  # leads to the place, and does not give the answer
    tries: Tries | None = None  # besides the exercise's own variants


SLIPS = {
    "swapped": Slip(
        NAMED["swapped"],
        "Compare the order of what you return with the order that is asked for.",
    ),
    "scale missing": Slip(
        NAMED["scale missing"],
        "Mark s in the forward pass. Which of your lines belong to the path that contains it?",
        _scaled(-1),
    ),
    "scale twice": Slip(
        NAMED["scale twice"],
        "Mark s in each of your lines. Does a line with s use another line that has it already?",
        _scaled(1),
    ),
    "sign": Slip(
        NAMED["sign"],
        "Look at each + and -. A gradient says where the loss grows; a step goes against it.",
        _other_sign,
    ),
    "transposed": Slip(
        NAMED["transposed"],
        "Write the shape below each factor. A square matrix can be transposed without an error.",
        _transposed,
    ),
    "no sum": Slip(
        NAMED["no sum"],
        "What does a single row contribute to this output? And what do all rows together?",
        _no_sum,
    ),
    "path missing": Slip(
        NAMED["path missing"],
        "In how many places does the forward pass use it? Each of them gives a term.",
        _path_missing,
    ),
    "frozen moved": Slip(
        "{of} is frozen: it has no gradient and does not move, see {name}",
        "Which arrays does this technique train? All others stay as they are.",
        _moved,
    ),
    "b on the wrong side": Slip(
        "in {name}, b scales the r numbers before B: it belongs after B, one number an output",
        "b has O numbers, and d has r. Which array in the middle of the pass has O columns?",
    ),
    "not the products' difference": Slip(
        "{name} moved by gradients, by the factors' differences or by the new product: it moves by "
        "B'A' - BA",
        "Work out the product of the factors twice, before their step and after it.",
    ),
    "ratio on A": Slip(
        "the ratio went to A: only B has it, see {name}",
        "Which of the two factors starts at zero, and so has further to go?",
    ),
    "ratio missing": Slip(
        "{name} learns at the rate lr: the ratio was left out",
        "The two factors have different rates. Which argument do you not use?",
    ),
    "epsilon": Slip(
        "eps is missing in {name}, or it is in another place",
        "Read the formula from the inside out: square, mean, … At which step is eps added?",
    ),
    "dtype": Slip(
        NAMED["dtype"],
        "Look for astype, for float16, and for arrays of integers that results are written into.",
        _rounded,
    ),
}


def is_right(case: Case, outputs: Outputs, name: str) -> bool:
    """Is an output right, to the precision of float32 at least?"""
    return agree(outputs[name], case.true[name], SINGLE)


Runs = list[tuple[Case, Outputs]]  # (case, the outputs of the reader's function for it)


def recognise(runs: Runs, name: str) -> str | None:
    """The slip that gives the reader's output in every case where this output is wrong."""
    own = dict.fromkeys(s for case, _ in runs for s in case.slips if s not in SLIPS)
    if found := next((slip for slip in own if explains(slip, runs, name)), None):
        return found
    if _swapped(runs, name):
        return "swapped"
    if any(case.true[name] is None and got[name] is not None for case, got in runs):
        return "frozen moved"
    return next((slip for slip in SLIPS if explains(slip, runs, name)), None)


def explains(slip: str, runs: Runs, name: str) -> bool:
    """Is an output wrong, and does this slip give it in every case where it is wrong?"""
    wrong = [(case, outputs) for case, outputs in runs if not is_right(case, outputs, name)]
    return bool(wrong) and all(_gives(slip, case, outputs, name) for case, outputs in wrong)


def _gives(slip, case, outputs, name) -> bool:
    """Does a slip give the wrong output of one case?"""
    tries = SLIPS[slip].tries if slip in SLIPS else None
    variants = case.slips.get(slip)
    got = numbers(outputs[name])
    if got is None or not np.isfinite(got).all() or case.true[name] is None:
        return False
    for wrong in variants(**case.args) if variants else ():
        if name in wrong and all(agree(outputs[n], v, SINGLE) for n, v in wrong.items()):
            return True
    found = tries(case, name, got.astype(np.float64)) if tries else ()
    return any(agree(got, value, SINGLE) for value in found)


def _swapped(runs, name) -> bool:
    """Is an output wrong because right ones were returned in another order?"""
    wrong = [(case, outputs) for case, outputs in runs if not is_right(case, outputs, name)]
    names = list(runs[0][0].true) if wrong else []
    for order in permutations(names):
        moved = order[names.index(name)] != name
        if moved and all(
            agree(outputs[n], case.true[other], SINGLE)
            for case, outputs in wrong
            for n, other in zip(names, order)
        ):
            return True
    return False
