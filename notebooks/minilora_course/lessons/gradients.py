"""Notebook 01b, checking a gradient: central differences, a direction, a test of one's own."""

import numpy as np

from ..slips import Case
from .exercise import Unseen, blank, broken, draw, predict, rows, widths


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


def _units(x):
    return np.eye(x.size).reshape(-1, *x.shape)


def cubes(x):
    """Σ x³ + Σ x + 0.1 (Σ x)³: the step matters, and each number's slope depends on the others."""
    return float((x**3).sum() + x.sum() + 0.1 * x.sum() ** 3)


def falling(x):
    """-Σ x⁶ - Σ x: its differences are too small, each number's by another power of h and of x."""
    return float(-(x**6).sum() - x.sum())


ONE_SIDE = "the difference was taken on one side only: f(x + h) - f(x)"
NOT_TWO_H = "the difference was divided by h: its two points are 2h apart"
TIMES_H = "a / 2 * h divides by 2 and multiplies by h: write a / (2 * h)"
WHOLE_ROWS = "whole rows were moved: move one number at a time"
STAYS = "the number that was moved stays moved: put it back before the next one moves"


def by_rows(f, x, h):
    """Each row's derivative, in all of its numbers."""
    units = np.eye(len(x)).reshape(len(x), len(x), *[1] * (x.ndim - 1))
    along = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in units]
    return np.broadcast_to(np.reshape(along, units.shape[1:]), x.shape)


def not_put_back(f, x, h):
    """Differences at x + h and x - h in one array, whose numbers are not put back after a move.

    h < 0: x - |h| comes first.
    """
    moved, grad = x.copy(), np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved[place] += h
        first = f(moved)
        moved[place] -= 2 * h
        grad[place] = (first - f(moved)) / (2 * h)
    return grad


def central_cases(rng):
    """For df = f(f, x, h)."""
    slips = {
        ONE_SIDE: lambda f, x, h: [{"df": one_side(f, x, h)}],
        NOT_TWO_H: lambda f, x, h: [{"df": 2 * central(f, x, h)}],
        TIMES_H: lambda f, x, h: [{"df": central(f, x, h) * h**2}],
        WHOLE_ROWS: lambda f, x, h: [{"df": by_rows(f, x, h)}],
        STAYS: lambda f, x, h: [{"df": not_put_back(f, x, step)} for step in (h, -h)],
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


def errors_by(over, size, gradient, f, x, right, steps):
    """`errors` by another mean of the numbers, or without their size."""
    return {"errors": np.array([over(size(gradient(f, x, h) - right)) for h in steps])}


def errors_cases(rng):
    """For errors = f(gradient, f, x, right, steps): errors below zero, so that |error| matters."""
    slips = {
        "an error below 0 is an error, too: take its absolute value": lambda **a: [
            errors_by(np.max, lambda error: error, **a)
        ],
        "the largest error is asked for, not the mean": lambda **a: [
            errors_by(np.mean, np.abs, **a)
        ],
        "the largest error is asked for, not the sum of all, nor its root": lambda **a: [
            errors_by(over, size, **a)
            for size, over in (
                (np.abs, np.sum),
                (np.square, np.sum),
                (np.square, np.mean),
                (np.asarray, np.linalg.norm),
                (np.square, lambda squares: np.sqrt(squares.mean())),
            )
        ],
    }
    cases = []
    for gradient in (central, one_side):
        x = rng.uniform(0.5, 1.5, widths(rng, 1))
        args = {"gradient": gradient, "f": falling, "x": x, "right": -6 * x**5 - 1}
        cases.append(Case({**args, "steps": 10.0 ** np.arange(-3, 0)}, errors, slips=slips))
    return cases


def directional(f, df, x, v, h):
    """The slope of f along v: by central differences, and by the gradient df."""
    return {
        "by differences": (f(x + h * v) - f(x - h * v)) / (2 * h),
        "by the gradient": (df * v).sum(),
    }


def directional_cases(rng):
    """For (by differences, by the gradient) = f(f, df, x, v, h)."""
    slips = {
        "by the gradient: v is missing, the sum is of df · v": lambda df, **_: [
            {"by the gradient": df.sum()}
        ],
        "v was divided by its length: take it as it is given": lambda v, **a: [
            directional(v=v / np.linalg.norm(v), **a)
        ],
    }
    cases = []
    for shape in [(5,), tuple(widths(rng, 2))]:
        a = draw(rng, x=shape, v=shape, off=shape)
        args = {"f": cubes, "df": 3 * a["x"] ** 2 + a["off"], "x": a["x"], "v": a["v"], "h": 1e-2}
        cases.append(Case(args, directional, slips=slips))
    return cases


# ---- a test of a pair: it must tell right from wrong


def forward(x, W):
    """y = x Wᵀ."""
    return x @ W.T, (x, W)


def backward(dy, cache):
    """dx, dW."""
    x, W = cache
    return dy @ W, dy.T @ x


def forward_squared(x, W):
    """y = (x Wᵀ)²/2: another forward, for which central differences are exact, too."""
    z = x @ W.T
    return z**2 / 2, (x, W, z)


def backward_squared(dy, cache):
    """dx, dW."""
    x, W, z = cache
    return backward(dy * z, (x, W))


def wrong(change):
    """A backward with one slip: change(dy, x, W) -> dx, dW."""
    return lambda dy, cache: change(dy, *cache)


def linear_cases(rng):
    """For dx, dW = f(dy, x, W)."""

    def right(dy, x, W):
        return dict(zip(("dx", "dW"), backward(dy, (x, W))))

    shapes = [(rows(rng), *widths(rng, 2)) for _ in range(2)]
    return [Case(draw(rng, dy=(M, O), x=(M, I), W=(O, I)), right) for M, I, O in shapes]


WRONG = (
    wrong(lambda dy, x, W: (2 * dy @ W, dy.T @ x)),
    wrong(lambda dy, x, W: (dy @ W, dy.T @ x / len(x))),
    wrong(lambda dy, x, W: (dy @ W, dy.T @ x + 0.5 * (np.arange(W.size) == 5).reshape(W.shape))),
    # right where dy is 1 everywhere, as in a plain sum of y
    wrong(lambda dy, x, W: (np.full_like(dy, dy.mean()) @ W, dy.T @ x)),
    # right as a sum over each row
    wrong(lambda dy, x, W: ((dy @ W)[:, ::-1], dy.T @ x)),
)
PAIRS = (  # forward, backward, 1.0 where they are right
    (forward, backward, 1.0),
    *((forward, slip, 0.0) for slip in WRONG),
    (forward_squared, backward_squared, 1.0),
)
# what a test says of the right pairs (0 and 6) and of the wrong ones -> the pairs judged so
MISJUDGED = {
    "it calls a right pair of another forward wrong: call the forward that is given": {6: 0.0},
    "it calls a right pair wrong: no difference is right to the last digit": {0: 0.0, 6: 0.0},
    "a pair passes that is right only where dy is 1 everywhere: draw dy at random": {4: 1.0},
    "a pair passes in which one number of dW is wrong": {3: 1.0},
    "a pair passes whose dx has its columns in another order: a sum does not see it": {5: 1.0},
    "it does not see a wrong dx": {1: 1.0, 4: 1.0, 5: 1.0},
    "it does not see a wrong dW": {2: 1.0, 3: 1.0},
    "it calls wrong pairs right": {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0},
}


def tested(function):
    """The function forward, backward, x, W -> 1.0 for right, 0.0 for wrong."""

    def run(*args):
        says = function(*args)
        return None if says is None else float(bool(says))

    return run


def pair_cases(rng):
    """For 1.0 or 0.0 = f(forward, backward, x, W)."""
    M, (I, O) = rows(rng), widths(rng, 2)
    arrays = draw(rng, x=(M, I), W=(O, I))
    return [
        Case(
            {"forward": f, "backward": b, **arrays},
            lambda forward, backward, x, W, says=says: {"the answer": says},
            slips={
                words: lambda i=i, said=said, **_: [{"the answer": said[i]}] if i in said else []
                for words, said in MISJUDGED.items()
            },
        )
        for i, (f, b, says) in enumerate(PAIRS)
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
            "Write out (t + h)³ - (t - h)³: the terms with even powers of h cancel.",
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
            "The sum is smallest where the two terms are about equal.",
            "h² = ε/h gives h³ = ε.",
        ),
        number=lambda: -5,
        because="h = ε^(1/3) is about 6e-6, and the error there about h², 4e-11.",
        near={
            -8: "that is √ε, the step for a difference of one side, whose error is h + ε/h",
            -16: "at so small a step, x + h is x",
            1e-5: "that is h itself: write its power of ten",
            5: "h is small: its power is below 0",
        },
        rounding=0.4,
    ),
    predict(
        "gradient_smallest",
        "dW has a mean over the rows in place of the sum: how many rows does the smallest x have "
        "that shows it?",
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
        "gradient_blind",
        "Break dx of y = x Wᵀ so that a plain sum of y, whose dy is 1 everywhere, cannot show it",
        (
            "Start from dx = dy W, dW = dyᵀ x. Which functions of dy are 1 where dy is 1?",
            "A power of dy, a mean of dy, or a 1 in its place.",
        ),
        linear_cases,
        unseen=Unseen(
            lambda case: {"dy": np.ones_like(case.args["dy"])}, "dx", "with dy = 1 everywhere"
        ),
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
            "Turn y into a loss: (dy * y).sum() with a fixed random dy. Then ∂loss/∂y is dy.",
            "Compare dx with central differences over x, and dW with those over W, by np.allclose.",
        ),
        pair_cases,
        through=tested,
        package=says_right,
    ),
)
