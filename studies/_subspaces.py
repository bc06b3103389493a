"""How far two low-rank changes point the same way, and what of W they amplify.

Source: Hu et al. 2021, arXiv:2106.09685, section 7.2 (equation 4) and 7.3 (table 7).
"""

import numpy as np


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """φ(i, j) = ‖U_iᵀ V_j‖² / min(i, j) for all i, j from 1, of the first i and j columns.

    one (d, m), other (d, n), orthonormal columns  ->  (m, n), each between 0 and 1.
    """
    overlaps = np.cumsum(np.cumsum((one.T @ other) ** 2, axis=0), axis=1)
    i, j = np.indices(overlaps.shape) + 1
    return overlaps / np.minimum(i, j)


def by_chance(m: int, n: int, d: int) -> np.ndarray:
    """(m, n): what φ(i, j) is on average for random subspaces of d dimensions: max(i, j) / d.

    Two random unit vectors have a squared product of 1/d on average, and φ adds i·j of them.
    """
    i, j = np.indices((m, n)) + 1
    return np.maximum(i, j) / d


def directions(matrix: np.ndarray, count: int) -> np.ndarray:
    """(O, I) -> (I, count): the right singular vectors, the largest first."""
    return np.linalg.svd(matrix, full_matrices=False)[2][:count].T


def amplification(change: np.ndarray, W: np.ndarray, rank: int) -> dict[str, float]:
    """‖ΔW‖ / ‖Uᵀ W V‖, how much the change adds to what W has in its directions: U, V of ΔW's
    `rank` largest singular values, and ‖Uᵀ W V‖ with W's own ones beside it.
    """
    norm = float(np.linalg.norm(change))
    U, _, Vt = np.linalg.svd(change, full_matrices=False)
    in_directions = float(np.linalg.norm(U[:, :rank].T @ W @ Vt[:rank].T))
    own = np.linalg.svd(W, compute_uv=False)[:rank]
    return {
        "change": norm,
        "weight": in_directions,
        "weight_own": float(np.linalg.norm(own)),
        "factor": norm / in_directions,
    }
