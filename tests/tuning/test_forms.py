"""A frozen weight of another form: one made up here trains, is saved, counted and merged."""

import math

import numpy as np
import pytest
from battery import BATCHES, base, same_bits

import minilora as ml
from minilora.memory.step import CATEGORIES

NAMES = list(ml.METHODS)
OWN = [n for n in NAMES if ml.METHODS[n].whole_model or ml.METHODS[n].owns_weight]


class Codes:
    """W (O, I) as whole numbers of 8 bits, with one scale a row. It has what is asked, no more."""

    __array_ufunc__ = None  # array @ codes asks the codes

    def __init__(self, codes, scales, across=False):
        self.codes, self.scales, self.across = codes, scales, across
        self.shape, self.dtype = codes.shape[::-1] if across else codes.shape, scales.dtype

    @classmethod
    def of(cls, W):
        """The nearest codes of an array."""
        scales = (np.abs(W).max(axis=1, keepdims=True) / 127).astype(W.dtype)
        return cls(np.round(W / scales).astype(np.int8), scales)

    @property
    def nbytes(self):
        return self.codes.nbytes + self.scales.nbytes

    @property
    def T(self):
        return Codes(self.codes, self.scales, not self.across)

    def __rmatmul__(self, x):
        return x @ np.asarray(self)

    def __array__(self, dtype=None, copy=None):
        W = self.codes * self.scales
        return W.T if self.across else W


def coded(dtype="float32"):
    """The tests' base with its linears as codes, and the same numbers as arrays."""
    model = base(dtype)
    linears = [f"{name}.weight" for name in model.config.linears()]
    codes = {name: Codes.of(model.params[name]) for name in linears}
    arrays = {name: np.asarray(codes[name]) for name in linears}
    return [ml.Llama(model.config, {**model.params, **some}) for some in (codes, arrays)]


def attached(model, name):
    how = {} if ml.METHODS[name].whole_model else {"targets": "all-linear"}
    return ml.attach(model, name, **how, **({"rank": 3} if how else {}))


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_merges_as_its_numbers_do(name):
    with ml.plain():
        tuned, wanted = (attached(model, name) for model in coded("float64"))
        assert same_bits(tuned.arrays, wanted.arrays)
        losses = [ml.train(t, BATCHES, steps=3, lr=0.01).losses for t in (tuned, wanted)]
        assert losses[0] == losses[1] and same_bits(tuned.arrays, wanted.arrays)
        ids = BATCHES[0][0]
        assert np.array_equal(tuned.logits(ids), wanted.logits(ids))
        assert np.array_equal(tuned.generate(ids, 3), wanted.generate(ids, 3))
        merged, right = ml.merge(tuned), ml.merge(wanted)
    assert same_bits(*({k: np.asarray(w) for k, w in m.params.items()} for m in (merged, right)))
    assert tuned.count_parameters() == wanted.count_parameters()
    adapted = [f"{layer}.weight" for layer in tuned.layers]
    assert all(isinstance(merged.params[k], np.ndarray) for k in adapted)


@pytest.mark.parametrize("name", NAMES)
def test_its_adapter_and_its_checkpoint_come_back(name, tmp_path):
    model, _ = coded()
    with ml.plain():
        tuned, file = attached(model, name), tmp_path / "run.safetensors"
        ml.train(tuned, BATCHES, steps=2, lr=0.01, checkpoint=file)
        ml.save_adapter(tuned, tmp_path)
        for place in (tmp_path, file):
            again = ml.load_adapter(model, place)
            ids = BATCHES[0][0]
            assert np.allclose(again.logits(ids), tuned.logits(ids), atol=1e-5), place
        on = ml.train(tuned, BATCHES, steps=3, lr=0.01, checkpoint=file, resume=True)
    assert len(on.losses) == 3


@pytest.mark.parametrize("name", NAMES)
def test_its_bytes_are_predicted_and_measured(name):
    """The ledger counts what the codes take; a technique that moves W has a copy of numbers."""
    model, arrays = coded()
    tuned = attached(model, name)
    with ml.plain():
        said, found = ml.ledger(tuned, 2, 6), ml.measure(tuned, 2, 6)
    assert {c: said[c] for c in CATEGORIES} == {c: found[c] for c in CATEGORIES}
    assert said.saved == found.saved and said.base_kept == found.base_kept
    how = {} if ml.METHODS[name].whole_model else {"targets": "all-linear", "rank": 3}
    assert ml.ledger(model, 2, 6, method=name, **how) == said
    whole = ml.ledger(attached(arrays, name), 2, 6)
    linears = [model.params[f"{layer}.weight"] for layer in model.config.linears()]
    less = sum(math.prod(w.shape) * w.dtype.itemsize - w.nbytes for w in linears)
    part = "base_kept" if name in OWN else "frozen"
    assert whole[part] - said[part] == less > 0


def test_a_model_of_it_is_saved_as_its_numbers(tmp_path):
    model, arrays = coded()
    ml.save_model(model, tmp_path)
    assert same_bits(ml.load_model(tmp_path).params, arrays.params)
    assert same_bits(model.astype("float64").params, arrays.astype("float64").params)


def test_an_infinite_scale_is_named():
    model, _ = coded()
    name = "model.layers.1.mlp.up_proj.weight"
    model.params[name].scales[0] = np.inf
    with ml.plain(), np.errstate(all="ignore"), pytest.raises(ml.tuning.train.Diverged, match=name):
        ml.train(attached(model, "lora"), BATCHES, steps=1, lr=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_where_twins_are_on_its_page_answers(name):
    """Of the linears alone: all else in a step has its twins."""
    tuned, wanted = (attached(model, name) for model in coded())
    losses = [ml.train(t, BATCHES, steps=2, lr=0.01).losses for t in (tuned, wanted)]
    assert np.allclose(*losses, rtol=1e-5)
    assert np.allclose(tuned.logits(BATCHES[0][0]), wanted.logits(BATCHES[0][0]), atol=1e-4)
    assert np.array_equal(tuned.generate(BATCHES[0][0], 3), wanted.generate(BATCHES[0][0], 3))
