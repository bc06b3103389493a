"""Select rows of an array. The other rows are not needed afterwards."""

import numpy as np

from ..engine import Op


def take_forward(x, rows):
    """y = x[rows].   x (M, C), rows (R,) distinct ints  ->  y (R, C)."""
    return x[rows], (rows, x.shape)


def take_backward(dy, cache):
    """dy (R, C) -> dx (M, C), None: the rows that were not taken get 0."""
    rows, shape = cache
    dx = np.zeros_like(dy, shape=shape)
    dx[rows] = dy  # y = x[rows]
    return dx, None


take = Op("take", take_forward, take_backward, saves=("rows", "shape"))
