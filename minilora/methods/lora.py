"""LoRA: the change of a weight as a product of two thin matrices.

A (r, I) is the down-projection, which touches x; B (O, r) the up-projection, zero at the start.
"""

import math

import numpy as np

from .. import fast as K
from ..engine import Op
from ..support.meta import filled
from .base import Method, PeftFormat
from .dropout import check_probability, drop, mask, through_both


def lora_forward(x, W, s, A, B, p=0.0, key=None):
    """y = x Wᵀ + s (xd Aᵀ) Bᵀ, xd = x · mask(p, key).

    x (M, I), W (O, I) frozen, s scaling, A (r, I), B (O, r)  ->  y (M, O).
    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3; dropout on the adapter's input, section 4.1's
    code.
    """
    z = K.matmul_nt(drop(x, mask(p, key, x)), A)  # (M, r)
    y = K.adapted_nt(x, W, z * s, B)
    return y, (x, z, W, s, A, B, p, key)  # x for dA, z for dB; the mask comes again from its key


def lora_backward(dy, cache, need=(True,) * 7):
    """dy (M, O) -> dx (M, I), None, None, dA (r, I), dB (O, r), None, None."""
    x, z, W, s, A, B, p, key = cache
    m = mask(p, key, x)
    dz = K.matmul_nn(dy, B) * s  # y has s z Bᵀ
    dB = K.matmul_tn(dy, z) * s  # y has s z Bᵀ
    dA = K.matmul_tn(dz, drop(x, m))  # z = (x m) Aᵀ
    if not need[0]:
        return None, None, None, dA, dB, None, None
    dx = through_both(dy, W, dz, A, m)  # y has x Wᵀ, z = (x m) Aᵀ
    return dx, None, None, dA, dB, None, None


lora = Op("lora", lora_forward, lora_backward)


def init(W, rank, options, rng, shared):
    """A uniform in ±1/√I (Kaiming with a = √5, as PEFT and loralib), B = 0, s = alpha/r or
    alpha/√r.

    Source: Hu et al. 2021, section 4.1; rank-stabilised scaling: Kalajdzievski 2023,
    arXiv:2312.03732.
    """
    O, I = W.shape
    bound = 1 / math.sqrt(I)
    return {
        "s": options["alpha"] / (math.sqrt(rank) if options["rank_stabilized"] else rank),
        "A": filled(W, (rank, I), lambda: rng.uniform(-bound, bound, (rank, I))),
        "B": np.zeros_like(W, shape=(O, rank)),
    }


def delta(s, A, B, **_):
    """ΔW = s B A.   A (r, I), B (O, r)  ->  (O, I)."""
    return s * (B @ A)


def factors(options, A, B, **_):
    """ΔW = s · B A.   ->  (O, r), (r, I)."""
    return B, A


def count(I, O, rank):
    """r (I + O)."""
    return rank * (I + O)


PEFT = PeftFormat("LORA", {"A": "lora_A.weight", "B": "lora_B.weight"})

METHOD = Method(
    name="lora",
    title="LoRA",
    source="Hu et al. 2021, arXiv:2106.09685, eq. 3",
    formula="W + s B A",
    op=lora,
    trains=("A", "B"),
    init=init,
    delta=delta,
    count=count,
    factors=factors,
    options={"rank_stabilized": False, "dropout": 0.0},
    check=check_probability,
    peft=PEFT,
)
