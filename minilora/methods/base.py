"""What a technique states: its pair, what trains, its step rule, its merge, its form on disk.

The arguments of one adapted linear go by name, in a dict. These names are reserved:

    x     the input (M, I): the pair's first argument, given by the model
    W     the frozen weight (O, I): the second argument, given by the model or, where the technique
          moves it (`owns_weight`), the technique's own copy
    xd    what dropout made of x: the pair's last argument, None where nothing is dropped; only a
          technique with the option `dropout` has it
    s     a number that scales the product of the technique's `factors`
    alpha, rank   come to `init` with the options and the rank: alpha of this linear, its rank

All other names are the technique's own. A name in `trains` is an array that gets a gradient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Op

Arrays = dict[str, Any]  # arguments by name: arrays, and numbers such as the scaling s
Options = Mapping[str, Any]  # the technique's options by name, and alpha where it takes one


@dataclass(frozen=True)
class Settings:
    """What an adapter was attached with, for its form on disk."""

    rank: int | None
    alpha: float | None
    options: Options
    rank_pattern: Mapping[str, int]  # name or regular expression of linears -> their own rank
    alpha_pattern: Mapping[str, float]


@dataclass(frozen=True)
class PeftFormat:
    """How PEFT stores a technique. Saving checks that reading gives each linear's change again."""

    type: str  # adapter_config.json's peft_type: "LORA", "VERA"
    names: Mapping[str, str]  # argument -> suffix of its key: {"A": "lora_A.weight"}
    # (settings, layer -> arguments) -> fields of adapter_config.json, layer -> argument -> array
    to_peft: Callable[[Settings, Mapping[str, Arrays]], tuple[dict[str, Any], dict[str, Arrays]]]
    # (adapter_config.json) -> attach's keywords; None if the file is not of this technique. Raises
    # ValueError for a field whose value the technique cannot have.
    from_peft: Callable[[Mapping[str, Any]], dict[str, Any] | None]
    shared: Mapping[str, str] = field(default_factory=dict)  # argument -> its one key
    drawn: str = ""  # config field: False where the shared arrays are left out, drawn by a key
    claims: tuple[str, ...] = ()  # fields that change the formula, and that this technique knows
    # (options, a linear's arguments as attached, argument -> array that `to_peft` wrote) -> its own
    # arrays, with a moved W; None: it wrote its own arrays. Raises ValueError if they cannot be
    # computed from what was written.
    restore: Callable[[Options, Arrays, Arrays], Arrays] | None = None


@dataclass(frozen=True)
class Method:
    """One technique as a record: all that attach, train, merge, the ledger and storage read."""

    name: str
    title: str  # as it is printed: "LoRA-FA"
    source: str  # paper, arXiv id, equation
    formula: str  # the adapted weight in a line
    op: Op  # the pair of one adapted linear, forward(x, W, …): its true vector-Jacobian product
    trains: tuple[str, ...]  # which arguments get gradients
    # (W, rank, options, rng, shared) -> the arguments after W of a fresh linear, with which ΔW = 0;
    # a technique that owns its weight may return another W among them
    init: Callable[[np.ndarray, int, Options, np.random.Generator, Arrays], Arrays]
    delta: Callable[..., np.ndarray]  # (**arguments) -> ΔW (O, I): the merged weight is W + ΔW
    count: Callable[[int, int, int], int]  # (I, O, rank) -> how many numbers of one linear train
    # (options, **arguments) -> thin (O, k), (k, I): s times their product is the whole change of
    # the base's W; None: the change is no such product
    factors: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # name -> default, for attach
    about: Mapping[str, str] = field(default_factory=dict)  # option -> its meaning and unit
    # steps of a run -> options that the paper chooses by them; a comparison takes these
    of_run: Callable[[int], Options] | None = None
    takes: tuple[str, ...] = ("rank", "alpha", "targets")  # which of these the technique has
    default_rank: int = 8
    rank_above_width: bool = False  # is a rank above min(I, O) of use?
    check: Callable[[Options], None] | None = None  # raises ValueError for a wrong option
    # ((O, I) of each linear, rank, options, like) -> arrays that all layers share, of like's dtype
    prepare: Callable[[list[tuple[int, int]], int, Options, Any], Arrays] | None = None
    # (**arguments) -> frozen arguments that are made before each pass, constants for backward
    derived: Callable[..., Arrays] | None = None
    # (arrays, gradients, options): changes one linear's gradients in place, after clipping and
    # before AdamW
    grad_rule: Callable[[Arrays, dict[str, np.ndarray], Options], None] | None = None
    lr_scale: Callable[[Options], Mapping[str, float]] | None = None  # -> {"B": factor on the rate}
    # (arrays) -> what `after_step` needs to know of them, before AdamW's step
    before_step: Callable[[Arrays], Any] | None = None
    # (arrays, what `before_step` returned, step = 1, 2, …, options): the technique's own step, in
    # place, after AdamW's
    after_step: Callable[[Arrays, Any, int, Options], None] | None = None
    # arguments that a step rule adds and keeps between steps -> the argument of the same shape
    remembers: Mapping[str, str] = field(default_factory=dict)
    owns_weight: bool = False  # W is the technique's own copy, which it moves or `init` returns
    whole_model: bool = False  # embeddings, norms and head train too
    peft: PeftFormat | None = None  # None: PEFT does not know the technique

    @property
    def has_dropout(self) -> bool:
        """Does the pair take xd, the input after dropout?"""
        return "dropout" in self.options


def check_probability(options: Options) -> None:
    """Raises ValueError unless 0 <= dropout < 1."""
    p = options["dropout"]
    if not (isinstance(p, int | float) and 0 <= p < 1):
        raise ValueError(f"dropout: got {p!r}, wanted a probability of at least 0 and below 1")


def whole_number(value: float) -> float:
    """8.0 as 8: PEFT writes whole alphas as whole numbers."""
    return int(value) if abs(value) < 2**53 and value == int(value) else value
