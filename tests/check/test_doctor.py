"""The doctor: it checks all that there is, and finds what is wrong."""

import inspect
import itertools
import sys
import types

import numpy as np
import pytest

from minilora import fast, ops
from minilora.check import doctor
from minilora.cli import main
from minilora.engine import Op
from minilora.fast.twins import TWINS
from minilora.gradcheck import GradientError
from minilora.methods import METHODS
from minilora.support.meta import arrays_in


def test_the_doctor_checks_every_op_and_every_technique():
    lines = list(doctor.gradients())
    checked = {line.split()[1] for line in lines if not line.startswith("✓ method")}
    assert checked == {name for name in ops.__all__ if isinstance(getattr(ops, name), Op)}
    for name, record in METHODS.items():
        line = next(line for line in lines if line.startswith(f"✓ method {name} "))
        assert all(f"d{a}" in line for a in ("x", *record.trains)), line
        assert any(f"method {name}, dropout" in line for line in lines) == record.has_dropout
    assert all(" right " in line for line in lines)


def test_the_doctor_finds_a_wrong_backward(monkeypatch, capsys):
    wrong = Op("exp", ops.exp.forward, lambda dy, y: (2 * dy * y,))
    monkeypatch.setattr(ops, "exp", wrong)
    with pytest.raises(GradientError, match="da is wrong"):
        list(doctor.gradients())
    assert main(["gradcheck"]) == 2
    printed = capsys.readouterr()
    assert "✓ concat " in printed.out and "da is wrong" in printed.err


def test_the_doctor_has_calls_of_every_twin():
    calls = doctor.page_calls()
    assert calls.keys() == {function.__name__ for function in TWINS}
    assert len(calls["lora_forward"]) > len(calls["dora_forward"])  # with dropout, and without
    for function, _, args in itertools.chain(*calls.values()):
        floats = [a for a in arrays_in(args) if a.dtype.kind == "f"]
        assert floats and {a.dtype for a in floats} == {np.dtype(np.float32)}, function.__name__


@pytest.mark.parametrize("place", ["output", "cache", "argument"])
def test_the_doctor_finds_a_twin_that_differs(place, monkeypatch):
    """In what it returns, in what it keeps, in what it writes."""

    off = 3e-3  # the check is relative to the largest number, about 15

    def swiglu_forward(gate, up):
        h, (gate, up) = inspect.unwrap(ops.swiglu.forward)(gate, up)
        if place == "argument":
            gate += off
        return h + off * (place == "output"), (gate + off * (place == "cache"), up)

    monkeypatch.setattr(doctor, "TWINS", {ops.swiglu.forward: swiglu_forward})
    with pytest.raises(
        ValueError, match="doctor: the twin of swiglu_forward differs from its page"
    ):
        list(doctor.twins())


def test_the_doctor_agrees_where_twins_are_off(monkeypatch):
    monkeypatch.setattr(fast, "on", lambda: False)
    *_, last = doctor.machine()
    assert last.split() == "twins off: every function is its page's own".split()


@pytest.mark.slow
@pytest.mark.skipif(fast.backend() == "numpy", reason="there is no twin")
def test_the_twins_agree_here():
    lines = list(doctor.machine())
    assert sum("agrees with its page" in line for line in lines) == len(doctor.page_calls())


@pytest.mark.parametrize("terminal, said", [(True, "progress bars"), (False, "no progress bars")])
def test_the_doctor_says_whether_bars_are_shown(terminal, said, monkeypatch):
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: terminal))
    assert f"terminal    {said}" in itertools.islice(doctor.machine(), 11)


def test_two_functions_disagree_by_a_share_of_the_largest_number():
    found = doctor.disagreement(lambda x: 100 * x, lambda x: 101 * x, (np.ones(3),))
    assert found == pytest.approx(0.01)
