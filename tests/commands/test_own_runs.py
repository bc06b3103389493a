"""minilora train on a user's own data: what is printed, what is kept, what stands beside it."""

import importlib
import json
import re
import shlex
import tomllib
from argparse import Namespace

import numpy as np
import pytest
from conftest import make_llama
from test_commands import PAIRS, interrupt_after, log_of, pairs, run  # noqa: F401  (fixtures)

import minilora as ml
from minilora.cli import main
from minilora.commands import config, training
from minilora.formats.safetensors import read_arrays
from minilora.lab import rates
from minilora.tuning.callbacks import KeepBest

SHORT = "train --steps 6 --lr 0.02 --schedule constant"


@pytest.fixture
def others(tmp_path):
    """Held-out pairs that contradict what is learned: their loss falls, then rises."""
    path = tmp_path / "others.jsonl"
    lines = (json.dumps({"prompt": p, "completion": p[1:-1] + "s"}) for p, _ in PAIRS)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def weights(folder):
    return read_arrays(folder / "adapter_model.safetensors")[0]


def same(one, two):
    return one.keys() == two.keys() and all((one[key] == two[key]).all() for key in one)


# ---------------------------------------- the rate of a base


def test_the_rate_follows_the_base(tmp_path):
    record = rates.read()
    word_lab = ml.attach(ml.load_model("base"), "lora", rank=4)
    past = record["chosen"]["past"]["lora"]["lr"]
    assert rates.of_run(record, word_lab, None) == (past, "past")
    config_ = make_llama(dtype=np.float32).config
    other = ml.attach(make_llama(dtype=np.float32), "lora", rank=2)
    category = record["chosen"]["category"]["lora"]["lr"]
    assert rates.of_run(record, other, "past") == (category, "") != (past, "")
    for method, guess in (("dora", 1e-3), ("full", 1e-4)):
        tuned = ml.attach(ml.Llama(config_, other.base.params), method)
        assert rates.of_run(record, tuned, None) == (guess, "")
    marks = {name: sweep["base_crc32"] for name, sweep in record["sweeps"].items()}
    record["sweeps"]["category"]["base_crc32"] = marks["past"]  # two sweeps on one base
    assert rates.of_run(record, word_lab, "category") == (category, "category")


def test_the_line_that_tunes_a_base_is_understood(run, pairs, tmp_path):  # noqa: F811
    """What it writes is what --rates takes."""
    line = "train --steps 2 --method dora --data"
    said = run(line, pairs)[1]
    tune = re.search(r"\(a first guess: minilora (tune .*) finds one", " ".join(said.split()))[1]
    out = tmp_path / "rates.json"
    words = shlex.split(tune.replace("rates.json", str(out)))
    small = "--grid 0.004 --steps 2 --seeds 1 --train-size 20"
    assert main([*words, *small.split()]) == 0
    assert "learning rate 0.004 (chosen by" in run(line, pairs, "--rates", out)[1]


# ---------------------------------------- seen while it runs


def test_each_evaluation_is_a_line_and_the_best_adapter_is_kept(run, pairs, others, tmp_path):  # noqa: F811
    line = "train --steps 20 --lr 0.02 --schedule constant --warmup 0 --samples 2 --data"
    code, out, _ = run(line, pairs, "--eval", others)
    assert code == 0 and "pairs\n" in out and "epochs: 20; memory of a step: at most " in out
    assert "about" in out and "to go: 17 steps of" in out
    found = [(e["step"], e["evaluation"]) for e in log_of(tmp_path / "out") if "evaluation" in e]
    assert [step for step, _ in found] == list(range(2, 21, 2))
    best, lowest = min(found, key=lambda point: point[1])
    for step, loss in found:
        (said,) = re.findall(rf"^step {step}: validation loss {loss:.4f} \((.*)\)$", out, re.M)
        if step == best:
            assert said == "the best so far"
        if step > best:
            assert said == f"best {lowest:.4f} at step {best}"
    assert best < 20 and f"validation loss: {lowest:.4f} at step {best}, the lowest" in out
    assert len(re.findall("^    D(walk|jump)> -> ", out, re.M)) == 2 * 11
    kept = weights(tmp_path / "out")
    line = line.replace("20", str(best), 1)
    assert run(line, pairs, "--eval", others, "--keep", "last")[0] == 0
    assert same(kept, weights(tmp_path / "out"))


def test_what_the_best_adapter_and_samples_want(run, pairs):  # noqa: F811
    for option in ("--keep best", "--samples 2", "--patience 1"):
        code, _, err = run(f"{SHORT} {option} --data", pairs)
        assert code == 2 and "wanted --eval or --evaluate-every too" in err
    assert run(f"{SHORT} --keep last --data", pairs)[0] == 0


def test_early_stopping_leaves_the_best_and_the_checkpoint_the_last(run, pairs, others, tmp_path):  # noqa: F811
    path = tmp_path / "run.safetensors"
    line = "train --steps 30 --lr 0.02 --schedule constant --patience 2 --evaluate-every 1 --data"
    code, out, _ = run(line, pairs, "--eval", others, "--checkpoint", path)
    assert code == 0 and "(stopped early)" in out
    assert not np.isclose(
        *(
            ml.load_adapter(ml.load_model("base"), p).logits([[3, 4]])
            for p in (tmp_path / "out", path)
        )
    ).all()


@pytest.mark.parametrize("steps", [2, 3, 6])
def test_after_an_interruption_no_evaluation_is_missing(run, pairs, tmp_path, monkeypatch, steps):  # noqa: F811
    """Ctrl-C in a step with an evaluation, in one without, and in the last one."""
    line, path = f"{SHORT} --evaluate-every 2 --data", tmp_path / "own.safetensors"
    more = ("--eval", pairs, "--checkpoint", path)
    interrupt_after(monkeypatch, steps)
    assert run(line, pairs, *more)[0] == 130
    monkeypatch.undo()
    with (tmp_path / "out" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # cut off
    assert run(line, pairs, *more, "--resume")[0] == 0
    resumed, log = weights(tmp_path / "out"), log_of(tmp_path / "out")
    assert run(line, pairs, "--eval", pairs)[0] == 0
    seconds = {"seconds": 0}
    assert [e | seconds for e in log] == [e | seconds for e in log_of(tmp_path / "out")]
    assert same(resumed, weights(tmp_path / "out"))


def test_a_finished_run_that_is_resumed_keeps_its_best(run, pairs, others, tmp_path):  # noqa: F811
    line = "train --steps 9 --lr 0.02 --schedule constant --warmup 0 --evaluate-every 1 --data"
    more = ("--eval", others, "--checkpoint", tmp_path / "own.safetensors")
    code, out, _ = run(line, pairs, *more)
    assert code == 0 and "at step 9, the lowest" not in out
    before = weights(tmp_path / "out")
    assert run(line, pairs, *more, "--resume")[0] == 0
    assert same(before, weights(tmp_path / "out"))


def test_a_run_resumed_in_another_folder_ends_there(run, pairs, others, tmp_path, monkeypatch):  # noqa: F811
    """The best adapter stayed in the first folder: the last one is saved, and it is said."""
    line = "train --steps 9 --lr 0.02 --schedule constant --warmup 0 --evaluate-every 1 --data"
    more = ("--eval", others, "--checkpoint", tmp_path / "own.safetensors")
    interrupt_after(monkeypatch, 8)
    assert run(line, pairs, *more)[0] == 130
    monkeypatch.undo()
    (tmp_path / "out").rename(tmp_path / "first")
    code, out, _ = run(line, pairs, *more, "--resume")
    assert code == 0 and "the lowest; it is not in" in out and "adapter of the last step" in out
    last = ml.load_adapter(ml.load_model("base"), tmp_path / "own.safetensors")
    saved = weights(tmp_path / "out")
    assert all((saved[key] == array).all() for key, array in last.trainable.items())


def test_the_adapter_of_the_start_competes(run, pairs, others, tmp_path):  # noqa: F811
    """A start that no step improves is kept, and so is its run.toml."""
    good = tmp_path / "good"
    train_it = f"{SHORT} --warmup 0 --data"
    assert run(train_it, others)[0] == 0
    (tmp_path / "out").rename(good)
    code, out, _ = run(train_it, pairs, "--eval", others, "--adapter", good)
    assert code == 0 and "at step 0, the lowest; no step was better than the start" in out
    assert same(weights(good), weights(tmp_path / "out"))


def test_a_run_that_cannot_start_leaves_the_folder(run, pairs, tmp_path):  # noqa: F811
    """What an earlier run wrote stays as it is; a run that starts says that it replaces it."""
    assert run(f"{SHORT} --data", pairs)[0] == 0
    before = (tmp_path / "out" / "run.toml").read_bytes()
    assert run("train --schedule lin --data", pairs)[0] == 2
    assert run("train --clip -1 --data", pairs)[0] == 2
    assert (tmp_path / "out" / "run.toml").read_bytes() == before
    code, out, _ = run(f"{SHORT} --seed 1 --data", pairs)
    assert code == 0 and "has an adapter of another run, which this run replaces" in out
    assert (tmp_path / "out" / "run.toml").read_bytes() != before


def test_a_best_adapter_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    def full(*given, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minilora.tuning.callbacks.save_adapter", full)
    values, kept = iter([0.3, 0.2, 0.1]), KeepBest(tmp_path)
    ids, tuned = [[1, 2, 3]], ml.attach(ml.load_model("base"), "lora", rank=2)
    how = dict(steps=3, lr=0.1, evaluate=lambda t: next(values), evaluate_every=1)
    with pytest.warns(
        UserWarning, match="of step 1 is not kept, and the run goes on: .*space"
    ) as w:
        history = ml.train(tuned, [(ids, ids)], callbacks=[kept], **how)
    assert len(history.losses) == 3 and len(w) == 1 and kept.kept is None


def test_a_callback_keeps_the_best_of_any_measure(tmp_path):
    values = iter([0.1, 0.4, 0.2])
    tuned, kept = ml.attach(ml.load_model("base"), "lora", rank=2), KeepBest(tmp_path, higher=True)
    ids = [[1, 2, 3]]
    how = dict(steps=3, lr=0.1, evaluate=lambda t: next(values), evaluate_every=1)
    ml.train(tuned, [(ids, ids)], callbacks=[kept], **how)
    assert kept.kept == 2
    at_two = ml.attach(ml.load_model("base"), "lora", rank=2)
    ml.train(at_two, [(ids, ids)], steps=2, lr=0.1)
    saved = ml.load_adapter(tuned.base, tmp_path)
    assert all((saved.trainable[k] == a).all() for k, a in at_two.trainable.items())


# ---------------------------------------- what stands beside the adapter


def test_run_toml_repeats_the_run(run, pairs, tmp_path, capsys):  # noqa: F811
    """Options beside it count more; what is chosen for a run is written, too."""
    odd = tmp_path / 'od"d é\x7f.jsonl'
    odd.write_bytes(pairs.read_bytes())
    line = "train --epochs 3 --batch-size 2 --method lora_plus --option ratio=4"
    line += " --targets k_proj,q_proj"
    assert run(f"{line} --data", odd)[0] == 0
    first, toml = weights(tmp_path / "out"), tmp_path / "out" / "run.toml"
    saved = tomllib.loads(toml.read_text(encoding="utf-8"))
    assert saved["option"] == ["ratio=4"] and saved["targets"] == ["k_proj", "q_proj"]
    assert saved["lr"] == 0.005 and saved["epochs"] == 3 and "steps" not in saved
    again = tmp_path / "again"
    assert main(["train", "--config", str(toml), "--out", str(again)]) == 0
    assert same(first, weights(again))
    capsys.readouterr()
    assert main(["train", "--out", str(again), "--rank", "2", f"--config={toml}"]) == 0
    assert "LoRA+, rank 2" in capsys.readouterr().out
    assert main(["train", "--config", str(again / "run.toml"), "--out", str(again)]) == 0
    assert "LoRA+, rank 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, said",
    [
        ("steps = ", "not TOML: Invalid value"),
        ("stepps = 3", "unknown option 'stepps'; did you mean 'steps'"),
        ("steps = true", "argument --steps: invalid int value: 'True'"),
        ("chat = 1", "argument --chat/--no-chat: ignored explicit argument '1'"),
        ("[steps]\na = 2", "argument --steps: invalid int value"),
        ("steps = 'many'", "argument --steps: invalid int value: 'many'"),
        ("config = 'a'", "unknown option 'config'"),
        ("steps = 2\nepochs = 2", "not allowed with argument"),
        ("", "no training data, wanted --data FILE or --task NAME"),
    ],
)
def test_a_wrong_run_toml_is_told_in_a_line(tmp_path, capsys, text, said):
    path = tmp_path / "run.toml"
    path.write_text(text)
    try:
        code = main(["train", "--config", str(path)])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and err.count("\n") == 1


def test_toml_gives_back_what_was_written():
    values = {"a": 1e-5, "b": [1, 2], "c": 'q"\\\n\t\x7f\x00é😀', "d": True, "e": 3, "f": 1e22}
    assert tomllib.loads(config.text({**values, "none": None, "resume": True})) == values


def test_the_card_says_what_it_is_and_how_to_load_it(run, pairs, tmp_path, monkeypatch):  # noqa: F811
    assert run(f"{SHORT} --data", pairs, "--eval", pairs)[0] == 0
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert head["library_name"] == "peft" and json.loads(head["base_model"]) == "base"
    assert "| data | pairs.jsonl |" in text and "| trainable numbers | 14,336 of" in text
    code = re.search("```python\n(import minilora.*?)```", text, re.S)[1]
    names = {}
    exec(code, names)
    assert names["tuned"].method == "lora"
    assert "from peft import PeftModel" in text
    assert (tmp_path / "out" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert run("train --steps 2 --method full --data", pairs)[0] == 0
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "PEFT does not read this form." in text and "import PeftModel" not in text


def test_epochs_are_steps(run, pairs, tmp_path):  # noqa: F811
    """Each row is learned from so often, as often as any other."""
    seen = []
    train = importlib.import_module("minilora.tuning.train")
    real = train.gradients
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "gradients", lambda t, parts, step: (seen.extend(parts), real(t, parts, step))[1]
        )
        assert (
            "4 steps of 2 × 1"
            not in run("train --epochs 3 --batch-size 2 --accumulate 2 --data", pairs)[1]
        )
    rows = [tuple(row[row > 0]) for ids, _ in seen for row in ids]
    assert len(rows) == 12 and {rows.count(row) for row in rows} == {3}
    code, _, err = run("train --epochs 0 --data", pairs)
    assert code == 2 and "--epochs is 0.0, wanted a finite number above 0" in err


def test_few_steps_keep_their_rate(run, pairs, tmp_path):  # noqa: F811
    """The last step of a linear schedule has rate 0: a run of one step would train nothing."""
    assert run("train --epochs 1 --data", pairs)[0] == 0
    (step,) = log_of(tmp_path / "out")
    assert step["rate"] > 0
    said = run("train --steps 1 --schedule linear --data", pairs)[2]
    assert "nothing is trained; wanted constant, or more steps" in " ".join(said.split())


@pytest.mark.parametrize("steps, times", [(11, 11), (16, 8), (100, 10), (149, 10), (3, 3)])
def test_a_run_is_evaluated_about_ten_times(pairs, steps, times):  # noqa: F811
    data = Namespace(rows=range(8))
    a = Namespace(accumulate=1, batch_size=4, epochs=None, steps=steps, schedule=None)
    a.eval, a.evaluate_every = pairs, None
    training._settle(a, data)
    assert -(-steps // a.evaluate_every) == times


def test_an_option_beside_a_config_wins_in_its_group(run, pairs, tmp_path, capsys):  # noqa: F811
    toml = tmp_path / "run.toml"
    toml.write_text(f"steps = 2\ndata = {json.dumps(str(pairs))}\n")
    assert run(f"train --config {toml} --epochs 3")[0] == 0
    assert len(log_of(tmp_path / "out")) == 3
    (tmp_path / "task.toml").write_text("steps = 2\ntask = 'past'\n")
    code, out, _ = run(f"train --config {tmp_path / 'task.toml'} --data", pairs)
    assert code == 0 and "on 4 pairs" in out


def test_what_no_adapter_can_hold_is_in_a_checkpoint(run, pairs, tmp_path, monkeypatch):  # noqa: F811
    """Neither an evaluation nor the end of the run loses what was learned."""

    def refuse(*given, **settings):
        raise ValueError("its form on disk does not give back the change")

    monkeypatch.setattr("minilora.tuning.callbacks.save_adapter", refuse)
    monkeypatch.setattr(ml, "save_adapter", refuse)
    line = f"{SHORT} --method delta_lora --evaluate-every 2 --data"
    code, _, err = run(line, pairs, "--eval", pairs)
    path = tmp_path / "out" / "checkpoint.safetensors"
    assert code == 2 and err.count("is not kept, and the run goes on") == 1
    assert "has what was learned" in err and len(log_of(tmp_path / "out")) == 9
    assert ml.load_adapter(ml.load_model("base"), path).method == "delta_lora"


def test_an_adapter_names_the_folder_of_its_base(run, pairs, tmp_path):  # noqa: F811
    folder = tmp_path / "base"
    ml.save_model(ml.load_model("base"), folder)
    assert run("train --steps 2 --base", folder, "--data", pairs, "--eval", pairs)[0] == 0
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(folder)
