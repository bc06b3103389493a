"""What a student has written is kept in their own file, and does the work later on."""

import dataclasses
import importlib.util
import linecache

import numpy as np
import pytest
from answers import RIGHT

import minilora as ml
from minilora import engine
from minilora.gradcheck import gradcheck
from minilora_course import EXERCISES, check, course, kept

LORA = """
import numpy as np

def lora_forward(x, W, s, A, B):
    return x @ W.T + s * (x @ A.T) @ B.T

def lora_backward(dy, x, W, s, A, B):
    dz = s * dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)

def my_forward(x, W, scale, A, B):
    return lora_forward(x, W, scale, A, B), (x, W, scale, A, B)

def my_backward(dy, cache):
    dx, dA, dB = lora_backward(dy, *cache)
    return dx, None, None, dA, dB
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The student's file: not there yet."""
    path = tmp_path / "my_minilora.py"
    monkeypatch.setenv(kept.FILE, str(path))
    return path


def cell(source, number=[0]):  # noqa: B006
    """The names of a notebook's cell, whose source can be read, as in IPython."""
    number[0] += 1
    name = f"<cell {number[0]}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    names = {}
    exec(compile(source, name, "exec"), names)
    return names


def test_what_passes_its_check_is_kept_and_comes_back(own, capsys):
    written = cell(LORA)
    course.keep("lora_forward", written["lora_forward"])
    assert capsys.readouterr().out == "lora_forward is kept in my_minilora.py\n"
    mine = course.mine("lora_forward")
    assert capsys.readouterr().out == "lora_forward: yours, from my_minilora.py\n"
    assert mine is not written["lora_forward"] and check("lora_forward", mine)
    spec = importlib.util.spec_from_file_location("my_minilora", own)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # it is a module that anybody can import
    assert check("lora_forward", module.lora_forward)


@pytest.mark.parametrize(
    "body, says",
    [
        ("...", "is not written yet"),
        ("return x @ W.T", "does not pass its check"),
        ("return x @ W.T + scale * (x @ A.T) @ B.T", "does not pass its check"),
    ],
)
def test_what_does_not_pass_is_not_kept(own, capsys, body, says):
    written = cell(f"def lora_forward(x, W, s, A, B):\n    {body}\n")
    course.keep("lora_forward", written["lora_forward"])
    assert says in capsys.readouterr().out and not own.exists()


def test_what_needs_the_notebook_is_not_kept(own, capsys):
    written = cell("one = 1.0\n" + LORA.replace("s * (x", "one * s * (x"))
    course.keep("lora_forward", written["lora_forward"])
    said = capsys.readouterr().out
    assert "run by itself" in said and "name 'one' is not defined" in said and not own.exists()


def test_a_lambda_is_not_kept(own, capsys):
    course.keep("lora_forward", lambda x, W, s, A, B: x @ W.T + s * (x @ A.T) @ B.T)
    assert "write it with def" in capsys.readouterr().out and not own.exists()


def test_the_functions_that_it_calls_are_kept_with_it(own):
    written = cell(LORA)
    course.keep("lora_pair", written["my_forward"], written["my_backward"])
    text = own.read_text(encoding="utf-8")
    assert text.index("def lora_forward") < text.index("def my_forward")
    assert text.rstrip().endswith("lora_pair = my_forward, my_backward")
    forward, backward = course.mine("lora_pair")
    rng = np.random.default_rng(0)
    x, W, A, B = (rng.normal(size=n) for n in [(5, 4), (3, 4), (2, 4), (3, 2)])
    assert gradcheck(forward, backward, x, W, 2.0, A, B, frozen="W") == ("x", "A", "B")


def test_a_newer_version_takes_the_place_of_the_older(own):
    first = cell(LORA)
    course.keep("lora_forward", first["lora_forward"])
    course.keep("lora_pair", first["my_forward"], first["my_backward"])
    with own.open("a", encoding="utf-8") as file:
        file.write("\n\nmy_note = 'stays'\n")
    newer = cell("def lora_forward(x, W, s, A, B):\n    return x @ (W + s * B @ A).T\n")
    course.keep("lora_forward", newer["lora_forward"])
    other = cell(LORA.replace("my_forward", "fore"))
    course.keep("lora_pair", other["fore"], other["my_backward"])
    text = own.read_text(encoding="utf-8")
    assert text.count("def lora_forward") == 1 and "my_note = 'stays'" in text
    assert text.count("lora_pair =") == 1 and "lora_pair = fore, my_backward" in text
    assert check("lora_pair", course.mine("lora_pair"))
    assert course.mine("lora_forward").__code__.co_names == ("T",)  # the newer one


def test_a_file_that_is_broken_is_left_alone_and_the_package_steps_in(own, capsys):
    own.write_text("def lora_forward(:\n", encoding="utf-8")
    course.keep("lora_forward", cell(LORA)["lora_forward"])
    assert "line 1 of" in capsys.readouterr().out
    assert own.read_text(encoding="utf-8") == "def lora_forward(:\n"
    assert check("lora_forward", course.mine("lora_forward"))
    assert "the package's, since my_minilora.py raises SyntaxError" in capsys.readouterr().out
    own.write_text("import no_such_module\n", encoding="utf-8")
    course.mine("lora_forward")
    assert "raises ModuleNotFoundError" in capsys.readouterr().out
    own.write_text("def lora_forward(x, W, s, A, B):\n    return x\n", encoding="utf-8")
    course.mine("lora_forward")
    assert "what is in my_minilora.py does not pass its check" in capsys.readouterr().out


def test_several_come_at_once_and_a_line_says_whose_they_are(own, capsys):
    course.keep("lora_forward", cell(LORA)["lora_forward"])
    capsys.readouterr()
    forward, backward, merge = course.mine("lora_forward", "lora_backward", "lora_merge")
    assert capsys.readouterr().out == (
        "lora_forward: yours, from my_minilora.py\n"
        "lora_backward, lora_merge: the package's, since you have kept none yet\n"
    )
    assert check("lora_backward", backward) and check("lora_merge", merge)


@pytest.mark.parametrize("name", [n for n, e in EXERCISES.items() if e.kind == "blank"])
def test_the_package_has_an_answer_to_every_blank(own, name, capsys):
    assert check(name, course.mine(name))
    assert "the package's, since you have kept none yet" in capsys.readouterr().out


def train(record):
    model, words = ml.load_model("base"), ml.load_task("past")
    batches = ml.batches(words.train[:20], model.tokenizer, batch_size=10, epochs=2)
    tuned = ml.attach(model, record, rank=2)
    return ml.train(tuned, batches, steps=4, lr=1e-2).losses


def test_the_students_pair_trains_the_model_as_the_packages(own, capsys):
    written = cell(LORA)
    course.keep("lora_pair", written["my_forward"], written["my_backward"])
    record = course.technique("lora")
    assert record.op.name == "mine" and "dropout" not in record.options
    mine, theirs = train(record), train("lora")
    assert np.allclose(mine, theirs, rtol=1e-5)
    plus = course.technique("lora_plus", "lora_pair")
    assert np.allclose(train(plus), train("lora_plus"), rtol=1e-5)


@pytest.mark.parametrize("method", ["lora_fa", "vera"])
def test_a_pair_that_does_not_keep_x_trains_the_model_too(own, method):
    forward, backward = RIGHT[f"{method}_pair"]
    course.keep(f"{method}_pair", forward, backward)
    assert course.technique(method).op.name == "mine"
    assert np.allclose(train(course.technique(method)), train(method), rtol=1e-5)


def test_a_students_step_moves_the_weight_as_the_packages(own):
    own_step = RIGHT["delta_lora_step"]

    def after_step(arrays, kept, number, options):
        A, B = kept
        moves = A - arrays["A"], B - arrays["B"]
        how = arrays["s"], options["update_ratio"], 1.0
        arrays["W"][...] = own_step(arrays["W"], *how, A, B, *moves)[0]

    mine = dataclasses.replace(course.technique("delta_lora", "lora_pair"), after_step=after_step)
    assert np.allclose(train(mine), train("delta_lora"), rtol=1e-5)


def test_without_a_pair_the_packages_trains(own, capsys):
    assert course.technique("lora") is ml.METHODS["lora"]
    assert "the package's" in capsys.readouterr().out


def test_a_walk_that_is_written_trains_as_backward_does():
    walk = EXERCISES["tape_walk"].package
    w = ml.param(np.arange(3.0))
    loss = w * w
    grads = walk(engine.tape(loss), np.ones(3))
    ml.backward(loss)
    assert np.array_equal(grads[w.node], w.grad)
