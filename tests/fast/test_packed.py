"""Products from packed weights, against the same products with their numbers."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import rel

from minilora import fast
from minilora.fast import kernels as K
from minilora.fast import threads
from minilora.formats.forms import FORMS, put
from minilora.support.packed import Packed

pytestmark = pytest.mark.skipif(not fast.on(), reason="about compiled kernels")

SHAPES = [(5, 64), (33, 192), (100, 96), (48, 576), (7, 32), (40, 16)]
ROWS = [1, 2, 17, 200]


@functools.cache
def packed(form, O, I):
    """A matrix in this form, and its numbers."""
    rng = np.random.default_rng(O * I)
    if form == "Q4_1":
        blocks = rng.integers(0, 256, (O, I // 32, 20), dtype=np.uint8)
        halves = rng.uniform(-1, 1, (O, I // 32, 2)).astype("<f2")  # d and m
        blocks[..., :4] = halves.view(np.uint8)
        W = Packed(FORMS[form], (O, I), [blocks.reshape(O, -1)])
    else:
        W = put("here", "W", rng.standard_normal((O, I)).astype(np.float32), form)
    return W, np.asarray(W)


CASES = [
    pytest.param(form, O, I, id=f"{form}-{O}x{I}")
    for form in FORMS
    for O, I in SHAPES
    if I % 32 == 0 or form in ("nf4", "BF16")
]
each_case = pytest.mark.parametrize("form, O, I", CASES)


def products(x, dy, W, z, B, A):
    """Every product that a twin asks for."""
    return {
        "x Wᵀ": K.matmul_nt(x, W),
        "dy W": K.matmul_nn(dy, W),
        "x Wᵀ + z Bᵀ": K.adapted_nt(x, W, z, B),
        "dy W + z A": K.adapted_nn(dy, W, z, A),
        "1 + x Wᵀ": K.matmul_nt(x, W, add_to=np.ones(dy.shape, np.float32)),
        "1 + dy W": K.matmul_nn(dy, W, add_to=np.ones(x.shape, np.float32)),
    }


@each_case
def test_a_product_is_that_of_its_numbers(form, O, I, rng):
    W, dense = packed(form, O, I)
    for M in ROWS:
        sizes = (M, I), (M, O), (M, 3), (O, 3), (3, I)
        x, dy, z, B, A = (rng.standard_normal(size).astype(np.float32) for size in sizes)
        exact = dense.astype(np.float64)
        wanted = {
            "x Wᵀ": x @ exact.T,
            "dy W": dy @ exact,
            "x Wᵀ + z Bᵀ": x @ exact.T + z @ B.T,
            "dy W + z A": dy @ exact + z @ A,
            "1 + x Wᵀ": 1 + x @ exact.T,
            "1 + dy W": 1 + dy @ exact,
        }
        for name, y in products(x, dy, W, z, B, A).items():
            assert rel(y, wanted[name]) < 1e-6, (name, M)


@each_case
def test_the_numbers_in_a_product_are_its_own_to_the_bit(form, O, I):
    W, dense = packed(form, O, I)
    assert np.array_equal(K.matmul_nn(np.eye(O, dtype=np.float32), W), dense)
    columns = np.eye(I, dtype=np.float32)
    assert np.array_equal(K.matmul_nt(columns, W), dense.T)
    for k in (0, 1, 15, I // 2, I - 1):  # a single row has dot products of its own
        assert np.array_equal(K.matmul_nt(columns[k : k + 1], W)[0], dense[:, k]), k


@pytest.mark.parametrize("form", FORMS)
def test_one_thread_and_two_give_the_same_bits(form, monkeypatch, rng):
    W, _ = packed(form, 1024, 576)
    for M in (1, 200):
        x, dy = (rng.standard_normal((M, n)).astype(np.float32) for n in W.shape[::-1])
        found = []
        for n in (1, 2):
            monkeypatch.setattr(threads, "THREADS", n)
            found.append((K.matmul_nt(x, W), K.matmul_nn(dy, W)))
        assert all(np.array_equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("form", FORMS)
def test_on_another_processor_the_rows_are_unpacked(form, monkeypatch, rng):
    import minilora.fast.packed as kernels

    monkeypatch.setattr(kernels, "COMPUTES", False)
    W, dense = packed(form, 100, 96)
    x, z, B = (rng.standard_normal(s).astype(np.float32) for s in ((9, 96), (9, 3), (100, 3)))
    assert rel(K.matmul_nt(x, W), x @ dense.T) < 1e-6
    assert rel(K.adapted_nt(x, W, z, B), x @ dense.T + z @ B.T) < 1e-6


def test_shapes_that_do_not_fit_are_refused():
    kernels = pytest.importorskip("minilora.fast.packed")
    assert kernels.KINDS.keys() == FORMS.keys()
    if not kernels.COMPUTES:
        pytest.skip("about compiled kernels")
    W, _ = packed("nf4", 5, 64)
    x = np.ones((2, 64), np.float32)
    for wrong in (x[:, :32], np.ones((2, 5), np.float32)):
        with pytest.raises(ValueError, match="wanted shapes that fit"):
            K.matmul_nt(wrong, W)
    with pytest.raises(ValueError, match="wanted shapes that fit"):
        K.matmul_nt(x, W, add_to=np.ones((3, 5), np.float32))


@pytest.mark.slow
def test_with_avx2_alone(tmp_path):
    """The same tests in a process that compiles for a processor without AVX-512."""
    own = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c"}
    own |= {"NUMBA_CACHE_DIR": str(tmp_path)}
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", __file__]
    done = subprocess.run(tests, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
