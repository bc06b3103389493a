"""Is this pair right? Directional finite differences in float64, and where they disagree the entry
that is wrong.

One random direction covers every entry of an argument for four evaluations of forward, whatever its
size.
"""

import inspect
import itertools

import numpy as np

STEP = 1e-3  # of the five-point stencil: its error is O(STEP⁴), its rounding about 1e-16 / STEP
SALT = 0x5EED  # keeps the draws here apart from default_rng(seed)'s, which a caller may use
MOST_ENTRIES = 4096  # how many entries are tried one by one when a direction has disagreed


class GradientError(AssertionError):
    """A pair's backward is not the derivative of its forward."""


def gradcheck(forward, backward, *args, tolerance=1e-7, seed=0, frozen=()):
    """Check backward(dout, cache) of a pair against finite differences of forward(*args), in
    float64.

    Every float array among args is checked; other arguments (None, numbers, int arrays) are passed
    as they are, and a gradient of None says that the argument is frozen. The error allowed is
    `tolerance` relative to the size of the terms that the derivative sums. Start away from zeros:
    where B = 0 a wrong dA looks right.
    Raises GradientError with the first wrong gradient's name, numbers and place; also where a pair
    writes into its arguments.
    """
    args = tuple(_as_float64(a) for a in args)
    names = _names(forward, args)
    before = [np.copy(a) if isinstance(a, np.ndarray) else a for a in args]
    out, cache = forward(*args)
    rng = np.random.default_rng([seed, SALT])
    dout = np.asarray(rng.standard_normal(np.shape(out)))
    seen = dout.copy()
    grads = backward(seen, cache)
    _check_form(grads, args, names, forward.__name__)
    for name, a, b in zip([*names, "dout"], [*args, seen], [*before, dout]):
        if isinstance(a, np.ndarray) and not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            raise GradientError(f"{forward.__name__}: the pair writes into its argument {name}")

    right: list[str] = []
    for i, (name, a, grad) in enumerate(zip(names, args, grads, strict=False)):
        if grad is None:
            continue
        direction = rng.standard_normal(a.shape)
        numeric = _slope(forward, args, i, direction, dout)
        terms = grad * direction
        size = np.sqrt((terms**2).sum()) + abs(numeric) + 1e-3 * np.sqrt((dout**2).sum())
        if not abs(terms.sum() - numeric) <= tolerance * size:
            others = (
                f" ({', '.join(right)} {'is' if len(right) == 1 else 'are'} right)" if right else ""
            )
            where = _worst(forward, args, i, grad, dout)
            raise GradientError(f"{backward.__name__}: d{name} is wrong{others}: {where}")
        right.append(f"d{name}")


def _as_float64(a):
    return a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


def _names(forward, args):
    try:
        parameters = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        parameters = []
    spare = (f"argument {i}" for i in itertools.count(len(parameters)))
    return [name for name, _ in zip(itertools.chain(parameters, spare), args, strict=False)]


def _check_form(grads, args, names, pair):
    """One gradient or None per argument, each of its primal's shape;
    never one for what is no float array.
    """
    if not isinstance(grads, tuple) or len(grads) < len(args):
        got = len(grads) if isinstance(grads, tuple) else type(grads).__name__
        raise GradientError(
            f"{pair}: backward gave {got}, wanted a tuple of {len(args)}, one an argument"
        )
    if any(g is not None for g in grads[len(args) :]):
        raise GradientError(f"{pair}: backward gave a gradient for an argument that was not passed")
    for name, a, grad in zip(names, args, grads, strict=False):
        is_float = isinstance(a, np.ndarray) and a.dtype.kind == "f"
        if grad is not None and not is_float:
            raise GradientError(
                f"{pair}: backward gave a gradient for {name}, which is no float array"
            )
        if grad is not None and np.shape(grad) != a.shape:
            raise GradientError(f"{pair}: d{name} has shape {np.shape(grad)}, {name} has {a.shape}")


def _slope(forward, args, i, direction, dout):
    """d/dt <dout, forward(args, args[i] + t·direction)> at t = 0, by the five-point stencil."""

    def value(t):
        moved = args[:i] + (args[i] + t * direction,) + args[i + 1 :]
        return float((dout * forward(*moved)[0]).sum())

    h = STEP
    return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)


def _worst(forward, args, i, grad, dout):
    """The entry that is furthest off, in words."""
    places = list(np.ndindex(args[i].shape))
    if len(places) > MOST_ENTRIES:
        chosen = np.random.default_rng(0).choice(len(places), MOST_ENTRIES, replace=False)
        places = [places[j] for j in chosen]
    worst, gap = (places[0], 0.0, 0.0), -1.0
    for place in places:
        unit = np.zeros(args[i].shape)
        unit[place] = 1
        numeric = _slope(forward, args, i, unit, dout)
        off = abs(float(grad[place]) - numeric)
        if not off <= gap:  # a NaN is the worst of all
            worst, gap = (place, float(grad[place]), numeric), off
    place, got, wanted = worst
    ratio = f", ratio {got / wanted:.4g}" if wanted else ""
    return f"at {list(place)} got {got:.6g}, finite differences give {wanted:.6g}{ratio}"
