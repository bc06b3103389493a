"""What a caller may ask of a technique, checked: which linears, rank and alpha of each, options."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..llama.model import EMBED, HEAD
from ..methods import METHODS
from ..methods.base import Method
from ..support.files import find, nearest
from ..support.values import number, plain, whole

DEFAULT_TARGETS = ("q_proj", "v_proj")


def find_method(name: str) -> Method:
    """METHODS[name], or a ValueError with the nearest right names."""
    return find("method", name, METHODS)


def match_targets(config, targets=None) -> list[str]:
    """The full names of the linears that `targets` mean, in the order of the forward pass."""
    linears = list(config.linears())
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linears))
    if targets is None:
        targets = DEFAULT_TARGETS
    if targets == "all-linear":
        return linears
    if not isinstance(targets, str | Iterable):
        raise ValueError(
            f"targets is {targets!r}, wanted names of linears ({', '.join(kinds)}) or 'all-linear'"
        )
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


def check_rank(record: Method, rank) -> int:
    """The rank as an int, the method's default where None; raises below 1 or where it is not
    whole.
    """
    return whole(f"{record.name}: rank", record.default_rank if rank is None else rank, 1)


def warn_of_ranks(
    record: Method, shapes: Iterable[tuple[str, tuple[int, ...]]], ranks: Mapping[str, int]
) -> None:
    """Warn once for each rank that is above what a product can use; the first layer stands for all.

    shapes: (layer, (O, I)); ranks: layer -> rank.
    """
    useful: dict[int, int] = {}
    for layer, shape in () if record.rank_above_width else shapes:
        useful[ranks[layer]] = min(*shape, useful.get(ranks[layer], min(shape)))
    for rank, least in useful.items():
        if rank > least:
            warnings.warn(
                f"{record.name}: rank {rank} is above {least}, the smaller side of a target: "
                "more parameters, no more rank",
                stacklevel=3,
            )


def check_alpha(alpha) -> float:
    """alpha, a finite number other than 0."""
    try:
        if number("alpha", alpha) != 0:
            return plain(alpha)
    except ValueError:
        pass
    raise ValueError(f"alpha is {alpha!r}, wanted a finite number other than 0")


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "rank_pattern": lambda key, value: whole(f"rank_pattern: {key}", value, 1),
    "alpha_pattern": lambda key, value: check_alpha(value),
}


def check_pattern(name: str, pattern: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """{pattern of layers' names: rank or alpha} as plain numbers.

    layers: those that are adapted. Raises ValueError for a value out of range, and for a pattern
    that matches none of them.
    """
    layers = list(layers)
    kinds = dict.fromkeys(layer.rsplit(".", 1)[-1] for layer in layers)
    for key in pattern:
        if not any(matches(key, layer) for layer in layers):
            raise ValueError(
                f"{name}: {key!r:.80} matches no adapted layer; adapted are {', '.join(kinds)}"
            )
    return {key: CHECKS[name](key, value) for key, value in pattern.items()}


def matches(pattern: str, layer: str) -> bool:
    """Is the pattern the layer's name, or the end of it after a dot? As PEFT reads it.

    Raises ValueError where it is no regular expression.
    """
    try:
        return bool(re.fullmatch(rf"(.*\.)?({pattern})", layer))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern!r:.80}: no regular expression: {error}") from None


def pick(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    """The value of the first pattern that the layer's name matches, or the default."""
    return next((value for key, value in pattern.items() if matches(key, layer)), default)


def check_recompute(recompute: str | None) -> str | None:
    """What backward makes again instead of keeping it: None for nothing, "layers" (of a layer only
    its input is kept), "swiglu" (the product that down_proj reads). No gradient changes by a bit.
    """
    if recompute not in (None, "layers", "swiglu"):
        raise ValueError(f"recompute is {recompute!r}, wanted None, 'layers' or 'swiglu'")
    return recompute


def check_options(record: Method, options: Mapping[str, Any], **common: Any) -> dict[str, Any]:
    """The method's options with its defaults; raises ValueError for what it does not take, of the
    options and of what methods have in common: rank, alpha, targets, and patterns of ranks and
    alphas.
    """
    patterns = ("rank_pattern", "alpha_pattern") if "alpha" in record.takes else ()
    for name, value in common.items():
        if value is not None and name not in (*record.takes, *patterns):
            raise ValueError(f"{record.name}: takes no {name}, got {value!r}")
    for name in options:
        if name not in record.options:
            raise nearest(f"option of {record.name}", name, record.options)
    found = {**record.options, **{k: plain(v) for k, v in options.items()}}
    for name, value in found.items():
        if isinstance(record.options[name], bool) and not isinstance(value, bool):
            raise ValueError(f"{record.name}: {name} is {value!r}, wanted True or False")
    if record.check:
        record.check(found)
    return found
