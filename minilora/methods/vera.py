"""VeRA: all layers share one frozen random pair A, B; each layer trains two vectors."""

import math

import numpy as np

from ..engine import Op
from ..support.meta import filled
from ..support.values import number
from . import lora
from .base import Method, Moment, PeftFormat, check_probability


def vera_forward(x, W, A, B, b, d, xd=None):
    """y = x Wᵀ + b · v, v = (d · u) Bᵀ, u = xa Aᵀ; xa = xd, which is x after dropout, or else x.

    x, xd (M, I), W (O, I), A (r, I), B (O, r) frozen, b (O,), d (r,)  ->  y (M, O). In the paper
    x is a column, and b · v is Λ_b B Λ_d A x.
    Source: Kopiczko et al. 2023, arXiv:2310.11454, eq. 2.
    """
    xa = x if xd is None else xd
    u = xa @ A.T  # (M, r)
    w = d * u  # (M, r)
    v = w @ B.T  # (M, O)
    y = x @ W.T + b * v
    return y, (u, W, A, B, b, d, xd is not None)  # u for db and dd; x and v are not kept


def vera_backward(dy, cache, need=(True,) * 7):
    """dy (M, O) -> dx (M, I), None, None, None, db (O,), dd (r,), dxd (M, I) if xd was given.

    need: for each argument, is its gradient wanted?
    """
    u, W, A, B, b, d, dropped = cache
    v = (d * u) @ B.T  # not kept: it is as large as y
    dw = (b * dy) @ B  # y has b v, v = w Bᵀ
    db = (dy * v).sum(axis=0)  # y has b v, the same b in every row
    dd = (dw * u).sum(axis=0)  # w = d u, the same d in every row
    du = d * dw  # w = d u
    if not need[0]:  # nothing before x trains, and so nothing before xd
        dx, dxd = None, None
    elif dropped:
        dx, dxd = dy @ W, du @ A  # y has x Wᵀ, u = xa Aᵀ
    else:
        dx, dxd = dy @ W + du @ A, None  # y has x Wᵀ, u = xa Aᵀ, xa = x
    return dx, None, None, None, db, dd, dxd


vera = Op("vera", vera_forward, vera_backward, saves=("u", "W", "A", "B", "b", "d", "dropped"))


def prepare(shapes, rank, options, like):
    """The shared A (r, largest I) and B (largest O, r); each layer uses a slice of them.

    Kaiming-uniform with gain √2: A in ±√(6/I), B in ±√(6/r), drawn in this order from one stream.
    They are bit for bit the arrays that PEFT draws with the same key.
    Source: section 3.3 of the paper; the slicing for layers of different shapes as in PEFT.
    """
    O, I = (max(sizes) for sizes in zip(*shapes, strict=True))
    stream = np.random.MT19937()
    # torch's generator for the CPU is MT19937, seeded by init_genrand
    stream._legacy_seeding(options["projection_prng_key"] % 2**32)
    return {
        "A": filled(like, (rank, I), lambda: _torch_uniform(stream, (rank, I), fan_in=I)),
        "B": filled(like, (O, rank), lambda: _torch_uniform(stream, (O, rank), fan_in=rank)),
    }


def _torch_uniform(stream, shape, fan_in):
    """float32 draws as torch makes them: 24 bits of a word times 2⁻²⁴, scaled by a fused
    multiply-add, which rounds once.
    """
    high = np.float32(math.sqrt(3) * (math.sqrt(2) / math.sqrt(fan_in)))
    low, width = -high, high - -high
    words = stream.random_raw(math.prod(shape)) & 0xFFFFFF
    units = words * 2.0**-24
    return (units * float(width) + float(low)).astype(np.float32).reshape(shape)


def init(W, rank, options, rng, shared):
    """A, B: views of the shared pair; b = 0, d = d_initial (0.1 in the paper's table 8)."""
    O, I = W.shape
    return {
        "A": shared["A"][:, :I],
        "B": shared["B"][:O],
        "b": filled(W, (O,), lambda: 0),
        "d": filled(W, (rank,), lambda: options["d_initial"]),
    }


def delta(A, B, b, d, **_):
    """ΔW = Λ_b B Λ_d A.   ->  (O, I)."""
    return (b[:, None] * B * d) @ A


def factors(options, A, B, b, d, **_):
    """ΔW = (Λ_b B Λ_d) A.   ->  (O, r), (r, I)."""
    return b[:, None] * B * d, A


def count(I, O, rank):
    """O + r; the shared r (I + O) are frozen."""
    return O + rank


def of_run(steps, seed):
    """Each seed of a comparison draws its own A and B."""
    return {"projection_prng_key": seed}


def check(options):
    """Raises ValueError if the key is not a whole number or d_initial is not finite."""
    check_probability(options)
    key, d = options["projection_prng_key"], options["d_initial"]
    if not isinstance(key, int) or isinstance(key, bool):
        raise ValueError(f"vera: projection_prng_key is {key!r}, wanted a whole number")
    number("vera: d_initial", d)


def to_peft(settings, layers):
    """b and d, as PEFT stores a VeRA."""
    fields = {
        "r": settings.rank,
        "projection_prng_key": settings.options["projection_prng_key"],
        "d_initial": settings.options["d_initial"],
        "vera_dropout": settings.options["dropout"],
        "init_weights": True,
    }
    return fields, {layer: {"b": a["b"], "d": a["d"]} for layer, a in layers.items()}


def from_peft(config):
    """attach's keywords from PEFT's config; None if it is not of a VeRA."""
    if config.get("peft_type") != "VERA":
        return None
    names = {"vera_dropout": "dropout", "projection_prng_key": "projection_prng_key"}
    names |= {"r": "rank", "d_initial": "d_initial"}
    return {names[k]: value for k, value in config.items() if k in names}


MOMENTS = (
    Moment(
        "one pair serves all layers",
        "A and B are drawn once and frozen. All layers use these two: press ] and compare.",
        "forward",
        "u = xa",
        place="q_proj",
    ),
    Moment(
        "VeRA keeps u",
        "db and dd need u = xa Aᵀ, and neither x nor v: backward computes v again.",
        "forward",
        "return y",
        place="q_proj",
    ),
)

METHOD = Method(
    name="vera",
    title="VeRA",
    source="Kopiczko et al. 2023, arXiv:2310.11454, eq. 2",
    formula="W + Λ_b B Λ_d A, A and B shared and frozen",
    op=vera,
    trains=("b", "d"),
    init=init,
    delta=delta,
    count=count,
    factors=factors,
    options={"d_initial": 0.1, "projection_prng_key": 0, "dropout": 0.0},
    about={
        "d_initial": "start value of every entry of d",
        "projection_prng_key": "seed that draws the shared A and B, a whole number",
        "dropout": lora.ABOUT["dropout"],
    },
    takes=("rank", "targets"),
    default_rank=256,
    of_run=of_run,
    rank_above_width=True,
    check=check,
    prepare=prepare,
    peft=PeftFormat(
        "VERA",
        {"b": "vera_lambda_b", "d": "vera_lambda_d"},
        to_peft,
        from_peft,
        shared={"A": "base_model.vera_A", "B": "base_model.vera_B"},
        drawn="save_projection",
    ),
    moments=MOMENTS,
)
