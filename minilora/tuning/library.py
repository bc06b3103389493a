"""Several adapters on one base: kept by name, switched in microseconds, added up.

A base is hundreds of times the size of an adapter; here it stands in memory once.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..llama.model import Llama
from ..methods import METHODS
from ..support.files import find
from ..support.values import number
from ..tuning.storage import load_adapter
from .adapters import Tuned


class Library:
    """Adapters of one base by name, one of them (or none) in use.

    What is in use answers `logits` and `generate`; `library["past"]` is an adapter by itself.
    """

    def __init__(self, base: Llama):
        self.base = base
        self.current: str | None = None  # the adapter in use; None: the base alone
        self._adapters: dict[str, Tuned] = {}

    def load(self, folder: str | Path, name: str | None = None) -> Tuned:
        """Read an adapter's folder; its name is the folder's where none is given.

        Raises what load_adapter raises, and ValueError for a name that is taken.
        """
        name = Path(folder).name if name is None else name
        self._check_free(name)
        return self.add(name, load_adapter(self.base, folder))

    def add(self, name: str, tuned: Tuned) -> Tuned:
        """Take an adapter in, live: what trains it on is seen here.

        Raises ValueError for a name that is taken, and for one on another base or of whole weights.
        """
        self._check_free(name)
        if tuned.base is not self.base:
            raise ValueError(f"library: {name} is on another base; load its folder instead")
        if tuned.record.whole_model:
            raise ValueError(f"library: {name} has whole weights of its own: a model, no adapter")
        self._adapters[name] = tuned
        return tuned

    def combine(self, name: str, weights: Mapping[str, float]) -> Tuned:
        """Keep Σ wᵢ ΔWᵢ under a name: a LoRA whose rank is the sum of the parts' ranks.

        weights: name of an adapter here -> wᵢ. With ΔWᵢ = Lᵢ Rᵢ the sum is
        [w₁L₁ w₂L₂ …] [R₁; R₂; …], exact and never formed. Delta-LoRA counts with all that its
        weight moved.
        """
        self._check_free(name)
        parts = [(number(f"library: weight of {n}", w), self[n]) for n, w in weights.items()]
        if not parts:
            raise ValueError("library: got no weights, wanted some adapter's")
        factors: dict[str, list] = {}
        for w, tuned in parts:
            for layer, arrays in tuned.layers.items():
                left, right = tuned.factors(layer)
                scaled = left * (w * arrays.get("s", 1.0))
                factors.setdefault(layer, []).append((scaled, right))
        return self.add(name, _as_lora(self.base, factors))

    def remove(self, name: str) -> None:
        """Let an adapter go; the base alone answers where it was in use."""
        find("adapter", name, self._adapters)
        del self._adapters[name]
        if self.current == name:
            self.current = None

    def use(self, name: str | None) -> None:
        """Switch to an adapter; None: to the base alone. No array is touched."""
        if name is not None:
            find("adapter", name, self._adapters)
        self.current = name

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator["Library"]:
        """`use` for a with block; afterwards what was in use before, if it is still here."""
        before = self.current
        self.use(name)
        try:
            yield self
        finally:
            self.current = before if before in self._adapters else None

    def __getitem__(self, name: str) -> Tuned:
        return find("adapter", name, self._adapters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    @property
    def speaker(self) -> Llama | Tuned:
        """What is in use."""
        return self.base if self.current is None else self._adapters[self.current]

    @property
    def tokenizer(self):
        return self.base.tokenizer

    @property
    def config(self):
        return self.base.config

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters' arrays, without the base."""
        arrays = [a for tuned in self._adapters.values() for a in tuned.arrays.values()]
        return sum({id(a): a.nbytes for a in arrays}.values())

    def logits(self, ids) -> np.ndarray:
        """ids (N, T) ints -> logits (N, T, V) of what is in use."""
        return self.speaker.logits(ids)

    def generate(self, ids, max_new_tokens: int, **choices) -> np.ndarray:
        """Continue each row by what is in use: see `generation.generate`."""
        return self.speaker.generate(ids, max_new_tokens, **choices)

    def _check_free(self, name):
        if name in self._adapters:
            raise ValueError(f"library: {name} is taken; remove it first")


def _as_lora(base, factors):
    """layer -> [(left (O, r), right (r, I)), …]  ->  a LoRA of their summed products, s = 1."""
    layers: dict[str, dict] = {}
    for name in base.config.linears():
        if name in factors:
            lefts, rights = zip(*factors[name], strict=True)
            A, B = np.concatenate(rights, axis=0), np.concatenate(lefts, axis=1)
            layers[name] = {"s": 1.0, "A": A, "B": B}
    ranks = {name: len(arrays["A"]) for name, arrays in layers.items()}
    rank, lora = max(ranks.values()), METHODS["lora"]
    tuned = Tuned(base, lora, rank, rank, tuple(layers), 0, dict(lora.options))
    tuned.layers = layers
    tuned.rank_pattern = {name: r for name, r in ranks.items() if r != rank}
    tuned.alpha_pattern = dict(tuned.rank_pattern)
    return tuned
