"""LoRA-FA: LoRA whose A stays as it was drawn, so that x need not be remembered."""

import numpy as np

from .. import fast as K
from ..engine import Op
from . import lora
from .base import Method
from .dropout import check_probability, drop, mask, through_both


def lora_fa_forward(x, W, s, A, B, p=0.0, key=None):
    """y = x Wᵀ + s (xd Aᵀ) Bᵀ, xd = x · mask(p, key), W and A frozen.

    x (M, I), W (O, I), s scaling, A (r, I), B (O, r)  ->  y (M, O).
    Source: Zhang et al. 2023, arXiv:2308.03303, section 3.
    """
    z = K.matmul_nt(drop(x, mask(p, key, x)), A)  # (M, r)
    y = K.adapted_nt(x, W, z * s, B)
    return y, (z, W, s, A, B, p, key)  # z for dB; no x: nothing asks for dA


def lora_fa_backward(dy, cache, need=(True,) * 7):
    """dy (M, O) -> dx (M, I), None, None, None, dB (O, r), None, None."""
    z, W, s, A, B, p, key = cache
    dB = K.matmul_tn(dy, z) * s  # y has s z Bᵀ
    if not need[0]:
        return None, None, None, None, dB, None, None
    dz = K.matmul_nn(dy, B) * s  # y has s z Bᵀ
    m = mask(p, key, dy, W.shape[1])
    dx = through_both(dy, W, dz, A, m)  # y has x Wᵀ, z = (x m) Aᵀ
    return dx, None, None, None, dB, None, None


lora_fa = Op("lora_fa", lora_fa_forward, lora_fa_backward)


def corrected_gradient(arrays, grads, options):
    """dB ← dB (A Aᵀ)⁻¹ / s²: the step of B whose s dB A is nearest to the full gradient ∂loss/∂W.

    A (r, I), dB (O, r); in place, only where the option `corrected` is set. The pseudo-inverse
    serves ranks above I.
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
    check=check_probability,
    grad_rule=corrected_gradient,
    peft=lora.PEFT,
)
