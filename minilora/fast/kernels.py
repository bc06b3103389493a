"""The kernels: each one's Numba file, and what it allocates and returns for arrays of shape alone.

A kernel takes float32 arrays. It allocates what it returns, except where an argument is documented
as written to: `add_to`, `out`, and AdamW's p, m, v. A Numba file is imported, and its code compiled
or read from the disk, when one of its kernels is first called.
"""

import functools
import importlib
from collections.abc import Callable

from ..support.meta import Meta
from . import clock, shapes

TABLE: dict[str, tuple[str, Callable]] = {  # kernel: the file of its Numba code, its shapes
    "matmul_nt": ("matmul", shapes.matmul_nt),
    "matmul_nn": ("matmul", shapes.matmul_nn),
    "matmul_tn": ("matmul", shapes.matmul_tn),
    "adapted_nt": ("matmul", shapes.adapted_nt),
    "adapted_nn": ("matmul", shapes.adapted_nn),
    "add": ("pointwise", shapes.add),
    "rmsnorm_forward": ("pointwise", shapes.rmsnorm_forward),
    "rmsnorm_dx": ("pointwise", shapes.rmsnorm_dx),
    "rmsnorm_dg": ("pointwise", shapes.rmsnorm_dg),
    "rope": ("pointwise", shapes.rope),
    "swiglu_forward": ("pointwise", shapes.swiglu_forward),
    "swiglu_backward": ("pointwise", shapes.swiglu_backward),
    "embedding_dE": ("pointwise", shapes.embedding_dE),
    "feed_forward": ("gated", shapes.feed_forward),
    "feed_forward_dx": ("gated", shapes.feed_forward_dx),
    "attention_forward": ("attention", shapes.attention_forward),
    "attention_backward": ("attention", shapes.attention_backward),
    "cross_entropy": ("softmax", shapes.cross_entropy),
    "adamw": ("adam", shapes.adamw),
}


@functools.cache
def compiled(name: str) -> Callable:
    """A kernel's Numba code; importing its file also sets up the one pool of threads."""
    with clock.running():
        _compile_missing()
        return getattr(importlib.import_module(f".{TABLE[name][0]}", __package__), name)


@functools.cache
def _compile_missing() -> None:
    importlib.import_module(".build", __package__).compile_missing()


def _entry(name: str) -> Callable:
    on_shapes, code = TABLE[name][1], None

    @functools.wraps(on_shapes)
    def kernel(*given, **named):
        nonlocal code
        if type(given[0]) is Meta:
            return on_shapes(*given, **named)
        code = code or compiled(name)
        return code(*given, **named)

    return kernel


matmul_nt = _entry("matmul_nt")
matmul_nn = _entry("matmul_nn")
matmul_tn = _entry("matmul_tn")
adapted_nt = _entry("adapted_nt")
adapted_nn = _entry("adapted_nn")
add = _entry("add")
rmsnorm_forward = _entry("rmsnorm_forward")
rmsnorm_dx = _entry("rmsnorm_dx")
rmsnorm_dg = _entry("rmsnorm_dg")
rope = _entry("rope")
swiglu_forward = _entry("swiglu_forward")
swiglu_backward = _entry("swiglu_backward")
embedding_dE = _entry("embedding_dE")
feed_forward = _entry("feed_forward")
feed_forward_dx = _entry("feed_forward_dx")
attention_forward = _entry("attention_forward")
attention_backward = _entry("attention_backward")
cross_entropy = _entry("cross_entropy")
adamw = _entry("adamw")
