"""A technique from outside the package: a reader's own file, an installed package, and the page."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from battery import BATCHES, base

import minilora as ml
from minilora.cli import main
from minilora.lab import sweep, workers
from minilora.methods import lora, own
from minilora.text import tasks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/technique.md").read_text(encoding="utf-8")
QUICK = {  # fewer steps than the page's lines have
    "train": "--steps 3",
    "sweep": "--steps 3 --jobs 2",
    "tune": "--steps 3 --seeds 1 --train-size 40 --grid 0.02",
    "compare": "--steps 3 --seeds 1 --train-size 40 --jobs 2",
    "bench": "--sizes toy --rounds 1 --seconds 0.01",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, in which techniques are read from files that nobody knows afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "FILES", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    before, modules = dict(ml.METHODS), {*sys.modules}
    yield tmp_path
    for name in ml.METHODS.keys() - before:
        del ml.METHODS[name]
    for name in {*sys.modules} - modules:
        if name.startswith(str(tmp_path)) or name == "beside":
            del sys.modules[name]


def new(name="mine", *changes):
    """NAME.py of `minilora new-method`, with some texts in place of others; its FILE.py:METHOD."""
    assert main(["new-method", name]) == 0
    text = Path(f"{name}.py").read_text(encoding="utf-8")
    for old, other in changes:
        assert old in text
        text = text.replace(old, other)
    Path(f"{name}.py").write_text(text, encoding="utf-8")
    return f"{name}.py:METHOD"


def example():
    """diagonal.py, changed as the page tells; returns its code."""
    if not Path("diagonal.py").exists():
        new("diagonal")
    text = Path("diagonal.py").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def init" in b)
    start, end = text.index("def diagonal_forward"), text.index("def test_diagonal")
    text = f"{text[:start]}{block}\n\n{text[end:]}"
    Path("diagonal.py").write_text(text, encoding="utf-8")
    return text


# ---------------------------------------- what new-method writes, and the page


SLIPS = {  # what stands in a new file -> a slip in its place, and the line of the test that sees it
    "": ("", ""),
    "dB = s * (dy.T @ z)": ("dB = dy.T @ z", "ml.gradcheck"),
    "lambda: 0)": ("lambda: 1)", "model.logits(ids))"),
    "return s * (B @ A)": ("return 2 * s * (B @ A)", "ml.merge"),
    "return rank * (I + O)": ("return rank * I", "count(I, O, 4)"),
}


@pytest.mark.parametrize("right", SLIPS)
def test_a_new_technique_is_right_and_its_test_sees_a_slip(here, right):
    slip, line = SLIPS[right]
    own.read(new("my_way", *[(right, slip)] * bool(right)))
    assert "mine" not in Path("my_way.py").read_text(encoding="utf-8")
    test = sys.modules[str(here / "my_way.py")].test_my_way
    if not right:
        return test()
    with pytest.raises(AssertionError) as found:
        test()
    (step,) = [entry for entry in found.traceback if entry.name == "test_my_way"]
    assert line in str(step.statement)


LINES = [line for line in re.findall(r"^    minilora (.*)$", PAGE, re.M) if "wrong" not in line]


@pytest.mark.parametrize(
    "commands",
    [
        ("new-method", "gradcheck", "train", "generate", "step", "memory", "merge"),
        pytest.param(("new-method", "sweep", "tune", "compare", "bench"), marks=pytest.mark.slow),
    ],
)
def test_the_lines_of_the_page(here, capsys, monkeypatch, commands):
    """Each runs in an empty folder as it stands, but for fewer steps and words."""
    if "train" in commands:
        few = tasks.TaskData(*(part[:40] for part in tasks.load_task("past")))
        monkeypatch.setattr(tasks, "load_task", lambda name: few)
    lines = [line for line in LINES if line.split()[0] in commands]
    assert [line.split()[0] for line in lines] == [*commands]
    for line in lines:
        code = main([*shlex.split(line), *QUICK.get(line.split()[0], "").split()])
        said = capsys.readouterr()
        assert code == 0, (line, said.err)
        if line.startswith("new-method"):
            example()
    if "compare" not in commands:
        return
    results = json.loads((here / "runs/compare/results.json").read_text(encoding="utf-8"))
    assert list(results["methods"]) == ["lora", "diagonal"]
    record = (here / "runs/sweep.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(record) == 4
    assert (here / "runs/compare/adapters/diagonal/adapter_model.safetensors").is_file()


def test_the_worked_example_is_right_and_a_slip_is_told_as_the_page_says(here, capsys):
    text = example()
    assert main(["gradcheck", "--method", "diagonal.py:METHOD"]) == 0
    printed = capsys.readouterr().out.splitlines()[-1:]
    assert printed == re.findall(r"^    (✓ method diagonal.*)$", PAGE, re.M)
    Path("diagonal.py").write_text(text.replace("dz = du * g", "dz = du"), encoding="utf-8")
    assert main(["gradcheck", "--method", "diagonal.py:METHOD"]) == 2
    (slip,) = re.findall(r"^    (minilora: diagonal_backward.*)$", PAGE, re.M)
    assert capsys.readouterr().err.strip() == slip


def test_the_example_with_g_1_is_lora_and_another_g_is_its_own_weight(here):
    """Two judges of the mathematics: LoRA's own pair, and the merged weight in one product."""
    example()
    forward = own.read("diagonal.py:METHOD").op.forward
    rng = np.random.default_rng(0)
    x, W, A, B = (rng.standard_normal(s) for s in ((6, 4), (3, 4), (2, 4), (3, 2)))
    g = rng.standard_normal(2)
    assert np.allclose(
        forward(x, W, 1.5, A, B, np.ones(2))[0], lora.lora_forward(x, W, 1.5, A, B)[0]
    )
    whole = W + 1.5 * B @ np.diag(g) @ A
    assert np.allclose(forward(x, W, 1.5, A, B, g)[0], x @ whole.T)


# ---------------------------------------- a file in processes and on disk


def method_in_a_worker(method):
    """Runs in a worker."""
    return ml.METHODS[method].formula


@pytest.mark.parametrize("dask", [None, pytest.param("local", marks=pytest.mark.slow)])
def test_workers_know_the_techniques_of_files(here, dask):
    place = new("mine", ("W + s B A", "another formula"))
    own.read(place)
    Path("mine.py").unlink()  # another machine has no such file
    if dask:
        found = [*workers.each(method_in_a_worker, [("mine",)], 1, dask)]
    else:
        found = [*workers.each(method_in_a_worker, [("mine",)], 1)]
    assert found == [(0, "another formula")]


def test_a_changed_file_is_another_technique_of_the_same_place(here):
    place = new()
    axes = {"method": [place], "task": ["past"], "lr": [0.1], "train_size": [40], "steps": [1]}
    axes |= {"batch_size": [4], "seed": [0]}
    (before,) = sweep.sweep_cells(axes)
    assert before["method"] == "mine" and own.read(place) is own.read(str(here / place))
    Path("mine.py").write_text(Path("mine.py").read_text(encoding="utf-8") + "# \n")
    (after,) = sweep.sweep_cells(axes)
    assert after["source"] != before["source"]
    assert {**after, "source": 0} == {**before, "source": 0}
    (lora_cell,) = sweep.sweep_cells(axes | {"method": ["lora"]})
    assert "source" not in lora_cell
    assert sweep.word_run(**after)["trainable"] == 7168


def test_a_record_passes_through_python_s_functions(here):
    """What names a technique takes the record, its name once it is known, and FILE.py:METHOD."""
    from minilora.memory.count import count

    place = new()
    for method in (place, "mine", ml.METHODS.get):
        method = own.read(place) if callable(method) else method
        assert ml.attach(base(), method).method == "mine"
        assert count(base().config, method)["method"] == "mine"
        assert ml.ledger(base(), 1, 4, method=method).activations > 0


UNKNOWN = (
    r"saved by a technique of your own: pass method= \(on the command line --method FILE:METHOD\)"
)


def test_a_folder_and_a_checkpoint_of_an_unknown_technique(here):
    """They say how it is given; what they name is never run."""
    record = own.read(new("mine"))
    tuned = ml.attach(base(), record)
    ml.train(tuned, BATCHES[:1], steps=2, lr=0.1, checkpoint="run.safetensors")
    ml.save_adapter(tuned, "a")
    del ml.METHODS["mine"]
    for place in ("a", "run.safetensors"):
        with pytest.raises(ValueError, match=UNKNOWN):
            ml.load_adapter(base(), place)
        again = ml.load_adapter(base(), place, method=record)
        for name, array in tuned.trainable.items():
            assert np.array_equal(again.trainable[name], array)
        with pytest.raises(ValueError, match="stored as 'mine', which is not lora"):
            ml.load_adapter(base(), place, method="lora")
    Path("evil.py").write_text("raise SystemExit('it was run')")
    evil = dataclasses.replace(record, name="evil.py:METHOD")
    ml.save_adapter(ml.attach(base(), evil), "b")
    with pytest.raises(ValueError, match=UNKNOWN):
        ml.load_adapter(base(), "b")


def test_an_installed_package_offers_techniques(tmp_path):
    """By entry points; one that fails, or whose name is taken, is left out with a warning."""
    main_file = tmp_path / "package_of_mine.py"
    main_file.write_text(
        "import dataclasses\nimport minilora as ml\n"
        "METHOD = dataclasses.replace(ml.METHODS['lora'], name='offered')\n"
        "TAKEN = ml.METHODS['lora']\nNOT_ONE = 3\n"
    )
    about = tmp_path / "package_of_mine-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: package-of-mine\nVersion: 1\n")
    names = ("METHOD", "TAKEN", "NOT_ONE", "NONE")
    entries = "".join(f"{name} = package_of_mine:{name}\n" for name in names)
    (about / "entry_points.txt").write_text(f"[minilora.methods]\n{entries}")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from minilora.cli import main\n"
        "import minilora as ml\n"
        "assert [*ml.METHODS][-2:] == ['dora', 'offered']\n"
        "sys.exit(main(['count', '--method', 'offered']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "14,336", done.stderr
    for word in ("its name 'lora' is taken", "is a int, wanted a Method", "NONE"):
        assert word in done.stderr, word


# ---------------------------------------- what is wrong


@pytest.mark.parametrize(
    "change, said",
    [
        (("def delta(", "def delta(("), r"mine.py: SyntaxError: .* \(mine.py, line \d+\)"),
        (
            ("import math\n", "import mathh\n"),
            "mine.py line 8, in <module>: ModuleNotFound",
        ),
        (("import math\n", "import sys; sys.exit(3)\n"), "line 8, in <module>: SystemExit: 3"),
        (("    count=count,\n", ""), r"line \d+, in <module>: TypeError: .*'count'"),
        (("METHOD = Method(", "OTHER = Method("), "unknown technique in .*wanted one of: OTHER"),
        (('name="mine"', 'name="lora"'), "its name 'lora' is taken or invalid"),
        (('name="mine"', 'name="my way"'), "its name 'my way' is taken or invalid"),
        (('trains=("A", "B")', 'trains="A"'), r"trains is 'A', wanted \('A',\)"),
    ],
)
def test_a_file_that_is_no_technique(here, capsys, change, said):
    place = new("mine", change)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--task", "past", "--method", place])
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1
    assert line.startswith("minilora train: ") and re.search(said, line), line
    with pytest.raises(ValueError, match=said):
        ml.attach(base(), place)


@pytest.mark.parametrize(
    "line",
    [
        "train --task past --lr 0.1 --steps 1 --out a",
        "sweep --lr 0.1 --steps 1 --seed 0 --train-size 40 --out s.jsonl",  # in a worker
        "gradcheck",
    ],
)
def test_an_error_in_a_technique_s_own_code_names_its_line(here, capsys, line):
    place = new("mine", ("z = x @ A.T  # (M, r)", "z = x @ A.T + None"))
    capsys.readouterr()
    assert main([*line.split(), "--method", place]) == 1
    said = capsys.readouterr().err
    assert re.match(r"minilora: \S+mine.py line 21, in mine_forward: \w+Error: ", said), said
    assert said.count("\n") == 1 and "should not happen" not in said


def test_an_error_that_only_a_technique_can_cause_names_the_check(here, capsys):
    place = new("mine", ('trains=("A", "B")', 'trains=("A", "C")'))
    assert main(["train", "--task", "past", "--lr", "0.1", "--method", place]) == 1
    said = capsys.readouterr().err
    assert f"minilora gradcheck --method {here / 'mine.py'}:METHOD checks a technique" in said


def test_two_files_of_one_name_and_a_file_beside(here, capsys):
    Path("beside.py").write_text("NUMBER = 3\n")
    new("mine", ("import math\n", "import math\nfrom beside import NUMBER\n"))
    Path("other.py").write_bytes(Path("mine.py").read_bytes())
    with pytest.raises(SystemExit):
        main(["compare", "--methods", "mine.py,other.py"])
    assert "other.py:METHOD: its name 'mine' is taken" in capsys.readouterr().err


NO_NAMES = ("my-method", "class", "../x", "")


@pytest.mark.parametrize(
    "name, said",
    [
        *((name, "is not a Python name, wanted one such as my_method") for name in NO_NAMES),
        *((name, "is taken, wanted another") for name in ("LoRA", "json")),
        ("there", "there.py already exists, and is not changed"),
    ],
)
def test_names_of_a_new_technique(here, capsys, name, said):
    Path("there.py").write_text("mine")
    assert main(["new-method", name]) == 2
    assert said in capsys.readouterr().err
    assert [p.name for p in here.iterdir()] == ["there.py"]
    assert Path("there.py").read_text() == "mine"


def test_a_card_has_the_settings_and_the_technique(here):
    """Its code to load takes method=, and its table has no colon in a name."""
    new("my_way")
    rows = [{"prompt": f"D{word}>", "completion": word} for word in ("walk", "jump")]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = "train --steps 2 --method my_way.py:METHOD --data rows.jsonl --eval rows.jsonl --out out"
    assert main(line.split()) == 0
    card = Path("out", "README.md").read_text(encoding="utf-8")
    assert ", method='" in re.search("load_adapter.*", card)[0] and "my_way.py:METHOD')" in card
    table = [row.split(" | ") for row in card.splitlines() if row.startswith("| ")]
    facts = {row[0][2:]: row[1].removesuffix(" |") for row in table}
    assert facts["steps"] == "2" and facts["schedule"] == "constant" and facts["batch size"] == "2"
    assert not any(":" in name for name in facts)
