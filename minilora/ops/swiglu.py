"""The gated feed-forward's middle (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

import functools

from .. import kernels as K
from ..engine import Op, Tensor


def swiglu_forward(gate, up):
    """h = silu(gate) · up, silu(z) = z σ(z).   gate, up (M, F)  ->  h (M, F)."""
    return K.swiglu_forward(gate, up), (gate, up)  # h can be had again from these


def swiglu_backward(dh, cache):
    """dh (M, F) -> dgate, dup (M, F)."""
    return K.swiglu_backward(dh, *cache)


swiglu = Op("swiglu", swiglu_forward, swiglu_backward)


def remaking(op: Op, h: Tensor) -> Op:
    """op without h = silu(gate) · up in its cache: backward makes h again, to the same bits.

    op itself where h is not swiglu's on the tape, which keeps gate and up in any case.
    """
    node = h.node
    if node is None or node.op is not swiglu:
        return op

    @functools.wraps(op.forward)
    def forward(*args):
        y, cache = op.forward(*args)
        return y, _swapped(cache, args[0], _HOLE)

    @functools.wraps(op.backward)
    def backward(dy, cache, *need):
        # the node that made h is an ancestor of this one, so its gate and up are there still
        holes = isinstance(cache, tuple) and any(part is _HOLE for part in cache)
        again = swiglu.forward(*node.cache)[0] if holes else None
        return op.backward(dy, _swapped(cache, _HOLE, again), *need)

    return Op(op.name, forward, backward)


_HOLE = object()  # stands in a cache for h


def _swapped(cache, old, new):
    """The cache with `new` wherever `old` itself stood."""
    return tuple(new if a is old else a for a in cache) if isinstance(cache, tuple) else cache
