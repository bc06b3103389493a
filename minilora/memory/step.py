"""Where the memory goes, in bytes: predicted from shapes, and measured in the process.

Both run the same step: `ledger` on shape-only arrays (`meta`), `measure` on real ones. If the two
differ, the prediction is wrong.
"""

import contextlib
import dataclasses
import gc
import tracemalloc
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Tensor, backward, tape
from ..formats.forms import FORMS, choose
from ..llama.model import Llama, ModelConfig
from ..methods.base import Method
from ..support import meta, show
from ..support.files import nearest
from ..support.machine import allocating
from ..support.meta import Meta, Storage, form_of, is_array
from ..support.plots import human
from ..support.values import named, whole
from ..tuning.adapters import Tuned, adapted, attach, shapes_of
from ..tuning.optim import AdamW
from .saved import Saved, saved_arrays, storage, storages

Batch = tuple[np.ndarray, np.ndarray]  # ids and targets (N, T)
CATEGORIES = ("weights", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Ledger:
    """Bytes by category, and the parts of each category.

    The four categories can be read as in a dict: ledger["weights"].
    """

    weights: int  # frozen + trainable + shared + moved
    gradients: int  # of the trainable arrays
    optimizer: int  # AdamW's two moments (mixed precision: and the 32-bit master copy)
    activations: int  # arrays on the tape when backward starts, each storage once
    frozen: int  # of weights: what does not train
    trainable: int  # of weights: what trains
    shared: int  # of weights: projections that all layers share (VeRA)
    moved: int  # of weights: what a step rule moves or remembers (Delta-LoRA: W, start factors)
    # arrays of the base whose copies are trained (full, Delta-LoRA), kept for detach; no step needs
    # them, so they count neither as weights nor in the peak
    base_kept: int
    scratch: int  # RoPE's tables, and the angles of the batch's rows
    # weights + optimizer + scratch + the most that forward and backward held at once. Predicted for
    # the twins: the pages hold more for a moment, such as the (T, T) scores of all heads
    peak: int
    transient: int  # the peak without weights, optimizer, scratch and activations
    saved: tuple[Saved, ...]  # the storages behind `activations`

    def __getitem__(self, category: str) -> int:
        try:
            return getattr(self, category)
        except AttributeError:
            raise nearest("category", category, (*CATEGORIES, "peak")) from None

    def keys(self) -> tuple[str, ...]:
        """The four categories: dict(ledger) has these."""
        return CATEGORIES

    def total(self) -> int:
        """The sum of the four categories; it is not the peak."""
        return sum(self[c] for c in CATEGORIES)

    def _facts(self) -> dict[str, str]:
        rows = {name: self[name] for name in CATEGORIES} | {"total": self.total()}
        return {name: human(size) for name, size in {**rows, "peak": self.peak}.items()}

    def __repr__(self) -> str:
        return show.line("Ledger", self._facts())

    def _repr_html_(self) -> str:
        return show.table("Ledger: bytes of one step", self._facts())


def ledger(
    model: Tuned | Llama | ModelConfig,
    batch_size: int | None = None,
    seq_len: int | None = None,
    *,
    batch: Batch | None = None,
    method: str | Method | None = None,
    mixed: bool = False,
    weights: str = "float32",
    embeddings: str = "float32",
    **how: Any,
) -> Ledger:
    """The predicted bytes of a training step. No array of the model is allocated.

    batch_size, seq_len: rows, and tokens per row; all targets count. Or batch: ids and targets
    (N, T), of which only the rows that can change the loss are computed.
    model: a Tuned, or a Llama or ModelConfig with method= and attach's keywords (rank, targets,
    recompute, options).
    mixed: 16-bit weights, gradients and activations, with a 32-bit master copy and moments of what
    trains.
    weights, embeddings: for a ModelConfig, as `load_model` takes them, without "stored".
    Arrays that a technique adds in training (Delta-LoRA's A_start and B_start, as large as A and B,
    when W first moves) count only for a Tuned that already has them.
    Raises ValueError for a Tuned with method=, mixed= or attach's keywords, for a model without
    method=, for a loaded model with weights= or embeddings=, or for sizes below 1; TypeError for a
    model of another kind.
    """
    given = (weights, embeddings) != ("float32", "float32")
    if weights == "stored" or (given and not isinstance(model, ModelConfig)):
        raise ValueError(
            "ledger: weights= (float32, nf4) and embeddings= are for a ModelConfig; a loaded model "
            "has its own forms, and 'stored' needs the file"
        )
    if isinstance(model, Tuned):
        if method or how or mixed:
            raise ValueError(
                "ledger: a Tuned has its method and its settings; got method=, mixed= or attach's "
                "keywords too"
            )
        return predict(shadow(model), _batch(batch_size, seq_len, batch))
    if not isinstance(model, Llama | ModelConfig):
        raise TypeError(
            f"ledger: got {named(model)}, wanted a Tuned, a Llama or a ModelConfig: load_model "
            "gives one"
        )
    if method is None:
        raise ValueError("ledger: wanted method= for a model without one")
    if isinstance(model, Llama) and not mixed:
        tuned = attach(shapes_of(model), method, **how)
    else:
        config = model.config if isinstance(model, Llama) else model
        forms = choose(config, weights, embeddings)
        if isinstance(model, Llama):
            forms = {name: form for name, a in model.params.items() if (form := form_of(a))}
        tuned = without_numbers(config, np.float16 if mixed else np.float32, method, forms, **how)
    row = predict(tuned, _batch(batch_size, seq_len, batch))
    if not mixed:
        return row
    numbers = sum(a.size for a in tuned.trainable.values())
    optimizer = 12 * numbers  # a master copy and two moments of 4 bytes
    change = optimizer - row.optimizer
    return dataclasses.replace(row, optimizer=optimizer, peak=row.peak + change)


@allocating("memory: the batch")
def _batch(batch_size, seq_len, batch, tokens=np.zeros) -> Batch:
    """ids and targets (N, T): those given, or tokens((N, T), int), all of which count."""
    if batch is not None:
        if batch_size is not None or seq_len is not None:
            raise ValueError("memory: got a batch, and batch_size or seq_len too; give one of them")
        ids, targets = (np.asarray(a) for a in batch)
        return ids, targets
    if batch_size is None and seq_len is None:
        raise ValueError("memory: got no sizes, wanted batch_size and seq_len, or batch=")
    for name, n in (("batch_size", batch_size), ("seq_len", seq_len)):
        whole(f"memory: {name}", n, 1)
    ids = tokens((batch_size, seq_len), int)
    return ids, ids


def predict(tuned: Tuned, batch: Batch, walk: Callable[[Tensor], None] = backward) -> Ledger:
    """The bytes of a step of a shape-only Tuned (`without_numbers`). walk: the backward pass."""
    held, optimizer = weight_arrays(tuned), AdamW(tuned.trainable).nbytes
    tuned.base.rope_tables(0, batch[0].shape[1])  # made once, not in a step
    with meta.counting() as memory, np.errstate(over="ignore"):  # 131,072 rows are inf in float16
        return _account(tuned, batch, lambda: memory.peak, walk, held, optimizer)


def measure(
    tuned: Tuned,
    batch_size: int | None = None,
    seq_len: int | None = None,
    *,
    batch: Batch | None = None,
    walk: Callable[[Tensor], None] = backward,
) -> Ledger:
    """The same as `ledger`, measured in one forward and backward pass.

    Without a batch the tokens are random. Weights: every array that the Tuned refers to, directly
    or not. Activations and gradients: read from the tape. Optimizer and peak: by tracemalloc.
    No weight changes: AdamW's moments are made, but its step is not run. walk: another backward
    pass. Raises ValueError for sizes below 1, or for both a batch and sizes, and TypeError if tuned
    is not what `attach` returned.
    """
    adapted(tuned, "measure")
    rng, vocabulary = np.random.default_rng(0), tuned.config.vocab_size
    batch = _batch(batch_size, seq_len, batch, lambda n, _: rng.integers(0, vocabulary, n))
    tuned.loss(*batch)  # a first pass makes RoPE's tables and compiles kernels
    held = [*_reachable(tuned, tuned.base.tokenizer).values()]
    with _tracing():
        optimizer = _traced(lambda: AdamW(tuned.trainable))
        runs = [_account(tuned, batch, _traced_peak(), walk, held, optimizer) for _ in range(2)]
    # Python's own tables may grow in one of the runs, which is not part of a step
    return min(runs, key=lambda run: run.peak)


@contextlib.contextmanager
def _tracing():
    """Turn tracemalloc on, and off again at the end if it was off."""
    gc.collect()
    before = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        yield
    finally:
        if not before:
            tracemalloc.stop()


def _traced_peak() -> Callable[[], int]:
    """A function that returns the peak of the bytes held from now on, minus the bytes held now."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    return lambda: tracemalloc.get_traced_memory()[1] - before


def _traced(make: Callable[[], Any]) -> int:
    """The bytes that NumPy allocates and keeps during a call of `make`, by tracemalloc."""

    def allocated():
        traces = tracemalloc.take_snapshot().filter_traces([of_numpy]).traces
        return sum(trace.size for trace in traces)

    of_numpy = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    before = allocated()
    made = make()
    after = allocated()
    del made
    return after - before


def _reachable(thing: Any, tokenizer: Any = None) -> dict[int, np.ndarray]:
    """id -> array: all arrays that a Tuned keeps alive.

    It follows the references of Python's garbage collector, except into the tokenizer and code.
    """
    arrays: dict[int, np.ndarray] = {}
    seen, waiting = {id(tokenizer)}, [thing]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, CODE):
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            arrays[id(thing)] = thing
        else:
            waiting.extend(gc.get_referents(thing))
    return arrays


CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def _account(tuned, batch, step_peak: Callable[[], int], walk, arrays, optimizer) -> Ledger:
    """Run a forward and a backward pass, and account for all bytes that were held."""
    ids, targets = batch[0].copy(), batch[1]  # a batch belongs to the step
    tables = tuned.base.rope_tables(0, ids.shape[1])
    scratch = _bytes([*tables, *(a for rows in tuned.base.rows_for(targets) for a in rows.angles)])
    angles = scratch - _bytes(tables)  # made in each step, and so part of its peak
    leaves = tuned.leaves()
    loss = tuned.loss(ids, targets, leaves=leaves, key=(tuned.seed, 1, 0))
    saved = saved_arrays(tape(loss), besides=[*arrays, *tables])
    walk(loss)
    peak = step_peak() - angles
    gradients = sum(leaf.grad.nbytes for leaf in leaves.values() if leaf.grad is not None)
    trainable, shared = _bytes(tuned.trainable.values()), _bytes(tuned.shared.values())
    moved, kept = map(_bytes, (_moved(tuned), base_kept(tuned)))
    aside = storages([*base_kept(tuned), *tables])  # beside the weights
    needed = {place: a for a in arrays if (place := storage(a)[0]) not in aside}
    held = _bytes(needed.values())
    activations = sum(s.nbytes for s in saved)
    return Ledger(
        weights=held,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        frozen=held - trainable - shared - moved,
        trainable=trainable,
        shared=shared,
        moved=moved,
        base_kept=kept,
        scratch=scratch,
        peak=held + optimizer + scratch + peak,
        transient=peak - activations,
        saved=tuple(saved),
    )


def weight_arrays(tuned: Tuned) -> list[np.ndarray]:
    """All arrays that are held between steps, also the base's; of a packed weight, its parts."""
    own = [a for arguments in tuned.layers.values() for a in arguments.values() if is_array(a)]
    base = [[w] if is_array(w) else _reachable(w).values() for w in tuned.base.params.values()]
    frozen = [a for parts in base for a in parts]
    return [*frozen, *tuned.weights.values(), *tuned.shared.values(), *own]


def base_kept(tuned):
    """The base's arrays whose copies the technique moves: no step reads these originals."""
    names = [f"{layer}.weight" for layer, arrays in tuned.layers.items() if "W" in arrays]
    return [tuned.base.params[name] for name in (*tuned.weights, *names)]


def _moved(tuned):
    """What a step rule moves or remembers: the weight, and what the record says."""
    keeps = {"W", *tuned.record.remembers} - {*tuned.record.trains}
    return [a for arguments in tuned.layers.values() for n, a in arguments.items() if n in keeps]


def _bytes(arrays) -> int:
    return sum(storages(arrays).values())


def without_numbers(
    config: ModelConfig, dtype, method: str | Method, forms: Mapping[str, str] | None = None, **how
) -> Tuned:
    """A shape-only Tuned. forms: matrix -> its form, if packed; how: attach's keywords."""
    params: dict[str, Any] = {name: Meta(shape, dtype) for name, shape in config.shapes().items()}
    for name, form in (forms or {}).items():
        shape = params[name].shape
        params[name] = Meta(shape, dtype, Storage(FORMS[form].size(shape)), form)
    return attach(Llama(config, params), method, **how)


def shadow(tuned: Tuned) -> Tuned:
    """A shape-only copy of a Tuned, with the arrays that a step rule has added in training."""
    names = ("rank", "alpha", "rank_pattern", "alpha_pattern", "targets")
    given = {name: getattr(tuned, name) for name in names}
    how = {k: v for k, v in given.items() if v is not None} | tuned.options
    how["recompute"] = tuned.recompute
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attach has already warned of the ranks
        shadow = attach(shapes_of(tuned.base), tuned.record, **how)
    for layer, arguments in tuned.layers.items():
        added = arguments.keys() - shadow.layers[layer].keys()
        shadow.layers[layer] |= {n: Meta(arguments[n].shape, arguments[n].dtype) for n in added}
    return shadow


def largest(size: Callable[[int], int], budget: float, limit: int = 2**20) -> int:
    """The largest n up to limit with size(n) <= budget; 0 if there is none. size must increase.

    Sizes grow almost linearly, so the next n to try is where a straight line meets the budget.
    After eight tries the range is halved instead.
    """
    low, high, held = 1, limit + 1, size(1)
    if held > budget:
        return 0
    slope, tries = max(size(2) - held, 1.0), 0
    while high - low > 1:
        tries += 1
        rise = min((budget - held) / slope, limit)
        guess = low + int(rise) if tries < 8 else (low + high) // 2
        n = min(max(guess, low + 1), high - 1)
        here = size(n)
        slope = max((here - held) / (n - low), 1e-9)
        if here <= budget:
            low, held = n, here
        else:
            high = n
    return low
