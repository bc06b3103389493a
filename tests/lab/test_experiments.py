"""The comparison and the sweep: what they compute, on few words and few steps."""

import dataclasses
import json
import os

import numpy as np
import pytest

from minilora import fast
from minilora.formats.models import load_model
from minilora.lab import rates, report
from minilora.lab import tune as sweep
from minilora.lab.compare import compare
from minilora.lab.runs import load_words, make_batches, mean_loss, run
from minilora.lab.settings import SCRATCH, Settings
from minilora.lab.tune import tune
from minilora.methods import DEFAULT, METHODS
from minilora.text import score, tasks
from minilora.text.batches import all_once
from minilora.text.score import exact_match

FEW = Settings(methods=("lora",), train_size=40, steps=3, warmup=1, seeds=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A comparison of LoRA with training from scratch, and its folder."""
    out, done = tmp_path_factory.mktemp("compare"), []
    found = compare(FEW, {"lora": 0.01, SCRATCH: 0.002}, out, lambda name, row: done.append(name))
    return found, out, done


@pytest.fixture(scope="module")
def model():
    return load_model("base")


def test_rows_come_in_order_and_are_plain_data(results):
    found, _, done = results
    assert done == ["lora", SCRATCH] and list(found["methods"]) == ["lora"]
    json.dumps(found, allow_nan=False)
    row = found["methods"]["lora"]
    assert row["trainable"] == 7168 and len(row["seeds"]) == 2
    assert row["exact_match"] == pytest.approx(np.mean(row["seeds"]))
    assert row["exact_match_sd"] == pytest.approx(np.std(row["seeds"], ddof=1))
    assert [point[0] for point in row["curve"]] == [1, 2, 3]
    took, runs = found["took"], row["took"]["seconds"] + found["scratch"]["took"]["seconds"]
    assert 0 < took["base"]["seconds"] + runs / took["jobs"] <= took["seconds"]


@pytest.mark.skipif(
    not fast.on() and os.environ.get("OPENBLAS_NUM_THREADS") != "1",
    reason="NumPy's BLAS sums in another order on several threads",
)
def test_runs_side_by_side_give_the_same_bits_as_one_after_the_other(results):
    found, _, _ = results
    measured = ("took", "ms_per_step", "ms_per_step_quartiles")
    one = compare(FEW, {"lora": 0.01, SCRATCH: 0.002}, jobs=1)
    assert one["took"]["jobs"] == 1
    for mine, theirs in zip(
        (one["methods"]["lora"], one[SCRATCH]), (found["methods"]["lora"], found[SCRATCH])
    ):
        assert {k: v for k, v in mine.items() if k not in measured} == {
            k: v for k, v in theirs.items() if k not in measured
        }


def test_all_held_out_words_are_scored_and_twenty_are_shown(results):
    found, _, _ = results
    assert found["settings"]["test_size"] == len(tasks.load_task("past").test) == 611
    assert len(found["examples"]) == 20
    assert all(set(example["answers"]) == {"lora", SCRATCH} for example in found["examples"])


def test_a_row_is_what_its_run_gives(results, model):
    found, _, _ = results
    words = load_words(FEW)
    scores = [
        exact_match(run(model, words, FEW, "lora", 0.01, seed)[0], words.test) for seed in range(2)
    ]
    assert scores == found["methods"]["lora"]["seeds"]


def test_a_curve_is_over_as_many_validation_words_as_are_trained_on(model):
    words = load_words(FEW)
    tuned, history = run(model, words, FEW, "lora", 0.01, 0, every=FEW.steps)
    first = all_once(words.validation[: FEW.train_size], model.tokenizer)
    assert history.evaluations == [(FEW.steps, pytest.approx(mean_loss(tuned, first)))]


def test_the_first_seed_s_adapter_is_kept(results, model):
    import minilora as ml

    _, out, _ = results
    tuned, _ = run(model, load_words(FEW), FEW, "lora", 0.01, 0)
    kept = ml.load_adapter(model, out / "adapters" / "lora")
    assert all(np.array_equal(kept.trainable[k], a) for k, a in tuned.trainable.items())
    assert not (out / "adapters" / SCRATCH).exists()


def test_all_methods_get_the_same_batches_and_another_seed_other_ones(model):
    words = load_words(FEW)
    first, again, other = (make_batches(model, words.train, FEW, seed) for seed in (0, 0, 1))
    same = [all(np.array_equal(a, b) for a, b in zip(x, y)) for x, y in zip(first, again)]
    assert all(same)
    assert any(x[0].shape != y[0].shape or (x[0] != y[0]).any() for x, y in zip(first, other))


def test_no_word_is_in_two_of_train_validation_and_test():
    words = load_words(Settings())
    parts = [{prompt for prompt, _ in part} for part in (words.train, words.validation, words.test)]
    assert [len(part) for part in parts] == [300, 600, 611]
    assert len(set.union(*parts)) == 1511


@pytest.mark.parametrize(
    "changes, rate, jobs, says",
    [
        ({"targets": ("q_prj",)}, 0.01, None, "q_proj"),
        ({"base": "nowhere"}, 0.01, None, "nowhere"),
        ({"methods": ("lora", "vera"), "ranks": {"vera": -1}}, 0.01, None, "vera: rank is -1"),
        ({"methods": ()}, 0.01, None, "a rate for lora, which is not run"),
        ({}, float("nan"), None, "rate of lora"),
        ({}, 0.01, 0, "jobs is 0, wanted"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(changes, rate, jobs, says):
    done = []
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        compare(
            dataclasses.replace(FEW, **changes),
            dict.fromkeys([*(changes.get("methods") or ["lora"]), SCRATCH], rate),
            report=lambda *row: done.append(row),
            ready=lambda: done.append("said"),
            jobs=jobs,
        )
    assert not done


def test_a_method_without_a_rate_is_named(monkeypatch):
    monkeypatch.setattr(rates, "read", lambda path=None: {"chosen": {}, "sweeps": {}})
    with pytest.raises(ValueError, match="no learning rate for lora, scratch"):
        compare(FEW)


def test_a_further_method_is_compared_and_drawn(tmp_path):
    few = dataclasses.replace(FEW, methods=("dora",), seeds=1, scratch=False)
    results = compare(few, {"dora": 0.01}, jobs=1)
    report.write_all(results, tmp_path)
    assert METHODS["dora"].title in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "dora" not in Settings().methods


# -------------------------------------------------------------------------------------- the sweep


@pytest.mark.slow
def test_the_sweep_has_a_cell_a_rate_and_one_too_high_scores_nothing():
    few = dataclasses.replace(FEW, seeds=1)
    cells = tune(few, grid=(0.01, 1e30), jobs=2)
    assert [(c["method"], c["lr"]) for c in cells] == [
        ("lora", 0.01),
        ("lora", 1e30),
        (SCRATCH, 0.01),
        (SCRATCH, 1e30),
    ]
    assert cells[1]["validation_exact_match"] == 0 and cells[1]["rank"] == 4
    assert cells[2]["rank"] is None


def test_the_sweep_judges_on_validation_words(monkeypatch):
    few, asked = dataclasses.replace(FEW, seeds=2), []
    monkeypatch.setattr(score, "exact_match", lambda tuned, pairs: asked.append(pairs) or 0.5)
    found = sweep._cell(few, "lora", 0.01)
    assert asked == [load_words(few).validation] * 2 and found["seeds"] == [0.5, 0.5]


def cell(method, lr, match, loss):
    return {
        "method": method,
        "rank": 4,
        "lr": lr,
        "validation_exact_match": match,
        "validation_loss": loss,
    }


def test_the_best_match_wins_and_of_equals_the_lower_loss():
    cells = [
        cell("lora", 0.1, 0.5, 0.4),
        cell("lora", 0.2, 0.6, 0.9),
        cell("lora", 0.3, 0.6, 0.3),
        cell("lora", 0.4, 0.6, None),
    ]
    assert rates.choose(cells) == {"lora": {"lr": 0.3, "rank": 4}}


def test_a_record_grows_by_method_and_starts_anew_for_another_comparison(tmp_path):
    path = tmp_path / "tuning.json"
    rates.add(path, FEW, "base", [cell("lora", 0.1, 0.5, 0.4)])
    rates.add(path, FEW, "base", [cell("vera", 0.2, 0.5, 0.4)])
    rates.add(path, FEW, "base", [cell("lora", 0.3, 0.4, 0.4)])
    record = rates.read(path)
    assert rates.chosen_for("past", record) == {
        "vera": {"lr": 0.2, "rank": 4},
        "lora": {"lr": 0.3, "rank": 4},
    }
    assert rates.chosen_for("plural", record) == rates.chosen_for("past", record)
    assert rates.differences(FEW, "base", record) == []
    assert rates.differences(FEW, "another", record) == ["another base"]
    longer = dataclasses.replace(FEW, steps=4)
    assert rates.differences(longer, "base", record) == ["steps 3 there"]
    rates.add(path, longer, "base", [cell("full", 0.1, 0.5, 0.4)])
    assert list(rates.chosen_for("past", rates.read(path))) == ["full"]


def test_a_new_record_starts_as_a_copy_of_the_committed_one(tmp_path):
    path, past = tmp_path / "tuning.json", rates.read()["sweeps"]["past"]
    settings = Settings(methods=("dora",), ranks={"vera": 256}, seeds=past["settings"]["seeds"])
    rates.add(path, settings, past["base_crc32"], [cell("dora", 0.1, 0.5, 0.4)])
    assert set(rates.chosen_for("past", rates.read(path))) == {*DEFAULT, SCRATCH, "dora"}
    assert rates.read(path)["sweeps"]["past"]["cells"][:-1] == past["cells"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"chosen": 3, "sweeps": 1}'])
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tuning\.json: not a record"):
        rates.read(path)


def test_the_committed_rates_are_those_of_the_default_comparison(model):
    from minilora.cli import parser
    from minilora.commands.comparison import settings_of
    from minilora.tuning.checkpoints import fingerprint

    settings = settings_of(parser().parse_args(["compare"]))
    record = rates.read()
    assert rates.differences(settings, fingerprint(model), record) == []
    assert set(rates.chosen_for("past", record)) == {*DEFAULT, SCRATCH}
    assert rates.choose(record["sweeps"]["past"]["cells"]) == record["chosen"]["past"]
