"""Where the memory goes, in bytes: predicted from shapes alone, and measured in the process.

Both run the same step: `ledger` over arrays that have no numbers (`meta`), `measure` over the real
ones. So there is no second description of the model, and what the two say differs by nothing but
the truth.
"""

import ast
import contextlib
import functools
import gc
import inspect
import re
import textwrap
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import meta
from .adapters import Tuned, attach
from .engine import Node, backward, tape
from .meta import Meta, is_array
from .model import Llama, ModelConfig

CATEGORIES = ("weights", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Saved:
    """One storage that the tape keeps for backward."""

    where: str  # the part of the model: "model.layers.0.self_attn.q_proj"
    op: str  # the op that keeps it
    what: str  # its name in the op's forward: "x", "z", "gate"
    shape: tuple[int, ...]
    nbytes: int  # of the whole storage
    shared_with: tuple[str, ...]  # other places that keep the same storage


@dataclass(frozen=True)
class Ledger:
    """Bytes by category, and what lies behind them.

    ledger["weights"] and the like answer for the four categories.
    """

    weights: int  # frozen + trainable + shared + copies
    gradients: int  # of the trainable arrays
    optimizer: int  # AdamW's two moments (mixed precision: and the 32-bit master copy)
    activations: int  # saved arrays on the tape when backward starts, once a storage
    frozen: int  # of weights: what does not train
    trainable: int  # of weights: what trains
    shared: int  # of weights: projections that all layers share (VeRA)
    copies: int  # of weights: copies of weights that a step rule moves (Delta-LoRA)
    peak: int  # weights + optimizer + the most that forward and backward held at one time
    transient: int  # of the peak: neither weights, nor optimizer, nor activations
    saved: tuple[Saved, ...]  # the storages behind `activations`

    def __getitem__(self, category: str) -> int:
        return getattr(self, category)

    def keys(self) -> tuple[str, ...]:
        """The four categories: dict(ledger) has these."""
        return CATEGORIES

    def total(self) -> int:
        """The four categories together; the peak is another number."""
        return sum(self[c] for c in CATEGORIES)


def ledger(
    model: Tuned | Llama | ModelConfig,
    batch_size: int,
    seq_len: int,
    *,
    method: str | None = None,
    mixed: bool = False,
    **how: Any,
) -> Ledger:
    """Predicted bytes of a training step on (batch_size, seq_len) tokens, all of which count;
    nothing is allocated.

    model: a Tuned, or a Llama or ModelConfig with method= and attach's keywords (rank, targets,
    options).
    mixed: 16-bit weights, gradients and activations, with a 32-bit master copy and moments of what
    trains.
    """
    _check_sizes(batch_size, seq_len)
    if isinstance(model, Tuned):
        if method or how:
            raise ValueError(
                "ledger: a Tuned has its method already; got method or its keywords too"
            )
        tuned = _without_numbers(model.config, model.base.dtype, model.method, _settings(model))
    else:
        if method is None:
            raise ValueError("ledger: wanted method= for a model without one")
        config = model.config if isinstance(model, Llama) else model
        dtype = np.float16 if mixed else model.dtype if isinstance(model, Llama) else np.float32
        tuned = _without_numbers(config, dtype, method, how)
    with meta.counting() as memory:
        found = _account(tuned, batch_size, seq_len, lambda: memory.peak)
    if not mixed:
        return found
    numbers = sum(a.size for a in tuned.trainable.values())
    return _replaced(found, optimizer=12 * numbers)  # a master copy and two moments of 4 bytes


def measure(tuned: Tuned, batch_size: int, seq_len: int) -> Ledger:
    """The same, measured: one step's forward and backward on random tokens, read off the tape and
    tracemalloc.

    The weights stay as they are: the optimizer's moments are made, its step is not taken.
    """
    _check_sizes(batch_size, seq_len)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, tuned.config.vocab_size, (batch_size, seq_len))
    tuned.loss(tokens, tokens)  # whatever is made once (rope tables, compiled kernels) is made now
    with _tracing():
        runs = [_account(tuned, batch_size, seq_len, _traced_peak(), tokens) for _ in range(2)]
    # Python's own tables grow at odd moments, which is no part of a step: the smaller peak counts
    return min(runs, key=lambda run: run.peak)


@contextlib.contextmanager
def _tracing():
    """tracemalloc on, and off again if it was off."""
    gc.collect()
    before = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        yield
    finally:
        if not before:
            tracemalloc.stop()


def _traced_peak() -> Callable[[], int]:
    """Asked later: the most bytes that were held at one time since now, above those held now."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    return lambda: tracemalloc.get_traced_memory()[1] - before


def _account(tuned, batch_size, seq_len, step_peak: Callable[[], int], tokens=None) -> Ledger:
    """One forward and backward pass, and what it held."""
    tables = tuned.base.rope_tables(0, seq_len)
    ids = np.zeros((batch_size, seq_len), np.int64) if tokens is None else tokens.copy()
    leaves = tuned.leaves()
    loss = tuned.loss(ids, ids, leaves=leaves, key=(tuned.seed, 1, 0))
    saved = saved_arrays(tape(loss), besides=[*weight_arrays(tuned), *tables])
    backward(loss)
    peak = step_peak()
    gradients = sum(leaf.grad.nbytes for leaf in leaves.values() if leaf.grad is not None)
    trainable, shared = _bytes(tuned.trainable.values()), _bytes(tuned.shared.values())
    copies = _bytes(_copies(tuned))
    weights, optimizer = _bytes(weight_arrays(tuned)), 2 * trainable
    activations = sum(s.nbytes for s in saved)
    return Ledger(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        frozen=weights - trainable - shared - copies,
        trainable=trainable,
        shared=shared,
        copies=copies,
        peak=weights + optimizer + peak,
        transient=peak - activations,
        saved=tuple(saved),
    )


def weight_arrays(tuned: Tuned) -> list[np.ndarray]:
    """Every array that is held whether or not a step runs."""
    own = [a for arguments in tuned.layers.values() for a in arguments.values() if is_array(a)]
    frozen = [] if tuned.record.whole_model else list(tuned.base.params.values())
    return [*frozen, *tuned.weights.values(), *tuned.shared.values(), *own]


def _copies(tuned):
    """What a step rule moves or remembers:
    arguments that are neither trained, nor shared, nor small frozen factors.
    """
    keeps = ("W", "A_start", "B_start")
    return [a for arguments in tuned.layers.values() for n, a in arguments.items() if n in keeps]


def saved_arrays(nodes: Iterable[Node], besides: Iterable[np.ndarray] = ()) -> list[Saved]:
    """Every storage in the nodes' caches, once, in the order of the forward pass, without those of
    `besides`.
    """
    known = storages(besides)
    holders: dict[int, list[tuple[str, str]]] = {}
    first: dict[int, tuple] = {}
    for node in nodes:
        for op, what, a in _named(node):
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


def _named(node: Node) -> Iterator[tuple[str, str, Any]]:
    """(op, name, array) for each array in a node's cache."""
    if node.op is None:  # a leaf
        return
    parts = node.cache if isinstance(node.cache, tuple) else (node.cache,)
    names = cache_names(node.op.forward)
    for i, part in enumerate(parts):
        for a in arrays_in(part):
            yield node.op.name, names[i] if i < len(names) else f"saved {i}", a


@functools.cache
def cache_names(forward: Callable) -> tuple[str, ...]:
    """What a forward calls the parts of its cache:
    they stand in its own last line, `return y, (x, z, W)`.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError):
        return ()
    returns = [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple)
    ]
    if not returns or len(returns[-1].elts) != 2:
        return ()
    cache = returns[-1].elts[1]
    return tuple(ast.unparse(e) for e in (cache.elts if isinstance(cache, ast.Tuple) else [cache]))


def arrays_in(cache) -> list:
    """The arrays of a cache: of one array, or of nested tuples."""
    if is_array(cache):
        return [cache]
    return [a for part in cache for a in arrays_in(part)] if isinstance(cache, tuple | list) else []


def storage(a) -> tuple[int, int]:
    """Where the root storage behind an array lies, and its bytes:
    a view, however small, keeps all of its root alive.
    """
    if isinstance(a, Meta):
        return id(a.storage), a.storage.nbytes
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a.__array_interface__["data"][0], a.nbytes


def storages(arrays: Iterable) -> dict[int, int]:
    """Place -> bytes of the storages behind the arrays, each once."""
    return dict(storage(a) for a in arrays)


def _bytes(arrays) -> int:
    return sum(storages(arrays).values())


def _without_numbers(config, dtype, method, how) -> Tuned:
    """A Tuned of shapes alone."""
    params: dict[str, Any] = {name: Meta(shape, dtype) for name, shape in config.shapes().items()}
    return attach(Llama(config, params), method, **how)


def _settings(tuned: Tuned) -> dict[str, Any]:
    """attach's keywords that a Tuned was made with."""
    given = {"rank": tuned.rank, "alpha": tuned.alpha, "targets": tuned.targets}
    return {k: v for k, v in given.items() if v is not None} | dict(tuned.options)


def _replaced(found: Ledger, optimizer: int) -> Ledger:
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    change = optimizer - found.optimizer
    return Ledger(**{**fields, "optimizer": optimizer, "peak": found.peak + change})


def _check_sizes(batch_size, seq_len):
    for name, n in (("batch_size", batch_size), ("seq_len", seq_len)):
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"memory: {name} is {n!r}, wanted a whole number of at least 1")


def by_kind(found: Ledger) -> list[tuple[str, str, str, int, int, tuple[str, ...]]]:
    """The saved storages summed over layers: (part, op, what, how many, bytes, shared with)."""
    kinds: dict[tuple[str, str, str], list] = {}
    for s in found.saved:
        key = _without_layer(s.where), s.op, s.what
        kind = kinds.setdefault(
            key, [0, 0, tuple(_without_layer(other) for other in s.shared_with)]
        )
        kind[0] += 1
        kind[1] += s.nbytes
    return [(*key, count, nbytes, shared) for key, (count, nbytes, shared) in kinds.items()]


def _without_layer(name: str) -> str:
    return re.sub(r"^model\.layers\.\d+\.", "", name)


def largest(fits: Callable[[int], bool], limit: int = 2**20) -> int:
    """The largest n up to limit with fits(n), where fits turns false once; 0 where none does."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
