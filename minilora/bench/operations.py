"""The work of one call of an op: its operations, from shapes, and the bytes of its arrays."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..memory.saved import storage
from ..ops.loss import IGNORED
from ..support.meta import arrays_in, is_array


def cost(row: str, pair: Any, given: tuple, named: Mapping, answer: Any) -> Any:
    """(operations, bytes) of one call; None if OPERATIONS does not have the row.

    bytes: each input and output array counts once; at least these bytes must move.
    """
    if row not in OPERATIONS:
        return None
    if row.endswith("backward"):
        cache = given[1] if type(given[1]) is tuple else given[1:]
        values = {"d": given[0], **dict(zip(pair.saves, cache))}
    else:
        values = dict(zip(inspect.signature(pair.forward or pair.value).parameters, given))
    moved = [*values.values(), *arrays_in([*named.values(), answer])]
    sizes = {storage(a)[0] if is_array(a) else id(a): getattr(a, "nbytes", 0) for a in moved}
    changed = sum(values[argument].nbytes for argument in CHANGED.get(row, ()))
    return float(OPERATIONS[row](**values, **named)), float(sum(sizes.values()) + changed)


def _product(x, *weights, **more) -> int:
    """Operations of the products of x's rows with the matrices."""
    return 2 * len(x) * sum(math.prod(w.shape) for w in (*weights, *more.values()))


def _adapted(x, W, A, B, **_):
    return _product(x, W, A, B)


def _adapted_backward(d, need, W, A, B, **_):
    return _product(d, A, B, B) + need[0] * _product(d, W, A)  # dA, dB, dz; dx


def _frozen_a_backward(d, need, W, A, B, **_):
    return _product(d, B) + need[0] * _product(d, W, A, B)  # dB; dx, dz


def _attention(products, q, spans, **_):
    queries, keys = spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]
    seen = (queries * (2 * keys - queries + 1) // 2).sum()  # a query sees the keys up to its place
    return 2 * products * int(seen) * math.prod(q.shape[1:])


def _head(products, h, W, targets, **_):
    rows = h[targets != IGNORED]
    return products * _product(rows, W) + 15 * len(rows) * len(W)


# A pass of an op, or a function that is not an op -> its operations. The arguments are the page's;
# for a backward: d, the incoming gradient, and the cache. No entry is better than a wrong one.
OPERATIONS: dict[str, Callable[..., float]] = {
    "frozen_linear forward": _product,
    "frozen_linear backward": lambda d, W: _product(d, W),
    "linear forward": _product,
    "linear backward": lambda d, x, W, need: sum(need) * _product(d, W),
    **dict.fromkeys([f"{op} forward" for op in ("lora", "dora", "lora_fa", "vera")], _adapted),
    **dict.fromkeys(["lora backward", "dora backward"], _adapted_backward),
    **dict.fromkeys(["lora_fa backward", "vera backward"], _frozen_a_backward),
    "frozen_feed_forward forward": _product,
    "frozen_feed_forward backward": lambda d, gate, up, **weights: _product(d, **weights),
    "swiglu forward": lambda gate, up: 15 * gate.size,
    "swiglu backward": lambda d, **_: 20 * d.size,
    "rmsnorm forward": lambda x, **_: 4 * x.size,
    "rmsnorm backward": lambda d, need, **_: (8 * need[0] + 3 * need[1]) * d.size,
    "rope forward": lambda x, **_: 3 * x.size,
    "rope backward": lambda d, **_: 3 * d.size,
    "attention forward": lambda **given: _attention(2, **given),
    "attention backward": lambda **given: _attention(5, **given),
    "frozen_head_loss forward": lambda **given: _head(2, **given),
    "head_loss forward": lambda **given: _head(3, **given),
    **dict.fromkeys(["add", "add forward"], lambda a, b: a.size),
    "adamw": lambda p, **_: 14 * p.size,
    "add_product": lambda W, left, right: _product(left, right),
}
CHANGED = {"adamw": ("p", "m", "v"), "add_product": ("W",)}  # written as well as read
