"""train, generate and merge on the command line, as a user without Python types them."""

import json
import re

import pytest

import minilora as ml
from minilora.cli import main
from minilora.lab.settings import Settings
from minilora.tuning.train import History

PAIRS = [("Dwalk>", "walked"), ("Djump>", "jumped"), ("Dtry>", "tried"), ("Dstop>", "stopped")]


@pytest.fixture
def pairs(tmp_path):
    """A user's own file."""
    path = tmp_path / "pairs.jsonl"
    lines = (json.dumps({"prompt": p, "completion": c}) for p, c in PAIRS)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path, capsys):
    """run("train …") -> (exit code, stdout, stderr); what is written goes to tmp_path / out."""

    def call(line, *more):
        out = ["--out", str(tmp_path / "out")] if line.split()[0] in ("train", "merge") else []
        code = main([*line.split(), *map(str, more), *out])
        return code, *capsys.readouterr()

    return call


# ---------------------------------------- what is set is done, or it is said


@pytest.fixture
def asked(monkeypatch):
    """What `minilora train` gives to ml.train; nothing is trained."""
    found = {}

    def record(tuned, batches, **settings):
        found.update(settings, batch=batches[0][0].shape[0])
        return History(losses=[1.0], rates=[0.1], seconds=[0.1])

    monkeypatch.setattr(ml, "train", record)
    return found


def test_the_warmup_is_the_one_that_is_asked_for(run, pairs, asked):
    for line, wanted in (("--warmup 7", 7), ("--warmup 0", 0), ("", 2)):
        assert run(f"train --steps 20 {line} --data", pairs)[0] == 0
        assert asked["warmup"] == wanted
    run("train --steps 400 --data", pairs)
    assert asked["warmup"] == 15


def test_a_comparison_s_own_warmup_is_kept():
    assert Settings().changed(steps=20).warmup == 2
    assert Settings().changed(steps=20, warmup=9).warmup == 9


def test_a_warmup_longer_than_the_run_is_told(tiny):
    tuned = ml.attach(tiny, "lora", rank=2)
    with pytest.warns(UserWarning, match="warmup is 9, steps is 3: the rate never reaches lr"):
        history = ml.train(tuned, [([[1, 2]], [[2, 3]])], steps=3, lr=0.09, warmup=9)
    assert history.rates == pytest.approx([0.01, 0.02, 0.03])


def test_a_batch_of_fewer_pairs_is_told(run, pairs, asked):
    code, _, err = run("train --steps 2 --batch-size 8 --data", pairs)
    assert code == 0 and asked["batch"] == 4
    assert "--batch-size is 8, and there are 4 pairs: a step takes all of them" in err
    assert "--batch-size" not in run("train --steps 2 --data", pairs)[2]


def test_sampling_that_is_off_is_told(run):
    for option in ("--top-p 0.5", "--seed 3"):
        code, _, err = run(f"generate --max-new-tokens 1 {option} --prompt Dwalk>")
        assert code == 0 and f"{option.split()[0]} does nothing at --temperature 0" in err
    assert run("generate --max-new-tokens 1 --prompt Dwalk>")[2] == ""


def test_a_rank_without_a_name_says_whom_it_leaves_out(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert re.search(r"rank of all but VeRA's 256", " ".join(capsys.readouterr().out.split()))
