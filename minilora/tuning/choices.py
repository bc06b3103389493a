"""Checks of what a caller asks for: targets, rank and alpha of each layer, a method's options."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..llama.model import EMBED, HEAD
from ..methods import METHODS
from ..methods.base import Method
from ..support.files import find, nearest
from ..support.values import number, plain, shown, whole

DEFAULT_TARGETS = ("q_proj", "v_proj")


def find_method(name: str) -> Method:
    """METHODS[name]; raises ValueError with the most similar names."""
    return find("method", name, METHODS)


def _kinds(layers):
    """The last parts of layers' names, each once: q_proj, k_proj, …"""
    return list(dict.fromkeys(layer.rsplit(".", 1)[-1] for layer in layers))


def match_targets(config, targets=None) -> list[str]:
    """The full names of the linears that `targets` select, in the order of the forward pass."""
    linears = list(config.linears())
    kinds = _kinds(linears)
    if targets is None:
        targets = DEFAULT_TARGETS
    if targets == "all-linear":
        return linears
    wanted = f"wanted some of {', '.join(kinds)} or 'all-linear'"
    if not isinstance(targets, str | Iterable):
        raise ValueError(f"targets is {targets!r}, {wanted}")
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    if not targets:
        raise ValueError(f"targets: got none, {wanted}")
    selected = set()
    for target in targets:
        if target in ("lm_head", "embed_tokens", "model.embed_tokens", EMBED, HEAD):
            raise ValueError(
                f"targets: {target} cannot be adapted: it maps tokens, and if embedding and head "
                "are tied, one adapter would change both"
            )
        matching = [name for name in linears if name == target or name.endswith(f".{target}")]
        if not matching:
            raise nearest("target", target, [*kinds, "all-linear"])
        selected.update(matching)
    return [name for name in linears if name in selected]


def check_rank(record: Method, rank) -> int:
    """The rank as an int; None: the method's default. Raises ValueError unless it is at least 1."""
    return whole(f"{record.name}: rank", record.default_rank if rank is None else rank, 1)


def warn_of_ranks(
    record: Method, shapes: Iterable[tuple[str, tuple[int, ...]]], ranks: Mapping[str, int]
) -> None:
    """Warn, once for each rank, if it is above min(O, I) of a layer: ΔW cannot have such a rank.

    shapes: (layer, (O, I)); ranks: layer -> rank.
    """
    smallest: dict[int, int] = {}  # rank -> the least min(O, I) of its layers
    for layer, shape in () if record.rank_above_width else shapes:
        rank = ranks[layer]
        smallest[rank] = min(*shape, smallest.get(rank, min(shape)))
    for rank, least in smallest.items():
        if rank > least:
            side = f"rank {rank} is above {least}, the smaller side of a target"
            text = f"{record.name}: {side}: more parameters, no more rank"
            warnings.warn(text, stacklevel=3)


def check_alpha(alpha) -> float:
    """alpha as a Python number. Raises ValueError if it is 0 or not finite."""
    try:
        if number("alpha", alpha) != 0:
            return plain(alpha)
    except ValueError:
        pass
    raise ValueError(f"alpha is {shown(alpha)}, wanted a finite number other than 0")


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "rank_pattern": lambda key, value: whole(f"rank_pattern: {key}", value, 1),
    "alpha_pattern": lambda key, value: check_alpha(value),
}


def check_pattern(name: str, pattern: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """{pattern of layers' names: rank or alpha} with Python numbers. layers: the adapted ones.

    Raises ValueError if a value is out of range or a pattern matches no layer.
    """
    layers = list(layers)
    for key in pattern:
        if not any(matches(key, layer) for layer in layers):
            kinds = ", ".join(_kinds(layers))
            raise ValueError(f"{name}: {key!r:.80} matches no adapted layer; adapted are {kinds}")
    return {key: CHECKS[name](key, value) for key, value in pattern.items()}


def matches(pattern: str, layer: str) -> bool:
    """Does a regular expression match the layer's name, or the end of it after a dot? As in PEFT.

    Raises ValueError if it is no regular expression.
    """
    try:
        return bool(re.fullmatch(rf"(.*\.)?({pattern})", layer))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern!r:.80}: no regular expression: {error}") from None


def pick(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    """The value of the first pattern that matches the layer's name, or the default."""
    return next((value for key, value in pattern.items() if matches(key, layer)), default)


def check_recompute(recompute: str | None) -> str | None:
    """Which activations backward computes again instead of keeping them. No gradient changes.

    None: none. "layers": all of a layer; only its input is kept. "swiglu": the product that
    down_proj reads. Raises ValueError for another value.
    """
    if recompute not in (None, "layers", "swiglu"):
        raise ValueError(f"recompute is {recompute!r}, wanted None, 'layers' or 'swiglu'")
    return recompute


def check_options(record: Method, options: Mapping[str, Any], **common: Any) -> dict[str, Any]:
    """The given options and the defaults of the others.

    common: rank, alpha, targets, rank_pattern, alpha_pattern. Raises ValueError for an option out
    of range, and for an option or common argument that the method does not take.
    """
    patterns = ("rank_pattern", "alpha_pattern") if "alpha" in record.takes else ()
    for name, value in common.items():
        if value is not None and name not in (*record.takes, *patterns):
            raise ValueError(f"{record.name}: takes no {name}, got {value!r}")
    for name in options:
        if name not in record.options:
            raise nearest(f"option of {record.name}", name, record.options)
    values = {**record.options, **{k: plain(v) for k, v in options.items()}}
    for name, value in values.items():
        if isinstance(record.options[name], bool) and not isinstance(value, bool):
            raise ValueError(f"{record.name}: {name} is {value!r}, wanted True or False")
    if record.check:
        record.check(values)
    return values
