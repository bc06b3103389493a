"""Products on the matrix unit: the pieces, the products, what is different from float32."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import LAYOUTS, laid_out
from hypothesis import given
from hypothesis import strategies as st

from minilora import fast as kernels

amx = pytest.importorskip("minilora.fast.amx", reason="needs Numba")
amx_product = pytest.importorskip("minilora.fast.amx_product", reason="needs Numba")
needs_unit = pytest.mark.skipif(not amx.usable(), reason="needs a processor with AMX")

SIZES = st.one_of(st.integers(1, 70), st.sampled_from([95, 128, 129, 300]))
WIDE = st.one_of(SIZES, st.just(amx_product.COLUMNS + 33))


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def product(a, b, out=None):
    """a b on the unit, or added to `out`."""
    c = np.empty((len(a), b.shape[1]), np.float32) if out is None else out.copy()
    amx_product.amx_rectangle(a, b, c, out is not None, 0, c.shape[0], 0, c.shape[1])
    return c


def error(found, a, b, c=0.0):
    """The largest error of c + a b, of the sum of the terms' absolute values."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.max(np.abs(found - (a @ b + c)) / (np.abs(a) @ np.abs(b) + np.abs(c)))


@given(st.floats(2.0**-100, 2.0**120, width=32), st.sampled_from([1, -1]))
def test_the_three_pieces_are_the_number_and_have_eight_bits(x, sign):
    x = np.float32([sign * x])
    pieces = amx.split(x)
    assert sum(np.float64(piece) for piece in pieces) == x  # exactly
    for piece in pieces:
        assert piece.view(np.uint32) & 0xFFFF == 0


def test_six_products_are_enough_and_no_five_are(rng):
    a, b = normal(rng, 64, 64), normal(rng, 64, 64)
    usual = error(amx.plain_product(a, b), a, b)
    assert usual < 2 * error(a @ b, a, b) < 1e-6
    left, right = amx.split(a), amx.split(b)
    for dropped in amx.PRODUCTS:
        kept = sum(left[p] @ right[q] for p, q in amx.PRODUCTS if (p, q) != dropped)
        assert error(kept, a, b) > 4 * usual, dropped


@needs_unit
@given(
    SIZES,
    SIZES,
    WIDE,
    st.sampled_from(LAYOUTS),
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_every_shape_and_order_in_memory(M, K, N, left, right, add, seed):
    rng = np.random.default_rng(seed)
    a, b, c = normal(rng, M, K), normal(rng, K, N), normal(rng, M, N)
    found = product(laid_out(a, left), laid_out(b, right), c if add else None)
    assert error(found, a, b, c if add else 0.0) < 3e-7


@needs_unit
def test_it_adds_to_a_part_of_a_larger_array(rng):
    a, b, c = normal(rng, 70, 40), normal(rng, 40, 50), normal(rng, 90, 80)
    whole = c.copy()
    amx_product.amx_rectangle(a, b, whole[10:80, 20:70], True, 0, 70, 0, 50)
    assert error(whole[10:80, 20:70], a, b, c[10:80, 20:70]) < 3e-7
    whole[10:80, 20:70] = c[10:80, 20:70]
    assert np.array_equal(whole, c)


@needs_unit
@pytest.mark.parametrize("depth, times", [(64, 0.7), (512, 1.0), (4096, 1.6)])
def test_as_near_to_the_truth_as_the_register_tile(rng, depth, times):
    """The tile sums a few hundred products at a time, which sums of thousands gain by."""
    from minilora.fast import matmul

    a, b = normal(rng, 128, depth), normal(rng, depth, 96)
    truth, usual = a.astype(np.float64) @ b, np.empty((128, 96), np.float32)
    matmul._products_share(a, b, matmul.NOTHING, matmul.NOTHING, usual, False, 0, 1)
    assert np.linalg.norm(product(a, b) - truth) < times * np.linalg.norm(usual - truth)


@needs_unit
@pytest.mark.parametrize("power", [-30, 55])
def test_small_and_large_numbers_are_as_exact(rng, power):
    """Products of about 2^-60 and 2^110; pieces of the former are above 2^-126, where it stops."""
    a, b = normal(rng, 64, 64), normal(rng, 64, 64)
    times = np.float32(2.0**power)
    assert np.array_equal(product(a * times, b * times), product(a, b) * times * times)


@needs_unit
@given(
    st.integers(1, 200), st.sampled_from([50, amx_product.COLUMNS + 70]), st.booleans(), st.data()
)
def test_the_bits_do_not_hang_on_how_it_is_cut(M, N, add, data):
    """By rows and by columns, anywhere."""
    rng = np.random.default_rng(M * N)
    a, b, c = normal(rng, M, 300), normal(rng, 300, N), normal(rng, M, N)
    whole, cut = product(a, b, c if add else None), c.copy()
    rows, columns = (sorted({0, data.draw(st.integers(0, n)), n}) for n in (M, N))
    for i0, i1 in itertools.pairwise(rows):
        for j0, j1 in itertools.pairwise(columns):
            amx_product.amx_rectangle(a, b, cut, add, i0, i1, j0, j1)
    assert np.array_equal(whole, cut)


@needs_unit
@pytest.mark.parametrize("r", [8, 64])  # the second product is done on the tile, on the unit
@pytest.mark.parametrize("cut", [1, 2])
def test_an_adapted_product_on_the_unit(rng, r, cut, monkeypatch):
    from minilora.fast import amx, matmul

    monkeypatch.setattr(amx, "requested", lambda: True)
    monkeypatch.setattr(matmul, "tasks", lambda work, grain: cut)
    x, w, z, b = (
        normal(rng, 200, 96),
        normal(rng, 96, 150),
        normal(rng, 200, r),
        normal(rng, r, 150),
    )
    y = matmul.adapted_nn(x, w, z, b)
    assert error(y, np.hstack([x, z]), np.vstack([w, b])) < 3e-7
    assert np.array_equal(y, matmul.matmul_nn(z, b, add_to=matmul.matmul_nn(x, w)))
    assert not np.array_equal(y, matmul.matmul_nn(z, b, add_to=_on_the_tile(x, w)))


def _on_the_tile(x, w):
    from minilora.fast import matmul

    y = np.empty((len(x), w.shape[1]), np.float32)
    matmul._products_share(x, w, matmul.NOTHING, matmul.NOTHING, y, False, 0, 1)
    return y


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
print(ml.fast.backend(), *map(repr, history.losses))
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
