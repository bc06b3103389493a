"""Several adapters on one base: stored by name, switched in microseconds, summed.

A base has hundreds of times the bytes of an adapter; all adapters share one copy of it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.model import Llama, ModelConfig
from ..methods import METHODS
from ..support import show
from ..support.files import find
from ..support.names import hinting
from ..support.plots import human
from ..support.values import number
from .adapters import Tuned, check_base
from .storage import load_unmoved


class Library:
    """The adapters of one base, by name. At most one of them is active.

    `logits` and `generate` run the active adapter, or the base; `library["past"]` is one adapter.
    """

    def __init__(self, base: Llama):
        check_base("library", base)
        self.base = base
        self.current: str | None = None  # the active adapter's name; None: the base alone
        self._adapters: dict[str, Tuned] = {}

    def load(self, folder: str | Path, name: str | None = None) -> Tuned:
        """Read an adapter's folder and add it; its name is the folder's if none is given.

        Delta-LoRA is read as the LoRA that PEFT reads, so that the base's weights are not copied.
        Raises what load_adapter raises, and ValueError if the name is in use.
        """
        name = Path(folder).name if name is None else name
        self._check_free(name)
        return self.add(name, load_unmoved(self.base, folder))

    def add(self, name: str, tuned: Tuned) -> Tuned:
        """Add an adapter, not a copy of it: training it further changes the library's adapter.

        Raises ValueError if the name is in use, or the adapter is of another base or whole weights.
        """
        self._check_free(name)
        if tuned.base is not self.base:
            raise ValueError(f"library: {name} is on another base; load its folder instead")
        if tuned.record.whole_model:
            raise ValueError(f"library: {name} trains the whole model, wanted an adapter")
        self._adapters[name] = tuned
        return tuned

    def combine(self, name: str, weights: Mapping[str, float]) -> Tuned:
        """Add Σ wᵢ ΔWᵢ as a new LoRA, whose rank is the sum of the adapters' ranks.

        weights: name of an adapter -> wᵢ. With ΔWᵢ = Lᵢ Rᵢ the sum is [w₁L₁ w₂L₂ …] [R₁; R₂; …]:
        exact, and no matrix (O, I) is computed. Delta-LoRA's ΔW includes the change of its weight.
        Raises ValueError for an unknown adapter, a name in use, a weight that is not finite, or an
        adapter whose change is not a product of factors.
        """
        self._check_free(name)
        terms = [(number(f"library: weight of {n}", w), self[n]) for n, w in weights.items()]
        if not terms:
            raise ValueError("library: got no weights, wanted one for each adapter to add")
        factors: dict[str, list] = {}
        for w, tuned in terms:
            for layer, arrays in tuned.layers.items():
                left, right = tuned.factors(layer)
                factors.setdefault(layer, []).append((left * (w * arrays.get("s", 1.0)), right))
        return self.add(name, _as_lora(self.base, factors))

    def remove(self, name: str) -> None:
        """Remove an adapter; if it was active, the base alone becomes active.

        Raises ValueError for an unknown name.
        """
        find("adapter", name, self._adapters)
        del self._adapters[name]
        if self.current == name:
            self.current = None

    def use(self, name: str | None) -> None:
        """Make an adapter active; None: the base alone. No array is copied or changed.

        Raises ValueError for an unknown name.
        """
        if name is not None:
            find("adapter", name, self._adapters)
        self.current = name

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator["Library"]:
        """`use` in a with block; after it the earlier adapter is active, if it is still here."""
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
    def active(self) -> Llama | Tuned:
        """The active adapter, or the base."""
        return self.base if self.current is None else self._adapters[self.current]

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def config(self) -> ModelConfig:
        """The base's config."""
        return self.base.config

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of all adapters, without the base."""
        arrays = [a for tuned in self._adapters.values() for a in tuned.arrays.values()]
        return sum({id(a): a.nbytes for a in arrays}.values())

    def logits(self, ids) -> np.ndarray:
        """ids (N, T) ints -> logits (N, T, V) of the active adapter, or of the base."""
        return self.active.logits(ids)

    @hinting
    def generate(self, ids, max_new_tokens: int, **choices) -> np.ndarray:
        """Continue each row of ids (N, T) with the active adapter: see `generation.generate`."""
        return self.active.generate(ids, max_new_tokens, **choices)

    def generate_text(self, prompt: str, max_new_tokens: int = 32, **choices) -> str:
        """The text that follows a prompt, by the active adapter, or the base."""
        return self.active.generate_text(prompt, max_new_tokens, **choices)

    def _facts(self) -> dict[str, str]:
        active = {self.current: " (active)"}
        facts = {name: t.record.title + active.get(name, "") for name, t in self._adapters.items()}
        return facts | {"size": human(self.nbytes)}

    def __repr__(self) -> str:
        return show.line(f"Library on Llama {self.base.name}".rstrip(), self._facts())

    def _repr_html_(self) -> str:
        return show.table(f"Library on Llama {self.base.name}".rstrip(), self._facts())

    def _check_free(self, name):
        if name in self._adapters:
            raise ValueError(f"library: {name} is taken; remove it first")


def _as_lora(base, factors):
    """layer -> [(left (O, r), right (r, I)), …]  ->  a LoRA with ΔW = Σ left right, s = 1."""
    layers: dict[str, dict] = {}
    for name in base.config.linears():
        if name in factors:
            lefts, rights = zip(*factors[name], strict=True)
            layers[name] = {"s": 1.0, "A": np.concatenate(rights), "B": np.concatenate(lefts, 1)}
    ranks = {name: len(arrays["A"]) for name, arrays in layers.items()}
    rank, lora = max(ranks.values()), METHODS["lora"]
    tuned = Tuned(base, lora, rank, rank, tuple(layers), 0, dict(lora.options))
    tuned.layers = layers
    tuned.rank_pattern = {name: r for name, r in ranks.items() if r != rank}
    tuned.alpha_pattern = dict(tuned.rank_pattern)
    return tuned
