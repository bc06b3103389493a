"""Activation checkpointing: backward computes again, bit for bit, what the tape does not keep."""

from collections.abc import Callable
from functools import partial

from ..engine import Node, Op, Tensor, backward, param, place, scope


def recompute(segment: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """segment(x). The tape keeps only x, and backward runs the segment again.

    Leaves that the segment uses get their gradients too. The second run must give the same result.
    Source: Chen et al. 2016, arXiv:1604.06174, section 3.
    """
    out, _ = _run(segment, x.data)  # the segment's own tape is dropped with its output
    if x.node is None and out.node is None:
        return out
    again = partial(_at, place(), segment)
    return Tensor(out.data, Node(_recompute, (again, x.data), (None, x.node), place()))


def _at(where, segment, x):
    """Run the segment again; its nodes get the same names."""
    with scope(where):
        return segment(x)


def _run(segment, x):
    return segment(Tensor(x)), (segment, x)


def _run_again(dy, cache, need):
    segment, x = cache
    again = param(x) if need[1] else Tensor(x)
    backward(segment(again), dy)
    return None, again.grad


_recompute = Op("recompute", _run, _run_again, saves=("segment", "x"))
