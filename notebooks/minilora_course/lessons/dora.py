"""Notebook 14, DoRA: forward, backward with the norm as a constant, the part left out, the pair."""

import numpy as np

from minilora.methods.dora import (
    count,
    dora_backward,
    dora_forward,
    row_norm_backward,
    row_norm_forward,
)

from ..slips import Case, Slips
from .exercise import blank, blank_pair, broken, draw, predict, rank, rows, widths


def forward(x, W, s, A, B, m):
    """y = (m / ‖V‖) · (x Vᵀ), V = W + s B A, a size for each row of V."""
    return {"y": dora_forward(x, W, s, A, B, m, row_norm_forward(W, s, A, B)[0])[0]}


def backward(dy, x, W, s, A, B, m):
    """dx, dA, dB, dm with the norm as a constant."""
    cache = dora_forward(x, W, s, A, B, m, row_norm_forward(W, s, A, B)[0])[1]
    dx, _, _, dA, dB, dm, _ = dora_backward(dy, cache)
    return {"dx": dx, "dA": dA, "dB": dB, "dm": dm}


def left_out(dy, x, W, s, A, B, m):
    """dA, dB through the norm alone: dnorm = -Σ dy · u · m / norm²."""
    norm, cache = row_norm_forward(W, s, A, B)
    dnorm = -(dy * (x @ (W + s * B @ A).T)).sum(0) * m / norm**2
    _, _, dA, dB = row_norm_backward(dnorm, cache)
    return {"dA": dA, "dB": dB}


def whole(**args):
    """dA, dB of eq. 5 as a whole: the constant's part, and the part left out."""
    constant, rest = backward(**args), left_out(**args)
    return {name: constant[name] + rest[name] for name in rest}


def arrays(rng):
    """dy, x, W, s, A, B, m: m is not the norm, and B is away from 0."""
    M, (I, O), r = rows(rng), widths(rng, 2), rank(rng)
    a = draw(rng, dy=(M, O), x=(M, I), W=(O, I), A=(r, I), B=(O, r))
    s, m = float(rng.choice([0.75, 1.5, 3.0])), 1 + rng.random(O)
    return {"dy": a["dy"], "x": a["x"], "W": a["W"], "s": s, "A": a["A"], "B": a["B"], "m": m}


def cases_of(rng, reference, slips, names="dy x W s A B m", by_row=(), summed=()):
    """Three sets of arguments."""
    found = [arrays(rng) for _ in range(3)]
    given = [{n: a[n] for n in names.split()} for a in found]
    return [Case(args, reference, slips=slips, rows=by_row, summed=summed) for args in given]


def frozen_norm(x, W, s, A, B, m):
    """y with the norm that W alone has, as it was before B moved."""
    return {"y": m / np.linalg.norm(W, axis=1) * (x @ (W + s * B @ A).T)}


def forward_cases(rng):
    """For y = f(x, W, s, A, B, m)."""

    def scaled(power):
        return lambda s, **a: [forward(s=s**power, **a)]

    def divided(by):
        """y with another norm of V."""

        def outputs(x, W, s, A, B, m):
            V = W + s * B @ A
            return [{"y": m * (x @ (V / by(V)).T)}]

        return outputs

    slips: Slips = {
        "the norm is that of W, wanted that of V = W + s B A": lambda **a: [frozen_norm(**a)],
        "one size for each output, and so for each row of V: not for a column": divided(
            lambda V: np.linalg.norm(V, axis=0)
        ),
        "one size for each row of V, not one for all of V": divided(np.linalg.norm),
        "the norm is a root of a sum of squares: the root is missing": divided(
            lambda V: (V * V).sum(1, keepdims=True)
        ),
        "the norm is a root of a sum of squares, not a sum of sizes": divided(
            lambda V: np.abs(V).sum(1, keepdims=True)
        ),
        "V is not divided by its norm": divided(lambda V: 1.0),
        "m / norm multiplies both paths, not one of them": lambda x, W, s, A, B, m: [
            {"y": f * (x @ W.T) + g * (s * x @ A.T @ B.T)}
            for factor in [m / np.linalg.norm(W + s * B @ A, axis=1)]
            for f, g in ((1, factor), (factor, 1))
        ],
        "scale missing": scaled(0),
        "scale twice": scaled(2),
    }
    return cases_of(rng, forward, slips, "x W s A B m")


def backward_cases(rng):
    """For dx, dA, dB, dm = f(dy, x, W, s, A, B, m)."""

    def with_du(make):
        """dx, dA, dB of another du = make(dy, m, norm)."""

        def outputs(dy, x, W, s, A, B, m):
            du = make(dy, m, np.linalg.norm(W + s * B @ A, axis=1))
            dx, dA, dB = du @ (W + s * B @ A), s * (du @ B).T @ x, s * du.T @ (x @ A.T)
            return [{"dx": dx}, {"dA": dA}, {"dB": dB}]

        return outputs

    def with_dm(make):
        def outputs(dy, x, W, s, A, B, m):
            V = W + s * B @ A
            return [{"dm": make((dy * (x @ V.T)).sum(0), m, np.linalg.norm(V, axis=1))}]

        return outputs

    def one_path(dy, x, W, s, A, B, m):
        du = dy * m / np.linalg.norm(W + s * B @ A, axis=1)
        return [{"dx": du @ W}, {"dx": s * du @ B @ A}]

    slips: Slips = {
        "the derivative of the whole function: here the norm is a constant": lambda **a: [
            whole(**a)
        ],
        "m / norm is missing in {name}: y = (m / norm) u, so du = dy · m / norm": with_du(
            lambda dy, m, norm: dy
        ),
        "norm is missing in {name}: du = dy · m / norm": with_du(lambda dy, m, norm: dy * m),
        "m is missing in {name}: du = dy · m / norm": with_du(lambda dy, m, norm: dy / norm),
        "norm is missing in dm: y = m (u / norm)": with_dm(lambda total, m, norm: total),
        "m is in dm, and y = m (u / norm) is a product: dm has the other factor alone": with_dm(
            lambda total, m, norm: total * m / norm
        ),
        "path missing": one_path,
    }
    return cases_of(rng, backward, slips, by_row=("dy", "x"), summed=("dA", "dB", "dm"))


def left_out_cases(rng):
    """For dA, dB = f(dy, x, W, s, A, B, m), through the norm alone."""

    def with_dV(make):
        """dA, dB of another dV = make(sum of dy u over the rows, V, W, m, norm)."""

        def outputs(dy, x, W, s, A, B, m):
            V = W + s * B @ A
            norm = np.linalg.norm(V, axis=1)
            dV = make((dy * (x @ V.T)).sum(0), V, W, m, norm)
            return [{"dA": s * B.T @ dV}, {"dB": s * dV @ A.T}]

        return outputs

    slips: Slips = {
        "that is the whole derivative: wanted only the norm's part": lambda **a: [whole(**a)],
        "that is the other part, in which the norm is a constant": lambda **a: [
            {name: out for name, out in backward(**a).items() if name in ("dA", "dB")}
        ],
        "the derivative of 1 / norm is -1 / norm²: a factor 1 / norm is missing": with_dV(
            lambda total, V, W, m, norm: -(total * m / norm**2)[:, None] * V
        ),
        "the derivative of the norm is V / norm, a row at a time: 1 / norm is missing, or W stands "
        "in V's place": (
            lambda **a: [
                *with_dV(lambda total, V, W, m, norm: -(total * m / norm)[:, None] * V)(**a),
                *with_dV(lambda total, V, W, m, norm: -(total * m / norm**3)[:, None] * W)(**a),
            ]
        ),
        "m is missing: y = m u / norm": with_dV(
            lambda total, V, W, m, norm: -(total / norm**3)[:, None] * V
        ),
    }
    return cases_of(rng, left_out, slips)


def pair_cases(rng):
    """For y, dx, None, None, dA, dB, dm, None = f(dy, x, W, s, A, B, m, norm)."""

    def reference(dy, **args):
        y, cache = dora_forward(**args)
        return {"y": y, **dict(zip((f"d{name}" for name in args), dora_backward(dy, cache)))}

    slips: Slips = {
        "the derivative of the whole function: here the norm is a constant": (
            lambda norm, dy, **a: [
                {
                    name: reference(dy, **a, norm=norm)[name] + part
                    for name, part in left_out(dy, **a).items()
                }
            ]
        ),
        "the norm is an argument: do not compute it from W, A and B": lambda norm, dy, **a: [
            forward(**a),
            backward(dy, **a),
        ],
    }
    found = []
    for other in (0.0, 1.0):
        a = arrays(rng)
        norm = row_norm_forward(a["W"], a["s"], a["A"], a["B"])[0]
        norm = norm * (1 + other * rng.random(norm.shape))  # once another one than V's
        found.append(
            Case(
                {**a, "norm": norm},
                reference,
                slips=slips,
                rows=("dy", "x"),
                summed=("dA", "dB", "dm"),
                two_paths=("y", "dx"),
                adapter="B",
            )
        )
    return found


EXERCISES = (
    predict(
        "dora_count",
        "How many numbers does DoRA of rank 4 train on a linear of 64 inputs and 128 outputs?",
        (
            "A and B are LoRA's. What else trains?",
            "m has a number for each output.",
        ),
        number=lambda: count(64, 128, 4),
        because="r (I + O) + O: LoRA's 768, and 128 sizes.",
        near={
            768: "that is LoRA: m trains, too",
            768 + 64: "that is a size for each input: m has one for each output",
            769: "that is one size for all of W: m has one for each output",
            768 + 64 * 128: "that includes all of W: m has one number for each output",
        },
    ),
    predict(
        "dora_kept",
        "How many more bytes than LoRA does the pair of a q_proj of 128 outputs keep for backward, "
        "with 32 texts of 25 tokens in float32?",
        (
            "dm = Σ dy · u / norm: which array does backward read that LoRA's does not?",
            "u has a row for each token, and a column for each output.",
        ),
        number=lambda: 32 * 25 * 128 * np.float32().nbytes,
        because="u (M, O), 32 · 25 · 128 numbers of 4 bytes: as much as x itself.",
        near={
            32 * 25 * 128 * 4 + 128 * 4: "that includes the norm's 512 bytes: count only u",
            32 * 25 * 128: "a number of float32 has 4 bytes",
            32 * 128 * 4: "x has a row for each token: 32 · 25 of them",
            128 * 4: "that is m or the norm: which array with a row for each token does dm read?",
            32 * 25 * 4 * 4: "that is z at rank 4, or u of one text",
        },
    ),
    blank(
        "dora_forward",
        "y = (m / ‖V‖) · (x Vᵀ), V = W + s B A: x, W, s, A, B, m -> y",
        (
            "‖V‖ has a number for each output: over which axis of V (O, I) does the sum run?",
            "LoRA's output times m / norm: a factor for each column of y.",
        ),
        forward_cases,
    ),
    blank(
        "dora_backward",
        "The gradients with the norm as a constant: dy, x, W, s, A, B, m -> dx, dA, dB, dm",
        (
            "y = c u with c = m / norm. What is du? The rest is LoRA's backward.",
            "All rows of x use the same m: its gradient sums over them.",
        ),
        backward_cases,
    ),
    blank(
        "dora_norm",
        "The missing part, through the norm alone: dy, x, W, s, A, B, m -> dA, dB",
        (
            "Go from y = m u / norm to dnorm (O,), from there to dV (O, I), and then to dA and dB.",
            "norm = √Σ V² over a row: its derivative is V / norm. And V = W + s B A.",
        ),
        left_out_cases,
    ),
    blank_pair(
        "dora_pair",
        "DoRA as a pair that gets the norm: forward(x, W, s, A, B, m, norm) -> y, cache; "
        "backward(dy, cache) -> dx, None, None, dA, dB, dm, None",
        (
            "norm is an argument like W: it has no gradient.",
            "Take your two functions, and use the argument instead of the norm that they compute.",
        ),
        pair_cases,
        package=(dora_forward, dora_backward),
    ),
    broken(
        "dora_break",
        "Divide by the size of W's rows, not of V's: which check would see it?",
        (
            "Change one array in the norm. Everything else stays the same.",
            "At B = 0 both norms are equal.",
        ),
        forward_cases,
        wanted=frozen_norm,
    ),
)
