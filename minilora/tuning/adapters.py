"""A technique on a model: attach, train through it, merge, detach. The base stays as it is.

`Tuned` is a base, a technique and the arrays that the technique added. A technique that moves a
weight of the base (full fine-tuning, Delta-LoRA) moves a copy that belongs to the Tuned.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import ops
from ..engine import Tensor, param
from ..formats.forms import in_nf4
from ..llama import generation
from ..llama.model import EMBED, Forward, Llama, check_base
from ..llama.rows import Rows
from ..methods import Technique
from ..methods.base import Arrays, Method
from ..ops import nf4
from ..support import show
from ..support.files import find
from ..support.machine import allocating
from ..support.meta import dense, form_of, is_array, shape_alone
from ..support.names import hinting, peft_hint
from ..support.packed import blocks_of
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
    weights: a copy of every weight, if the technique trains the whole model.
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
        self.rank_pattern: dict[str, int] = {}  # ranks of single linears: see choices.py
        self.alpha_pattern: dict[str, float] = {}
        self.recompute = check_recompute(recompute)  # can be changed at any time
        self.base_name: str | None = None  # the base's name in a loaded adapter's config
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
        """The trainable arrays themselves, not copies, in a fixed order."""
        if self.record.whole_model:
            return [Trained(name, "", name, array) for name, array in self.weights.items()]
        return [
            Trained(self.key(layer, name), layer, name, arrays[name])
            for layer, arrays in self.layers.items()
            for name in self.record.trains
        ]

    @property
    def trainable(self) -> dict[str, np.ndarray]:
        """Key on disk -> array: the arrays that the optimizer moves, not copies."""
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
        """The name of a layer's array on disk: PEFT's name, if it has one."""
        names = self.record.peft.names if self.record.peft else {}
        suffix = "base_layer.weight" if argument == "W" else names.get(argument, argument)
        return f"base_model.model.{layer}.{suffix}"

    def leaves(self) -> dict[str, Tensor]:
        """A fresh leaf of the tape for every trainable array, by key."""
        return {key: param(array, key) for key, array in self.trainable.items()}

    def forward(
        self,
        leaves: Mapping[str, Tensor] | None = None,
        key: tuple[int, ...] | None = None,
    ) -> Forward:
        """The `Forward` of the base under this technique.

        leaves: key -> leaf of the tape, for the arrays that get gradients. key: (seed, step,
        micro-batch), from which dropout draws; None: no dropout.
        """
        again = check_recompute(self.recompute)
        leaves = leaves or {}
        weights: dict[str, Any] = {**self.base.params, **self.weights, **leaves}
        known: dict[str, list[Any]] = {}  # the arguments of an adapted linear, for this pass
        p = self.options.get("dropout", 0.0) if key else 0.0

        def arguments(name: str) -> list[Any]:
            given = {"W": weights[f"{name}.weight"], **self.layers[name]}
            if self.record.derived:
                derived = self.record.derived(**given)
                # ∞ becomes NaN, which the check for divergence finds; y / ∞ would just be 0
                given |= {name: a + 0 * a for name, a in derived.items()}
            keys = {a: self.key(name, a) for a in self.record.trains}
            given |= {a: leaves[k] for a, k in keys.items() if k in leaves}
            return [given[a] for a in self._arguments if a != "xd"]

        def adapted(name: str, place: int, x: Tensor, rows: Rows) -> Tensor:
            if name not in known:
                known[name] = arguments(name)
            dropped = [ops.dropout(x, p, (*key, place), rows.batch)] if p and key else []
            return self.record.op(x, *known[name], *dropped)

        linears = {name: partial(adapted, name, i) for i, name in enumerate(self.layers)}
        return Forward(weights, linears, recompute=again == "layers")

    def loss(self, ids, targets, count=None, leaves=None, key=None) -> Tensor:
        """The base's mean loss () under this technique, in nats per target.

        ids, targets (N, T) ints; count: the divisor, None: the number of targets that count; leaves
        and key as for `forward`. Raises ValueError if ids or targets are out of range.
        """
        return self.base.loss(ids, targets, count, self.forward(leaves, key))

    def logits(self, ids) -> np.ndarray:
        """ids (N, T) ints -> logits (N, T, V), without dropout. Raises ValueError for wrong ids."""
        return self.base.logits(ids, self.forward())

    @hinting
    def generate(self, ids, max_new_tokens: int, **choices) -> np.ndarray:
        """Continue each row of ids (N, T) -> (N, T + new): see `generation.generate`."""
        forward = self.forward()
        return generation.generate(self.base, ids, max_new_tokens, **choices, forward=forward)

    def factors(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Arrays (O, k) and (k, I) whose product is the whole change of one linear's weight.

        If the layer has a scaling s, the change is s times the product. Raises ValueError if the
        technique's change is not such a product.
        """
        if self.record.factors is None:
            raise ValueError(f"{self.method}: its change of a weight is not a product of factors")
        return self.record.factors(self.options, **self.layers[layer])

    def delta(self, layer: str) -> np.ndarray:
        """The whole change of one linear's weight, in float64 (O, I).

        It is the adapter's ΔW and, for a technique that moves W, the change of W itself.
        """
        W = dense(self.base.params[f"{layer}.weight"])
        arguments = {"W": self.weights.get(f"{layer}.weight", W), **self.layers.get(layer, {})}
        wide = {
            k: a.astype(np.float64) if isinstance(a, np.ndarray) else a
            for k, a in arguments.items()
        }
        change = self.record.delta(**wide) if layer in self.layers else 0
        return change + (wide["W"] - W)

    def generate_text(self, prompt: str, max_new_tokens: int = 32, **choices) -> str:
        """The text that follows a prompt, up to the end token: see `generation.generate_text`."""
        return generation.generate_text(self, prompt, max_new_tokens, **choices)

    def count_parameters(self) -> tuple[int, int]:
        """(trainable parameters, all parameters), counted as in PEFT.

        All: the base's and the adapters', without the arrays that all layers share.
        """
        trainable = sum(a.size for a in self.trainable.values())
        base = sum(math.prod(a.shape) for a in self.base.params.values())
        if self.record.whole_model:
            return trainable, base
        others = {"W", *self.shared, *self.record.remembers}
        own = [a for row in self.layers.values() for n, a in row.items() if n not in others]
        return trainable, base + sum(a.size for a in own if is_array(a))

    if not TYPE_CHECKING:  # a type checker finds an unknown attribute by itself

        def __getattr__(self, name):
            raise AttributeError(f"'Tuned' object has no attribute {name!r}{peft_hint(name)}")

        def __call__(self, *_, **__):
            raise TypeError(f"'Tuned' object is not callable{peft_hint('__call__')}")

    def _facts(self) -> dict[str, str]:
        trainable, every = self.count_parameters()
        names = [self.targets] if isinstance(self.targets, str) else [*(self.targets or ())]
        # there are seven kinds of linears; more are full names, which are only counted
        targets = ", ".join(names) if len(names) < 8 else f"{len(names)} linears"
        size = human(sum(a.nbytes for a in self.trainable.values()))
        facts = {"rank": self.rank, "alpha": self.alpha, "targets": targets}
        facts |= {"trainable": f"{trainable:,} of {every:,}", "size": size}
        return {name: str(value) for name, value in facts.items() if value}

    def __repr__(self) -> str:
        return show.line(f"{self.record.title} on Llama {self.base.name}".rstrip(), self._facts())

    def _repr_html_(self) -> str:
        return show.table(f"{self.record.title} on Llama {self.base.name}".rstrip(), self._facts())


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
    recompute: Literal["layers"] | None = None,
    **options,
) -> Tuned:
    """Attach a technique to a model, with new arrays. The base does not change.

    method: a name in METHODS, a Method of your own, or "FILE.py:METHOD", where it is.
    rank: None: the method's default (8; VeRA 256). alpha: None: 2·rank.
    rank_pattern, alpha_pattern: {name or regular expression of adapted linears: their own rank or
    alpha}, as in PEFT. targets: names of linears ("q_proj", or a full name), regular expressions of
    them, or "all-linear"; None: ("q_proj", "v_proj"). layers_to_transform, layers_pattern,
    exclude_modules: leave some of them out, see `match_targets`. recompute: less memory for more
    time, see `check_recompute`. options: the technique's own, listed below with their defaults.
    Raises TypeError if model is not a Llama; ValueError for a keyword that the technique does not
    take, with the nearest right names, or for a value out of range.
    """
    record = find_method(method)
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
        _check_moved(record, model.params)
        tuned.weights = {name: a.copy() for name, a in model.params.items()}
        return tuned

    names = match_targets(model.config, targets, **selection)
    if any(value is not None for value in selection.values()):
        targets = tuple(names)
    if "rank" in record.takes:
        rank = check_rank(record, rank)
    if "alpha" in record.takes:
        alpha = check_alpha(2 * (rank or 1) if alpha is None else alpha)
    tuned = Tuned(model, record, rank, alpha, targets or DEFAULT_TARGETS, seed, options, recompute)
    tuned.rank_pattern = check_pattern("rank_pattern", patterns["rank_pattern"], names)
    tuned.alpha_pattern = check_pattern("alpha_pattern", patterns["alpha_pattern"], names)
    if tuned.rank is not None:
        shapes = ((name, model.params[f"{name}.weight"].shape) for name in names)
        warn_of_ranks(record, shapes, {name: _of_layer(tuned, name)[0] for name in names})
    if record.owns_weight:
        _check_moved(record, {name: model.params[f"{name}.weight"] for name in names})
    _fill_layers(tuned, names)
    return tuned


attach.__doc__ = f"{attach.__doc__}\n{describe_options()}\n"


def _check_moved(record, weights):
    """Raises ValueError for the first packed weight: a step can move only an array."""
    for name, W in weights.items():
        if form := form_of(W):
            raise ValueError(
                f"{record.name}: it moves {name}, which is in {form} and cannot be moved; wanted a "
                "base loaded in float32, or a technique that does not move it, such as lora"
            )


@allocating("attach: rank")
def _fill_layers(tuned, names):
    """Make the shared arrays and the arguments of these linears, with a technique's copy of W."""
    record, rng = tuned.record, np.random.default_rng(tuned.seed)
    if record.prepare:
        shapes = [tuned.base.params[f"{name}.weight"].shape for name in names]
        like = tuned.base.params[EMBED]
        tuned.shared = record.prepare(shapes, tuned.rank or 0, tuned.options, like)
    for name in names:
        W = tuned.base.params[f"{name}.weight"]
        rank, options = _of_layer(tuned, name)
        made = record.init(W, rank, options, rng, tuned.shared)
        for k in record.trains:
            # an array made like a W in Fortran order has that order too; AdamW needs C order
            if isinstance(a := made.get(k), np.ndarray) and not a.flags.c_contiguous:
                made[k] = np.array(a, order="C")
        own = {"W": W.copy()} if record.owns_weight else {}
        tuned.layers[name] = own | {argument: plain(a) for argument, a in made.items()}


def shapes_of(model: Llama) -> Llama:
    """The same model with shape-only weights, which keep their forms and sizes in bytes.

    `attach` on it allocates no array, whatever sizes a file claims.
    """
    params: dict[str, Any] = {name: shape_alone(a) for name, a in model.params.items()}
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


def merge(tuned: Tuned, weights: Literal["float32", "nf4"] = "float32") -> Llama:
    """A new model whose weights are W + ΔW, added in float64 and rounded once.

    tuned does not change, and weights without an adapter keep their form. weights: the form of the
    linears that change; "nf4" quantises them again, and a warning says by how much that moves them.
    Raises TypeError if tuned is not what `attach` returned, ValueError for another form.
    """
    base = adapted(tuned, "merge").base
    if weights == "float32":
        return _with_change(base, tuned, +1)
    find("form of weights", weights, dict.fromkeys(("float32", "nf4")))
    linears = {f"{layer}.weight" for layer in base.config.linears()}
    squares = np.zeros(2)  # of the errors, of the weights

    def quantised(name: str, W: np.ndarray) -> Any:
        if name not in linears:
            return W
        packed = in_nf4(W.shape, blocks_of(W, nf4.BLOCK))
        squares[:] += [np.square(a, dtype=np.float64).sum() for a in (np.asarray(packed) - W, W)]
        return packed

    merged = _with_change(base, tuned, +1, quantised)
    lost = math.sqrt(squares[0] / (squares[1] or 1))
    said = f"merge: NF4 moves the merged weights by {lost:.1%} of their size (root mean square)"
    warnings.warn(said, stacklevel=2)
    return merged


def unmerge(merged: Llama, tuned: Tuned) -> Llama:
    """A new model with the weights of `merged` minus tuned's ΔW: the base, up to one rounding.

    Raises TypeError if merged is not a Llama, or tuned is not what `attach` returned.
    """
    check_base("unmerge", merged)
    return _with_change(merged, adapted(tuned, "unmerge"), -1)


def adapted(tuned: Tuned, what: str) -> Tuned:
    """Return tuned; raises TypeError if `attach` did not make it."""
    if not isinstance(tuned, Tuned):
        raise TypeError(
            f"{what}: got a {type(tuned).__name__}, wanted a Tuned: what attach returns"
        )
    return tuned


def _with_change(
    model: Llama, tuned: Tuned, sign: int, form: Callable[..., Any] = lambda name, W: W
) -> Llama:
    """The model plus or minus ΔW. form(name, W): what is stored for a changed W."""
    params = dict(model.params)
    if tuned.record.whole_model:
        for name, moved in tuned.weights.items():
            change = moved.astype(np.float64) - tuned.base.params[name]
            params[name] = form(name, (dense(params[name]) + sign * change).astype(model.dtype))
    for layer in tuned.layers:
        name = f"{layer}.weight"
        whole = dense(params[name]).astype(np.float64) + sign * tuned.delta(layer)
        params[name] = form(name, whole.astype(model.dtype))
    return Llama(model.config, params, model.tokenizer)
