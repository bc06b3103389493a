"""Where the memory goes, in bytes: one step is run, and what it holds is read off the tape."""

from collections.abc import Iterable

import numpy as np

from .adapters import Tuned
from .engine import Node, backward, tape


def measure(tuned: Tuned, batch_size: int, seq_len: int, seed: int = 0) -> dict[str, int]:
    """Bytes by category, from one forward and backward pass over random tokens (batch_size, seq_len), all counting.

    weights: frozen + trainable + shared + copies that the method owns; gradients: of the trainable arrays;
    optimizer: AdamW's two moments; activations: every array in a cache of the tape when backward starts, once a storage
    (parameters and rope tables are not activations).
    """
    rng = np.random.default_rng(seed)
    ids, targets = rng.integers(0, tuned.config.vocab_size, (2, batch_size, seq_len))
    leaves = tuned.leaves()
    loss = tuned.loss(ids, targets, leaves=leaves, key=(tuned.seed, 1, 0))
    held = saved_bytes(tape(loss), besides=[*weight_arrays(tuned), *tuned.base.rope_tables(0, seq_len)])
    backward(loss)
    gradients = sum(leaf.grad.nbytes for leaf in leaves.values() if leaf.grad is not None)
    return {
        "weights": sum(storages(weight_arrays(tuned)).values()),
        "gradients": gradients,
        "optimizer": 2 * sum(a.nbytes for a in tuned.trainable.values()),
        "activations": held,
    }


def weight_arrays(tuned: Tuned) -> list[np.ndarray]:
    """Every array that is held whether or not a step runs."""
    own = [a for arguments in tuned.layers.values() for a in arguments.values() if isinstance(a, np.ndarray)]
    frozen = [] if tuned.record.whole_model else list(tuned.base.params.values())
    return [*frozen, *tuned.weights.values(), *tuned.shared.values(), *own]


def saved_bytes(nodes: Iterable[Node], besides: Iterable[np.ndarray] = ()) -> int:
    """Bytes of all arrays in the nodes' caches, once a storage, without the storages of `besides`."""
    known = storages(besides)
    saved = storages(a for node in nodes for a in arrays_in(node.cache))
    return sum(size for place, size in saved.items() if place not in known)


def storages(arrays: Iterable[np.ndarray]) -> dict[int, int]:
    """Address -> bytes of the root storages behind the arrays: a view, however small, keeps all of its root alive."""
    found = {}
    for a in arrays:
        while isinstance(a.base, np.ndarray):
            a = a.base
        found[a.__array_interface__["data"][0]] = a.nbytes
    return found


def arrays_in(cache) -> list[np.ndarray]:
    """The arrays of a cache: of one array, or of nested tuples."""
    if isinstance(cache, np.ndarray):
        return [cache]
    return [a for part in cache for a in arrays_in(part)] if isinstance(cache, tuple | list) else []
