"""The rows that a forward pass computes: a row is one position of one sequence.

In a causal model a position after a sequence's last counted target changes neither the loss nor a
gradient, so it is not computed. In the last layer only keys and values need the positions before
the first counted target. Rows lie sequence after sequence, without padding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..engine import Tensor
from ..ops.loss import IGNORED

Tables = tuple[Any, Any]  # cos and sin (T, D/2) of the positions 0 … T - 1


@dataclass(frozen=True)
class Rows:
    """Some positions of each sequence, and the keys that they see."""

    spans: np.ndarray  # (N, 4): of each sequence: rows begin, rows end, keys begin, keys end
    angles: Tables  # cos and sin (M, D/2) of each row
    batch: np.ndarray | None = None  # (M,): which row of the batch (N·T) it is; None: all, in order
    among: np.ndarray | None = None  # (M,): which row of the earlier layers it is; None: all
    keys: np.ndarray | None = None  # (M,): where a KV cache stores its key; None without a cache

    def of(self, x: Tensor) -> Tensor:
        """These rows of x; x has the rows of the earlier layers.   (·, C) -> (M, C)."""
        return x if self.among is None else ops.take(x, self.among)


def all_rows(N: int, T: int, tables: Tables) -> Rows:
    """Every position of N sequences of length T."""
    begin = np.arange(N) * T
    angles = tables if N == 1 else _angles(tables, np.tile(np.arange(T), N))
    return Rows(_spans(begin, begin + T, begin, begin + T), angles)


def next_rows(begin: np.ndarray, end: np.ndarray, keys: np.ndarray, tables: Tables) -> Rows:
    """With a KV cache: the positions begin … end - 1 of each sequence.

    begin, end, keys (N,) ints; the cache stores position 0 of a sequence in the row `keys`.
    """
    n = end - begin
    stop = np.cumsum(n)
    places = np.arange(stop[-1]) - np.repeat(stop - n - begin, n)
    spans = _spans(stop - n, stop, keys, keys + end)
    return Rows(spans, _angles(tables, places), keys=places + np.repeat(keys, n))


def last_rows(every: Rows) -> Rows:
    """The last row of each sequence, whose logits choose the next token."""
    start, stop, keys, end = every.spans.T
    if len(start) == stop[-1]:
        return every
    n, last = np.arange(len(start)), stop - 1
    return Rows(_spans(n, n + 1, keys, end), _angles(every.angles, last), among=last)


def needed_rows(targets: np.ndarray, tables: Tables) -> tuple[Rows, Rows]:
    """The rows that a loss needs: those of all layers, and those of the last layer's queries.

    targets (N, T) ints. The rows of all layers end at each sequence's last counted target. The last
    layer's also begin at its first counted target. A sequence without a counted target has no row.
    If no target counts at all, one row is kept, so that no array is empty.
    """
    (N, T), end = targets.shape, last_targets(targets)
    first = (targets != IGNORED).argmax(axis=1)  # 0 in a sequence without one
    if not end.any():
        end[0] = 1
    has, stop = end > 0, np.cumsum(end)
    if stop[-1] == N * T and not first.any():
        every = all_rows(N, T, tables)
        return every, every
    place = np.arange(T)
    kept = (place < end[:, None]).ravel()
    batch = kept.nonzero()[0]
    spans = _spans(stop - end, stop, stop - end, stop)[has]
    every = Rows(spans, _angles(tables, batch % T), batch)
    if not first.any():
        return every, every
    among = (place >= first[:, None]).ravel()[batch].nonzero()[0]
    queries = np.cumsum(end - first)
    spans = _spans(queries - end + first, queries, stop - end, stop)[has]
    return every, Rows(spans, _angles(every.angles, among), batch[among], among)


def last_targets(targets: np.ndarray) -> np.ndarray:
    """For each sequence the number of positions up to its last counted target.  (N, T) -> (N,)."""
    counts = targets != IGNORED
    return np.where(counts.any(axis=1), counts.shape[1] - counts[:, ::-1].argmax(axis=1), 0)


def _angles(tables, places):
    return tables[0][places], tables[1][places]


def _spans(*columns):
    """(N, 4) int64 of four columns (N,)."""
    spans = np.empty((len(columns[0]), 4), np.int64)
    for i, column in enumerate(columns):
        spans[:, i] = column
    return spans
