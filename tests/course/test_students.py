"""What a check says of the mistakes that students made at their first try."""

import numpy as np
import pytest
from first_tries import TRIES

from minilora.check.verdict import MARKS
from minilora_course import check
from minilora_course.lessons import walk


@pytest.mark.parametrize("name, answer, says", TRIES)
def test_what_a_first_try_is_told(name, answer, says):
    for seed in (3, 4):
        verdict = check(name, answer, hints=0, seed=seed)
        assert verdict.status == "failed" and says in repr(verdict), verdict


def test_an_error_of_either_sign_counts():
    """A student forgot the absolute value, and the check called it right."""

    def signed(gradient, f, x, right, steps):
        return np.array([(gradient(f, x, h) - right).max() for h in steps])

    assert not any(check("gradient_errors", signed, hints=0, seed=seed) for seed in range(20))


def test_the_right_walk_shares_no_array():
    assert check("tape_walk", walk.walk)


def test_a_right_zero_has_no_sign():
    assert check("backward_sum", 0).says.startswith("0 is right")


def test_the_line_of_an_error_is_the_students():
    """Not one inside NumPy or the package that the student has never seen."""

    def rope(dy, cos, sin):
        u, v = np.split(dy, 2)
        return np.concatenate([u, v])

    words = dict(check("backward_rope", rope, hints=0, seed=1).notes)
    assert words["in the line"] == "u, v = np.split(dy, 2)"
    verdict = check("lora_pair", (lambda x, *args: x, lambda dy, cache: dy), hints=0)
    assert verdict.says.startswith("forward returned ndarray, wanted the tuple")
    assert "in the line" not in dict(verdict.notes)


def test_a_print_is_seen_once(capsys):
    """A check calls a function many times, with many arrays."""

    def printing(dy, a, b):
        print("dy is", dy.shape)

    check("mul_backward", printing)
    assert capsys.readouterr().out.count("dy is") == 1


def luminance(colour):
    """As WCAG defines it, from 0 to 1."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("status", MARKS)
def test_the_colour_of_a_verdict_can_be_read(status):
    _, colour = MARKS[status]
    assert contrast(colour, "#FFFFFF") >= 4.5
    for dark in ("#111111", "#1E1E1E"):  # JupyterLab's and VS Code's dark pages
        assert contrast(colour, dark) >= 3.5, dark
