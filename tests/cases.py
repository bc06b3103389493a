"""Arguments for every page: random shapes, float64, away from kinks."""

import inspect
from pathlib import Path

import numpy as np

import minilora as ml
from minilora import ops
from minilora.engine import Op
from minilora.fast.twins import TWINS
from minilora.methods import dora
from minilora.methods.delta_lora import add_product
from minilora.ops.adamw import adamw
from minilora.ops.dropout import mask

TOOLS = ("recompute",)  # of the tape: they run other ops, and have no mathematics of their own

OPS = {name: op for name, op in vars(ops).items() if isinstance(op, Op)} | {
    record.op.name: record.op for record in ml.METHODS.values()
}
PAIRS = {name: (op.forward, op.backward) for name, op in OPS.items()}
PAIRS["row_norm"] = (dora.row_norm_forward, dora.row_norm_backward)
ALONE = {"adamw": adamw, "mask": mask, "add_product": add_product}  # pages that are no pairs

# Arguments that are frozen, or that only a technique of another name trains.
FROZEN = {
    "frozen_linear": ("W",),
    "frozen_feed_forward": ("Wg", "Wu", "Wd"),
    "frozen_head_loss": ("W",),
    "lora": ("W",),
    "lora_fa": ("W", "A"),
    "vera": ("W", "A", "B"),
    "dora": ("W", "norm"),
    "row_norm": ("W",),
    "rope": ("cos", "sin"),
}


def angles(rng, M, D):
    turn = rng.uniform(0, 6, (M, D // 2))
    return np.cos(turn), np.sin(turn)


def spans_of(rng, N):
    """Query and key spans of N sequences with 1 to 5 queries and up to 3 earlier keys."""
    T, earlier = rng.integers(1, 6, N), rng.integers(0, 4, N)
    q, k = np.cumsum([0, *T]), np.cumsum([0, *(T + earlier)])
    return np.stack([q[:-1], q[1:], k[:-1], k[1:]], axis=1)


def targets_of(rng, M, V):
    targets = rng.integers(0, V, M)
    targets[rng.random(M) < 0.3] = -100
    targets[0] = 1 % V
    return targets


def arguments(name, seed=0, M=5, I=4, O=6, r=3):
    """Arguments of a pair's forward."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape)

    x, W, A, B = normal(M, I), normal(O, I), normal(r, I), normal(O, r)
    if name in ("lora", "lora_fa"):
        return x, W, 1.5, A, B, *([normal(M, I)] if seed % 2 else [])
    if name == "vera":
        return x, W, A, B, normal(O), normal(r), *([normal(M, I)] if seed % 2 else [])
    if name == "dora":
        return x, W, 1.5, A, B, normal(O), 1 + normal(O) ** 2
    if name == "row_norm":
        return W, 1.5, A, B
    if name in ("linear", "frozen_linear", "embedding"):
        return (W, rng.integers(0, O, M)) if name == "embedding" else (x, W)
    if name in ("swiglu", "add", "mul", "maximum"):
        return x, normal(M, I)
    if name == "frozen_feed_forward":
        return x, W, normal(O, I), normal(I, O)
    if name == "rmsnorm":
        return x, normal(I), 1e-5
    if name == "rope":
        return normal(M, r, 2 * I), *angles(rng, M, 2 * I)
    if name == "attention":
        spans, D = spans_of(rng, 3), I
        return normal(spans[-1, 1], 4, D), *(normal(spans[-1, 3], 2, D) for _ in "kv"), spans
    if name == "cross_entropy":
        return normal(M, O), targets_of(rng, M, O), *([7] if seed % 2 else [])
    if name in ("head_loss", "frozen_head_loss"):
        return x, W, targets_of(rng, M, O), *([7] if seed % 2 else [])
    if name == "dropout":
        rows = np.flatnonzero(rng.permutation(2 * M) < M)
        return x, 0.5, (seed, 1, 0, 2), *([rows] if seed % 2 else [])
    if name == "take":
        return x, rng.permutation(M)[: max(1, M // 2)]
    more = {
        "matmul": (x, normal(I, O)),
        "power": (np.abs(x) + 0.5, 3),
        "exp": (x,),
        "log": (np.abs(x) + 0.5,),
        "tanh": (x,),
        "sum": (x, 1),
        "reshape": (x, (I, M)),
        "transpose": (x,),
        "index": (x, (slice(None), [0, 0, I - 1])),
        "concat": (x, normal(2, I), 0),
    }
    return more[name]


def page_files():
    """The files of the pages."""
    package = Path(ml.__file__).parent
    return [p for room in ("ops", "methods") for p in sorted((package / room).glob("[!_]*.py"))]


def running(name):
    """The forward and backward that run when an op is called: its twins, where they fit."""
    op = OPS.get(name)
    if op is None:
        return PAIRS[name]
    pair = op.fast or op.look_up()
    return pair.forward, pair.backward


def twins(name):
    """An op's twins, which refuse what does not fit them; the page's own where there is none."""
    return [inspect.unwrap(TWINS.get(f, f)) for f in PAIRS[name]]


def parameters(forward):
    """Names of a function's parameters, in order."""
    return list(inspect.signature(forward).parameters)
