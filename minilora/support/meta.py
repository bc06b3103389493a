"""Arrays with a shape and a dtype but no numbers: they count a step's bytes without using them.

A `Meta` is passed wherever an array is passed. The ops, the methods, the model and the engine run
on it unchanged; operators and the NumPy functions below return another Meta, and in place of
compiled kernels the functions of `fast/kernels.py` are used. Each Meta has a `Storage`, which adds
its bytes to a `Memory` when it is made, and subtracts them when Python frees it. So the count
follows the same references that keep real arrays alive.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple


class Memory:
    """A count of bytes: those held now, and the most so far."""

    def __init__(self):
        self.live = self.peak = 0

    def add(self, nbytes: int) -> None:
        """Count bytes that were allocated, or freed if the number is below 0."""
        self.live += nbytes
        self.peak = max(self.peak, self.live)


# the Memory that counts new storages; each thread has its own
_uncounted = Memory()
_memory: ContextVar[Memory] = ContextVar("minilora_memory", default=_uncounted)


@contextlib.contextmanager
def counting() -> Iterator[Memory]:
    """A new Memory, which counts the storages that are made in the with block."""
    token = _memory.set(memory := Memory())
    try:
        yield memory
    finally:
        _memory.reset(token)


class Storage:
    """The bytes behind one array and all its views."""

    __slots__ = ("__weakref__", "memory", "nbytes")

    def __init__(self, nbytes: int):
        self.nbytes, self.memory = nbytes, _memory.get()
        self.memory.add(nbytes)

    def __del__(self):
        self.memory.add(-self.nbytes)


class Meta(np.lib.mixins.NDArrayOperatorsMixin):
    """A shape, a dtype and a storage, which views share; form: see `form_of`."""

    __slots__ = ("dtype", "form", "shape", "storage")

    def __init__(self, shape, dtype=np.float32, storage: Storage | None = None, form: str = ""):
        sizes = (shape,) if isinstance(shape, int | np.integer) else shape
        self.shape: tuple[int, ...] = tuple(int(n) for n in sizes)
        self.dtype, self.form = np.dtype(dtype), form
        self.storage = Storage(self.size * self.dtype.itemsize) if storage is None else storage

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> "Meta":
        return self.transpose()

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"Meta(shape={self.shape}, dtype={self.dtype})"

    def _view(self, shape) -> "Meta":
        return Meta(shape, self.dtype, self.storage)

    def _pattern(self) -> np.ndarray:
        """A real array of this shape without memory; NumPy's rules give the shapes of results."""
        return np.broadcast_to(np.zeros((), bool), self.shape)

    def reshape(self, *shape) -> "Meta":
        """A view in another shape, as for a contiguous array. Raises ValueError if sizes differ."""
        shape = shape[0] if len(shape) == 1 else shape
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        known = math.prod(n for n in shape if n != -1)
        whole = tuple(self.size // known if n == -1 else n for n in shape)
        if math.prod(whole) != self.size:
            raise ValueError(f"cannot reshape {self.shape} into {shape}")
        return self._view(whole)

    def transpose(self, *axes) -> "Meta":
        """A view with its axes in another order."""
        return self._view(self._pattern().transpose(*axes).shape)

    def swapaxes(self, a, b) -> "Meta":
        """A view with two axes exchanged."""
        return self._view(self._pattern().swapaxes(a, b).shape)

    def repeat(self, times, axis) -> "Meta":
        """Each part repeated `times` times along an axis."""
        return Meta(self._pattern().repeat(times, axis).shape, self.dtype)

    def copy(self) -> "Meta":
        """The same shape and dtype with a new storage."""
        return Meta(self.shape, self.dtype)

    def astype(self, dtype, copy=True) -> "Meta":
        """A new storage, unless the dtype is the same and copy is False."""
        return self if not copy and np.dtype(dtype) == self.dtype else Meta(self.shape, dtype)

    def sum(self, axis=None, keepdims=False) -> "Meta":
        """Σ over axes."""
        axes = normalize_axis_tuple(range(self.ndim) if axis is None else axis, self.ndim)
        every = [(1 if i in axes else n, i) for i, n in enumerate(self.shape)]
        return Meta([n for n, i in every if keepdims or i not in axes], self.dtype)

    mean = max = sum

    def __getitem__(self, key) -> "Meta":
        if isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu":
            return Meta((len(key), *self.shape[1:]), self.dtype)
        shape = self._pattern()[key].shape
        keys = key if isinstance(key, tuple) else (key,)
        basic = all(isinstance(k, int | slice | type(None) | type(...)) for k in keys)
        return self._view(shape) if basic else Meta(shape, self.dtype)

    def __setitem__(self, key, value):
        """There are no numbers to set."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:
            return out[0]
        if method == "at":
            return None
        if method != "__call__":
            raise TypeError(f"np.{ufunc.__name__}.{method} needs an array with numbers")
        combined = _matmul_shape if ufunc is np.matmul else np.broadcast_shapes
        shape = combined(*(np.shape(a) for a in inputs))
        return Meta(shape, bool if ufunc in COMPARISONS else np.result_type(*map(_kind, inputs)))

    def __array_function__(self, function, types, args, kwargs):
        if function not in FUNCTIONS:
            raise TypeError(f"np.{function.__name__} needs an array with numbers")
        return FUNCTIONS[function](*args, **kwargs)


COMPARISONS = {
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    np.isfinite,
}


def filled(like, shape, numbers: Callable[[], Any]):
    """An array of this shape and the dtype of `like`, a weight in any form, that holds numbers().

    If `like` is a Meta, the result is a Meta and numbers is not called.
    """
    if isinstance(like, Meta):
        Meta(shape, like.dtype)  # counts what numbers() would return, a temporary array
        return Meta(shape, like.dtype)
    array = np.empty(shape, like.dtype)
    array[...] = numbers()
    return array


def is_array(a) -> bool:
    """Is it an array: a real one or a Meta?"""
    return isinstance(a, np.ndarray | Meta)


def dense(weight) -> Any:
    """The numbers of a frozen weight in any form, as an array. An array or a Meta stays as it is.

    A frozen weight has `shape`, `dtype`, `T`, `@`, `nbytes`, and its numbers by `np.asarray`.
    """
    return weight if is_array(weight) else np.asarray(weight)


def form_of(weight) -> str:
    """The form of a frozen weight by name: "nf4"; "" for an array."""
    return getattr(weight, "form", "" if is_array(weight) else type(weight).__name__)


def shape_alone(weight) -> Meta:
    """A weight of any form as a Meta, with the weight's bytes and its form's name."""
    return Meta(weight.shape, weight.dtype, Storage(weight.nbytes), form_of(weight))


def arrays_in(cache) -> list:
    """The arrays of a cache, which is one array or nested tuples."""
    if is_array(cache):
        return [cache]
    return [a for part in cache for a in arrays_in(part)] if isinstance(cache, tuple | list) else []


def _kind(a):
    return a if isinstance(a, bool | int | float) else a.dtype


def _matmul_shape(a, b):
    """A vector on the left is a row, on the right a column; the axis of 1 is dropped at the end."""
    if len(a) == 1:
        return (*b[:-2], *b[-1:]) if len(b) > 1 else ()
    if len(b) == 1:
        return a[:-1]
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


def _like(a, *_, dtype=None, shape=None, **__):
    return Meta(a.shape if shape is None else shape, a.dtype if dtype is None else dtype)


def _concatenate(arrays, axis=0, **_):
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    return Meta(shape, arrays[0].dtype)


FUNCTIONS: dict[Callable, Callable] = {
    np.empty_like: _like,
    np.zeros_like: _like,
    np.ones_like: _like,
    np.full_like: _like,
    np.copy: lambda a, **_: a.copy(),
    np.concatenate: _concatenate,
    np.shape: lambda a: a.shape,
    np.sum: lambda a, axis=None, keepdims=False, **_: a.sum(axis, keepdims),
    np.broadcast_to: lambda a, shape, **_: a._view(shape),
    np.expand_dims: lambda a, axis: a._view(np.expand_dims(a._pattern(), axis).shape),
    np.ascontiguousarray: lambda a, **_: a,
    np.split: lambda a, n, axis=0: [a._view(p.shape) for p in np.split(a._pattern(), n, axis)],
}
