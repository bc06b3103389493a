"""Speed beside PyTorch: what is counted, losses that agree, and what runs without torch."""

import dataclasses
import json
import math
import os
import shutil
from collections import Counter

import numpy as np
import pytest

from minilora import fast
from minilora.bench import cases, turns
from minilora.lab import rates, runs
from minilora.lab.settings import Settings
from minilora.memory import ledger
from minilora.support.files import data_folder
from studies.speed import figures, growth, ladder, masked, sides, steps, tables, training
from studies.speed.__main__ import main

NUMBA = fast.backend() != "numpy"


def test_flops_by_hand():
    """One layer of width 4: q, k, v, o, three of the feed-forward, the head, half of attention."""
    tiny = cases.size(C=4, L=1, H=2, G=1, F=8, V=16, N=1, T=2)
    weights = 4 * 4 + 2 * (2 * 4) + 4 * 4 + 3 * 8 * 4 + 16 * 4
    attention = 2 * 2 * (2 * 2 * 2 * 2) / 2  # q kᵀ and p v, 2 a multiply-add, for 2 heads of 2
    lora, full = (steps.flops(tiny, cases.CASES[name]) for name in ("lora", "full"))
    assert lora == 2 * 2 * 2 * weights + 3.5 * attention * 1
    assert full - lora == 2 * 2 * weights


def test_the_exponent_of_a_power_is_its_exponent():
    xs = [1, 2, 4, 8]
    assert math.isclose(growth.slope(xs, [5 * x**1.7 for x in xs]), 1.7)


def test_losses_that_differ_are_refused():
    same = {"minilora": [3.0, 2.0], "torch": [3.0, 2.0001]}
    steps.check("lora", same)
    with pytest.raises(ValueError, match=r"step 2: the loss is 2.000000 here, 2.100000 in torch"):
        steps.check("lora", {**same, "torch": [3.0, 2.1]})
    steps.check("delta_lora", {**same, "torch": [3.0, 2.1]})  # PEFT's LoRA, after its first step
    early = {"minilora": [3.0] * 10, "torch": [3.0] * 9 + [3.001]}
    with pytest.raises(ValueError, match="step 10"):
        steps.check("lora", early)
    late = {"minilora": [3.0] * 10 + [0.01], "torch": [3.0] * 10 + [0.05]}
    assert math.isclose(steps.check("lora", late)["torch"], 0.04 / 3)
    with pytest.raises(ValueError, match="step 11"):
        steps.check("lora", {**late, "torch": [3.0] * 10 + [0.08]})
    with pytest.raises(ValueError, match="step 1"):
        steps.check("delta_lora", {**same, "torch": [math.nan, 2.0]})


def test_growth_is_measured_beside_the_ledger():
    points = growth.measured("rank", [1, 4], rounds=1, seconds=0.0)
    assert [p["value"] for p in points] == [1, 4]
    assert all(p["seconds"] > 0 for p in points)
    for p in points:  # the twins' temporaries are no part of the prediction
        assert 0.98 < p["bytes"] / p["predicted"] < (1.02 if NUMBA else 2)
    size, case = growth.size_of(length=32, width=64, layers=1, rank=4)
    tuned = cases.make(size, case)
    M, numbers = 4 * 32, ledger(tuned, 4, 32).trainable // 4
    assert steps.adapter_flops(size, tuned) == 6 * M * numbers
    record = {"axis": "rank", "points": points, "exponents": dict.fromkeys(points[0], 1.0)}
    assert figures.growth([record]).axes and len(list(tables.growth([record], 200))) == 2


def test_the_command_without_torch(tmp_path, capsys, monkeypatch):
    """What needs torch is left out, and this is said."""
    monkeypatch.setattr(sides.Settings, "has_torch", lambda self: False)
    asked = f"steps words --sizes toy --cases lora lora_fa --out {tmp_path}"
    assert main(asked.split()) == 0
    assert capsys.readouterr().out.count("not installed") == 2
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["steps"] == record["words"] == [] and "python" not in record["settings"]
    assert main(["--record", str(tmp_path / "nowhere.json")]) == 2
    assert "nowhere.json" in capsys.readouterr().err


class Made:
    """A side that answers without a process; losses: what it reports."""

    def __init__(self, losses):
        self.losses = losses

    def ask(self, call, **_):
        if isinstance(self.losses, str) and call is training.losses:
            raise ValueError(self.losses)
        times = {"median": 1.0, "least": 1.0, "total": 2.0, "steps": 2}
        return {training.losses: self.losses, training.timed: times}.get(call, {"all": 4.0})


def test_a_side_that_may_be_missing_is_left_out_with_the_reason(monkeypatch, capsys):
    """One that failed, and one whose losses differ; the others are timed, the table has a dash."""
    monkeypatch.setattr(steps, "REST", 0)
    made = {"minilora": Made([3.0, 2.0]), sides.SIDES[1]: Made([3.0, 2.0])}
    failed, other = Made("torch compile: losses: no g++\nlong"), Made([3.0, 2.1])
    more = {sides.COMPILED: failed, sides.JAX: other}
    settings = sides.Settings(rounds=1)

    def raced(those, case="lora"):
        return steps.raced(those, "toy", case, 2, lambda side: 2, settings)

    found = raced({**made, **more})
    assert list(found["rounds"]) == list(found["losses"]) == list(made)
    assert found["apart"] == {sides.SIDES[1]: 0.0}
    reasons = found["left out"]
    assert reasons[sides.COMPILED] == "torch compile: losses: no g++"
    assert "2.100000 in jax" in reasons[sides.JAX]
    assert raced({**made, **more}, "vera")["left out"] == {}  # it is not asked
    for wrong in (failed, other):
        with pytest.raises(ValueError):
            raced({**made, sides.SIDES[2]: wrong})

    both = raced({**made, **more, sides.COMPILED: Made([3.0, 2.0])}, "full")
    rows = [{**r, "size": "toy", "peak_flops": 0, "flops": 0} for r in (found, both)]
    for r in rows:
        r["sides"] = {name: turns.summary(times) for name, times in r["rounds"].items()}
    head, lora, full, *below = tables.steps(rows, 200)
    assert head.split() == ["size", "technique", "ms", "here", "sdpa", "compile"]  # and no jax
    assert lora.split()[-1] == "–" and full.split()[-1] == "1000"
    assert below[0] == "–: " + reasons[sides.JAX].replace("lora", "full")
    assert {f"–: {reason}" for reason in reasons.values()} < set(below) and len(below) == 3


def test_a_folder_of_records_shows_each_processor(tmp_path, capsys):
    """Of each record that has the part; an empty folder is refused."""
    path = data_folder() / "results" / "bench" / "intel-xeon" / "rows.json"
    record = json.loads(path.read_text())
    for name, part in (("b", "words"), ("a", "words"), ("c", "instructions")):
        machine = {**record["machine"], "processor": f"processor {name}"}
        (tmp_path / name).mkdir()
        made = {"machine": machine, part: record[part]}
        (tmp_path / name / "bench.json").write_text(json.dumps(made))
    assert main(["words", "--record", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.index("processor a") < out.index("processor b") and "processor c" not in out
    assert out.count("words by length  LoRA ") == 2
    assert main(["growth", "--record", str(tmp_path)]) == 2
    assert f"{tmp_path}: no record of growth" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not NUMBA, reason="about Numba's kernels")
def test_the_ladder_is_climbed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ladder, "ROWS", 64)
    assert main(f"ladder --rounds 1 --out {tmp_path}".split()) == 0
    out = capsys.readouterr().out
    assert all(way in out for way in tables.WAYS) and "page faults" in out
    found = json.loads((tmp_path / "bench.json").read_text())["ladder"]
    assert [p["sizes"][2] for p in found["products"]] == list(ladder.COLUMNS)
    assert set(found["products"][0]["seconds"]) == set(tables.WAYS)


def test_a_training_that_is_not_known_is_named():
    how = {"side": "minilora", "case": "lora", "threads": 1}
    with turns.together(turns.Side("minilora", threads=1)) as found:
        (side,) = found.values()
        with pytest.raises(ValueError, match=r"minilora: start: .*training 'huge'"):
            side.ask(training.start, which="huge", **how)
        side.ask(training.start, which="toy", **how)
        assert len(side.ask(training.losses, n=2)) == 2
        times = side.ask(training.timed, n=3)
        assert times["steps"] == 3 and 0 < times["least"] <= times["median"]


def test_the_figures_of_a_record(tmp_path):
    """Of a committed one: the roof and the growth."""
    path = data_folder() / "results" / "bench" / "intel-xeon" / "bench.json"
    asked = ["kernels", "growth", "--record", str(path), "--figures", str(tmp_path)]
    assert main(asked) == 0
    for name in ("roofline.png", "growth.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["bench/intel-xeon/bench", "bench/intel-xeon/rows", "kernels/bench"]
)
def test_every_table_of_a_record_is_as_narrow_as_the_terminal(name, capsys, monkeypatch):
    """And has every number, in lines that name their rows."""
    path = data_folder() / "results" / f"{name}.json"

    def printed(width):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["--record", str(path)]) == 0
        return capsys.readouterr().out.splitlines()

    narrow, wide = printed(60), printed(300)
    assert max(map(len, narrow)) <= 60
    assert Counter(" ".join(wide).split()) <= Counter(" ".join(narrow).split())
    if name == "bench/intel-xeon/bench":
        assert len([line for line in narrow if line.startswith("smollm2  LoRA-FA ")]) >= 3


def test_instructions_have_the_lengths_that_they_promise():
    """A sequence: a prompt without targets, an answer with them, padding."""
    lengths = set()
    for ids, targets in masked.few_tokens(cases.CASES["lora"]).batches:
        counts = targets != -100
        first, last = counts.argmax(axis=1), counts.shape[1] - counts[:, ::-1].argmax(axis=1)
        assert (counts.sum(axis=1) == last - first).all() and last.max() == ids.shape[1]
        lengths |= {(n + 1, m - n) for n, m in zip(first.tolist(), last.tolist())}
        inside = counts[:, :-1] & (np.arange(ids.shape[1] - 1) < last[:, None] - 1)
        assert (targets[:, :-1][inside] == ids[:, 1:][inside]).all()
        assert not ids[np.arange(ids.shape[1]) >= last[:, None]].any()
    for seen, (least, most) in zip(zip(*lengths), (masked.TOY_PROMPTS, masked.TOY_ANSWERS)):
        assert min(seen) == least and max(seen) == most


def test_rows_by_hand():
    none = -100
    targets = np.array([[none, 5, 6, none, none], [none, none, none, none, 7]])
    found = masked.rows([(np.zeros_like(targets), targets), (targets[:, :2], targets[:, :2])])
    assert found == {"all": (10 + 4) / 2, "matter": (3 + 5 + 2) / 2, "targets": (3 + 1) / 2}


@pytest.mark.parametrize("by_length", [1, 8])
def test_words_are_the_training_of_a_comparison(by_length):
    comparison = Settings().changed(by_length=by_length)
    make = masked.words if by_length == 1 else masked.words_by_length
    found = make(cases.CASES["vera"])
    words = runs.load_words(comparison)
    wanted = runs.make_batches(found.tuned.base, words.train, comparison, seed=0)
    assert len(found.batches) == comparison.steps == 150
    for (ids, targets), (wanted_ids, wanted_targets) in zip(found.batches, wanted):
        assert np.array_equal(ids, wanted_ids) and np.array_equal(targets, wanted_targets)
    chosen = rates.chosen_for("past", rates.read())["vera"]
    assert found.recipe["lr"] == chosen["lr"] and found.recipe["warmup"] == 15
    assert masked.words(cases.CASES["lora-all"]).recipe["lr"] == 0.02 / 4
    assert found.tuned.rank == chosen["rank"]
    model, settings = found.tuned.base, comparison.changed(ranks={"vera": chosen["rank"]}, steps=2)
    _, history = runs.run(model, words, settings, "vera", chosen["lr"], seed=0)
    recipe = {**found.recipe, "warmup": settings.warmup}
    assert cases.ours(dataclasses.replace(found, recipe=recipe))(2)[0] == history.losses


def test_a_turn_goes_on_where_the_last_one_ended(monkeypatch):
    ran = []
    monkeypatch.setattr(
        training, "_now", {"next": 0, "train": lambda n, first: (ran.append((first, n)), [1.0] * n)}
    )
    assert [training.timed(3)["total"], training.timed(2)["total"]] == [3.0, 2.0]
    assert ran == [(-1, 4), (2, 3)]  # one step more, on the batch before


@pytest.mark.parametrize("case", ["full", "lora", "lora_plus", "vera", "lora-all"])
def test_torch_trains_alike_padded_and_packed(case):
    """With a schedule, clipping and decay, as a comparison trains."""
    pytest.importorskip("peft")
    from studies.speed.theirs import theirs

    made = masked.few_tokens(cases.CASES[case])
    recipe = dict(lr=0.02, schedule="linear", warmup=2, betas=(0.9, 0.98), weight_decay=0.1)
    made = dataclasses.replace(made, recipe={**recipe, "clip": 0.05})
    padded, packed = (theirs(made, side, threads=1)(8)[0] for side in (sides.PADDED, sides.PACKED))
    ours = cases.ours(made)(8)[0]  # the last: it moves the arrays that torch starts from
    np.testing.assert_allclose(packed, padded, rtol=2e-6)
    np.testing.assert_allclose(padded, ours, rtol=1e-5)


@pytest.mark.oracles
@pytest.mark.parametrize("case", ["full", "lora", "lora-all"])
def test_jax_trains_alike(case):
    """Its second turn goes on with the arrays of the first, and with new moments, as ours does."""
    pytest.importorskip("jax")
    from studies.speed.in_jax import theirs

    size = dataclasses.replace(cases.SIZES["toy"], batch=3)
    tied = dataclasses.replace(size.config, tie_word_embeddings=case == "lora")
    tuned = cases.make(dataclasses.replace(size, config=tied), cases.CASES[case])
    rng = np.random.default_rng(0)
    for arguments in tuned.layers.values():
        arguments["B"][:] = 0.1 * rng.standard_normal(arguments["B"].shape)
    made = cases.Training(tuned, [cases.batch(size)])
    run = theirs(made, sides.JAX, threads=os.cpu_count())  # fewer: this process loses its cores
    found = [run(6)[0], run(3)[0]]
    ours = cases.ours(made)  # the last: it moves the arrays that JAX starts from
    for theirs_, mine in zip(found, (ours(6)[0], ours(3)[0])):
        np.testing.assert_allclose(theirs_, mine, rtol=1e-5)


@pytest.mark.oracles
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile calls g++")
@pytest.mark.parametrize("side", [sides.COMPILED, sides.PADDED_COMPILED])
def test_torch_compiled_trains_alike(side):
    pytest.importorskip("peft")
    from studies.speed.theirs import theirs

    padded = side == sides.PADDED_COMPILED
    case = cases.CASES["lora"]
    made = masked.few_tokens(case) if padded else masked.full(case, "toy")
    found = theirs(made, side, threads=1)(4)[0]
    np.testing.assert_allclose(found, cases.ours(made)(4)[0], rtol=1e-5)


def test_the_command_beside_torch(tmp_path, capsys):
    """Both sides agree, are timed, and the record prints again."""
    pytest.importorskip("peft")
    asked = "words instructions --sizes toy --cases lora --rounds 1 --threads 1"
    assert main([*asked.split(), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert main(["--record", str(tmp_path / "bench.json")]) == 0
    again = capsys.readouterr().out
    assert again.split() == out.removesuffix(f"{tmp_path / 'bench.json'}\n").split()
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [r["training"] for r in record["words"]] == ["words", "words by length"]
    (found,) = record["instructions"]
    assert len(found["losses"]["minilora"]) == steps.CHECKED and found["steps"] == masked.BATCHES
    for r in (*record["words"], found):
        assert max(r["apart"].values()) < steps.TOLERANCE
        assert all(r["sides"][name]["seconds"] > 0 for name in r["losses"])
        assert r["rows"]["all"] > r["rows"]["matter"] > r["rows"]["targets"]
