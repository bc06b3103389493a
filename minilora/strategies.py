"""Hypothesis strategies for property tests of a pair: shapes, ranks, scalings, dropout, arrays.

    @given(linears(), scalings)
    def test_mine(case, s):
        gradcheck(my_forward, my_backward, case.x, case.W, s, case.A, case.B, frozen="W")

An array is drawn as a shape and a seed, its values normal: Hypothesis shrinks the shape, and no
array is ever all zero (where B = 0 a wrong dA looks right).
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

sizes = st.integers(1, 7)
seeds = st.integers(0, 2**32 - 1)
scalings = st.sampled_from([0.25, 1.0, 2.0, -3.0])
dropouts = st.sampled_from([0.0, 0.1, 0.5])  # p of ops.dropout(x, p, key)
keys = st.tuples(*[st.integers(0, 2**16)] * 4)  # seed, step, micro-batch, adapter index


@dataclass(frozen=True)
class Linear:
    """A linear under an adapter: x (M, I), W (O, I), A (r, I), B (O, r); dy (M, O)."""

    x: np.ndarray
    W: np.ndarray
    A: np.ndarray
    B: np.ndarray
    dy: np.ndarray


def normal(shape: tuple[int, ...], seed: int, dtype=np.float64) -> np.ndarray:
    """Standard normal values of a shape, from a seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def shapes(least: int = 0, most: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of `least` … `most` axes of 1 … 7."""
    return st.lists(sizes, min_size=least, max_size=most).map(tuple)


@st.composite
def arrays(draw, shape=None, dtype=np.float64) -> np.ndarray:
    """Normal values: of a shape, of shapes drawn from a strategy, or of any."""
    shape = shapes() if shape is None else shape
    if isinstance(shape, st.SearchStrategy):
        shape = draw(shape)
    return normal(shape, draw(seeds), dtype)


@st.composite
def broadcast_pair(draw, dtype=np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays whose shapes broadcast: one of them lacks leading axes or has some of length 1."""
    whole = draw(shapes(0, 3))

    def part():
        axes = whole[draw(st.integers(0, len(whole))) :]
        return tuple(draw(st.sampled_from([1, n])) for n in axes)

    seed = draw(seeds)
    pair = normal(part(), seed, dtype), normal(whole, seed + 1, dtype)
    return pair if draw(st.booleans()) else pair[::-1]


def ranks(I: int, O: int) -> st.SearchStrategy[int]:
    """1 … one above the smaller side."""
    return st.integers(1, min(I, O) + 1)


@st.composite
def linears(draw, dtype=np.float64) -> Linear:
    """A Linear of sides 1 … 7 and a rank up to one above the smaller."""
    M, I, O = draw(sizes), draw(sizes), draw(sizes)
    r, seed = draw(ranks(I, O)), draw(seeds)
    wanted = ((M, I), (O, I), (r, I), (O, r), (M, O))
    return Linear(*(normal(shape, seed + i, dtype) for i, shape in enumerate(wanted)))


@st.composite
def batches(draw, vocab_size: int, ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """ids and targets (N, T), targets one place ahead, some (not all) -100 where `ignored`."""
    N, T = draw(sizes), draw(sizes)
    rng = np.random.default_rng(draw(seeds))
    text = rng.integers(0, vocab_size, (N, T + 1))
    ids, targets = text[:, :-1].copy(), text[:, 1:].copy()
    if ignored:
        targets[rng.random((N, T)) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = -100
        targets[0, -1] = text[0, -1]
    return ids, targets
