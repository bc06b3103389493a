"""What backward would keep if pairs kept more than it reads: the same step over such pairs.

So an engine's habits are told apart from a technique's mathematics: what LoRA-FA saves over LoRA is
x, and whoever keeps x, or something as large, for another reason takes the saving back.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .. import ops
from ..engine import Op
from ..llama.model import ModelConfig
from ..methods import METHODS
from ..methods.dropout import mask
from ..support.plots import human
from ..tuning.choices import find_method
from .step import ledger

P = 0.1  # the dropout of the cases that have one
REFERENCE = "lora"  # what the others are held against
ADAPTER = "adapter"  # stands for the method's own pair among a case's pairs


@dataclasses.dataclass(frozen=True)
class Case:
    """Which pairs keep what besides."""

    title: str  # of its column
    meaning: str
    pairs: tuple[str, ...] = ()  # names in ops, or ADAPTER
    more: Callable[[Mapping[str, Any], Any], Any] | None = None  # (arguments, out) -> array or None
    dropout: float = 0.0


def _mask(given, out):
    return mask(given["p"], given["key"], given["x"])


def _mask_of_bytes(given, out):
    m = _mask(given, out)
    return None if m is None else m > 0  # none where nothing is dropped: in evaluation


def _inputs(x, Wg=None, Wu=None, Wd=None, **others):
    """x; of a feed-forward whole also the product that the last of its linears reads."""
    if Wd is None:
        return x
    return x, ops.swiglu(ops.frozen_linear(x, Wg), ops.frozen_linear(x, Wu)).data


CASES = (
    Case("as it is", "each pair keeps what its backward reads, and nothing else"),
    Case("norm's y", "a norm keeps its output as well", ("rmsnorm",), lambda given, out: out),
    Case(
        "every x",
        "every linear keeps its input, whether or not its weight trains",
        ("linear", "frozen_linear", "frozen_feed_forward", ADAPTER),
        lambda given, out: _inputs(**given),
    ),
    Case("dropout", f"dropout {P:g} on the adapter's input, its mask made again", dropout=P),
    Case(
        "mask, bytes",
        "that mask kept, a byte a number (PyTorch on a GPU)",
        (ADAPTER,),
        _mask_of_bytes,
        P,
    ),
    Case(
        "mask, floats",
        "that mask kept in x's precision (PyTorch on a processor)",
        (ADAPTER,),
        _mask,
        P,
    ),
)


def keeping(op: Op, more: Callable[[Mapping[str, Any], Any], Any]) -> Op:
    """op with more(arguments by name, out) in its cache besides, which backward does not read."""
    names = tuple(inspect.signature(op.forward).parameters)

    @functools.wraps(op.forward)
    def wider_forward(*args):
        out, cache = op.forward(*args)
        return out, (cache, more(dict(zip(names, args)), out))

    @functools.wraps(op.backward)
    def wider_backward(dout, cache, *need):
        return op.backward(dout, cache[0], *need)

    return Op(op.name, wider_forward, wider_backward)


@contextlib.contextmanager
def supposing(case: Case, method: str) -> Iterator[None]:
    """Inside, the case's pairs keep more, for every model that runs this method."""
    record, more = find_method(method), case.more
    pairs, records = {}, {}
    if more:
        pairs = {n: keeping(getattr(ops, n), more) for n in case.pairs if n != ADAPTER}
        if ADAPTER in case.pairs:
            records = {method: dataclasses.replace(record, op=keeping(record.op, more))}
    with _replaced(vars(ops), pairs), _replaced(METHODS, records):
        yield


@contextlib.contextmanager
def _replaced(table: dict[str, Any], changes: Mapping[str, Any]) -> Iterator[None]:
    before = {name: table[name] for name in changes}
    table.update(changes)
    try:
        yield
    finally:
        table.update(before)


def saved_bytes(
    case: Case, method: str, config: ModelConfig, batch: int, seq: int, **how: Any
) -> int | None:
    """What a step keeps for backward in this case; None where it has dropout and the method none.

    how: `ledger`'s keywords.
    """
    if case.dropout:
        if not find_method(method).has_dropout:
            return None
        how = {**how, "dropout": case.dropout}
    with supposing(case, method):
        return ledger(config, batch, seq, method=method, **how).activations


def what_ifs(
    config: ModelConfig,
    settings: Mapping[str, Mapping[str, Any]],
    batch: int,
    seq: int,
    mixed: bool = False,
) -> dict[str, dict[str, int | None]]:
    """method -> case -> bytes kept for backward."""
    return {
        name: {
            case.title: saved_bytes(case, name, config, batch, seq, mixed=mixed, **how)
            for case in CASES
        }
        for name, how in settings.items()
    }


def table(found: Mapping[str, Mapping[str, int | None]]) -> Iterator[str]:
    """A row a method, a column a case; below each row its share of the reference as it is;
    then what the cases are.
    """
    yield f"{'kept for backward':18}{''.join(f'{case.title:>14}' for case in CASES)}"
    whole = found.get(REFERENCE, {}).get(CASES[0].title)
    for name, row in found.items():
        yield _cells(METHODS[name].title, ("–" if n is None else human(n) for n in row.values()))
        if whole:
            shares = ("" if n is None else f"{n / whole:.1%}" for n in row.values())
            yield _cells("", shares)
    yield ""
    for case in CASES:
        yield f"{case.title + ':':14}{case.meaning}"
    yield f"%: of what {METHODS[REFERENCE].title} keeps as it is"


def _cells(title, cells):
    return f"{title:18}{''.join(f'{cell:>14}' for cell in cells)}".rstrip()
