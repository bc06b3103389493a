"""Whole steps with the twins: the same numbers as on the pages alone, and no waste around them."""

import os
import statistics
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import make_llama, rel

import minilora as ml
from minilora import fast
from minilora.lab import cells
from minilora.ops.loss import IGNORED

needs_numba = pytest.mark.skipif(not fast.on(), reason="compares the twins with the pages")

SHAPE = dict(hidden_size=48, intermediate_size=80, vocab_size=61, num_attention_heads=4)


def model_of(seed=0):
    """Shapes that no block divides."""
    return make_llama(seed, np.float32, **SHAPE)


def batches(rng, n=3, rows=3, length=19):
    pairs = []
    for _ in range(n):
        ids = rng.integers(0, SHAPE["vocab_size"], (rows, length))
        targets = np.roll(ids, -1, axis=1)
        targets[rng.random(ids.shape) < 0.2] = IGNORED
        pairs.append((ids, targets))
    return pairs


def trained(method, steps, **how):
    tuned = ml.attach(model_of(), method, **how)
    data = batches(np.random.default_rng(1))
    history = ml.train(tuned, data, steps=steps, lr=3e-3, weight_decay=0.01, clip=1.0)
    moved = {**tuned.trainable, **{k: a for k, a in tuned.arrays.items() if "base_layer" in k}}
    return history.losses, moved


@needs_numba
@pytest.mark.parametrize("method", ml.METHODS)
def test_twenty_steps_are_those_of_the_pages(method):
    """What a step rule moves is read anew in each step: a stale copy of W would show by step 2."""
    how = {} if ml.METHODS[method].whole_model else {"targets": "all-linear", "rank": 5}
    losses, moved = trained(method, 20, **how)
    with ml.plain():
        page_losses, page_moved = trained(method, 20, **how)
    assert losses != page_losses, "both were made by the same code"
    np.testing.assert_allclose(losses, page_losses, rtol=2e-4)
    assert losses[-1] < losses[0]
    start = ml.attach(model_of(), method, **how).arrays
    for key, array in moved.items():
        change = page_moved[key] - start[key]
        assert np.linalg.norm(array - page_moved[key]) <= 0.02 * np.linalg.norm(change), key


@needs_numba
@pytest.mark.parametrize("method", ["full", "lora", "delta_lora"])
def test_a_weight_written_by_hand_is_used_at_once(method):
    tuned = ml.attach(model_of(), method)
    ids, targets = batches(np.random.default_rng(2), 1)[0]
    ml.train(tuned, [(ids, targets)], steps=2, lr=1e-3)
    before = tuned.logits(ids)
    for weights in (tuned.base.params, tuned.weights, *tuned.layers.values()):
        for name, a in weights.items():
            if isinstance(a, np.ndarray) and (name == "W" or name.endswith("proj.weight")):
                a *= 1.5
    after = tuned.logits(ids)
    with ml.plain():
        assert rel(after, tuned.logits(ids)) < 1e-5 < 1e-2 < rel(after, before)


@needs_numba
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc and Linux")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_warm_step_makes_no_page_faults(method):
    """Memory of a step is used again in the next: the system clears no page anew."""
    code = f"""
import resource, numpy as np, minilora as ml
from minilora.bench import cases
size = cases.SIZES["tiny"]
tuned = cases.make(size, cases.CASES[{method!r}])
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
seen = []
evaluate = lambda tuned: seen.append(faults())
ml.train(tuned, [cases.batch(size)], steps=14, lr=1e-3, evaluate=evaluate, evaluate_every=1)
print(*np.diff(seen)[4:])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("another C library")
    assert statistics.median(map(int, done.stdout.split())) <= 8


def test_inside_plain_no_numba_code_runs():
    """Every technique trains and writes text in a process that never imports Numba."""
    code = """
import sys, numpy as np, minilora as ml
with ml.plain():
    model = ml.load_model("base")
    ids = np.arange(24).reshape(2, 12)
    for method in ml.METHODS:
        tuned = ml.attach(model, method)
        ml.train(tuned, [(ids, ids)], steps=2, lr=1e-3)
        tuned.generate(ids[:, :3], 4)
print("numba" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_plain_is_for_a_block():
    before = fast.on()
    with ml.plain():
        assert not fast.on() and fast.is_plain()
        with ml.plain(False):
            assert fast.on() == before
        assert not fast.on()
    assert fast.on() == before


def is_plain(x):
    return fast.is_plain()


def test_plain_reaches_the_workers():
    for jobs in (1, 2):
        with ml.plain():
            inside = cells.run(is_plain, cells.grid(x=[1, 2]), jobs=jobs)
        outside = cells.run(is_plain, cells.grid(x=[1, 2]), jobs=jobs)
        assert [r["result"] for r in inside] == [True, True]
        assert [r["result"] for r in outside] == [False, False]


@pytest.mark.skipif(fast.backend() == "numpy", reason="there is no kernel to compile")
@pytest.mark.parametrize("in_a_notebook", [False, True])
def test_kernels_are_compiled_with_a_line_and_in_a_notebook_with_a_bar(
    in_a_notebook, tmp_path, monkeypatch, capsys
):
    """A notebook's stderr is no terminal, and is watched all the same."""
    from minilora.fast import build

    monkeypatch.setitem(build.settings, "DISABLE_JIT", False)
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(build, "FILES", ("jit", "threads"))  # which are imported already
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if in_a_notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    build.compile_missing()
    said = capsys.readouterr().err
    assert "compiling its kernels for this processor. This happens once" in said
    assert ("2/2" in said or "compiling:" in said) == in_a_notebook
