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


# What the functions of a record take -> what they return. Callable[..., X]: arguments come by name.
#
# W, rank, options, rng, shared -> the arguments after W of a fresh linear, which change nothing:
# ΔW = 0. W may have any form (`meta.dense` gives its numbers); `filled` needs its dtype alone. A
# technique that owns its weight may return another W, such as what a part is taken out of.
Init = Callable[[np.ndarray, int, Options, np.random.Generator, Arrays], Arrays]
# arguments, W among them -> ΔW (O, I) of the adapter: the merged weight is W + ΔW
Delta = Callable[..., np.ndarray]
# I, O, rank -> how many numbers of one linear train
Count = Callable[[int, int, int], int]
# options, arguments -> thin factors (O, k), (k, I): s times their product is the whole change
Factors = Callable[..., tuple[np.ndarray, np.ndarray]]
# the shape (O, I) of each linear, rank, options, like -> arrays that all share, as `like` is
Prepare = Callable[[list[tuple[int, int]], int, Options, Any], Arrays]
# arguments -> frozen ones, made from the others before each pass: constants for backward
Derived = Callable[..., Arrays]
# arrays, grads, options: changes the gradients of one linear in place, after clipping, before AdamW
GradRule = Callable[[Arrays, dict[str, np.ndarray], Options], None]
# arrays -> what `after_step` wants to know of them before AdamW's step
BeforeStep = Callable[[Arrays], Any]
# arrays, kept, step, options: the technique's own step, in place, after AdamW's step 1, 2, …
AfterStep = Callable[[Arrays, Any, int, Options], None]


@dataclass(frozen=True)
class Settings:
    """What an adapter was attached with, for its form on disk."""

    rank: int | None
    alpha: float | None
    options: Options
    rank_pattern: Mapping[str, int]  # name or regular expression of linears -> their own rank
    alpha_pattern: Mapping[str, float]


# settings, layers -> fields of adapter_config.json, layer -> argument -> array that is written
ToPeft = Callable[[Settings, Mapping[str, Arrays]], tuple[dict[str, Any], dict[str, Arrays]]]
# adapter_config.json -> attach's keywords; None where it is not of this technique. Raises
# ValueError for a field whose value the technique cannot have.
FromPeft = Callable[[Mapping[str, Any]], dict[str, Any] | None]
# options, a linear's arguments as attached, argument -> array that `to_peft` wrote -> the linear's
# own arrays, a moved W among them. Raises ValueError where what was written does not hold them.
Restore = Callable[[Options, Arrays, Arrays], Arrays]


@dataclass(frozen=True)
class PeftFormat:
    """How PEFT stores a technique. Saving checks that what is written gives each change back."""

    type: str  # adapter_config.json's peft_type: "LORA", "VERA"
    names: Mapping[str, str]  # argument -> suffix of its key: {"A": "lora_A.weight"}
    to_peft: ToPeft
    from_peft: FromPeft
    shared: Mapping[str, str] = field(default_factory=dict)  # argument -> its one key
    drawn: str = ""  # config field: False where the shared arrays are left out, drawn by a key
    claims: tuple[str, ...] = ()  # fields that change the formula, and that this technique knows
    restore: Restore | None = None  # None: the arrays that are written are the technique's own


@dataclass(frozen=True)
class Moment:
    """A line of a training step that is worth a look. The first line that fits is shown."""

    name: str  # a few words
    says: str  # one or two sentences
    phase: str  # forward, backward, step
    line: str  # how the line of the page begins
    op: str = ""  # the page's name: adamw, attention, delta_lora.after_step; "": the technique's
    place: str = ""  # a part of the place's name: q_proj
    zero: str = ""  # a name that must be 0 there, an argument at the start; -name: that must not

    def is_in(self, phase: str, place: str, op: str, own: str) -> bool:
        """Can it be in this event? own: the name of the technique's op."""
        return (phase, op) == (self.phase, self.op or own) and self.place in place

    def holds(self, names: Mapping[str, np.ndarray]) -> bool:
        """Is what must be 0 all 0?"""
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
    factors: Factors | None = None  # None: the change is no product of thin factors
    options: Mapping[str, Any] = field(default_factory=dict)  # name -> default, for attach
    about: Mapping[str, str] = field(default_factory=dict)  # option -> its meaning and unit
    # (steps of a run, its seed) -> options that depend on them; a comparison takes these
    of_run: Callable[[int, int], Options] | None = None
    takes: tuple[str, ...] = ("rank", "alpha", "targets")  # which of these the technique has
    default_rank: int = 8
    rank_above_width: bool = False  # is a rank above min(I, O) of use?
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
    peft: PeftFormat | None = None  # None: PEFT does not know the technique
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
