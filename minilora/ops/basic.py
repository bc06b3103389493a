"""Elementary ops with broadcasting. Any technique can be written a second time with them, and the
engine differentiates it.

Each op is a pair. Its cache holds only what backward reads. The operators + - * / @ ** and .T of
Tensor are bound at the end of the file.
"""

import math
from typing import Any

import numpy as np

from ..engine import Op, Tensor


def unbroadcast(grad, shape):
    """Undo broadcasting: sum a gradient over the axes along which an operand of this shape was
    repeated.
    """
    extra = grad.ndim - len(shape)
    repeated = tuple(
        i for i in range(grad.ndim) if i < extra or (shape[i - extra] == 1 and grad.shape[i] != 1)
    )
    return grad.sum(axis=repeated, keepdims=True).reshape(shape) if repeated else grad


def add_forward(a, b):
    """a + b, broadcast."""
    return a + b, (np.shape(a), np.shape(b))


def add_backward(dy, cache, need=(True, True)):
    """da = dy, db = dy, each summed over its repeated axes."""
    a_shape, b_shape = cache
    return (
        unbroadcast(dy, a_shape) if need[0] else None,  # y = a + b
        unbroadcast(dy, b_shape) if need[1] else None,  # y = a + b
    )


def mul_forward(a, b):
    """a · b, element by element, broadcast."""
    return a * b, (a, b)


def mul_backward(dy, cache, need=(True, True)):
    """da = dy·b, db = dy·a."""
    a, b = cache
    return (
        unbroadcast(dy * b, np.shape(a)) if need[0] else None,  # y = a b
        unbroadcast(dy * a, np.shape(b)) if need[1] else None,  # y = a b
    )


def matmul_forward(a, b):
    """a b: (…, M, K), (…, K, N) -> (…, M, N), leading axes broadcast."""
    return a @ b, (a, b)


def matmul_backward(dy, cache, need=(True, True)):
    """da = dy bᵀ, db = aᵀ dy."""
    a, b = cache
    return (
        unbroadcast(dy @ b.swapaxes(-1, -2), a.shape) if need[0] else None,  # y = a b
        unbroadcast(a.swapaxes(-1, -2) @ dy, b.shape) if need[1] else None,  # y = a b
    )


def power_forward(a, exponent):
    """aⁿ for a constant n."""
    return a**exponent, (a, exponent)


def power_backward(dy, cache, need=(True, False)):
    """da = dy · n aⁿ⁻¹. Raises ValueError where n trains."""
    if need[1]:
        raise ValueError("power: the exponent trains, wanted a constant; exp(n ln a) trains both")
    a, exponent = cache
    return dy * (exponent * a ** (exponent - 1)), None  # y = a**exponent


def exp_forward(a):
    """eᵃ."""
    y = np.exp(a)
    return y, y


def exp_backward(dy, y):
    """da = dy · eᵃ."""
    return (dy * y,)  # y = exp(a)


def log_forward(a):
    """ln a."""
    return np.log(a), a


def log_backward(dy, a):
    """da = dy / a."""
    return (dy / a,)  # y = log(a)


def tanh_forward(a):
    """tanh a."""
    y = np.tanh(a)
    return y, y


def tanh_backward(dy, y):
    """da = dy (1 - tanh²a)."""
    return (dy * (1 - y * y),)  # y = tanh(a)


def sum_forward(a, axis=None, keepdims=False):
    """Σ a over the axes (None: all)."""
    return np.sum(a, axis=axis, keepdims=keepdims), (a.shape, axis, keepdims)


def sum_backward(dy, cache):
    """da = dy, repeated over the axes that were summed."""
    shape, axis, keepdims = cache
    if axis is not None and not keepdims:
        dy = np.expand_dims(dy, axis)
    return np.broadcast_to(dy, shape), None, None  # y = sum(a, axis, keepdims)


def mean(a, axis=None, keepdims=False) -> Tensor:
    """The mean over the axes (None: all), as a sum times a constant."""
    total = sum(a, axis, keepdims)
    return mul(total, math.prod(total.shape) / math.prod(a.shape))


def reshape_forward(a, shape):
    """The same numbers in another shape."""
    return a.reshape(shape), a.shape


def reshape_backward(dy, shape):
    """da = dy in the shape of a."""
    return dy.reshape(shape), None  # y = a.reshape(shape)


def transpose_forward(a, axes=None):
    """a with its axes in this order (None: reversed)."""
    return a.transpose(axes), axes


def transpose_backward(dy, axes):
    """da = dy with its axes in the order of a."""
    return dy.transpose(None if axes is None else np.argsort(axes)), None  # y = a.transpose(axes)


def index_forward(a, key):
    """a[key], for any key that NumPy takes."""
    return a[key], (a.shape, key)


def index_backward(dy, cache):
    """da = dy, added at the positions that were read; one that was read twice gets both."""
    shape, key = cache
    da = np.zeros_like(dy, shape=shape)
    np.add.at(da, key, dy)  # y = a[key]
    return da, None


def concat_forward(a, b, axis):
    """a and b joined along an axis."""
    return np.concatenate([a, b], axis), (a.shape[axis], axis)


def concat_backward(dy, cache):
    """da, db = dy, split where b begins."""
    seam, axis = cache
    da, db = np.split(dy, [seam], axis)  # y = concatenate([a, b], axis)
    return da, db, None


def maximum_forward(a, b):
    """The larger of a and b, element by element, broadcast."""
    return np.maximum(a, b), (a >= b, np.shape(a), np.shape(b))


def maximum_backward(dy, cache):
    """dy goes to the larger of a and b; if they are equal, to a."""
    first, a_shape, b_shape = cache
    return unbroadcast(dy * first, a_shape), unbroadcast(dy * ~first, b_shape)  # y = maximum(a, b)


add = Op("add", add_forward, add_backward, saves=("a_shape", "b_shape"))
mul = Op("mul", mul_forward, mul_backward, saves=("a", "b"))
matmul = Op("matmul", matmul_forward, matmul_backward, saves=("a", "b"))
power = Op("power", power_forward, power_backward, saves=("a", "exponent"))
exp = Op("exp", exp_forward, exp_backward, saves=("y",))
log = Op("log", log_forward, log_backward, saves=("a",))
tanh = Op("tanh", tanh_forward, tanh_backward, saves=("y",))
sum = Op("sum", sum_forward, sum_backward, saves=("shape", "axis", "keepdims"))
reshape = Op("reshape", reshape_forward, reshape_backward, saves=("shape",))
transpose = Op("transpose", transpose_forward, transpose_backward, saves=("axes",))
index = Op("index", index_forward, index_backward, saves=("shape", "key"))
concat = Op("concat", concat_forward, concat_backward, saves=("seam", "axis"))
maximum = Op("maximum", maximum_forward, maximum_backward, saves=("first", "a_shape", "b_shape"))


def _bind_operators() -> None:
    """Give Tensor NumPy's operators: here, because the engine contains no mathematics."""
    operators: dict[str, Any] = {
        "__add__": add,
        "__radd__": lambda self, other: add(other, self),
        "__sub__": lambda self, other: add(self, mul(other, -1)),
        "__rsub__": lambda self, other: add(other, mul(self, -1)),
        "__neg__": lambda self: mul(self, -1),
        "__mul__": mul,
        "__rmul__": lambda self, other: mul(other, self),
        "__truediv__": lambda self, other: mul(self, other**-1.0),
        "__rtruediv__": lambda self, other: mul(other, power(self, -1.0)),
        "__pow__": power,
        "__matmul__": matmul,
        "__rmatmul__": lambda self, other: matmul(other, self),
        "__getitem__": index,
        "T": property(transpose),
    }
    for name, op in operators.items():
        setattr(Tensor, name, _method(op) if isinstance(op, Op) else op)


def _method(op):
    """A plain function that calls the op, because Python makes methods only of functions."""
    return lambda *args: op(*args)


_bind_operators()
