"""How fast a model decodes, beside what this machine's memory allows.

A decoded token reads every weight once and computes little with it: at best its time is the bytes
of the weights over the bandwidth of reading.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..llama.model import EMBED, Llama


def token_bytes(model: Llama) -> int:
    """Bytes of weights that decoding a token reads: of an embedding that is not the head, none."""
    nbytes = sum(a.nbytes for a in model.params.values())
    tied = model.config.tie_word_embeddings
    return nbytes if tied else nbytes - model.params[EMBED].nbytes


def read_bandwidth(threads: int | None = None, nbytes: int = 1 << 28, times: int = 5) -> float:
    """Bytes a second of reading an array of nbytes, on all processors: the best of some times.

    What reads is np.max, which does not add to the time that memory takes. An array smaller than
    the largest cache, which servers share among many, may come from there and not from memory.
    """
    threads = threads or os.cpu_count() or 1
    parts = np.ones((threads, nbytes // 4 // threads), np.float32)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(times):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, parts.nbytes / (time.perf_counter() - start))
    return best


class Clock:
    """Called with each token: when it came.

    The first comes after the whole prompt, so it does not count.
    """

    def __init__(self):
        self.times: list[float] = []

    def __call__(self, token) -> None:
        self.times.append(time.perf_counter())

    def line(self, model: Llama, bandwidth: float) -> str:
        """Tokens a second of the decoding, and its share of the bandwidth (bytes a second).

        Raises ValueError for fewer than three tokens.
        """
        if len(self.times) < 3:
            raise ValueError(f"speed: {len(self.times)} tokens, wanted at least 3 to time them")
        seconds = float(np.median(np.diff(self.times)))
        nbytes = token_bytes(model)
        share = nbytes / seconds / bandwidth
        return (
            f"{1 / seconds:.1f} tokens a second (median of {len(self.times) - 1}); a token reads "
            f"{nbytes / 1e6:.0f} MB: {nbytes / seconds / 1e9:.1f} of {bandwidth / 1e9:.1f} GB/s "
            f"that memory gives, {share:.0%}"
        )
