"""Example arguments of every op, and of every technique's pair: away from zero and from kinks.

The doctor and the tests take them from here. An odd seed gives the optional arguments as well: a
divisor, rows, what dropout made of x.
"""

import inspect

import numpy as np

from .. import ops
from ..engine import Op
from ..methods.base import Method
from ..ops import nf4

OPS = {name: op for name, op in vars(ops).items() if isinstance(op, Op)}
FROZEN = {  # op: the float arrays for which it has no gradient
    "frozen_linear": ("W",),
    "frozen_feed_forward": ("Wg", "Wu", "Wd"),
    "frozen_head_loss": ("W",),
    "nf4_linear": ("c1", "mean"),
    "rope": ("cos", "sin"),
}


def of_op(name: str, seed: int = 0, M: int = 6, I: int = 8, O: int = 5, r: int = 3) -> tuple:
    """Arguments of an op's forward.   x (M, I), W (O, I); r heads or so where there are heads."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape)

    x, W, more = normal(M, I), normal(O, I), seed % 2
    # several blocks of 64 weights
    wide = np.random.default_rng(seed).standard_normal((20 * O, I)).astype(np.float32)
    count = [7] if more else []
    rows = [np.flatnonzero(rng.permutation(2 * M) < M)] if more else []
    turn = rng.uniform(0, 6, (M, I))
    two, linear = (x, normal(M, I)), (x, W)
    loss = (*linear, _targets(rng, M, O), *count)
    spans = _spans(rng, min(M, 20))
    heads = [normal(spans[-1, 1], 4, I), *(normal(spans[-1, 3], 2, I) for _ in "kv")]
    return {
        "add": two,
        "mul": two,
        "maximum": two,
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
        "linear": linear,
        "frozen_linear": linear,
        "nf4_linear": (x, *nf4.quantise(wide), wide.shape),
        "embedding": (W, rng.integers(0, O, M)),
        "take": (x, rng.permutation(M)[: max(1, M // 2)]),
        "dropout": (x, 0.5, (seed, 1, 0, 2), *rows),
        "rmsnorm": (x, normal(I), 1e-5),
        "rope": (normal(M, r, 2 * I), np.cos(turn), np.sin(turn)),
        "attention": (*heads, spans),
        "swiglu": two,
        "frozen_feed_forward": (x, W, normal(O, I), normal(I, O)),
        "cross_entropy": (normal(M, O), *loss[2:]),
        "head_loss": loss,
        "frozen_head_loss": loss,
    }[name]


def _targets(rng, M, V):
    targets = np.where(rng.random(M) < 0.3, -100, rng.integers(0, V, M))
    targets[0] = 1 % V
    return targets


def _spans(rng, most):
    """Query and key spans of three sequences: some queries, and up to 3 earlier keys."""
    T, earlier = rng.integers(1, most + 1, 3), rng.integers(0, 4, 3)
    q, k = np.cumsum([0, *T]), np.cumsum([0, *(T + earlier)])
    return np.stack([q[:-1], q[1:], k[:-1], k[1:]], axis=1)


def of_method(
    record: Method, seed: int = 0, M: int = 6, I: int = 8, O: int = 5, r: int = 3
) -> tuple:
    """Arguments for a technique's pair: its own, with the numbers of each array drawn anew, since
    zeros would hide errors.   x, xd (M, I), W (O, I), rank r.
    """
    rng = np.random.default_rng(seed)
    x, W = rng.standard_normal((M, I)), rng.standard_normal((O, I))
    options = {**record.options, "alpha": 1.5 * r}
    shared = record.prepare([W.shape], r, options, W) if record.prepare else {}
    args = {"W": W, **record.init(W, r, options, rng, shared)}
    args |= {n: rng.standard_normal(a.shape) for n, a in args.items() if isinstance(a, np.ndarray)}
    if record.derived:
        args |= record.derived(**args)
    if record.has_dropout and seed % 2:
        args["xd"] = rng.standard_normal((M, I))
    names = [n for n in inspect.signature(record.op.forward).parameters if n in args]
    return (x, *(args[n] for n in names))


def frozen_of(record: Method) -> tuple[str, ...]:
    """The arguments of a technique's pair that get no gradient."""
    names = inspect.signature(record.op.forward).parameters
    return tuple(names.keys() - {"x", "xd", *record.trains})
