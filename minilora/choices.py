"""What `attach` may be told: methods, targets, ranks, scalings, options, and what is said where
there is no such one.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .files import nearest
from .methods import METHODS
from .methods.base import Method
from .model import EMBED, HEAD
from .values import number, whole

DEFAULT_TARGETS = ("q_proj", "v_proj")


def find_method(name: str) -> Method:
    """METHODS[name], or a ValueError with the nearest right names."""
    if name not in METHODS:
        raise nearest("method", name, METHODS)
    return METHODS[name]


def match_targets(config, targets=None) -> list[str]:
    """The full names of the linears that `targets` mean, in the order of the forward pass."""
    linears = list(config.linears())
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linears))
    if targets is None:
        targets = DEFAULT_TARGETS
    if targets == "all-linear":
        return linears
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    if not targets:
        raise ValueError(f"targets: got none, wanted some of {', '.join(kinds)} or 'all-linear'")
    found = set()
    for target in targets:
        if target in ("lm_head", "embed_tokens", "model.embed_tokens", EMBED, HEAD):
            raise ValueError(
                f"targets: {target} cannot be adapted: it maps tokens, and where embedding and "
                "head are tied one adapter would change both"
            )
        hits = [name for name in linears if name == target or name.endswith(f".{target}")]
        if not hits:
            raise nearest("target", target, [*kinds, "all-linear"])
        found.update(hits)
    return [name for name in linears if name in found]


def check_rank(record: Method, rank, shapes) -> int:
    """The rank as an int; raises below 1 or where it is not whole, warns once above what a product
    can use.
    """
    rank = whole(f"{record.name}: rank", record.default_rank if rank is None else rank, 1)
    useful = min(min(shape) for shape in shapes)
    if rank > useful and not record.rank_above_width:
        warnings.warn(
            f"{record.name}: rank {rank} is above {useful}, the smaller side of a target: "
            "more parameters, no more rank",
            stacklevel=3,
        )
    return rank


def check_alpha(alpha) -> float:
    """alpha, a finite number other than 0."""
    try:
        if number("alpha", alpha) != 0:
            return _plain(alpha)
    except ValueError:
        pass
    raise ValueError(f"alpha is {alpha!r}, wanted a finite number other than 0")


def check_recompute(recompute: str | None) -> str | None:
    """What backward makes again instead of keeping it: None for nothing, "layers" (of a layer only
    its input is kept), "swiglu" (the product that down_proj reads). No gradient changes by a bit.
    """
    if recompute not in (None, "layers", "swiglu"):
        raise ValueError(f"recompute is {recompute!r}, wanted None, 'layers' or 'swiglu'")
    return recompute


def check_options(record: Method, options: Mapping[str, Any], **common: Any) -> dict[str, Any]:
    """The method's options with its defaults; raises ValueError for what it does not take, of the
    options and of what methods have in common: rank, alpha, targets.
    """
    for name, value in common.items():
        if value is not None and name not in record.takes:
            raise ValueError(f"{record.name}: takes no {name}, got {value!r}")
    for name in options:
        if name not in record.options:
            raise nearest(f"option of {record.name}", name, record.options)
    found = {**record.options, **{k: _plain(v) for k, v in options.items()}}
    for name, value in found.items():
        if isinstance(record.options[name], bool) and not isinstance(value, bool):
            raise ValueError(f"{record.name}: {name} is {value!r}, wanted True or False")
    if record.check:
        record.check(found)
    return found


def _plain(value):
    """NumPy's scalars as Python's: np.float64 would turn float32 arrays into float64, and is no
    JSON.
    """
    return value.item() if isinstance(value, np.generic) else value
