"""What a reader's function returned against the right outputs: what is wrong, where, which slip."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minilora.check.words import (
    EXACT,
    Notes,
    agree,
    constant_ratio,
    describe,
    kind_of,
    numbers,
    times,
)
from minilora.support.pair_form import and_list, are_right

from .calls import Fault
from .slips import SLIPS, Case, Outputs, Runs, is_right, recognise


class Judgement(NamedTuple):
    """The part of a Verdict that does not depend on the exercise."""

    status: str  # "passed", "failed", or "open"
    says: str
    notes: Notes = ()
    slip: str | None = None


def judge(
    cases: Sequence[Case], returned: Sequence[Any], names: Sequence[str] | None = None
) -> Judgement:
    """Compare what a function returned with what is right in each case; describe the first error.

    returned: by `call_each`, one for each case. names: of the outputs to look at; None: all.
    """
    runs, faults = sort_out(cases, returned)
    for case, outputs in runs:
        wrong = [name for name in names or case.true if not is_right(case, outputs, name)]
        if wrong:
            judgement = _wrong(case, outputs, wrong, runs)
            also = tuple(("other shapes", fault.says) for fault in faults[:1])
            return judgement._replace(notes=judgement.notes + also)
    return Judgement(*faults[0]) if faults else _right(runs)


def sort_out(cases: Sequence[Case], returned: Sequence[Any]) -> tuple[Runs, list[Fault]]:
    """The cases with outputs, and the faults of those without."""
    runs, faults = [], []
    for case, value in zip(cases, returned):
        outputs = value if isinstance(value, Fault) else _by_name(value, case.true)
        if isinstance(outputs, Fault):
            faults.append(outputs)
        else:
            runs.append((case, outputs))
    return runs, faults


def _by_name(returned, true) -> Outputs | Fault:
    """The outputs by name; a list or an array is accepted in place of a tuple."""
    names = list(true)
    several = isinstance(returned, tuple | list)
    if len(names) == 1:
        (name,) = names
        if several and len(returned) == 1:
            returned = returned[0]
        elif isinstance(returned, tuple) and np.shape(numbers(returned)) != np.shape(true[name]):
            return Fault("failed", f"it returned {len(returned)} values, wanted 1: {name}")
        elif isinstance(returned, np.ndarray) and returned.size == 1 and not np.ndim(true[name]):
            returned = returned.reshape(())
        return {name: returned}
    several = several or (isinstance(returned, np.ndarray) and len(returned) == len(names))
    listed = ", ".join(names)
    if not several:
        says = f"it returned {kind_of(returned)}, wanted {len(names)} values: {listed}"
        return Fault("failed", says)
    if len(returned) != len(names):
        count = f"{len(returned)} value{'s' * (len(returned) != 1)}"
        return Fault("failed", f"it returned {count}, wanted {len(names)}: {listed}")
    return dict(zip(names, returned))


def _right(runs) -> Judgement:
    """The judgement if everything is right, with the precision and the dtype."""
    names = [name for name, true in runs[0][0].true.items() if true is not None]
    single = [n for n in names if any(_dtype(o[n]) == np.float32 for _, o in runs)]
    coarse = [n for n in names if any(not agree(o[n], c.true[n], EXACT) for c, o in runs)]
    notes: Notes = ()
    if single:
        come = "comes" if len(single) == 1 else "come"
        words = f"{and_list(single)} {come} back as float32, from float64"
        notes = (("dtype", f"{words}: a result has the dtype of the arguments"),)
    elif coarse:
        s = "s" * (len(coarse) == 1)
        words = f"{and_list(coarse)} agree{s} to seven digits or fewer, as in float32"
        notes = (("digits", words),)
    how = "to the precision of float32" if single or coarse else "in float64"
    return Judgement(
        "passed", f"{are_right(names)}, {how}, on {len(runs)} sets of arguments", notes
    )


def _dtype(a):
    a = numbers(a)
    return None if a is None else a.dtype


def _ratio_of_all(runs, name) -> float:
    """The ratio of an output to the right one, if it is the same in each case where it is wrong.

    In one case alone it may be a coincidence. 0 if there is none.
    """
    wrong = [(case, outputs) for case, outputs in runs if not is_right(case, outputs, name)]
    ratios = [constant_ratio(outputs[name], case.true[name]) for case, outputs in wrong]
    return ratios[0] if np.allclose(ratios, ratios[0], rtol=1e-6, atol=0) else 0.0


def _wrong(case, outputs, wrong, runs) -> Judgement:
    """The first wrong output: its shape, its worst entry, the slip."""
    name, true = wrong[0], case.true
    right = [n for n in true if n not in wrong and true[n] is not None]
    others = f" ({are_right(right)})" if right else ""
    also = (
        f", and so {'is' if len(wrong) == 2 else 'are'} {and_list(wrong[1:])}" if wrong[1:] else ""
    )
    notes = describe(name, outputs[name], true[name])
    slips = ((n, recognise(runs, n)) for n in wrong)
    which, slip = next((found for found in slips if found[1]), (name, None))
    words = ""
    if slip:
        s = f" = {case.args['s']:g}" if "s" in case.args else ""
        says = SLIPS[slip].says if slip in SLIPS else slip  # of this exercise alone: its words
        fields = {"of": which.removeprefix("d"), "over": case.over, "paths": case.paths}
        words = says.format(name=which, s=s, **fields)
    elif np.ndim(true[name]) and (ratio := _ratio_of_all(runs, name)):
        words = f"{name} is {times(ratio)} the right one"
    elif np.ndim(true[name]) and (got := numbers(outputs[name])) is not None and not got.any():
        words = f"every number of {name} is 0"
    notes += (("looks like", words),) if words else ()
    return Judgement("failed", f"{name} is wrong{others}{also}", notes, slip)
