"""Answers to the exercises, right and wrong: exercise -> (answer, verdict, words of the check).

They stand beside the answers in unseen/, which were made without sight of the checks, and do not
repeat them. An answer is what the function returns, as an expression in the exercise's arguments
and in its right outputs (W1 for W'); or the lines of its body; or after "is", the answer itself. It
may also be the number, the function or the pair. The verdict is "passed", "open" or "failed", or
how the slip begins that it fails with; for a function broken on purpose, the slip is not asked for.
"""

import functools
import inspect
import math
import sys
import textwrap
from collections import OrderedDict, namedtuple
from fractions import Fraction

import numpy as np

from minilora_course import EXERCISES
from minilora_course.lessons import walk


def lora(dy, x, W, s, A, B):
    """dx, dA, dB."""
    dz = s * dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)


def vera(dy, u, W, A, B, b, d):
    """dx, db, dd."""
    dz = (dy * b) @ B
    return dy @ W + (dz * d) @ A, (dy * ((d * u) @ B.T)).sum(0), (dz * u).sum(0)


def softmax(scores):
    """Over each row."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attend(q, k, v, scale=None, mask=np.tri, weigh=softmax):
    """One head; mask: of the number of places, 1 where one is seen."""
    scores = q @ k.T * (q.shape[1] ** -0.5 if scale is None else scale)
    return weigh(np.where(mask(len(q)), scores, -np.inf)) @ v


def attend_backward(do, q, k, v, scale=None, mask=np.tri, total=lambda a: a.sum(1, keepdims=True)):
    """dq, dk, dv.   total: of each row of p dp."""
    scale = q.shape[1] ** -0.5 if scale is None else scale
    p = softmax(np.where(mask(len(q)), q @ k.T * q.shape[1] ** -0.5, -np.inf))
    dp = do @ v.T
    ds = p * (dp - total(p * dp)) * scale
    return ds @ k, ds.T @ q, p.T @ do


def network(x, t, W1, W2, square=2.0, slope=lambda z: 1 - np.tanh(z) ** 2, count=np.size):
    """dW1, dW2 of mean((tanh(x W1ᵀ) W2ᵀ - t)²)."""
    z = x @ W1.T
    error = np.tanh(z) @ W2.T - t
    derror = square * error / count(error)
    return (derror @ W2 * slope(z)).T @ x, derror.T @ np.tanh(z)


def rms(dy, x, g, eps, by_rho=1.0):
    """dx, dg.   by_rho: times the path through ρ."""
    rho = 1 / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    w = dy * g
    dx = rho * w - by_rho * x * rho**3 * (w * x).mean(1, keepdims=True)
    return dx, (dy * x * rho).sum(0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def central(f, x, h):
    grad = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = h
        grad[place] = (f(x + step) - f(x - step)) / (2 * h)
    return grad


def is_right(forward, backward, x, W, dy=None, atol=1e-6, seen=(0, 1)):
    """A check of a pair with this function of y's shape, this tolerance, and these gradients."""
    y, cache = forward(x, W)
    dy = np.random.default_rng(1).normal(size=y.shape) if dy is None else dy(y.shape)
    grads = backward(dy, cache)
    found = (
        central(lambda a: (dy * forward(a, W)[0]).sum(), x, 1e-5),
        central(lambda a: (dy * forward(x, a)[0]).sum(), W, 1e-5),
    )
    return all(np.allclose(grads[i], found[i], rtol=0, atol=atol) for i in seen)


def at_random(like):
    return np.random.default_rng(like.size).normal(size=like.shape)


def along(forward, backward, x, W, direction=at_random, h=1e-5):
    """A check of a pair along one direction of x, and one of W."""
    y, cache = forward(x, W)
    dy, v, V = at_random(y), direction(x), direction(W)
    dx, dW = backward(dy, cache)
    by_x = (dy * (forward(x + h * v, W)[0] - forward(x - h * v, W)[0])).sum() / (2 * h)
    by_W = (dy * (forward(x, W + h * V)[0] - forward(x, W - h * V)[0])).sum() / (2 * h)
    return np.isclose(by_x, (dx * v).sum()) and np.isclose(by_W, (dW * V).sum())


def descend(n, rate_A, rate_B, z, at_once=True, limit=200):
    b, count = np.zeros_like(z), np.zeros_like(z)
    for _ in range(limit):
        e = np.where(np.abs(b * z - 1) < 0.01, 0, b * z - 1)
        count += e != 0
        moved = b - rate_B * e * z
        z, b = z - rate_A * e * (b if at_once else moved) * n, moved
    return count, b, z


def each_start(n, rate_A, rate_B, z, nan_ends):
    """A loop a start; nan_ends: `while |e| >= 0.01` in place of `break` where |e| < 0.01."""
    found = []
    for a in z.tolist():
        b, steps, e = 0.0, 0, -1.0
        while steps < 200 and (abs(e) >= 0.01 if nan_ends else not abs(e) < 0.01):
            b, a = b - rate_B * e * a, a - rate_A * e * b * n
            e, steps = b * a - 1, steps + 1
        found.append((steps, b, a))
    return tuple(map(list, zip(*found)))


def while_one_is_left(n, rate_A, rate_B, z):
    """All starts at once, while the largest |e| is not small: NaN ends it for all."""
    b, count, e = np.zeros_like(z), np.zeros_like(z), -np.ones_like(z)
    while np.abs(e).max() >= 0.01 and count.max() < 200:
        left = ~(np.abs(e) < 0.01)
        count += left
        b, z = b - rate_B * e * z * left, z - rate_A * e * b * n * left
        e = b * z - 1
    return count, b, z


def fetched(places, lines):
    cache, count = OrderedDict(), 0
    for line in (place // 16 for place in places):
        count += line not in cache
        cache[line] = None
        cache.move_to_end(line)
        if len(cache) > lines:
            cache.popitem(last=False)
    return count


def blocked(x, w, height, width, end=0):
    y = np.zeros((len(x), w.shape[1]))
    for i in range(0, len(x) - end * (height - 1), height):
        for j in range(0, w.shape[1] - end * (width - 1), width):
            y[i : i + height, j : j + width] = x[i : i + height] @ w[:, j : j + width]
    return y


def walk_in_place(nodes, dy):
    """It adds in place to arrays of its own, which is right."""
    grads = {nodes[-1]: np.copy(dy)}
    for node in reversed(nodes):
        given = node.op.backward(grads[node], node.cache) if node.op else ()
        for parent, grad in zip(node.parents, given):
            if parent is not None:
                grads.setdefault(parent, np.zeros_like(grad))
                grads[parent] += grad
    return grads


def walk_to_leaves(nodes, dy):
    """It gives the gradients of the leaves alone."""
    return {node: grad for node, grad in walk_in_place(nodes, dy).items() if node.op is None}


def walk_popping(nodes, dy):
    """It drops the gradient of an inner node as soon as it was used."""
    grads = {nodes[-1]: dy}
    for node in reversed(nodes):
        given = node.op.backward(grads.pop(node), node.cache) if node.op else ()
        for parent, grad in zip(node.parents, given):
            if parent is not None:
                grads[parent] = grads[parent] + grad if parent in grads else grad
    return grads


def walk_carrying(nodes, dy, start=np.copy):
    """It hands on what the op before it has got; or begins with another dy."""
    grads, now = {}, start(dy)
    for node in nodes[::-1]:
        if node.op is None:
            continue
        given = node.op.backward(now, node.cache)
        for parent, grad in zip(node.parents, given):
            if parent is not None:
                grads[parent] = grad + grads.get(parent, 0)
                now = grad if parent.op and parent is node.parents[0] else now
    return grads


def walk_from_ones(nodes, dy):
    return walk.walk(nodes, np.ones_like(dy))


def layer(x, w, use, turn="qk", first=1, second=1, out=True, gates=("gate", "up")):
    """turn: what RoPE turns; first, second: times what is added to; out: is o there?"""
    h = use.norm(x, w["norm1"])
    q, k, v = (use.linear(h, w[n]) for n in "qkv")
    q, k, v = (use.rope(a) if n in turn else a for n, a in zip("qkv", (q, k, v)))
    o = use.attention(q, k, v)
    o = use.linear(o, w["o"]) if out else o
    x = x + o if first else o
    h = use.norm(x, w["norm2"])
    h = use.linear(use.swiglu(*(use.linear(h, w[name]) for name in gates)), w["down"])
    return x + h if second else h


def lora_forward(x, W, s, A, B):
    return x @ W.T + s * (x @ A.T) @ B.T, (x, W, s, A, B)


def lora_backward(dy, cache):
    dx, dA, dB = lora(dy, *cache)
    return dx, None, None, dA, dB


def scaling_dy(dy, cache):
    """Right numbers, made by writing into dy."""
    x, W, s, A, B = cache
    dx = dy @ W
    dy *= s
    return dx + dy @ B @ A, None, None, (dy @ B).T @ x, dy.T @ (x @ A.T)


def fa_forward(x, W, s, A, B):
    z = x @ A.T
    return x @ W.T + s * z @ B.T, (z, W, s, A, B)


def fa_backward(dy, cache):
    z, W, s, A, B = cache
    return dy @ W + s * (dy @ B) @ A, None, None, None, s * dy.T @ z


def vera_forward(x, W, A, B, b, d):
    u = x @ A.T
    return x @ W.T + b * ((d * u) @ B.T), (u, W, A, B, b, d)


def vera_backward(dy, cache):
    dx, db, dd = vera(dy, *cache)
    return dx, None, None, None, db, dd


def fa_keeping(keep, z_of):
    """LoRA-FA's pair whose cache begins with keep(x, z), from which z_of(kept, A) reads z."""
    return (
        lambda x, W, s, A, B: (fa_forward(x, W, s, A, B)[0], (keep(x, x @ A.T), W, s, A, B)),
        lambda dy, cache: fa_backward(dy, (z_of(cache[0], cache[3]), *cache[1:])),
    )


def until_end(row, end):
    """An answer's tokens, its end among them."""
    row = list(row)
    return row[: row.index(end) + 1] if end in row else row


def logs(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def beats(a, b):
    """Is a point as good as another in both, and better in one?"""
    return a[0] >= b[0] and a[1] >= b[1] and tuple(a) != tuple(b)


def chat_mask(ids, opens, end, content=0, ends=1, shift=1):
    """content: where the counted tokens begin, from the first behind `opens`; ends: from the end;
    shift: the first position of the target."""
    ids, h = list(map(int, ids)), len(opens)
    first = next(t for t in range(len(ids)) if ids[t : t + h] == list(map(int, opens))) + h
    last = ids.index(end, first)
    counts = [first + content <= t < last + ends for t in range(len(ids))]
    return counts[shift : len(ids) - 1 + shift]


def coded(w, levels, a=None):
    """The codes of blocks over their largest size, or over a; and that."""
    a = np.abs(w).max(1, keepdims=True) if a is None else a
    return np.abs((w / a)[..., None] - levels).argmin(-1), a


def quantiles(quantile, below, above, edge):
    up = quantile(np.linspace(0.5, edge, above + 1))
    return np.r_[-quantile(np.linspace(0.5, edge, below + 1))[:0:-1], up] / quantile(edge)


def read_back(absmax, levels, size, less=1, more=1):
    """less, more: times the mean that is taken away, and that is added."""
    codes, a = coded(absmax.reshape(-1, size) - less * absmax.mean(), levels)
    return (levels[codes] * a).ravel() + more * absmax.mean()


def four_forward(x, codes, absmax, levels, s, A, B):
    W = (levels[codes] * absmax).reshape(len(B), len(x[0]))
    return lora_forward(x, W, s, A, B)[0], (x, codes, absmax, levels, s, A, B)


def four_backward(dy, cache, through=1):
    """through: times the path through W."""
    x, codes, absmax, levels, s, A, B = cache
    W = through * (levels[codes] * absmax).reshape(len(B), -1)
    dx, dA, dB = lora(dy, x, W, s, A, B)
    return dx, None, None, None, None, dA, dB


def four_keeping(kept):
    """The pair in four bits that keeps what kept(levels[codes], absmax, A) is."""
    return (
        lambda x, codes, absmax, levels, s, A, B: (
            four_forward(x, codes, absmax, levels, s, A, B)[0],
            (kept(levels[codes], absmax, A), (x, codes, absmax, levels, s, A, B)),
        ),
        lambda dy, cache: four_backward(dy, cache[1]),
    )


def dora_norms(dy, x, W, s, A, B, m, up=1):
    """dA, dB through the norm alone.   up: times the way to V."""
    V = W + s * B @ A
    length = (V**2).sum(1) ** 0.5
    dV = -up * ((dy * (x @ V.T)).sum(0) * m / length**3)[:, None] * V
    return s * B.T @ dV, s * dV @ A.T


def dora_forward(x, W, s, A, B, m, norm):
    u = x @ (W + s * B @ A).T
    return u * m / norm, {"u": u, "rest": (x, W, s, A, B, m, norm)}


def dora_backward(dy, cache, norms=0.0):
    """norms: times what goes through the norm."""
    x, W, s, A, B, m, norm = cache["rest"]
    dx, dA, dB = lora(dy * m / norm, x, W, s, A, B)
    more = dora_norms(dy, x, W, s, A, B, m)
    dA, dB = dA + norms * more[0], dB + norms * more[1]
    return dx, None, None, dA, dB, (dy * cache["u"] / norm).sum(0), None


class Box:
    """An object without a dict of its own."""

    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


OUTSIDE = []  # a variable outside of forward


def up_the_stack(found):
    """What `found` gives for a variable of one of the functions that called this one."""
    frame = sys._getframe(1)
    while frame:
        for value in list(frame.f_locals.values()):
            parts = value if isinstance(value, list | tuple) else [value]
            for part in parts:
                if part is not None and (wanted := found(part)) is not None:
                    return wanted
        frame = frame.f_back
    raise LookupError("nothing found")


def true_of(value):
    """The right outputs of a case, or of an exercise's first case; or a dict that may be them."""
    if isinstance(value, dict) and "dA" in value:
        return tuple(value.values())
    if hasattr(value, "true") and hasattr(value, "args"):
        return tuple(value.true.values())
    if hasattr(value, "cases") and hasattr(value, "hints"):
        return tuple(value.cases(np.random.default_rng(0))[0].true.values())
    return None


class Scaled:
    """An answer may be an object that can be called."""

    def __call__(self, W, s, A, B):
        return W + s * B @ A


NAMES = {  # what a student's cell has
    **{"np": np, "math": math, "inspect": inspect, "functools": functools, "Fraction": Fraction},
    **{"Step": namedtuple("Step", "A B"), "Scaled": Scaled, "OUTSIDE": OUTSIDE},
    **{f.__name__: f for f in (until_end, logs, beats, chat_mask)},
    **{f.__name__: f for f in (dora_norms,)},
    **{f.__name__: f for f in (lora, vera, softmax, attend, attend_backward, network, rms)},
    **{f.__name__: f for f in (coded, quantiles, read_back)},
    **{f.__name__: f for f in (sigmoid, central, is_right, descend, up_the_stack, true_of)},
    "fetched": fetched,
    "while_one_is_left": while_one_is_left,
}
NUMBERS = {
    **{"tour_count": 4 * 256 + 4 * 192, "tape_bytes": 160_000, "gradient_error": 0.01},
    **{"gradient_step": -5, "gradient_smallest": 2, "llama_kv": 8192, "backward_sum": 0},
    **{"low_rank_error": 5, "lora_count": 768, "lora_first_step": 0, "lora_fa_kept": 3200},
    **{"vera_count": 384, "delta_lora_rank": 6, "lora_plus_width": 0.025, "kernel_intensity": 100},
    **{"fair_error": 0.02, "real_count": 460_800, "forget_chance": 1 / 3},
    **{"four_bytes": 186_624, "four_bits": 4.127},
    **{"rank_budget": 2, "dora_count": 896, "dora_kept": 409_600},
}
ANSWERS = {name: [(number, "passed", "is right")] for name, number in NUMBERS.items()}
ANSWERS["tour_count"] += [
    ("1792.0", "passed", "1,792 is right"),
    ("np.array(1792)", "passed", ""),  # a 0-d array is a number
    ("Fraction(1792)", "passed", ""),
    ("np.array([1792])", "failed", "got a ndarray, wanted a number"),
    ("'1792'", "failed", "got a str, wanted a number, without quotes"),
    ("True", "failed", "got a bool, wanted a number"),
    ("1792 + 0j", "failed", "got a complex, wanted a number"),
    ("math.nan", "failed", "yours"),
    ("math.inf", "failed", "yours"),
    ("lambda: 1792", "failed", "got a function, wanted a number"),
    ("None", "open", "no number yet"),
    ("...", "open", "no number yet"),
]
ANSWERS["backward_sum"] += [
    ("(softmax(np.eye(3, 7)) - np.eye(3, 7)).sum() / 3", "passed", "0 is right"),
    ("1e-17", "passed", ""),  # a sum of seven probabilities, less 1
    ("1e-9", "failed", "not the number"),
]
ANSWERS["lora_first_step"] += [("1e-9", "failed", "not the number")]
ANSWERS["llama_kv"] += [("2 * 8192", "failed", "or k_proj's and v_proj's together")]
ANSWERS["gradient_step"] += [
    ("np.log10(2.2e-16) / 3", "passed", "-5 is right"),
    ("-6", "failed", "not the number"),
]
ANSWERS["fair_error"] += [("0.0199", "passed", ""), ("0.021", "failed", "not the number")]
ANSWERS |= {
    # ------------------------------------------------------------------------ 00, the tour
    "tour_step": [
        ("w - lr * dw", "passed", "w' is right, in float64, on 3 sets of arguments"),
        ("(w - lr * dw).tolist()", "passed", "in float64"),
        ("[w - lr * dw]", "passed", "in float64"),
        ("(w - lr * dw,)", "passed", "in float64"),
        ("(w - lr * dw) + 0j", "passed", "in float64"),
        ("np.matrix(w) - lr * dw if w.ndim == 2 else w - lr * dw", "passed", "in float64"),
        ("np.float32(w) - np.float32(lr) * np.float32(dw)", "passed", "w' comes back as float32"),
        ("np.float32(w) - lr * dw", "passed", "agrees to seven digits or fewer"),
        ("w + lr * dw", "sign", "w', or a part of it, has the wrong sign"),
        ("lr * dw - w", "sign", ""),
        ("(w - lr * dw).astype(np.float16)", "dtype", "as if float16 or integers had held it"),
        ("np.float16(w) - np.float16(lr) * np.float16(dw)", "dtype", "float16"),
        ("(w - lr * dw).astype(int)", "dtype", "right but for rounding"),
        ("np.round(w - lr * dw)", "dtype", "right but for rounding"),
        ("-lr * dw", "path missing", "one of its two parts: the old value, and the step"),
        ("w", "path missing", "one of its two parts"),
        ("w - dw", "the learning rate is missing", "w' is wrong"),
        ("2 * (w - lr * dw)", "failed", "w' is twice the right one"),
        ("(w - lr * dw) * np.nan", "failed", "yours nan"),
        ("np.full_like(w, np.inf)", "failed", "yours inf"),
        ("np.zeros_like(w)", "failed", "every number of w' is 0"),
        ("return", "open", "not written yet"),
        ("pass", "open", "not written yet"),
        ('"""Gradient descent."""\n...', "open", "not written yet"),
        ("raise NotImplementedError", "open", "not written yet"),
        ("is None", "open", "not written yet"),
        ("w - lr * dw, dw", "failed", "it returned 2 values, wanted 1: w'"),
        ("'w'", "failed", "a str"),
        ("{'w': w - lr * dw}", "failed", "a dict"),
        ("(number for number in w)", "failed", "a generator"),
        ("[[1.0], [1.0, 2.0]]", "failed", "w' is wrong"),
        ("w > lr * dw", "failed", "of bool"),
        ("max(w, lr * dw)", "failed", "min, max and if take one number"),
        ("is 3", "failed", "got an int, wanted a function"),
        ("is np.ones(3)", "failed", "its name, without brackets behind it"),
        ("is lambda w, dw: w - 0.1 * dw", "failed", "it is called with 3: w, dw, lr"),
        ("is functools.partial(lambda sign, w, dw, lr: w + sign * lr * dw, -1)", "passed", ""),
        ("is functools.partial(lambda w, dw, lr, k=1: None, k=1)", "open", "not written yet"),
    ],
    "tour_exact": [
        ("sum(a in forms for (_, forms), a in zip(pairs, answers)) / len(pairs)", "passed", ""),
        ("np.mean([any(a == f for f in p[1]) for p, a in zip(pairs, answers)])", "passed", ""),
        ("Fraction(sum(pairs[i][1].count(a) for i, a in enumerate(answers)), len(answers))",
         "failed", "a Fraction"),
        ("sum(pairs[i][1].count(a) for i, a in enumerate(answers)) / len(answers)", "passed", ""),
        ("np.mean([a == forms[0] for (_, forms), a in zip(pairs, answers)])",
         "a verb may have two right forms", ""),
        ("np.mean([a == forms[-1] for (_, forms), a in zip(pairs, answers)])",
         "a verb may have two right forms", ""),
        ("np.mean([a in '/'.join(forms) for (_, forms), a in zip(pairs, answers)])",
         "a part of a right word is wrong", ""),
        ("np.mean([a.startswith(tuple(forms)) for (_, forms), a in zip(pairs, answers)])",
         "a part of a right word is wrong", ""),
        ("sum(a in forms for (_, forms), a in zip(pairs, answers))", "a share is from 0 to 1", ""),
        ("np.mean([a in pair for pair, a in zip(pairs, answers)])", "failed", "share is wrong"),
    ],
    "tour_break": [
        ("w - dw", "passed", "caught and named: the learning rate is missing"),
        ("w - 2 * lr * dw", "failed", "not in the way asked for"),
        ("w - dw + np.nan", "failed", "not in the way asked for"),
        ("raise ValueError('broken')", "failed", "it raised ValueError: broken"),
        ("...", "open", "not written yet"),
    ],
    # ------------------------------------------------------------------------ 01, the tape
    "mul_backward": [
        ("dy * b, dy * a", "passed", "da and db are right"),
        ("np.stack([dy * b, dy * a])", "passed", "da and db are right"),
        ("(g for g in (dy * b, dy * a))", "failed", "it returned a generator, wanted 2 values"),
        ("-dy * b, dy * a", "sign", "da, or a part of it, has the wrong sign"),
        ("da.T, db", "transposed", "da is transposed"),
        ("dy * a, dy * b", "da reads b, and db reads a", ""),
        ("dy * b, dy * b", "da reads b, and db reads a", "db is wrong"),
        ("None, None", "failed", "got     None"),
        ("dy * b", "failed", "wanted 2 values: da, db"),
        ("dy * b, dy * a, None", "failed", "it returned 3 values, wanted 2"),
        ("{'da': dy * b, 'db': dy * a}", "failed", "it returned a dict, wanted 2 values"),
    ],
    "tape_kept": [
        ("found, seen = [], []\nfor c in caches:\n    found.append(0)\n    for a in c:\n"
         "        if not any(a is b for b in seen):\n            found[-1] += a.nbytes\n"
         "            seen.append(a)\nreturn found", "passed", "bytes is right"),
        ("ids = [{id(a): a.nbytes for a in c} for c in caches]\n"
         "return np.array([sum(n for i, n in c.items() if not any(i in d for d in ids[:k]))\n"
         "                 for k, c in enumerate(ids)])", "passed", ""),
        ("[sum(a.nbytes for a in c) for c in caches]", "an array that an earlier op keeps", ""),
        ("[sum({id(a): a.nbytes for a in c}.values()) for c in caches]",
         "an array that an earlier op keeps", ""),
        ("seen, found = set(), []\nfor c in caches:\n"
         "    found.append(sum(a.nbytes for a in c if id(a) not in seen))\n"
         "    seen |= set(map(id, c))\nreturn found", "one op has an array twice", ""),
        ("seen, found = set(), []\nfor c in caches:\n"
         "    new = {a.shape: a.nbytes for a in c if a.shape not in seen}\n    seen |= set(new)\n"
         "    found.append(sum(new.values()))\nreturn found", "two arrays of one shape are", ""),
        ("[n / 8 for n in bytes]", "the exercise asks for bytes", ""),
        ("np.cumsum(bytes)", "the exercise asks for the bytes of each op", ""),
        ("bytes.sum()", "failed", "shape"),
    ],
    "linear_backward": [
        ("dy @ W, dy.T @ x", "passed", ""),
        ("np.einsum('mo,oi->mi', dy, W), np.einsum('mo,mi->oi', dy, x)", "passed", ""),
        ("dW, dx", "swapped", "in another order"),
        ("dx, x.T @ dy", "transposed", "dW is transposed"),
        ("dy @ W.T, dW", "transposed", "dx is transposed"),
        ("dx, -dW", "sign", "dW, or a part of it, has the wrong sign"),
        ("dx, dy[:, :, None] * x[:, None, :]", "no sum", "dW is not the sum over all rows"),
        ("dx, dy[:1].T @ x[:1]", "no sum", ""),
        ("dx, None", "failed", "got     None"),
        ("dx + 1, dW + 1", "failed", "dx is wrong, and so is dW"),
    ],
    "linear_break": [
        ("dx, dW / len(x)", "passed", "caught and named: no sum"),
        ("dx, np.outer(dy[2], x[2])", "passed", "no sum"),
        ("dx, dy[:-1].T @ x[:-1]", "passed", "no sum"),
        ("dx, np.einsum('mo,mi->oim', dy, x)", "passed", "no sum"),
        ("dx, [np.outer(g, row) for g, row in zip(dy, x)]", "passed", "no sum"),
        ("dx, (dy[:, :, None] * x[:, None, :]).max(0)", "passed", "no sum"),
        ("dx, np.outer(dy.mean(0), x.mean(0))", "passed", "no sum"),
        ("dx, np.outer(dy.sum(0), x.sum(0))", "passed", "no sum"),
        ("dx, dW.T / len(x)", "failed", "not by the slip asked for"),
        ("dx, 2 * dW", "failed", "not by the slip asked for"),
        ("dx / len(x), dW / len(x)", "failed", "not only by the slip asked for, no sum: see dx"),
        ("dx, np.full_like(W, np.nan)", "failed", "not by the slip asked for"),
        ("dx, None", "failed", "not by the slip asked for"),
        ("dx, dy @ x", "failed", "it raised ValueError"),
    ],
    "tape_network": [
        (network, "passed", ""),
        ("network(x, t, W1, W2, square=1)", "error² has the derivative 2 error", ""),
        ("network(x, t, W1, W2, slope=np.ones_like)", "tanh' = 1 - tanh² is missing", ""),
        ("network(x, t, W1, W2, slope=lambda z: 1 - z**2)", "hidden is tanh z already", ""),
        ("network(x, t, W1, W2, count=lambda e: 1)", "the loss is a mean", ""),
        ("network(x, t, W1, W2, count=len)", "the loss is a mean", "rows times columns"),
    ],
    "tape_walk": [
        (walk.walk, "passed", "dU and dV are right"),
        (walk_in_place, "passed", ""),
        (lambda nodes, dy: {}, "failed", "dU is wrong, and so is dV"),
        (walk_to_leaves, "failed", "has each of the 10 nodes, and 8 are missing"),
        (walk_popping, "failed", "the gradients of inner nodes were dropped"),
        (walk_carrying, "an op got the gradient of another node", ""),
        (walk_from_ones, "the walk begins at the last node with dy, not with 1", ""),
    ],
    # ------------------------------------------------------------------------ 01b, gradients
    "gradient_central": [
        (central, "passed", ""),
        ("np.reshape([(f(x + h * e.reshape(x.shape)) - f(x)) / h for e in np.eye(x.size)], "
         "x.shape)", "the difference was taken on one side only", ""),
        ("2 * df", "the difference was divided by h", ""),
        ("df * h**2", "a / 2 * h divides by 2", ""),
        *((f"y, df = x.copy(), np.zeros_like(x)\nfor i in np.ndindex(x.shape):\n"
           f"    y[i] {first}= h\n    a = f(y)\n    y[i] {then}= 2 * h\n"
           f"    df[i] = {first}(a - f(y)) / (2 * h)\nreturn df",
           "the number that was moved stays moved", "") for first, then in ("+-", "-+")),
        ("y, df = x.copy(), np.zeros_like(x)\nfor i in np.ndindex(x.shape):\n"
         "    y[i] += h\n    a = f(y)\n    y[i] -= 2 * h\n    df[i] = (a - f(y)) / (2 * h)\n"
         "    y[i] = x[i]\nreturn df", "passed", ""),
        ("e = np.eye(x.size).reshape(-1, *x.shape)\n"
         "return np.reshape([(f((x + h) * i) - f((x - h) * i)) / (2 * h) for i in e], x.shape)",
         "failed", "df is wrong"),  # all other numbers are 0
    ],
    "gradient_errors": [
        ("[np.abs(gradient(f, x, h) - right).max() for h in steps]", "passed", ""),
        *((f"[{over} for e in (gradient(f, x, h) - right for h in steps)]",
           "the largest error is asked for, not the sum of all", "")
          for over in ("np.linalg.norm(e)", "abs(e).sum()", "(e**2).sum()", "(e**2).mean()",
                       "(e @ e / e.size) ** 0.5")),
        ("[np.median(abs(gradient(f, x, h) - right)) for h in steps]", "failed", "errors is wrong"),
    ],
    "gradient_blind": [
        ("dy**2 @ W, dW", "passed", "wrong, and unseen with dy = 1 everywhere"),
        ("np.ones_like(dy) @ W, dW", "passed", "unseen"),
        ("dx * dy.mean(), dW", "passed", "unseen"),
        ("np.broadcast_to(W.sum(0), x.shape), dy.T @ x", "passed", "unseen"),
        ("dx, dW", "failed", "nothing is broken: it is right everywhere"),
        ("2 * dx, dW", "failed", "it is seen with dy = 1 everywhere already: dx is wrong"),
        ("dx, np.ones_like(dy).T @ x", "failed", "dW must stay right: only dx is to be wrong"),
        ("np.ones_like(dy) @ W, np.ones_like(dy).T @ x", "failed", "dW must stay right"),
        ("dx * (np.nan if (dy - 1).any() else 1), dW", "failed", "keep its shape and be finite"),
    ],
    "gradient_directional": [
        ("(f(x + h * v) - f(x - h * v)) / (2 * h), (df * v).sum()", "passed", ""),
        ("2 * by_differences, by_the_gradient", "failed", "by differences is wrong"),
    ],
    "gradient_check": [
        (is_right, "passed", ""),
        (lambda *pair: False, "it calls a right pair wrong", ""),
        (lambda *pair: is_right(*pair, dy=np.ones), "a pair passes that is right only where", ""),
        (lambda *pair: is_right(*pair, atol=0.6), "a pair passes in which one number of dW", ""),
        (along, "passed", ""),
        (functools.partial(along, direction=np.ones_like), "a pair passes whose dx has its", ""),
        ("y, cache = forward(x, W)\ndx, dW = backward(y, cache)\n"
         "return np.allclose(dx, y @ W) and np.allclose(dW, y.T @ x)",
         "it calls a right pair of another forward wrong", ""),  # no differences at all
        (lambda *pair: is_right(*pair, atol=0), "it calls a right pair wrong: no difference", ""),
        (lambda *pair: is_right(*pair, seen=[0]), "it does not see a wrong dW", ""),
        (lambda *pair: is_right(*pair, seen=[1]), "it does not see a wrong dx", ""),
    ],
    # ------------------------------------------------------------------------ 02, a Llama
    "llama_norm": [
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps)", "passed", "y is right"),
        ("[list(g * r / math.sqrt(r @ r / len(r) + eps)) for r in x]", "passed", ""),
        ("g * x / (np.sqrt((x**2).mean(1, keepdims=True)) + eps)", "epsilon", "in another place"),
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True))", "epsilon", "eps is missing in y"),
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)", "epsilon", ""),
        ("y / g", "failed", "y is wrong"),
        ("g * x / np.sqrt((x**2).sum(1, keepdims=True) + eps)", "it has the mean of x²", ""),
        ("g * x / np.sqrt((x**2).mean() + eps)", "the mean runs over all numbers", ""),
        ("g * x / np.sqrt((x**2).mean(1) + eps)", "failed", "it raised ValueError"),
        ("g * x / ((x**2).mean(1, keepdims=True) + eps)", "the square root is missing", ""),
    ],
    "llama_attention": [
        (attend, "passed", "o is right"),
        ("T, D = q.shape\no = np.zeros((T, D))\nfor t in range(T):\n"
         "    w = np.exp(k[: t + 1] @ q[t] / D**0.5)\n"
         "    o[t] = w @ v[: t + 1] / w.sum()\nreturn o", "passed", ""),
        ("attend(q, k, v, mask=lambda T: np.ones((T, T)))", "a place sees those after it", ""),
        ("attend(q, k, v, scale=1)", "the scores are q kᵀ/√D", ""),
        ("attend(q, k, v, scale=len(q) ** -0.5)", "√D is the root of the columns of q", ""),
        ("attend(q, k, v, mask=lambda T: np.tri(T).T)", "the mask hides what came before", ""),
        ("attend(q, k, v, weigh=lambda s: np.exp(s) / np.exp(s).sum(0))",
         "the softmax is of each row", ""),
        ("attend(q, k, v, weigh=lambda s: np.exp(s) / np.exp(s).sum(1))",
         "the softmax is of each row", ""),
        ("attend(q, k, v, scale=1 / q.shape[1])", "failed", "o is wrong"),
        ("attend(q, k, v, mask=lambda T: np.tri(T, k=-1))", "failed", "0 · inf"),
    ],
    "llama_break": [
        ("attend(q, k, v, mask=lambda T: np.ones((T, T)))", "passed", "caught and named"),
        ("softmax(q @ k.T) @ v", "failed", "not in the way asked for"),
    ],
    "llama_weights": [
        ("np.tril(np.exp(q @ k.T / q.shape[1] ** 0.5 - lse[:, None]))", "passed", ""),
        ("softmax(np.where(np.tri(len(q)), q @ k.T / q.shape[1] ** 0.5, -np.inf))", "passed", ""),
        ("np.tril(np.exp(q @ k.T / q.shape[1] ** 0.5) / np.exp(lse)[:, None])", "passed", ""),
        ("np.tril(np.exp(q @ k.T / q.shape[1] ** 0.5 - lse))", "lse is one number for each", ""),
        ("np.exp(q @ k.T / q.shape[1] ** 0.5 - lse[:, None])", "a place sees those after it", ""),
        ("np.triu(np.exp(q @ k.T / q.shape[1] ** 0.5 - lse[:, None]))", "the mask hides what", ""),
        ("np.tril(np.exp(q @ k.T - lse[:, None]))", "the scores are q kᵀ/√D", ""),
        ("np.tril(np.exp(q @ k.T / q.shape[1] ** 0.5) / lse[:, None])", "lse is a logarithm", ""),
        ("np.tril(q @ k.T / q.shape[1] ** 0.5 - lse[:, None])", "failed", "weights is wrong"),
    ],
    "llama_rope": [
        ("a, b = np.split(x, 2, axis=1)\n"
         "return np.hstack([a * cos - b * sin, b * cos + a * sin])", "passed", ""),
        ("c = x[:, : x.shape[1] // 2] + 1j * x[:, x.shape[1] // 2 :]\nc = c * (cos + 1j * sin)\n"
         "return np.concatenate([c.real, c.imag], axis=1)", "passed", ""),
        ("a, b = np.split(x, 2, axis=1)\n"
         "return np.hstack([a * cos + b * sin, b * cos - a * sin])", "it turns the other way", ""),
        ("a, b = np.split(x, 2, axis=1)\n"
         "return np.hstack([a * sin - b * cos, b * sin + a * cos])", "cos and sin are in each", ""),
        ("a, b = x[:, ::2], x[:, 1::2]\n"
         "return np.hstack([a * cos - b * sin, b * cos + a * sin])", "two neighbours are no", ""),
        ("a, b = np.split(x, 2, axis=1)\n"
         "return np.hstack([a * cos + b * sin, b * cos + a * sin])", "a rotation has four", ""),
        ("a, b = np.split(x, 2, axis=1)\nreturn a * cos - b * sin", "failed", "shape"),
        ("x * cos", "failed", "it raised ValueError"),
    ],
    "llama_swiglu": [
        ("gate * sigmoid(gate) * up", "passed", ""),
        ("gate * (1 + np.tanh(gate / 2)) / 2 * up", "passed", ""),
        ("up * sigmoid(up) * gate", "gate and up are in each other's place", ""),
        ("sigmoid(gate) * up", "silu(z) = z σ(z): the z is missing", ""),
        ("gate / (1 + np.exp(gate)) * up", "silu(z) has e to the power of -z", ""),
        ("gate * up * sigmoid(gate * up)", "silu is of the gate alone", ""),
        ("gate * sigmoid(gate) + up", "silu is of the gate alone", ""),
        ("gate * sigmoid(gate)", "silu is of the gate alone", ""),
        ("np.maximum(gate, 0) * up", "failed", "y is wrong"),
    ],
    # ------------------------------------------------------------------------ 02b, backward
    "backward_loss": [
        ("(softmax(z) - np.eye(z.shape[1])[targets]) / len(z)", "passed", ""),
        ("softmax(z) / len(z)", "the 1 at the target was not subtracted", ""),
        ("dz * len(z)", "the loss is a mean over the rows", ""),
        ("dz / z.shape[1]", "the mean is over the rows: divide by their number, not by all", ""),
        ("(softmax(z.T).T - np.eye(z.shape[1])[targets]) / len(z)",
         "the softmax is of each row", ""),
        ("e = np.exp(z)\nreturn (e / e.sum() - np.eye(z.shape[1])[targets]) / len(z)",
         "the softmax is of each row", ""),
        ("z = z - z.max()\nz[np.arange(len(z)), targets] -= 1\nreturn z / len(z)", "failed", ""),
    ],
    "backward_softmax": [
        ("p * (dp - (p * dp).sum(-1, keepdims=True))", "passed", ""),
        ("p * dp", "the sum over the row is missing", ""),
        ("p * (1 - p) * dp", "each p was taken to depend on its own score alone", ""),
        ("p * (dp - (p * dp).sum(0))", "the sum runs over the columns, or over all", ""),
        ("p * (dp - (p * dp).sum())", "the sum runs over the columns, or over all", ""),
    ],
    "backward_rho": [
        ("(dy * g * x).sum(1, keepdims=True)", "passed", "dρ is right"),
        ("np.einsum('mc,mc,c->m', dy, x, g)[:, None]", "passed", ""),
        ("[[row @ (g * d)] for row, d in zip(x, dy)]", "passed", ""),
        ("(dy * x) @ g[:, None]", "passed", ""),
        ("(dy * x).sum(1, keepdims=True)", "y = g · xρ: what goes back to ρ passes", ""),
        ("dy * g * x", "ρ is a factor of every number of its row", ""),
        ("(dy * g * x).mean(1, keepdims=True)", "ρ is a factor of every number of its row", ""),
        ("(dy * g * x).sum()", "the sum is of each row", ""),
        ("(dy * g * x).sum(0)", "the sum is of each row", ""),
        ("(dy * g * x).sum(1)", "a number a row stands as a column", ""),
        ("(dy * g).sum(1, keepdims=True)", "n = xρ: ρ gets dn · x; the x is missing", ""),
        ("-(dy * g * x).sum(1, keepdims=True)", "sign", ""),
    ],
    "backward_rmsnorm": [
        (rms, "passed", ""),
        ("rms(dy, x, g, eps, by_rho=0)", "the path through ρ is missing", ""),
        ("rms(dy, x, g, eps, by_rho=-1)", "ρ falls where x grows: its term is subtracted", ""),
        ("rms(dy, x, g, eps, by_rho=x.shape[1])", "the term of ρ has the mean over the row", ""),
        ("rms(dy, x, 1 + 0 * g, eps)[0], dg", "y = g · xρ: dx passes through g", ""),
        ("dx, (dy * x).sum(0)", "dg multiplies dy by xρ, not by x", ""),
        ("dx, dy * x", "failed", "dg is wrong"),
        ("rms(dy, x, g, 0)", "epsilon", "eps is missing in dx, or it is in another place"),
        ("rms(dy, x, g, 1e-5)", "epsilon", ""),
        ("dx, rms(dy, x, g, 0)[1]", "epsilon", "eps is missing in dg"),
        ("m = np.sqrt((x**2).mean(1, keepdims=True))\nr, w = 1 / (m + eps), dy * g\n"
         "return w * r - x * r**2 / m * (w * x).mean(1, keepdims=True), (dy * x * r).sum(0)",
         "epsilon", ""),
    ],
    "backward_break": [
        ("rms(dy, x, g, eps, by_rho=0)", "passed", "caught and named"),
        ("rms(dy, x, g, 0, by_rho=0)", "failed", "not by the slip asked for"),
        ("2 * dx, dg", "failed", "not by the slip asked for"),
    ],
    "backward_rope": [
        ("a, b = np.split(dy, 2, axis=1)\n"
         "return np.concatenate([a * cos + b * sin, b * cos - a * sin], axis=1)", "passed", ""),
        ("a, b = np.split(dy, 2, axis=1)\n"
         "return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)",
         "it was turned forward once more", ""),
        ("a, b = dy[:, ::2], dy[:, 1::2]\n"
         "return np.concatenate([a * cos + b * sin, b * cos - a * sin], axis=1)",
         "two neighbours are no pair here", ""),
    ],
    "backward_swiglu": [
        ("p = sigmoid(gate)\nreturn dh * up * p * (1 + gate * (1 - p)), dh * gate * p",
         "passed", ""),
        ("dh * up * sigmoid(gate), dup", "silu'(z) is not σ(z)", ""),
        ("dh * up * gate * sigmoid(gate) * (1 - sigmoid(gate)), dup", "the first term of the", ""),
        ("dh * up * sigmoid(gate) * (2 - sigmoid(gate)), dup", "silu'(z) has z σ(z)", ""),
        ("dh * up * sigmoid(gate) * (1 - sigmoid(gate)), dup", "σ (1 - σ) is σ'", ""),
        ("dgate, dh * sigmoid(gate)", "dup multiplies dh by silu(gate)", ""),
    ],
    "backward_weights": [
        ("do @ v.T, p.T @ do", "passed", "dp and dv are right"),
        ("np.einsum('id,jd->ij', do, v), np.einsum('ij,id->jd', p, do)", "passed", ""),
        ("(v @ do.T).T, (do.T @ p).T", "passed", ""),
        ("do @ v.T, p @ do", "dv = pᵀ do: p was not transposed", ""),
        ("v @ do.T, dv", "dp is (T, T) with do before v", ""),
        ("p * dp, dv", "softmax has a step of its own", ""),
        ("p * (dp - (p * dp).sum(1, keepdims=True)), dv", "softmax has a step of its own", ""),
        ("np.tril(dp), dv", "where p is 0 its gradient is not", ""),
        ("dv, dp", "swapped", ""),
        ("do * v, dv", "failed", "shape"),
        ("do @ v, dv", "failed", "it raised ValueError"),
    ],
    "backward_attention": [
        (attend_backward, "passed", ""),
        ("attend_backward(do, q, k, v, scale=1)", "the scores are q kᵀ / √D: the factor", ""),
        ("attend_backward(do, q, k, v, total=lambda a: 0)", "the sum over the row is missing", ""),
        ("attend_backward(do, q, k, v, total=np.sum)", "the sum runs over the columns, or", ""),
        ("attend_backward(do, q, k, v, mask=lambda T: True)", "the mask is missing", ""),
        ("attend_backward(do, q, k, v, mask=lambda T: np.tri(T).T)", "the mask hides what", ""),
        *((f"s = np.where(np.tri(len(q)), np.exp(q @ k.T * q.shape[1] ** -0.5), 0)\n"
           f"p = s / s.sum({axis})\nds = p * (do @ v.T - (p * (do @ v.T)).sum(1, keepdims=True))\n"
           "ds = ds * q.shape[1] ** -0.5\nreturn ds @ k, ds.T @ q, p.T @ do",
           "the softmax is of each row", "") for axis in ("0", "")),
    ],
    "backward_layer": [
        (layer, "passed", ""),
        (lambda *a: layer(*a, turn="qkv"), "RoPE turns q and k, not v", ""),
        (lambda *a: layer(*a, turn=""), "RoPE is missing", ""),
        (lambda *a: layer(*a, first=0), "the first addition is missing", ""),
        (lambda *a: layer(*a, second=0), "the second addition is missing", ""),
        (lambda *a: layer(*a, out=False), "o is missing", ""),
        (lambda *a: layer(*a, gates=("up", "gate")), "gate and up are in each other's place", ""),
        (lambda x, w, use: layer(x, w | {"q": w["k"], "k": w["q"]}, use), "q and k are in", ""),
    ],
    # ------------------------------------------------------------------------ 03, low rank
    "low_rank_truncate": [
        ("U, S, V = np.linalg.svd(D, False)\nS[r:] = 0\nreturn (U * S) @ V", "passed", ""),
        ("w, V = np.linalg.eigh(D.T @ D)\nV = V[:, len(V) - r :]\nreturn D @ V @ V.T",
         "passed", ""),
        ("w, V = np.linalg.eigh(D.T @ D)\nV = V[:, -r:]\nreturn D @ V @ V.T",
         "at r = 0 nothing is kept", "-0 is 0"),
        ("D", "failed", "D_r is wrong"),
        ("D[:, :r]", "failed", "shape"),
    ],
    "low_rank_break": [
        ("U, S, V = np.linalg.svd(D, False)\nS[:-r] = 0\nreturn (U * S) @ V", "passed", ""),
        ("D - D_r", "failed", "not in the way asked for"),
    ],
    # ------------------------------------------------------------------------ 04, LoRA
    "lora_forward": [
        ("x @ W.T + s * (x @ A.T) @ B.T", "passed", ""),
        ("[W @ row + s * B @ (A @ row) for row in x]", "passed", ""),
        ("x @ W.T - s * (x @ A.T) @ B.T", "sign", "y, or a part of it, has the wrong sign"),
        ("x @ W.T + (x @ A.T) @ B.T", "scale missing", "was left out of y"),
        ("x @ W.T + s * s * (x @ A.T) @ B.T", "scale twice", ""),
        ("x @ W + s * (x @ A.T) @ B.T", "transposed", ""),
        ("x @ W.T + s * (x @ A) @ B.T", "transposed", ""),
        ("y.T", "transposed", ""),
        ("x @ W.T", "path missing", ""),
        ("s * (x @ A.T) @ B.T", "path missing", ""),
        ("x @ W.T + 16 * (x @ A.T) @ B.T", "failed", "y is wrong"),  # a scale seen before
        ("y, (x,)", "failed", "it returned 2 values, wanted 1: y"),
        ("return x.mean()", "failed", "shape  expected"),
    ],
    "lora_backward": [
        ("lora(dy, x, W, s, A, B)", "passed", "dx, dA and dB are right, in float64"),
        ("list(lora(dy, x, W, s, A, B))", "passed", ""),
        ("lora(*(np.float32(a) for a in (dy, x, W, s, A, B)))", "passed", "float32"),
        ("dx.astype(np.float32), dA, dB", "passed", "dx comes back as float32"),
        (lora(*np.ones((6, 1, 1)))[:1] + (np.ones(2), np.ones(3)), "failed",
         "got a tuple, wanted a function: its name, without brackets behind it"),  # it was called
        ((lora_forward, lora), "failed", "got a tuple of 2, wanted a function"),
        ("dx, dB, dA", "swapped", "another order"),
        ("dx, -dA, dB", "sign", "dA, or a part"),
        ("lora(dy, x, W, -s, A, B)", "sign", "dx, or a part"),
        ("dx, dA.astype(np.float16), dB", "dtype", ""),
        ("lora(dy, x, W, 1, A, B)", "scale missing", "dx is wrong, and so are dA and dB"),
        ("dx, dA / s, dB", "scale missing", ""),
        ("dx, dA, dB / s", "scale missing", ""),
        ("dy @ W + s * s * dy @ B @ A, dA, dB", "scale twice", ""),
        ("dx, dA, s * dB", "scale twice", ""),
        ("dy @ W.T + s * dy @ B @ A, dA, dB", "transposed", ""),
        ("dx, dA.T, dB", "transposed", ""),
        ("dx, (s * dy @ B)[:, :, None] * x[:, None, :], dB", "no sum", ""),
        ("dx, dA / len(dy), dB", "no sum", ""),
        ("dx, dA, s * dy[:1].T @ (x @ A.T)[:1]", "no sum", ""),
        # the sequences' gradients side by side: summed over tokens only
        ("dx, ((s * dy @ B)[:, :, None] * x[:, None, :]).reshape(2, -1, *A.shape).sum(1), dB",
         "no sum", ""),
        ("dy @ W, dA, dB", "path missing", ""),
        ("s * dy @ B @ A, dA, dB", "path missing", ""),
        ("dx, dA", "failed", "it returned 2 values, wanted 3: dx, dA, dB"),
        ("dx, None, None", "failed", "got     None"),
        ("dx, dA * 0, dB", "failed", "every number of dA is 0"),
        ("dx, 3 * dA, dB", "failed", "dA is 3 times the right one"),
        ("for a in (x, A, B):\n    a[...] = 0\nreturn lora(dy, x, W, s, A, B)", "failed",
         "it wrote into its argument x"),
        ("return up_the_stack(true_of)", "failed", "it raised LookupError: nothing found"),
        ("for f in inspect.stack():\n    for v in f.frame.f_locals.values():\n"
         "        if hasattr(v, 'reference'):\n"
         "            return tuple(v.reference(dy, x, W, s, A, B).values())", "failed", ""),
    ],
    "lora_merge": [
        ("W + s * B @ A", "passed", ""),
        ("is Scaled()", "passed", ""),
        ("is functools.partial(lambda k, W, s, A, B: W + k * s * B @ A, 1)", "passed", ""),
        ("W - s * B @ A", "sign", ""),
        ("W + s * s * B @ A", "scale twice", ""),
        ("W + s * A @ B", "transposed", ""),
        ("W + (s * B @ A).T", "transposed", ""),
        ("W1.T", "transposed", ""),
        ("s * B @ A", "path missing", ""),
        ("s * (W + B @ A)", "failed", "W' is wrong"),
    ],
    "lora_break": [
        ("lora(dy, x, W, 1, A, B)", "passed", "caught and named: scale missing"),
        ("dx, dA, dB / s", "passed", ""),
        ("dx, dA, dB", "failed", "nothing is broken"),
        ("lora(dy, x, W, 1, A, B)[0], dA * np.nan, dB", "failed", "see dA"),
        ("lora(dy, x, W, 1, A, B)[0], dA, dB * 0", "failed", "see dB"),
        ("lora(dy, x, W, s * s, A, B)", "failed", "not by the slip asked for"),
        ("lora(dy, x, W, 1, A, B)[0], dA.T, dB", "failed", "not only by"),
        ("None, None, None", "failed", "not by the slip asked for"),
        ("1 / 0", "failed", "it raised ZeroDivisionError"),
    ],
    "lora_blind": [
        ("dx, 3 * dA, dB", "passed", "unseen"),
        ("[dx, -dA, dB]", "passed", "unseen"),
        ("dx, dA + B.sum(), dB", "passed", "unseen"),
        ("dx, dA, dB", "failed", "nothing is broken"),
        ("dx + B.sum(), 3 * dA, dB", "failed", "dx must stay right: only dA is to be wrong"),
        ("dx, dA, 2 * dB", "failed", "it is seen at the start already: dB is wrong"),
        ("if B.any():\n    raise ValueError('no')\nreturn lora(dy, x, W, s, A, B)", "failed",
         "it raised ValueError: no"),
        ("dx, dA * (np.nan if B.any() else 1), dB", "failed", "dA must keep its shape and be"),
        ("dx, dA.T if B.any() else dA, dB", "failed", "dA must keep its shape and be finite"),
        ("dx, None if B.any() else dA, dB", "failed", "dA must keep its shape and be finite"),
    ],
    "lora_pair": [
        ((lora_forward, lora_backward), "passed", ""),
        ([lora_forward, lora_backward], "passed", ""),
        (lora_forward, "failed", "wanted the tuple (forward, backward)"),
        ((lora_forward, lora_backward, lora), "failed", "got a tuple of 3, wanted 2 functions"),
        ((lora_forward, None), "failed", "got a tuple of 2, 1 of them a function, wanted 2"),
        (lora_forward(*np.ones((5, 1, 1))), "failed", "its name, without brackets behind it"),
        ((lora_forward, lambda dy, cache: (dy,)), "failed", "wanted 5, one"),
        ((lambda x, *a: x, lora_backward), "failed", "forward returned ndarray, wanted the tuple"),
        ((lora_forward, lambda dy, cache: print(end="")), "failed", "is the return missing?"),
        ((lambda x, W, s, A, B: (lora_forward(x, W, 1, A, B)[0], (x, W, s, A, B)), lora_backward),
         "scale missing", "was left out of y"),
        ((lora_forward, scaling_dy), "failed", "it wrote into its argument dy"),
        ((lora_forward, lambda dy, cache: (*lora_backward(dy, cache)[:4], None)), "failed",
         "dB is wrong"),
    ],
    # ------------------------------------------------------------------------ 05, LoRA-FA
    "lora_fa_backward": [
        ("dy @ W + s * (dy @ B) @ A, None, s * dy.T @ z", "passed", "dx and dB are right"),
        ("[dy @ (W + s * B @ A), None, s * (z.T @ dy).T]", "passed", ""),
        ("dx, dB, None", "swapped", ""),
        ("dx, np.zeros_like(A), dB", "frozen moved", "None: dA is not needed"),
        ("dy @ W - s * (dy @ B) @ A, None, dB", "sign", "dx, or a part"),
        ("dy @ W + (dy @ B) @ A, None, dB", "scale missing", ""),
        ("dx, None, dB / s", "scale missing", ""),
        ("dy @ W + s * s * (dy @ B) @ A, None, dB", "scale twice", ""),
        ("dx, None, s * dB", "scale twice", ""),
        ("dy @ W + s * dy @ B @ A.T, None, dB", "transposed", ""),
        ("dx, None, dB.T", "transposed", ""),
        ("dx, None, s * dy[:, :, None] * z[:, None, :]", "no sum", ""),
        ("dx, None, dB / len(dy)", "no sum", ""),
        ("dy @ W, None, dB", "path missing", ""),
        ("s * dy @ B @ A, None, dB", "path missing", ""),
        ("None, None, None", "failed", "dx is wrong, and so is dB"),
        ("dx, dB", "failed", "it returned 2 values, wanted 3"),
    ],
    "lora_fa_step": [
        ("A, B - lr * dB", "passed", ""),
        ("Step(A, B - lr * dB)", "passed", ""),
        ("A, B + lr * dB", "sign", "B, or a part of it, has the wrong sign"),
        ("A - lr * dA, B - lr * dB", "frozen moved", "A is frozen"),
        ("B - lr * dB, A", "swapped", "another order"),
        ("None, B - lr * dB", "failed", "A is wrong (B is right)"),
        ("A, B - dB", "failed", "B is wrong (A is right)"),
    ],
    "lora_fa_break": [
        ("dy @ W, None, dB", "passed", "caught and named: path missing"),
        ("dy @ W, None, dB / s", "failed", "not in the way asked for: see dB"),
        ("np.nan * dx, None, dB", "failed", "not in the way asked for"),
    ],
    "lora_fa_pair": [
        ((fa_forward, fa_backward), "passed", ""),
        (fa_keeping(lambda x, z: {"z": z}, lambda kept, A: kept["z"]), "passed", ""),
        (fa_keeping(lambda x, z: lambda: z, lambda kept, A: kept()), "passed", ""),
        (fa_keeping(lambda x, z: x.T, lambda kept, A: kept.T @ A.T), "the cache holds x", ""),
        (fa_keeping(lambda x, z: {"x": x.copy()}, lambda kept, A: kept["x"] @ A.T),
         "the cache holds x", ""),
        (fa_keeping(lambda x, z: lambda x=x: x, lambda kept, A: kept() @ A.T),
         "the cache holds x", ""),
        (fa_keeping(lambda x, z: Box(x), lambda kept, A: kept.x @ A.T),
         "x stays in memory after forward", ""),
        ((lambda x, *a: OUTSIDE.append(x) or fa_forward(x, *a), fa_backward),
         "x stays in memory after forward: a variable outside of it", ""),
        ((fa_forward, lambda dy, cache: (*fa_backward(dy, cache)[:3], 0, 0)),
         "frozen moved", "dA is wrong"),
    ],
    "lora_fa_ledger": [
        ("4 * M * sum(inputs), 4 * M * r * linears", "passed", ""),
        ("M * sum(inputs), M * r * linears", "a number of float32 has 4 bytes", ""),
        ("4 * M * sum(inputs) * linears, 4 * M * r * linears", "each x is kept once", ""),
        ("4 * M * sum(set(inputs)), 4 * M * r * linears", "two x of the same width", "are two x"),
    ],
    # ------------------------------------------------------------------------ 06, VeRA
    "vera_forward": [
        ("x @ W.T + b * ((d * (x @ A.T)) @ B.T)", "passed", ""),
        ("x @ (W + np.diag(b) @ B @ np.diag(d) @ A).T", "passed", ""),
        ("x @ W.T - b * ((d * (x @ A.T)) @ B.T)", "sign", ""),
        ("x @ W.T + b * ((d * (x @ A.T)) @ B)", "transposed", ""),
        ("b * ((d * (x @ A.T)) @ B.T)", "path missing", ""),
        ("x @ W.T + (b * d * (x @ A.T)) @ B.T", "b on the wrong side", ""),
        ("x @ W.T + (d * (x @ A.T)) @ B.T", "b is missing", "y is wrong"),
        ("x @ W.T + b * ((x @ A.T) @ B.T)", "d is missing", "the r numbers of u"),
        ("x @ W.T + (x @ A.T) @ B.T", "failed", "y is wrong"),
    ],
    "vera_backward": [
        ("vera(dy, u, W, A, B, b, d)", "passed", "dx, db and dd are right"),
        ("dx, db, dd = vera(dy, u, W, A, B, b, d)\nreturn dx, db.tolist(), list(dd)", "passed", ""),
        ("dx, dd, db", "swapped", ""),
        ("dx, db, -dd", "sign", "dd, or a part"),
        ("dx.T, db, dd", "transposed", ""),
        ("dx, dy * ((d * u) @ B.T), dd", "no sum", ""),
        ("dx, db, ((dy * b) @ B * u).mean(0)", "no sum", ""),
        ("dy @ W, db, dd", "path missing", ""),
        ("((dy * b) @ B * d) @ A, db, dd", "path missing", ""),
        ("dy @ W + (dy @ B * b * d) @ A, db, dd", "b on the wrong side", ""),
        ("dx, (dy @ B * d * u).sum(0), dd", "b on the wrong side", ""),
        ("dx, db, (dy @ B * b * u).sum(0)", "b on the wrong side", ""),
        ("dx, db, (dy @ B * u).sum(0)", "b is missing", "dv = dy"),
        ("dy @ W + ((dy @ B) * d) @ A, db, (dy @ B * u).sum(0)", "b is missing", "and so is dd"),
        ("dx, (dy * (u @ B.T)).sum(0), dd", "d is missing", "db reads v"),
        ("dx, db, dd[None]", "failed", "shape"),
    ],
    "vera_merge": [
        ("W + (b[:, None] * B * d) @ A", "passed", ""),
        ("W + np.diag(b) @ B @ np.diag(d) @ A", "passed", ""),
        ("W1.T", "transposed", ""),
        ("W1 - W", "path missing", ""),
        ("W + (B * b * d) @ A", "b on the wrong side", ""),
        ("W + (B * d) @ A", "b is missing", "the rows of B"),
    ],
    "vera_break": [
        ("x @ W.T + (b * d * (x @ A.T)) @ B.T", "passed", "b on the wrong side"),
        ("y", "failed", "nothing is broken"),
        ("y * np.nan", "failed", "not by the slip asked for"),
    ],
    "vera_pair": [
        ((vera_forward, vera_backward), "passed", ""),
        ([lambda *a: vera_forward(*a), lambda *a: list(vera_backward(*a))], "passed", ""),
        ((lambda x, *a: OUTSIDE.append(x) or vera_forward(x, *a), vera_backward),
         "x stays in memory after forward: a variable outside of it", ""),
    ],
    # ------------------------------------------------------------------------ 07, Delta-LoRA
    "delta_lora_step": [
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * (B1 @ A1 - B @ A), A1, B1",
         "passed", "W', A' and B' are right"),
        ("E, F = -lr * dA, -lr * dB\n"
         "return W + ratio * s * (F @ A + B @ E + F @ E), A + E, B + F", "passed", ""),
        ("2 * W - W1, A1, B1", "W moved by the old product minus the new one", "B'A' - BA"),
        ("W + s * (B @ A - B1 @ A1), A1, B1", "W moved by the old product minus the new one", ""),
        ("W1 - 2 * W, A1, B1", "sign", "W', or a part of it, has the wrong sign"),
        ("W1, A + lr * dA, B1", "sign", "A', or a part of it, has the wrong sign"),
        ("W1, B1, A1", "swapped", ""),
        ("W + s * (W1 - W), A1, B1", "scale twice", ""),
        ("W1.T, A1, B1", "transposed", ""),
        ("W + (W1 - W).T, A1, B1", "transposed", ""),
        ("W1 - W, A1, B1", "path missing", ""),
        ("W, A1, B1", "{name} is W", "W' is W: were A and B replaced before"),
        ("W + ratio * s * (B1 - B) @ (A1 - A), A1, B1", "not the products' difference", ""),
        ("W - ratio * s * lr * (dB @ A + B @ dA), A1, B1", "not the products' difference", ""),
        ("W - ratio * s * lr * dB @ dA, A1, B1", "not the products' difference", ""),
        ("W + ratio * s * B1 @ A1, A1, B1", "not the products' difference", ""),
        ("W + (W1 - W) / ratio, A1, B1", "the update ratio is missing",
         "W' is wrong (A' and B' are right)"),
        ("W + s * (B1 @ A1 - B @ A), A1, B1", "the update ratio is missing", ""),
        ("W + lr * (W1 - W), A1, B1", "failed", "W' is wrong"),
    ],
    "delta_lora_break": [
        ("W + ratio * s * (B1 - B) @ (A1 - A), A1, B1", "passed", "caught and named"),
        ("W + ratio * s * B1 @ A1, A1, B1", "failed", "not in the way asked for"),
        ("W + ratio * s * (B1 - B) @ (A1 - A), A, B", "failed", "not in the way asked for"),
        ("W1, A1, B1", "failed", "nothing is broken"),
    ],
    # ------------------------------------------------------------------------ 08, LoRA+
    "lora_plus_step": [
        ("A - lr * dA, B - ratio * lr * dB", "passed", ""),
        ("[A - lr * dA, B - (lr * ratio) * dB]", "passed", ""),
        ("A1, B - lr * dB", "ratio missing", "the ratio was left out"),
        ("A - ratio * lr * dA, B - lr * dB", "ratio on A", "the ratio went to A"),
        ("A - lr / ratio * dA, B - lr * dB", "ratio on A", "the ratio went to A"),
        ("A + lr * dA, B + ratio * lr * dB", "sign", "A', or a part of it, has the wrong sign"),
        ("B1, A1", "swapped", ""),
        ("A1, B - (lr + ratio) * dB", "failed", "B' is wrong (A' is right)"),
    ],
    "lora_plus_break": [
        ("A - ratio * lr * dA, B - lr * dB", "passed", "caught and named: ratio on A"),
        ("A1, B - lr * dB", "failed", "not in the way asked for"),
        ("A - lr / ratio * dA, B - lr * dB", "failed", "not in the way asked for"),
    ],
    "lora_plus_descend": [
        (descend, "passed", ""),
        ("list(descend(n, rate_A, rate_B, z))", "passed", ""),
        ("descend(n, rate_A, rate_B, z, limit=2000)", "passed", ""),  # more than enough
        ("np.stack(descend(n, rate_A, rate_B, z))", "passed", ""),
        (functools.partial(each_start, nan_ends=False), "passed", ""),
        ("descend(n, rate_A, rate_B, z, at_once=False)", "b moved before z did", ""),
        (functools.partial(each_start, nan_ends=True), "failed", "NaN < 0.01 is False"),
        ("descend(n, rate_A, rate_B, z, limit=100)", "failed",
         "a start that diverges has 100 steps, wanted 200. Fewer than 200 steps were made"),
        ("while_one_is_left(n, rate_A, rate_B, z)", "failed", "NaN < 0.01 is False"),
        ("descend(n, rate_A, rate_B, z)[:2]", "failed", "it returned 2 values, wanted 3"),
    ],
    # ------------------------------------------------------------------------ 09, kernels
    "kernel_roof": [
        ("np.minimum(peak, bandwidth * intensity)", "passed", ""),
        ("peak if intensity > peak / bandwidth else bandwidth * intensity", "passed", ""),
        ("bandwidth * intensity", "the lower of the two is the roof", "rate is wrong"),
        ("peak", "the lower of the two is the roof", "rate is wrong"),
        ("min(peak, bandwidth / intensity)", "failed", "rate is wrong"),
        ("min(peak, bandwidth) * intensity", "peak and bandwidth have different units", ""),
    ],
    "kernel_tile": [
        ("a.T @ b", "passed", ""),
        ("y = np.zeros((a.shape[1], b.shape[1]), np.float32)\nfor k in range(len(a)):\n"
         "    y += np.outer(a[k], b[k]).astype(np.float32)\nreturn y", "passed", "float32"),
        ("y = np.zeros((a.shape[1], b.shape[1]), int)\nfor k in range(len(a)):\n"
         "    y += np.outer(a[k], b[k])\nreturn y", "failed", "it raised"),
        ("y = np.empty((a.shape[1], b.shape[1]), int)\ny[:] = a.T @ b\nreturn y", "dtype", ""),
        ("np.outer(a[-1], b[-1])", "no sum", "y is not the sum over all steps k"),
        ("y / len(a)", "no sum", ""),
        ("y.T", "transposed", ""),
    ],
    "kernel_break": [
        ("np.outer(a[-1], b[-1])", "passed", "caught and named: no sum"),
        ("np.outer(a[0], b[0])", "failed", "not in the way asked for"),
        ("a.T @ b", "failed", "nothing is broken"),
        ("0 * (a.T @ b)", "failed", "not in the way asked for"),
    ],
    "kernel_ratio": [
        ("np.median(theirs / mine)", "passed", ""),
        ("sorted(theirs / mine)[len(mine) // 2]", "passed", ""),
        ("np.median(theirs) / np.median(mine)", "the ratio of the medians", "ratio is wrong"),
        ("np.mean(theirs / mine)", "the mean of the ratios: one odd round moves it", ""),
        ("theirs.sum() / mine.sum()", "failed", "ratio is wrong"),
        ("theirs / mine", "failed", "shape"),
    ],
    "kernel_fetched": [
        (fetched, "passed", ""),
        ("fetched(list(map(int, places)), lines)", "passed", ""),
        ("fetched(places // 16 * 16, lines)", "failed", "unsupported operand"),
    ],
    "kernel_blocked": [
        (blocked, "passed", ""),
        (functools.partial(blocked, end=1), "the last blocks are missing", ""),
    ],
    # ------------------------------------------------------------------------ 10, the comparison
    "fair_choice": [
        ("rates[np.argmax(validation)]", "passed", ""),
        ("[rates[validation.argmax()]]", "passed", ""),
        ("np.array(rates)[validation == validation.max()]", "passed", ""),
        ("validation.max()", "that is the best score itself: return its rate", "rate is wrong"),
        ("rates[np.argmax(validation + test)]", "the test words were used", ""),
        ("rates[np.argmax(np.maximum(validation, test))]", "the test words were used", ""),
        ("rates[np.argmax(0.9 * validation + 0.1 * test)]", "the test words were used", ""),
        ("rates[0]", "failed", "rate is wrong"),
    ],
    "fair_break": [
        ("rates[np.argmax(test)]", "passed", "caught and named"),
        ("rates[np.argmin(test)]", "failed", "not in the way asked for"),
        ("rates[np.argmax(validation + test)]", "failed", "not in the way asked for"),
        ("rates[np.argmax(np.maximum(validation, test))]", "failed", "not in the way asked for"),
    ],
    "fair_difference": [
        ("(a - b).mean(), (a - b).std(ddof=1) / len(a) ** 0.5", "passed", ""),
        ("d = a - b\nn = len(d)\nmean = sum(d) / n\n"
         "return mean, math.sqrt(sum((e - mean) ** 2 for e in d) / (n * (n - 1)))", "passed", ""),
        ("a.mean() - b.mean(), np.sqrt(np.cov(a - b) / len(a))", "passed", ""),
        ("difference, np.hypot(a.std(ddof=1), b.std(ddof=1)) / len(a) ** 0.5",
         "a seed is common to both", ""),
        ("difference, np.hypot(a.std(), b.std()) / len(a) ** 0.5", "a seed is common to both", ""),
        ("difference, (a.std(ddof=1) + b.std(ddof=1)) / len(a) ** 0.5",
         "a seed is common to both", ""),
        ("difference, (a - b).std(ddof=1)", "that is the spread of one difference", ""),
        ("difference, (a - b).std()", "that is the spread of one difference", ""),
        ("difference, (a - b).std() / len(a) ** 0.5", "the variance of a sample divides by", ""),
        ("difference, (a - b).var(ddof=1) / len(a)", "that is the error squared", ""),
        ("difference, (a - b).std(ddof=1) / len(a)", "the spread was divided by n", ""),
        ("-difference, its_error", "sign", "difference, or a part of it, has the wrong sign"),
        ("abs(a - b).mean(), its_error", "a − b keeps its sign", ""),
        ("abs((a - b).mean()), its_error", "a − b keeps its sign", ""),
        ("difference, abs(a - b).std(ddof=1) / len(a) ** 0.5", "a − b keeps its sign", ""),
        ("its_error, difference", "swapped", ""),
        ("difference", "failed", "wanted 2 values"),
    ],
    # ------------------------------------------------------------------------ 11, a language model
    "real_best": [
        ("among[logits[:, among].argmax(1)]", "passed", ""),
        ("tuple(max(among, key=lambda t: row[t]) for row in logits)", "passed", ""),
        ("logits.argmax(1)", "all tokens competed, not only those in `among`", ""),
        ("np.sort(among)[logits[:, among].argmax(1)]", "failed", "token is wrong"),
        ("np.where(np.isin(np.arange(logits.shape[1]), among), logits, -np.inf).argmax(1)",
         "passed", ""),
        ("np.where(np.isin(np.arange(logits.shape[1]), among), logits, 0).argmax(1)",
         "a token that is masked must not win", "0 is more than a negative logit"),
    ],
    "real_break": [
        ("logits.argmax(1)", "passed", "caught and named"),
        ("among[logits[:, among].argmax(1)]", "failed", "nothing is broken"),
        ("logits.argmin(1)", "failed", "not in the way asked for"),
    ],
    "real_serve": [
        ("x @ W.T + s * np.einsum('mi,mri,mor->mo', x, A[which], B[which])", "passed", ""),
        ("x @ W.T + (y - x @ W.T) / s", "scale missing", ""),
        ("x @ W.T + (y - x @ W.T) * s", "scale twice", ""),
        ("y.T", "transposed", ""),
        ("x @ W.T", "path missing", ""),
        ("x @ W.T + s * x @ A.mean(0).T @ B.mean(0).T", "failed", "y is wrong"),
    ],
    "real_mask": [
        (chat_mask, "passed", "mask is right"),
        ("np.array(chat_mask(ids, opens, end))", "passed", ""),
        ("np.array(chat_mask(ids, opens, end), float)", "passed", ""),
        ("inside, out = False, []\nfor t, token in enumerate(ids):\n    out.append(inside)\n"
         "    if inside and token == end:\n        inside = False\n"
         "    elif tuple(ids[max(0, t - len(opens) + 1) : t + 1]) == tuple(opens):\n"
         "        inside = True\nreturn tuple(out[1:])", "passed", ""),
        ("places = np.flatnonzero(ids == end)\n"
         "first = [t for t in range(len(ids))\n"
         "         if np.array_equal(ids[t : t + len(opens)], opens)][0]\n"
         "return np.isin(np.arange(1, len(ids)),\n"
         "               np.arange(first + len(opens), places[places > first][0] + 1))",
         "passed", ""),
        ("np.ones(len(ids) - 1)", "the prompt counts, too", "the user"),
        ("np.array(chat_mask(ids, opens, end, content=-99))", "the prompt counts, too", ""),
        ("chat_mask(ids, opens, end, content=-len(opens))", "the words that open", ""),
        ("chat_mask(ids, opens, end, ends=0)", "the end token does not count", ""),
        ("chat_mask(ids, opens, end, ends=2)", "what stands behind the end token counts", ""),
        ("chat_mask(ids, opens, end, shift=0)", "shifted by one", "not of ids[t]"),
        ("np.r_[mask[1:], 0]", "shifted by one", ""),
        ("np.r_[0, mask[:-1]]", "shifted by one", ""),
        ("chat_mask(ids, opens, end, ends=0, shift=0)", "shifted by one, and the end token", ""),
        ("t = np.arange(1, len(ids))\n"
         "return (t > np.flatnonzero(ids == opens[1])[-1] + 2) & (t <= list(ids).index(end))",
         "no target counts", "the user's end token"),
        ("chat_mask(ids, opens, end, shift=0) + [False]", "one for each token", ""),
        ("np.array(chat_mask(ids, opens, end)) | (ids[1:] == end)", "the user's end token", ""),
        ("1 - mask", "turned round", ""),
        ("np.flatnonzero(mask)", "these are places", ""),
        ("np.where(mask, ids[1:], -100)", "failed", "mask is wrong"),
        ("mask[2:]", "failed", "shape"),
    ],
    # ------------------------------------------------------------------------ 13, what is forgotten
    "forget_says": [
        ("np.mean([until_end(a, end)[: len(until_end(b, end))] == until_end(b, end)"
         " for a, b in zip(said.tolist(), right.tolist())])", "passed", "share is right"),
        ("hits = 0\nfor a, b in zip(said, right):\n    for x, y in zip(a, b):\n"
         "        if x != y:\n            break\n        if y == end:\n            hits += 1\n"
         "            break\nreturn hits / len(said)", "passed", ""),
        ("n = (right == end).argmax(1)\n"
         "counts = np.arange(right.shape[1]) <= n[:, None]\n"
         "return 1 - (counts & (said != right)).any(1).mean()", "passed", ""),
        ("[sum(until_end(a, end) == until_end(b, end) for a, b in zip(said, right)) / len(right)]",
         "passed", ""),
        ("(said == right).all(1).mean()", "the tokens after the end", ""),
        ("np.mean([(a == b)[: list(b).index(end)].all() for a, b in zip(said, right)])",
         "the end was not compared", ""),
        ("(said == right).mean()", "that is the share of the tokens", ""),
        ("np.mean(said[:, 0] == right[:, 0])", "only the first token", ""),
        ("np.mean([all(x == y for x, y in zip(until_end(a, end)[:-1], b))"
         " for a, b in zip(said.tolist(), right.tolist())])", "an answer that ends too early", ""),
        ("round(share * len(said))", "one value for each answer, or their number", ""),
        ("[until_end(a, end) == until_end(b, end) for a, b in zip(said.tolist(), right.tolist())]",
         "failed", "share is wrong"),
        ("1 - share", "failed", "share is wrong"),
        ("np.mean(said == end)", "failed", "share is wrong"),
    ],
    "forget_likelihood": [
        ("np.array([sum(logs(l)[t, k] for t, k in enumerate(row) if k >= 0)"
         " for l, row in zip(logits, targets)])", "passed", "logp is right"),
        ("p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)\n"
         "return [math.log(math.prod(p[n, t, k] for t, k in enumerate(row) if k != -100))\n"
         "        for n, row in enumerate(targets)]", "passed", ""),
        ("np.einsum('ntv,ntv->n', logs(logits), np.eye(logits.shape[2])[np.maximum(targets, 0)]"
         " * (targets >= 0)[..., None])", "passed", ""),
        ("np.ma.masked_array(np.take_along_axis(logs(logits), abs(targets)[..., None] % "
         "logits.shape[2], 2)[..., 0], targets < 0).sum(1).filled()", "passed", ""),
        ("logp / (targets >= 0).sum(1)", "that is a mean over the answer's tokens", ""),
        ("np.take_along_axis(logs(logits), np.maximum(targets, 0)[..., None], 2)[..., 0].sum(1)",
         "prompt and padding count, too", ""),
        ("np.array([sum(l[t, k] for t, k in enumerate(row) if k >= 0)"
         " for l, row in zip(logits, targets)])", "logits are no logarithms", ""),
        ("np.array([sum(np.exp(logs(l))[t, k] for t, k in enumerate(row) if k >= 0)"
         " for l, row in zip(logits, targets)])", "probabilities were added", ""),
        ("q = logits - np.log(np.exp(logits).sum(1, keepdims=True))\n"
         "return [sum(q[n, t, k] for t, k in enumerate(row) if k >= 0)\n"
         "        for n, row in enumerate(targets)]", "the softmax runs over the places", ""),
        ("np.array([sum(logs(l)[t - 1, k] for t, k in enumerate(row) if k >= 0)"
         " for l, row in zip(logits, targets)])", "the targets were shifted again", ""),
        ("np.array([[logs(l)[t, k] if k >= 0 else 0 for t, k in enumerate(row)]"
         " for l, row in zip(logits, targets)])", "one value for each token", ""),
        ("np.exp(logp)", "that is the probability", ""),
        ("-logp", "sign", ""),
        ("logp.sum()", "one number for all rows", ""),
        ("np.array([sum([logs(l)[t, k] for t, k in enumerate(row) if k >= 0][:-1])"
         " for l, row in zip(logits, targets)])", "the last token of each answer", ""),
        ("logs(logits)[targets]", "failed", "it raised IndexError"),
        ("logp / 2", "failed", "logp is half of the right one"),
    ],
    "forget_knows": [
        ("np.mean(logp.argmax(1) == right)", "passed", "share is right"),
        ("sum(max(range(len(row)), key=row.__getitem__) == r for row, r in zip(logp, right))"
         " / len(right)", "passed", ""),
        ("(logp[np.arange(len(right)), right] >= logp.max(1)).mean()", "passed", ""),
        ("1 - (logp > logp[np.arange(len(right)), right][:, None]).any(1).mean()", "passed", ""),
        ("np.exp(logp).argmax(1) == 0\nreturn np.mean(np.exp(logp).argmax(1) == 0)",
         "the first answer was taken", ""),
        ("(logp.argmin(1) == right).mean()", "the least likely was taken", ""),
        ("np.abs(logp).argmax(1) == right", "failed", "share is wrong"),
        ("(logp.argmax(1) == right).sum()", "one value for each question, or their", ""),
        ("np.exp(logp)[np.arange(len(right)), right].mean()", "that is the mean probability", ""),
        ("(logp.argmax(0) == right).mean()", "failed", ""),
        ("logp[range(len(right)), right].mean()", "failed", "share is wrong"),
    ],
    "forget_break": [
        ("np.array([sum([logs(l)[t, k] for t, k in enumerate(row) if k >= 0][:-1])"
         " for l, row in zip(logits, targets)])", "passed", "the last token of each answer"),
        ("out = []\nfor l, row in zip(logits, targets):\n"
         "    places = np.flatnonzero(row + 100)[:-1]\n"
         "    out.append(logs(l)[places, row[places]].sum())\nreturn out", "passed", ""),
        ("logp", "failed", "nothing is broken"),
        ("logp - 1", "failed", "not in the way asked for"),
        ("np.array([sum([logs(l)[t, k] for t, k in enumerate(row) if k >= 0][1:])"
         " for l, row in zip(logits, targets)])", "failed", "not in the way asked for"),
    ],
    "forget_frontier": [
        ("points = list(zip(learnt, kept))\n"
         "return [not any(beats(a, b) for a in points) for b in points]", "passed", "on is right"),
        ("p = np.stack([learnt, kept])\nd = p[:, None] - p[:, :, None]\n"
         "return ~((d >= 0).all(0) & (d > 0).any(0)).any(1)", "passed", ""),
        ("order = np.lexsort((-kept, -learnt))\non, best, at = np.zeros(len(kept)), -1, None\n"
         "for i in order:\n    if kept[i] > best or (kept[i] == best and learnt[i] == at):\n"
         "        on[i], best, at = 1, kept[i], learnt[i]\nreturn on", "passed", ""),
        ("tuple(all(learnt[i] > learnt[j] or kept[i] > kept[j] or"
         " (learnt[i] == learnt[j] and kept[i] == kept[j]) for j in range(len(kept)))"
         " for i in range(len(kept)))", "passed", ""),
        ("[not any(a > c and b > d for a, b in zip(learnt, kept)) for c, d in zip(learnt, kept)]",
         "a point that is better in one and equal", ""),
        ("[not any(a >= c and b >= d for a, b in zip(learnt, kept))"
         " for c, d in zip(learnt, kept)]", "no point is left: each is", ""),
        ("[sum(a >= c and b >= d for a, b in zip(learnt, kept)) == 1"
         " for c, d in zip(learnt, kept)]", "a point that is there twice", ""),
        ("(learnt == learnt.max()) | (kept == kept.max())", "the best of each alone", ""),
        ("(learnt == learnt.max()) & (kept == kept.max())", "no point is left: each is",
         "the best in both"),
        ("np.flatnonzero(on)", "these are places", ""),
        ("on[np.lexsort((-kept, -learnt))]", "these are in another order", ""),
        ("1 - on", "these are the points that are beaten", ""),
        ("[not any(a <= c and b <= d and (a, b) != (c, d) for a, b in zip(learnt, kept))"
         " for c, d in zip(learnt, kept)]", "the smaller share counts as better", ""),
        ("learnt + kept == (learnt + kept).max()", "the largest sum", ""),
        ("on[1:]", "failed", "shape"),
    ],
    # ------------------------------------------------------------------------ 15, four bits
    "four_quantise": [
        ("coded(w, levels)", "passed", "codes and absmax are right"),
        ("a = np.maximum(w.max(1), -w.min(1))[:, None]\n"
         "return np.searchsorted((levels[1:] + levels[:-1]) / 2, w / a).astype(np.uint8), a",
         "passed", ""),
        ("a = [max(map(abs, row)) for row in w]\n"
         "codes = [[min(range(len(levels)), key=lambda k: abs(v / m - levels[k])) for v in row]\n"
         "         for row, m in zip(w, a)]\n"
         "return codes, [[m] for m in a]", "passed", ""),
        ("a = abs(w).max(1)[:, None]\n"
         "return sum((w / a > m).astype(int) for m in (levels[1:] + levels[:-1]) / 2), a",
         "passed", ""),
        ("coded(w, levels, w.max(1, keepdims=True))", "absmax is the largest size", ""),
        ("coded(w, levels, np.full((len(w), 1), abs(w).max()))", "each block has an absmax", ""),
        ("coded(w, levels, np.abs(w).max())", "failed", "codes is wrong, and so is absmax"),
        ("coded(w, levels, np.ones((len(w), 1)))[0], absmax", "w is divided by the absmax", ""),
        ("np.searchsorted(levels, w / absmax), absmax", "the nearest level may lie on", ""),
        ("np.searchsorted(levels, w / absmax, side='right') - 1, absmax",
         "the nearest level may lie on", ""),
        ("np.round((w / absmax + 1) * 7.5), absmax", "the levels are not equally far apart", ""),
        ("absmax, codes", "swapped", "another order"),
        ("codes, absmax[:, 0]", "failed", "shape"),
        ("levels[codes], absmax", "a code is the index of a level", "(absmax is right)"),
        ("codes", "failed", "wanted 2 values"),
    ],
    "four_dequantise": [
        ("levels[codes] * absmax", "passed", "w is right"),
        ("[[levels[c] * m for c in row] for row, (m,) in zip(codes, absmax)]", "passed", ""),
        ("np.einsum('nbl,l,n->nb', np.eye(len(levels))[codes], levels, absmax[:, 0])",
         "passed", ""),
        ("np.diag(absmax.ravel()) @ np.take(levels, codes)", "passed", ""),
        ("levels[codes]", "absmax is missing", ""),
        ("levels[codes] / absmax", "absmax is missing", ""),
        ("codes * absmax", "a code is the index of a level", ""),
        ("(codes / 7.5 - 1) * absmax", "the levels are not equally far apart", ""),
        ("levels[codes] * absmax.mean()", "failed", "w is wrong"),
        ("levels[codes] * absmax[:, 0]", "failed", "it raised ValueError"),
    ],
    "four_levels": [
        (quantiles, "passed", "levels is right"),
        ("up = [quantile(0.5 + (edge - 0.5) * i / above) for i in range(1, above + 1)]\n"
         "down = [quantile(0.5 + (edge - 0.5) * i / below) for i in range(1, below + 1)]\n"
         "return sorted([0.0, *(u / up[-1] for u in up), *(-d / down[-1] for d in down)])",
         "passed", ""),
        ("p = np.concatenate([np.linspace(1 - edge, 0.5, below + 1)[:-1],\n"
         "                    np.linspace(0.5, edge, above + 1)])\n"
         "return quantile(p) / -quantile(1 - edge)", "passed", ""),
        ("np.unique(np.r_[quantile(np.linspace(1 - edge, 0.5, below + 1)),\n"
         "                quantile(np.linspace(0.5, edge, above + 1))].round(12)) / quantile(edge)",
         "passed", ""),
        ("levels * quantile(edge)", "the largest level is 1", ""),
        ("quantile(np.linspace(1 - edge, edge, below + 1 + above)) / quantile(edge)",
         "no level is exactly 0", ""),
        ("np.sort([*levels, 0])", "0 is there twice", ""),
        ("np.linspace(-1, 1, below + 1 + above)", "the steps are equal in probability", ""),
        ("np.r_[np.linspace(-1, 0, below + 1), np.linspace(0, 1, above + 1)[1:]]",
         "the steps are equal in probability", ""),
        ("quantiles(quantile, above, below, edge)", "the halves are exchanged", ""),
        ("levels[::-1]", "levels rise from -1 to 1", ""),
        ("quantile(np.linspace(0, 1, below + 1 + above))", "failed", ""),
        ("levels[1:]", "failed", "shape"),
    ],
    "four_break": [
        ("quantile(np.linspace(1 - edge, edge, below + 1 + above)) / quantile(edge)",
         "passed", "caught and named: no level is exactly 0"),
        ("a = [quantile(p) for p in np.linspace(1 - edge, edge, below + 1 + above)]\n"
         "return [v / a[-1] for v in a]", "passed", ""),
        ("levels", "failed", "nothing is broken"),
        ("levels + 0.01", "failed", "not in the way asked for"),
        ("np.linspace(-1, 1, below + 1 + above)", "failed", "not in the way asked for"),
    ],
    "four_second": [
        (read_back, "passed", "absmax is right"),
        ("m = np.mean(absmax)\nout = []\nfor i in range(0, len(absmax), size):\n"
         "    part = absmax[i : i + size] - m\n    a = max(abs(part))\n"
         "    out += [m + a * min(levels, key=lambda v: abs(v - w / a)) for w in part]\n"
         "return out", "passed", ""),
        ("read_back(absmax, levels, size, less=0, more=0)", "all scales are above 0", ""),
        ("read_back(absmax, levels, size, more=0)", "the mean was subtracted and is not", ""),
        ("read_back(absmax, levels, size, less=0)", "the mean is added, but was not", ""),
        ("read_back(absmax, levels, len(absmax))", "each block of scales has a scale", ""),
        ("[read_back(a, levels, size) for a in absmax.reshape(-1, size)]", "failed", "shape"),
        ("np.ravel([read_back(a, levels, size) for a in absmax.reshape(-1, size)])",
         "the mean is one number for all", ""),
        ("absmax", "these are the given scales", ""),
        ("read_back(absmax, levels, size).reshape(-1, size)", "failed", "shape"),
        ("read_back(absmax, np.linspace(-1, 1, 12), size)", "failed", "absmax is wrong"),
    ],
    "four_pair": [
        ((four_forward, four_backward), "passed", ""),
        ([lambda *a: list(four_forward(*a)), lambda *a: list(four_backward(*a))], "passed", ""),
        (four_keeping(lambda w, absmax, A: {"z": A.T}), "passed", ""),
        (four_keeping(lambda w, absmax, A: w * absmax), "the cache holds W in full", ""),
        (four_keeping(lambda w, absmax, A: {"W": np.float32(w)}), "the cache holds W in full", ""),
        (four_keeping(lambda w, absmax, A: lambda: w), "the cache holds W in full precision", ""),
        ((four_forward, functools.partial(four_backward, through=0)), "path missing", "dx is"),
        ((four_forward, functools.partial(four_backward, through=-1)), "sign", "dx, or a"),
        ((four_forward, lambda dy, cache: (*four_backward(dy, cache)[:2], cache[2], None, None,
                                           *four_backward(dy, cache)[5:])),
         "frozen moved", "absmax is frozen"),
        ((lambda *a: (four_forward(*a[:4], 1, *a[5:])[0], a), four_backward), "scale missing", ""),
        ((four_forward, lambda dy, cache: four_backward(dy, cache)[:5]), "failed", "wanted 7"),
        ((lambda *a: four_forward(*a)[0], four_backward), "failed", "the tuple (y, cache)"),
    ],
    # ---------------------------------------------------------------------- 12, rank and targets
    "rank_of_budget": [
        ("min(max(round(budget / sum(O + I for O, I in shapes)), 1), min(map(min, shapes)))",
         "passed", "rank is right"),
        ("return min(range(1, shapes.min() + 1), key=lambda r: abs(r * shapes.sum() - budget))",
         "passed", ""),
        ("np.clip(np.rint(budget / shapes.sum()), 1, shapes.min())", "passed", ""),
        ("max(1, round(budget / sum(O * I for O, I in shapes)))", "A has r · I numbers", ""),
        ("min(round(budget / shapes[:, 1].sum()), shapes.min())", "both A and B train", ""),
        ("min(round(budget / shapes.sum(1).mean()), shapes.min())",
         "the budget is for all linears", ""),
        ("min(max(1, round(budget / len(shapes) / shapes[0].sum())), shapes.min())",
         "the linears are not equally large", ""),
        ("min(budget // shapes.sum(), shapes.min())", "the nearest rank may be below", ""),
        ("round(budget / shapes.sum())", "a rank above the smallest side", ""),
        ("max(1, round(budget / shapes.sum()))", "a rank above the smallest side", ""),
        ("min(round(budget / shapes.sum()), shapes.min())", "there is no rank 0", ""),
        *((f"min(max(1, round(budget / shapes.sum())), {side})", "the cap is the smallest side", "")
          for side in ("shapes[:, 0].min()", "shapes[:, 1].min()", "shapes[0].min()")),
        ("min(max(1, budget / shapes.sum()), shapes.min())", "a rank is a whole number", ""),
        ("shapes", "failed", "shape"),
    ],
    "rank_choose": [
        ("m = [sum(row) for row in scores.tolist()]\nb = m.index(max(m))\n"
         "return b, b == 0 or b + 1 == len(m)", "passed", "best and at an end are right"),
        ("b = np.argsort(np.mean(scores, 1))[-1]\nreturn [b, np.isin(b, [0, len(scores) - 1])[()]]",
         "passed", ""),
        ("b = scores.mean(1).argmax()\nreturn b, int(b % (len(scores) - 1) == 0)", "passed", ""),
        ("b = scores.max(1).argmax()\nreturn b, b in (0, len(scores) - 1)",
         "the best of single runs", ""),
        *((f"b = {worth}.argmax()\nreturn b, b in (0, len(scores) - 1)",
           "wanted the highest mean: not the median", "")
          for worth in ("np.median(scores, 1)", "scores.min(1)", "np.eye(len(scores))"
                        "[scores.argmax(0)].sum(0)", "(scores.mean(1) - scores.std(1))")),
        ("b = scores.mean(1).argmin()\nreturn b, b in (0, len(scores) - 1)",
         "a score is better where", ""),
        ("b = scores.mean(0).argmax()\nreturn b, b in (0, scores.shape[1] - 1)",
         "the mean goes over the seeds", ""),
        ("b = scores.mean(1).argmax()\nreturn b, b == len(scores) - 1", "a grid has two ends", ""),
        ("b = scores.mean(1).argmax() + 1\nreturn b, b in (1, len(scores))",
         "0 is the first place", ""),
        ("scores.mean(1).argmax()", "failed", "wanted 2"),
    ],
    "rank_twin": [
        (lambda c, A, B, p, q: (A, B / c, p, q / c), "passed", "are right"),
        (lambda c, A, B, p, q: (A / c, B, p / c, q), "passed", ""),
        (lambda c, A, B, p, q: [A / c**0.5, B / c**0.5, p / c**0.5, q / c**0.5], "passed", ""),
        (lambda c, A, B, p, q: (2 * A, B / 2 / c, 2 * p, q / 2 / c), "passed", ""),
        (lambda c, A, B, p, q: (A, B, p / c, q / c), "both rates are divided by c", ""),
        (lambda c, A, B, p, q: (A, B / c, p / c, q / c), "both rates are divided by c", ""),
        (lambda c, A, B, p, q: (A, B, p, q), "nothing makes up for c", ""),
        (lambda c, A, B, p, q: (A, B / c, p, q), "an array that is c times smaller", ""),
        (lambda c, A, B, p, q: (A, B / c, p * c, q / c), "an array that is", "keeps its rate"),
        (lambda c, A, B, p, q: (A, B, p, q / c), "steps that are c times smaller", ""),
        (lambda c, A, B, p, q: (A, B / c, p, q / c**2), "c² is gradient descent's", ""),
        (lambda c, A, B, p, q: (A / c, B / c, p / c, q / c), "c is taken away twice", ""),
        (lambda c, A, B, p, q: (A, B * c, p, q * c), "times c, where it is a division", ""),
        (lambda c, A, B, p, q: (p, q / c), "failed", "wanted four values"),
        (lambda c, A, B, p, q: (B / c, A, p, q / c), "failed", "have the shapes"),
        (lambda c, A, B, p, q: (p, q / c, A, B / c), "failed", "have the shapes"),
        (lambda c, A, B, p, q: (A, B / c, A, q / c), "failed", "a number each"),
    ],
    "rank_break": [
        (lambda c, A, B, p, q: (A, B, p / c, q / c), "passed", "caught and named: both rates"),
        (lambda c, A, B, p, q: [A.copy(), B.copy(), p * (1 / c), q * (1 / c)], "passed", ""),
        (lambda c, A, B, p, q: (A, B / c, p, q / c), "failed", "nothing is broken"),
        (lambda c, A, B, p, q: (A, B, p, q), "failed", "not in the way asked for"),
        (lambda c, A, B, p, q: (A, B, p / 4, q / 4), "failed", "not in the way asked for"),
        (lambda c, A, B, p, q: (A, B / c, p / c, q / c), "failed", "B stays as it is"),
        (lambda c, A, B, p, q: (A, B, p / c, q), "failed", "both rates are divided\n"),
        (lambda c, A, B, p, q: (A, B, p, q / c), "failed", "both rates are divided\n"),
    ],
    # ---------------------------------------------------------------------------------- 14, DoRA
    "dora_forward": [
        ("m * (x @ ((W + s * B @ A) / np.linalg.norm(W + s * B @ A, axis=1)[:, None]).T)",
         "passed", "y is right"),
        ("V = W + s * np.einsum('or,ri->oi', B, A)\n"
         "return [[m[o] * row @ v / math.sqrt(v @ v) for o, v in enumerate(V)] for row in x]",
         "passed", ""),
        ("V = W + s * B @ A\nreturn x @ (np.diag(m / np.sqrt(np.diag(V @ V.T))) @ V).T",
         "passed", ""),
        ("m / np.linalg.norm(W, axis=1) * (x @ (W + s * B @ A).T)", "the norm is that of W", ""),
        ("x @ ((W + s * B @ A) / np.linalg.norm(W + s * B @ A, axis=0)).T * m",
         "one size for each output", ""),
        ("m / np.linalg.norm(W + s * B @ A) * (x @ (W + s * B @ A).T)",
         "one size for each row of V, not one for all", ""),
        ("m / ((W + s * B @ A) ** 2).sum(1) * (x @ (W + s * B @ A).T)", "the norm is a root of a "
         "sum of squares: the root", ""),
        ("m / abs(W + s * B @ A).sum(1) * (x @ (W + s * B @ A).T)", "the norm is a root of a sum "
         "of squares, not", ""),
        ("m * (x @ (W + s * B @ A).T)", "V is not divided", ""),
        ("x @ W.T + m / np.linalg.norm(W + s * B @ A, axis=1) * (s * x @ A.T @ B.T)",
         "m / norm multiplies both", ""),
        ("m / np.linalg.norm(W + s * B @ A, axis=1) * (x @ W.T) + s * x @ A.T @ B.T",
         "m / norm multiplies both", ""),
        ("m / np.linalg.norm(W + B @ A, axis=1) * (x @ (W + B @ A).T)", "scale missing", ""),
        ("m / np.linalg.norm(W + s**2 * B @ A, axis=1) * (x @ (W + s**2 * B @ A).T)",
         "scale twice", ""),
        ("m / np.linalg.norm(W + s * B @ A, axis=0) * (x @ (W + s * B @ A).T)", "failed",
         "it raised ValueError"),
    ],
    "dora_break": [
        ("m * (x @ ((W + s * B @ A) / np.linalg.norm(W, axis=1)[:, None]).T)", "passed",
         "caught and named: the norm is that of W"),
        ("m * (x @ (W + s * B @ A).T) / (W**2).sum(1) ** 0.5", "passed", ""),
        ("y", "failed", "nothing is broken"),
        ("m * (x @ (W + s * B @ A).T)", "failed", "not in the way asked for"),
    ],
    "dora_backward": [
        ("c = m / np.linalg.norm(W + s * B @ A, axis=1)\n"
         "return (*lora(dy * c, x, W, s, A, B), (dy * (x @ (W + s * B @ A).T) * c).sum(0) / m)",
         "passed", "dx, dA, dB and dm are right"),
        ("V = W + s * B @ A\ndV = (dy * m / (V * V).sum(1) ** 0.5).T @ x\n"
         "dm = (((dy.T @ x) * V).sum(1)) / (V * V).sum(1) ** 0.5\n"
         "return [(dy * m / (V * V).sum(1) ** 0.5) @ V, s * B.T @ dV, s * dV @ A.T, dm]",
         "passed", ""),
        ("more = dora_norms(dy, x, W, s, A, B, m)\n"
         "c = m / np.linalg.norm(W + s * B @ A, axis=1)\n"
         "dx, dA, dB = lora(dy * c, x, W, s, A, B)\n"
         "return dx, dA + more[0], dB + more[1], (dy * (x @ (W + s * B @ A).T) * c).sum(0) / m",
         "the derivative of the whole", ""),
        ("(*lora(dy, x, W, s, A, B), dm)", "m / norm is missing in", "so du = dy"),
        ("(*lora(dy * m, x, W, s, A, B), dm)", "norm is missing in {name}", ""),
        ("(*lora(dy / np.linalg.norm(W + s * B @ A, axis=1), x, W, s, A, B), dm)",
         "m is missing in {name}", ""),
        ("dx, dA, dB, dm * np.linalg.norm(W + s * B @ A, axis=1)", "norm is missing in dm", ""),
        ("dx, dA, dB, dm * m", "m is in dm", ""),
        ("c = m / np.linalg.norm(W + s * B @ A, axis=1)\n_, dA, dB = lora(dy * c, x, W, s, A, B)\n"
         "return (dy * c) @ W, dA, dB, (dy * (x @ (W + s * B @ A).T) * c).sum(0) / m",
         "path missing", ""),
        ("dx, dA / s, dB, dm", "scale missing", ""),
        ("dx, dA, dB, dy * (x @ (W + s * B @ A).T) / np.linalg.norm(W + s * B @ A, axis=1)",
         "no sum", ""),
        ("dx, dB, dA, dm", "swapped", ""),
        ("dx, dA, dB", "failed", "wanted 4"),
    ],
    "dora_norm": [
        (dora_norms, "passed", "dA and dB are right"),
        ("V = W + s * B @ A\nn = np.linalg.norm(V, axis=1, keepdims=True)\n"
         "G = (dy * m).T @ x / n\nalong = -(V / n) * ((V / n) * G).sum(1, keepdims=True)\n"
         "return [s * B.T @ along, s * along @ A.T]", "passed", ""),
        ("lora(dy * m / np.linalg.norm(W + s * B @ A, axis=1), x, W, s, A, B)[1] + dA, "
         "lora(dy * m / np.linalg.norm(W + s * B @ A, axis=1), x, W, s, A, B)[2] + dB",
         "that is the whole derivative", ""),
        ("lora(dy * m / np.linalg.norm(W + s * B @ A, axis=1), x, W, s, A, B)[1:]",
         "that is the other part", ""),
        ("V = W + s * B @ A\nn = np.linalg.norm(V, axis=1)\n"
         "dV = -((dy * (x @ V.T)).sum(0) * m / n / n)[:, None] * V\n"
         "return s * B.T @ dV, s * dV @ A.T", "the derivative of 1 / norm", ""),
        ("V = W + s * B @ A\nn = np.linalg.norm(V, axis=1)\n"
         "dV = -((dy * (x @ V.T)).sum(0) * m / n**3)[:, None] * W\n"
         "return s * B.T @ dV, s * dV @ A.T", "the derivative of the norm", "W stands in V's"),
        ("dora_norms(dy, x, W, s, A, B, 1)", "m is missing", ""),
        ("dora_norms(dy, x, W, s, A, B, m, up=-1)", "sign", ""),
        ("dA / s, dB / s", "scale missing", ""),
        ("dA", "failed", "wanted 2 values"),
    ],
    "dora_pair": [
        ((dora_forward, dora_backward), "passed", ""),
        ([lambda *a: list(dora_forward(*a)), lambda *a: list(dora_backward(*a))], "passed", ""),
        ((dora_forward, functools.partial(dora_backward, norms=1.0)),
         "the derivative of the whole", ""),
        ((lambda x, W, s, A, B, m, norm: (m / norm * (x @ W.T),
                                          dora_forward(x, W, s, A, B, m, norm)[1]), dora_backward),
         "path missing", ""),
        ((lambda x, W, s, A, B, m, norm: dora_forward(
            x, W, s, A, B, m, ((W + s * B @ A) ** 2).sum(1) ** 0.5), dora_backward),
         "the norm is an argument", "do not compute it from W, A and B"),
        ((dora_forward, lambda dy, cache: (*dora_backward(dy, cache)[:6], cache["rest"][-1])),
         "frozen moved", ""),
        ((dora_forward, lambda dy, cache: dora_backward(dy, cache)[:6]), "failed", "wanted 7"),
        ((lambda *a: dora_forward(*a)[0], dora_backward), "failed", "the tuple (y, cache)"),
    ],
}  # fmt: skip


def answer(name, written):
    """An answer as a student would give it to the check."""
    if not isinstance(written, str):
        return written
    if EXERCISES[name].kind == "predict":
        return eval(written, dict(NAMES))
    if written.startswith("is "):
        return eval(written[3:], dict(NAMES))
    case = EXERCISES[name].drawn(0)[0]
    try:
        code = compile(written, "answer", "eval")
    except SyntaxError:  # no expression, and so a body
        names = dict(NAMES)
        body = textwrap.indent(written, "    ")
        exec(f"def answer({', '.join(case.args)}):\n{body}", names)
        return names["answer"]

    def value(*args):
        given = dict(zip(case.args, args, strict=True))
        right = case.reference(**given)
        plain = {n.replace("'", "1").replace(" ", "_"): out for n, out in right.items()}
        return eval(code, NAMES | plain | given)

    return value


def first(name, verdict):
    """The first answer to an exercise that gets a verdict."""
    return next(answer(name, written) for written, is_, _ in ANSWERS[name] if is_ == verdict)


ROWS = [(name, *row) for name, rows in ANSWERS.items() for row in rows]
RIGHT = {name: first(name, "passed") for name in ANSWERS}
