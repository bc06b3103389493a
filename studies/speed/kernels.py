"""Each kernel beside NumPy and torch."""

from typing import Any

from minilora.bench import kernels, turns, work
from minilora.bench.turns import Side
from minilora.support.terminal import bar

from .sides import TORCH, Settings

WIDTHS = (64, 128, 256, 384, 576, 1024, 1536)
RANKS = (1, 4, 8, 16, 64, 256)
PRODUCTS: list[tuple[str, tuple[int, int, int]]] = [  # a kernel, M, K, N
    *(("matmul_nt", (1024, width, width)) for width in WIDTHS),
    *(("matmul_nt", (rows, 576, 576)) for rows in (16, 256, 4096)),
    ("matmul_nn", (1024, 576, 576)),
    ("matmul_tn", (1024, 576, 576)),
    ("matmul_nt", (256, 576, 1536)),
    ("matmul_nt", (256, 1536, 576)),
    *(("matmul_nt", (2048, 576, rank)) for rank in RANKS),  # z = x Aᵀ
    *(("matmul_nn", (2048, rank, 576)) for rank in RANKS),  # dx = dz A
    *(("matmul_tn", (2048, rank, 576)) for rank in RANKS),  # dA = dzᵀ x
]


def compared(settings: Settings) -> dict[str, Any]:
    """Time each kernel and shape here, in NumPy and, for products, in torch where it is installed.

    The sides of one kernel take turns before the next one.
    """
    torch = [Side(TORCH, settings.threads, settings.python)] if settings.has_torch() else []
    records: list[dict[str, Any]] = []
    with turns.together(*kernels.both(settings.threads), *torch) as sides:
        limits = kernels.limits(sides)
        without = {name: side for name, side in sides.items() if name != TORCH}
        for name, sizes in bar(iterable=[*PRODUCTS, *work.FUSED], desc="kernels", disable=None):
            among = sides if name.startswith("matmul") else without
            records += kernels.compared(among, [(name, sizes)], settings, timed)
    return {**limits, "kernels": records, "mean": kernels.geometric_mean(records)}


def timed(side: str, chosen: kernels.Chosen, seconds: float) -> list[turns.Times]:
    """The times of kernels on one side, torch's too: see `minilora.bench.kernels.timed`."""
    if side != TORCH:
        return kernels.timed(side, chosen, seconds)
    from .theirs import tensors

    return kernels.timed(side, chosen, seconds, tensors)
