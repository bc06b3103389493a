"""A technique on a model: attach, train through it, merge, detach. The base stays as it is.

`Tuned` is a base, a technique and the arrays that the technique added. A technique that moves a
weight of the base (full fine-tuning, Delta-LoRA) moves a copy that belongs to the Tuned.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .. import ops
from ..engine import Tensor, param, scope
from ..llama import generation
from ..llama.model import EMBED, MLP, Forward, Llama, gated
from ..llama.rows import Rows
from ..methods.base import Arrays, Method
from ..support import show
from ..support.meta import Meta, is_array
from ..support.plots import human
from ..support.values import plain, whole
from .choices import (
    DEFAULT_TARGETS,
    check_alpha,
    check_options,
    check_pattern,
    check_rank,
    check_recompute,
    describe_options,
    find_method,
    match_targets,
    pick,
    warn_of_ranks,
)

# The built-in techniques by name, for editors and type checkers; a test compares it with METHODS.
Technique = Literal["full", "lora", "lora_fa", "vera", "delta_lora", "lora_plus", "dora"]


@dataclass
class Trained:
    """One trainable array and where it belongs."""

    key: str  # its name on disk
    layer: str  # the linear that it adapts; "" for a whole weight
    argument: str  # its name in the pair; the key for a whole weight
    array: np.ndarray


class Tuned:
    """A base model under one technique. Made by `attach`.

    layers: adapted linear -> its arguments by name; shared: the arrays that all layers share;
    weights: of a technique that trains the whole model, the copy of every weight.
    """

    def __init__(
        self,
        base: Llama,
        record: Method,
        rank: int | None,
        alpha: float | None,
        targets,
        seed: int,
        options: dict[str, Any],
        recompute: str | None = None,
    ):
        self.base, self.record, self.seed, self.options = base, record, seed, options
        self.rank, self.alpha, self.targets = rank, alpha, targets
        self.rank_pattern: dict[str, int] = {}  # linears whose rank is another: see choices.py
        self.alpha_pattern: dict[str, float] = {}
        self.recompute = check_recompute(recompute)  # may be set to another at any time
        self.shared: Arrays = {}
        self.layers: dict[str, Arrays] = {}
        self.weights: dict[str, np.ndarray] = {}
        self._arguments = tuple(inspect.signature(record.op.forward).parameters)[1:]

    @property
    def method(self) -> str:
        """The technique's name."""
        return self.record.name

    @property
    def tokenizer(self):
        return self.base.tokenizer

    @property
    def config(self):
        return self.base.config

    def trained(self) -> list[Trained]:
        """The trainable arrays, live, in a fixed order."""
        if self.record.whole_model:
            return [Trained(name, "", name, array) for name, array in self.weights.items()]
        return [
            Trained(self.key(layer, name), layer, name, arrays[name])
            for layer, arrays in self.layers.items()
            for name in self.record.trains
        ]

    @property
    def trainable(self) -> dict[str, np.ndarray]:
        """Key on disk -> array, live: what the optimizer moves."""
        return {t.key: t.array for t in self.trained()}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The trainable arrays and the frozen ones that the technique added, by their keys.

        A moved weight is `….base_layer.weight`.
        """
        arrays = self.trainable
        shared = self.record.peft.shared if self.record.peft else {}
        arrays |= {shared.get(name, f"shared.{name}"): a for name, a in self.shared.items()}
        for layer, arguments in self.layers.items():
            for name, a in arguments.items():
                if is_array(a) and name not in self.shared:
                    arrays.setdefault(self.key(layer, name), a)
        return arrays

    def key(self, layer: str, argument: str) -> str:
        """The name of a layer's array on disk: PEFT's where it has one."""
        names = self.record.peft.names if self.record.peft else {}
        suffix = "base_layer.weight" if argument == "W" else names.get(argument, argument)
        return f"base_model.model.{layer}.{suffix}"

    def leaves(self) -> dict[str, Tensor]:
        """A fresh leaf of the tape for every trainable array, by key."""
        return {t.key: param(t.array, t.key) for t in self.trained()}

    def how(
        self,
        leaves: Mapping[str, Tensor] | None = None,
        key: tuple[int, ...] | None = None,
    ) -> Forward:
        """What the base's forward pass runs with under this technique.

        leaves: take gradients for these; key: (seed, step, micro-batch), switches dropout on.
        """
        again = check_recompute(self.recompute)
        leaves = leaves or {}
        weights: dict[str, Any] = {**self.base.params, **self.weights, **leaves}
        arguments: dict[str, Arrays] = {}  # of the adapted linears, for this pass
        place = {name: i for i, name in enumerate(self.layers)}
        p = self.options.get("dropout", 0.0) if key else 0.0

        def arguments_of(name: str) -> Arrays:
            if name not in arguments:
                given = {"W": weights[f"{name}.weight"], **self.layers[name]}
                if self.record.derived:
                    given |= self.record.derived(**given)
                keys = {a: self.key(name, a) for a in self.record.trains}
                given |= {a: leaves[k] for a, k in keys.items() if k in leaves}
                arguments[name] = given
            return arguments[name]

        def linear(name: str, x: Tensor, rows: Rows) -> Tensor:
            with scope(name.rsplit(".", 1)[-1]):
                if name in self.layers:
                    op, given = self.record.op, arguments_of(name)
                    rest = [given[a] for a in self._arguments if a != "xd"]
                    if p and key:
                        rest.append(ops.dropout(x, p, (*key, place[name]), rows.batch))
                else:
                    W = weights[f"{name}.weight"]
                    op, rest = ops.linear if isinstance(W, Tensor) else ops.frozen_linear, [W]
                return (ops.remaking(op, x) if again == "swiglu" else op)(x, *rest)

        def feed_forward(name: str, h: Tensor, rows: Rows) -> Tensor:
            parts = [f"{name}.{part}" for part in MLP]
            Ws = [weights[f"{part}.weight"] for part in parts]
            if any(part in self.layers for part in parts) or any(isinstance(W, Tensor) for W in Ws):
                return gated(linear, name, h, rows)
            return ops.frozen_feed_forward(h, *Ws)

        return Forward(weights, linear, feed_forward, recompute=again == "layers")

    def loss(self, ids, targets, count=None, leaves=None, key=None) -> Tensor:
        """The base's loss under this technique; leaves and key as for `how`."""
        return self.base.loss(ids, targets, count, self.how(leaves, key))

    def logits(self, ids) -> np.ndarray:
        """ids (N, T) ints -> logits (N, T, V), without dropout."""
        return self.base.logits(ids, self.how())

    def generate(self, ids, max_new_tokens: int, **choices) -> np.ndarray:
        """Continue each row: see `generation.generate`."""
        return generation.generate(self.base, ids, max_new_tokens, **choices, how=self.how())

    def factors(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """(O, k) and (k, I): their product, times the layer's s where it has one, is all that was
        learned for one linear. Raises ValueError for a technique whose change is no such product.
        """
        if self.record.factors is None:
            raise ValueError(f"{self.method}: its change of a weight is no product of two factors")
        return self.record.factors(self.options, **self.layers[layer])

    def delta(self, layer: str) -> np.ndarray:
        """All that was learned for one linear, in float64 (O, I): its adapter's ΔW, and where W
        moved, that too.
        """
        W = self.base.params[f"{layer}.weight"]
        arguments = {"W": self.weights.get(f"{layer}.weight", W), **self.layers.get(layer, {})}
        wide = {
            k: a.astype(np.float64) if isinstance(a, np.ndarray) else a
            for k, a in arguments.items()
        }
        change = self.record.delta(**wide) if layer in self.layers else 0
        return change + (wide["W"] - W)  # W - W is 0 where it stands still

    def generate_text(self, prompt: str, max_new_tokens: int = 32, **choices) -> str:
        """The text that follows a prompt, up to the end token: see `generation.generate_text`."""
        return generation.generate_text(self, prompt, max_new_tokens, **choices)

    def count_parameters(self) -> tuple[int, int]:
        """How many numbers train, and how many there are, counted as PEFT counts them: the base's
        and the adapters', without the arrays that all layers share.
        """
        trainable = sum(a.size for a in self.trainable.values())
        base = sum(a.size for a in self.base.params.values())
        if self.record.whole_model:
            return trainable, base
        others = {"W", *self.shared, *self.record.remembers}
        own = [a for row in self.layers.values() for n, a in row.items() if n not in others]
        return trainable, base + sum(a.size for a in own if is_array(a))

    def print_trainable_parameters(self) -> None:
        """Print `count_parameters` in PEFT's own sentence."""
        trainable, every = self.count_parameters()
        share = 100 * trainable / every
        print(
            f"trainable params: {trainable:,} || all params: {every:,} || trainable%: {share:.4f}"
        )

    def _facts(self) -> dict[str, str]:
        trainable, every = self.count_parameters()
        names = [self.targets] if isinstance(self.targets, str) else [*(self.targets or ())]
        # seven kinds of linears, or the whole name of each one
        targets = ", ".join(names) if len(names) < 8 else f"{len(names)} linears"
        size = human(sum(a.nbytes for a in self.trainable.values()))
        facts = {"rank": self.rank, "alpha": self.alpha, "targets": targets}
        facts |= {"trainable": f"{trainable:,} of {every:,}", "size": size}
        return {name: str(value) for name, value in facts.items() if value}

    def __repr__(self) -> str:
        return show.line(f"{self.record.title} on Llama {self.base.name}".rstrip(), self._facts())

    def _repr_html_(self) -> str:
        return show.table(f"{self.record.title} on Llama {self.base.name}".rstrip(), self._facts())


def check_base(who: str, model: Any) -> None:
    """Raises TypeError, with what to do, for what is no model without an adapter."""
    if isinstance(model, Llama):
        return
    what = "detach or merge first" if isinstance(model, Tuned) else "load_model returns one"
    raise TypeError(f"{who}: got a {type(model).__name__}, wanted a Llama; {what}")


def attach(
    model: Llama,
    method: Technique | str | Method,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    targets: str | Iterable[str] | None = None,
    layers_to_transform: int | Iterable[int] | None = None,
    layers_pattern: str | Iterable[str] | None = None,
    exclude_modules: str | Iterable[str] | None = None,
    seed: int = 0,
    recompute: Literal["layers", "swiglu"] | None = None,
    **options,
) -> Tuned:
    """Put a technique on a model: fresh arrays, the base untouched.

    method: a name of METHODS, or a Method of your own. rank: its default where None (8; VeRA 256).
    alpha: 2·rank where None. rank_pattern, alpha_pattern: {name or regular expression of adapted
    linears: their own}, as in PEFT. targets: names of linears ("q_proj", or a full name), regular
    expressions of them, or "all-linear"; ("q_proj", "v_proj") where None. layers_to_transform,
    layers_pattern, exclude_modules: fewer of them, see `match_targets`. recompute: less memory for
    time, see `check_recompute`. options: the technique's own, listed below with their defaults.
    Raises ValueError for what the technique does not take, with the nearest right names.
    """
    record = method if isinstance(method, Method) else find_method(method)
    check_base("attach", model)
    patterns = {"rank_pattern": rank_pattern or {}, "alpha_pattern": alpha_pattern or {}}
    selection: dict[str, Any] = {
        "layers_to_transform": layers_to_transform,
        "layers_pattern": layers_pattern,
        "exclude_modules": exclude_modules,
    }
    given = {"rank": rank, "alpha": alpha, "targets": targets, **selection}
    options = check_options(record, options, **given, **{k: v or None for k, v in patterns.items()})
    seed = whole("attach: seed", seed)
    if record.whole_model:
        tuned = Tuned(model, record, None, None, None, seed, options, recompute)
        tuned.weights = {name: a.copy() for name, a in model.params.items()}
        return tuned

    names = match_targets(model.config, targets, **selection)
    if any(value is not None for value in selection.values()):
        targets = tuple(names)
    weights = {name: model.params[f"{name}.weight"] for name in names}
    if "rank" in record.takes:
        rank = check_rank(record, rank)
    if "alpha" in record.takes:
        alpha = check_alpha(2 * (rank or 1) if alpha is None else alpha)
    tuned = Tuned(model, record, rank, alpha, targets or DEFAULT_TARGETS, seed, options, recompute)
    tuned.rank_pattern = check_pattern("rank_pattern", patterns["rank_pattern"], names)
    tuned.alpha_pattern = check_pattern("alpha_pattern", patterns["alpha_pattern"], names)
    if tuned.rank is not None:
        ranks = {name: _of_layer(tuned, name)[0] for name in names}
        warn_of_ranks(record, ((name, W.shape) for name, W in weights.items()), ranks)
    if record.prepare:
        tuned.shared = record.prepare(
            [W.shape for W in weights.values()], rank or 0, options, model.params[EMBED]
        )
    rng = np.random.default_rng(seed)
    for name, W in weights.items():
        own = {"W": W.copy()} if record.owns_weight else {}
        r, how = _of_layer(tuned, name)
        made = record.init(W, r, how, rng, tuned.shared)
        # arrays made like a weight in Fortran's order are in that order: AdamW wants rows
        made |= {k: np.array(made[k], order="C") for k in record.trains if _is_turned(made.get(k))}
        tuned.layers[name] = own | {argument: plain(a) for argument, a in made.items()}
    return tuned


attach.__doc__ = f"{attach.__doc__}\n{describe_options()}\n"


def _is_turned(a) -> bool:
    return isinstance(a, np.ndarray) and not a.flags.c_contiguous


def shapes_of(model: Llama) -> Llama:
    """The model on shapes alone. What `attach` makes on it takes no memory, however large a file
    says that it is.
    """
    params: dict[str, Any] = {name: Meta(a.shape, a.dtype) for name, a in model.params.items()}
    return Llama(model.config, params)


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
    """A new model whose weights are W + ΔW, added in float64 and rounded once.

    tuned is left as it was.
    """
    return _with_change(_adapted(tuned, "merge").base, tuned, +1)


def unmerge(merged: Llama, tuned: Tuned) -> Llama:
    """A new model of the weights of `merged` less tuned's ΔW: the base, up to one rounding."""
    return _with_change(merged, _adapted(tuned, "unmerge"), -1)


def _adapted(tuned: Tuned, what: str) -> Tuned:
    """tuned; raises TypeError for what attach did not make."""
    if not isinstance(tuned, Tuned):
        raise TypeError(
            f"{what}: got a {type(tuned).__name__}, wanted a Tuned: what attach returns"
        )
    return tuned


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
