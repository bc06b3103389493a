"""Checks of what a caller asks for: targets, rank and alpha of each layer, a method's options."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..llama.model import EMBED, HEAD
from ..methods import METHODS, own
from ..methods.base import Method
from ..support.files import nearest
from ..support.names import peft_hint
from ..support.terminal import printable
from ..support.values import number, plain, shown, whole
from . import patterns

DEFAULT_TARGETS = ("q_proj", "v_proj")
UNKNOWN = (  # for a file whose technique is not in METHODS
    "saved by a technique of your own: pass method= (on the command line --method FILE:METHOD)"
)
SELECTION = "layers_to_transform", "layers_pattern", "exclude_modules"  # PEFT's, beside targets


def find_method(method: str | Method) -> Method:
    """The technique with this name or at FILE.py:METHOD; a record is returned as it is.

    Raises ValueError with the most similar names; for a file what `own.read` raises.
    """
    if isinstance(method, Method):
        return method
    if own.is_place(method):
        return own.read(method)
    if method not in METHODS:
        for known, record in METHODS.items():  # "LoRA", "lora+", "Delta LoRA"
            if _letters(str(method)) in (_letters(known), _letters(record.title)):
                raise ValueError(f"unknown method {method!r}; did you mean {known!r}?")
        raise nearest("method", method, [*METHODS, "FILE.py:METHOD"])
    return METHODS[method]


def saved_method(path: Any, saved: Any, method: str | Method | None) -> Method:
    """The technique that a file names. method: the caller's choice, for a technique of their own.

    Code that only the file names is not run. Raises ValueError for an unknown or another technique.
    """
    record = METHODS.get(saved) if method is None else find_method(method)
    if record is None:
        raise ValueError(f"{path}: {saved!r:.80} is unknown here, {UNKNOWN}")
    if record.name != saved:
        raise ValueError(f"{path}: stored as {saved!r:.80}, which is not {record.name}")
    return record


def _letters(name):
    return re.sub(r"[\s_-]", "", name.lower())


def describe_options() -> str:
    """What attach takes for each technique: names, defaults, meanings and units, one per line."""
    lines = []
    for name, record in METHODS.items():
        own = {"rank": record.default_rank, "alpha": "2·rank", "targets": "q_proj, v_proj"}
        taken = ", ".join(f"{k} ({v})" for k, v in own.items() if k in record.takes)
        lines.append(f"{name}: {taken or 'no rank, alpha or targets'}")
        for option, default in record.options.items():
            lines.append(f"    {option} ({default}): {record.about.get(option, '')}")
    return "\n".join(lines)


def _kinds(layers):
    """The last parts of layers' names, each once: q_proj, k_proj, …"""
    return list(dict.fromkeys(layer.rsplit(".", 1)[-1] for layer in layers))


def match_targets(
    config,
    targets=None,
    layers_to_transform: int | Iterable[int] | None = None,
    layers_pattern: str | Iterable[str] | None = None,
    exclude_modules: str | Iterable[str] | None = None,
) -> list[str]:
    """The full names of the linears that are chosen, in the order of the forward pass.

    targets: names, or regular expressions of names. The others are as in PEFT. layers_to_transform:
    the numbers of the layers; layers_pattern: the name before that number ("layers");
    exclude_modules: names to leave out, or one regular expression of whole names.
    Raises ValueError for an unknown name, or if no linear is chosen.
    """
    linears = list(config.linears())
    chosen = _targeted(linears, DEFAULT_TARGETS if targets is None else targets)
    chosen = _numbered(chosen, layers_to_transform, layers_pattern)
    if exclude_modules:
        chosen = _without(chosen, exclude_modules)
    if not chosen:
        raise ValueError(
            f"targets: no linear is left, with layers_to_transform {layers_to_transform!r:.40}, "
            f"layers_pattern {layers_pattern!r:.40}, exclude_modules {exclude_modules!r:.40}"
        )
    return chosen


def _targeted(linears, targets):
    """The linears that targets name."""
    kinds = _kinds(linears)
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
        if not matching and isinstance(target, str) and not patterns.PLAIN.fullmatch(target):
            matching = [name for name in linears if patterns.end(target, name)]
            if not matching:
                raise ValueError(
                    f"targets: {target!r:.80} matches no linear; their names are as {linears[0]}"
                )
        if not matching:
            raise nearest("target", target, [*kinds, "all-linear"])
        selected.update(matching)
    return [name for name in linears if name in selected]


def _numbered(names, numbers, before):
    """The names in the layers of these numbers; before: the name that precedes the number."""
    if before and numbers is None:
        raise ValueError("layers_pattern is given, wanted layers_to_transform too")
    if numbers is None or (not isinstance(numbers, int) and not list(numbers)):
        return names
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    chosen = {whole("layers_to_transform", number) for number in listed}
    found = {name: int(part) for name in names for part in name.split(".") if part.isdigit()}
    if missing := sorted(chosen - set(found.values())):
        raise ValueError(
            f"layers_to_transform: no layer {missing[0]}, wanted 0 to {max(found.values())}"
        )
    befores = [before] if isinstance(before, str) else list(before or ())
    shapes = [rf".*\.({each})\.\d+\..*" for each in befores]
    names = [n for n in names if not shapes or any(patterns.full(s, n) for s in shapes)]
    return [name for name in names if found[name] in chosen]


def _without(names, modules):
    if isinstance(modules, str) and not patterns.PLAIN.fullmatch(modules):
        return [name for name in names if not patterns.full(modules, name)]
    modules = {modules} if isinstance(modules, str) else set(modules)
    return [
        name  # as a whole, and what follows each of its dots
        for name in names
        if not any(name[i:] in modules for i in range(len(name)) if name[i - 1 : i] in ("", "."))
    ]


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
            text = f"{record.name}: {side}: more parameters, no higher rank"
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
    "rank_pattern": lambda key, value: whole(f"rank_pattern: {printable(key)}", value, 1),
    "alpha_pattern": lambda key, value: check_alpha(value),
}


def check_pattern(name: str, pattern: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """{pattern of layers' names: rank or alpha} with Python numbers. layers: the adapted ones.

    Raises ValueError if a value is out of range or a pattern matches no layer.
    """
    layers = list(layers)
    if not isinstance(pattern, Mapping) or not all(isinstance(key, str) for key in pattern):
        raise ValueError(f"{name} is {shown(pattern)}, wanted {{name of a layer: its own}}")
    for key in pattern:
        if not any(patterns.end(key, layer) for layer in layers):
            kinds = ", ".join(_kinds(layers))
            raise ValueError(f"{name}: {key!r:.80} matches no adapted layer; adapted are {kinds}")
    return {key: CHECKS[name](key, value) for key, value in pattern.items()}


def pick(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    """The value of the first pattern that matches the layer's name, or the default."""
    return next((value for key, value in pattern.items() if patterns.end(key, layer)), default)


def check_recompute(recompute: str | None) -> str | None:
    """Which activations backward computes again instead of keeping them. No gradient changes.

    None: none. "layers": all of a layer; only its input is kept.
    Raises ValueError for another value.
    """
    if recompute not in (None, "layers"):
        raise ValueError(f"recompute is {recompute!r}, wanted None or 'layers'")
    return recompute


def check_options(record: Method, options: Mapping[str, Any], **common: Any) -> dict[str, Any]:
    """The given options and the defaults of the others.

    common: rank, alpha, targets, rank_pattern, alpha_pattern, and those of SELECTION. Raises
    ValueError for an option out of range, and for an option or common argument that the method does
    not take.
    """
    taken = [*record.takes]
    taken += ["rank_pattern", "alpha_pattern"] if "alpha" in taken else []
    taken += SELECTION if "targets" in taken else []
    for name, value in common.items():
        if value is not None and name not in taken:
            raise ValueError(f"{record.name}: takes no {name}, got {value!r}")
    for name in options:
        if name not in record.options:
            if ours := peft_hint(name):
                raise ValueError(f"{record.name}: got the option {name}{ours}")
            raise nearest(f"option of {record.name}", name, record.options)
    values = {**record.options, **{k: plain(v) for k, v in options.items()}}
    for name, value in values.items():
        if isinstance(record.options[name], bool) and not isinstance(value, bool):
            raise ValueError(f"{record.name}: {name} is {value!r}, wanted True or False")
    if record.check:
        record.check(values)
    return values
