"""The ledger's bytes as formulas, for the calculator: read off the ledger, not written by hand.

    python docs/site/formulas.py FILE       write them as JavaScript

The ledger runs a step on arrays that have a shape and no numbers. Here it runs on a few small
models whose sizes are chosen so that the size of an array tells which axes it has. So each byte is
known as a product of axes: what is saved is a sum of such products, and the peak is the largest of
the sums that are alive at one moment. Both are the same in all layers but the first, so models of
one, two and three layers tell them for any number of layers. (A SmolLM3 whose last layer does not
rotate needs three and four.)

`evaluate` is what calculator.js does, in Python: tests hold both against the ledger.
"""

import functools
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from minilora.engine import backward
from minilora.formats.config import supported
from minilora.llama.architectures import ARCHITECTURES
from minilora.llama.model import ModelConfig
from minilora.llama.shapes import SHAPES
from minilora.memory import step
from minilora.memory.tables import PARTS
from minilora.methods import METHODS
from minilora.methods.base import Method, Settings
from minilora.support import meta
from minilora.support.files import data_folder
from minilora.support.meta import Meta, is_array
from minilora.tuning.choices import DEFAULT_TARGETS

# The axes of the small models. M rows (tokens); R1, R2 those of the head's first two chunks; C
# width, Q and K what q_proj and k_proj give; F feed-forward; V tokens; r rank; H heads, G of keys;
# D head size, h = D/2
BATCH, LENGTH, CHUNK = 3, 75, 128
M = BATCH * LENGTH
SIZES = dict(C=211, Q=14 * 26, K=7 * 26, F=307, V=1009, r=17, H=14, h=13, G=7, D=26)
AXES = dict(M=M, R1=CHUNK, R2=M - CHUNK, **SIZES)
ROWS, WEIGHTS = ("M", "R1", "R2"), ("C", "Q", "K", "F", "V", "r")
PRODUCTS = [  # what an array's size can be
    ("1", "1"),
    *((row, axis) for row in ROWS for axis in ("1", *WEIGHTS, "H", "h")),
    ("M", "G"),
    *(("1", axis) for axis in (*WEIGHTS, "D")),
    *itertools.combinations_with_replacement(WEIGHTS, 2),
    ("M", "g"),  # g: h in a batch of more than one row, else 0
]
AT = {AXES.get(a, 1) * AXES.get(b, 1): i for i, (a, b) in enumerate(PRODUCTS[:-1])}  # size -> which
assert len(AT) == len(PRODUCTS) - 1, "two products of axes have one size: choose other sizes"
ANGLES = PRODUCTS.index(("M", "h"))
FLOAT, INT = 4, 8  # bytes of a number and of an id in the small models
Sum = np.ndarray  # how often each of PRODUCTS occurs


KINDS = ("llama", "qwen2", "qwen3", "smollm3")  # with steps of their own; smollm3: see `kind_of`


def kind_of(config: ModelConfig) -> str:
    """Which of KINDS has this model's step. Only the first and the last layer can have a step's
    peak, and of those only SmolLM3's last one may not rotate. Raises ValueError for other layers
    that do not.
    """
    rotate = [config.rotates(i) for i in range(config.num_hidden_layers)]
    plan = [config.model_type != "smollm3" or i % 4 != 3 for i in range(len(rotate))]
    if rotate != plan:
        raise ValueError("no_rope_layers: supported is every fourth layer without a rotation")
    if config.model_type in ("mistral", "smollm3"):
        return "llama" if rotate[-1] else "smollm3"
    return config.model_type


def model(layers: int, tied: bool = False, kind: str = "llama") -> ModelConfig:
    """A small model of these sizes."""
    heads = dict(num_attention_heads=14, num_key_value_heads=7, head_dim=26)
    widths = dict(vocab_size=SIZES["V"], hidden_size=SIZES["C"], intermediate_size=SIZES["F"])
    more: dict[str, Any] = dict(model_type=kind)
    if kind == "smollm3":
        more["no_rope_layers"] = (1,) * (layers - 1) + (0,)
    return ModelConfig(
        num_hidden_layers=layers, tie_word_embeddings=tied, **more, **heads, **widths
    )


LINEARS = {name.rsplit(".", 1)[-1]: size for name, size in model(1).linears().items()}


def total(sizes: Iterable[int]) -> Sum:
    """The sum of these sizes, in numbers, as products of axes."""
    counts = np.zeros(len(PRODUCTS), int)
    for size in sizes:
        counts[AT[abs(size)]] += int(math.copysign(1, size))
    return counts


def linear_in_layers(one: Sum, two: Sum) -> list[list[int]]:
    """[product, how often with two layers, how often more a layer] of sums with 2 and 3 layers."""
    return [[i, int(a), int(b - a)] for i, (a, b) in enumerate(zip(one, two)) if a or b]


# ---------------------------------------- the step: what is saved, and what is alive


class Record(meta.Memory):
    """A count of bytes that remembers each change."""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = []
        Record.last = self

    def add(self, nbytes: int) -> None:
        super().add(nbytes)
        if nbytes:
            self.sizes.append(nbytes // FLOAT)


def run(layers: int, record: Method, targets: tuple[str, ...], tied: bool, kind: str):
    """A step's saved numbers and ids, and its allocations (below 0: frees) in forward, in
    backward.
    """
    how = {} if record.whole_model else {"targets": targets, "rank": SIZES["r"]}
    tuned = step.without_numbers(model(layers, tied, kind), np.float32, record, **how)
    ids, end = np.zeros((BATCH, LENGTH), int), []

    def walk(loss):
        end.append(len(Record.last.sizes))
        backward(loss)
        end.append(len(Record.last.sizes))  # what follows is the end of the gradients

    with mock.patch.object(meta, "Memory", Record):
        saved = step.predict(tuned, (ids, ids), walk).saved
    ints = [s for s in saved if s.nbytes == INT * math.prod(s.shape)]
    floats = [s for s in saved if s not in ints]
    forward, back = Record.last.sizes[: end[0]], Record.last.sizes[end[0] : end[1]]
    kept = total(s.nbytes // FLOAT for s in floats), total(s.nbytes // INT for s in ints)
    return *kept, forward, back


def alive(sizes: list[int], start: Sum | int = 0) -> np.ndarray:
    """What is alive after each of these allocations: a Sum each."""
    changes = np.zeros((len(sizes), len(PRODUCTS)), int)
    for i, size in enumerate(sizes):
        changes[i, AT[abs(size)]] = 1 if size > 0 else -1
    return changes.cumsum(axis=0) + start


def without_angles(sums: np.ndarray) -> np.ndarray:
    """The sums without the angles of the rows, two arrays (M, h), which the ledger counts apart.

    Where backward has freed them already, less is alive than that: -2 M h. A batch of one row has
    no such arrays, so this is written with g.
    """
    sums = sums.copy()
    sums[:, ANGLES] -= 2
    sums[:, -1] = np.minimum(sums[:, ANGLES], 0)
    sums[:, ANGLES] -= sums[:, -1]
    return sums


def common(one: list[int], two: list[int]) -> int:
    """How many first entries the lists have in common."""
    pairs = enumerate(zip(one, two))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(two)))


def moments(few, more) -> np.ndarray:
    """What may be the most alive at one time: sums for few layers beside what a further one adds.

    few, more: (forward, backward) of models with so many layers. A moment of the first is found in
    the second by its distance from the start or the end of its pass. In between, what is alive is
    linear in the number of the layer, so the first or the last of them has the most.
    """
    found = []
    ends: tuple[Any, Any] = (0, 0)
    for short, long in zip(few, more):
        a, b = alive(short, ends[0]), alive(long, ends[1])
        ends = a[-1], b[-1]
        n = common(short, long)
        a, b = without_angles(a), without_angles(b)
        found.append(np.hstack([a[:n], b[:n] - a[:n]]))
        n = common(short[::-1], long[::-1])
        found.append(np.hstack([a[-n:], b[-n:] - a[-n:]]))
    return np.concatenate(found)


def largest(sums: np.ndarray) -> np.ndarray:
    """Those sums that are the largest for some sizes: no other has more of everything.

    More of M is more than of R1, and that more than of R2, since M >= R1 + R2 and R1 >= R2.
    """
    sums = np.unique(sums, axis=0)
    wide = sums.reshape(len(sums), -1, len(PRODUCTS)).copy()
    for axis in {b for a, b in PRODUCTS if a == ROWS[-1]}:
        m, one, two = (PRODUCTS.index((row, axis)) for row in ROWS)
        wide[:, :, two] += wide[:, :, one] + 2 * wide[:, :, m]
        wide[:, :, one] += wide[:, :, m]
    wide = wide.reshape(len(sums), -1)
    keep: list[int] = []
    for i in np.argsort(-wide.sum(axis=1), kind="stable"):  # a larger one comes first
        if not (wide[keep] >= wide[i]).all(axis=1).any():
            keep.append(int(i))
    return sums[keep]


@functools.cache
def formulas(name: str, targets: tuple[str, ...], tied: bool, kind: str) -> dict[str, Any]:
    """floats, ids: what is saved; beyond: the largest of these is what a step's peak has beyond the
    floats, weights, optimizer and tables; single: the same for a model of one layer.
    """
    floats, ids, passes = [], [], []
    few = 3 if kind == "smollm3" else 2  # layers: the last but one is not the first there
    for layers in (1, few, few + 1):
        kept, whole, *both = run(layers, METHODS[name], targets, tied, kind)
        floats.append(kept)
        ids.append(whole)
        passes.append(both)
    one, less, more = floats
    single = np.concatenate([a := alive(passes[0][0]), alive(passes[0][1], a[-1])])
    single = largest(without_angles(single)) - one
    found = largest(moments(*passes[1:])) - np.hstack([less, more - less])

    def from_two(a, slope):
        """The sum a of `few` layers, which grows by slope a layer, as one that begins with two."""
        return linear_in_layers(a - (few - 2) * slope, a - (few - 3) * slope)

    return {
        "floats": from_two(less, more - less),
        "ids": from_two(ids[1], ids[2] - ids[1]),
        "beyond": [from_two(*np.split(s, 2)) for s in found],
        "single": [linear_in_layers(s, s) for s in single],
    }


# ---------------------------------------- the technique: numbers of one linear


def in_sizes(count: Callable[[int, int, int], int]) -> list[int]:
    """count(I, O, r) as the coefficients of 1, r, O, Or, I, Ir, IO, IOr; raises ValueError where it
    is no sum of these.
    """
    corners = list(itertools.product((1, 2), repeat=3))
    terms = [[math.prod(t) for t in itertools.product(*((1, n) for n in at))] for at in corners]
    solved = np.linalg.solve(np.array(terms, float), [count(*at) for at in corners])
    found = [round(c) for c in solved]
    for at in ((5, 7, 3), (64, 32, 8)):
        if weigh(found, *at) != count(*at):
            raise ValueError(f"a count is no sum of products of I, O and r: {count(*at)} at {at}")
    return found


def weigh(coefficients: list[int], I: int, O: int, r: int) -> int:
    """The sum that these coefficients stand for."""
    terms = itertools.product((1, I), (1, O), (1, r))
    return sum(c * math.prod(t) for c, t in zip(coefficients, terms))


def technique(record: Method) -> dict[str, Any]:
    """The numbers of one linear: trained, frozen beside W, shared by all, written to disk."""
    ranked, options = "rank" in record.takes, {**record.options, "alpha": 1.0}

    def arrays(make, I, O, r):
        W = make((O, I))
        shared = record.prepare([(O, I)], r, options, W) if record.prepare else {}
        own = record.init(W, r, options, np.random.default_rng(0), shared)
        return shared, {n: a for n, a in own.items() if is_array(a) and n not in shared}, own

    def frozen(I, O, r):
        own = arrays(Meta, I, O, r)[1]
        return sum(a.size for n, a in own.items() if n not in (*record.trains, "W"))

    def shared(I, O, r):
        return sum(a.size for a in arrays(Meta, I, O, r)[0].values())

    def on_disk(I, O, r):
        if record.whole_model:
            return I * O
        _, own, given = arrays(np.ones, I, O, r)
        if record.peft:
            settings = Settings(r, 1.0, options, {}, {})
            W = {"W": np.ones((O, I))} if record.owns_weight else {}
            own = record.peft.to_peft(settings, {"": W | given})[1][""]
        return sum(a.size for a in own.values())

    return {
        "title": record.title,
        "formula": record.formula,
        "rank": record.default_rank if ranked else None,
        "whole": record.whole_model,
        "moves": record.owns_weight and not record.whole_model,
        "trained": in_sizes(record.count),
        "frozen": in_sizes(frozen),
        "shared": in_sizes(shared),
        "on_disk": in_sizes(on_disk),
        "disk_has_shared": bool(record.prepare and (not record.peft or record.peft.shared)),
    }


# ---------------------------------------- all of it


def subsets() -> Iterable[tuple[str, ...]]:
    """Every choice of targets, in the order of the bits of its number."""
    for bits in range(1, 1 << len(LINEARS)):
        yield tuple(name for i, name in enumerate(LINEARS) if bits >> i & 1)


def tables(methods: Iterable[str] = tuple(METHODS)) -> dict[str, Any]:
    """All that the calculator knows. cases: kind -> technique -> the number of its formulas for
    each choice of targets; of a technique that trains the whole model, untied and tied.
    """
    sums: dict[tuple, int] = {}  # equal sums are written once, and so are equal formulas
    parts: dict[str, int] = {}
    cases: dict[str, dict[str, list[int]]] = {kind: {} for kind in KINDS}
    same: dict[tuple, str] = {}  # techniques with one pair run one step
    for kind, name in itertools.product(KINDS, methods):
        record = METHODS[name]
        twin = same.setdefault((record.op, record.trains, record.derived), name)
        if twin != name:
            cases[kind][name] = cases[kind][twin]
            continue
        whole = [((), False), ((), True)]
        chosen = whole if record.whole_model else [(t, False) for t in subsets()]
        texts = [_numbered(formulas(name, *c, kind), sums) for c in chosen]
        cases[kind][name] = [parts.setdefault(text, len(parts)) for text in texts]
    return {
        "products": PRODUCTS,
        "chunk": CHUNK,
        "linears": table_of_linears(),
        "targets": DEFAULT_TARGETS,
        "base": {kind: list(itertools.chain(*base_numbers(kind))) for kind in KINDS},
        "methods": {name: technique(METHODS[name]) for name in methods},
        "cases": cases,
        "sums": list(sums),
        "formulas": [json.loads(text) for text in parts],
        "shapes": shapes(),
        "parts": PARTS,
        "architectures": {
            kind: {"supported": supported(a), "absent": a.defaults, "own": a.own}
            for kind, a in ARCHITECTURES.items()
        },
    }


def _numbered(formula, sums) -> str:
    """A formula as text, with the numbers of its sums; adds to the sums those that are new."""

    def number(terms):
        return sums.setdefault(tuple(itertools.chain(*terms)), len(sums))

    lists = {k: [number(sum) for sum in formula[k]] for k in ("beyond", "single")}
    return json.dumps({k: number(formula[k]) for k in ("floats", "ids")} | lists)


def shapes() -> dict[str, dict[str, Any]]:
    """The published shapes: a Llama as its config.json has it, another by its three sizes."""
    base = json.loads((data_folder() / "base" / "config.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {"base": {"source": "this repository", "config": base}}
    for name, shape in SHAPES.items():
        if shape.llama:
            config = ModelConfig(**shape.config_fields())
            fields = {k: v for k, v in vars(config).items() if v is not None}
            found[name] = {"source": shape.source, "config": fields}
        else:
            sizes = [[n.rsplit(".", 1)[-1], *size] for n, size in shape.linears().items()]
            counted = Counter(map(tuple, sizes))
            found[name] = {"source": shape.source, "linears": [[*k, n] for k, n in counted.items()]}
    return found


def evaluate(
    config: ModelConfig,
    method: str,
    rank: int,
    targets: Iterable[str],
    batch: int,
    length: int,
    mixed: bool = False,
) -> dict[str, int]:
    """The ledger's numbers by the formulas; rank and targets are not read where the whole model
    trains.
    """
    t, c, chosen = technique(METHODS[method]), config, set(targets)
    rows, L, b = batch * length, config.num_hidden_layers, 2 if mixed else FLOAT
    first = min(rows, CHUNK)
    axes = dict(M=rows, R1=first, R2=min(rows - first, CHUNK), C=c.hidden_size)
    axes |= dict(F=c.intermediate_size, V=c.vocab_size, r=rank, H=c.num_attention_heads)
    axes |= dict(G=c.num_key_value_heads, D=c.head_dim)
    axes |= dict(Q=c.num_attention_heads * c.head_dim, K=c.num_key_value_heads * c.head_dim)
    axes |= dict(h=c.head_dim // 2, g=c.head_dim // 2 if batch > 1 else 0)

    def value(formula):
        sizes = ([axes.get(axis, 1) for axis in PRODUCTS[i]] for i, _, _ in formula)
        return sum((n + (L - 2) * m) * x * y for (_, n, m), (x, y) in zip(formula, sizes))

    size = {n: (axes[O], axes[I]) for n, (O, I) in table_of_linears().items()}
    of = [size[name] for name in size if t["whole"] or name in chosen]
    O, I = (max(sizes) for sizes in zip(*of))
    each = {k: L * sum(weigh(t[k], I, O, rank) for O, I in of) for k in ("trained", "on_disk")}
    kind = kind_of(c)
    base = value(base_numbers(kind)) - axes["V"] * axes["C"] * c.tie_word_embeddings
    numbers = base if t["whole"] else each["trained"]
    adapted = L * sum(O * I for O, I in of)
    own = L * sum(weigh(t["frozen"], I, O, rank) for O, I in of)
    shared, moved = weigh(t["shared"], I, O, rank), adapted if t["moves"] else 0
    names = tuple(name for name in size if name in chosen) if not t["whole"] else ()
    f = formulas(method, names, t["whole"] and c.tie_word_embeddings, kind)
    floats = b * value(f["floats"])
    moment = floats + b * max(map(value, f["single" if L == 1 else "beyond"]))
    found = {
        "trained_numbers": numbers,
        "disk_numbers": base if t["whole"] else each["on_disk"] + shared * t["disk_has_shared"],
        "frozen": b * (0 if t["whole"] else base - moved + own),
        "trainable": b * numbers,
        "shared": b * shared,
        "moved": b * moved,
        "gradients": b * numbers,
        "optimizer": (12 if mixed else 2 * b) * numbers,
        "activations": floats + INT * value(f["ids"]),
        "scratch": 2 * b * axes["h"] * (max(64, length) + (rows if batch > 1 else 0)),
        "base_kept": b * (base if t["whole"] else moved),
    }
    weights = sum(found[name] for name in ("frozen", "trainable", "shared", "moved"))
    peak = weights + found["optimizer"] + found["scratch"] + moment
    return found | {"weights": weights, "peak": peak, "transient": moment - found["activations"]}


def table_of_linears() -> Mapping[str, tuple[str, str]]:
    """Name -> the axes (O, I) of each linear of a layer."""
    names = {AXES[axis]: axis for axis in WEIGHTS}
    return {n: (names[O], names[I]) for n, (O, I) in LINEARS.items()}


@functools.cache
def base_numbers(kind: str) -> list[list[int]]:
    """The numbers of a base that is not tied."""
    two, three = (model(n, kind=kind).shapes().values() for n in (2, 3))
    return linear_in_layers(*(total(map(math.prod, shapes)) for shapes in (two, three)))


def write(path: Path) -> None:
    """Write all of it as JavaScript."""
    text = json.dumps(tables(), separators=(",", ":"), ensure_ascii=False)
    path.write_text(f"const TABLES = {text};\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
