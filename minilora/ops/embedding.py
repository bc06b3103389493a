"""The token embedding: a row of the table for each id."""

import numpy as np

from ..engine import Op


def embedding_forward(E, ids):
    """x = E[ids].   E (V, C), ids (M,) ints  ->  x (M, C)."""
    return E[ids], (ids, E.shape)


def embedding_backward(dx, cache):
    """dx (M, C) -> dE (V, C), None: rows of dx with the same id are added."""
    ids, shape = cache
    dE = np.zeros_like(dx, shape=shape)
    np.add.at(dE, ids, dx)  # x = E[ids]
    return dE, None


embedding = Op("embedding", embedding_forward, embedding_backward, saves=("ids", "shape"))
