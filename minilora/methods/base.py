"""The record of a technique: its pair, what trains, its step rule, its merge, its form on disk.

The arguments of one adapted linear go by name, in a dict. These names are reserved:

    x     the input (M, I): the pair's first argument, given by the model
    W     the frozen weight (O, I): the second argument, given by the model or, where the technique
          moves it (`owns_weight`), the technique's own copy
    xd    x after dropout: the pair's last argument, None without dropout; only a technique with the
          option `dropout` has it
    s     a number that scales the product of the technique's `factors`
    alpha, rank   of this linear: `init` gets alpha among the options, and rank as an argument

All other names are the technique's own. A name in `trains` is an array that gets a gradient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Op

Arrays = dict[str, Any]  # arguments by name: arrays, and numbers such as the scaling s
Options = Mapping[str, Any]  # the technique's options by name, and alpha where it takes one


# What the functions of a record take -> what they return. Callable[..., X] takes arguments by name.
#
# W, rank, options, rng, shared -> the arguments after W of a new linear, at which ΔW = 0. W may
# have any form: `meta.dense` gives its numbers, and `filled` needs only its dtype. A technique that
# owns its weight may return another W, such as W minus a part of it.
Init = Callable[[np.ndarray, int, Options, np.random.Generator, Arrays], Arrays]
# arguments, W among them -> ΔW (O, I) of the adapter: the merged weight is W + ΔW
Delta = Callable[..., np.ndarray]
# I, O, rank -> the number of trainable parameters of one linear
Count = Callable[[int, int, int], int]
# options, arguments -> thin factors (O, k), (k, I): s times their product is the whole change
Factors = Callable[..., tuple[np.ndarray, np.ndarray]]
# the shape (O, I) of each linear, rank, options, like -> shared arrays, of the same kind as `like`
Prepare = Callable[[list[tuple[int, int]], int, Options, Any], Arrays]
# arguments -> frozen arguments, computed from them before each pass: constants for backward
Derived = Callable[..., Arrays]
# arrays, grads, options: changes the gradients of one linear in place, after clipping, before AdamW
GradRule = Callable[[Arrays, dict[str, np.ndarray], Options], None]
# arrays -> what `after_step` needs to know of them from before AdamW's step
BeforeStep = Callable[[Arrays], Any]
# arrays, kept, step, options: the technique's own step, in place, after AdamW's step 1, 2, …
AfterStep = Callable[[Arrays, Any, int, Options], None]


@dataclass(frozen=True)
class Settings:
    """The settings of an attached adapter, for its form on disk."""

    rank: int | None
    alpha: float | None
    options: Options
    rank_pattern: Mapping[str, int]  # name or regular expression of linears -> their own rank
    alpha_pattern: Mapping[str, float]


# settings, layers -> fields of adapter_config.json, layer -> argument -> array that is written
ToPeft = Callable[[Settings, Mapping[str, Arrays]], tuple[dict[str, Any], dict[str, Arrays]]]
# adapter_config.json -> attach's keywords; None if it is not of this technique. Raises ValueError
# for a value that the technique does not support.
FromPeft = Callable[[Mapping[str, Any]], dict[str, Any] | None]
# options, a linear's arguments as attached, argument -> array that `to_peft` wrote -> the linear's
# own arrays, with a moved W. Raises ValueError if the written arrays do not determine them.
Restore = Callable[[Options, Arrays, Arrays], Arrays]


@dataclass(frozen=True)
class PeftFormat:
    """How PEFT stores a technique. Saving checks that the files give back each linear's change."""

    type: str  # adapter_config.json's peft_type: "LORA", "VERA"
    names: Mapping[str, str]  # argument -> suffix of its key: {"A": "lora_A.weight"}
    to_peft: ToPeft
    from_peft: FromPeft
    shared: Mapping[str, str] = field(default_factory=dict)  # argument -> its one key
    drawn: str = ""  # config field: False if a key draws the shared arrays, which are not stored
    claims: tuple[str, ...] = ()  # fields that change the formula and that it supports
    restore: Restore | None = None  # None: the written arrays are the technique's own


@dataclass(frozen=True)
class Moment:
    """A line of a training step to which the trace points: the first line that fits."""

    name: str  # a few words
    says: str  # one or two sentences
    phase: str  # forward, backward, step
    line: str  # how the line of the page begins
    op: str = ""  # the page's name: adamw, attention, delta_lora.after_step; "": the technique's
    place: str = ""  # a part of the place's name: q_proj
    zero: str = ""  # an array that must be 0 there (an argument: at the call); -name: not 0

    def is_in(self, phase: str, place: str, op: str, own: str) -> bool:
        """Can the line be in this event? own: the name of the technique's op."""
        return (phase, op) == (self.phase, self.op or own) and self.place in place

    def holds(self, names: Mapping[str, np.ndarray]) -> bool:
        """Is the condition in `zero` true?"""
        name = self.zero.removeprefix("-")
        return not name or (name in names and names[name].any() == self.zero.startswith("-"))


RULES = "derived", "grad_rule", "before_step", "after_step"  # a Method's functions beside its pair


@dataclass(frozen=True)
class Method:
    """One technique as a record: all that attach, train, merge, the ledger and storage read."""

    name: str
    title: str  # as it is printed: "LoRA-FA"
    source: str  # paper, arXiv id, equation
    formula: str  # the adapted weight in a line
    op: Op  # the pair of one adapted linear, forward(x, W, …): its true vector-Jacobian product
    trains: tuple[str, ...]  # which arguments get gradients
    init: Init
    delta: Delta
    count: Count
    factors: Factors | None = None  # None: the change is not a product of thin factors
    options: Mapping[str, Any] = field(default_factory=dict)  # name -> default, for attach
    about: Mapping[str, str] = field(default_factory=dict)  # option -> its meaning and unit
    # (steps of a run, its seed) -> options that depend on them; a comparison uses these
    of_run: Callable[[int, int], Options] | None = None
    takes: tuple[str, ...] = ("rank", "alpha", "targets")  # which of these the technique has
    default_rank: int = 8
    rank_above_width: bool = False  # is a rank above min(I, O) useful?
    check: Callable[[Options], None] | None = None  # raises ValueError for a wrong option
    prepare: Prepare | None = None
    derived: Derived | None = None
    grad_rule: GradRule | None = None
    lr_scale: Callable[[Options], Mapping[str, float]] | None = None  # -> {"B": factor on the rate}
    before_step: BeforeStep | None = None
    after_step: AfterStep | None = None
    # arguments that a step rule adds and keeps between steps -> the argument of the same shape
    remembers: Mapping[str, str] = field(default_factory=dict)
    owns_weight: bool = False  # W is the technique's own copy, which it moves or `init` returns
    whole_model: bool = False  # embeddings, norms and head train too
    peft: PeftFormat | None = None  # None: PEFT does not have the technique
    moments: tuple[Moment, ...] = ()  # of its traced step

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
