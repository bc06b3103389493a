"""How many parameters a technique trains: its own formula, applied to a list of linears."""

import math
from typing import Any

from ..methods import DEFAULT, METHODS
from ..methods.base import Method
from ..support.meta import Meta
from ..tuning.choices import check_options, check_rank, find_method, match_targets, warn_of_ranks


def count(
    model: Any, method: str | Method, *, rank: int | None = None, targets=None, **options
) -> dict[str, Any]:
    """The number of trainable parameters of a method on a model. No array is allocated.

    model: has linears(), name -> (O, I): a ModelConfig, or one of `shapes.SHAPES`.
    Returns trainable; frozen_shared (VeRA's A and B, not part of trainable); rank; per_linear:
    kind -> {"count", "each"}. Full fine-tuning counts all arrays of a ModelConfig, but only the
    linears of a Shape, which has no others.
    Raises ValueError for an unknown method, option or target, or a rank below 1.
    """
    record = find_method(method)
    options = check_options(record, options, rank=rank, targets=targets)
    names = match_targets(model, "all-linear" if record.whole_model else targets)
    sizes = model.linears()
    linears = {name: sizes[name] for name in names}
    rank = check_rank(record, rank) if "rank" in record.takes else None
    if rank:
        warn_of_ranks(record, linears.items(), dict.fromkeys(linears, rank))
    each = {name: record.count(I, O, rank or 0) for name, (O, I) in linears.items()}
    kinds: dict[str, dict[str, int]] = {}
    for name, numbers in each.items():
        kind = kinds.setdefault(name.rsplit(".", 1)[-1], {"count": 0, "each": numbers})
        kind["count"] += 1
    trainable = sum(each.values())
    if record.whole_model and hasattr(model, "shapes"):
        trainable = sum(math.prod(shape) for shape in model.shapes().values())
    shared = {}
    if record.prepare:
        shared = record.prepare(list(linears.values()), rank or 0, options, Meta(()))
    return {
        "method": record.name,
        "rank": rank,
        "trainable": trainable,
        "frozen_shared": sum(a.size for a in shared.values()),
        "per_linear": kinds,
    }


def table(model: Any, rank: int | None = None, targets=None) -> dict[str, dict[str, Any]]:
    """`count` for every default method; rank and targets only for methods that take them."""
    given = {"rank": rank, "targets": targets}
    return {
        name: count(model, name, **{k: v for k, v in given.items() if k in record.takes})
        for name, record in ((name, METHODS[name]) for name in DEFAULT)
    }
