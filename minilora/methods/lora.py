"""LoRA: the change of a weight as a product of two thin matrices.

A (r, I) is the down-projection, which reads x; B (O, r) is the up-projection, zero at the start.
"""

import math

from ..engine import Op
from ..support.meta import filled
from .base import Method, Moment, PeftFormat, check_probability, whole_number


def lora_forward(x, W, s, A, B, xd=None):
    """y = x Wᵀ + s (xa Aᵀ) Bᵀ, xa = xd, which is x after dropout; without xd, xa = x.

    x, xd (M, I), W (O, I) frozen, s scaling, A (r, I), B (O, r)  ->  y (M, O).
    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3; dropout on the adapter's input as in its code.
    """
    xa = x if xd is None else xd
    z = xa @ A.T  # (M, r)
    y = x @ W.T + s * (z @ B.T)
    return y, (xa, z, W, s, A, B, xd is not None)  # xa for dA, z for dB; W, A, B are references


def lora_backward(dy, cache, need=(True,) * 6):
    """dy (M, O) -> dx (M, I), None, None, dA (r, I), dB (O, r), dxd (M, I) if xd was given.

    need: for each argument, is its gradient wanted?
    """
    xa, z, W, s, A, B, dropped = cache
    dz = s * (dy @ B)  # y has s z Bᵀ
    dB = s * (dy.T @ z)  # y has s z Bᵀ
    dA = dz.T @ xa  # z = xa Aᵀ
    if not need[0]:  # nothing before x trains, and so nothing before xd
        dx, dxd = None, None
    elif dropped:
        dx, dxd = dy @ W, dz @ A  # y has x Wᵀ, z = xa Aᵀ
    else:
        dx, dxd = dy @ W + dz @ A, None  # y has x Wᵀ, z = xa Aᵀ, xa = x
    return dx, None, None, dA, dB, dxd


lora = Op("lora", lora_forward, lora_backward, saves=("x", "z", "W", "s", "A", "B", "dropped"))


def scaling(rank, alpha, rank_stabilized):
    """s = alpha/r, or alpha/√r if rank-stabilised.

    Source: Hu et al. 2021, section 4.1; Kalajdzievski 2023, arXiv:2312.03732.
    """
    return alpha / (math.sqrt(rank) if rank_stabilized else rank)


def init(W, rank, options, rng, shared):
    """A uniform in ±1/√I (Kaiming with a = √5, as PEFT and loralib), B = 0.

    W (O, I)  ->  s, A (r, I), B (O, r).
    Source: Hu et al. 2021, section 4.1, which leaves A's variance open.
    """
    O, I = W.shape
    bound = 1 / math.sqrt(I)
    return {
        "s": scaling(rank, options["alpha"], options["rank_stabilized"]),
        "A": filled(W, (rank, I), lambda: rng.uniform(-bound, bound, (rank, I))),
        "B": filled(W, (O, rank), lambda: 0),
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


def to_peft(settings, layers):
    """A and B, as PEFT stores a LoRA."""
    fields = {
        "r": settings.rank,
        "lora_alpha": whole_number(settings.alpha),
        "lora_dropout": settings.options.get("dropout", 0.0),
        "use_rslora": settings.options["rank_stabilized"],
        "init_lora_weights": True,
    }
    patterns = {
        "rank_pattern": dict(settings.rank_pattern),
        "alpha_pattern": {k: whole_number(a) for k, a in settings.alpha_pattern.items()},
    }
    fields |= {name: pattern for name, pattern in patterns.items() if pattern}
    return fields, {layer: {"A": a["A"], "B": a["B"]} for layer, a in layers.items()}


def from_peft(config):
    """attach's keywords from PEFT's config (default alpha 8); None if it is not of a LoRA."""
    if config.get("peft_type") != "LORA":
        return None
    return {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha", 8),
        "rank_stabilized": config.get("use_rslora", False),
        "dropout": config.get("lora_dropout", 0.0),
    }


PEFT = PeftFormat("LORA", {"A": "lora_A.weight", "B": "lora_B.weight"}, to_peft, from_peft)

ABOUT = {
    "rank_stabilized": "scale by alpha / √rank, not by alpha / rank",
    "dropout": "probability of dropping an input of the adapter in training, below 1",
}

MOMENTS = (
    Moment(
        "LoRA adds nothing yet",
        "B starts at 0. So s z Bᵀ is 0, and the model computes what the base computes.",
        "forward",
        "y = x @ W.T",
        place="q_proj",
        zero="B",
    ),
    Moment(
        "dA is 0 in the first step",
        "A's gradient passes through B, and B is 0. Only B learns: see dB, one line above.",
        "backward",
        "dA = ",
        place="q_proj",
        zero="dA",
    ),
    Moment(
        "A starts to learn",
        "B is no longer 0. So dz is not 0, and the same line gives A a gradient.",
        "backward",
        "dA = ",
        place="q_proj",
        zero="-dA",
    ),
    Moment(
        "the first step of B",
        "With fresh moments AdamW divides the gradient by its own size: each entry of B moves by "
        "almost its learning rate, up or down.",
        "step",
        "p -= ",
        "adamw",
        "q_proj.lora_B",
        zero="p",
    ),
)

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
    about=ABOUT,
    check=check_probability,
    peft=PEFT,
    moments=MOMENTS,
)
