"""The answers to exercises: what is right passes, each slip is named, a hint is no solution."""

import subprocess
import sys

import numpy as np
import pytest
from answers import ANSWERS, NUMBERS, RIGHT, ROWS, answer, first
from test_unseen import UNSEEN

from minilora.check.verdict import MARKS
from minilora.gradcheck import gradcheck
from minilora_course import EXERCISES, SLIPS, check, course, hints
from minilora_course.lessons import backward
from minilora_course.slips import SINGLE, agree

FUNCTIONS = [name for name, exercise in EXERCISES.items() if exercise.kind != "predict"]
BLANKS = [name for name in FUNCTIONS if EXERCISES[name].kind == "blank"]


@pytest.mark.smoke
def test_every_exercise_has_a_right_answer_that_passes():
    assert RIGHT.keys() == EXERCISES.keys()
    for name, right in RIGHT.items():
        verdict = check(name, right)
        assert verdict and verdict.status == "passed" and not verdict.hints, verdict


@pytest.mark.parametrize("name", EXERCISES)
def test_each_answer_gets_its_verdict_and_its_words(name):
    for written, expected, words in ANSWERS[name]:
        verdict = check(name, answer(name, written), hints=0, seed=2)
        named = expected not in ("passed", "open", "failed")
        assert verdict.status == ("failed" if named else expected), (written, verdict)
        if verdict.status == "failed" and EXERCISES[name].kind == "blank":
            assert (verdict.slip or "failed").startswith(expected), (written, verdict)
        assert words in repr(verdict), (written, verdict)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_there_are_two_right_answers_in_different_forms(name):
    seen = [row.exercise for row in UNSEEN if row.verdict == "passed"]
    assert [verdict for _, verdict, _ in ANSWERS[name]].count("passed") + seen.count(name) >= 2


@pytest.mark.parametrize("name", BLANKS)
def test_a_slip_of_each_kind_is_planted(name):
    """Every slip that an exercise alone names is made by one of the wrong answers."""
    given = [answer(name, written) for written, *_ in ANSWERS[name]]
    given += [row.answer for row in UNSEEN if row.exercise == name]
    made = {check(name, one, hints=0, seed=3).slip for one in given}
    named = {slip for case in EXERCISES[name].drawn(0) for slip in case.slips}
    assert named - SLIPS.keys() <= made, named - SLIPS.keys() - made


def test_every_slip_is_planted():
    assert {verdict for _, _, verdict, _ in ROWS} >= SLIPS.keys() and len(SLIPS) == 14


@pytest.mark.parametrize("name", [name for name in BLANKS if not EXERCISES[name].through])
def test_no_slip_is_named_where_an_answer_is_wrong_in_another_way(name):
    def wrong(*args):
        out = RIGHT[name](*args)
        each = out if isinstance(out, tuple | list) else [out]
        kept = [None, *args]  # what has no gradient, or does not move
        return [a if any(a is b for b in kept) else np.multiply(a, 1.2345) for a in each]

    verdict = check(name, wrong, hints=0)
    assert verdict.status == "failed" and verdict.slip is None, verdict


@pytest.mark.parametrize("name", NUMBERS)
def test_wrong_numbers_that_are_expected_are_explained(name):
    exercise = EXERCISES[name]
    assert exercise.number() not in exercise.near
    for number, words in exercise.near.items():
        verdict = check(name, number, hints=0)
        assert not verdict and words in repr(verdict)
    assert not check(name, 123456.5, hints=0)
    assert check(name, 0).says.startswith("0 is right") or NUMBERS[name]  # a zero has no sign


# ---------------------------------------------------------------------------- what is drawn


def called_with(name, seed=None):
    """The arguments of each call that a check makes."""
    calls = []
    check(name, lambda *args: calls.append(args) or 1, hints=0, seed=seed)
    return calls


def same(a, b):
    return all(
        np.array_equal(x, y) for call in zip(a, b, strict=True) for x, y in zip(*call, strict=True)
    )


def test_each_check_draws_other_arguments_and_a_seed_draws_them_again():
    assert not same(called_with("lora_forward")[:1], called_with("lora_forward")[:1])
    assert same(called_with("lora_forward", seed=7), called_with("lora_forward", seed=7))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_seed_draws_other_numbers_and_other_shapes(name):
    def drawn(seed):
        for case in EXERCISES[name].drawn(seed):
            yield from (a for a in case.args.values() if isinstance(a, np.ndarray | float))

    assert all(map(np.array_equal, drawn(3), drawn(3)))
    assert not any(np.array_equal(a, b) for a, b in zip(drawn(3), drawn(4)) if np.ndim(a) == 2)
    shapes = {str([a.shape for a in drawn(seed) if np.ndim(a)]) for seed in range(9)}
    numbers_alone = ("kernel_roof", "lora_fa_ledger", "four_levels", "four_break")
    assert len(shapes) > 1 or name in (*numbers_alone, "tape_kept", "tour_exact")  # lists


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_known_slip_is_wrong_at_every_draw(name):
    for seed in range(100):  # of a toy cache, two of these draws let one pass
        cases = EXERCISES[name].drawn(seed)
        for slip in dict.fromkeys(slip for case in cases for slip in case.slips):
            made = [(c, v) for c in cases if slip in c.slips for v in c.slips[slip](**c.args)]
            assert any(
                not agree(value, case.true[output], SINGLE)
                for case, outputs in made
                for output, value in outputs.items()
            ), (seed, slip)


NO_SCALE = first("lora_forward", "scale missing")
ONE_PATH = first("lora_forward", "path missing")


def test_a_verdict_says_how_to_draw_its_arguments_again():
    verdict = check("lora_forward", NO_SCALE, hints=0)
    again = check("lora_forward", NO_SCALE, hints=0, seed=verdict.seed)
    assert repr(again) == repr(verdict) and f"seed={verdict.seed})" in repr(verdict)
    assert check("lora_forward", RIGHT["lora_forward"]).seed is None


def test_what_was_seen_before_is_no_answer():
    """Neither its values, by their shapes, nor the arguments of the package's own tests."""
    seen = {}
    for seed in range(5):
        for args in called_with("lora_forward", seed):
            seen[args[0].shape, args[1].shape] = RIGHT["lora_forward"](*args)

    def by_shape(x, W, s, A, B):
        return seen.get((x.shape, W.shape), x @ W.T)

    assert not check("lora_forward", by_shape, hints=0)
    assert not any(check("lora_forward", by_shape, hints=0, seed=n) for n in range(5, 15))


def test_a_built_notebook_is_the_same_each_time(monkeypatch):
    monkeypatch.setenv(course.STATIC, "1")
    assert same(called_with("lora_forward"), called_with("lora_forward"))


def test_the_references_agree_with_finite_differences():
    def attention(q, k, v):
        scores = np.where(np.tri(len(q)), q @ k.T / np.sqrt(q.shape[1]), -np.inf)
        return backward.softmax(scores) @ v, (q, k, v)

    def rope(x, cos, sin):
        a, b = np.split(x, 2, axis=1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1), (cos, sin)

    def pair(forward, undo):
        return forward, lambda d, cache: tuple(undo(d, *cache).values())

    rng = np.random.default_rng(0)
    angles = backward.rope_cases(rng)[0].args
    cos, sin = angles["cos"], angles["sin"]
    q, k, v = rng.normal(size=(3, len(cos), 2 * cos.shape[1]))
    p = backward.softmax
    gradcheck(*pair(lambda s: (p(s), (p(s),)), backward.softmax_backward), q)
    gradcheck(*pair(attention, backward.attention_backward), q, k, v)
    gradcheck(*pair(lambda x: rope(x, cos, sin), backward.rope_backward), q)


# ---------------------------------------------------------------------------- hints


@pytest.fixture
def first_hint(monkeypatch):
    """Nothing was answered yet."""
    monkeypatch.setattr(hints, "_wrong", {})


def test_another_wrong_answer_shows_one_hint_more(first_hint):
    for wrong, tries in ((1, 1), (1, 1), (2, 2), (1.0, 2), (3, 2)):
        verdict = check("lora_count", wrong)
        assert verdict.hints == EXERCISES["lora_count"].hints[:tries], wrong
    assert "hint 2 of 2" in repr(verdict)
    assert not check("lora_count", 768).hints
    for exercise in EXERCISES.values():
        assert len(set(exercise.hints)) == 2


def test_the_same_wrong_function_shows_no_further_hint(first_hint):
    """Nor does it when it is written in another way, or stops at the same place."""

    def stops(x, W, s, A, B):
        raise ValueError("no")

    same = [lambda x, W, s, A, B: x @ W.T, lambda x, w, k, a, b: (w @ x.T).T]
    counts = [len(check("lora_forward", f).hints) for f in (*same, stops, stops, same[0])]
    assert counts == [1, 1, 2, 2, 2]


def test_wrong_parts_of_a_returned_list_are_compared(first_hint):
    counts = []
    for dA in ("?", "?", 0.5):
        wrong = lambda dy, x, W, s, A, B, dA=dA: [dy @ W, dA, None]  # noqa: E731
        counts.append(len(check("lora_backward", wrong).hints))
    assert counts == [1, 1, 2]


def test_the_first_hint_is_that_of_the_slip(first_hint):
    exercise = EXERCISES["lora_forward"]
    verdict = check("lora_forward", NO_SCALE)
    assert verdict.hints == (SLIPS["scale missing"].hint,) and "hint 1 of 3" in repr(verdict)
    verdict = check("lora_forward", ONE_PATH)
    assert verdict.hints == (SLIPS["path missing"].hint, exercise.hints[0])
    verdict = check("lora_forward", lambda x, W, s, A, B: x @ W.T + 1)
    assert verdict.slip is None and verdict.hints == exercise.hints


@pytest.mark.parametrize("name", [name for name, e in EXERCISES.items() if not e.through])
def test_no_hint_is_a_solution(name):
    """Written as an answer, it does not pass: whole, or what stands behind its last colon."""
    body = "return " * (name in FUNCTIONS)
    for hint in EXERCISES[name].hints:
        for source in (hint, hint.rpartition(":")[2].strip()):
            source = source.rstrip(".").replace("·", "*").removeprefix("Return ")
            try:
                passed = check(name, answer(name, body + source), hints=0)
            except (SyntaxError, NameError, AssertionError):
                passed = False
            assert not passed, hint


# ---------------------------------------------------------------------------- what is said


def test_the_words_are_those_that_teach(first_hint):
    wrong = answer("lora_backward", "dx, dA / s, dB")
    lines = repr(check("lora_backward", wrong, seed=8)).splitlines()
    assert lines[0] == "✗ lora_backward: dA is wrong (dx and dB are right)"
    assert "expected (4, 7), got (4, 7)  ✓" in lines[1]
    assert "dA[0, 6]: yours 14.91, expected 238.6 (ratio 1/16)" in lines[2]
    assert "the scale s = α/r = 16 was left out of dA" in lines[3]
    assert 'check("lora_backward", …, seed=8) calls it with the same arguments' in lines[4]
    assert "hint 1 of 3" in lines[5]


def test_a_ratio_is_said_where_every_case_has_it():
    """The errors of central differences are all alike: a root of their number is a coincidence."""

    def by_cubes(gradient, f, x, right, steps):
        return [np.cbrt((np.abs(gradient(f, x, h) - right) ** 3).sum()) for h in steps]

    def tripled(gradient, f, x, right, steps):
        return [3 * np.abs(gradient(f, x, h) - right).max() for h in steps]

    assert "the right one" not in repr(check("gradient_errors", by_cubes, hints=0, seed=4))
    assert "3 times the right one" in repr(check("gradient_errors", tripled, hints=0, seed=4))


def test_a_verdict_is_rich():
    verdict = check("lora_forward", ONE_PATH, hints=1)
    page = verdict._repr_html_()
    assert "<table>" in page and "y is wrong" in page and "hint 1 of 3" in page
    assert verdict.exercise == "lora_forward" and verdict.slip == "path missing"


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


def test_what_is_broken_by_one_return_of_another_form_does_not_pass():
    returned, right = iter([(1, 2)]), answer("lora_break", "lora(dy, x, W, s, A, B)")
    verdict = check("lora_break", lambda *a: next(returned, None) or right(*a))
    assert verdict.status == "failed" and "2 values, wanted 3" in verdict.says, verdict


def test_a_pair_may_be_given_without_brackets_around_it(first_hint):
    forward, backward = RIGHT["lora_pair"]
    assert check("lora_pair", forward, backward)
    assert check("lora_pair").status == "open"
    assert check("lora_count", 768, 2).says == "got a tuple, wanted a number"
    called = check("lora_backward", np.ones(2), np.ones(3), np.ones(4))  # what it returned
    assert "its name, without brackets behind it" in called.says and len(called.hints) == 1
    assert "4.999999" in repr(check("low_rank_error", 4.999999))


def test_an_unknown_exercise_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="lora_backward"):
        check("lora_backwards", None)


GRADER = [("NBGRADER_EXECUTION", "autograde"), ("NBGRADER_EXECUTION", "validate"),
          ("NBGRADER_VALIDATING", "1")]  # fmt: skip


@pytest.mark.parametrize("variable, value", GRADER)
def test_a_grader_gets_an_error(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(AssertionError, match="that is not the number"):
        check("lora_count", 1)
    assert check("lora_count", 768)


SCRIPT = """
from minilora.check import check_pair
from minilora_course import check
import numpy as np
check_pair(lambda x: (2 * x, None), lambda dy, _: (dy,), np.ones(3))
check("lora_count", 768)
"""


def test_a_script_prints_its_verdicts():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "✗ <lambda>: dx is wrong"
    assert lines[3] == "  looks like  dx is half of the right one"
    assert lines[4].startswith("✓ lora_count: 768 is right.") and not lines[5:]


def luminance(colour):
    """As WCAG defines it, from 0 to 1."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("status", MARKS)
def test_the_colour_of_a_verdict_can_be_read(status):
    own = luminance(MARKS[status][1])
    for page, wanted in (("#FFFFFF", 4.5), ("#111111", 3.5), ("#1E1E1E", 3.5)):
        dark, light = sorted((own, luminance(page)))  # the dark pages: JupyterLab's and VS Code's
        assert (light + 0.05) / (dark + 0.05) >= wanted, page
