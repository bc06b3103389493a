"""Points come from another process than the student's: an attack gets none, what is right all."""

import base64
import ctypes
import importlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import types
from pathlib import Path

import attacks
import numpy as np
import pytest

from minilora_course import EXERCISES, grading, points, wire, worker

# ---------------------------------------------------------------------------- what is sent


def lines(value):
    """A value after its way over the line, as text that shows each kind."""
    return repr(wire.unpack(wire.pack(value)))


def test_what_is_sent_arrives_as_it_was():
    a = np.arange(6.0).reshape(2, 3).T
    for value in (
        None, True, 3, 0.1, float("inf"), "α\n", (), [1, (2, "b")], {"x": [None]},
        a, a.astype(np.float32), a > 2, np.float32(0.1), np.int8(3), np.zeros((0, 3)), 1j * a,
    ):  # fmt: skip
        assert lines((value,)) == repr((value,))
    shared = wire.unpack(wire.pack([a, [a], a.copy()]))
    assert shared[0] is shared[1][0] and shared[0] is not shared[2]
    assert type(wire.unpack(wire.pack(open))).__name__ == "builtin_function_or_method"
    assert lines(range(3)) == repr(np.arange(3))


def npy(array, **how):
    file = io.BytesIO()
    np.save(file, array, **how)
    return base64.b64encode(file.getvalue()).decode()


def header(text):
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text).decode()


HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"
HOSTILE = {
    "a pickle as a line": pickle.dumps([1]),
    "a pickle in an array": json.dumps([{"array": 0}, [npy(np.array([{}]), allow_pickle=True)]]),
    "a pickle as a file": json.dumps(
        [{"array": 0}, [base64.b64encode(pickle.dumps([1])).decode()]]
    ),
    "a huge array": json.dumps([{"array": 0}, [header(HUGE)]]),
    "a header that is code": json.dumps([{"array": 0}, [header(b"__import__('os')\n")]]),
    "text as an array": json.dumps([{"array": 0}, [npy(np.array(["a"]))]]),
    "an array that is not there": json.dumps([{"array": 7}, []]),
    "another kind": json.dumps([{"points": 3}, []]),
    "two kinds": json.dumps([{"tuple": [], "list": []}, []]),
    "brackets": "[" * 10_000 + "]" * 10_000,
    "a number": "3",
    "a name of a class": json.dumps([{"other": "\0"}, []]),
    "a tuple of a number": json.dumps([{"tuple": 3}, []]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_a_value_error(name):
    line = HOSTILE[name]
    with pytest.raises(ValueError):
        wire.unpack(line if isinstance(line, bytes) else line.encode())


def test_a_line_has_an_end_in_bytes_and_in_time():
    ours, theirs = socket.socketpair()
    line = wire.Line(ours, seconds=0.2)
    with pytest.raises(ValueError, match=r"wanted at most 65,536"):
        line.send(np.zeros(10_000))
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        line.send(endless)
    theirs.sendall(b"1" * (wire.MOST + 1))
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        line.receive()
    with pytest.raises(TimeoutError):
        wire.Line(ours, seconds=0.05).receive()
    theirs.close()
    with pytest.raises(EOFError):
        wire.Line(ours).receive()


@pytest.mark.parametrize("name", EXERCISES)
def test_functions_among_the_arguments_do_not_depend_on_the_seed(name):
    """A student's process has its own, since functions are not sent."""

    def functions(seed):
        cases = [case.args for case in EXERCISES[name].drawn(seed)]
        return [{n: a if callable(a) else ... for n, a in args.items()} for args in cases]

    assert functions(0) == functions(1) == functions(2)


# ---------------------------------------------------------------------------- attacks

ATTACKS = Path(__file__).with_name("attacks.py")
# In attacks.py each is the first answer to an exercise; these are right, and get all their points.
HONEST = "backward_softmax", "lora_backward", "tape_walk", "gradient_central", "lora_count"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The Grades of attacks.py, and the folder in which it ran."""
    if sys.platform != "linux":
        pytest.skip("a process of its own, with limits, is for Linux")
    folder = tmp_path_factory.mktemp("attacks")
    places = Path(grading.__file__).parents[1], Path(__file__).parents[2], ATTACKS.parent
    with pytest.MonkeyPatch.context() as patch, grading.Grader() as grader:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        for which, said in (("rest", "the notebook ends\n"), ("hang", "")):
            done = subprocess.run(
                [sys.executable, ATTACKS, which], cwd=folder, capture_output=True, text=True
            )
            assert done.stdout.endswith(said), done.stderr
            patch.setattr(grading, "SECONDS", attacks.SECONDS)
    return grader.grades, folder


@pytest.mark.slow  # some of the attacks hang until their limit
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_gets_no_point(name, attacked):
    found = attacked[0][name]
    assert found.points == 0 and not found.verdict, found
    assert attacks.ATTACKS[name][1] in str(found.verdict)
    assert not (attacked[1] / str(os.getpid())).exists()  # this process has loaded no pickle


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_a_right_answer_among_attacks_gets_all_its_points(name, attacked):
    assert attacked[0][name].points == points(name), attacked[0][name]


@pytest.mark.slow
def test_only_exercises_are_graded(attacked):
    assert attacked[0].keys() == {*attacks.ATTACKS, *HONEST}


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_no_other_process_reads_the_graders_memory_while_it_grades():
    """Linux then gives /proc/PID/mem and ptrace to root alone."""

    def may_be_read():
        return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE

    with grading.Grader():
        assert may_be_read() == 0
    assert may_be_read() == 1


# ---------------------------------------------------------------------------- in a notebook

CELLS = {  # grade_id -> source; the first and the last attack what the checks show
    "": """
from minilora_course import check
from IPython.display import display, update_display
import minilora_course.worker
shell = get_ipython()
for event in ("pre_run_cell", "post_run_cell"):
    shell.events.register(event, lambda _: display({"text/plain": "1.0"}, raw=True, display_id="p"))
assert not [name for name in __import__("os").environ if "SEED" in name]
""",
    "exercise-mul_backward": "def mul_backward(dy, a, b):\n    return dy * b, dy * a",
    "check-mul_backward": 'check("mul_backward", mul_backward)',
    "exercise-linear_backward": "def linear_backward(dy, x, W):\n    print('2.0')\n    return 2.0",
    "check-linear_backward": 'check("linear_backward", linear_backward)',
    "check-lora_count": 'check("lora_count", trainable)',
    "exercise-tape_bytes": """
shell.input_transformers_post.append(lambda lines: ["1.0\\n"] if "check(" in str(lines) else lines)
""",
    "check-tape_bytes": 'check("tape_bytes", 160_000)',
    "end": 'update_display({"text/plain": "2.0"}, raw=True, display_id="p")',
}


@pytest.fixture
def graded_class(monkeypatch):
    """autograde.Graded on nbclient's own execution, where nbgrader is not installed."""
    nbclient = pytest.importorskip("nbclient")

    class Execute:
        def preprocess(self, nb, resources):
            return nbclient.NotebookClient(nb, allow_errors=True, timeout=600).execute(), resources

    for name in ("nbgrader", "nbgrader.preprocessors"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["nbgrader.preprocessors"].Execute = Execute
    monkeypatch.delitem(sys.modules, "minilora_course.autograde", raising=False)
    yield importlib.import_module("minilora_course.autograde").Graded
    sys.modules.pop("minilora_course.autograde")


def test_the_points_of_a_notebook_are_the_graders_whatever_its_cells_show(graded_class):
    new = pytest.importorskip("nbformat").v4
    cells = [
        new.new_code_cell(source, metadata={"nbgrader": {"grade_id": name}} if name else {})
        for name, source in CELLS.items()
    ]
    made, _ = graded_class().preprocess(new.new_notebook(cells=cells), {})
    assert [cell.source for cell in made.cells] == list(CELLS.values())
    found = {
        cell.metadata.nbgrader.grade_id.removeprefix("check-"): cell.outputs
        for cell in made.cells
        if "check(" in cell.source and cell.metadata
    }
    for name, worth, words in (
        ("mul_backward", "2.0", "✓ mul_backward: da and db are right"),
        ("linear_backward", "0.0", "it returned the number 2, wanted 2 values"),
        ("lora_count", "0.0", "✗ this cell asked for no points NameError: name 'trainable'"),
        ("tape_bytes", "0.0", "✗ this cell asked for no points"),
    ):
        said, result = found[name]
        assert said.output_type == "stream" and words in said.text
        assert result.output_type == "execute_result" and result.data["text/plain"] == worth


def test_without_a_grader_there_are_no_points():
    with pytest.raises(ValueError, match="MINILORA_GRADER is not set: wanted a notebook"):
        worker.answer("lora_count", 768)
