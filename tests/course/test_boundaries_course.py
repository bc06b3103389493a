"""The helpers of the notebooks at the limits of what they take."""

import io
import sys
import types

import numpy as np
import pytest

from minilora_course import EXERCISES, SLIPS, course, grading
from minilora_course.grading import points
from minilora_course.hints import hints_for
from minilora_course.judge import Judgement


@pytest.mark.parametrize("static", ["1", ""])
def test_a_line_stands_for_sliders_and_rates_where_notebooks_are_built(static, monkeypatch, capsys):
    monkeypatch.setenv(course.STATIC, static)
    course.race({"twice": lambda: None}, 1e9, rounds=1)
    said = capsys.readouterr().out
    assert ("this machine's rates for twice stand here" in said) == bool(static)
    assert ("GFLOP/s" in said) == (not static)
    if static:
        course.explore(lambda **_: None, rank=[1, 2])
        assert capsys.readouterr().out == ("In a running notebook, sliders for rank stand here.\n")


def test_a_picture_of_a_notebook_is_a_smaller_one():
    image, file = pytest.importorskip("PIL.Image"), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image.fromarray(noise).save(file, "PNG")
    small = course._small(file.getvalue())
    assert small.startswith(b"\x89PNG") and len(small) < len(file.getvalue())


def test_the_hint_of_a_slip_comes_before_the_exercise_s_own():
    exercise = types.SimpleNamespace(kind="blank", hints=("a", "b"))
    number = types.SimpleNamespace(kind="number", hints=("a", "b"))
    slip, about = next(iter(SLIPS.items()))
    assert hints_for(exercise, slip) == (about.hint, "a", "b")
    assert hints_for(exercise, None) == hints_for(number, slip) == ("a", "b")


def test_the_points_of_an_exercise_are_its_outputs_or_one():
    for name, exercise in EXERCISES.items():
        outputs = exercise.drawn(0)[0].true.values() if exercise.kind == "blank" else ()
        assert points(name) == (len([o for o in outputs if o is not None]) if outputs else 1)


@pytest.mark.parametrize("low, high, ticks", [(1, 30, [1, 2, 5, 10, 20]), (1, 200, [1, 10, 100])])
def test_a_logarithmic_axis_has_plain_numbers_and_keeps_ticks_that_were_set(low, high, ticks):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(low, high))
    course._plain_numbers(axes.xaxis)
    assert [t for t in axes.get_xticks() if low <= t <= high] == pytest.approx(ticks)
    axes.set_yscale("log")
    axes.set_yticks([3, 7])
    course._plain_numbers(axes.yaxis)
    assert [*axes.get_yticks()] == [3, 7]


def test_a_slider_begins_at_the_first_value_and_a_line_says_what_it_needs(monkeypatch, capsys):
    widgets, made = pytest.importorskip("ipywidgets"), {}
    monkeypatch.delenv("MINILORA_STATIC", raising=False)
    monkeypatch.setattr(widgets, "interact", lambda draw, **sliders: made.update(sliders))
    course.explore(lambda rank: None, rank=[8, 2, 4])
    assert made["rank"].value == 8 and tuple(made["rank"].options) == (2, 4, 8)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    course.explore(lambda rank: None, rank=[8, 2, 4])
    assert capsys.readouterr().out == "For sliders over rank: pip install ipywidgets\n"


def test_a_grade_shows_the_draw_that_is_wrong_and_no_two_seeds_share_a_draw(monkeypatch, capsys):
    drawn = []

    def judged(name, answer, seed):
        drawn.append(seed)
        return Judgement(*(("failed", "the second") if len(drawn) == 2 else ("passed", "right")))

    monkeypatch.setattr(grading, "judged", judged)
    assert grading.grade("lora_count", 3, seed=1) == 0
    said = capsys.readouterr().out
    assert "the second" in said and "hint" not in said
    assert drawn == [*range(grading.DRAWS, 2 * grading.DRAWS)]
