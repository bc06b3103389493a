"""The most that this machine's cores can do: the register tile, on numbers that stay in L1."""

import time

DEPTH = 128  # rows of the panel: with 48 columns it is half of an L1 cache
REPEAT = 4000  # tiles a task


def peak(tries: int = 7) -> float | None:
    """FLOP/s over all threads, the best of some tries; None without Numba's compiler."""
    from .. import fast as kernels

    if not kernels.compiled():
        return None
    from numba import prange

    from ..fast.jit import compiled, room
    from ..fast.threads import THREADS, settings
    from ..fast.tile import MR, NR, tile16, tile48

    if settings["DISABLE_JIT"]:
        return None
    tile = tile48 if NR == 48 else tile16

    @compiled(parallel=True)
    def run(a, b, c):
        for t in prange(len(a)):
            for _ in range(REPEAT):
                tile(a[t].T, 0, 0, b[t], 0, 0, c[t], 0, 0, DEPTH, MR, NR, True)

    shapes = (DEPTH, MR), (DEPTH, NR), (MR, NR)
    arrays = [room(THREADS * m, n).reshape(THREADS, m, n) for m, n in shapes]
    for array in arrays:
        array[:] = 0
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        run(*arrays)
        best = min(best, time.perf_counter() - start)
    return 2 * MR * NR * DEPTH * REPEAT * THREADS / best
