"""The bench: it compares results before it times, and says what a user asked for."""

import json
import time

import numpy as np
import pytest

from minilora import cli
from minilora.bench import kernels, turns, work


def test_ratios_by_hand():
    ours = [dict(median=m, least=m, steps=1) for m in (1.0, 2.0, 4.0)]
    theirs = [dict(median=m, least=m / 2, steps=1) for m in (3.0, 3.0, 6.0)]
    found = turns.ratio(theirs, ours)
    assert found == dict(median=1.5, low=1.5, high=3.0, least=1.5)
    assert turns.summary(ours) == dict(median=2.0, least=1.0)


@pytest.mark.parametrize("name", [name for name, _ in work.PRODUCTS[:1] + work.FUSED])
def test_a_kernel_is_checked_and_timed(name):
    sizes = dict(work.FUSED).get(name, (6, 5, 4))
    sizes = tuple(min(n, 8) for n in sizes)
    for side in ("minilora", "numpy"):
        (times,) = kernels.timed(side, [(name, sizes)], 0.0)
        assert times["least"] > 0


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    """AdamW returns nothing: its arrays are compared. The argument x must stay as it is."""

    def spoils(x, w):
        y = x @ w.T
        x += 1
        return y

    for name, sizes, wrong in (
        ("adamw", (8,), lambda p, *_: None),
        ("matmul_nt", (6, 5, 4), lambda x, w: 1.001 * (x @ w.T)),
        ("matmul_nt", (6, 5, 4), spoils),
    ):
        monkeypatch.setattr(work, "kernel", lambda _, wrong=wrong: wrong)
        with pytest.raises(ValueError, match=rf"minilora: {name} .* wrong by"):
            kernels.timed("minilora", [(name, sizes)], 0.0)


def test_a_race_takes_turns():
    """Each once before, once to know how often; then there and back."""
    ran = []
    taken = turns.race({n: lambda n=n: ran.append(n) or time.sleep(6e-3) for n in "ab"}, rounds=2)
    assert "".join(ran) == "aabb" + "ab" + "ba"
    assert all(len(seconds) == 2 and min(seconds) > 5e-3 for seconds in taken.values())


def test_the_command_times_kernels_and_steps(tmp_path, capsys, monkeypatch):
    """A table of each, and a record of the machine and of the rounds."""
    monkeypatch.setattr(work, "PRODUCTS", [("matmul_nt", (16, 8, 8))])
    monkeypatch.setattr(work, "FUSED", [("rmsnorm_forward", (8, 16))])
    asked = "bench kernels methods --sizes toy --cases lora lora_fa --rounds 2 --seconds 0.1"
    assert cli.main([*asked.split(), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "rmsnorm_forward" in out and "LoRA-FA" in out and "products: " in out
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["machine"]["versions"]["numpy"] == np.__version__
    product, _ = record["kernels"]["kernels"]
    assert product["best"] == "numpy" and product["flops"] == 2 * 16 * 8 * 8
    ours, numpy = (product["sides"][side]["median"] for side in ("minilora", "numpy"))
    assert record["kernels"]["mean"] == pytest.approx(numpy / ours)
    (found,) = record["methods"]
    assert found["size"] == "toy" and found["ratios"]["lora"]["median"] == 1.0
    assert len(found["rounds"]["lora_fa"]) == record["settings"]["rounds"] == 2


def test_a_worker_says_what_went_wrong():
    with turns.together(turns.Side("minilora", threads=1)) as sides:
        with pytest.raises(ValueError, match="minilora: timed: TypeError"):
            sides["minilora"].ask(kernels.timed)
        how = {"side": "minilora", "chosen": [("rope", (1, 2, 1, 4))], "seconds": 0.0}
        (times,) = sides["minilora"].ask(kernels.timed, **how)
        assert times["steps"] >= 5 and 0 < times["least"] <= times["median"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("kernel", "kernels"),
        ("--sizes tinny", "tiny"),
        ("--cases lorafa", "lora_fa"),
        ("--threads 0", "at least 1"),
        ("--rounds 0", "at least 1"),
        ("--seconds 0", "more than 0"),
        ("growth", "kernels"),
    ],
)
def test_wrong_arguments_are_met_with_the_right_ones(arguments, message, capsys):
    assert cli.main(["bench", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
