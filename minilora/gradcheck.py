"""Is this pair right? Finite differences in float64; where they disagree, the entry that is wrong.

One random direction covers every entry of an argument with four calls of forward, whatever the size
of the argument.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .support.pair_form import GradientError, PairRun, are_right, run_pair

STEP = 2.0**-10  # of the five-point stencil: its error is O(STEP⁴), its rounding 1e-16 / STEP
SMALL = 1e-4  # of the largest entry: down to here, small entries are lifted in the second direction
ONE_BY_ONE = 512  # among so many entries the worst is looked for one by one


def gradcheck(
    forward: Callable,
    backward: Callable,
    *arrays: Any,
    frozen: str | Iterable[str] = (),
    tolerance: float = 1e-7,
    seed: int = 0,
) -> tuple[str, ...]:
    """Check backward(dout, cache) against finite differences of forward(*arrays) -> (out, cache).

    Every float array is cast to float64 and checked. Numbers, None and int arrays are passed as
    they are. frozen: names of float arrays for which backward returns None. tolerance: the error
    allowed, relative to the terms that the derivative sums. Start away from zeros: where B = 0 a
    wrong dA looks right.
    Returns the names of what was checked. Raises GradientError with the first wrong gradient's
    name, numbers and place, or with the fault in the pair's form; ValueError where the call is
    wrong or leaves nothing to check; TypeError for what is no function.
    """
    if not 0 < tolerance <= 0.01:
        raise ValueError(f"gradcheck: tolerance is {tolerance}, wanted above 0 and at most 0.01")
    run = run_pair(forward, backward, arrays, frozen, seed)
    right: list[str] = []
    for name in run.grads:
        if not has_shape(run, name):
            shapes = f"{run.grads[name].shape}, {name} has {run.args[name].shape}"
            raise GradientError(f"{run.title}: d{name} has shape {shapes}")
        if not agrees(run, name, tolerance):
            others = f" ({are_right(right)})" if right else ""
            raise GradientError(f"{run.title}: d{name} is wrong{others}: {_worst(run, name)}")
        right.append(f"d{name}")
    return tuple(name for name in run.grads if run.args[name].size)


def has_shape(run: PairRun, name: str) -> bool:
    """Has a gradient the shape of its argument?"""
    return run.grads[name].shape == run.args[name].shape


def agrees(run: PairRun, name: str, tolerance: float) -> bool:
    """Is a gradient right along two random directions?

    In the second, entries weigh the more the smaller they are: a large one hides no small one.
    """
    sizes = np.abs(run.grads[name])
    lifted = np.maximum(sizes, SMALL * sizes.max(initial=0.0) or 1.0)
    return all(
        _agrees_along(run, name, weights * _random(run, sizes.shape), tolerance)
        for weights in (1.0, lifted.min(initial=1.0) / lifted)
    )


def _random(run, shape):
    """1 to 2, or -2 to -1: no entry of a direction is small."""
    return run.rng.uniform(1, 2, shape) * run.rng.choice([-1.0, 1.0], shape)


def _agrees_along(run, name, direction, tolerance):
    a, gaps = run.args[name], []
    for h in (STEP, STEP / 4, STEP / 32):  # the smaller two only where there is doubt
        exact = (a + h * direction - a) / h  # a + h · exact is free of rounding
        terms = run.grads[name] * exact
        slope = _slope(run, name, exact, h)
        gaps.append(terms.sum() - slope)
        if abs(gaps[-1]) <= tolerance * (np.sqrt((terms**2).sum()) + abs(slope)):
            return True
    # A gradient near 0 may lie below rounding, of which the first gap has the least.
    scale = np.sqrt((run.dout**2).sum()) + np.sqrt(((run.dout * run.out) ** 2).sum())
    rounding = 1e-13 * scale + (max(gaps) - min(gaps)) / 4
    return abs(gaps[0]) <= min(rounding, 1e-10 * scale)


def _slope(run, name, direction, h=STEP):
    """d loss / dt at t = 0, where an argument moves by t · direction."""

    def at(t):
        return run.loss(name, run.args[name] + t * direction)

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def derivative(run: PairRun, name: str, place: tuple[int, ...]) -> float:
    """∂loss/∂ of one entry of an argument, by finite differences."""
    unit = np.zeros(run.args[name].shape)
    unit[place] = 1
    return _slope(run, name, unit)


def _worst(run, name):
    """The entry that is furthest off, in words."""
    grad = run.grads[name]
    places = list(np.ndindex(grad.shape))
    while len(places) > ONE_BY_ONE:  # go on in the half that is further off
        places = max((places[::2], places[1::2]), key=lambda half: _gap(run, name, half))
    wanted = [derivative(run, name, place) for place in places]
    i = int(np.argmax([abs(grad[p] - w) for p, w in zip(places, wanted)]))
    got = grad[places[i]]
    ratio = f", ratio {got / wanted[i]:.4g}" if wanted[i] else ""
    place = [int(n) for n in places[i]]
    return f"at {place} got {got:.6g}, finite differences give {wanted[i]:.6g}{ratio}"


def _gap(run, name, places):
    """How far off a gradient is along a random direction of some entries."""
    direction = np.zeros(run.args[name].shape)
    direction[tuple(np.transpose(places))] = _random(run, len(places))
    return abs((run.grads[name] * direction).sum() - _slope(run, name, direction))
