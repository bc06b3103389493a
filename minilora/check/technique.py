"""Is a technique's record right? Its pair, its start, its merged weight, its count."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..gradcheck import gradcheck
from ..methods.base import Method
from ..support.meta import Meta, is_array
from . import examples

I, O, RANK = 8, 5, 3


def check_method(record: Method) -> Iterator[str]:
    """Check the parts of a record in float64, with a sentence for each that is right.

    The pair against finite differences; that a fresh adapter changes nothing; that W + ΔW gives
    what the pair gives; the count; and that all of it runs on shapes alone, as the ledger does.
    Raises GradientError for the pair, ValueError for another part.
    """
    names = [*inspect.signature(record.op.forward).parameters]
    rng, W = np.random.default_rng(0), np.random.default_rng(1).standard_normal((O, I))
    args = _fresh(record, W, rng)
    if missing := [n for n in (*names, *record.trains) if n not in {*args, "x", "xd"}]:
        raise ValueError(f"{record.name}: init gives no {missing[0]}, which the record names")
    for seed in (0, 1) if record.has_dropout else (0,):
        case = examples.of_method(record, seed, I=I, O=O, r=RANK)
        frozen = examples.frozen_of(record)
        checked = gradcheck(record.op.forward, record.op.backward, *case, frozen=frozen)
        yield f"{', '.join(f'd{name}' for name in checked)} right{', dropout' * seed}"
    if (found := np.shape(record.delta(**args))) != W.shape:
        raise ValueError(f"{record.name}: delta has shape {found}, wanted {W.shape}")
    _same(record, "a fresh adapter changes the weight", _whole(record, args), W)
    yield "a fresh adapter changes nothing"
    x, *rest = examples.of_method(record, I=I, O=O, r=RANK)
    given = dict(zip(names[1:], rest))
    y, _ = record.op.forward(x, *rest)
    _same(record, "forward is not x (W + ΔW)ᵀ", y, x @ _whole(record, given).T)
    yield "forward is x (W + ΔW)ᵀ"
    numbers, counted = sum(args[n].size for n in record.trains), record.count(I, O, RANK)
    if counted != numbers:
        raise ValueError(f"{record.name}: count gives {counted} for {numbers} trained numbers")
    yield f"count is what trains, {counted} numbers here"
    narrow = _fresh(record, Meta(W.shape, np.float32), rng)
    if wide := [n for n in record.trains if narrow[n].dtype != np.float32]:
        found = narrow[wide[0]].dtype
        raise ValueError(f"{record.name}: init makes a {wide[0]} of {found} for a W of float32")
    shapes = [Meta(a.shape, a.dtype) if is_array(a) else a for a in (x, *rest)]
    record.op.backward(*record.op.forward(*shapes))
    yield "runs on shapes alone"


def _fresh(record, W, rng) -> dict[str, Any]:
    """The arguments of a fresh linear by name."""
    options = {**record.options, "alpha": 2.0 * RANK}
    shared = record.prepare([W.shape], RANK, options, W) if record.prepare else {}
    args = {"W": W, **record.init(W, RANK, options, rng, shared)}
    return args | (record.derived(**args) if record.derived else {})


def _whole(record, args):
    """The merged weight W + ΔW (O, I)."""
    return args["W"] + record.delta(**args)


def _same(record, what, got, wanted):
    """Raises ValueError unless two arrays agree but for rounding."""
    if (error := np.abs(got - wanted).max()) > 1e-10 * np.abs(wanted).max():
        raise ValueError(f"{record.name}: {what}: the largest difference is {error:.1e}")
