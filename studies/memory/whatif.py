"""How many bytes a training step would keep for backward if some ops kept more than they need.

Many engines keep such arrays. LoRA-FA does not need x, which LoRA keeps. An engine that keeps x for
another reason, or an array as large as x, loses this saving.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

from minilora import ops
from minilora.engine import Op
from minilora.llama.model import ModelConfig
from minilora.memory import ledger
from minilora.methods import METHODS
from minilora.ops.dropout import mask
from minilora.support import terminal
from minilora.support.plots import human
from minilora.tuning.choices import find_method

Settings = Mapping[str, Mapping[str, Any]]  # method -> keywords for `ledger`
P = 0.1  # the dropout of the cases that have one
REFERENCE = "lora"  # the method that the others are compared with
ADAPTER = "adapter"  # in Case.ops: the method's own op


@dataclasses.dataclass(frozen=True)
class Case:
    """A set of ops that keep an additional array."""

    title: str  # of its column
    meaning: str
    ops: tuple[str, ...] = ()  # names in minilora.ops, or ADAPTER
    more: Callable[[Mapping[str, Any], Any], Any] | None = None  # (arguments, out) -> array or None
    dropout: float = 0.0


def _mask(given, out):
    return mask(given["x"], given["p"], given["key"])


def _mask_of_bytes(given, out):
    return _mask(given, out) > 0


def _inputs(x, Wg=None, Wu=None, Wd=None, **others):
    """The inputs of an op's linears: x; for a whole feed-forward also the input of down_proj."""
    if Wd is None:
        return x
    return x, ops.swiglu(ops.frozen_linear(x, Wg), ops.frozen_linear(x, Wu)).data


CASES = (
    Case("as it is", "each op keeps what its backward reads, and nothing else"),
    Case("norm's y", "a norm also keeps its output", ("rmsnorm",), lambda given, out: out),
    Case(
        "every x",
        "every linear keeps its input, even if its weight is frozen",
        ("linear", "frozen_linear", "frozen_feed_forward", ADAPTER),
        lambda given, out: _inputs(**given),
    ),
    Case("dropout", f"dropout {P:g} on the adapter's input, its mask recomputed", dropout=P),
    Case(
        "mask, bytes",
        "its mask kept in bytes, as PyTorch on a GPU",
        ("dropout",),
        _mask_of_bytes,
        P,
    ),
    Case("mask, floats", "its mask kept in x's dtype, as PyTorch on a CPU", ("dropout",), _mask, P),
)


def keeping(op: Op, more: Callable[[Mapping[str, Any], Any], Any]) -> Op:
    """An op whose cache also has more(arguments by name, out), which its backward does not read."""
    pair = op.fast or op.look_up()
    forward, backward, takes_need = pair.forward, pair.backward, pair.takes_need
    names, alone = tuple(inspect.signature(op.forward).parameters), len(op.saves) == 1

    def wider_forward(*args):
        out, cache = forward(*args)
        extra = more(dict(zip(names, args)), out)
        return out, (cache, extra) if alone else (*cache, extra)

    def wider_backward(dout, cache, need):
        wanted = (need,) if takes_need else ()
        return backward(dout, cache[0] if alone else cache[:-1], *wanted)

    wider_forward.__signature__ = inspect.signature(op.forward)  # type: ignore[attr-defined]
    saves = (*op.saves, "kept in vain")
    return Op(op.name, wider_forward, wider_backward, saves=saves, constants=op.constants)


@contextlib.contextmanager
def supposing(case: Case, method: str) -> Iterator[None]:
    """In the with block the case's ops keep more, in every model that uses this method.

    Raises ValueError for an unknown method.
    """
    chosen = [find_method(method).op if n == ADAPTER else getattr(ops, n) for n in case.ops]
    with contextlib.ExitStack() as stack:
        for op in {id(op): op for op in chosen}.values():
            if case.more:
                stack.enter_context(patch.dict(vars(op), vars(keeping(op, case.more))))
        yield


def saved_bytes(
    case: Case, method: str, config: ModelConfig, batch: int, seq: int, **how: Any
) -> int | None:
    """The bytes that a step keeps for backward. how: keywords for `ledger`.

    None if the case has dropout, but the method has none.
    """
    if case.dropout:
        if not find_method(method).has_dropout:
            return None
        how = {**how, "dropout": case.dropout}
    with supposing(case, method):
        return ledger(config, batch, seq, method=method, **how).activations


def what_ifs(
    config: ModelConfig, settings: Settings, batch: int, seq: int
) -> dict[str, dict[str, int | None]]:
    """method -> title of the case -> bytes kept for backward."""
    return {
        name: {case.title: saved_bytes(case, name, config, batch, seq, **how) for case in CASES}
        for name, how in settings.items()
    }


def table(kept: Mapping[str, Mapping[str, int | None]], width: int) -> Iterator[str]:
    """A row for each method, a column for each case, percentages below, then the meanings."""
    rows = [["kept for backward", *(case.title for case in CASES)]]
    whole = kept.get(REFERENCE, {}).get(CASES[0].title)
    for name, row in kept.items():
        cells = ("–" if n is None else human(n) for n in row.values())
        rows.append([METHODS[name].title, *cells])
        if whole:
            rows.append(["", *("" if n is None else f"{n / whole:.1%}" for n in row.values())])
    yield from terminal.table(rows, [18, *[14] * len(CASES)], width)
    yield ""
    for case in CASES:
        yield terminal.fill(f"{case.title + ':':14}{case.meaning}", width, 14)
    yield f"%: of the first column of {METHODS[REFERENCE].title}"
