"""What adapter_config.json says: the technique, and the keywords with which `attach` makes it."""

import warnings
from collections.abc import Mapping
from typing import Any

from ..llama.model import EMBED, HEAD
from ..methods import METHODS
from ..methods.base import Method
from ..support.files import check_kind, errors_at
from ..support.terminal import printable
from . import patterns
from .adapters import Tuned, attach
from .choices import SELECTION, UNKNOWN, find_method, match_targets, saved_method

FLAGS = ("use_rslora", "use_dora", "save_projection")
START = ("dropout", "d_initial")  # options that do not change what the stored arrays compute
# Fields of PEFT's configs that change the formula or the layers if they are set. A technique may
# claim some of them.
CHANGES = tuple(
    "bias fan_in_fan_out use_dora use_qalora use_bdlora kasa_config arrow_config monteclora_config "
    "lora_bias alora_invocation_tokens modules_to_save layer_replication target_parameters "
    "trainable_token_indices".split()
)
HARMLESS = set(  # fields that are read here, or say how the arrays were made or what they are for
    "peft_type r target_modules lora_alpha lora_dropout use_rslora init_lora_weights init_weights "
    "rank_pattern alpha_pattern vera_dropout d_initial projection_prng_key save_projection "
    "base_model_name_or_path task_type inference_mode auto_mapping revision peft_version "
    "layers_to_transform layers_pattern exclude_modules loftq_config eva_config corda_config "
    "lora_ga_config megatron_config megatron_core qalora_group_size ensure_weight_tying "
    "runtime_config".split()
)
SAME_BASE = (True, False, "gaussian", "orthogonal")  # init_lora_weights that leave W as it is


def attach_as_stored(model, path, config, own, method, options) -> Tuned:
    """What `attach` makes from a stored adapter's settings; its arrays are still fresh.

    config: of adapter_config.json; own: what this library wrote beside the arrays, {} for PEFT's
    files; method, options: the caller's.
    Raises ValueError for unsupported settings.
    """
    for name in FLAGS:
        check_kind(path, name, config.get(name, False), bool)
    record, fields = _technique(path, config, own, method)
    if config.get("peft_type") == "FULL":
        return attach(model, record, **options)
    _check_formula(path, config, record.peft.claims if record.peft else ())
    restores = restores_arrays(record, own)
    settings = own if restores else config
    given: dict[str, Any] = {"targets": _targets(path, config, model)}
    given |= {k: v for k, v in fields.items() if k in record.takes}
    if restores:
        given |= {name: own.get(name) for name in ("rank", "alpha") if name in record.takes}
    for name, of in (("rank_pattern", int), ("alpha_pattern", float)):
        given[name] = _pattern(path, name, settings, of, model, given["targets"])
    read = {k: v for k, v in fields.items() if k in record.options and v is not None}
    saved = own["options"] if own.get("method") == record.name else {}
    saved = {k: v for k, v in saved.items() if k in record.options}  # LoRA+'s ratio and the like
    fixed = saved | read if restores else read
    differ = {k for k in fixed.keys() & options.keys() - {*START} if options[k] != fixed[k]}
    if settled := given.keys() & options.keys() | differ:
        raise ValueError(f"{path}: {min(settled)} is settled by the adapter's own files")
    with errors_at(path):
        return attach(model, record, **given, **{**saved, **read, **options})


def _technique(path, config, own, method) -> tuple[Method, dict[str, Any]]:
    """The technique that trains further, and attach's keywords that it reads from the config.

    method: a name or a record. None: the technique that was saved, or else the first that reads
    the config.
    """
    if config.get("peft_type") in ("FULL", "MINILORA"):
        return _own_technique(path, config, own, method), {
            "rank": config.get("r"),
            "alpha": own.get("alpha"),
        }
    kind, records = config.get("peft_type"), dict(METHODS)
    if method is not None:
        record = find_method(method)
        records[record.name] = record
    with errors_at(path):
        readings = {n: r.peft.from_peft(config) for n, r in records.items() if r.peft}
    fits = {name: fields for name, fields in readings.items() if fields is not None}
    if not fits:
        known = " and ".join(dict.fromkeys(r.peft.type for r in records.values() if r.peft))
        raise ValueError(f"{path}: peft_type is {kind!r:.80}, supported are {known}")
    saved = own.get("method")
    if method is not None:
        name = record.name
    elif saved in fits:
        name = saved
    else:
        # a technique that claims a field comes before those that would refuse it
        claims = {name: r.peft.claims for name, r in records.items() if r.peft}
        name = max(fits, key=lambda n: bool(claims[n]))
        if saved is not None and saved not in METHODS:
            warnings.warn(f"{path}: loaded as {name}, but {UNKNOWN} ({saved!r:.80})", stacklevel=5)
    if name not in fits:
        raise ValueError(
            f"{path}: stored as {kind}, which {name} cannot read; wanted one of {', '.join(fits)}"
        )
    return records[name], fits[name]


def _own_technique(path, config, own, method) -> Method:
    """The technique of a form that only this library reads: whole weights, or its own arrays."""
    kind = config["peft_type"]
    whole = next(name for name, record in METHODS.items() if record.whole_model)
    if kind == "MINILORA" and "method" not in own:
        raise ValueError(f"{path}: peft_type is {kind!r}, but no technique is named")
    if kind == "FULL":
        record = find_method(method or whole)
    else:
        record = saved_method(path, own["method"], method)
    if (kind == "FULL") != record.whole_model:
        form = "whole weights" if kind == "FULL" else "an adapter"
        raise ValueError(f"{path}: stored as {form}, which {record.name} cannot read")
    return record


def _check_formula(path, config, claims):
    """Raises ValueError for a field that changes the formula, unless the technique claims it.

    Warns of a field that is not known here.
    """
    given = {k: v for k, v in config.items() if v not in (None, False, "none", {}, [])}
    for name in CHANGES:
        if name in given and name not in claims:
            raise ValueError(
                f"{path}: {name} is {given[name]!r:.80}: not supported, it changes the mathematics"
            )
    if unknown := sorted(given.keys() - HARMLESS - set(claims)):
        warnings.warn(
            f"{path}: {printable(unknown[0])} is {given[unknown[0]]!r:.80}: unknown here, "
            "assumed to change nothing",
            stacklevel=5,
        )
    init = config.get("init_lora_weights", True)
    if init not in SAME_BASE and "init_lora_weights" not in claims:
        raise ValueError(
            f"{path}: init_lora_weights is {init!r:.80}: not supported; wanted one that is known "
            f"to leave the base as it is: {', '.join(map(repr, SAME_BASE))}"
        )


def _pattern(path, name, config, kind, model, targets):
    """A pattern of the config, without the keys that match no adapted layer; PEFT ignores them."""
    pattern = config.get(name, {})
    check_kind(path, name, pattern, {str: kind})
    with errors_at(f"{path}: {name}"):
        adapted = match_targets(model.config, targets) if pattern else []
        return {k: v for k, v in pattern.items() if any(patterns.end(k, n) for n in adapted)}


def _targets(path, config, model):
    """The linears that PEFT's config chooses, as attach's targets."""
    modules = config.get("target_modules")
    selection = {name: config[name] for name in SELECTION if config.get(name)}
    if isinstance(config.get("layers_to_transform"), int):  # 0 too
        selection["layers_to_transform"] = config["layers_to_transform"]
    for name, value in selection.items():
        kind = int if name == "layers_to_transform" else str
        check_kind(path, name, value, [kind] if isinstance(value, list) else kind)
    if isinstance(excluded := selection.get("exclude_modules"), str):
        selection["exclude_modules"] = f"(?:{excluded})"  # PEFT reads a name as a pattern, too
    if not isinstance(modules, str):
        check_kind(path, "target_modules", modules, [str])
        targets: Any = tuple(dict.fromkeys(modules))
    elif modules.lower() == "all-linear":
        targets = "all-linear"
    else:
        targets = _whole_names(path, modules, model)
    if not selection:
        return targets
    with errors_at(path):
        return tuple(match_targets(model.config, targets, **selection))


def _whole_names(path, pattern, model):
    """The names that PEFT's regular expression matches as a whole."""
    ends = [name.removesuffix(".weight") for name in (EMBED, HEAD)]
    with errors_at(f"{path}: target_modules"):
        hits = [n for n in (*ends, *model.config.linears()) if patterns.full(pattern, n)]
    if not hits:
        raise ValueError(
            f"{path}: target_modules is {pattern!r:.80}, which matches no linear's whole name, "
            f"such as {next(iter(model.config.linears()))}"
        )
    return tuple(hits)


def restores_arrays(record: Method | None, own: Mapping[str, Any]) -> bool:
    """Did this technique write the file, with arrays from which it computes its own?"""
    if record is None or record.peft is None or record.peft.restore is None:
        return False
    return own.get("method") == record.name


def drawn_keys(record: Method, config: Mapping[str, Any]) -> set[str]:
    """The keys of shared arrays that may be missing in the file, since attach draws them again."""
    peft = record.peft
    if peft is None or not peft.drawn or config.get(peft.drawn) is not False:
        return set()
    return set(peft.shared.values())
