"""Products on the matrix unit: the pieces, the products, what is different from float32."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora import kernels

amx = pytest.importorskip("minilora.kernels.amx", reason="needs Numba")
needs_unit = pytest.mark.skipif(not amx.usable(), reason="needs a processor with AMX")

SIZES = st.one_of(st.integers(1, 70), st.sampled_from([95, 128, 129, 300]))
LAYOUTS = st.sampled_from(["plain", "transposed", "strided"])


def laid_out(array, layout):
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    if layout == "strided":
        return np.repeat(np.repeat(array, 2, 0), 2, 1)[::2, ::2]
    return array


def product(a, b, out=None):
    """a b on the unit, or added to `out`."""
    c = np.empty((len(a), b.shape[1]), np.float32) if out is None else out.copy()
    amx.split_region(a, b, c, out is not None, 0, c.shape[0], 0, c.shape[1])
    return c


@given(st.floats(2.0**-100, 2.0**120, width=32), st.sampled_from([1, -1]))
def test_the_three_pieces_are_the_number_and_have_eight_bits(x, sign):
    x = np.float32([sign * x])
    pieces = amx.split(x)
    assert sum(np.float64(piece) for piece in pieces) == x  # exactly
    for piece in pieces:
        assert piece.view(np.uint32) & 0xFFFF == 0


def test_six_products_are_enough_and_no_five_are(rng):
    a, b = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    truth, scale = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)

    def error(of):
        return np.abs((of - truth) / scale).max()

    assert error(amx.plain_product(a, b)) < 2 * error(a @ b) < 1e-6
    left, right = amx.split(a), amx.split(b)
    for dropped in amx.PRODUCTS:
        kept = sum(left[p] @ right[q] for p, q in amx.PRODUCTS if (p, q) != dropped)
        assert error(kept) > 4 * error(amx.plain_product(a, b)), dropped


@needs_unit
@given(SIZES, SIZES, SIZES, LAYOUTS, LAYOUTS, st.booleans(), st.integers(0, 2**32 - 1))
def test_every_shape_and_order_in_memory(M, K, N, left, right, add, seed):
    rng = np.random.default_rng(seed)
    a, b, c = (rng.standard_normal(s, dtype=np.float32) for s in ((M, K), (K, N), (M, N)))
    truth = a.astype(np.float64) @ b + (c if add else 0)
    scale = np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(c)
    found = product(laid_out(a, left), laid_out(b, right), c if add else None)
    assert np.abs((found - truth) / scale).max() < 3e-7


@needs_unit
@pytest.mark.parametrize("depth, times", [(64, 0.7), (512, 1.0), (4096, 1.5)])
def test_as_near_to_the_truth_as_float32(rng, depth, times):
    """NumPy's BLAS sums a few hundred products at a time, which the longest sums gain by."""
    a, b = rng.standard_normal((128, depth)), rng.standard_normal((depth, 96))
    a, b = a.astype(np.float32), b.astype(np.float32)
    truth = a.astype(np.float64) @ b
    found, usual = product(a, b), kernels.numpy_ref.matmul_nn(a, b)
    assert np.linalg.norm(found - truth) < times * np.linalg.norm(usual - truth)


@needs_unit
@given(st.integers(33, 200), st.integers(33, 200), st.booleans())
def test_the_bits_do_not_hang_on_how_it_is_cut(M, N, add):
    rng = np.random.default_rng(M * N)
    a, b, c = (rng.standard_normal(s, dtype=np.float32) for s in ((M, 300), (300, N), (M, N)))
    whole, cut = product(a, b, c if add else None), c.copy()
    for i in range(0, M, amx.SIDE):
        amx.split_region(a, b, cut, add, i, min(i + amx.SIDE, M), 0, N)
    assert np.array_equal(whole, cut)


@needs_unit
def test_what_is_no_number_stays_none_and_infinity_becomes_none(rng):
    a, b = np.ones((40, 40), np.float32), np.ones((40, 40), np.float32)
    a[3, 5], a[7, 1] = np.nan, np.inf
    found = product(a, b)
    assert np.isnan(found[[3, 7]]).all() and (np.delete(found, [3, 7], 0) == 40).all()


@needs_unit
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_training_run_on_the_unit_is_that_of_float32(threads):
    code = """
import numpy as np, minilora as ml
from minilora.bench import cases
tuned = cases.make(cases.SIZES["tiny"], cases.CASES["delta_lora"])
history = ml.train(tuned, [cases.batch(cases.SIZES["tiny"])], steps=5, lr=1e-3, progress=False)
print(ml.kernels.backend(), *map(repr, history.losses))
"""
    found = {}
    for chosen in ("amx", "numba"):
        own = {**os.environ, "MINILORA_KERNELS": chosen, "NUMBA_NUM_THREADS": threads}
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, env=own, check=True)
        name, *losses = done.stdout.split()
        assert name == chosen
        found[chosen] = [float(loss) for loss in losses]
    np.testing.assert_allclose(found["amx"], found["numba"], rtol=2e-6)
    assert found["amx"] != found["numba"]  # the unit was used


@pytest.mark.smoke
def test_a_processor_without_the_unit_is_told(monkeypatch):
    monkeypatch.setenv("MINILORA_KERNELS", "amx")
    monkeypatch.setattr(amx, "usable", lambda: False)
    with pytest.raises(ValueError, match="no AMX"):
        kernels.backend.__wrapped__()
