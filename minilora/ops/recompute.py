"""Memory for time: what backward makes again instead of keeping it, to the same bits."""

from collections.abc import Callable

from ..engine import Node, Op, Tensor, backward, param, place
from ..fast import twin
from .swiglu import swiglu


def checkpoint(segment: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """segment(x), of which the tape keeps x alone: backward runs the segment again for the rest.

    Leaves that the segment uses inside get their gradients too. It must answer the same each time.
    Source: Chen et al. 2016, arXiv:1604.06174, section 3.
    """
    out, cache = _run(segment, x.data)  # the segment's own tape ends with this function
    if x.node is None and out.node is None:
        return out
    return Tensor(out.data, Node(_checkpoint, cache, (None, x.node), place()))


def _run(segment, x):
    return segment(Tensor(x)), (segment, x)


def _run_again(dy, cache, need):
    segment, x = cache
    again = param(x) if need[1] else Tensor(x)
    backward(segment(again), dy)
    return None, again.grad


_checkpoint = Op("checkpoint", _run, _run_again)


def remaking(op: Op, h: Tensor) -> Op:
    """op without h = silu(gate) · up in its cache: backward makes h again from gate and up.

    op itself where h is not swiglu's on the tape, which keeps gate and up in any case.
    """
    node = h.node
    if node is None or node.op is not swiglu:
        return op

    def leaner_forward(*args):
        y, cache = twin(op.forward, args[0])(*args)
        return y, _swapped(cache, args[0], _HOLE)

    def leaner_backward(dy, cache, need):
        # the node that made h is an ancestor of this one, so its gate and up are there still
        holes = isinstance(cache, tuple) and any(part is _HOLE for part in cache)
        again = twin(swiglu.forward, dy)(*node.cache)[0] if holes else None
        wanted = (need,) if op.takes_need else ()
        return twin(op.backward, dy)(dy, _swapped(cache, _HOLE, again), *wanted)

    return Op(op.name, leaner_forward, leaner_backward, saves=op.saves, constants=op.constants)


_HOLE = object()  # stands in a cache for h


def _swapped(cache, old, new):
    """The cache with `new` wherever `old` itself stood."""
    return tuple(new if a is old else a for a in cache) if isinstance(cache, tuple) else cache
