"""What students write and then train the model with: pairs and rules of notebooks 04 to 08."""

import numpy as np

from minilora.check.words import numbers
from minilora.methods import lora_fa, vera
from minilora.methods.lora import lora_backward, lora_forward

from ..calls import WrongForm
from ..slips import Case, Slips
from . import lora
from .exercise import blank, blank_pair, both, draw, rank, rows, widths
from .held import how_held


def lora_arrays(rng):
    """dy, x, W, s, A, B, three times."""
    return [lora.arrays(rng, *shape) for shape in lora.shapes(rng)]


def vera_arrays(rng):
    """dy, x, W, A, B, b, d, twice."""
    found = []
    for _ in range(2):
        M, (I, O), r = rows(rng), widths(rng, 2), rank(rng)
        shapes = dict(dy=(M, O), x=(M, I), W=(O, I), A=(r, I), B=(O, r), b=(O,), d=(r,))
        found.append(draw(rng, **shapes))
    return found


KEPT = "x in the cache"  # an output of a pair that must not keep x: 0, or how it is held
KEEPS_X = {  # said where it is 1 or 2
    1: "the cache holds x, or a copy of it: no gradient here reads it",
    2: "x stays in memory after forward: a variable outside of it, or an object, holds it",
}


def pair_cases(arrays, forward, backward, summed, adapter, keeps_x=True):
    """For y, dx, … = f(dy, *args), with None where there is no gradient."""

    def right(dy, **args):
        y, cache = forward(*args.values())
        return {"y": y, **dict(zip((f"d{name}" for name in args), backward(dy, cache)))}

    def reference(**args):
        return right(**args) | ({} if keeps_x else {KEPT: 0.0})

    def cases(rng):
        paths = dict(rows=("dy", "x"), summed=summed, two_paths=("y", "dx"), adapter=adapter)
        held = {} if keeps_x else KEEPS_X
        slips = {says: lambda how=how, **_: [{KEPT: float(how)}] for how, says in held.items()}
        return [Case(args, reference, slips=slips, **paths) for args in arrays(rng)]

    return cases


def without_x(forward, backward):
    """As `both`, and how x is held after forward."""
    run = both(forward, backward)

    def run_and_look(dy, x, *args):
        outputs = run(dy, x, *args)
        return (*outputs, float(how_held(forward, x, *args)))

    return run_and_look


LORA = (
    blank_pair(
        "lora_pair",
        "LoRA as a pair: forward(x, W, s, A, B) -> y, cache; backward(dy, cache) -> dx, None, "
        "None, dA, dB",
        (
            "The cache is a tuple with what backward reads.",
            "Your lora_backward reads x, W, s, A and B: that is a cache.",
        ),
        pair_cases(lora_arrays, lora_forward, lora_backward, ("dA", "dB"), "B"),
        package=(lora_forward, lora_backward),
    ),
)


def ledger(inputs, linears, M, r):
    """Bytes that adapters keep in float32: x of LoRA, each once, and z = x Aᵀ of each linear."""
    return {"bytes of x": 4 * M * sum(inputs), "bytes of z": 4 * M * r * linears}


def ledger_cases(rng):
    """For (bytes of x, bytes of z) = f(inputs, linears, M, r): one width comes twice."""
    inputs = [sides + sides[:1] for sides in (widths(rng, rank(rng)) for _ in range(2))]
    return [
        Case(
            {"inputs": own, "linears": linears, "M": rows(rng), "r": rank(rng)},
            ledger,
            slips={
                "a number of float32 has 4 bytes": lambda **a: [
                    {name: n * factor for name, n in ledger(**a).items()} for factor in (1 / 4, 2)
                ],
                "each x is kept once, however many linears read it": lambda inputs, linears, M, r: [
                    {"bytes of x": 4 * M * sum(inputs) * linears}
                ],
                "two x of the same width are two x": lambda inputs, linears, M, r: [
                    {"bytes of x": 4 * M * sum(set(inputs))}
                ],
                "each linear has a z of its own": lambda inputs, linears, M, r: [
                    {"bytes of z": 4 * M * r * len(inputs)}
                ],
            },
        )
        for linears, own in zip((5, 7), inputs)
    ]


LORA_FA = (
    blank_pair(
        "lora_fa_pair",
        "LoRA-FA as a pair whose cache does not hold x: forward(x, W, s, A, B) -> y, cache; "
        "backward(dy, cache) -> dx, None, None, None, dB",
        (
            "Backward reads z = x Aᵀ, and not x. So what goes into the cache?",
            "Make z in forward, use it for y, and keep it: z, W, s, A, B.",
        ),
        pair_cases(
            lora_arrays, lora_fa.lora_fa_forward, lora_fa.lora_fa_backward, ("dB",), "B", False
        ),
        package=(lora_fa.lora_fa_forward, lora_fa.lora_fa_backward),
        through=without_x,
    ),
    blank(
        "lora_fa_ledger",
        "What adapters keep: a width for each x that is kept, number of linears, M rows, r -> "
        "bytes of x (LoRA), bytes of z",
        (
            "x has M rows; linears that read the same x keep it once.",
            "z has M rows of r numbers, in each linear; a number of float32 has 4 bytes.",
        ),
        ledger_cases,
    ),
)

VERA = (
    blank_pair(
        "vera_pair",
        "VeRA as a pair whose cache does not hold x: forward(x, W, A, B, b, d) -> y, cache; "
        "backward(dy, cache) -> dx, None, None, None, db, dd",
        (
            "Your vera_backward reads u = x Aᵀ, and not x.",
            "Make u in forward, use it for y, and keep it: u, W, A, B, b, d.",
        ),
        pair_cases(vera_arrays, vera.vera_forward, vera.vera_backward, ("db", "dd"), "b", False),
        package=(vera.vera_forward, vera.vera_backward),
        through=without_x,
    ),
)


LIMIT = 200  # steps of a start that never converges


def descend(n, rate_A, rate_B, z, together=True, stops=True, nan_ends=False):
    """Gradient descent of b z on 1, from b = 0, until it is nearer than 0.01.   z (starts,).

    together: b and z move at once. stops: so does a start that arrives. nan_ends: NaN ends it, too.
    """
    b, count = np.zeros_like(z), np.zeros_like(z)
    for _ in range(LIMIT):
        e = b * z - 1
        arrived = ~(np.abs(e) >= 0.01) if nan_ends else np.abs(e) < 0.01
        count += ~arrived
        e = np.where(arrived & stops, 0, e)
        b_new = b - rate_B * e * z
        z = z - rate_A * e * (b if together else b_new) * n
        b = b_new
    return {"steps": count, "b": b, "z": z}


def settled(function):
    """A descent without what does not count: where a start diverges to, steps past a limit."""

    def run(n, rate_A, rate_B, start):
        with np.errstate(over="ignore", invalid="ignore"):
            returned = function(n, rate_A, rate_B, start)
            if not isinstance(returned, tuple | list | np.ndarray) or len(returned) != 3:
                return returned
            found = [a for a in map(numbers, returned) if a is not None and a.dtype.kind in "iuf"]
            if len(found) < 3 or any(a.shape != start.shape for a in found):
                return returned
            counts, b, z = found
            lost = ~(np.abs(b * z - 1) < 1e3)  # NaN is neither below nor above
            early = counts[lost & (counts < LIMIT)]
            by_nan = descend(n, rate_A, rate_B, start, nan_ends=True)["steps"][lost]
        if early.size:
            words = "It never arrives, also at e = NaN: NaN < 0.01 is False, and so is NaN >= 0.01"
            if early.max() > by_nan.max() + 1:
                words = f"Fewer than {LIMIT} steps were made"
            raise WrongForm(
                f"a start that diverges has {early[0]:g} steps, wanted {LIMIT}. {words}"
            )
        return np.minimum(counts, LIMIT), np.where(lost, 0, b), np.where(lost, 0, z)

    return run


def settled_descent(n, rate_A, rate_B, z, **how):
    """What a descent gives after `settled`.   how: keywords of `descend`."""
    run = settled(lambda *args: tuple(descend(*args, **how).values()))
    return dict(zip(("steps", "b", "z"), run(n, rate_A, rate_B, z)))


def descend_cases(rng):
    """For steps, b, z = f(n, rate_A, rate_B, z): the last starts of the third diverge."""
    slips: Slips = {
        "b moved before z did: both steps begin at the old b and z": lambda **a: [
            settled_descent(**a, together=False, stops=stops) for stops in (True, False)
        ],
        "the descent went on after |e| < 0.01: b and z stay where they arrive": lambda **a: [
            settled_descent(**a, stops=False)
        ],
        "the factor n is missing: dz = e b |x|², and |x|² = n": lambda n, rate_A, **a: [
            settled_descent(n, rate_A / n, **a, stops=stops) for stops in (True, False)
        ],
    }
    starts = [0.5 + rng.random(count) for count in widths(rng, 2)]
    starts.append(np.concatenate([0.5 + rng.random(3), 20 + rng.random(3)]))
    return [
        Case(
            {"n": n, "rate_A": rate / n**per_width, "rate_B": rate, "z": z},
            settled_descent,
            slips=slips,
        )
        for n, rate, per_width, z in zip((16, 64, 16), (0.2, 0.1, 0.1), (1, 1, 0), starts)
    ]


LORA_PLUS = (
    blank(
        "lora_plus_descend",
        "Gradient descent of b z on y = 1: n, rate_A, rate_B, z (starts) -> steps, b, z",
        (
            "b starts at 0. The error e = b z - 1 gives db = e z and dz = e b n.",
            "Move b and z at once, from the old b and z. Where |e| < 0.01, put e = 0.",
        ),
        descend_cases,
        through=settled,
    ),
)
