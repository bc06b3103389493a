"""Check the form of a pair: each fault gives an error in one sentence.

forward(*arrays) -> (out, cache); backward(dout, cache) -> a gradient or None for each argument.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .files import nearest
from .values import shown

SALT = 0x5EED  # so that no random number here equals one of a caller's default_rng(seed)


class GradientError(AssertionError):
    """A pair's backward is not the derivative of its forward, or the pair has a wrong form."""


@dataclass(frozen=True)
class PairRun:
    """A pair that was run once in float64."""

    title: str  # backward's name
    forward: Callable
    args: dict[str, Any]
    out: np.ndarray
    dout: np.ndarray  # random: the loss is <dout, out>
    grads: dict[str, np.ndarray]  # backward's gradients of the arguments to check
    rng: np.random.Generator

    def loss(self, name: str, moved: np.ndarray) -> float:
        """<dout, out> with `moved`, of the argument's shape, in place of one argument.

        Raises GradientError if the output is not finite or its shape changes.
        """
        out, _ = self.forward(*{**self.args, name: moved}.values())
        words = ""
        if np.shape(out) != self.out.shape:
            shapes = f"{self.out.shape} and {np.shape(out)}"
            words = f"the output's shape changes with the values of {name}: {shapes}"
        elif not np.isfinite(out).all():
            words = f"the output is not finite close to this {name}: choose another"
        if words:
            raise GradientError(f"{name_of(self.forward)}: {words}")
        return float((self.dout * out).sum())


def run_pair(
    forward: Callable, backward: Callable, arrays: Sequence, frozen: str | Iterable[str], seed: int
) -> PairRun:
    """Run a pair once in float64, and check that it has the form of a pair.

    Raises GradientError if it does not; ValueError if the call is wrong or there is nothing to
    check; TypeError if forward or backward is not a function.
    """
    for what, function in (("forward", forward), ("backward", backward)):
        if not callable(function):
            raise TypeError(f"gradcheck: {what} is {shown(function)}, wanted a function")
    parameters, more = _parameters(forward, len(arrays))
    frozen = (frozen,) if isinstance(frozen, str) else tuple(frozen)
    for name in frozen:
        if name not in parameters:
            raise nearest("name in frozen", name, parameters)
    args = {name: _own_copy(name, a, name in frozen) for name, a in zip(parameters, arrays)}

    title, args_before = name_of(backward), _snapshot(args)
    out, cache = _call(forward, args)
    _must_be_unchanged(args_before, args, name_of(forward))
    rng = np.random.default_rng([seed, SALT])
    dout = np.asarray(rng.standard_normal(out.shape))
    passed = {"dout": dout.copy(), "cache": cache}
    passed_before = _snapshot(passed)
    grads = backward(passed["dout"], cache)
    _must_be_unchanged(passed_before, passed, title, args)  # first: backward gets only these
    _must_be_unchanged(args_before, args, title)
    again, _ = _call(forward, args)
    if again.shape != out.shape or np.abs(again - out).max() > 1e-12 * np.abs(out).max():
        raise GradientError(
            f"{name_of(forward)}: two calls with the same arguments gave two outputs; random "
            "numbers must come from a key or a seed that stays the same"
        )
    grads = _one_each(grads, list(args), math.inf if more else len(parameters), title)
    checked = _to_check(dict(zip(args, grads)), args, frozen, title)
    return PairRun(title, forward, args, out, dout, checked, rng)


def name_of(function: Callable) -> str:
    """A function's name; for a partial its function's, for another object its class's."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def and_list(words: Sequence[str]) -> str:
    """dx, dA and dB."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def are_right(names: Sequence[str]) -> str:
    """dx is right; dx and dA are right."""
    return f"{and_list(names)} {'is' if len(names) == 1 else 'are'} right"


# ---- arguments


def _parameters(forward, count) -> tuple[list[str], bool]:
    """The names of forward's arguments, and whether it takes any number of them."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # some compiled functions have none
        return [f"argument[{i}]" for i in range(count)], True
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    if rest:
        names += [f"{rest[0]}[{i}]" for i in range(count - len(names))]
    if count > len(names):
        raise ValueError(f"{name_of(forward)}: got {count} arguments, and it takes {len(names)}")
    return names, bool(rest)


def _own_copy(name, a, is_frozen):
    """A copy to pass, floats as float64. Raises ValueError if numbers would not be checked."""
    if isinstance(a, np.ndarray):
        if a.dtype.kind not in "fiub" and not is_frozen:
            raise ValueError(f"gradcheck: {name} is {_kind(a)}, wanted floats")
        return a.astype(np.float64) if a.dtype.kind == "f" else a.copy()
    if is_frozen:
        return a
    if any(part.dtype.kind == "f" for _, part in _arrays_in(name, a)):
        raise ValueError(
            f"gradcheck: {name} is {_kind(a)} that holds float arrays: pass each as an argument"
        )
    foreign = hasattr(a, "dtype") and hasattr(a, "shape") and not isinstance(a, np.generic | type)
    if foreign or (isinstance(a, list) and _holds_floats(a)):
        raise ValueError(f"gradcheck: {name} is {_kind(a)}, wanted a NumPy array")
    return a


def _holds_floats(a):
    return any(map(_holds_floats, a)) if isinstance(a, list) else isinstance(a, float)


def _kind(a) -> str:
    """What a value is, in words."""
    if isinstance(a, np.ndarray):
        return f"an array of {a.dtype}" if a.ndim else _with_article(str(a.dtype))
    return "None" if a is None else _with_article(type(a).__name__)


def _with_article(noun):
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _arrays_in(place, value) -> Iterator[tuple[str, np.ndarray]]:
    """Each array in a tuple, list or dict, with its place: cache[0]."""
    if isinstance(value, np.ndarray):
        yield place, value
    elif isinstance(value, tuple | list | dict):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from _arrays_in(f"{place}[{key!r}]" if place else key, part)


def _snapshot(values) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(place, a, a.copy()) for place, a in _arrays_in("", values)]


def _must_be_unchanged(before, values, title, args=()) -> None:
    after = dict(_arrays_in("", values))
    for place, a, was in before:
        same = np.array_equal(a, was, equal_nan=a.dtype.kind in "fc")
        if not same or after.get(place) is not a:
            too = next((f", which is {name}" for name in args if args[name] is a), "")
            raise GradientError(f"{title}: it writes into {place}{too}: make a new array instead")


# ---- results


def _call(forward, args) -> tuple[np.ndarray, Any]:
    """A copy of the output, and the cache."""
    title, returned = name_of(forward), forward(*args.values())
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        many = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        raise GradientError(
            f"{title}: it returned {_kind(returned)}{many}, wanted (output, cache); without a "
            "cache: (output, None)"
        )
    out, cache = returned
    if not isinstance(out, np.ndarray | np.generic | float | int):
        raise GradientError(f"{title}: the output is {_kind(out)}, wanted an array or a number")
    out = np.array(out)
    if out.dtype.kind != "f" or out.dtype.itemsize < 8:
        raise GradientError(
            f"{title}: the output is {_kind(out)}, wanted float64, as the arguments are"
        )
    if not out.size:
        raise ValueError(f"gradcheck: nothing to check: the output has the shape {out.shape}")
    if not np.isfinite(out).all():
        raise GradientError(f"{title}: the output is not finite: {_first_infinite(out)}")
    return out, cache


def _first_infinite(a):
    place = tuple(np.argwhere(~np.isfinite(a))[0])
    return f"{a[place]}" + (f" at {[int(i) for i in place]}" if place else "")


def _one_each(grads, names, limit, title) -> list:
    """A gradient or None for each argument; further entries must be None (optional arguments)."""
    wanted = f"({', '.join(f'd{name}' for name in names)}{',' * (len(names) == 1)})"
    if not isinstance(grads, tuple | list):
        raise GradientError(f"{title}: it returned {_kind(grads)}, wanted the tuple {wanted}")
    extra = grads[len(names) :]
    if len(grads) < len(names) or len(grads) > limit or any(g is not None for g in extra):
        count = f"{len(grads)} gradient{'s' * (len(grads) != 1)}"
        raise GradientError(
            f"{title}: it returned {count}, wanted {len(names)}, one for each argument: {wanted}"
        )
    return list(grads[: len(names)])


def _to_check(grads, args, frozen, title) -> dict[str, np.ndarray]:
    """The gradients of the float arrays that are not frozen and not empty."""
    floats = [n for n, a in args.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    for name, grad in grads.items():
        if grad is not None and name in frozen:
            raise GradientError(
                f"{title}: it returned d{name}, and {name} is declared frozen: return None for it"
            )
        if grad is not None and name not in floats:
            raise GradientError(
                f"{title}: it returned d{name}, and {name} is {_kind(args[name])}: only a float "
                "array has a gradient"
            )
    missing = [n for n in floats if grads[n] is None and n not in frozen and args[n].size]
    if missing:
        declared = tuple(n for n in args if n in frozen or n in missing)
        raise GradientError(
            f"{title}: it returned None for {and_list(missing)}, "
            f"{'a float array' if len(missing) == 1 else 'float arrays'}: return the gradient, or "
            f"declare that there is none: frozen={declared if declared[1:] else declared[0]!r}"
        )
    checked = {n: _in_float64(n, grads[n], title) for n in floats if grads[n] is not None}
    if not any(args[n].size for n in checked):
        kinds = {n: _kind(a) for n, a in args.items()} | dict.fromkeys(floats, "empty")
        why = [f"{n} is {'frozen' if n in frozen else kind}" for n, kind in kinds.items()]
        raise ValueError(f"gradcheck: nothing to check: {'; '.join(why) or 'no arguments'}")
    return checked


def _in_float64(name, grad, title):
    grad = np.asarray(grad)
    if grad.dtype.kind not in "fiu" or (grad.dtype.kind == "f" and grad.dtype.itemsize < 8):
        raise GradientError(f"{title}: d{name} is {_kind(grad)}, wanted float64, as {name} is")
    if not np.isfinite(grad).all():
        raise GradientError(f"{title}: d{name} is not finite: {_first_infinite(grad)}")
    return grad.astype(np.float64)
