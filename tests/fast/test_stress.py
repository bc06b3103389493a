"""Numbers and shapes at the edges, many steps, and memory beside the arrays."""

import ctypes
import gc
import math
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from battery import BATCHES, base, tune
from cases import PAIRS, arguments, frozen, parameters, running, twins
from conftest import LAYOUTS, laid_out, make_llama
from test_twins import WITH_TWIN, is_float, single

import minilora as ml
from minilora import fast, ops
from minilora.tuning.train import Diverged

THOROUGH = os.environ.get("MINILORA_TESTS") == "thorough"  # the nightly part
needs_numba = pytest.mark.skipif(fast.backend() == "numpy", reason="about Numba's twins")


def both(name, args):
    """Value and gradients of a pair: in float32, by its twin where there is one; and by the page in
    float64 on the same numbers.
    """
    forward, backward = running(name)
    found = []
    for given in (args, [a.astype(np.float64) if is_float(a) else a for a in args]):
        out, cache = forward(*given)
        found.append([out, *backward(np.ones_like(out), cache)])
    return found


# ---------------------------------------- the end of float32


def test_a_rate_far_too_high_ends_in_rmsnorm():
    """A page's RMSNorm gives 0 for entries beyond 1.8e19: from then on all tokens are equally
    likely. A kernel's may give NaN, which ends the run.
    """
    model = make_llama(dtype=np.float32)

    def losses():
        tuned = ml.attach(model, "lora", rank=3, targets="all-linear")
        return ml.train(tuned, BATCHES, steps=4, lr=1e8).losses

    with np.errstate(all="ignore"):
        with ml.plain():
            assert losses()[1:] == pytest.approx([math.log(29)] * 3)
        try:
            assert losses()[1:] == pytest.approx([math.log(29)] * 3)
        except Diverged as error:
            assert error.step == 2 and "the first that is not finite: an array of rmsnorm" in str(
                error
            )


@pytest.mark.parametrize("size, off", [(1e2, 1e-4), (1e4, 5e-3), (1e6, 0.5), (1e19, math.inf)])
def test_gradients_of_attention_with_large_scores(size, off):
    """A page's stay right; a kernel's probabilities are off by the rounding of lse."""
    rng, spans = np.random.default_rng(0), np.array([[0, 5, 0, 5]])
    q, do = rng.standard_normal((2, 5, 4, 8)).astype(np.float32)
    k, v = rng.standard_normal((2, 5, 2, 8)).astype(np.float32)
    q *= np.float32(size)

    def dv(forward, backward, kind):
        o, cache = forward(q.astype(kind), k.astype(kind), v.astype(kind), spans)
        return o, backward(do.astype(kind), cache)[2]

    page = ops.attention.forward, ops.attention.backward
    (o, right), *others = (
        dv(*page, np.float64),
        dv(*page, np.float32),
        dv(*running("attention"), np.float32),
    )
    for (found, gradient), most in zip(others, (1e-4, off)):
        assert np.allclose(found, o, atol=1e-4)
        if most < math.inf:
            assert np.abs(gradient - right).max() <= most * np.abs(right).max()


# ---------------------------------------- sizes of 1


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 5, 4, 1), (5, 1, 1, 1), (4, 3, 5, 1)])
def test_one_row_one_column_rank_one(name, sizes):
    """M, I, O, r: the gradients against finite differences, and the twin against the page."""
    args = arguments(name, 2, *sizes)
    ml.gradcheck(*PAIRS[name], *args, frozen=frozen(name))
    got, wanted = both(name, single(args))
    for what, a, b in zip(("value", *parameters(PAIRS[name][0])), got, wanted):
        assert (a is None) == (b is None)
        if a is not None:
            size = max(1.0, np.abs(b).max(initial=0.0))
            assert np.abs(a - b).max(initial=0.0) <= 2e-5 * size, f"{what} of {name}"


@pytest.mark.parametrize("name", ml.METHODS)
def test_one_token_trains(name):
    tuned = tune(name, base("float32"), rank=1)
    ids = np.array([[3]])
    history = ml.train(tuned, [(ids, ids)], steps=3, lr=1e-2)
    assert history.losses[-1] < history.losses[0]


# ---------------------------------------- large and small numbers


@pytest.mark.parametrize("name", ["cross_entropy", "head_loss", "frozen_head_loss"])
def test_logits_of_ten_thousand(name):
    logits = np.array([[1e4, 0, -1e4], [-1e4, -1e4, 1e4], [0, 1e4, 1e4]], np.float32)
    targets = np.array([0, 1, 2])
    args = [logits, targets] if name == "cross_entropy" else [logits, np.eye(3, dtype="f"), targets]
    got, wanted = both(name, args)
    assert got[0] == pytest.approx((0 + 2e4 + np.log(2)) / 3, rel=1e-6)
    for a, b in zip(got, wanted):
        assert a is None or (np.isfinite(a).all() and np.abs(a - b).max() <= 1e-6 * np.abs(b).max())


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-38, 1e-20])
@pytest.mark.parametrize("name", WITH_TWIN)
def test_numbers_too_small_for_their_precision(name, size):
    """Subnormal numbers: finite answers, off by what such numbers round to and no more."""
    args = single(arguments(name, 3, 4, 3, 5, 2))
    small = [(a * np.float32(size)).astype("f") if is_float(a) and a.ndim else a for a in args]
    if name == "rope":
        small[1:] = args[1:]  # a cosine and a sine
    if name == "dora":
        small[-1] = args[-1]  # it divides by the norm
    got, wanted = both(name, small)
    for a, b in zip(got, wanted):
        if a is not None:
            assert np.isfinite(a).all()
            assert np.abs(a - b).max(initial=0.0) <= 2e-5 * np.abs(b).max(initial=0.0) + 1e-42


# ---------------------------------------- many steps


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_many_steps_do_not_grow():
    """2,000 steps, or 50,000 in the nightly part: the process stays as large as it was."""
    sizes = sizes_after(*(50, 1000) if THOROUGH else (10, 200))
    assert sizes[-1] - sizes[2] < 1 << 20, [n >> 10 for n in sizes]


def sizes_after(rounds: int, steps: int) -> list[int]:
    """Bytes of memory that this process has after each round of so many steps."""
    tuned = ml.attach(make_llama(dtype=np.float32), "lora", rank=2)
    sizes = []
    for _ in range(rounds):
        ml.train(tuned, BATCHES, steps=steps, lr=1e-4)
        gc.collect()
        sizes.append(resident())
    return sizes


# ---------------------------------------- memory beside the arrays


def guarded(array: np.ndarray, keep: list) -> np.ndarray:
    """The same numbers at the end of a page after which the process may touch nothing."""
    page = mmap.PAGESIZE
    size = -(-max(array.nbytes, 1) // page) * page
    area = mmap.mmap(-1, size + 2 * page)
    keep.append(area)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for at in (start, start + page + size):
        assert protect(ctypes.c_void_p(at), ctypes.c_size_t(page), 0) == 0
    flat = np.frombuffer(area, array.dtype, array.size, page + size - array.nbytes)
    return np.copyto(flat, array.ravel()) or flat.reshape(array.shape)


def term_of_width_one(x, g, eps) -> float:
    """The largest of the terms whose small difference is the gradient of RMSNorm of width 1."""
    return float((np.abs(g) / np.sqrt(x * x + eps)).max())


def run_guarded(examples: int, seed: int) -> float:
    """Every twin on random shapes, its arrays between two pages that nobody may touch  ->  how far
    one was from its page in float64 at most, as a share of the largest entry, or of 1.
    """
    rng, worst = np.random.default_rng(seed), 0.0
    sizes = [*range(1, 10), 16, 33, 49]
    for n in range(examples):
        name = WITH_TWIN[n % len(WITH_TWIN)]
        (forward, backward), (fast_forward, fast_backward) = PAIRS[name], twins(name)
        M, I, O = (int(rng.choice(sizes)) for _ in range(3))
        args = single(arguments(name, n, M, I, O, int(rng.integers(1, 10))))
        keep: list = []
        held = [guarded(a, keep) if is_float(a) and a.ndim else a for a in args]
        if n % 3 == 1:  # another layout between the same pages: every second row
            held = [a[::-1] if is_float(a) and a.ndim else a for a in held]
            args = [laid_out(a[::-1], LAYOUTS[0]) if is_float(a) and a.ndim else a for a in args]
        out, cache = fast_forward(*held)
        dout = guarded(np.ones_like(np.atleast_1d(out)), keep).reshape(np.shape(out))
        grads = fast_backward(dout, cache)
        wide = [a.astype(np.float64) if is_float(a) else a for a in args]
        wanted, page_cache = forward(*wide)
        exact = backward(np.ones_like(wanted), page_cache)
        term = term_of_width_one(*wide) if name == "rmsnorm" and I == 1 else 0.0
        for got, right in zip((out, *grads), (wanted, *exact)):
            if got is not None:
                size = max(1.0, np.abs(right).max(initial=0.0), term)
                off = np.abs(got - right).max(initial=0.0)
                assert off <= 2e-5 * size, (name, n, seed, off)
                worst = max(worst, float(off / size))
    return worst


@needs_numba
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="mprotect")
def test_twins_touch_nothing_beside_their_arrays():
    """300 shapes, or 20,000 in the nightly part, in a process that would end at the first touch."""
    examples, seed = (20_000, int.from_bytes(os.urandom(3))) if THOROUGH else (300, 0)
    code = f"import test_stress; test_stress.run_guarded({examples}, {seed})"
    place = Path(__file__).parent
    path = os.pathsep.join([str(place.parents[1]), str(place.parent), str(place)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr[-2000:]}"
