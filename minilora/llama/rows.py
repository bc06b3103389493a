"""The rows that a forward pass computes: a row is one position of one sequence.

In a causal model a position after a sequence's last counted target changes neither the loss nor a
gradient, so it is not computed. In the last layer only keys and values need the positions before
the first counted target. Rows lie sequence after sequence, without padding.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import ops
from ..engine import Tensor
from ..ops.loss import IGNORED

Tables = tuple[Any, Any]  # cos and sin (T, D/2) of the positions 0 … T - 1


@dataclass(frozen=True)
class Rows:
    """Some positions of each sequence, and the keys that they see."""

    places: np.ndarray  # (M,): the position of each row in its sequence
    keys: np.ndarray  # (M,): the row of its own key among the keys
    spans: np.ndarray  # (N, 4): where a sequence's rows begin and end, where its keys begin and end
    angles: Tables  # cos and sin (M, D/2) of each row
    batch: np.ndarray | None = None  # (M,): which row of the batch (N·T) it is; None: all, in order
    among: np.ndarray | None = None  # (M,): which row of the layers before it is; None: all

    def of(self, x: Tensor) -> Tensor:
        """These rows of x, which has the rows of the layers before.   (·, C) -> (M, C)."""
        return x if self.among is None else ops.take(x, self.among)


def _layout(begin, end, keys):
    """places, keys and spans of the positions begin … end - 1 of each sequence."""
    stop = np.cumsum(end - begin)
    start = stop - end + begin
    places = np.arange(stop[-1]) - np.repeat(start - begin, end - begin)
    own = places + np.repeat(keys, end - begin)
    return places, own, np.stack([start, stop, keys, keys + end], axis=1)


def rows_of(begin: np.ndarray, end: np.ndarray, keys: np.ndarray, tables: Tables) -> Rows:
    """The positions begin … end - 1 of each sequence, whose keys lie from the row `keys` on.

    begin, end, keys (N,) ints. Position 0 of a sequence has its key in the row `keys`.
    """
    places, own, spans = _layout(begin, end, keys)
    one = slice(begin[0], end[0]) if len(end) == 1 else places  # one sequence needs no copy
    return Rows(places, own, spans, (tables[0][one], tables[1][one]))


def rest_of(every: Rows, begin: np.ndarray) -> Rows:
    """Of each sequence the rows from the position `begin` (N,) on; `every` itself where these are
    all.
    """
    start, stop, keys, keys_end = every.spans.T
    end = keys_end - keys
    had = end - stop + start  # the position of each sequence's first row
    if np.array_equal(begin, had):
        return every
    places, own, spans = _layout(begin, end, keys)
    among = places + np.repeat(start - had, end - begin)
    cos, sin = every.angles
    batch = among if every.batch is None else every.batch[among]
    return Rows(places, own, spans, (cos[among], sin[among]), batch, among)


def all_rows(N: int, T: int, tables: Tables) -> Rows:
    """Every position of N sequences of length T."""
    return rows_of(np.zeros(N, int), np.full(N, T), np.arange(N) * T, tables)


def last_targets(targets: np.ndarray) -> np.ndarray:
    """For each sequence the number of positions up to its last counted target.  (N, T) -> (N,)."""
    counts = targets != IGNORED
    return np.where(counts.any(axis=1), counts.shape[1] - counts[:, ::-1].argmax(axis=1), 0)


def needed_rows(targets: np.ndarray, tables: Tables) -> tuple[Rows, Rows]:
    """What a loss needs: the rows of all layers, and the rows of the last layer's queries and rest.

    targets (N, T) ints. The first go up to each sequence's last counted target, the second from its
    first counted target to the last. A sequence without one has no row; where no target counts at
    all, one row stays, so that no array is empty.
    """
    N, T = targets.shape
    end = last_targets(targets)
    if not end.any():
        end[0] = 1
    has = np.flatnonzero(end)
    end, first = end[has], (targets[has] != IGNORED).argmax(axis=1)
    every = rows_of(np.zeros_like(end), end, np.cumsum(end) - end, tables)
    if len(every.places) < N * T:
        every = replace(every, batch=np.repeat(has * T, end) + every.places)
    return every, rest_of(every, first)
