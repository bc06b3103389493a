"""Notebook 01b, checking a gradient: central differences, a direction, a test of one's own."""

import numpy as np

from ..slips import Case
from .exercise import blank, broken, draw, predict, rows, widths


def central(f, x, h):
    """∂f/∂x by central differences.   f: array -> number; x any shape; h the step."""
    grad = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = h
        grad[place] = (f(x + step) - f(x - step)) / (2 * h)
    return grad


def one_side(f, x, h):
    """∂f/∂x by differences on one side."""
    return np.array([(f(x + h * e) - f(x)) / h for e in _units(x)]).reshape(x.shape)


def rows_at_once(f, x, h):
    """Central differences in which all numbers of x[i] move."""
    moves = (h * np.eye(len(x))).reshape(len(x), -1, *[1] * (x.ndim - 1))
    slopes = [(f(x + move) - f(x - move)) / (2 * h) for move in moves]
    return np.broadcast_to(np.array(slopes).reshape(-1, *[1] * (x.ndim - 1)), x.shape)


def _units(x):
    return np.eye(x.size).reshape(-1, *x.shape)


def cubes(x):
    """Σ x³ + Σ x: its third derivative is not 0, so the step matters."""
    return float((x**3).sum() + x.sum())


def minus_cubes(x):
    """Its central differences are too small."""
    return -cubes(x)


ONE_SIDE = "the difference was taken on one side only: f(x + h) - f(x)"
NOT_TWO_H = "the difference was divided by h: its two points are 2h apart"
TIMES_H = "a / 2 * h divides by 2 and multiplies by h: write a / (2 * h)"
WHOLE_ROW = "a whole row moved at once: move one number, x[i, j], at a time"


def central_cases(rng):
    """For df = f(f, x, h)."""
    slips = {
        ONE_SIDE: lambda f, x, h: [{"df": one_side(f, x, h)}],
        NOT_TWO_H: lambda f, x, h: [{"df": 2 * central(f, x, h)}],
        TIMES_H: lambda f, x, h: [{"df": central(f, x, h) * h**2}],
        WHOLE_ROW: lambda f, x, h: [{"df": rows_at_once(f, x, h)}],
    }
    return [
        Case(
            {"f": cubes, **draw(rng, x=shape), "h": h},
            lambda f, x, h: {"df": central(f, x, h)},
            slips=slips,
        )
        for shape, h in [((5,), 0.1), (tuple(widths(rng, 2)), 0.05)]
    ]


def errors(gradient, f, x, right, steps):
    """The largest error of gradient(f, x, h) for each step h."""
    return {"errors": np.array([np.abs(gradient(f, x, h) - right).max() for h in steps])}


def errors_cases(rng):
    """For errors = f(gradient, f, x, right, steps): errors above zero, then below it."""
    cases = []
    for gradient, f in ((one_side, cubes), (central, cubes), (central, minus_cubes)):
        x = rng.standard_normal(widths(rng, 1))
        right = (3 * x**2 + 1) * (-1 if f is minus_cubes else 1)
        args = {"gradient": gradient, "f": f, "x": x, "right": right}
        cases.append(Case({**args, "steps": 10.0 ** np.arange(-3, 0)}, errors))
    return cases


def directional(f, df, x, v, h):
    """The slope of f along v: by central differences, and by the gradient df."""
    return {
        "by differences": (f(x + h * v) - f(x - h * v)) / (2 * h),
        "by the gradient": (df * v).sum(),
    }


def directional_cases(rng):
    """For (by differences, by the gradient) = f(f, df, x, v, h)."""
    cases = []
    for shape in [(5,), tuple(widths(rng, 2))]:
        a = draw(rng, x=shape, v=shape, off=shape)
        args = {"f": cubes, "df": 3 * a["x"] ** 2 + a["off"], "x": a["x"], "v": a["v"], "h": 1e-2}
        cases.append(Case(args, directional))
    return cases


# ---- a test of a pair: it must tell right from wrong


def forward(x, W):
    """y = x Wᵀ."""
    return x @ W.T, (x, W)


def backward(dy, cache):
    """dx, dW."""
    x, W = cache
    return dy @ W, dy.T @ x


def wrong(change):
    """A backward with one slip: change(dy, x, W) -> dx, dW."""
    return lambda dy, cache: change(dy, *cache)


WRONG = (
    wrong(lambda dy, x, W: (2 * dy @ W, dy.T @ x)),
    wrong(lambda dy, x, W: (dy @ W, dy.T @ x / len(x))),
    wrong(lambda dy, x, W: (dy @ W, dy.T @ x + 1e-3 * (np.arange(W.size) == 5).reshape(W.shape))),
    # right where dy is 1 everywhere, as in a plain sum of y
    wrong(lambda dy, x, W: (np.full_like(dy, dy.mean()) @ W, dy.T @ x)),
)


def tested(function):
    """The function forward, backward, x, W -> 1.0 for right, 0.0 for wrong."""

    def run(*args):
        says = function(*args)
        return None if says is None else float(bool(says))

    return run


def _says(*missed, right=1.0):
    """What a test says that misses some of WRONG; right: what it says of the right pair."""

    def says(forward, backward, x, W):
        if backward in WRONG:
            return [{"the answer": float(WRONG.index(backward) in missed)}]
        return [{"the answer": right}]

    return says


TEST_SLIPS = {  # what misses fewer pairs stands first
    "one number of dW is wrong by 0.001, and that was not seen": _says(2),
    "dy was 1 everywhere: a wrong pair was called right": _says(3),
    "the right pair was called wrong: differences are never equal to the last digit": _says(
        right=0.0
    ),
    "a wrong pair was called right: dW was not compared": _says(1, 2),
    "a wrong pair was called right: dx was not compared": _says(0, 3),
}


def pair_cases(rng):
    """For 1.0 or 0.0 = f(forward, backward, x, W)."""
    M, (I, O) = rows(rng), widths(rng, 2)
    arrays = draw(rng, x=(M, I), W=(O, I))
    return [
        Case(
            {"forward": forward, "backward": b, **arrays},
            lambda forward, backward, x, W, says=float(b is backward): {"the answer": says},
            slips=TEST_SLIPS,
        )
        for b in (backward, *WRONG)
    ]


def says_right(forward, backward, x, W):
    """Does backward agree with central differences of forward?   x (M, I), W (O, I)."""
    y, cache = forward(x, W)
    dy = np.random.default_rng(0).normal(size=y.shape)
    dx, dW = backward(dy, cache)
    by_x = central(lambda a: (dy * forward(a, W)[0]).sum(), x, 1e-5)
    by_W = central(lambda a: (dy * forward(x, a)[0]).sum(), W, 1e-5)
    return bool(np.allclose(dx, by_x, atol=1e-6) and np.allclose(dW, by_W, atol=1e-6))


EXERCISES = (
    predict(
        "gradient_error",
        "f(t) = t³ at t = 2, h = 0.1: by how much is the central difference too large?",
        (
            "Write out (t + h)³ - (t - h)³: what has even powers of h cancels.",
            "(6 t² h + 2 h³) / (2 h) = 3 t² + h².",
        ),
        number=lambda: ((2.1**3 - 1.9**3) / 0.2) - 12,
        because="the term in h is on both sides and cancels: h² is left.",
        near={
            0.61: "that is the error of one side: (2.1³ - 2³) / 0.1 - 12",
            0.1: "the term in h cancels: h² is left",
            0.02: "divide by 2h",
        },
        tolerance=1e-6,
    ),
    predict(
        "gradient_step",
        "h² against ε/h with ε = 2.2e-16: at which power of ten is their sum smallest?",
        (
            "The sum is smallest where the two have about one size.",
            "h² = ε/h gives h³ = ε.",
        ),
        number=lambda: -5,
        because="h = ε^(1/3) is about 6e-6, and the error there about h², 4e-11.",
        near={
            -8: "that is √ε, the step for a difference of one side, whose error is h + ε/h",
            -16: "at so small a step, x + h is x",
        },
    ),
    predict(
        "gradient_smallest",
        "dW without its sum over the rows, as a mean: how many rows has the smallest x that shows "
        "it?",
        (
            "With how many rows are the sum and the mean the same?",
            "With one row, both are that row's part.",
        ),
        number=lambda: 2,
        because="with one row the mean is the sum, and the slip cannot be seen.",
        near={1: "with one row the mean is the sum: the test passes"},
    ),
    blank(
        "gradient_central",
        "Central differences: f (array -> number), x, h -> the gradient, in x's shape",
        (
            "np.ndindex(x.shape) gives the place of each number. Move one number at a time.",
            "Two calls of f for each place: at x + step and at x - step.",
        ),
        central_cases,
    ),
    broken(
        "gradient_break",
        "Take the difference on one side only: f, x, h -> df",
        (
            "Start from your central differences.",
            "One side: f(x + step) - f(x). How far apart are the two points?",
        ),
        central_cases,
        slip=ONE_SIDE,
    ),
    blank(
        "gradient_errors",
        "gradient, f, x, right, steps -> the largest error of gradient(f, x, h) for each h",
        (
            "One number for each step.",
            "The largest entry of |gradient(f, x, h) - right|.",
        ),
        errors_cases,
    ),
    blank(
        "gradient_directional",
        "The slope along v, twice: f, df, x, v, h -> by differences, by the gradient",
        (
            "All of x moves at once, by h·v and by -h·v.",
            "The gradient says how f changes with each number: the sum of df · v.",
        ),
        directional_cases,
    ),
    blank(
        "gradient_check",
        "Is a pair right? forward, backward, x, W -> True or False",
        (
            "Make a loss out of y: (dy * y).sum() with a fixed random dy. Its gradient by y is dy.",
            "Compare dx with central differences over x, and dW with those over W, by np.allclose.",
        ),
        pair_cases,
        through=tested,
        package=says_right,
    ),
)
