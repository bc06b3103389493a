"""LoRA-FA: LoRA with a frozen random A, so that backward does not need x."""

import numpy as np

from ..engine import Op
from . import lora
from .base import Method, Moment, check_probability


def lora_fa_forward(x, W, s, A, B, xd=None):
    """y = x Wᵀ + s (xa Aᵀ) Bᵀ, W and A frozen; xa = xd, which is x after dropout, or else x.

    x, xd (M, I), W (O, I), s scaling, A (r, I), B (O, r)  ->  y (M, O).
    Source: Zhang et al. 2023, arXiv:2308.03303, section 3.
    """
    xa = x if xd is None else xd
    z = xa @ A.T  # (M, r)
    y = x @ W.T + s * (z @ B.T)
    return y, (z, W, s, A, B, xd is not None)  # z for dB; no x: there is no dA


def lora_fa_backward(dy, cache, need=(True,) * 6):
    """dy (M, O) -> dx (M, I), None, None, None, dB (O, r), dxd (M, I) if xd was given.

    need: for each argument, is its gradient wanted?
    """
    z, W, s, A, B, dropped = cache
    dz = s * (dy @ B)  # y has s z Bᵀ
    dB = s * (dy.T @ z)  # y has s z Bᵀ
    if not need[0]:  # nothing before x trains, and so nothing before xd
        dx, dxd = None, None
    elif dropped:
        dx, dxd = dy @ W, dz @ A  # y has x Wᵀ, z = xa Aᵀ
    else:
        dx, dxd = dy @ W + dz @ A, None  # y has x Wᵀ, z = xa Aᵀ, xa = x
    return dx, None, None, None, dB, dxd


lora_fa = Op(
    "lora_fa", lora_fa_forward, lora_fa_backward, saves=("z", "W", "s", "A", "B", "dropped")
)


def corrected_gradient(arrays, grads, options):
    """dB ← dB (A Aᵀ)⁻¹ / s²: with this dB, s dB A is nearest to the full gradient ∂loss/∂W.

    A (r, I), dB (O, r); in place, only if the option `corrected` is set. The pseudo-inverse also
    works for ranks above I.
    Source: arXiv:2308.03303 in its 2026 version (gradient correction); the least-squares solution
    of min ‖s dB A - dW‖.
    """
    if options["corrected"]:
        A = arrays["A"].astype(np.float64)
        grads["B"][:] = grads["B"] @ np.linalg.pinv(A @ A.T, hermitian=True) / arrays["s"] ** 2


def count(I, O, rank):
    """r O: A is not trained."""
    return rank * O


METHOD = Method(
    name="lora_fa",
    title="LoRA-FA",
    source="Zhang et al. 2023, arXiv:2308.03303, section 3",
    formula="W + s B A, A frozen",
    op=lora_fa,
    trains=("B",),
    init=lora.init,
    delta=lora.delta,
    count=count,
    factors=lora.factors,
    options={"rank_stabilized": False, "dropout": 0.0, "corrected": False},
    about=lora.ABOUT | {"corrected": "multiply dB by (A Aᵀ)⁻¹ / s², as the paper of 2026 does"},
    check=check_probability,
    grad_rule=corrected_gradient,
    peft=lora.PEFT,
    moments=(
        Moment(
            "LoRA-FA keeps z, not x",
            "A is frozen, so no line of backward needs x. z has r columns, x has I.",
            "forward",
            "return y",
            place="q_proj",
        ),
    ),
)
