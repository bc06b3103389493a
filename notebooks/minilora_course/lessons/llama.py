"""Notebook 02, a Llama: the norm, causal attention, and what happens without the mask."""

import math

import numpy as np

from minilora.ops import attention, rmsnorm
from minilora.ops import rope as rope_op
from minilora.ops import swiglu as swiglu_op
from minilora.ops.swiglu import sigmoid

from ..slips import Case, Slips
from .exercise import blank, broken, draw, number, predict, rows, widths


def norm(x, g, eps):
    """y = g x / √(mean x² + eps)."""
    return {"y": rmsnorm.forward(x, g, eps)[0]}


def one_head(q, k, v):
    """Causal attention of one head: q, k, v (T, D) -> o (T, D)."""
    spans = np.array([[0, len(q), 0, len(k)]])
    return {"o": attention.forward(*(a[:, None] for a in (q, k, v)), spans)[0][:, 0]}


def attention_by(q, k, v, columns=np.shape, seen=np.asarray, hidden=-np.inf, axis=1, keep=True):
    """Causal attention, from which a part can be left out."""
    scores = q @ k.T / math.sqrt(columns(q)[-1])
    weights = np.exp(np.where(seen(np.tri(len(q))), scores, hidden))
    return {"o": weights / weights.sum(axis, keepdims=keep) @ v}


def without_mask(q, k, v):
    """Every place sees every other."""
    return attention_by(q, k, v, seen=np.ones_like)


def masked_weights(q, k, v):
    """The mask on the weights, whose rows then add up to less than 1."""
    weights = np.exp(q @ k.T / math.sqrt(q.shape[1]))
    return {"o": np.tril(weights / weights.sum(1, keepdims=True)) @ v}


def attention_cases(rng):
    """For o = f(q, k, v)."""
    slips = {
        "the scores are q kᵀ/√D: the factor 1/√D is missing": lambda **a: [
            attention_by(**a, columns=lambda q: [1])
        ],
        "√D is the root of the columns of q, not of its rows": lambda **a: [
            attention_by(**a, columns=lambda q: [len(q)])
        ],
        "a place sees those after it: the mask is missing": lambda **a: [without_mask(**a)],
        "the mask hides what came before: it has to hide what comes later": lambda **a: [
            attention_by(**a, seen=np.transpose)
        ],
        "a masked score is 0, and its weight exp(0) = 1: it has to be -inf": lambda **a: [
            attention_by(**a, hidden=0)
        ],
        "the mask came after the softmax: the weights of a row no longer add up to 1": (
            lambda **a: [masked_weights(**a)]
        ),
        "the softmax is of each row: its weights add up to 1": lambda **a: [
            attention_by(**a, axis=axis, keep=False, seen=seen)
            for axis in (0, None, 1)
            for seen in (np.asarray, np.ones_like)
        ],
    }
    shapes = [(rows(rng), *widths(rng, 1)) for _ in range(2)] + [(6, 6)]
    return [Case(draw(rng, q=n, k=n, v=n), one_head, slips=slips) for n in shapes]


def eps_elsewhere(x, g, eps):
    """eps missing; outside the root; its square or root inside it; added to the sum; as a floor."""
    square = (x**2).mean(1, keepdims=True)
    roots = [
        np.sqrt(square),
        np.sqrt(square) + eps,
        np.sqrt(square + eps**2),
        np.sqrt(square + np.sqrt(eps)),
        np.sqrt(square + eps / x.shape[1]),
        np.sqrt(square + 1e-5),  # a number in place of the argument
        np.sqrt(square + 1e-6),
        np.sqrt(np.maximum(square, eps)),
        np.sqrt(square) + np.sqrt(eps),
    ]
    return [{"y": g * x / root} for root in roots] + [{"y": g * x / roots[0] + eps}]


def less_the_mean(x, g, eps):
    """A LayerNorm without its bias."""
    less = x - x.mean(1, keepdims=True)
    mean_square = (x**2).mean(1, keepdims=True)
    return [norm(less, g, eps), {"y": g * less / np.sqrt(mean_square + eps)}]


NORM_SLIPS = {
    "epsilon": eps_elsewhere,
    "no mean is subtracted in RMSNorm": less_the_mean,
    "the mean runs over all numbers: it is of each row": lambda x, g, eps: [
        {"y": g * x / np.sqrt((x**2).mean() + eps)}
    ],
    "it has the mean of x², not the sum": lambda x, g, eps: [
        {"y": g * x / np.sqrt((x**2).sum(1, keepdims=True) + eps)}
    ],
    "the square root is missing": lambda x, g, eps: [
        {"y": g * x / ((x**2).mean(1, keepdims=True) + eps)}
    ],
}


def norm_cases(rng):
    """For y = f(x, g, eps): eps is large, so that its place matters."""
    return [
        Case(
            {**draw(rng, x=(rows(rng), C), g=(C,)), "eps": number(rng, 0.05, 0.5)},
            norm,
            slips=NORM_SLIPS,
        )
        for C in widths(rng, 3)
    ]


def weights(q, k, lse, root=math.sqrt, column=True, seen=np.tril):
    """The weights of one head, computed again.   q, k (T, D), lse (T,) -> (T, T)."""
    scores = q @ k.T / root(q.shape[1])
    return {"weights": seen(np.exp(scores - (lse[:, None] if column else lse)))}


WEIGHTS_SLIPS: Slips = {
    "lse is one number for each row: lse[:, None] is a column": lambda **a: [
        weights(**a, column=False, seen=seen) for seen in (np.tril, np.asarray)
    ],
    "a place sees those after it: the mask is missing": lambda **a: [weights(**a, seen=np.asarray)],
    "the mask hides what came before: it has to hide what comes later": lambda **a: [
        weights(**a, seen=np.triu)
    ],
    "the scores are q kᵀ/√D: the factor 1/√D is missing": lambda **a: [
        weights(**a, root=lambda D: 1)
    ],
    "lse is a logarithm: subtract it inside exp, or divide by its exp": lambda q, k, lse: [
        {"weights": np.tril(weights(q, k, 0 * lse)["weights"] / lse[:, None])},
        {"weights": np.tril(weights(q, k, 0 * lse)["weights"] - lse[:, None])},
    ],
}


def weights_cases(rng):
    """For weights = f(q, k, lse)."""
    cases = []
    for T, D in ((rows(rng), width) for width in widths(rng, 2)):
        a = draw(rng, q=(T, D), k=(T, D))
        whole = weights(**a, lse=np.zeros(T))["weights"].sum(1)
        cases.append(Case({**a, "lse": np.log(whole)}, weights, slips=WEIGHTS_SLIPS))
    return cases


def rope(x, cos, sin):
    """Each pair of one head's row rotated.   x (T, D), cos, sin (T, D/2) -> y (T, D)."""
    return {"y": rope_op.forward(x[:, None], cos, sin)[0][:, 0]}


def by_neighbours(x, cos, sin):
    """Numbers 0 and 1, 2 and 3, … as pairs: in their places, or half by half."""
    halves = np.concatenate([x[:, ::2], x[:, 1::2]], axis=1)
    turned = rope(halves, cos, sin)["y"]
    back = np.stack(np.split(turned, 2, axis=1), axis=2).reshape(x.shape)
    return [{"y": back}, {"y": turned}]


def one_term(x, cos, sin):
    """A rotation that leaves out a term, or adds both cross terms."""
    a, b = np.split(x, 2, axis=1)
    pairs = (a * cos, b * cos), (a * cos - b * sin, b * cos), (a * cos, b * cos + a * sin)
    added = (a * cos + b * sin, b * cos + a * sin)
    return [{"y": np.concatenate(pair, axis=1)} for pair in (*pairs, added)]


ROPE_SLIPS: Slips = {
    "it turns the other way: (1, 0) becomes (cos, sin)": lambda x, cos, sin: [rope(x, cos, -sin)],
    "cos and sin are in each other's place: at the angle 0 nothing turns": lambda x, cos, sin: [
        rope(x, sin, cos)
    ],
    "two neighbours are no pair here: a pair has one number of each half of the row": by_neighbours,
    "a rotation has four terms, one of them with a minus: (0, 1) becomes (-sin, cos)": one_term,
}


def angles(rng, D, T):
    """cos, sin (T, D/2) of the angles of T places, none of them 0."""
    angle = np.outer(np.arange(1, T + 1), 0.7 ** np.arange(D // 2))
    return {"cos": np.cos(angle), "sin": np.sin(angle)}


def rope_cases(rng):
    """For y = f(x, cos, sin)."""
    return [
        Case({**draw(rng, x=(T, D)), **angles(rng, D, T)}, rope, slips=ROPE_SLIPS)
        for D, T in ((rows(rng), T) for T in widths(rng, 2))
    ]


def swiglu(gate, up):
    """y = silu(gate) up."""
    return {"y": swiglu_op.forward(gate, up)[0]}


SWIGLU_SLIPS: Slips = {
    "gate and up are in each other's place: silu is of the gate": lambda gate, up: [
        swiglu(up, gate)
    ],
    "silu(z) = z σ(z): the z is missing": lambda gate, up: [{"y": sigmoid(gate) * up}],
    "silu(z) has e to the power of -z": lambda gate, up: [{"y": gate * sigmoid(-gate) * up}],
    "silu is of the gate alone, and up multiplies it": lambda gate, up: [
        swiglu(gate * up, np.ones_like(up)),
        swiglu(gate, sigmoid(up) * up),
        {"y": swiglu(gate, np.ones_like(up))["y"] + up},
        swiglu(gate, np.ones_like(up)),
    ],
}


def swiglu_cases(rng):
    """For y = f(gate, up)."""
    shapes = [(rows(rng), F) for F in widths(rng, 2)]
    return [Case(draw(rng, gate=n, up=n), swiglu, slips=SWIGLU_SLIPS) for n in shapes]


EXERCISES = (
    predict(
        "llama_kv",
        "Width 128, 4 query heads of 32, 2 key heads: how many numbers does k_proj's weight have?",
        (
            "k_proj maps the width to all key heads side by side.",
            "2 heads of 32 are 64 outputs.",
        ),
        number=lambda: 2 * 32 * 128,
        because="2 · 32 outputs, 128 inputs: half of q_proj's, since two query heads share a key "
        "head.",
        near={
            128 * 128: "that is q_proj's weight, or k_proj's and v_proj's together",
            32 * 128: "that is one of the two key heads",
        },
    ),
    blank(
        "llama_norm",
        "RMSNorm: x (M, C), g (C,), eps -> y (M, C)",
        (
            "Each row is divided by its root mean square; no mean is subtracted.",
            "eps goes under the root; g multiplies each column. "
            "keepdims=True keeps a mean as a column.",
        ),
        norm_cases,
    ),
    blank(
        "llama_attention",
        "Causal attention of one head: q, k, v (T, D) -> o (T, D)",
        (
            "The scores are q kᵀ/√D. A softmax over each row, times v.",
            "Place t may not see the places after it: set those scores to -inf before the softmax. "
            "np.tri(T) is 1 where a place may look.",
        ),
        attention_cases,
    ),
    blank(
        "llama_weights",
        "A head's weights, computed again: q, k (T, D), lse (T,) -> (T, T)",
        (
            "e to the power of (score - lse) is e to the score, divided by the sum.",
            "lse belongs to the place that reads: one number for each row. np.tril is the mask.",
        ),
        weights_cases,
    ),
    blank(
        "llama_rope",
        "RoPE of one head: x (T, D), cos, sin (T, D/2) -> y (T, D)",
        (
            "np.split(x, 2, axis=1) gives the two halves a and b: the two numbers of each pair.",
            "A rotation by an angle takes (1, 0) to (cos, sin), and (0, 1) to (-sin, cos).",
        ),
        rope_cases,
    ),
    blank(
        "llama_swiglu",
        "SwiGLU: gate, up (M, F) -> y (M, F)",
        (
            "silu is of each number of gate alone.",
            "silu(z) = z σ(z) with σ(z) = 1/(1 + exp(-z)); up multiplies it.",
        ),
        swiglu_cases,
    ),
    broken(
        "llama_break",
        "Attention without the mask: q, k, v (T, D) -> o (T, D)",
        (
            "Start from your attention.",
            "Leave out the mask, and nothing else.",
        ),
        attention_cases,
        wanted=without_mask,
    ),
)
