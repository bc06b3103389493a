"""A frozen matrix in fewer bits. A `Packed` can be passed as W wherever an array can.

The pages treat both alike: `x @ W.T` and `dy @ W` unpack one block of rows at a time, use it and
free it. A twin unpacks panels inside its product. A cache keeps the Packed itself.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

BLOCK = 1 << 20  # numbers that are unpacked at a time (4 MB); at least one row


class Form(Protocol):
    """How the numbers of a matrix are stored."""

    @property
    def name(self) -> str:
        """The name by which a twin finds it, such as "nf4" or "Q8_0"."""

    def rows(self, parts: tuple, shape: tuple[int, ...], rows: slice | np.ndarray) -> np.ndarray:
        """These rows in float32.   rows: a slice with both ends, or indices."""

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes of all parts of a matrix of this shape."""


class Packed:
    """A matrix (O, I) as arrays of codes and scales, which cannot be written to.

    np.asarray gives its numbers, and W[2:5] or W[ids] those of some rows.
    """

    __slots__ = ("across", "kind", "parts", "sizes")
    __array_ufunc__ = None  # array @ packed calls __rmatmul__ here
    dtype = np.dtype(np.float32)  # of its numbers

    def __init__(self, kind: Form, shape: tuple[int, ...], parts, across: bool = False):
        self.kind, self.sizes, self.across = kind, tuple(shape), across
        self.parts = tuple(a.view() for a in parts)
        for a in self.parts:
            a.flags.writeable = False

    @property
    def form(self) -> str:
        """The name of its form."""
        return self.kind.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sizes[::-1] if self.across else self.sizes

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(a.nbytes for a in self.parts)

    @property
    def T(self) -> "Packed":
        return Packed(self.kind, self.sizes, self.parts, not self.across)

    def __len__(self):
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Packed({self.form}, shape={self.shape}, nbytes={self.nbytes})"

    def __getitem__(self, rows) -> np.ndarray:
        if isinstance(rows, slice):
            rows = slice(*rows.indices(self.sizes[0])[:2])
        return self.kind.rows(self.parts, self.sizes, rows)

    def __rmatmul__(self, x):
        """x Wᵀ, written x @ W.T, or x W."""
        if not self.across:
            return functools.reduce(np.add, (x[..., rows] @ W for rows, W in blocks_of(self)))
        y = np.empty((*x.shape[:-1], self.sizes[0]), np.result_type(x, self.dtype))
        for rows, W in blocks_of(self.T):
            y[..., rows] = x @ W.T
        return y

    def __array__(self, dtype=None, copy=None):
        W = self[:].astype(dtype or self.dtype, copy=False)
        return W.T if self.across else W


def blocks_of(W: Any, multiple: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, their numbers in float32) of an array or a Packed, a block of rows at a time.

    multiple: each block except the last has a multiple of this many rows.
    """
    size = max(1, math.prod(W.shape[1:])) * multiple
    step = max(1, BLOCK // size) * multiple
    for start in range(0, len(W), step):
        rows = slice(start, min(start + step, len(W)))
        yield rows, np.asarray(W[rows], np.float32)
