"""What a technique states: its parameters, its pair, what trains, its step rule, its merge, its
names on disk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Op

Arrays = dict[
    str, Any
]  # the arguments of one adapted linear by name: arrays, and numbers such as the scaling s


@dataclass(frozen=True)
class PeftFormat:
    """How PEFT stores a technique: adapter_config.json's peft_type, and each array's name on
    disk.
    """

    type: str  # "LORA", "VERA"
    names: Mapping[str, str]  # argument -> suffix of its key: {"A": "lora_A.weight"}
    shared: Mapping[str, str] = field(
        default_factory=dict
    )  # argument -> its one key: {"A": "vera_A"}


@dataclass(frozen=True)
class Method:
    """One technique as a record. attach, train, merge, the ledger and the formats read nothing
    else.
    """

    name: str
    title: str  # as it is printed: "LoRA-FA"
    source: str  # paper, arXiv id, equation
    formula: str  # the adapted weight in a line
    op: Op  # one adapted linear, forward(x, W, …): the true vector-Jacobian product of it
    trains: tuple[str, ...]  # which arguments get gradients
    init: Callable[..., Arrays]  # (W, rank, options, rng, shared) -> arguments after W
    delta: Callable[..., np.ndarray]  # (**arguments) -> ΔW (O, I) of the adapter: merged is W + ΔW
    count: Callable[[int, int, int], int]  # (I, O, rank) -> trainable numbers of one linear
    factors: Callable[..., tuple[np.ndarray, np.ndarray]] | None = (
        None  # (options, **arguments) -> (O, k), (k, I): their product, times s where the method
        # has one, is all that changed since the untouched base
    )
    options: Mapping[str, Any] = field(
        default_factory=dict
    )  # the only keywords that attach accepts
    takes: tuple[str, ...] = ("rank", "alpha", "targets")  # which of these the technique has
    default_rank: int = 8
    rank_above_width: bool = False  # is a rank above min(I, O) of use?
    check: Callable[[Mapping[str, Any]], None] | None = None  # options -> raises ValueError
    prepare: Callable[..., Arrays] | None = (
        None  # (shapes, rank, options, like) -> arrays shared by all layers
    )
    grad_rule: Callable[..., None] | None = (
        None  # (arrays, grads, options): in place, after clipping
    )
    lr_scale: Callable[[Mapping[str, Any]], Mapping[str, float]] | None = (
        None  # options -> {"B": ratio}
    )
    before_step: Callable[..., Any] | None = None  # (arrays) -> what after_step wants to remember
    after_step: Callable[..., None] | None = None  # (arrays, kept, step, options): in place
    owns_weight: bool = False  # W moves: train a copy
    whole_model: bool = False  # embeddings, norms and head train too
    peft: PeftFormat | None = None

    @property
    def has_dropout(self) -> bool:
        """Does the pair take a dropout probability p and a key?"""
        return "dropout" in self.options
