"""train, generate and merge on the command line, as a user without Python types them."""

import importlib
import json
import os
import signal

import pytest

import minilora as ml
from minilora.cli import main, parser
from minilora.commands import COMMANDS
from minilora.formats.safetensors import read_arrays
from minilora.lab.settings import Settings
from minilora.text.pairs import read_pairs
from minilora.tuning.train import History

train = importlib.import_module("minilora.tuning.train")  # ml.train is the function

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
        found.update(settings, batch=batches[0][0].shape[0], tuned=tuned)
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


def test_sampling_that_is_off_is_told(run):
    for option in ("--top-k 2", "--top-p 0.5", "--seed 3"):
        code, _, err = run(f"generate --max-new-tokens 1 {option} --prompt Dwalk>")
        assert code == 0 and f"{option.split()[0]} does nothing at --temperature 0" in err
    assert run("generate --max-new-tokens 1 --prompt Dwalk>")[2] == ""


def test_a_stop_is_cut_off_and_what_only_begins_as_one_is_printed(run):
    whole = run("generate --prompt Dwalk>")[1].strip()
    stop, ends = whole[4:6], f"{whole[-1]}zz"
    for stops, printed in (([stop], whole[: whole.find(stop)]), ([f"{whole[4]}zz", ends], whole)):
        more = [word for text in stops for word in ("--stop", text)]
        assert run("generate --prompt Dwalk>", *more) == (0, f"{printed}\n", "")
    code, out, err = run("generate --prompt Dwalk> --stop", "ü")
    assert (code, out) == (2, "") and "generate: stop is 'ü': no token for 'ü'" in err
    assert run("generate --repetition-penalty 9 --prompt Dwalk>")[1].strip() != whole


# ---------------------------------------- runs


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_learning_rate_is_printed_and_where_it_is_from(run, pairs):
    for line, said in (
        (
            "--method lora",
            "learning rate 0.02 (chosen by minilora tune on the task past), constant",
        ),
        ("--method dora", "learning rate 0.001 (a first guess: minilora tune --base base"),
        ("--lr 0.003 --warmup 1", "learning rate 0.003, constant, warm-up 1 step"),
    ):
        assert said in run(f"train --steps 2 {line} --data", pairs)[1]


def test_the_log_has_every_step_and_evaluation(run, pairs, tmp_path):
    line = "train --steps 4 --schedule linear --evaluate-every 2 --accumulate 2 --data"
    code, out, _ = run(line, pairs, "--eval", pairs)
    assert code == 0 and f"log: {tmp_path / 'out' / 'log.jsonl'}" in out
    lines = log_of(tmp_path / "out")
    steps = [entry for entry in lines if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]
    assert all(entry.keys() == {"step", "loss", "rate", "seconds"} for entry in steps)
    assert steps[-1]["rate"] == 0 < steps[0]["rate"]
    found = [entry for entry in lines if "evaluation" in entry]
    assert [entry["step"] for entry in found] == [2, 4] and found[0]["evaluation"] > 0


def interrupt_after(monkeypatch, steps, how=signal.SIGINT):
    """Ctrl-C, or another signal, while the step after these is computed."""
    real, done = train._step, []

    def step(*given):
        done.append(1)
        if len(done) == steps:
            signal.raise_signal(how)
        return real(*given)

    monkeypatch.setattr(train, "_step", step)


@pytest.mark.parametrize("named", [True, False])
def test_ctrl_c_says_where_and_how_to_go_on(run, pairs, tmp_path, monkeypatch, named):
    """The step is finished first, and the run goes on to the same bits."""
    path = tmp_path / ("own.safetensors" if named else "out/checkpoint.safetensors")
    own = ("--checkpoint", path) if named else ()
    interrupt_after(monkeypatch, 3)
    code, _, err = run("train --steps 6 --data", pairs, *own)
    monkeypatch.undo()
    more = "" if named else f" --checkpoint {path}"
    says = f"stopped after step 3 of 6; the same line with{more} --resume continues from there"
    assert code == 130 and says in err
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert run("train --steps 6 --data", pairs, "--checkpoint", path, "--resume")[0] == 0
    resumed, _ = read_arrays(tmp_path / "out" / "adapter_model.safetensors")
    assert [entry["step"] for entry in log_of(tmp_path / "out")] == [1, 2, 3, 4, 5, 6]
    assert run("train --steps 6 --data", pairs)[0] == 0
    whole, _ = read_arrays(tmp_path / "out" / "adapter_model.safetensors")
    assert all((whole[key] == a).all() for key, a in resumed.items())


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM")
@pytest.mark.parametrize("ignored", [False, True], ids=["alone", "in the background"])
def test_sigterm_is_as_ctrl_c(run, pairs, tmp_path, monkeypatch, ignored):
    """As a cluster ends a job. A shell's background jobs ignore Ctrl-C: they stop at once."""
    before = signal.getsignal(signal.SIGINT)
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt_after(monkeypatch, 3, signal.SIGTERM)
        code, _, err = run("train --steps 6 --data", pairs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 143 and ("stopped after step 3 of 6" in err or err == "minilora: stopped\n")
    assert (tmp_path / "out" / "checkpoint.safetensors").exists() != ignored
    assert not (tmp_path / "out" / ".lock").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_earlier_checkpoint_is_not_overwritten(run, pairs, tmp_path):
    path = tmp_path / "run.safetensors"
    assert run("train --steps 3 --data", pairs, "--checkpoint", path)[0] == 0
    before = path.read_bytes()
    code, _, err = run("train --steps 3 --data", pairs, "--checkpoint", path)
    assert code == 2 and "an earlier run's checkpoint; wanted --resume" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("method", ["lora", "vera", "delta_lora", "full"])
def test_a_checkpoint_is_an_adapter(run, pairs, tmp_path, method):
    """It answers, it is merged, it is trained on, and it is extended or says why not."""
    path, model = tmp_path / "run.safetensors", ml.load_model("base")
    line = f"train --steps 3 --schedule linear --method {method} --data"
    assert run(line, pairs, "--checkpoint", path)[0] == 0
    folder = ml.load_adapter(model, tmp_path / "out")
    tuned = ml.load_adapter(model, path)
    ids = [model.tokenizer.encode("Dwalk>")]
    assert tuned.method == method and (tuned.rank, tuned.alpha) == (folder.rank, folder.alpha)
    assert abs(tuned.logits(ids) - folder.logits(ids)).max() < 1e-4
    assert run("generate --max-new-tokens 2 --prompt Dwalk> --adapter", path)[0] == 0
    assert run("merge --adapter", path)[0] == 0
    code, out, _ = run("train --steps 2 --lr 0.001 --data", pairs, "--adapter", path)
    assert code == 0 and ml.METHODS[method].title in out
    code, _, err = run(line.replace("3", "5"), pairs, "--checkpoint", path, "--resume")
    assert code == 2 and "steps was 3, this run has 5; each rate of a linear schedule" in err


def test_early_stopping_and_what_it_wants(run, pairs):
    line = "train --steps 9 --schedule constant --lr 0 --evaluate-every 2 --patience 2 --data"
    code, out, _ = run(line, pairs, "--eval", pairs)
    assert code == 0 and "in 4 steps (stopped early)" in out
    for line, said in (
        ("--patience 2", "--patience is 2, wanted --eval or --evaluate-every too"),
        ("--evaluate-every 2", "nothing to evaluate on, wanted --eval too"),
    ):
        code, _, err = run(f"train --steps 2 {line} --data", pairs)
        assert code == 2 and said in err


@pytest.mark.slow
def test_an_interrupted_comparison_mixes_nothing(tmp_path, capsys, monkeypatch):
    """Neither an earlier run's adapters nor one of a row whose seeds were not all run."""
    from minilora.lab import compare

    line = "compare --methods vera,lora_fa --steps 2 --seeds 1 --train-size 20 --jobs 1 --out"
    assert main([*line.split(), str(tmp_path)]) == 0
    earlier = (tmp_path / "results.json").read_bytes()
    real, calls = compare.seed_run, []

    def run_of(*call, **how):
        calls.append(call)
        if len(calls) in stop_at:
            raise KeyboardInterrupt
        return real(*call, **how)

    monkeypatch.setattr(compare, "seed_run", run_of)
    line = "compare --methods lora,vera --steps 2 --seeds 2 --train-size 20 --jobs 1 --out"
    stop_at = [2]  # before the first row is done: the earlier run stays
    assert main([*line.split(), str(tmp_path)]) == 130
    assert (tmp_path / "results.json").read_bytes() == earlier
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"vera", "lora_fa"}
    stop_at = [6]  # lora is done, and one seed of vera
    assert main([*line.split(), str(tmp_path)]) == 130
    assert "stopped; 1 of 3 rows are in" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "results.json").read_text())["methods"]) == ["lora"]
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["lora"]
    assert main(["report", str(tmp_path)]) == 0 and (tmp_path / "report.html").exists()
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------- files of other names


def test_a_file_of_other_names(run, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps({"q": p, "a": c, "n": 1}) + "\n" for p, c in PAIRS))
    code, _, err = run("train --steps 1 --data", path)
    assert code == 2 and "line 1: its names are q, a, n, wanted prompt, completion; instr" in err
    assert read_pairs(path, "q", "a") == PAIRS
    code, out, _ = run("train --steps 1 --columns q,a --data", path)
    assert code == 0 and "on 4 pairs" in out
    code, _, err = run("train --steps 1 --columns q --data", path)
    assert code == 2 and "--columns: got 'q', wanted two names" in err


# ---------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_words_for_each_option(command, capsys):
    commands = next(a for a in parser()._actions if a.choices)
    shown = commands.choices[command].format_help()
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and capsys.readouterr().out == shown
    for action in commands.choices[command]._actions:
        words = (action.help or "").split("(")[0]
        assert words.strip(), f"{command}: {action.dest} has no words"


# ---------------------------------------- weights in fewer bits


def test_a_base_in_fewer_bits_from_the_command_line(run, pairs, tmp_path):
    packed = "--weights nf4 --embeddings int8"
    code, out, _ = run(f"train --data {pairs} --steps 2 --batch-size 2 {packed}")
    assert code == 0 and "LoRA, rank 8" in out
    adapter = tmp_path / "out"
    code, out, _ = run(f"generate --prompt Dwalk> --adapter {adapter} {packed} --max-new-tokens 3")
    assert code == 0
    code, out, error = run(f"merge --base base {packed} --adapter {adapter}")
    assert code == 0 and "LoRA merged into 8 arrays" in out and not error
    code, _, error = run(f"train --data {pairs} --steps 2 --method delta_lora {packed}")
    assert code == 2 and "delta_lora: it moves" in error and "which is in nf4" in error


def test_the_bytes_of_a_base_in_fewer_bits(run):
    line = "memory --weights nf4 --embeddings int8 --seq 16"
    code, out, _ = run(f"{line} --measure")
    assert code == 0 and out.count("the same bytes") == 4
    assert out.startswith("without Full fine-tuning, Delta-LoRA: only float32 is trainable")
    _, out, _ = run(f"{line} --json")
    small = json.loads(out)["lora"]["frozen"]
    _, out, _ = run("memory --seq 16 --json")
    assert json.loads(out)["lora"]["frozen"] > 6 * small
    assert run(f"{line} --method full")[0] == 2
    code, out, _ = run("memory --model llama-7b --weights nf4 --fit 16")
    assert code == 0 and "LoRA" in out
