"""DoRA: the norm of each row of the weight and its direction are trained separately.

A row of W + s B A gives the direction, as in LoRA; the number m gives the row's norm.
"""

import numpy as np

from ..engine import Op
from ..support.meta import dense
from . import lora
from .base import Method, Moment, PeftFormat


def dora_forward(x, W, s, A, B, m, norm):
    """y = (m / norm) · (x Wᵀ + s (x Aᵀ) Bᵀ), one factor for each output.

    x (M, I), W (O, I) frozen, s scaling, A (r, I), B (O, r), m (O,); norm (O,) frozen, the norm of
    each row of W + s B A (`derived`)  ->  y (M, O).
    Source: Liu et al. 2024, arXiv:2402.09353, eq. 5, with the norm held constant, section 4.3.
    """
    z = x @ A.T  # (M, r)
    u = x @ W.T + s * (z @ B.T)  # (M, O)
    return m / norm * u, (x, z, u, W, s, A, B, m, norm)  # x for dA, z for dB, u for dm


def dora_backward(dy, cache, need=(True,) * 7):
    """dy (M, O) -> dx (M, I), None, None, dA (r, I), dB (O, r), dm (O,), None.

    need: for each argument, is its gradient wanted?
    """
    x, z, u, W, s, A, B, m, norm = cache
    dm = (dy * u).sum(axis=0) / norm  # y = (m / norm) u
    du = dy * (m / norm)  # y = (m / norm) u
    dz = s * (du @ B)  # u has s z Bᵀ
    dB = s * (du.T @ z)  # u has s z Bᵀ
    dA = dz.T @ x  # z = x Aᵀ
    dx = du @ W + dz @ A if need[0] else None  # u has x Wᵀ, z = x Aᵀ
    return dx, None, None, dA, dB, dm, None


dora = Op(
    "dora",
    dora_forward,
    dora_backward,
    saves=("x", "z", "u", "W", "s", "A", "B", "m", "norm"),
)


def row_norm_forward(W, s, A, B):
    """norm = √Σ V² over a row, V = W + s B A.   W (O, I), A (r, I), B (O, r)  ->  norm (O,)."""
    V = W + s * (B @ A)
    norm = np.sqrt((V * V).sum(axis=1))
    return norm, (V, norm, s, A, B)


def row_norm_backward(dnorm, cache):
    """dnorm (O,) -> None, None, dA (r, I), dB (O, r): the derivative that training leaves out.

    With dnorm = -Σ dy · u · m / norm², summed over the rows of x, these gradients and those of
    `dora_backward` add up to the whole derivative of eq. 5.
    """
    V, norm, s, A, B = cache
    dV = (dnorm / norm)[:, None] * V  # norm = √Σ V²
    return None, None, s * (B.T @ dV), s * (dV @ A.T)  # V has s B A


def derived(W, s, A, B, **_):
    """norm (O,) of the current arrays: a constant for backward, as in PEFT."""
    norm, _ = row_norm_forward(dense(W), s, A, B)
    return {"norm": norm}


def init(W, rank, options, rng, shared):
    """A and B as in LoRA, m the norm of each row of W: y = x Wᵀ at the start.

    One norm for each output, as in PEFT. Raises ValueError if a row of W is 0: it has no direction.
    Source: Liu et al. 2024, section 4.1.
    """
    start = lora.init(W, rank, options, rng, shared)
    m = row_norm_forward(dense(W), **start)[0]
    if isinstance(m, np.ndarray) and not m.all():
        raise ValueError("dora: a row of the weight is all 0, wanted a row with a direction")
    return start | {"m": m}


def delta(W, s, A, B, m, **_):
    """ΔW = (m / norm) · (W + s B A) - W.   ->  (O, I)."""
    norm, (V, *_) = row_norm_forward(W, s, A, B)
    return (m / norm)[:, None] * V - W


def count(I, O, rank):
    """r (I + O) + O."""
    return rank * (I + O) + O


def to_peft(settings, layers):
    """LoRA's fields and arrays with use_dora, and m beside A and B."""
    fields, arrays = lora.to_peft(settings, layers)
    return fields | {"use_dora": True}, {n: a | {"m": layers[n]["m"]} for n, a in arrays.items()}


def from_peft(config):
    """attach's keywords from PEFT's config; None if the config is not of a DoRA.

    Raises ValueError for a dropout above 0.
    """
    if not config.get("use_dora"):
        return None
    given = lora.from_peft(config)
    # PEFT's dropout acts on a DoRA's x Wᵀ too, which is another formula
    if given and (p := given.pop("dropout")):
        raise ValueError(f"dora: lora_dropout is {p!r}, wanted 0: dropout is not supported")
    return given


METHOD = Method(
    name="dora",
    title="DoRA",
    source="Liu et al. 2024, arXiv:2402.09353, eq. 5",
    formula="(m / ‖W + s B A‖) · (W + s B A), a row at a time",
    op=dora,
    trains=("A", "B", "m"),
    init=init,
    delta=delta,
    count=count,
    options={"rank_stabilized": False},
    about={"rank_stabilized": lora.ABOUT["rank_stabilized"]},
    derived=derived,
    peft=PeftFormat(
        "LORA",
        {**lora.PEFT.names, "m": "lora_magnitude_vector"},
        to_peft,
        from_peft,
        claims=("use_dora",),
    ),
    moments=(
        Moment(
            "DoRA's norm is a constant",
            "The norm of each row is computed before the pass. It gets no gradient, as in PEFT.",
            "backward",
            "return dx",
            place="q_proj",
        ),
    ),
)
