"""What teachers get: the quiz, points and hidden cases, the answer key, minutes, misconceptions."""

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import minilora as ml
from minilora.check import EXERCISES, grade, points
from minilora.check.grading import drawn_anew
from minilora.methods import lora, vera
from test_check import RIGHT, WRONG

ROOT = Path(__file__).parent.parent
if not (ROOT / "TEACHING.md").is_file():
    pytest.skip("an installed package has no material for teachers", allow_module_level=True)
TEACHING = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))


def number(path):
    """notebooks/src/04_lora.py -> "04"."""
    return path.name.partition("_")[0]


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
        answers.append((answer if kind == "number" else unescaped(answer), share, unescaped(feedback)))
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


NUMBERS = {
    "00 Count for two weights": lambda: lora.count(64, 256, 8) + lora.count(64, 64, 8),
    "01 Bytes of a cache": lambda: cache_bytes(50, 200),
    "02 Grouped keys": lambda: head_numbers(576, 9, 3),
    "03 The nearest matrix": lambda: np.linalg.norm(np.diag([20.0, 8, 6]) - np.diag([20.0, 0, 0])),
    "04 Count for one linear": lambda: lora.count(128, 512, 8),
    "04 The scale": lambda: lora.scaling(4, 16, rank_stabilized=False),
    "05 What LoRA-FA keeps": lambda: kept(16 * 100, 512, 8),
    "06 Count for VeRA": lambda: vera.count(512, 256, 64),
    "07 The rank that is reached": lambda: reached(5, 100, 10),
    "08 The rate of B": lambda: 0.0005 * ml.METHODS["lora_plus"].lr_scale({"ratio": 16.0})["B"],
    "09 Intensity": lambda: 2 * 300**3 / sum(np.zeros((300, 300), "f4").nbytes for _ in range(3)),
    "10 The error of a share": lambda: np.sqrt(0.9 * 0.1 / 400),
}


def test_there_are_thirty_questions_of_three_kinds():
    assert len(QUESTIONS) == QUIZ.count("\n::") == 30
    kinds = [kind for _, _, kind, _ in QUESTIONS.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"choice": 14, "number": 12, "word": 4}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_has_one_right_answer_and_feedback_to_each(name):
    _, asks, kind, answers = QUESTIONS[name]
    assert len(asks) > 20
    assert sorted(share for _, share, _ in answers)[-1] == 1
    assert [share for _, share, _ in answers].count(0) == len(answers) - 1 >= 1
    assert kind != "choice" or len(answers) == 4
    assert len({answer for answer, _, _ in answers}) == len(answers)
    for answer, share, feedback in answers:
        assert feedback, answer
        assert (share == 1) == feedback.startswith("Right") or kind != "choice"
        assert kind != "choice" or share == 1 or feedback.startswith("No.")


def test_the_right_answer_is_not_the_longest_of_most_choices():
    """Nor always the first in another way than by its place: a system shuffles the places."""
    longest = [max(answers, key=lambda a: len(a[0]))[1] == 1 for _, _, kind, answers in QUESTIONS.values() if kind == "choice"]
    assert sum(longest) <= len(longest) / 2


@pytest.mark.parametrize("name", [n for n, q in QUESTIONS.items() if q[2] == "number"])
def test_a_number_is_what_the_package_computes(name):
    _, _, _, answers = QUESTIONS[name]
    true = float(NUMBERS[name]())
    for (value, tolerance), share, _ in answers:
        assert (abs(value - true) <= tolerance + 1e-12) == (share == 1)


def test_what_is_said_of_the_first_step_is_so():
    (right,) = [a for a, share, _ in QUESTIONS["04 The first step"][3] if share]
    assert right == "dA is exactly 0, dB is not" and first_step() == (False, True)


def promised(path):
    """The objectives of a notebook: the lines of its first cell's list."""
    first = path.read_text(encoding="utf-8").split("# %%")[1]
    return re.findall(r"^- ((?:.|\n  )*)", first, re.M)


def test_every_question_has_an_objective_and_every_notebook_a_question():
    count = {number(path): len(promised(path)) for path in SOURCES}
    for name, (objective, *_) in QUESTIONS.items():
        notebook, _, place = objective.partition(".")
        assert name.startswith(notebook) and 1 <= int(place) <= count[notebook]
    asked = {objective.partition(".")[0] for objective, *_ in QUESTIONS.values()}
    assert asked >= {n for n in count if n.isdigit()}


# ---------------------------------------------------------------------------- points


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_gets_all_points_whatever_the_seed(name, capsys):
    for seed in (0, 1, 2026):
        assert grade(name, RIGHT[name], seed) == points(name) >= 1
    assert capsys.readouterr().out.count("✓") == 3


@pytest.mark.parametrize("name", EXERCISES)
def test_nothing_written_gets_no_points(name, capsys):
    empty = (lambda *_: None) if EXERCISES[name].cases is not list else None
    for nothing in (None, ..., empty):
        assert grade(name, nothing, 0) == 0


def test_each_right_gradient_gets_a_point(capsys):
    def two_of_three(dy, x, W, s, A, B):
        dx, dA, dB = RIGHT["lora_backward"](dy, x, W, s, A, B)
        return dx, dA / s, dB

    assert points("lora_backward") == 3
    assert grade("lora_backward", two_of_three, 0) == 2
    assert "dA is wrong (dB, dx are right)" in capsys.readouterr().out
    assert grade("lora_backward", lambda *a: 1 / 0, 0) == 0
    assert grade("lora_count", 8192, 0) == 0


ANSWERS = [(name, f) for table in WRONG.values() for name, each in table.items() for f in each]


@pytest.mark.parametrize("name, wrong", [(n, f) for n, f in ANSWERS if EXERCISES[n].kind == "blank"])
def test_no_known_slip_gets_all_points(name, wrong, capsys):
    assert grade(name, wrong, 0) < points(name)


@pytest.mark.parametrize("name", [n for n, e in EXERCISES.items() if e.kind != "predict"])
def test_hidden_cases_have_the_shapes_of_the_shown_ones_and_other_numbers(name):
    shown = EXERCISES[name].cases()
    hidden = drawn_anew(shown, 1)
    assert len(hidden) > len(shown)
    for a, b in zip(shown, hidden):
        for key, value in a.args.items():
            assert np.shape(value) == np.shape(b.args[key])
            if np.asarray(value).dtype.kind == "f":
                assert not np.array_equal(value, b.args[key])
    again = drawn_anew(shown, 1)
    assert all(np.array_equal(a.args[k], b.args[k]) for a, b in zip(hidden, again) for k in a.args)


def test_learning_the_shown_cases_by_heart_gets_nothing(capsys):
    """A function that knows the right outputs of the cases of the notebook, and nothing else."""
    table = {
        case.args["x"].tobytes(): tuple(case.true.values()) for case in EXERCISES["lora_backward"].cases()
    }

    def by_heart(dy, x, W, s, A, B):
        return table.get(x.tobytes(), (0 * x, 0 * A, 0 * B))

    assert ml.check.check("lora_backward", by_heart)
    assert grade("lora_backward", by_heart, 0) == 0
