"""The ledger: what is predicted from shapes is what the process holds, to the byte."""

import dataclasses
import json
import re
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from battery import shake
from conftest import same_peak

import minilora as ml
from minilora import fast, ops
from minilora.check import examples
from minilora.cli import main
from minilora.engine import Tensor, backward
from minilora.llama.model import Llama, ModelConfig, init_params
from minilora.llama.shapes import SHAPES
from minilora.memory import (
    CATEGORIES,
    arrays_in,
    by_kind,
    largest,
    ledger,
    measure,
    step,
    tables,
)
from minilora.methods import DEFAULT, METHODS
from minilora.support import meta
from minilora.support.meta import Meta
from minilora.tuning.optim import AdamW

CASES = {  # C, F, L, H, G, V, tied; batch, length
    "tied": (ModelConfig(300, 96, 160, 3, 6, 2, tie_word_embeddings=True), 6, 100),
    "wide": (ModelConfig(512, 128, 384, 4, 4, 2), 16, 64),
    "long": (ModelConfig(60, 64, 128, 2, 4, 4, head_dim=24), 2, 400),
}
QV, ALL = ("q_proj", "v_proj"), "all-linear"


def settings():
    """(method, keywords): every method, q,v and all-linear, with dropout where it has it."""
    for name, record in METHODS.items():
        for targets in (QV, ALL) if "targets" in record.takes else (None,):
            for dropout in (0.0, 0.1) if record.has_dropout else (0.0,):
                given = {"rank": 8, "targets": targets} if targets else {}
                yield name, given | ({"dropout": dropout} if dropout else {})


def named(value):
    if isinstance(value, str):
        return value
    parts = [
        f"{v if isinstance(v, str) else ','.join(v) if isinstance(v, tuple) else v}"
        for v in value.values()
    ]
    return "-".join(parts) or "whole"


@pytest.mark.parametrize("case", [pytest.param("tied", marks=pytest.mark.smoke), "wide", "long"])
@pytest.mark.parametrize("method, how", list(settings()), ids=named)
def test_predicted_is_measured(method, how, case):
    check_prediction(*CASES[case], method, how)


ARCHITECTURES = {  # C, F, L, H, G, V as in CASES, and heads of a size of their own
    "qwen2": {},
    "qwen3": {"head_dim": 24, "tie_word_embeddings": True},
    "smollm3": {"no_rope_layers": (0, 1, 0)},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_predicted_is_measured_for_other_architectures(method, kind):
    """Biases, normalised heads, layers that do not rotate."""
    config = ModelConfig(300, 96, 160, 3, 6, 2, model_type=kind, **ARCHITECTURES[kind])
    how = {"rank": 8, "targets": ALL} if "targets" in METHODS[method].takes else {}
    check_prediction(config, 6, 100, method, how)


def check_prediction(config, batch, length, method, how):
    tuned = ml.attach(Llama(config, init_params(config)), method, **how)
    said, found = ledger(tuned, batch, length), measure(tuned, batch, length)
    others = "frozen", "trainable", "shared", "moved", "base_kept", "scratch"
    for part in (*CATEGORIES, *others):
        assert getattr(said, part) == getattr(found, part), part
    assert said.saved == found.saved  # every storage: place, op, name, shape, bytes, who shares it
    assert same_peak(said, found)


def test_from_a_config_as_from_a_tuned():
    config, batch, length = CASES["tied"]
    tuned = ml.attach(Llama(config, init_params(config)), "vera", rank=16, targets=ALL)
    assert ml.ledger(config, batch, length, method="vera", rank=16, targets=ALL) == ml.ledger(
        tuned, batch, length
    )


def test_measuring_leaves_the_weights_as_they_are():
    config, batch, length = CASES["wide"]
    tuned = ml.attach(Llama(config, init_params(config)), "delta_lora", rank=2)
    before = {k: a.copy() for k, a in tuned.arrays.items()}
    measure(tuned, batch, length)
    assert all(np.array_equal(a, before[k]) for k, a in tuned.arrays.items())
    assert not tracemalloc.is_tracing()


@pytest.mark.smoke
def test_formulas():
    """P base, T trained numbers, 4 bytes each; what moves stands in the base's place, which is kept
    beside all this.
    """
    config, batch, length = CASES["wide"]
    P = sum(int(np.prod(s)) for s in config.shapes().values())
    moved = sum(O * I for n, (O, I) in config.linears().items() if n.endswith(("q_proj", "v_proj")))
    for name, record in METHODS.items():
        given = {"rank": 8} if "rank" in record.takes else {}
        row = ledger(config, batch, length, method=name, **given)
        T = row.trainable // 4
        assert row.gradients == 4 * T and row.optimizer == 8 * T, name
        if record.whole_model:
            assert row.weights == 4 * P == row.base_kept and T == P
        elif name == "delta_lora":
            assert row.moved == row.base_kept == 4 * moved and row.weights == 4 * (P + T)
            lora = ledger(config, batch, length, method="lora", rank=8)
            assert (row.weights, row.peak) == (lora.weights, lora.peak)
        elif name == "lora_fa":
            A = 8 * 2 * config.num_hidden_layers * config.hidden_size
            assert row.weights == 4 * (P + T + A)
        else:
            assert row.weights == 4 * (P + T) + row.shared
        assert bool(row.base_kept) == record.owns_weight


def test_mixed_precision_is_16_bytes_a_trained_number():
    config = CASES["wide"][0]
    P = sum(int(np.prod(s)) for s in config.shapes().values())
    full = ledger(config, 1, 16, method="full", mixed=True)
    assert full.weights + full.gradients + full.optimizer == 16 * P
    lora = ledger(config, 1, 16, method="lora", rank=8, mixed=True)
    T = lora.trainable // 2
    assert lora.weights + lora.gradients + lora.optimizer == 2 * P + 16 * T


@pytest.mark.smoke
def test_activations_of_an_adapter_by_formula():
    """All linears, N rows: LoRA keeps N(3C + F) + 7Nr more than nothing, LoRA-FA 7Nr.

    3C: the two norms' outputs, and o_proj's input only where attention does not keep it already.
    """
    config, batch, length = CASES["wide"]
    N, L, C, F, r = batch * length, 4, 128, 384, 8
    lora, fa = (
        ledger(config, batch, length, method=m, rank=r, targets=ALL) for m in ("lora", "lora_fa")
    )
    assert lora.activations - fa.activations == 4 * L * N * (2 * C + F)
    z = [s for s in fa.saved if s.what == "z"]
    assert sum(s.nbytes for s in z) == 4 * L * 7 * N * r
    assert not [s for s in fa.saved if s.op == "lora_fa" and s.what == "x"]
    shared = [s for s in lora.saved if s.what == "x" and s.where.endswith("q_proj")]
    assert all(len(s.shared_with) == 2 for s in shared) and len(shared) == L  # with k and v
    attention = [s for s in lora.saved if s.op == "attention" and s.what == "o"]
    assert all("o_proj (lora)" in "".join(s.shared_with) for s in attention) and len(attention) == L


def gradients(tuned, ids):
    """Loss and gradients of one step with dropout on."""
    leaves = tuned.leaves()
    loss = tuned.loss(ids, ids, leaves=leaves, key=(tuned.seed, 1, 0))
    backward(loss)
    return {"loss": loss.data} | {key: leaf.grad for key, leaf in leaves.items()}


def tuned_with_numbers(case, method, **how):
    """A Tuned none of whose trained arrays is zero: behind B = 0 most gradients are."""
    config = CASES[case][0]
    tuned = ml.attach(Llama(config, init_params(config, std=0.2)), method, **how)
    return shake(tuned)


class TestRecompute:
    """What backward makes again instead of keeping it."""

    @pytest.mark.parametrize("method, how", list(settings()), ids=named)
    def test_no_gradient_changes_by_a_bit(self, method, how):
        tuned = tuned_with_numbers("tied", method, **how)
        ids = np.random.default_rng(0).integers(0, 300, (2, 30))
        kept = gradients(tuned, ids)
        tuned.recompute = "layers"
        for key, grad in gradients(tuned, ids).items():
            assert np.array_equal(grad, kept[key]) and np.any(grad), key

    @pytest.mark.parametrize("method, how", list(settings()), ids=named)
    def test_predicted_is_measured(self, method, how):
        config, batch, length = CASES["wide"]
        tuned = ml.attach(Llama(config, init_params(config)), method, **how)
        tuned.recompute = "layers"
        said, found = ledger(tuned, batch, length), measure(tuned, batch, length)
        assert dict(said) == dict(found) and said.saved == found.saved
        assert same_peak(said, found)
        given = {"method": method, "recompute": "layers", **how}
        assert said == ledger(tuned.base, batch, length, **given)

    def test_of_a_layer_its_input_is_kept(self):
        config, batch, length = CASES["wide"]
        N, L, C = batch * length, config.num_hidden_layers, config.hidden_size
        row = ledger(config, batch, length, method="lora", rank=8, recompute="layers")
        layers = [s for s in row.saved if s.where.startswith("model.layers.")]
        assert [s.what for s in layers] == ["x"] * L
        assert all(s.nbytes == 4 * N * C for s in layers)

    def test_an_unknown_word_is_refused(self):
        tuned = tuned_with_numbers("wide", "lora", recompute="layers")
        assert tuned.recompute == "layers"
        with pytest.raises(ValueError, match="recompute is 'layer', wanted None or 'layers'"):
            ml.attach(tuned.base, "lora", recompute="layer")
        tuned.recompute = "layer"
        with pytest.raises(ValueError, match="recompute is 'layer', wanted None or 'layers'"):
            gradients(tuned, np.zeros((1, 2), int))

    def test_a_recomputed_segment_without_anything_that_trains_is_off_the_tape(self):
        x = Tensor(np.ones(3))
        assert ops.recompute(lambda t: ops.mul(t, t), x).node is None

    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_training_takes_the_same_steps(self, accumulate):
        ids = np.random.default_rng(0).integers(0, 300, (2, 12))
        losses = []
        for again in (None, "layers"):
            tuned = tuned_with_numbers("tied", "lora", rank=2, dropout=0.2)
            tuned.recompute = again
            history = ml.train(tuned, [(ids, ids)], steps=3, lr=1e-2, accumulate=accumulate)
            losses.append(history.losses)
        assert losses[0] == losses[1]


def test_what_a_step_rule_adds_is_counted():
    """Delta-LoRA keeps copies of A and B from the moment when W starts to move."""
    config, batch, length = CASES["wide"]
    tuned = tuned_with_numbers("wide", "delta_lora", rank=4, targets=ALL, start_step=1)
    ids = np.random.default_rng(0).integers(0, 512, (2, 8))
    before = ledger(tuned, batch, length).moved
    ml.train(tuned, [(ids, ids)], steps=2, lr=1e-3)
    said, found = ledger(tuned, batch, length), measure(tuned, batch, length)
    assert said.moved - before == said.trainable
    assert dict(said) == dict(found) and said.moved == found.moved


def test_what_the_prediction_does_not_know_of_is_measured(monkeypatch):
    """An array that hangs anywhere on the Tuned, a third moment of the optimizer."""
    config, batch, length = CASES["wide"]
    tuned = ml.attach(Llama(config, init_params(config)), "delta_lora", rank=4)
    said = ledger(tuned, batch, length)
    tuned.base.notes = {"deep": [(np.ones(300),)]}
    found = measure(tuned, batch, length)
    assert found.weights - said.weights == 2400 and found.optimizer == said.optimizer

    class Third(AdamW):
        def __init__(self, params, **how):
            super().__init__(params, **how)
            self.third = {name: np.zeros_like(p) for name, p in params.items()}

    monkeypatch.setattr(step, "AdamW", Third)
    assert measure(tuned, batch, length).optimizer == 1.5 * said.optimizer
    assert "NOT the same bytes" in "".join(tables.overview({"lora": said}, {"lora": found}))


def test_base_kept_and_the_master_copy_are_said(capsys):
    assert main("memory --seq 16 --method delta_lora --mixed".split()) == 0
    out = capsys.readouterr().out
    assert re.search(r"^base kept, +base arrays that detach gives back +[\d,]{5,}$", out, re.M)
    assert "optimizer: master copy and two moments" in out


@pytest.mark.skipif(not fast.on(), reason="the pages hold more for a moment")
@pytest.mark.parametrize("method, how", [("full", {}), ("lora", {"rank": 32, "targets": ALL})])
@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_train_s_own_step_holds_what_the_ledger_says(method, how, clip, accumulate):
    """Clipping makes no second copy of the gradients. A sum over micro-batches lies beside the next
    one's activations, and beside its gradients one array at a time.
    """
    config, (batch, length) = CASES["wide"][0], (1, 8)
    tuned = ml.attach(Llama(config, init_params(config)), method, **how)
    ids = np.random.default_rng(0).integers(0, 512, (batch, length))
    settings = dict(steps=2, lr=1e-4, clip=clip, accumulate=accumulate, progress=False)
    ml.train(tuned, [(ids, ids)], **settings)
    tracemalloc.start()
    ml.train(tuned, [(ids, ids)], **settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row = ledger(tuned, batch, length)
    said = row.peak - row.weights - row.scratch
    if accumulate > 1:
        said += row.activations + 2 * max(a.nbytes for a in tuned.trainable.values())
    assert peak <= 1.02 * said + 150_000  # Python's own: the bar, the tape's nodes
    assert accumulate > 1 or peak >= 0.98 * said


@pytest.mark.parametrize(
    "method, how, right",
    [
        ("lora", {"rank": 8, "mixed": True}, lambda row: row.weights > 12e9),
        ("vera", {"rank": 1024, "targets": ALL}, lambda row: row.shared == 4 * 1024 * 2 * 11008),
    ],
)
def test_a_large_model_takes_no_memory(method, how, right):
    config = ModelConfig(**SHAPES["llama-7b"].config_fields())
    tracemalloc.start()
    row = ledger(config, 4, 2048, method=method, **how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert right(row) and peak < 20e6


@pytest.mark.filterwarnings("error")
def test_a_long_row_in_16_bits_warns_of_nothing():
    config = dataclasses.replace(CASES["wide"][0], max_position_embeddings=2**17)
    ledger(config, 1, 2**17, method="lora", mixed=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method, how", list(settings()), ids=named)
def test_no_more_is_held_than_the_ledger_says(method, how, case):
    """After the forward pass NumPy holds the saved arrays, to the byte, the angles of the rows and
    four numbers a sequence that say where it begins and ends, and no other array.
    """
    config, batch, length = CASES[case]
    tuned = ml.attach(Llama(config, init_params(config)), method, **how)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch, length))
    leaves, of_numpy = tuned.leaves(), tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    tuned.loss(ids, ids, leaves=leaves, key=(0, 1, 0))  # makes what is made once
    tracemalloc.start()
    loss = tuned.loss(ids.copy(), ids.copy(), leaves=leaves, key=(0, 1, 0))
    held = tracemalloc.take_snapshot().filter_traces([of_numpy]).traces
    tracemalloc.stop()
    assert loss.node is not None
    said, tables = ledger(tuned, batch, length), tuned.base.rope_tables(0, length)
    angles, spans = said.scratch - sum(a.nbytes for a in tables), 4 * 8 * batch
    assert sum(t.size for t in held) == said.activations + angles + spans


def pair_and_arguments(name):
    """A technique with dropout, if it has it: the seed is odd."""
    if name in METHODS:
        return METHODS[name].op, examples.of_method(METHODS[name], 1)
    return examples.OPS[name], examples.of_op(name)


@pytest.mark.parametrize("name", [*examples.OPS, *METHODS])
def test_nothing_is_saved_in_vain(name):
    """With any one saved array turned to NaN (or ids to others), backward gives other gradients;
    without it, backward cannot run.
    """
    rng = np.random.default_rng(1)
    op, case = pair_and_arguments(name)
    out, cache = op.forward(*case)
    dout = rng.standard_normal(np.shape(out))
    right = op.backward(dout, cache)
    for i, array in enumerate(arrays_in(cache)):
        _, spoilt = op.forward(*[np.copy(a) if isinstance(a, np.ndarray) else a for a in case])
        a = arrays_in(spoilt)[i]
        if a.dtype.kind == "f":
            a[...] = np.nan
        else:
            a[...] = a[::-1].copy() if a.ndim == 1 and (a[::-1] != a).any() else 0
        wrong = op.backward(dout, spoilt)
        assert not all(a is b is None or np.array_equal(a, b) for a, b in zip(right, wrong)), i
        with pytest.raises((TypeError, AttributeError, ValueError, IndexError)):
            op.backward(dout, without(cache, array))


def without(cache, array):
    """The cache with None in the array's place."""
    if isinstance(cache, tuple):
        return tuple(without(part, array) for part in cache)
    return None if cache is array else cache


def test_rows_by_kind_add_up():
    row = ledger(CASES["wide"][0], 2, 8, method="lora_plus", rank=2)
    kinds = by_kind(row.saved)
    assert sum(k[4] for k in kinds) == row.activations == sum(s.nbytes for s in row.saved)
    assert not any(re.search(r"layers\.\d", kind[0]) for kind in kinds)
    assert row.total() == sum(row[c] for c in CATEGORIES) == sum(dict(row).values())


@pytest.mark.parametrize(
    "size",
    [lambda n: n, lambda n: 7 * n + 100, lambda n: n**3, lambda n: int(n**0.5), lambda n: n // 9],
)
def test_largest(size):
    for limit in (1, 2, 100):
        for budget in (-1, 0, 1, 2, 7, 99, 100, 107, 500, 10**6):
            fitting = [n for n in range(1, limit + 1) if size(n) <= budget]
            assert largest(size, budget, limit) == max(fitting, default=0)


def test_largest_of_what_no_budget_bounds():
    assert largest(lambda n: n, float("inf"), 100) == largest(lambda n: n, 1e308, 100) == 100


class TestMeta:
    """Arrays of shape alone answer as NumPy does."""

    def test_shapes_and_dtypes_are_numpys(self):
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((4, 1, 6)).astype(np.float32), np.ones((5, 6), np.float32)
        for f in (
            lambda x, y: x + y,
            lambda x, y: x * 2.0 - y,
            lambda x, y: x > y,
            lambda x, y: x @ y.T,
            lambda x, y: x.sum(axis=(0, 1)),
            lambda x, y: x.mean(axis=-1, keepdims=True),
            lambda x, y: x[1:3, :, ::2],
            lambda x, y: x[np.array([1, 1, 0])],
            lambda x, y: x.transpose(2, 0, 1),
            lambda x, y: x.reshape(-1, 3),
            lambda x, y: np.concatenate([x, x], axis=1),
            lambda x, y: np.zeros_like(x, shape=(3,)),
            lambda x, y: y[0] @ y[0],
            lambda x, y: y @ y[0],
        ):
            real, shape = f(a, b), f(Meta(a.shape), Meta(b.shape))
            assert shape.shape == np.shape(real) and shape.dtype == np.asarray(real).dtype

    def test_live_bytes_follow_references(self):
        with meta.counting() as memory:
            a = Meta((10, 10))
            view = a.reshape(100)[5:]
            b = a + 1.0
            assert memory.live == 800
            del a
            assert memory.live == 800  # the view keeps it
            del view, b
            assert memory.live == 0 and memory.peak == 800

    def test_what_is_not_known_is_said(self):
        with pytest.raises(TypeError, match=r"np\.sort needs an array with numbers"):
            np.sort(Meta((3,)))
        with pytest.raises(ValueError, match="cannot reshape"):
            Meta((3,)).reshape(2, 2)


class TestCommands:
    def test_count(self, capsys):
        assert (
            main("count --shape gpt3-175b --method lora --rank 8 --targets q_proj,v_proj".split())
            == 0
        )
        assert capsys.readouterr().out.strip() == "37,748,736"
        assert main("count --shape llama-7b --method vera --rank 16 --json".split()) == 0
        assert json.loads(capsys.readouterr().out)["frozen_shared"] == 16 * 8192
        assert main("count --shape llama-7b --method lora,vera --rank 16 --json".split()) == 0
        assert list(json.loads(capsys.readouterr().out)) == ["lora", "vera"]
        assert main("count --shape llama-7b --method lora,vera --rank 16".split()) == 0
        assert [n.split()[0] for n in capsys.readouterr().out.splitlines()[1:]] == ["LoRA", "VeRA"]
        assert main("count --shape base".split()) == 0
        assert "720,896" in capsys.readouterr().out

    def test_memory(self, capsys):
        assert main("memory --batch 4 --seq 20 --rank 4 --measure".split()) == 0
        out = capsys.readouterr().out
        assert out.count("the same bytes") == len(DEFAULT) and "NOT" not in out
        assert main("memory --method lora --rank 4 --targets all-linear --seq 16".split()) == 0
        assert "self_attn.k_proj" in capsys.readouterr().out
        assert main("memory --model smollm2-135m --method lora --json".split()) == 0
        assert json.loads(capsys.readouterr().out)["lora"]["trainable"] == 4 * 460_800

    def test_a_fit_at_the_end_of_the_search_says_so(self, monkeypatch, capsys):
        monkeypatch.setattr(tables, "ROWS", 4)
        monkeypatch.setattr(tables, "TOKENS", 100)
        assert main("memory --method lora --seq 16 --fit 1000".split()) == 0
        assert re.search(r"^LoRA +4 or more +100 or more$", capsys.readouterr().out, re.M)

    def test_recompute(self, capsys):
        words = "memory --method lora --seq 32 --measure --json --recompute layers".split()
        assert main(words) == 0
        row = json.loads(capsys.readouterr().out)["lora"]
        assert all(row[c] == row["measured"][c] for c in CATEGORIES)
        config = ml.load_model("base").config
        kept = ledger(config, 1, 32, method="lora", recompute="layers").activations
        assert row["activations"] == kept

    def test_fit(self, capsys):
        assert main("memory --fit 0.1 --seq 64 --json".split()) == 0
        rows = json.loads(capsys.readouterr().out)
        assert rows["lora_fa"]["rows"] >= rows["lora"]["rows"] > rows["full"]["rows"] > 0

    @pytest.mark.parametrize(
        "line, says",
        [
            ("memory --model gpt2-medium", "is not a Llama"),
            ("memory --model nowhere", "unknown shape 'nowhere'"),
            ("memory --seq 0", "seq_len is 0"),
            ("memory --method lora --rank 0", "rank is 0"),
            ("memory --fit -1", "wanted a number of GB above 0"),
            ("memory --fit inf", "--fit is inf, wanted a number of GB above 0 and below"),
            ("memory --fit 1 --batch 3", "without --batch"),
            ("memory --measure --mixed", "without --mixed"),
            ("memory --recompute layer", "recompute is 'layer', wanted None"),
            ("memory --option dropout=0.1", "--option: got 'dropout=0.1' without --method"),
            ("count --option dropout=0.1", "--option: got 'dropout=0.1' without --method"),
            ("memory --method lora --option targets=3", "unknown option of lora 'targets'"),
            ("count --method vera --option model=3", "unknown option of vera 'model'"),
            ("count --method lora,loar", "did you mean 'lora'"),
            ("count --method lora --rank 0", "wanted a whole number of at least 1"),
            ("count --method full --rank 4", "takes no rank"),
            ("count --method lora --targets w_proj", "unknown target 'w_proj'"),
            ("train --task past --option rank_pattern=4", "unknown option of lora 'rank_pattern'"),
            ("count --shape gpt3-175 --method lora", "did you mean 'gpt3-175b'"),
            ("memory --model llama-7b --measure", "llama-7b"),
        ],
    )
    def test_bad_input(self, capsys, line, says):
        assert main(line.split()) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


def test_each_thread_counts_its_own_memory():
    """Two ledgers at once: arrays of shape alone that the other thread makes do not count."""
    both = threading.Barrier(2)

    def counted(size):
        with meta.counting() as memory:
            both.wait()
            arrays = [Meta((size,)) for _ in range(20)]
            both.wait()
            return memory.live, sum(a.nbytes for a in arrays)

    with ThreadPoolExecutor(2) as pool:
        for live, made in pool.map(counted, (10, 1000)):
            assert live == made
