"""The table of kernels: what the ops call, and which twin answers.

Each name is defined by `numpy_ref` and has a fast twin, of the same name and signature, in one of
the Numba files. float32 runs on the Numba twin, every other dtype on the reference, a shape without
numbers on `shapes`. `MINILORA_KERNELS=numpy` chooses the reference for all, and so does a Python
without Numba. A Numba file is imported, and a kernel compiled, when it is first called, or where
`amx` is asked for.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable

import numpy as np

from ..support.meta import Meta
from . import heap, numpy_ref, shapes

HOMES = {  # kernel -> the file of its Numba twin
    "matmul_nt": "matmul",
    "matmul_nn": "matmul",
    "matmul_tn": "matmul",
    "adapted_nt": "matmul",
    "adapted_nn": "matmul",
    "add": "pointwise",
    "rmsnorm_forward": "pointwise",
    "rmsnorm_dx": "pointwise",
    "rmsnorm_dg": "pointwise",
    "rope": "pointwise",
    "swiglu_forward": "pointwise",
    "swiglu_backward": "pointwise",
    "feed_forward": "gated",
    "feed_forward_dx": "gated",
    "attention_forward": "attention",
    "attention_backward": "attention",
    "cross_entropy": "softmax",
    "adamw": "adam",
}


@functools.cache
def backend() -> str:
    """ "numba", "amx" or "numpy": MINILORA_KERNELS if it is set, else Numba if it is installed.

    "amx" is Numba with the large products on the matrix unit of the newer Intel processors.
    """
    asked = os.environ.get("MINILORA_KERNELS", "")
    if asked not in ("", "numba", "amx", "numpy"):
        raise ValueError(f"MINILORA_KERNELS: got {asked!r}, wanted 'numba', 'amx' or 'numpy'")
    installed = importlib.util.find_spec("numba") is not None
    if asked in ("numba", "amx") and not installed:
        raise ValueError(f"MINILORA_KERNELS={asked}, but Numba is not installed: pip install numba")
    if asked == "amx" and not has_unit():
        raise ValueError(
            "MINILORA_KERNELS=amx: no AMX in this processor, or not for this process, or no JIT"
        )
    return asked or ("numba" if installed else "numpy")


def has_unit() -> bool:
    """Is there a matrix unit for "amx", and Numba?"""
    if importlib.util.find_spec("numba") is None:
        return False
    return importlib.import_module(".amx", __name__).usable()


@functools.cache
def compiled() -> bool:
    """Do the Numba twins answer for float32?"""
    return backend() != "numpy"


@functools.cache
def fast(name: str) -> Callable:
    """The Numba twin of a kernel; importing its file also sets up the one thread pool."""
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)


def prepare_memory() -> None:
    """Set up the heap as the Numba kernels do at their first call, for who loads weights before."""
    if compiled():
        heap.set_up()


def _entry(name: str) -> Callable:
    reference = getattr(numpy_ref, name)

    @functools.wraps(reference)
    def kernel(first, *rest, **named):
        if isinstance(first, Meta):
            return getattr(shapes, name)(first, *rest, **named)
        chosen = fast(name) if first.dtype == np.float32 and compiled() else reference
        return chosen(first, *rest, **named)

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
feed_forward = _entry("feed_forward")
feed_forward_dx = _entry("feed_forward_dx")
attention_forward = _entry("attention_forward")
attention_backward = _entry("attention_backward")
cross_entropy = _entry("cross_entropy")
adamw = _entry("adamw")


def packed_bytes(W) -> int:
    """Bytes of W's copies in a kernel's own order that stay from call to call, for the ledger.

    W: a weight; of shape alone: what a step would leave. 0: every kernel packs a panel at a time
    and keeps none.
    """
    return 0
