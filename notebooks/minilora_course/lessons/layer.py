"""Notebook 02b, a whole layer on the tape."""

from types import SimpleNamespace

import numpy as np

from minilora import ops
from minilora.engine import param

from ..slips import Case
from .exercise import blank, draw, rows, widths


def layer(x, w, use):
    """A layer of one head, on the tape.   x (T, C) Tensor; w: its arrays by name; use: the ops."""
    h = use.norm(x, w["norm1"])
    q, k, v = (use.linear(h, w[name]) for name in "qkv")
    o = use.attention(use.rope(q), use.rope(k), v)
    x = x + use.linear(o, w["o"])
    h = use.norm(x, w["norm2"])
    return x + use.linear(use.swiglu(use.linear(h, w["gate"]), use.linear(h, w["up"])), w["down"])


def pairs(cos, sin) -> SimpleNamespace:
    """The package's ops under the names of `layer`, for one head and these angles (T, D/2)."""
    eps, spans = 1e-5, np.array([[0, len(cos)] * 2])

    def head(a):
        return ops.reshape(a, (a.shape[0], 1, a.shape[1]))

    def flat(a):
        return ops.reshape(a, (a.shape[0], a.shape[2]))

    return SimpleNamespace(
        norm=lambda x, g: ops.rmsnorm(x, g, eps),
        linear=ops.linear,
        rope=lambda x: flat(ops.rope(head(x), cos, sin)),
        swiglu=ops.swiglu,
        attention=lambda q, k, v: flat(ops.attention(head(q), head(k), head(v), spans)),
    )


NAMES = ("norm1", "q", "k", "v", "o", "norm2", "gate", "up", "down")


def layer_weights(rng, C, F):
    """A layer's arrays: gains (C,), q, k, v, o (C, C), gate, up (F, C), down (C, F)."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("q", "k", "v", "o"), (C, C))
    shapes |= {"gate": (F, C), "up": (F, C), "down": (C, F), "norm1": (C,), "norm2": (C,)}
    drawn = draw(rng, **{name: shapes[name] for name in NAMES})
    return {name: 1 + a / 4 if a.ndim == 1 else a / np.sqrt(C) for name, a in drawn.items()}


def layered(function):
    """The function x, cos, sin, *weights -> y that a layer on the tape computes."""

    def run(x, cos, sin, *arrays):
        w = {name: param(a, name) for name, a in zip(NAMES, arrays)}
        y = function(param(x, "x"), w, pairs(cos, sin))
        return None if y is None else y.data

    return run


def layer_cases(rng):
    """For y = f(x, cos, sin, *weights)."""

    def right(x, cos, sin, **w):
        return {"y": layered(layer)(x, cos, sin, *w.values())}

    def without(change):
        return lambda x, cos, sin, **w: [{"y": layered(change)(x, cos, sin, *w.values())}]

    def no_rope(x, w, use):
        return layer(x, w, SimpleNamespace(**{**vars(use), "rope": lambda a: a}))

    def rope_on_v(x, w, use):
        turned = vars(use) | {"attention": lambda q, k, v: use.attention(q, k, use.rope(v))}
        return layer(x, w, SimpleNamespace(**turned))

    def no_first(x, w, use):
        h = use.norm(x, w["norm1"])
        q, k, v = (use.linear(h, w[name]) for name in "qkv")
        return _feed(use.linear(use.attention(use.rope(q), use.rope(k), v), w["o"]), w, use)

    def no_o(x, w, use):
        h = use.norm(x, w["norm1"])
        q, k, v = (use.linear(h, w[name]) for name in "qkv")
        return _feed(x + use.attention(use.rope(q), use.rope(k), v), w, use)

    def swapped(a, b):
        return without(lambda x, w, use: layer(x, w | {a: w[b], b: w[a]}, use))

    slips = {
        "o is missing: what attention gives passes a linear before it is added": without(no_o),
        "gate and up are in each other's place: swiglu(gate, up)": swapped("gate", "up"),
        "q and k are in each other's place: attention(q, k, v)": swapped("q", "k"),
        "RoPE is missing: it turns q and k": without(no_rope),
        "RoPE turns q and k, not v": without(rope_on_v),
        "the first addition is missing: x + what attention gives": without(no_first),
        "the second addition is missing: x + what the feed-forward gives": without(
            lambda x, w, use: layer(x, w, use) - _stream(x, w, use)
        ),
        "the second addition is to what the first one gave, not to the first x": without(
            lambda x, w, use: layer(x, w, use) - _stream(x, w, use) + x
        ),
    }
    cases = []
    for T, F in (widths(rng, 2), widths(rng, 2)):
        C = rows(rng)  # even: RoPE turns pairs
        angle = np.outer(np.arange(T), 0.5 ** np.arange(C // 2))
        args = {**draw(rng, x=(T, C)), "cos": np.cos(angle), "sin": np.sin(angle)}
        cases.append(Case({**args, **layer_weights(rng, C, F)}, right, slips=slips))
    return cases


def _stream(x, w, use):
    """The stream after attention."""
    h = use.norm(x, w["norm1"])
    q, k, v = (use.linear(h, w[name]) for name in "qkv")
    return x + use.linear(use.attention(use.rope(q), use.rope(k), v), w["o"])


def _feed(x, w, use):
    """The stream after the feed-forward."""
    h = use.norm(x, w["norm2"])
    return x + use.linear(use.swiglu(use.linear(h, w["gate"]), use.linear(h, w["up"])), w["down"])


EXERCISES = (
    blank(
        "backward_layer",
        "A layer on the tape: x, w (arrays by name), use (ops) -> y",
        (
            "norm, q, k, v, RoPE on q and k, attention, o, and add to x.",
            "Then norm, gate and up, swiglu, down, and add to what the first addition gave.",
        ),
        layer_cases,
        through=layered,
        package=layer,
    ),
)
