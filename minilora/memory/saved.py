"""The arrays that the tape keeps for backward, each storage once: its part, its op, its name."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Node
from ..support.meta import Meta, arrays_in


@dataclass(frozen=True)
class Saved:
    """One storage that the tape keeps for backward."""

    where: str  # the part of the model: "model.layers.0.self_attn.q_proj"
    op: str  # the op that keeps it
    what: str  # its name in the op's forward: "x", "z", "gate"
    shape: tuple[int, ...]
    nbytes: int  # of the whole storage
    shared_with: tuple[str, ...]  # other places that keep the same storage


def saved_arrays(nodes: Iterable[Node], besides: Iterable[np.ndarray] = ()) -> list[Saved]:
    """Every storage in the nodes' caches, once, in the order of the forward pass.

    besides: arrays whose storages are left out.
    """
    known = storages(besides)
    holders: dict[int, list[tuple[str, str]]] = {}
    first: dict[int, tuple] = {}
    for node in nodes:
        for op, what, a in named_arrays(node):
            place, nbytes = storage(a)
            if place not in known:
                holders.setdefault(place, []).append((node.name, op))
                first.setdefault(place, (what, tuple(a.shape), nbytes))
    rows = []
    for place, (what, shape, nbytes) in first.items():
        (where, op), *others = holders[place]
        shared_with = tuple(f"{name} ({kept_by})" for name, kept_by in others)
        rows.append(Saved(where, op, what, shape, nbytes, shared_with))
    return rows


def named_arrays(node: Node) -> Iterator[tuple[str, str, Any]]:
    """(op, name, array) for each array in a node's cache that is an activation."""
    if node.op is None:  # a leaf
        return
    parts = node.cache if isinstance(node.cache, tuple) else (node.cache,)
    names = node.op.saves
    for i, part in enumerate(parts):
        name = names[i] if i < len(names) else f"saved {i}"
        if name not in node.op.constants:
            for a in arrays_in(part):
                yield node.op.name, name, a


def storage(a) -> tuple[int, int]:
    """(address, bytes) of an array's root storage. Even a small view keeps all of it alive."""
    if isinstance(a, Meta):
        return id(a.storage), a.storage.nbytes
    a = root(a)
    return a.__array_interface__["data"][0], a.nbytes


def root(a: np.ndarray) -> np.ndarray:
    """The array that owns the storage of a view."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def storages(arrays: Iterable) -> dict[int, int]:
    """Place -> bytes of the storages behind the arrays, each once."""
    return dict(storage(a) for a in arrays)


def by_kind(rows: Iterable[Saved]) -> list[tuple[str, str, str, int, int, tuple[str, ...]]]:
    """The saved storages summed over layers: (part, op, what, how many, bytes, shared with)."""
    kinds: dict[tuple[str, str, str], list] = {}
    for s in rows:
        key = _without_layer(s.where), s.op, s.what
        kind = kinds.setdefault(
            key, [0, 0, tuple(_without_layer(other) for other in s.shared_with)]
        )
        kind[0] += 1
        kind[1] += s.nbytes
    return [(*key, count, nbytes, shared) for key, (count, nbytes, shared) in kinds.items()]


def _without_layer(name: str) -> str:
    return re.sub(r"^model\.layers\.\d+\.", "", name)
