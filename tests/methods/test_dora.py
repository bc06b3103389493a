"""DoRA: its two pairs, what training leaves out of the gradient, its merge, its form on disk.

The trajectories of PEFT's DoRA are replayed in test_golden.py.
"""

import dataclasses
import json

import numpy as np
import pytest
from conftest import make_llama, rel

import minilora as ml
from minilora.formats.safetensors import read_arrays, write_arrays
from minilora.gradcheck import GradientError
from minilora.methods import dora, lora

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"
IDS = np.random.default_rng(3).integers(0, 29, (3, 12))
SHAPES = [(5, 4, 3, 2), (1, 6, 2, 1), (7, 3, 8, 5), (4, 9, 1, 3)]  # M, I, O, r; r above I, too
each_shape = pytest.mark.parametrize("shape", SHAPES)


def linear(shape, s=1.5):
    """x, W, s, A, B, m of one linear, none of them zero and m not the norm of a row."""
    M, I, O, r = shape
    rng = np.random.default_rng(0)
    x, W, A, B = (rng.standard_normal(n) for n in [(M, I), (O, I), (r, I), (O, r)])
    return x, W, s, A, B, 1 + rng.random(O)


def row_norms(W, s, A, B):
    """‖W + s B A‖₂ of each row, by NumPy's own function."""
    return np.linalg.norm(W + s * (B @ A), axis=1)


# ---- the pairs


@each_shape
def test_the_value_is_that_of_the_weight_with_rows_of_length_m(shape):
    x, W, s, A, B, m = linear(shape)
    norm, _ = dora.row_norm_forward(W, s, A, B)
    np.testing.assert_allclose(norm, row_norms(W, s, A, B), rtol=1e-13)
    y, _ = dora.dora_forward(x, W, s, A, B, m, norm)
    adapted = (m / norm)[:, None] * (W + s * B @ A)
    assert rel(y, x @ adapted.T) < 1e-13
    np.testing.assert_allclose(np.linalg.norm(adapted, axis=1), m, rtol=1e-13)


@each_shape
def test_both_pairs_against_finite_differences(shape):
    x, W, s, A, B, m = linear(shape)
    norm = row_norms(W, s, A, B) * 1.3  # a frozen argument like any other: not this B's norm
    for magnitudes in (m, -m):
        arguments = x, W, s, A, B, magnitudes, norm
        ml.gradcheck(dora.dora_forward, dora.dora_backward, *arguments, frozen=("W", "norm"))
    ml.gradcheck(dora.row_norm_forward, dora.row_norm_backward, W, s, A, B, frozen=("W",))


# ---- the norm's part of the derivative


def whole_forward(x, W, s, A, B, m):
    """DoRA as one function of what trains: the norm is computed inside.  ->  y (M, O)."""
    norm, of_norm = dora.row_norm_forward(W, s, A, B)
    y, of_y = dora.dora_forward(x, W, s, A, B, m, norm)
    return y, (y, norm, of_y, of_norm)


def whole_backward(dy, cache):
    """dy (M, O) -> dx, None, None, dA, dB, dm: the two pairs together."""
    y, norm, of_y, of_norm = cache
    dx, _, _, dA, dB, dm, _ = dora.dora_backward(dy, of_y)
    dnorm = -(dy * y).sum(axis=0) / norm  # y has 1 / norm
    _, _, dA_of_norm, dB_of_norm = dora.row_norm_backward(dnorm, of_norm)
    return dx, None, None, dA + dA_of_norm, dB + dB_of_norm, dm


def detached_backward(dy, cache):
    """dy (M, O) -> dx, None, None, dA, dB, dm: what training uses."""
    return dora.dora_backward(dy, cache[2])[:-1]


@each_shape
def test_the_two_pairs_make_the_whole_derivative(shape):
    ml.gradcheck(whole_forward, whole_backward, *linear(shape), frozen=("W",))


@each_shape
def test_the_detached_gradient_is_another(shape):
    """Of A and B; x and m do not reach the norm."""
    with pytest.raises(GradientError, match="dA is wrong"):
        ml.gradcheck(whole_forward, detached_backward, *linear(shape), frozen=("W",))
    y, cache = whole_forward(*linear(shape))
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, _, _, dA, dB, dm = detached_backward(dy, cache)
    whole = whole_backward(dy, cache)
    assert np.array_equal(whole[0], dx) and np.array_equal(whole[5], dm)
    assert rel(dA, whole[3]) > 0.05 and rel(dB, whole[4]) > 0.05


@pytest.mark.oracles
@pytest.mark.parametrize("detached", [True, False])
@each_shape
def test_gradients_are_torchs(shape, detached):
    torch = pytest.importorskip("torch", reason="extra: oracles")
    given = linear(shape)
    x, W, s, A, B, m = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in given]
    leaves = [a.requires_grad_() for a in (x, A, B, m)]
    norm = torch.linalg.vector_norm(W + s * B @ A, dim=1)
    theirs = (m / (norm.detach() if detached else norm)) * (x @ (W + s * B @ A).T)
    y, cache = whole_forward(*given)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    theirs.backward(torch.tensor(dy))
    assert rel(y, theirs.detach().numpy()) < 1e-12
    mine = (detached_backward if detached else whole_backward)(dy, cache)
    for grad, leaf in zip([mine[i] for i in (0, 3, 4, 5)], leaves, strict=True):
        assert rel(grad, leaf.grad.numpy()) < 1e-12


# ---- limits


@each_shape
def test_with_m_the_norm_it_is_lora(shape):
    """In value, and in the detached gradients of x, A and B."""
    x, W, s, A, B, _ = linear(shape)
    norm, _ = dora.row_norm_forward(W, s, A, B)
    y, cache = dora.dora_forward(x, W, s, A, B, norm, norm)
    wanted, of_lora = lora.lora_forward(x, W, s, A, B)
    assert rel(y, wanted) < 1e-13
    dy = np.random.default_rng(1).standard_normal(y.shape)
    of_dora = dora.dora_backward(dy, cache)[:5]
    for mine, loras in zip(of_dora, lora.lora_backward(dy, of_lora)[:5]):
        assert (mine is None) == (loras is None)
        assert mine is None or rel(mine, loras) < 1e-12


@each_shape
def test_only_the_direction_of_a_row_counts(shape):
    """W and B twice as large give the same value; m twice as large gives it twice."""
    x, W, s, A, B, m = linear(shape)
    y, _ = whole_forward(x, W, s, A, B, m)
    assert rel(whole_forward(x, 2 * W, s, A, 2 * B, m)[0], y) < 1e-13
    assert rel(whole_forward(x, W, s, A, B, 2 * m)[0], 2 * y) < 1e-13


# ---- on a model


def tuned_dora(steps=8, dtype=np.float64, seed=2, **options):
    """A tiny Llama under DoRA after some steps."""
    tuned = ml.attach(make_llama(dtype=dtype), "dora", seed=seed, **{"rank": 3, **options})
    if steps:
        ml.train(tuned, [(IDS, np.roll(IDS, -1, axis=1))], steps=steps, lr=2e-2, progress=False)
    return tuned


def of_kind(tuned, kind):
    """The trainable arrays whose key ends so, by layer."""
    return {
        key.removeprefix("base_model.model.").removesuffix(kind): a
        for key, a in tuned.trainable.items()
        if key.endswith(kind)
    }


A_KEY, B_KEY, M_KEY = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def test_a_fresh_adapter_changes_nothing():
    tuned = tuned_dora(steps=0)
    assert rel(tuned.logits(IDS), tuned.base.logits(IDS)) < 1e-12
    for layer, m in of_kind(tuned, M_KEY).items():
        norms = np.linalg.norm(tuned.base.params[f"{layer}.weight"], axis=1)
        np.testing.assert_allclose(m, norms, rtol=1e-13)


def test_the_first_step_moves_b_and_m():
    """At B = 0 the gradient of A is 0."""
    before, after = tuned_dora(steps=0), tuned_dora(steps=1)
    for key, a in before.trainable.items():
        assert np.array_equal(a, after.trainable[key]) == key.endswith(A_KEY), key


# ---- on disk


def saved(folder, **changes):
    """A trained DoRA in a folder as another writer would leave it: without minilora's metadata."""
    tuned = tuned_dora(dtype=np.float32)
    ml.save_adapter(tuned, folder)
    arrays, _ = read_arrays(folder / ARRAYS)
    write_arrays(folder / ARRAYS, arrays)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))
    return tuned, arrays


def test_the_folder_is_pefts(tmp_path):
    tuned, arrays = saved(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    wanted = {"peft_type": "LORA", "use_dora": True, "r": 3, "lora_alpha": 6, "use_rslora": False}
    assert wanted.items() <= config.items() and not config.get("lora_dropout")
    assert arrays.keys() == tuned.trainable.keys()
    assert all(np.array_equal(a, tuned.trainable[key]) for key, a in arrays.items())


def test_a_round_trip_without_minilora_s_metadata_keeps_the_technique(tmp_path):
    """use_dora says it."""
    tuned, _ = saved(tmp_path)
    loaded = ml.load_adapter(tuned.base, tmp_path)
    assert loaded.method == "dora"
    assert loaded.trainable.keys() == tuned.trainable.keys()
    assert all(np.array_equal(a, tuned.trainable[key]) for key, a in loaded.trainable.items())
    assert np.array_equal(loaded.logits(IDS), tuned.logits(IDS))


@pytest.mark.parametrize(
    "changes, method, said",
    [
        ({"lora_dropout": 0.1}, None, "dropout"),
        ({"use_dora": False}, None, "magnitude"),
        ({}, "lora", "dora"),
    ],
)
def test_what_would_not_be_the_same_dora_is_refused(tmp_path, changes, method, said):
    """PEFT drops the magnitudes of a file without a word where the config has no use_dora."""
    tuned, _ = saved(tmp_path, **changes)
    with pytest.raises(ValueError, match=said):
        ml.load_adapter(tuned.base, tmp_path, method=method)


def test_a_file_without_magnitudes_is_refused(tmp_path):
    tuned, arrays = saved(tmp_path)
    write_arrays(tmp_path / ARRAYS, {k: a for k, a in arrays.items() if not k.endswith(M_KEY)})
    with pytest.raises(ValueError, match="magnitude"):
        ml.load_adapter(tuned.base, tmp_path)


def test_a_form_on_disk_that_loses_the_change_is_not_written(tmp_path):
    """DoRA's record with LoRA's form would lose m: another model would come back."""
    wrong = dataclasses.replace(ml.METHODS["dora"], peft=ml.METHODS["lora"].peft)
    tuned = ml.attach(make_llama(dtype=np.float32), wrong, rank=2)
    ml.train(tuned, [(np.arange(12).reshape(2, 6),) * 2], steps=2, lr=1e-2)
    folder = tmp_path / "adapter"
    with pytest.raises(ValueError, match=r"LORA, read as lora\) does not give back the change of"):
        ml.save_adapter(tuned, folder)
    assert not folder.exists()
