"""A technique on a model: attach, train through it, merge, detach. The base's arrays are never
written to.

`Tuned` is a base, a method and the arrays that the method added. What moves a weight of the base
(full fine-tuning, Delta-LoRA) moves a copy that belongs to the Tuned.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import ops
from ..engine import Tensor, param, scope
from ..llama import generation
from ..llama.model import EMBED, MLP, Llama, gated
from ..methods import METHODS
from ..methods.base import Arrays, Method
from ..support.meta import is_array
from ..support.values import whole
from .choices import (
    DEFAULT_TARGETS,
    check_alpha,
    check_options,
    check_pattern,
    check_rank,
    check_recompute,
    find_method,
    match_targets,
    pick,
    warn_of_ranks,
)


@dataclasses.dataclass
class Slot:
    """One trainable array: its key on disk, the layer and argument that it is ("" and the key for
    whole weights).
    """

    key: str
    layer: str
    argument: str
    array: np.ndarray


class Tuned:
    """A base model under one method. Made by `attach`;
    `layers` holds each adapted linear's arguments by name.
    """

    def __init__(
        self,
        base: Llama,
        method: str,
        rank,
        alpha,
        targets,
        seed: int,
        options: dict[str, Any],
        recompute: str | None = None,
    ):
        self.base, self.method, self.seed, self.options = base, method, seed, options
        self.rank, self.alpha, self.targets = rank, alpha, targets
        self.rank_pattern: dict[str, int] = {}  # layers whose rank is another: see choices.py
        self.alpha_pattern: dict[str, float] = {}
        self.recompute = check_recompute(recompute)  # may be set to another at any time
        self.shared: Arrays = {}
        self.layers: dict[str, Arrays] = {}
        self.weights: dict[str, np.ndarray] = {}  # whole-model methods: the copy of every weight
        self._arguments = tuple(inspect.signature(self.record.op.forward).parameters)[1:]

    @property
    def record(self) -> Method:
        """The method's record."""
        return METHODS[self.method]

    @property
    def tokenizer(self):
        return self.base.tokenizer

    @property
    def config(self):
        return self.base.config

    def slots(self) -> list[Slot]:
        """The trainable arrays, live, in a fixed order."""
        if self.record.whole_model:
            return [Slot(name, "", name, array) for name, array in self.weights.items()]
        return [
            Slot(self.key(layer, name), layer, name, arrays[name])
            for layer, arrays in self.layers.items()
            for name in self.record.trains
        ]

    @property
    def trainable(self) -> dict[str, np.ndarray]:
        """Key on disk -> array, live: what the optimizer moves."""
        return {slot.key: slot.array for slot in self.slots()}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The trainable arrays and the frozen ones that the method added;
        a moved weight as `….base_layer.weight`.
        """
        found = self.trainable
        shared = self.record.peft.shared if self.record.peft else {}
        found |= {shared.get(name, f"shared.{name}"): a for name, a in self.shared.items()}
        for layer, arguments in self.layers.items():
            for name, a in arguments.items():
                if is_array(a) and name not in self.shared:
                    found.setdefault(self.key(layer, name), a)
        return found

    def key(self, layer: str, argument: str) -> str:
        """The name of a layer's array on disk: PEFT's where it has one."""
        names = self.record.peft.names if self.record.peft else {}
        suffix = "base_layer.weight" if argument == "W" else names.get(argument, argument)
        return f"base_model.model.{layer}.{suffix}"

    def leaves(self) -> dict[str, Tensor]:
        """A fresh leaf of the tape for every trainable array, by key."""
        return {slot.key: param(slot.array, slot.key) for slot in self.slots()}

    def how(
        self,
        leaves: Mapping[str, Tensor] | None = None,
        key: tuple[int, ...] | None = None,
    ) -> dict[str, Any]:
        """What the base's forward pass runs with under this method: the keywords
        of `Llama.hidden`.

        leaves: take gradients for these; key: (seed, step, micro-batch), switches dropout on.
        """
        again = check_recompute(self.recompute)
        leaves = leaves or {}
        weights: dict[str, Any] = {**self.base.params, **self.weights, **leaves}
        place = {name: i for i, name in enumerate(self.layers)}
        p = self.options.get("dropout", 0.0) if key else 0.0

        def remade(op, x):
            return ops.remaking(op, x) if again == "swiglu" else op

        def linear(name: str, x: Tensor) -> Tensor:
            W = weights[f"{name}.weight"]
            with scope(name.rsplit(".", 1)[-1]):
                if name not in self.layers:
                    op = ops.linear if isinstance(W, Tensor) else ops.frozen_linear
                    return remade(op, x)(x, W)
                values = {
                    "W": W,
                    **self.layers[name],
                    "p": p,
                    "key": (*key, place[name]) if p and key else None,
                }
                values |= {
                    a: leaves[k] for a in self.record.trains if (k := self.key(name, a)) in leaves
                }
                return remade(self.record.op, x)(x, *(values[a] for a in self._arguments))

        def feed_forward(name: str, h: Tensor) -> Tensor:
            parts = [f"{name}.{part}" for part in MLP]
            Ws = [weights[f"{part}.weight"] for part in parts]
            if any(part in self.layers for part in parts) or any(isinstance(W, Tensor) for W in Ws):
                return gated(linear, name, h)
            return ops.frozen_feed_forward(h, *Ws)

        return {
            "weights": weights,
            "linear": linear,
            "feed_forward": feed_forward,
            "recompute": again == "layers",
        }

    def loss(self, ids, targets, count=None, leaves=None, key=None) -> Tensor:
        """The base's loss under this method; leaves and key as for `how`."""
        return self.base.loss(ids, targets, count, **self.how(leaves, key))

    def logits(self, ids) -> np.ndarray:
        """ids (N, T) ints -> logits (N, T, V), without dropout."""
        return self.base.logits(ids, **self.how())

    def generate(self, ids, max_new_tokens: int, **choices) -> np.ndarray:
        """Continue each row: see `generation.generate`."""
        return generation.generate(self.base, ids, max_new_tokens, **choices, **self.how())

    def factors(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """(O, k) and (k, I): their product, times the layer's s where it has one, is all that was
        learned for one linear. Raises ValueError for a method that is no product.
        """
        if self.record.factors is None:
            raise ValueError(f"{self.method}: its change of a weight is no product of two factors")
        return self.record.factors(self.options, **self.layers[layer])

    def delta(self, layer: str) -> np.ndarray:
        """All that was learned for one linear, in float64:
        its adapter's ΔW, and where W moved, that too.  (O, I).
        """
        W = self.base.params[f"{layer}.weight"]
        arguments = {"W": self.weights.get(f"{layer}.weight", W), **self.layers.get(layer, {})}
        wide = {
            k: a.astype(np.float64) if isinstance(a, np.ndarray) else a
            for k, a in arguments.items()
        }
        change = self.record.delta(**wide) if layer in self.layers else 0
        return change + (wide["W"] - W)  # W - W is 0 where it stands still


def attach(
    model,
    method: str,
    *,
    rank=None,
    alpha=None,
    rank_pattern=None,
    alpha_pattern=None,
    targets=None,
    seed: int = 0,
    recompute=None,
    **options,
) -> Tuned:
    """Put a method on a model: fresh arrays, the base untouched.

    method: a name of METHODS. rank: the method's default where None (8; VeRA 256). alpha: 2·rank
    where None. rank_pattern, alpha_pattern: {name or regular expression of adapted linears: their
    own}, as in PEFT. targets: names of linears ("q_proj", or a full name), or "all-linear";
    ("q_proj", "v_proj") where None. recompute: less memory for time, see `check_recompute`.
    options: the method's own.
    Raises ValueError for what the method does not take, with the nearest right names.
    """
    record = find_method(method)
    if not isinstance(model, Llama):
        raise TypeError(
            f"attach: got a {type(model).__name__}, wanted a Llama; detach or merge first"
        )
    patterns = {"rank_pattern": rank_pattern or {}, "alpha_pattern": alpha_pattern or {}}
    given = {"rank": rank, "alpha": alpha, "targets": targets}
    options = check_options(record, options, **given, **{k: v or None for k, v in patterns.items()})
    seed = whole("attach: seed", seed)
    if record.whole_model:
        tuned = Tuned(model, method, None, None, None, seed, options, recompute)
        tuned.weights = {name: a.copy() for name, a in model.params.items()}
        return tuned

    names = match_targets(model.config, targets)
    weights = {name: model.params[f"{name}.weight"] for name in names}
    if "rank" in record.takes:
        rank = check_rank(record, rank)
    if "alpha" in record.takes:
        alpha = check_alpha(2 * rank if alpha is None else alpha)
    tuned = Tuned(model, method, rank, alpha, targets or DEFAULT_TARGETS, seed, options, recompute)
    tuned.rank_pattern = check_pattern("rank_pattern", patterns["rank_pattern"], names)
    tuned.alpha_pattern = check_pattern("alpha_pattern", patterns["alpha_pattern"], names)
    if tuned.rank is not None:
        ranks = {name: _of_layer(tuned, name)[0] for name in names}
        warn_of_ranks(record, ((name, W.shape) for name, W in weights.items()), ranks)
    if record.prepare:
        tuned.shared = record.prepare(
            [W.shape for W in weights.values()], rank, options, model.params[EMBED]
        )
    rng = np.random.default_rng(seed)
    for name, W in weights.items():
        own = {"W": W.copy()} if record.owns_weight else {}
        r, how = _of_layer(tuned, name)
        tuned.layers[name] = own | record.init(W, r, how, rng, tuned.shared)
    return tuned


def _of_layer(tuned, name):
    """A linear's own rank, and the options with which its arrays are made."""
    r = pick(tuned.rank_pattern, name, tuned.rank)
    if tuned.alpha is None:
        return r, tuned.options
    return r, {**tuned.options, "alpha": pick(tuned.alpha_pattern, name, tuned.alpha)}


def detach(tuned: Tuned) -> Llama:
    """The base, bit for bit as it was."""
    return tuned.base


def merge(tuned: Tuned) -> Llama:
    """A new model whose weights are W + ΔW, added in float64 and rounded once;
    tuned is left as it was.
    """
    return _with_change(tuned.base, tuned, +1)


def unmerge(merged: Llama, tuned: Tuned) -> Llama:
    """A new model whose weights are those of `merged` less tuned's ΔW:
    the base, up to one rounding.
    """
    return _with_change(merged, tuned, -1)


def _with_change(model: Llama, tuned: Tuned, sign: int) -> Llama:
    params = dict(model.params)
    if tuned.record.whole_model:
        for name, moved in tuned.weights.items():
            change = moved.astype(np.float64) - tuned.base.params[name]
            params[name] = (params[name] + sign * change).astype(model.dtype)
    for layer in tuned.layers:
        name = f"{layer}.weight"
        params[name] = (params[name].astype(np.float64) + sign * tuned.delta(layer)).astype(
            model.dtype
        )
    return Llama(model.config, params, model.tokenizer)
