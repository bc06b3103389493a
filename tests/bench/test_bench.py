"""The bench: it counts right, compares results before it times, and runs without torch."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest

from minilora import cli, fast
from minilora.bench import (
    cases,
    figures,
    growth,
    kernels,
    ladder,
    masked,
    steps,
    tables,
    training,
    turns,
    work,
)
from minilora.lab import rates, runs
from minilora.lab.settings import Settings
from minilora.memory import ledger

NUMBA = fast.backend() != "numpy"


def test_flops_by_hand():
    """One layer of width 4: q, k, v, o, three of the feed-forward, the head, half of attention."""
    tiny = cases.size(C=4, L=1, H=2, G=1, F=8, V=16, N=1, T=2)
    weights = 4 * 4 + 2 * (2 * 4) + 4 * 4 + 3 * 8 * 4 + 16 * 4
    attention = 2 * 2 * (2 * 2 * 2 * 2) / 2  # q kᵀ and p v, 2 a multiply-add, for 2 heads of 2
    lora, full = (cases.flops(tiny, cases.CASES[name]) for name in ("lora", "full"))
    assert lora == 2 * 2 * 2 * weights + 3.5 * attention * 1
    assert full - lora == 2 * 2 * weights


def test_ratios_by_hand():
    ours = [dict(median=m, least=m, cpu=m, steps=1) for m in (1.0, 2.0, 4.0)]
    theirs = [dict(median=m, least=m / 2, cpu=m, steps=1) for m in (3.0, 3.0, 6.0)]
    found = turns.ratio(theirs, ours)
    assert found == dict(median=1.5, low=1.5, high=3.0, least=1.5, cpu=3.0)
    assert turns.summary(ours) == dict(median=2.0, least=1.0, cpu=1.0)


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


@pytest.mark.parametrize("name", [name for name, _ in work.PRODUCTS[:1] + work.FUSED])
def test_a_kernel_is_checked_and_timed(name):
    sizes = dict(work.FUSED).get(name, (6, 5, 4))
    sizes = tuple(min(n, 8) for n in sizes)
    for side in ("minilora", "numpy"):
        assert kernels.timed(side, name, sizes, 0.0)["least"] > 0


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setattr(work, "kernel", lambda name: lambda x, w: 1.001 * (x @ w.T))
    with pytest.raises(ValueError, match=r"minilora: matmul_nt .* wrong by"):
        kernels.timed("minilora", "matmul_nt", (6, 5, 4), 0.0)


def test_what_a_kernel_writes_is_checked(monkeypatch):
    """AdamW returns nothing: its arrays are compared. The argument x must stay as it is."""
    monkeypatch.setattr(work, "kernel", lambda name: lambda p, *_: None)
    with pytest.raises(ValueError, match=r"minilora: adamw .* wrong by"):
        kernels.timed("minilora", "adamw", (8,), 0.0)

    def spoils(x, w):
        y = x @ w.T
        x += 1
        return y

    monkeypatch.setattr(work, "kernel", lambda name: spoils)
    with pytest.raises(ValueError, match=r"minilora: matmul_nt .* wrong by"):
        kernels.timed("minilora", "matmul_nt", (6, 5, 4), 0.0)


@pytest.mark.skipif(not NUMBA, reason="about Numba's kernels")
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 17, 5), (33, 8, 600), (20, 41, 50)], ids=str)
def test_every_rung_of_the_ladder_is_the_product(sizes, rng):
    from minilora.fast.ladder import LADDER

    M, K, N = sizes
    x, w = rng.standard_normal((M, K)), rng.standard_normal((K, N))
    for name, product in LADDER.items():
        got = product(x.astype(np.float32), w.astype(np.float32))
        np.testing.assert_allclose(got, x @ w, atol=1e-5 * K, err_msg=name)


def test_a_race_takes_turns():
    """Each once before, once to know how often; then there and back."""
    ran = []
    taken = ladder.race({n: lambda n=n: ran.append(n) or time.sleep(6e-3) for n in "ab"}, rounds=2)
    assert "".join(ran) == "aabb" + "ab" + "ba"
    assert all(len(seconds) == 2 and min(seconds) > 5e-3 for seconds in taken.values())


@pytest.mark.skipif(not NUMBA, reason="about Numba's kernels")
def test_the_ladder_is_climbed(tmp_path, capsys):
    assert cli.main(f"bench ladder --quick --rounds 1 --out {tmp_path}".split()) == 0
    out = capsys.readouterr().out
    assert all(way in out for way in tables.WAYS) and "page faults" in out
    found = json.loads((tmp_path / "bench.json").read_text())["ladder"]
    assert [p["sizes"][2] for p in found["products"]] == list(ladder.COLUMNS)
    assert set(found["products"][0]["seconds"]) == set(tables.WAYS)


def test_growth_is_measured_beside_the_ledger():
    points = growth.measured("rank", [1, 4], rounds=1, seconds=0.0)
    assert [p["value"] for p in points] == [1, 4]
    assert all(p["seconds"] > 0 for p in points)
    for p in points:  # the twins' temporaries are no part of the prediction
        assert 0.98 < p["bytes"] / p["predicted"] < (1.02 if NUMBA else 2)
    size, case = growth.size_of(length=32, width=64, layers=1, rank=4)
    tuned = cases.make(size, case)
    M, numbers = 4 * 32, ledger(tuned, 4, 32).trainable // 4
    assert cases.adapter_flops(size, tuned) == 6 * M * numbers
    record = {"axis": "rank", "points": points, "exponents": dict.fromkeys(points[0], 1.0)}
    assert figures.growth([record]).axes and len(list(tables.lines("growth", [record]))) == 2


def test_the_command_without_torch(tmp_path, capsys, monkeypatch):
    """Our own side alone: a table, a record of the machine and of the rounds."""
    monkeypatch.setattr(turns.Settings, "peers", lambda self: ())
    asked = f"bench steps words methods --quick --cases lora lora_fa --out {tmp_path}"
    assert cli.main(asked.split()) == 0
    out = capsys.readouterr().out
    assert "LoRA-FA" in out and out.count("not installed") == 2
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["steps"] == record["words"] == []
    assert record["machine"]["versions"]["numpy"] == np.__version__
    (found,) = record["methods"]
    assert found["size"] == "toy" and found["ratios"]["lora"]["median"] == 1.0
    assert len(found["rounds"]["lora_fa"]) == record["settings"]["rounds"] == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("kernel", "kernels"),
        ("--sizes tinny", "tiny"),
        ("--cases lorafa", "lora_fa"),
        ("--threads 0", "at least 1"),
    ],
)
def test_wrong_arguments_are_met_with_the_right_ones(arguments, message, capsys):
    assert cli.main(["bench", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_worker_says_what_went_wrong():
    how = {"side": "minilora", "case": "lora", "lr": 1e-3, "threads": 1}
    with turns.together([turns.Side("minilora", threads=1)]) as (side,):
        with pytest.raises(ValueError, match=r"minilora: training.start: .*size"):
            side.ask("training.start", size="huge", **how)
        side.ask("training.start", size="toy", **how)
        assert len(side.ask("training.losses", n=2)) == 2
        times = side.ask("training.timed", n=3)
        assert times["steps"] == 3 and 0 < times["least"] <= times["median"]


def test_instructions_have_the_lengths_that_they_promise():
    """A sequence: a prompt without targets, an answer with them, padding."""
    lengths = set()
    for ids, targets in masked.toy(cases.CASES["lora"]).batches:
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
    assert training.ours(dataclasses.replace(found, recipe=recipe))(2)[0] == history.losses


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
    from minilora.bench.theirs import theirs

    made = masked.toy(cases.CASES[case])
    recipe = dict(lr=0.02, schedule="linear", warmup=2, betas=(0.9, 0.98), weight_decay=0.1)
    made = dataclasses.replace(made, recipe={**recipe, "clip": 0.05})
    padded, packed = (theirs(made, side, threads=1)(8)[0] for side in (turns.PADDED, turns.PACKED))
    ours = training.ours(made)(8)[0]  # the last: it moves the arrays that torch starts from
    np.testing.assert_allclose(packed, padded, rtol=2e-6)
    np.testing.assert_allclose(padded, ours, rtol=1e-5)


def test_the_command_beside_torch(tmp_path, capsys):
    """Both sides agree, are timed, and the record prints again."""
    pytest.importorskip("peft")
    asked = "bench words instructions --quick --cases lora --rounds 1 --threads 1"
    assert cli.main([*asked.split(), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert cli.main(["bench", "--record", str(tmp_path / "bench.json")]) == 0
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
