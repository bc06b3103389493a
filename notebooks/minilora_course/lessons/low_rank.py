"""Notebook 03, low rank: the best r directions, and what is left over."""

import numpy as np

from ..slips import Case
from .exercise import blank, broken, draw, predict, widths


def truncate(D, r):
    """D_r: the nearest matrix of rank r (Eckart and Young)."""
    U, values, Vt = np.linalg.svd(D, full_matrices=False)
    return {"D_r": (U[:, :r] * values[:r]) @ Vt[:r]}


def smallest(D, r):
    """The r smallest singular values in place of the largest."""
    U, values, Vt = np.linalg.svd(D, full_matrices=False)
    return {"D_r": (U[:, -r:] * values[-r:]) @ Vt[-r:]}


def columns(D, r):
    """Columns of Vᵀ in place of its rows."""
    U, values, Vt = np.linalg.svd(D, full_matrices=False)
    return [{"D_r": (U[:, :r] * values[:r]) @ Vt[:, :r].T}]


def truncate_cases(rng):
    """For D_r = f(D, r): a wide one, a tall one, a square one."""
    slips = {
        "wanted r terms, but one more or one less was kept": lambda D, r: [
            truncate(D, r + 1), truncate(D, r - 1)
        ],
        "the v_k are the rows of Vt, not its columns": columns,
    }  # fmt: skip
    short, long = sorted(widths(rng, 2))
    ranks = rng.choice([1, 2, 3], 3, replace=False)
    return [
        Case({**draw(rng, D=shape), "r": int(r)}, truncate, slips=slips)
        for shape, r in zip([(short, long), (long, short), (6, 6)], ranks)
    ]


def blank_cases(rng):
    """The same, but r = 0 in the square one: no term is kept."""
    *cases, square = truncate_cases(rng)
    all_of_it = "at r = 0 nothing is kept, but -0 is 0: V[:, -r:] is all of V"
    slips = {**square.slips, all_of_it: lambda D, r: [{"D_r": D}]}
    return [*cases, Case(square.args | {"r": 0}, truncate, slips=slips)]


EXERCISES = (
    predict(
        "low_rank_error",
        "A matrix has singular values 12, 4 and 3: how far, in the Frobenius norm, is the nearest "
        "matrix of rank 1?",
        (
            "The nearest one keeps the largest singular value.",
            "The difference has the other two as its singular values.",
        ),
        number=lambda: float(np.linalg.norm(np.diag([12.0, 4, 3]) - np.diag([12.0, 0, 0]))),
        because="√(4² + 3²): the difference has the singular values that were cut.",
        near={
            7: "that is the sum: the squares add up, then comes the root",
            4: "that is the distance in the spectral norm",
            25: "that is the square of the distance",
            13: "√(12² + 4² + 3²) is the norm of the matrix itself",
        },
    ),
    blank(
        "low_rank_truncate",
        "The nearest matrix of rank r: D, r -> D_r",
        (
            "np.linalg.svd(D, full_matrices=False) gives U, values, Vt with D = (U * values) @ Vt.",
            "The largest values come first: keep r of them, with their columns and rows.",
        ),
        blank_cases,
    ),
    broken(
        "low_rank_break",
        "Keep the r smallest singular values: D, r -> D_r",
        (
            "The largest values come first.",
            "Take the last r instead of the first r.",
        ),
        truncate_cases,
        wanted=smallest,
    ),
)
