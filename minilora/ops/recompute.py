"""Less memory for more time: backward computes again what the tape does not keep, bit for bit."""

from collections.abc import Callable

from ..engine import Node, Op, Tensor, backward, param, place
from ..fast import twin
from .swiglu import swiglu


def recompute(segment: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """segment(x), for which the tape keeps x alone; backward runs the segment again.

    Leaves that the segment uses get their gradients too. The segment must compute the same again.
    Source: Chen et al. 2016, arXiv:1604.06174, section 3 (activation checkpointing).
    """
    out, cache = _run(segment, x.data)  # the segment's own tape is dropped with its output
    if x.node is None and out.node is None:
        return out
    return Tensor(out.data, Node(_recompute, cache, (None, x.node), place()))


def _run(segment, x):
    return segment(Tensor(x)), (segment, x)


def _run_again(dy, cache, need):
    segment, x = cache
    again = param(x) if need[1] else Tensor(x)
    backward(segment(again), dy)
    return None, again.grad


_recompute = Op("recompute", _run, _run_again, saves=("segment", "x"))


def remaking(op: Op, h: Tensor) -> Op:
    """An op like `op` that does not keep h = silu(gate) · up: backward computes h again.

    h: the op's first argument. If it is not the output of swiglu on the tape, whose cache has gate
    and up, the op itself is returned.
    """
    node = h.node
    if node is None or node.op is not swiglu:
        return op

    def leaner_forward(*args):
        y, cache = twin(op.forward, args[0])(*args)
        return y, _swapped(cache, args[0], _HOLE)

    def leaner_backward(dy, cache, need):
        # backward reaches the node of h after this one, so its gate and up are not freed yet
        holes = isinstance(cache, tuple) and any(part is _HOLE for part in cache)
        again = twin(swiglu.forward, dy)(*node.cache)[0] if holes else None
        wanted = (need,) if op.takes_need else ()
        return twin(op.backward, dy)(dy, _swapped(cache, _HOLE, again), *wanted)

    return Op(op.name, leaner_forward, leaner_backward, saves=op.saves, constants=op.constants)


_HOLE = object()  # what a cache has in place of h


def _swapped(cache, old, new):
    """The cache with `new` in place of the object `old`."""
    return tuple(new if a is old else a for a in cache) if isinstance(cache, tuple) else cache
