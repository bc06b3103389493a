"""A frozen weight of another form: one made up here trains, is saved, counted and merged."""

import math
import pickle

import numpy as np
import pytest
from battery import BATCHES, base, same_bits
from conftest import make_llama, rel, same_peak

import minilora as ml
from minilora.formats.forms import put
from minilora.formats.safetensors import write_arrays
from minilora.llama.model import EMBED
from minilora.memory.step import CATEGORIES
from minilora.ops import nf4
from minilora.support.meta import form_of
from minilora.support.packed import blocks_of
from minilora.tuning.checkpoints import fingerprint

OWN = [n for n, m in ml.METHODS.items() if m.whole_model or m.owns_weight]
NAMES = [n for n in ml.METHODS if n not in OWN]  # those that leave W alone


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


FORMS = ("codes", "nf4", "Q8_0", "BF16")


def coded(form="codes", dtype="float32"):
    """The tests' base, wide enough for blocks, with its linears in a form, and the same numbers as
    arrays.
    """
    model = base(dtype, 64)
    linears = [f"{name}.weight" for name in model.config.linears()]
    make = Codes.of if form == "codes" else lambda W: put("here", "W", W, form)
    codes = {name: make(model.params[name]) for name in linears}
    arrays = {name: np.asarray(codes[name]) for name in linears}
    return [ml.Llama(model.config, {**model.params, **some}) for some in (codes, arrays)]


def attached(model, name):
    return ml.attach(model, name, targets="all-linear", rank=3)


each_form = pytest.mark.parametrize("form", FORMS)


@each_form
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_merges_as_its_numbers_do(name, form):
    with ml.plain():
        tuned, wanted = (attached(model, name) for model in coded(form))
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


@each_form
@pytest.mark.parametrize("name", OWN)
def test_a_technique_that_moves_it_is_refused(name, form):
    model, arrays = coded(form)
    says = rf"{name}: it moves .*, which is in {form.title() if form == 'codes' else form} and"
    with pytest.raises(ValueError, match=says):
        ml.attach(model, name)
    with pytest.raises(ValueError, match=says):
        ml.ledger(model, 2, 6, method=name)
    ml.attach(arrays, name)


@pytest.mark.parametrize("form", ["codes", "nf4"])
@pytest.mark.parametrize("name", NAMES)
def test_its_adapter_and_its_checkpoint_come_back(name, form, tmp_path):
    model, _ = coded(form)
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


@each_form
@pytest.mark.parametrize("name", NAMES)
def test_its_bytes_are_predicted_and_measured(name, form):
    """The ledger counts what codes and scales take."""
    model, arrays = coded(form)
    tuned = attached(model, name)
    with ml.plain():
        said, found = ml.ledger(tuned, 2, 6), ml.measure(tuned, 2, 6)
    assert {c: said[c] for c in CATEGORIES} == {c: found[c] for c in CATEGORIES}
    assert said.saved == found.saved
    how = {"targets": "all-linear", "rank": 3}
    assert ml.ledger(model, 2, 6, method=name, **how) == said
    whole = ml.ledger(attached(arrays, name), 2, 6)
    linears = [model.params[f"{layer}.weight"] for layer in model.config.linears()]
    less = sum(math.prod(w.shape) * w.dtype.itemsize - w.nbytes for w in linears)
    assert whole.frozen - said.frozen == less > 0
    if form == "nf4":
        assert ml.ledger(model.config, 2, 6, method=name, weights="nf4", **how) == said


@each_form
def test_a_model_of_it_is_saved_as_its_numbers(form, tmp_path):
    model, arrays = coded(form)
    ml.save_model(model, tmp_path)
    assert same_bits(ml.load_model(tmp_path).params, arrays.params)
    assert same_bits(model.astype("float64").params, arrays.astype("float64").params)


def test_an_infinite_scale_is_named():
    model, _ = coded()
    name = "model.layers.1.mlp.up_proj.weight"
    model.params[name].scales[0] = np.inf
    with ml.plain(), np.errstate(all="ignore"), pytest.raises(ml.tuning.train.Diverged, match=name):
        ml.train(attached(model, "lora"), BATCHES, steps=1, lr=0.01)


@each_form
@pytest.mark.parametrize("name", NAMES)
def test_where_twins_are_on_it_computes_what_its_numbers_do(name, form):
    tuned, wanted = (attached(model, name) for model in coded(form))
    losses = [ml.train(t, BATCHES, steps=2, lr=0.01).losses for t in (tuned, wanted)]
    assert np.allclose(*losses, rtol=1e-5)
    assert rel(tuned.logits(BATCHES[0][0]), wanted.logits(BATCHES[0][0])) < 1e-4


def test_a_packed_weight_is_read_only_and_gives_rows():
    model, arrays = coded("nf4")
    name = "model.layers.1.mlp.down_proj.weight"
    W, dense = model.params[name], arrays.params[name]
    assert W.shape == dense.shape and W.dtype == np.float32 and W.T.shape == dense.T.shape
    assert np.array_equal(np.asarray(W.T), dense.T) and len(W) == len(dense)
    assert np.array_equal(W[3:9], dense[3:9]) and np.array_equal(W[[5, 0, 5]], dense[[5, 0, 5]])
    with pytest.raises(TypeError):
        W[0] = 1
    assert not any(part.flags.writeable for part in W.parts)
    again = pickle.loads(pickle.dumps(W))
    assert np.array_equal(again, dense) and again.nbytes == W.nbytes < dense.nbytes / 7


def test_a_large_matrix_is_unpacked_a_block_at_a_time(monkeypatch):
    model, arrays = coded("nf4")
    monkeypatch.setattr("minilora.support.packed.BLOCK", 1000)
    name = "model.layers.1.mlp.down_proj.weight"
    W, dense = model.params[name], arrays.params[name]
    x, dy = np.ones((2, 3, dense.shape[1])), np.ones((5, len(dense)), np.float32)
    assert len(list(blocks_of(W))) > 5
    assert rel(x @ W.T, x @ dense.T) < 1e-12 and rel(dy @ W, dy @ dense) < 1e-6
    assert same_bits({"": put("x", "W", dense, "nf4")[:]}, {"": in_one(dense)})


def in_one(W):
    """The page's own quantisation, of the whole matrix at once."""
    return nf4.dequantise(*nf4.quantise(W), W.shape)


def test_merged_into_nf4_the_error_is_said():
    model, _ = coded("nf4")
    tuned = attached(model, "lora")
    with ml.plain():
        ml.train(tuned, BATCHES, steps=3, lr=0.01)
        exact = ml.merge(tuned)
        with pytest.warns(UserWarning, match=r"NF4 moves the merged weights by \d+\.\d%"):
            merged = ml.merge(tuned, weights="nf4")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert merged.params[name].form == "nf4" and isinstance(exact.params[name], np.ndarray)
    assert 0.005 < rel(merged.params[name], exact.params[name]) < 0.12
    with pytest.raises(ValueError, match="unknown form of weights 'int3'"):
        ml.merge(tuned, weights="int3")


def test_another_base_has_another_fingerprint():
    """The parts count: NF4 and its numbers are two bases."""
    model, arrays = coded("nf4")
    other = ml.Llama(model.config, dict(model.params))
    name = "model.layers.1.mlp.down_proj.weight"
    other.params[name] = put("x", "W", 2 * arrays.params[name], "nf4")
    marks = {fingerprint(m) for m in (model, arrays, other)}
    assert len(marks) == 3 and fingerprint(coded("nf4")[0]) in marks


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("embeddings, bits", [("bfloat16", 16), ("int8", 8.5)])
def test_an_embedding_and_a_head_in_fewer_bits(tmp_path, embeddings, bits, tied):
    """Rows are looked up, and the head's product and loss are those of its numbers."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": tied}
    ml.save_model(make_llama(dtype=np.float32, **shape), tmp_path)
    model = ml.load_model(tmp_path, embeddings=embeddings)
    outer = [model.params[EMBED], model.head()]
    assert all(W.nbytes == 29 * 64 * bits / 8 for W in outer)
    params = {name: np.asarray(w) for name, w in model.params.items()}
    arrays = ml.Llama(model.config, params)
    tuned, wanted = (attached(m, "delta_lora") for m in (model, arrays))
    losses = [ml.train(t, BATCHES, steps=3, lr=0.01).losses for t in (tuned, wanted)]
    assert np.allclose(*losses, rtol=1e-5)
    ids = BATCHES[0][0]
    assert rel(tuned.logits(ids), wanted.logits(ids)) < 1e-4
    assert rel(model.logits(ids[:1, :1]), arrays.logits(ids[:1, :1])) < 1e-5  # a single row
    assert rel(model.logits(ids), ml.load_model(tmp_path).logits(ids)) < 0.03
    said, found = ml.ledger(tuned, 2, 6), ml.measure(tuned, 2, 6)
    assert {c: said[c] for c in CATEGORIES} == {c: found[c] for c in CATEGORIES}
    how = {"method": "lora", "targets": "all-linear"}
    row = ml.ledger(model.config, 2, 6, embeddings=embeddings, **how)
    assert row == ml.ledger(model, 2, 6, **how)
    with pytest.raises(ValueError, match=r"full: it moves (model\.embed_tokens|lm_head)\.weight"):
        ml.attach(model, "full")


def test_forms_that_cannot_be(tmp_path):
    ml.save_model(make_llama(dtype=np.float32), tmp_path)
    model = ml.load_model(tmp_path, weights="nf4", embeddings="bfloat16")
    for wrong, says in (
        ({"embeddings": "int8"}, "hidden_size is 16, wanted a multiple of 32; 'bfloat16' takes"),
        ({"weights": "int8"}, "unknown form of weights 'int8'"),
        ({"embeddings": "nf4"}, "unknown form of embeddings 'nf4'"),
    ):
        with pytest.raises(ValueError, match=says):
            ml.load_model(tmp_path, **wrong)
    with pytest.raises(ValueError, match="a loaded model has its own forms"):
        ml.ledger(model, 2, 6, method="lora", weights="nf4")
    with pytest.raises(ValueError, match="'stored' needs the file"):
        ml.ledger(model.config, 2, 6, method="lora", weights="stored")
    assert repr(model).count("of BF16, float32, nf4") == 1


def test_what_a_file_has_stored_stays(tmp_path):
    """bfloat16, of a folder; float16 is not computed with, and becomes float32."""
    whole = make_llama(dtype=np.float32, hidden_size=64, intermediate_size=96)
    ml.save_model(whole, tmp_path)
    for dtype, form in ((bfloat16, "BF16"), (np.float16, "")):
        arrays = {n: dtype(a) for n, a in whole.params.items()}
        write_stored(tmp_path / "model.safetensors", arrays)
        model, dense = ml.load_model(tmp_path, weights="stored"), ml.load_model(tmp_path)
        for layer in model.config.linears():
            W = model.params[f"{layer}.weight"]
            assert form_of(W) == form and np.array_equal(W, dense.params[f"{layer}.weight"])
        assert not form_of(model.params[EMBED])


def bfloat16(a):
    """The upper halves of the numbers."""
    return (a.view(np.uint32) >> 16).astype("<u2")


def write_stored(path, arrays):
    """A safetensors file in which whole numbers of 16 bits are bfloat16."""
    write_arrays(path, arrays)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


@pytest.mark.parametrize("form", ["nf4", "Q8_0", "BF16"])
def test_its_peak_is_predicted(form):
    """Kernels make nothing beyond their panels; of rows that they do not serve a block is counted:
    96 numbers are no whole blocks of NF4.
    """
    model, _ = coded(form)
    for name in ("lora", "vera"):
        tuned = attached(model, name)
        said, found = ml.ledger(tuned, 16, 64), ml.measure(tuned, 16, 64)
        assert same_peak(said, found), (name, said.peak, found.peak)
