"""Every Numba kernel against plain NumPy in float64 (reference.py), and that against other ways."""

import importlib
import math
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import reference as ref
from conftest import LAYOUTS as WAYS
from conftest import laid_out
from hypothesis import given
from hypothesis import strategies as st

from minilora import fast, ops
from minilora.fast import kernels

if fast.backend() == "numpy":
    pytest.skip("about Numba's kernels", allow_module_level=True)

# A float32 is right to 6e-8 of itself. A sum of 100 products, in vectors of partial sums, is then
# right to a few times that of the sum of their absolute values: `scale`, where the terms cancel.
TOLERANCE = 2e-6

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
needs_jit = pytest.mark.skipif(not JIT, reason="about compiled kernels")

SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 33, 47, 48, 49, 64, 97, 130]))
RANKS = st.integers(1, 17)
LAYOUTS = st.sampled_from(WAYS)
SEEDS = st.integers(0, 2**32 - 1)


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def double(arguments):
    """The arguments in float64, copied: the twin's own."""
    return [
        a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a for a in arguments
    ]


def close(got, wanted, scale=0.0):
    """The largest error is within the tolerance of the largest number, or of scale, if larger."""
    assert got.shape == wanted.shape and got.dtype == np.float32
    largest = max(float(np.abs(wanted).max(initial=0)), float(scale))
    error = float(np.abs(got - wanted).max(initial=0))
    assert error <= TOLERANCE * largest, f"error {error / (largest or 1):.1e} of the largest number"


def agrees(name, *arguments, scale=0.0):
    """The kernel on float32 and its twin on float64 give the same; -> what the kernel returned."""
    wanted = getattr(ref, name)(*double(arguments))
    got = getattr(kernels, name)(*arguments)
    for g, w in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, wanted))):
        close(g, w, scale)
    return got


def rectangle(N, T, S):
    """The spans of N sequences, each of T queries and S keys."""
    n = np.arange(N)[:, None]
    return n * [T, T, S, S] + [0, T, 0, S]


def arguments_of(name, rng, M=7, K=5, N=19):
    """Some arguments of a kernel, in float32; attention takes M sequences of K rows."""
    x, w, y = normal(rng, M, K), normal(rng, N, K), normal(rng, M, N)
    q, k, v, do = (normal(rng, M * K, heads, 6) for heads in (4, 2, 2, 4))
    spans = rectangle(M, K, K)
    o, lse = ref.attention_forward(q, k, v, spans)
    lora = normal(rng, 3, K), normal(rng, N, 3)
    table = {
        "matmul_nt": (x, w),
        "matmul_nn": (x, normal(rng, K, N)),
        "matmul_tn": (x, y),
        "adapted_nt": (x, w, normal(rng, M, 3), normal(rng, N, 3)),
        "adapted_nn": (x, normal(rng, K, N), normal(rng, M, 3), normal(rng, 3, N)),
        "lora_forward": (x, 2 * x, w, 0.5, *lora),
        "lora_backward": (
            y,
            x,
            normal(rng, M, 3),
            w,
            2.0,
            normal(rng, 3, K),
            normal(rng, N, 3),
            True,
        ),
        "add": (y, normal(rng, M, N)),
        "rmsnorm_forward": (y, normal(rng, N), 1e-5),
        "rmsnorm_dx": (normal(rng, M, N), y, normal(rng, N), 1 + normal(rng, M) ** 2),
        "rmsnorm_dg": (normal(rng, M, N), y, 1 + normal(rng, M) ** 2),
        "rope": (q, normal(rng, M * K, 3), normal(rng, M * K, 3)),
        "swiglu_forward": (3 * y, normal(rng, M, N)),
        "swiglu_backward": (normal(rng, M, N), 3 * y, normal(rng, M, N)),
        "embedding_dE": (y, rng.integers(-7, 7, M), 7),
        "feed_forward": (x, w, w / 2, normal(rng, K, N)),
        "feed_forward_dx": (x, 3 * y, normal(rng, M, N), w, w / 2, normal(rng, K, N)),
        "attention_forward": (q, k, v, spans),
        "attention_backward": (do, q, k, v, spans, o, lse),
        "cross_entropy": (4 * y, rng.integers(0, N, M), np.empty_like(y)),
        "adamw": (normal(rng, M, N), y, y / 9, y**2, 1e-2, 0.9, 0.999, 1e-8, 0.1, 3),
    }
    return list(table[name])


WRITERS = ("cross_entropy", "adamw")  # into their arguments


def run(kernel, arguments):
    """All that a kernel gives, on copies: what it returns, and its array arguments afterwards."""
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    got = kernel(*copies)
    returned = got if isinstance(got, tuple) else () if got is None else (got,)
    return [*returned, *(a for a in copies if isinstance(a, np.ndarray))]


@pytest.mark.smoke
@pytest.mark.parametrize("sizes", [(1, 1, 2), (7, 5, 19), (9, 34, 3)], ids=str)
@pytest.mark.parametrize("name", kernels.TABLE)
def test_a_kernel_agrees_with_its_twin(name, sizes, rng):
    arguments = arguments_of(name, rng, *sizes)
    wanted = run(getattr(ref, name), double(arguments))
    for g, w in zip(run(getattr(kernels, name), arguments), wanted, strict=True):
        if g.dtype == np.float32:
            close(g, w, scale=1)


# products


@given(SIZES, SIZES, SIZES, LAYOUTS, LAYOUTS, SEEDS)
def test_products(M, K, N, layout_x, layout_w, seed):
    rng = np.random.default_rng(seed)
    x, w = laid_out(normal(rng, M, K), layout_x), laid_out(normal(rng, N, K), layout_w)
    scale = (np.abs(x) @ np.abs(w).T).max()
    agrees("matmul_nt", x, w, scale=scale)
    agrees("matmul_nn", x, w.T, scale=scale)
    agrees("matmul_tn", x.T, w.T, scale=scale)


@needs_jit
def test_a_product_of_few_rows_has_the_bits_of_more(rng):
    """Up to 32 rows read w in place, more rows pack it; 900 rows of w are three panels."""
    x, w = normal(rng, 40, 900), normal(rng, 900, 200)
    whole = kernels.matmul_nn(x, w)
    for rows in (9, 17, 32):
        assert np.array_equal(kernels.matmul_nn(x[:rows], w), whole[:rows])


@given(st.integers(1, 9), st.sampled_from([1, 16, 100, 576]), st.integers(1, 700), RANKS, SEEDS)
def test_few_rows_as_in_decoding(M, K, N, r, seed):
    """From 100,000 numbers of w on two threads share it; the result is also added to another."""
    rng = np.random.default_rng(seed)
    x, w, z, b, y = (normal(rng, *s) for s in ((M, K), (N, K), (M, r), (N, r), (M, N)))
    scale = (np.abs(x) @ np.abs(w).T).max()
    agrees("matmul_nt", x, w, scale=scale)
    close(kernels.matmul_nt(x, w, add_to=y.copy()), y + np.float64(x) @ w.T, scale=scale)
    agrees("adapted_nt", x, w, z, b, scale=scale + (np.abs(z) @ np.abs(b).T).max())


WIDTHS = st.sampled_from([16, 95, 96, 100, 150, 336, 576])


@given(st.integers(1, 300), st.integers(1, 4), WIDTHS, SEEDS)
def test_the_low_tile_sums_in_the_order_of_the_high_one(M, r, N, seed):
    """A product of few rows has the bits of the same rows of a product of more."""
    rng = np.random.default_rng(seed)
    x, y = normal(rng, M, 8), normal(rng, M, N)
    low, high = kernels.matmul_tn(x[:, :r], y), kernels.matmul_tn(x, y)[:r]
    assert np.array_equal(low, high) or not JIT
    close(low, np.float64(x[:, :r]).T @ y, scale=(np.abs(x).T @ np.abs(y)).max())


@pytest.mark.skipif(not JIT, reason="about shares of compiled products")
def test_two_threads_divide_the_longer_side_of_a_product():
    grid = importlib.import_module("minilora.fast.matmul").grid
    assert grid(512, 128, 2) == (2, 1) == grid(128, 128, 2)
    assert grid(128, 512, 2) == (1, 2) == grid(4, 48, 2)


@given(SIZES, SIZES, SIZES, RANKS, LAYOUTS, SEEDS)
def test_adapted_products(M, K, N, r, layout, seed):
    rng = np.random.default_rng(seed)
    x, w, z, b = normal(rng, M, K), normal(rng, N, K), normal(rng, M, r), normal(rng, N, r)
    x, w, z, b = (laid_out(a, layout) for a in (x, w, z, b))
    scale = (np.abs(x) @ np.abs(w).T + np.abs(z) @ np.abs(b).T).max()
    agrees("adapted_nt", x, w, z, b, scale=scale)
    agrees("adapted_nn", x, w.T, z, b.T, scale=scale)


WIDE = st.integers(9, 200)


@given(st.integers(2, 60), WIDE, WIDE, st.integers(2, 8), st.booleans(), SEEDS)
def test_lora_in_one_call_has_the_bits_of_single_products(M, K, N, r, wants_dx, seed):
    rng, s = np.random.default_rng(seed), 1.7
    x, xa, dy, w = (normal(rng, *shape) for shape in ((M, K), (M, K), (M, N), (N, K)))
    a, b = normal(rng, r, K), normal(rng, N, r)
    z = kernels.matmul_nt(xa, a)
    for cut in ((x[:, 1:], xa), (x[1:], xa)):
        with pytest.raises(ValueError, match="adapted"):
            kernels.lora_forward(*cut, w, s, a, b)
    for cut in ((dy[:, 1:], xa, z), (dy, xa, z[1:])):
        with pytest.raises(ValueError, match="matmul"):
            kernels.lora_backward(*cut, w, s, a, b, True)
    dz = kernels.matmul_nn(dy, b) * s
    forward = kernels.adapted_nt(x, w, z * s, b), z
    dx = kernels.adapted_nn(dy, w, dz, a) if wants_dx else None
    backward = dx, dz, kernels.matmul_tn(dz, xa), kernels.matmul_tn(dy, z) * s
    got = agrees("lora_forward", x, xa, w, s, a, b, scale=(np.abs(x) @ np.abs(w).T).max() + M * r)
    got += kernels.lora_backward(dy, xa, z, w, s, a, b, wants_dx)
    for g, wanted in zip(got, forward + backward, strict=True):
        assert np.array_equal(g, wanted) if JIT or wanted is None else np.allclose(g, wanted)


@given(SIZES, SIZES, SIZES, LAYOUTS, SEEDS)
def test_products_add_to_what_they_are_given(M, K, N, layout, seed):
    rng = np.random.default_rng(seed)
    x, w = normal(rng, M, K), normal(rng, K, N)
    scale = 1 + (np.abs(x) @ np.abs(w)).max()
    layout = "plain" if layout == "read-only" else layout
    for name, a, b in (("nt", x, w.T), ("nn", x, w), ("tn", x.T, w)):
        y = laid_out(normal(rng, M, N), layout)
        wanted = getattr(ref, f"matmul_{name}")(*double((a, b, y)))
        assert getattr(kernels, f"matmul_{name}")(a, b, add_to=y) is y
        close(y, wanted, scale)


@pytest.mark.parametrize(
    "sizes", [(37, 1100, 100), (1100, 20, 65), (300, 12, 900), (600, 800, 130)], ids=str
)
def test_products_longer_than_a_panel(sizes, rng):
    M, K, N = sizes
    for name, a, b in (("nt", (M, K), (N, K)), ("nn", (M, K), (K, N)), ("tn", (K, M), (K, N))):
        a, b = np.abs(normal(rng, *a)), np.abs(normal(rng, *b))
        agrees(f"matmul_{name}", a, b)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 17, 5), (33, 8, 600), (20, 41, 50)], ids=str)
def test_every_rung_of_the_ladder_is_the_product(sizes, rng):
    from minilora.fast.ladder import LADDER

    M, K, N = sizes
    x, w = rng.standard_normal((M, K)), rng.standard_normal((K, N))
    for name, product in LADDER.items():
        got = product(x.astype(np.float32), w.astype(np.float32))
        np.testing.assert_allclose(got, x @ w, atol=1e-5 * K, err_msg=name)


@pytest.mark.smoke
def test_arrays_that_do_not_fit_are_refused(rng):
    """Each kernel's arguments, and the place and shape of one that does not fit the others."""
    x, w, y = (4, 5), (3, 5), (4, 6)
    adapted = (x, w, (4, 2), (3, 2))
    for name, shapes, place, wrong in (
        ("matmul_nt", (x, w), 1, (3, 6)),
        ("matmul_nn", (x, (5, 3)), 1, (6, 3)),
        ("matmul_tn", (x, (4, 3)), 1, (5, 3)),
        ("matmul_nn", (x, (5, 3), (4, 3)), 2, (4, 2)),
        ("adapted_nt", adapted, 1, (5, 3)),
        ("adapted_nt", adapted, 2, (3, 2)),
        ("adapted_nt", adapted, 3, (2, 2)),
        ("adapted_nt", adapted, 3, (3, 1)),
        ("adamw", (y, y, y, y), 2, (3, 6)),
    ):
        rest = (1e-2, 0.9, 0.999, 1e-8, 0.0, 1) if name == "adamw" else ()
        fitting = [normal(rng, *shape) for shape in shapes]
        getattr(kernels, name)(*fitting, *rest)
        fitting[place] = normal(rng, *wrong)
        with pytest.raises(ValueError):
            getattr(kernels, name)(*fitting, *rest)
    p = normal(rng, 4, 6)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.adamw(p.T, p.T, p, p, 1e-2, 0.9, 0.999, 1e-8, 0.0, 1)
    q, k, v = (normal(rng, n, heads, 8) for n, heads in ((6, 4), (9, 2), (9, 2)))
    for spans in ([[0, 7, 0, 9]], [[0, 6, 0, 10]], [[0, 6, 4, 9]], [[3, 1, 0, 9]], [[0, 6, 9]]):
        with pytest.raises(ValueError):
            kernels.attention_forward(q, k, v, np.array(spans))


@pytest.mark.parametrize("M", [7, 1500])
def test_weights_that_do_not_fit_a_feed_forward(M, rng):
    x, kept = normal(rng, M, 20), [normal(rng, M, 24), normal(rng, M, 24)]
    for wrong in range(3):
        shapes = [[24, 20], [24, 20], [20, 24]]
        shapes[wrong][1] += 1
        weights = [normal(rng, *shape) for shape in shapes]
        with pytest.raises(ValueError):
            kernels.feed_forward(x, *weights)
        with pytest.raises(ValueError):
            kernels.feed_forward_dx(x, *kept, *weights)


# sums, norm, positions, gate


@pytest.mark.parametrize("shape", [(1, 1), (300, 167), (1031, 97)], ids=str)  # from 50,000: shared
@pytest.mark.parametrize("layout", WAYS)
def test_sums_of_two_are_numpys_to_the_bit(shape, layout, rng):
    x, y = (laid_out(normal(rng, *shape), layout) for _ in range(2))
    got = kernels.add(x, y)
    np.testing.assert_array_equal(got, x + y)
    assert got.dtype == np.float32 and not np.shares_memory(got, x)
    assert kernels.add(x, y.astype(np.float64)).dtype == np.float64


@given(SIZES, st.one_of(SIZES, st.just(300)), LAYOUTS, SEEDS)
def test_rmsnorm(M, C, layout, seed):
    rng = np.random.default_rng(seed)
    x, g, dy = (laid_out(a, layout) for a in (normal(rng, M, C), normal(rng, C), normal(rng, M, C)))
    rstd = agrees("rmsnorm_forward", x, g, 1e-5)[1]
    largest = (np.abs(dy * g) * rstd[:, None]).max()  # dx is a difference: of numbers of this size
    dx, old = agrees("rmsnorm_dx", dy, x, g, rstd, scale=3 * largest), normal(rng, M, C)
    total = agrees("rmsnorm_dx", dy, x, g, rstd, laid_out(old, layout), scale=3 * largest)
    np.testing.assert_array_equal(total, old + dx)
    agrees("rmsnorm_dg", dy, x, rstd, scale=np.abs(dy * x * rstd[:, None]).sum(axis=0).max())


@given(SIZES, st.integers(1, 4), st.integers(1, 17), LAYOUTS, SEEDS)
def test_rope(M, H, half, layout, seed):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * math.pi, (M, half))
    cos, sin = (laid_out(a.astype(np.float32), layout) for a in (np.cos(angles), np.sin(angles)))
    x = laid_out(normal(rng, M, H, 2 * half), layout)
    y = agrees("rope", x, cos, sin)
    close(kernels.rope(y, cos, -sin), x.astype(np.float64))  # and back


@given(SIZES, SIZES, LAYOUTS, SEEDS)
def test_swiglu(M, F, layout, seed):
    rng = np.random.default_rng(seed)
    dh, gate, up = (laid_out(normal(rng, M, F), layout) for _ in range(3))
    agrees("swiglu_forward", 4 * gate, up, scale=1)
    agrees("swiglu_backward", dh, 4 * gate, up, scale=1)


@pytest.mark.parametrize("M", [1, 7, 511, 512, 513, 1500])  # from 512 on: all of it by each thread
@pytest.mark.parametrize("C, F", [(24, 40), (33, 401), (8, 24), (16, 8)])
def test_the_feed_forward_whole_is_its_parts_to_the_bit(M, C, F, rng, monkeypatch):
    monkeypatch.setattr(sys.modules[kernels.compiled("feed_forward").__module__], "THREADS", 2)
    x, dy = normal(rng, M, C), normal(rng, M, C)
    Wg, Wu, Wd = normal(rng, F, C), normal(rng, F, C), normal(rng, C, F)
    y, gate, up = agrees("feed_forward", x, Wg, Wu, Wd)
    dx = agrees("feed_forward_dx", dy, gate, up, Wg, Wu, Wd)
    np.testing.assert_array_equal(gate, kernels.matmul_nt(x, Wg))
    np.testing.assert_array_equal(up, kernels.matmul_nt(x, Wu))
    h = kernels.swiglu_forward(gate, up)
    dgate, dup = kernels.swiglu_backward(kernels.matmul_nn(dy, Wd), gate, up)
    parts = kernels.adapted_nn(dgate, Wg, dup, Wu)
    np.testing.assert_array_equal(y, kernels.matmul_nt(h, Wd))
    np.testing.assert_array_equal(dx, parts)


@pytest.mark.parametrize("rows", [1, 9, 40])
def test_a_sum_of_nothing_is_zero(rows, rng):
    x, y = normal(rng, rows, 0), normal(rng, 20, 0)
    assert not kernels.matmul_nt(x, y).any() and not kernels.matmul_nn(x, y.T).any()
    assert kernels.matmul_nt(x, y, add_to=np.ones((rows, 20), np.float32)).all()


@pytest.mark.smoke
def test_swiglu_far_from_zero():
    z = np.array([[-1e4, -200, -88, -87, -20, 0, 20, 87, 88, 200, 1e4]], np.float32)
    with np.errstate(over="ignore"):  # of exp, as plain Python
        agrees("swiglu_forward", z, np.ones_like(z))
        agrees("swiglu_backward", np.ones_like(z), z, np.ones_like(z))


# attention


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 18), st.sampled_from([31, 33, 70])),  # queries
            st.sampled_from([0, 0, 1, 5, 40]),  # earlier keys
        ),
        max_size=4,
    ),
    st.booleans(),  # all sequences of one size?
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (6, 2), (12, 12)]),
    st.sampled_from([1, 2, 6, 16, 18, 32, 64]),
    LAYOUTS,
    SEEDS,
)
def test_attention(sizes, alike, heads, D, layout, seed):
    sizes = sizes[:1] * len(sizes) if alike else sizes
    (H, G), T = heads, [queries for queries, _ in sizes]
    ends, keys = np.cumsum([0, *T]), np.cumsum([0, *(t + past for t, past in sizes)])
    spans = np.stack([ends[:-1], ends[1:], keys[:-1], keys[1:]], axis=1).astype(np.int64)
    rng = np.random.default_rng(seed)
    q, do = (laid_out(normal(rng, ends[-1], H, D), layout) for _ in range(2))
    k, v = (laid_out(normal(rng, keys[-1], G, D), layout) for _ in range(2))
    largest = [float(np.abs(a).max(initial=1)) for a in (do, v, q, k)]
    o, lse = agrees("attention_forward", q, k, v, spans, scale=largest[1])  # a mean of values
    scale = largest[0] * largest[1] * max(largest[2:])  # and dq one of differences of do·v, times k
    agrees("attention_backward", do, q, k, v, spans, o, lse, scale=scale)


@pytest.mark.smoke
def test_attention_with_a_cache_is_the_end_of_attention_without(rng):
    """The keys of a cache stand in more rows than are used."""
    q, k, v = (normal(rng, 2, 9, heads, 8) for heads in (4, 2, 2))
    o, lse = kernels.attention_forward(*(rows(a) for a in (q, k, v)), rectangle(2, 9, 9))
    wide = [np.full((2, 12, 2, 8), np.nan, np.float32) for _ in "kv"]
    for cache, a in zip(wide, (k, v)):
        cache[:, :9] = a
    spans = rectangle(2, 3, 12) - [0, 0, 0, 3]
    late, late_lse = kernels.attention_forward(rows(q[:, 6:]), *map(rows, wide), spans)
    close(late, rows(o.reshape(2, 9, 4, 8)[:, 6:]).astype(np.float64))
    close(late_lse, lse.reshape(2, 9, 4)[:, 6:].reshape(-1, 4).astype(np.float64))


def rows(a):
    return a.reshape(-1, *a.shape[2:])


@pytest.mark.smoke
def test_attention_with_large_scores(rng):
    q, k, v, do = (normal(rng, 12, 2, 4) for _ in range(4))
    spans = rectangle(1, 12, 12)
    o, lse = agrees("attention_forward", 300 * q, 300 * k, v, spans)  # scores of about ±1e5
    back = kernels.attention_backward(do, 300 * q, 300 * k, v, spans, o, lse)
    assert all(np.isfinite(d).all() for d in back)


# loss


@given(
    SIZES, st.one_of(SIZES, st.just(1000)), st.sampled_from([np.int32, np.int64]), LAYOUTS, SEEDS
)
def test_cross_entropy(M, V, kind, layout, seed):
    rng = np.random.default_rng(seed)
    logits, targets = laid_out(4 * normal(rng, M, V), layout), rng.integers(0, V, M).astype(kind)
    targets[rng.random(M) < 0.3] = ref.IGNORED
    exact, out = (
        np.empty((M, V)),
        laid_out(normal(rng, M, V), "plain" if layout == "read-only" else layout),
    )
    wanted = ref.cross_entropy(logits.astype(np.float64), targets, exact)
    close(kernels.cross_entropy(logits, targets, out), wanted, scale=1)
    close(out, exact, scale=1)
    assert not out[targets == ref.IGNORED].any()
    if layout != "read-only":
        close(kernels.cross_entropy(logits, targets, logits), wanted, scale=1)  # in place
        close(logits, exact, scale=1)


@pytest.mark.smoke
def test_cross_entropy_of_extreme_logits():
    logits = np.array(
        [[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [-math.inf, 2, 1], [1e4, 1e4, -math.inf]], np.float32
    )
    targets = np.array([0, 1, 2, 1])
    exact, out = np.empty((4, 3)), np.empty((4, 3), np.float32)
    wanted = ref.cross_entropy(logits.astype(np.float64), targets, exact)
    with np.errstate(invalid="ignore"):  # inf - inf, by the kernel as plain Python
        losses = kernels.cross_entropy(logits, targets, out)
    np.testing.assert_allclose(losses, wanted, atol=1e-6)
    np.testing.assert_allclose(out, exact, atol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize("target", [5, -101, 10**6])
def test_cross_entropy_refuses_a_target_that_is_no_token(target, rng):
    logits = normal(rng, 2, 5)
    with pytest.raises(IndexError):
        kernels.cross_entropy(logits, np.array([0, target]), np.empty_like(logits))


# optimizer


@given(SIZES, SIZES, LAYOUTS, SEEDS)
def test_adamw(M, N, layout, seed):
    rng = np.random.default_rng(seed)
    p, m, v = normal(rng, M, N), np.zeros((M, N), np.float32), np.zeros((M, N), np.float32)
    exact = double((p, m, v))
    for step in (1, 2, 3):
        g = laid_out(normal(rng, M, N), layout)
        rest = (1e-2, 0.9, 0.999, 1e-8, 0.1, step)
        ref.adamw(exact[0], g.astype(np.float64), *exact[1:], *rest)
        assert kernels.adamw(p, g, m, v, *rest) is None
        for got, wanted in zip((p, m, v), exact):
            close(got, wanted)


# all kernels


@pytest.mark.smoke
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("name", kernels.TABLE)
def test_nan_and_inf_are_passed_on(name, poison, rng):
    """A number of an input that is not finite spoils at least what it spoils in the twin."""
    arguments = arguments_of(name, rng)
    for place, array in enumerate(arguments):
        unread = name == "cross_entropy" and place == 2
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or unread:
            continue
        poisoned = [*arguments[:place], array.copy(), *arguments[place + 1 :]]
        poisoned[place].flat[rng.integers(array.size)] = poison
        with np.errstate(all="ignore"):
            wanted = [np.isfinite(w) for w in run(getattr(ref, name), poisoned)]
            got = [np.isfinite(g) for g in run(getattr(kernels, name), poisoned)]
        new = (
            len(got)
            if name in WRITERS
            else len(got) - sum(isinstance(a, np.ndarray) for a in arguments)
        )
        assert all(w.all() for w in wanted[:new]) or not all(g.all() for g in got[:new])
        if not name.startswith("attention"):  # there the twin spoils masked places too: 0 · NaN
            assert not any((g & ~w).any() for g, w in zip(got, wanted))


@needs_jit
def test_exp_is_right_to_its_last_bits():
    import numba

    from minilora.fast.vectors import exp

    @numba.vectorize
    def exps(x):
        return exp(x)

    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    np.testing.assert_allclose(exps(x), np.exp(x.astype(np.float64)), rtol=4e-7)
    far = np.array([-math.inf, -1e30, -200, 0, 200, 1e30, math.inf, math.nan], np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(exps(far), [0, 0, 0, 1, *[math.inf] * 3, math.nan])


@needs_jit
@pytest.mark.parametrize("sizes", [(90, 70, 200), (1, 70, 200), (3, 1, 200)])  # one row, one query
@pytest.mark.parametrize("name", kernels.TABLE)
def test_the_number_of_threads_does_not_change_a_bit(name, sizes, rng, monkeypatch):
    arguments = arguments_of(name, rng, *sizes)
    home = sys.modules[kernels.compiled(name).__module__]
    results = []
    monkeypatch.setattr(home, "LEAST", 1, raising=False)  # few rows are worth a thread, here
    for cut in (1, 2, 2, 3, 5):
        monkeypatch.setattr(home, "tasks", lambda work, grain, cut=cut: cut)
        results.append(run(kernels.compiled(name), arguments))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


# the twins that are not the pages' own functions, against the pages


@pytest.mark.smoke
def test_the_reference_is_the_page(rng):
    """tests/ops has the pages beside other formulas and finite differences."""
    x, g, dy = (rng.standard_normal(shape) for shape in ((5, 7), 7, (5, 7)))
    y, cache = ops.rmsnorm.forward(x, g, 1e-3)
    found, rstd = ref.rmsnorm_forward(x, g, 1e-3)
    np.testing.assert_allclose(found, y, rtol=1e-12)
    dx, dg, _ = ops.rmsnorm.backward(dy, cache)
    np.testing.assert_allclose(ref.rmsnorm_dx(dy, x, g, rstd), dx, rtol=1e-12)
    np.testing.assert_allclose(ref.rmsnorm_dg(dy, x, rstd), dg, rtol=1e-12)
    targets, out = np.array([0, 4, ref.IGNORED, 2, 2]), np.empty_like(x)
    losses = ref.cross_entropy(x, targets, out)
    loss, cache = ops.cross_entropy.forward(x, targets)
    np.testing.assert_allclose(losses.sum() / 4, loss, rtol=1e-12)
    dlogits = ops.cross_entropy.backward(1.0, cache)[0]
    np.testing.assert_allclose(out / 4, dlogits, rtol=1e-12)


# sums along rows


def in_order(size, add):
    """A sum as sums.py says; add(old, k): old + the terms at k, rounded once."""
    partial = np.zeros(32, np.float32)
    for start in range(0, size, 32):
        k = np.arange(start, min(start + 32, size))
        partial[: len(k)] = add(partial[: len(k)], k)
    while len(partial) > 1:
        partial = np.add(*np.split(partial, 2))
    return partial[0]


@needs_jit
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 31, 32, 36, 55, 64, 135])
def test_a_sum_along_a_row_comes_in_the_order_that_is_written_down(size, rng):
    numba, sums = pytest.importorskip("numba"), importlib.import_module("minilora.fast.sums")
    x, y, z = (normal(rng, size) for _ in range(3))
    total = numba.njit(lambda x: sums.total(x))(x)
    dot = numba.njit(lambda x, y: sums.dot(x, y))(x, y)
    dot3 = numba.njit(lambda x, y, z: sums.dot3(x, y, z))(x, y, z)

    def fused(a, b):  # in float64 a product of two float32 is exact
        return lambda old, k: (old + a[k].astype(float) * b[k]).astype(np.float32)

    assert total == in_order(size, lambda old, k: old + x[k])
    assert dot == in_order(size, fused(x, y))
    assert dot3 == in_order(size, fused(x * y, z))
    with pytest.raises(numba.TypingError):
        numba.njit(lambda x: sums.total(x))(x.astype(float))


@needs_jit
@pytest.mark.slow
@pytest.mark.parametrize("processor, block", [("haswell", (6, 16)), ("nehalem", (2, 16))])
def test_products_and_attention_with_the_blocks_of_other_processors(processor, block, tmp_path):
    """With code for an older processor, which this one understands."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("about code for x86")
    code = """
import numpy as np
from minilora.fast import attention, matmul as mm
from minilora.ops.attention import attention_forward
r = np.random.default_rng(0)
n = lambda *shape: np.abs(r.standard_normal(shape, dtype=np.float32))
for M, K, N in ((7, 5, 19), (61, 400, 70), (530, 40, 50), (33, 9, 200), (40, 300, 3)):
    x, w, y = n(M, K), n(N, K), n(M, N)
    for got, wanted in (
        (mm.matmul_nt(x, w), x @ w.T),
        (mm.matmul_nn(x, w.T.copy()), x @ w.T),
        (mm.matmul_tn(x, y), x.T @ y),
    ):
        assert np.abs(got - wanted).max() < 1e-5 * wanted.max(), (M, K, N)
q, k, v = n(104, 4, 6), n(110, 2, 6), n(110, 2, 6)
spans = np.array([[0, 33, 0, 33], [33, 34, 33, 40], [34, 104, 40, 110]])
wanted = attention_forward(q.astype(float), k.astype(float), v.astype(float), spans)[0]
assert np.abs(attention.attention_forward(q, k, v, spans)[0] - wanted).max() < 1e-5
print(mm.MR, mm.NR)
"""
    features = "+avx2,+fma,+avx" if processor == "haswell" else "+sse4.2"
    own = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    own |= {"NUMBA_CACHE_DIR": str(tmp_path), "MINILORA_KERNELS": "numba"}
    assert python(code, **own) == f"{block[0]} {block[1]}"


# the table


def python(code, **environment):
    """What a fresh Python prints."""
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.smoke
def test_without_numba_the_pages_answer():
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from minilora import fast, ops
x = np.arange(6, dtype=np.float32).reshape(2, 3)
print(fast.backend(), ops.linear(x, x).data.tolist(), ops.linear(x, x).dtype)
"""
    environment = {"MINILORA_KERNELS": ""}
    assert python(code, **environment) == "numpy [[5.0, 14.0], [14.0, 50.0]] float32"


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["cuda", "amx"])
def test_a_wrong_name_of_a_backend_is_refused(name, monkeypatch):
    monkeypatch.setenv("MINILORA_KERNELS", name)
    with pytest.raises(ValueError, match=f"got '{name}', wanted 'numba' or 'numpy'"):
        fast.backend.__wrapped__()


@needs_jit
def test_a_second_process_compiles_nothing(rng):
    for name in kernels.TABLE:
        kernels.compiled(name)
    code = """
from minilora.fast import kernels
homes = [kernels.compiled(name).__globals__ for name in kernels.TABLE]
stats = [f.stats for home in homes for f in home.values() if hasattr(f, "stats")]
print(sum(sum(s.cache_misses.values()) for s in stats))
print(sum(sum(s.cache_hits.values()) for s in stats) >= len(homes))
"""
    assert python(code).split() == ["0", "True"]


@needs_jit
@pytest.mark.slow
def test_no_bit_hangs_on_what_was_compiled_and_what_came_from_the_disk(tmp_path):
    """A kernel's loops stand in itself and in the one that shares them out, compiled twice; which
    of the two runs depends on which came from the disk. So the two must do the same.
    """
    script = """
import hashlib
import numpy as np
from test_kernels import arguments_of, kernels, run
said = hashlib.sha256()
for sizes in ((7, 5, 19), (37, 33, 75), (1400, 24, 40)):  # of these two threads take a share
    for name, home in kernels.TABLE.items():
        if home in ("pointwise", "softmax", "adam", "gated") or (
            home == "attention" and sizes[0] < 40
        ):
            arguments = arguments_of(name, np.random.default_rng(0), *sizes)
            for array in run(getattr(kernels, name), arguments):
                said.update(np.ascontiguousarray(array).tobytes())
print(said.hexdigest())
"""
    own = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
    own["PYTHONPATH"] = os.pathsep.join(sys.path)
    first = python(script, **own)
    indexes = sorted(tmp_path.rglob("*.nbi"))
    kept = {path: path.read_bytes() for path in indexes}
    words = "part", "_rows", "_columns", "_positions", "_share", "_block"
    loops = [path for path in indexes if any(word in path.name for word in words)]
    assert len(loops) > 12
    for dropped in (loops, [path for path in indexes if path not in loops][::2]):
        for path, index in kept.items():
            path.write_bytes(index)
        for path in dropped:
            path.unlink()
        assert python(script, **own) == first
