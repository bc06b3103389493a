"""What would keep more, what would hold less, the figure: by closed form, measured, to the bit."""

import types

import numpy as np
import pytest
from battery import BATCHES, base, tune
from conftest import same_peak

import minilora as ml
from minilora.llama.model import Llama, ModelConfig, init_params
from minilora.llama.shapes import SHAPES
from minilora.memory import ledger, measure
from minilora.methods import METHODS
from studies.memory import figure, savers, whatif
from studies.memory.__main__ import main

CONFIG = ModelConfig(128, 32, 96, 3, 4, 2)  # V, C, F, L, H, G; q 32 wide, k and v 16
LARGE = ModelConfig(512, 128, 384, 4, 4, 2)  # beside it Python's own objects are small
BATCH, LENGTH = 3, 50
N, V, C, F, L = BATCH * LENGTH, 128, 32, 96, 3
QV, ALL = ("q_proj", "v_proj"), "all-linear"
ADAPTERS = [name for name, record in METHODS.items() if not record.whole_model]
WITH_DROPOUT = [name for name, record in METHODS.items() if record.has_dropout]
KEEP_X = [name for name in ADAPTERS if METHODS[name].op is METHODS["lora"].op]
CASES = {case.title: case for case in whatif.CASES}
SAVERS = {saver.title: saver for saver in savers.SAVERS}


def kept(title, method, targets=QV):
    how = {} if METHODS[method].whole_model else {"rank": 8, "targets": targets}
    return whatif.saved_bytes(CASES[title], method, CONFIG, BATCH, LENGTH, **how)


def more(title, method, targets=QV):
    """Bytes beyond what is needed."""
    return kept(title, method, targets) - kept("as it is", method, targets)


class TestWhatIf:
    """Pairs that keep more than their backward reads."""

    @pytest.mark.parametrize("targets", [QV, ALL], ids=["q,v", ALL])
    def test_a_norm_that_keeps_its_output(self, targets):
        """2L + 1 norms. Before the first layer's nothing trains; whoever has x has y already."""
        assert more("norm's y", "lora_fa", targets) == 4 * N * C * 2 * L
        without = {QV: L + 1, ALL: 1}[targets]  # norms whose output is nobody's x
        assert more("norm's y", "lora", targets) == 4 * N * C * without
        assert more("norm's y", "full") == 4 * N * C
        left = kept("norm's y", "lora", targets) - kept("norm's y", "lora_fa", targets)
        assert left == 4 * N * (C + (L * F if targets == ALL else 0))

    @pytest.mark.parametrize("targets", [QV, ALL], ids=["q,v", ALL])
    def test_every_input_kept_and_nothing_is_left_of_the_saving(self, targets):
        assert more("every x", "lora_fa", targets) == 4 * L * N * (2 * C + F)
        assert more("every x", "full") == 0
        assert len({kept("every x", name, targets) for name in (*KEEP_X, "lora_fa")}) == 1
        if targets == ALL:
            assert all(more("every x", name, targets) == 0 for name in KEEP_X)

    @pytest.mark.parametrize("targets, inputs", [(QV, 2 * C), (ALL, 6 * C + F)])
    @pytest.mark.parametrize("method", WITH_DROPOUT)
    def test_a_stored_mask(self, method, targets, inputs):
        """One for each adapted linear: q, k and v share x, but neither the mask nor what it leaves.

        LoRA keeps that in place of x: of its inputs it kept one for q, k, v and one for gate, up
        before, and none for o, which attention keeps.
        """
        kept_x, first = {QV: (C, 2 * C), ALL: (2 * C + F, 3 * C)}[targets]
        dropped = 4 * L * N * (inputs - kept_x) if method in KEEP_X else 0
        masks = N * (L * inputs - first)  # nothing before the first layer trains: no mask there
        assert more("dropout", method, targets) == dropped
        assert more("mask, bytes", method, targets) == dropped + masks
        assert more("mask, floats", method, targets) == dropped + 4 * masks

    def test_methods_without_dropout_have_no_such_row(self):
        for name in METHODS:
            assert (kept("mask, bytes", name) is None) == (name not in WITH_DROPOUT)

    @pytest.mark.parametrize("title", CASES)
    @pytest.mark.parametrize("method", ["lora", "lora_fa"])
    def test_predicted_is_measured(self, title, method):
        case = CASES[title]
        how = {"dropout": case.dropout} if case.dropout else {}
        tuned = ml.attach(Llama(CONFIG, init_params(CONFIG)), method, rank=8, targets=ALL, **how)
        plain = measure(tuned, BATCH, LENGTH)
        with whatif.supposing(case, method):
            said, found = ledger(tuned, BATCH, LENGTH), measure(tuned, BATCH, LENGTH)
        assert dict(said) == dict(found)
        assert said.activations == kept(title, method, ALL)
        assert dict(measure(tuned, BATCH, LENGTH)) == dict(plain)  # nothing stays replaced


def fresh(method, config=CONFIG, **how):
    how = {} if METHODS[method].whole_model else {"rank": 4, "targets": ALL, **how}
    return ml.attach(Llama(config, init_params(config, std=0.1)), method, **how)


class TestSavers:
    """Memory for time."""

    @pytest.mark.parametrize("method", ["full", "delta_lora", "vera"])
    @pytest.mark.parametrize("title", list(SAVERS)[1:])
    def test_the_same_steps_to_the_bit(self, title, method):
        ids = np.random.default_rng(1).integers(0, V, (2, 20))
        arrays = []
        for saver in (savers.SAVERS[0], SAVERS[title]):
            tuned = fresh(method)
            before = {key: a.copy() for key, a in tuned.trainable.items()}
            run = savers.step(tuned, saver, 1e-2)
            for _ in range(3):
                run(ids)
            assert any((a != before[key]).any() for key, a in tuned.trainable.items())
            arrays.append(tuned.trainable)
        for key, a in arrays[0].items():
            assert np.array_equal(a, arrays[1][key]), key

    @pytest.mark.parametrize("method", ["full", "delta_lora", "vera"])
    @pytest.mark.parametrize("title", SAVERS)
    def test_predicted_is_measured(self, title, method):
        said, found = savers.bytes_of(fresh(method, config=LARGE), SAVERS[title], 6, 50)
        assert dict(said) == dict(found) and said.saved == found.saved
        assert same_peak(said, found)

    def test_freed_gradients_are_nowhere_and_the_peak_of_a_short_row_falls(self):
        """Full fine-tuning: at most the head's gradient, which forward makes, and one more."""
        row, freed = (
            savers.bytes_of(fresh("full", config=LARGE), SAVERS[title], 1, 4)[0]
            for title in ("as it is", "free gradients")
        )
        assert row.gradients == row.weights and freed.gradients == 0
        largest = 4 * 128 * 512
        assert row.peak - freed.peak >= row.gradients - 3 * largest

    def test_a_saver_says_its_price_and_leaves_all_as_it_was(self):
        tuned = fresh("vera", recompute="layers")
        before = {key: a.copy() for key, a in tuned.arrays.items()}
        rows = savers.savers(tuned, 1, 8)
        assert tuned.recompute == "layers" and list(rows) == list(SAVERS)
        assert all(np.array_equal(a, before[key]) for key, a in tuned.arrays.items())
        assert all(row["seconds"] > 0 for row in rows.values())
        lines = list(savers.table({"vera": rows}, 110))
        assert lines[1].endswith(" ms") and lines[3].endswith("%")


class TestFigure:
    """Bytes against length."""

    def test_activations_overtake_weights_where_the_figure_says(self):
        config = ModelConfig(**SHAPES["smollm2-135m"].config_fields())
        for name in METHODS:
            rows = [ledger(config, 2, n, method=name) for n in (1, 64)]
            here = figure.overtaking((1, 64), rows)
            before, after = (ledger(config, 2, n, method=name) for n in (here - 1, here))
            assert before.activations <= before.weights and after.activations > after.weights

    def test_what_is_stacked_is_all(self):
        lengths, found = figure.curves(CONFIG, {name: {} for name in METHODS})
        for rows in found.values():
            for row in rows:
                assert sum(size(row) for _, size in figure.PARTS.values()) == row.total()
        assert len(figure.memory_by_length(lengths, found, "title").axes) == len(METHODS)


def test_a_line_through_the_first_and_the_last_length_gives_where_weights_are_overtaken():
    rows = [types.SimpleNamespace(activations=a, weights=1000) for a in (100, 150, 1100)]
    assert figure.overtaking((1, 5, 11), rows) == 11
    heavy = [types.SimpleNamespace(activations=100 * n + 500, weights=50) for n in (1, 2)]
    assert figure.overtaking((1, 2), heavy) == 1


@pytest.mark.parametrize("saver", savers.SAVERS, ids=lambda saver: saver.title)
def test_a_step_that_frees_gradients_keeps_none(saver, monkeypatch):
    tuned, leaves = tune("lora", base("float32")), []
    make = type(tuned).leaves
    monkeypatch.setattr(type(tuned), "leaves", lambda self: leaves.append(make(self)) or leaves[-1])
    savers.step(tuned, saver)(BATCHES[0][0])
    kept = [leaf.grad is not None for leaf in leaves[-1].values()]
    assert kept == [not saver.frees] * len(kept)


def test_the_command(tmp_path, capsys):
    assert main("what-if --method lora_fa,full --batch 2 --seq 32 --targets q_proj".split()) == 0
    assert "mask, floats" in capsys.readouterr().out
    assert main("savers --method lora --batch 2 --seq 16".split()) == 0
    out = capsys.readouterr().out
    assert all(title in out for title in SAVERS)
    path = tmp_path / "memory.png"
    assert main(["figure", "--method", "lora", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "line, says",
    [("what-if --method loar", "did you mean 'lora'"), ("savers --model llama-7b", "llama-7b")],
)
def test_bad_input(capsys, line, says):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
