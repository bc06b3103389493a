"""The answers to exercises and a reader's own pair: what is right passes, each slip is named."""

import functools
import inspect
import itertools
import json
import subprocess
import sys

import answers
import more_answers
import numpy as np
import pytest

from minilora import fast, ops
from minilora.check import EXERCISES, SLIPS, check, check_pair, course, doctor, hint, hints
from minilora.cli import main
from minilora.engine import Op
from minilora.gradcheck import GradientError
from minilora.methods import METHODS
from minilora.support.meta import arrays_in


def lora_forward(x, W, s, A, B):
    return x @ W.T + s * (x @ A.T) @ B.T


def lora_backward(dy, x, W, s, A, B):
    dz = s * dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)


def lora_fa_backward(dy, z, W, s, A, B):
    return dy @ W + s * (dy @ B) @ A, None, s * dy.T @ z


def vera_forward(x, W, A, B, b, d):
    return x @ W.T + b * ((d * (x @ A.T)) @ B.T)


def vera_backward(dy, u, W, A, B, b, d):
    dz = (dy * b) @ B
    return dy @ W + (dz * d) @ A, (dy * ((d * u) @ B.T)).sum(0), (dz * u).sum(0)


def delta_lora_step(W, s, ratio, lr, A, B, dA, dB):
    A_new, B_new = A - lr * dA, B - lr * dB
    return W + ratio * s * (B_new @ A_new - B @ A), A_new, B_new


def delta_lora_by(change):
    """A Delta-LoRA step whose W moves by something else."""

    def step(W, s, ratio, lr, A, B, dA, dB):
        A_new, B_new = A - lr * dA, B - lr * dB
        return W + change(s, ratio, lr, A, B, A_new, B_new, dA, dB), A_new, B_new

    return step


def truncate(D, keep):
    U, values, V = np.linalg.svd(D, full_matrices=False)
    return (U[:, keep] * values[keep]) @ V[keep]


def attend(q, k, v, mask=True):
    scores = q @ k.T / np.sqrt(q.shape[1])
    weights = np.exp(np.where(np.tri(len(q)), scores, -np.inf) if mask else scores)
    return weights / weights.sum(1, keepdims=True) @ v


def serve(x, W, s, A, B, which):
    return x @ W.T + s * np.einsum("mi,mri,mor->mo", x, A[which], B[which])


def linear_backward(dy, x, W):
    return dy @ W, dy.T @ x


RIGHT = {
    "tour_count": 4 * 256 + 4 * 192,
    "tour_step": lambda w, dw, lr: w - lr * dw,
    "tour_break": lambda w, dw, lr: w - dw,
    "tape_bytes": 160_000,
    "mul_backward": lambda dy, a, b: (dy * b, dy * a),
    "linear_backward": linear_backward,
    "linear_break": lambda dy, x, W: (dy @ W, dy.T @ x / len(x)),
    "llama_kv": 8192,
    "llama_norm": lambda x, g, eps: g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps),
    "llama_attention": attend,
    "llama_break": lambda q, k, v: attend(q, k, v, mask=False),
    "kernel_intensity": 100,
    "kernel_roof": lambda peak, bandwidth, intensity: np.minimum(peak, bandwidth * intensity),
    "kernel_tile": lambda a, b: a.T @ b,
    "kernel_break": lambda a, b: np.outer(a[-1], b[-1]),
    "kernel_ratio": lambda mine, theirs: np.median(theirs / mine),
    "real_count": 460_800,
    "real_best": lambda logits, among: among[logits[:, among].argmax(1)],
    "real_break": lambda logits, among: logits.argmax(1),
    "real_serve": serve,
    "fair_error": 0.02,
    "fair_choice": lambda rates, validation, test: rates[np.argmax(validation)],
    "fair_break": lambda rates, validation, test: rates[np.argmax(test)],
    "low_rank_error": 5,
    "low_rank_truncate": lambda D, r: truncate(D, slice(r)),
    "low_rank_break": lambda D, r: truncate(D, slice(-r, None)),
    "lora_count": 768,
    "lora_first_step": 0,
    "lora_forward": lora_forward,
    "lora_backward": lora_backward,
    "lora_merge": lambda W, s, A, B: W + s * B @ A,
    "lora_break": lambda dy, x, W, s, A, B: (
        dy @ W + (dy @ B) @ A,
        (dy @ B).T @ x,
        s * dy.T @ (x @ A.T),
    ),
    "lora_blind": lambda *a: (lora_backward(*a)[0], 3 * lora_backward(*a)[1], lora_backward(*a)[2]),
    "lora_fa_kept": 3200,
    "lora_fa_backward": lora_fa_backward,
    "lora_fa_step": lambda A, B, dA, dB, lr: (A, B - lr * dB),
    "lora_fa_break": lambda dy, z, W, s, A, B: (dy @ W, None, s * dy.T @ z),
    "vera_count": 384,
    "vera_forward": vera_forward,
    "vera_backward": vera_backward,
    "vera_merge": lambda W, A, B, b, d: W + (b[:, None] * B * d) @ A,
    "vera_break": lambda x, W, A, B, b, d: x @ W.T + (b * d * (x @ A.T)) @ B.T,
    "delta_lora_rank": 6,
    "delta_lora_step": delta_lora_step,
    "delta_lora_break": delta_lora_by(
        lambda s, ratio, lr, A, B, A1, B1, dA, dB: ratio * s * (B1 - B) @ (A1 - A)
    ),
    "lora_plus_rate": 0.032,
    "lora_plus_step": lambda A, B, dA, dB, lr, ratio: (A - lr * dA, B - ratio * lr * dB),
    "lora_plus_break": lambda A, B, dA, dB, lr, ratio: (A - ratio * lr * dA, B - lr * dB),
} | more_answers.RIGHT


def but(right, **changes):
    """A right backward whose outputs by place are another: but(f, _1=lambda out, *args: …)."""

    def wrong(*args):
        out = list(right(*args))
        for place, change in changes.items():
            out[int(place[1:])] = change(out[int(place[1:])], *args)
        return tuple(out)

    return wrong


def per_row(dz, x):
    return dz[:, :, None] * x[:, None, :]


LB, FB, VB = lora_backward, lora_fa_backward, vera_backward

# slip -> exercise -> wrong answers: every exercise in which the slip can be made
WRONG = {
    "scale missing": {
        "lora_forward": [lambda x, W, s, A, B: x @ W.T + x @ A.T @ B.T],
        "real_serve": [lambda x, W, s, A, B, which: serve(x, W, 1, A, B, which)],
        "lora_backward": [
            but(LB, _0=lambda dx, dy, x, W, s, A, B: dy @ W + dy @ B @ A),
            but(LB, _1=lambda dA, dy, x, W, s, A, B: (dy @ B).T @ x),
            but(LB, _2=lambda dB, dy, x, W, s, A, B: dy.T @ (x @ A.T)),
        ],
        "lora_merge": [lambda W, s, A, B: W + B @ A],
        "lora_fa_backward": [
            but(FB, _0=lambda dx, dy, z, W, s, A, B: dy @ W + dy @ B @ A),
            but(FB, _2=lambda dB, dy, z, W, s, A, B: dy.T @ z),
        ],
        "delta_lora_step": [
            delta_lora_by(lambda s, ratio, lr, A, B, A1, B1, dA, dB: ratio * (B1 @ A1 - B @ A))
        ],
    },
    "scale twice": {
        "lora_forward": [lambda x, W, s, A, B: x @ W.T + s * (s * x @ A.T) @ B.T],
        "real_serve": [lambda x, W, s, A, B, which: serve(x, W, s * s, A, B, which)],
        "lora_backward": [
            but(LB, _0=lambda dx, dy, x, W, s, A, B: dy @ W + s * s * dy @ B @ A),
            but(LB, _1=lambda dA, dy, x, W, s, A, B: s * dA),
            but(LB, _2=lambda dB, dy, x, W, s, A, B: s * dB),
        ],
        "lora_merge": [lambda W, s, A, B: W + s * s * B @ A],
        "lora_fa_backward": [
            but(FB, _0=lambda dx, dy, z, W, s, A, B: dy @ W + s * s * dy @ B @ A),
            but(FB, _2=lambda dB, dy, z, W, s, A, B: s * dB),
        ],
        "delta_lora_step": [
            delta_lora_by(
                lambda s, ratio, lr, A, B, A1, B1, dA, dB: ratio * s * s * (B1 @ A1 - B @ A)
            )
        ],
    },
    "transposed": {
        "linear_backward": [
            lambda dy, x, W: (dy @ W, x.T @ dy),
            lambda dy, x, W: (dy @ W.T, dy.T @ x),
        ],
        "mul_backward": [lambda dy, a, b: ((dy * b).swapaxes(0, 1), dy * a)],
        "kernel_tile": [lambda a, b: b.T @ a],
        "real_serve": [lambda x, W, s, A, B, which: serve(x, W, s, A, B, which).T],
        "lora_forward": [
            lambda x, W, s, A, B: x @ W + s * (x @ A.T) @ B.T,
            lambda x, W, s, A, B: x @ W.T + s * (x @ A) @ B.T,
            lambda x, W, s, A, B: (x @ W.T + s * (x @ A.T) @ B.T).T,
        ],
        "lora_backward": [
            but(LB, _0=lambda dx, dy, x, W, s, A, B: dy @ W.T + s * dy @ B @ A),
            but(LB, _1=lambda dA, *_: dA.T),
            but(LB, _2=lambda dB, *_: dB.T),
        ],
        "lora_merge": [
            lambda W, s, A, B: W + s * A @ B,
            lambda W, s, A, B: W + (s * B @ A).T,
            lambda W, s, A, B: (W + s * B @ A).T,
        ],
        "lora_fa_backward": [
            but(FB, _0=lambda dx, dy, z, W, s, A, B: dy @ W + s * dy @ B @ A.T),
            but(FB, _2=lambda dB, *_: dB.T),
        ],
        "vera_forward": [lambda x, W, A, B, b, d: x @ W.T + b * ((d * (x @ A.T)) @ B)],
        "vera_backward": [but(VB, _0=lambda dx, *_: dx.T)],
        "vera_merge": [lambda W, A, B, b, d: (W + (b[:, None] * B * d) @ A).T],
        "delta_lora_step": [
            but(delta_lora_step, _0=lambda W1, *_: W1.T),
            delta_lora_by(
                lambda s, ratio, lr, A, B, A1, B1, dA, dB: ratio * s * (B1 @ A1 - B @ A).T
            ),
        ],
    },
    "no sum": {
        "linear_backward": [
            lambda dy, x, W: (dy @ W, per_row(dy, x)),
            lambda dy, x, W: (dy @ W, dy.T @ x / len(x)),
            lambda dy, x, W: (dy @ W, dy[:1].T @ x[:1]),
        ],
        "kernel_tile": [lambda a, b: np.outer(a[0], b[0]), lambda a, b: a.T @ b / len(a)],
        "lora_backward": [
            but(LB, _1=lambda dA, dy, x, W, s, A, B: per_row(s * dy @ B, x)),
            but(LB, _1=lambda dA, dy, *_: dA / len(dy)),
            but(LB, _2=lambda dB, dy, x, W, s, A, B: s * per_row(dy, x @ A.T)),
            but(LB, _2=lambda dB, dy, x, W, s, A, B: s * dy[:1].T @ (x @ A.T)[:1]),
            but(
                LB,  # the sequences' gradients side by side: summed over tokens only
                _1=lambda dA, dy, x, W, s, A, B: (
                    per_row(s * dy @ B, x).reshape(2, -1, *A.shape).sum(1)
                ),
            ),
        ],
        "lora_fa_backward": [
            but(FB, _2=lambda dB, dy, z, W, s, A, B: s * per_row(dy, z)),
            but(FB, _2=lambda dB, dy, *_: dB / len(dy)),
        ],
        "vera_backward": [
            but(VB, _1=lambda db, dy, u, W, A, B, b, d: dy * ((d * u) @ B.T)),
            but(VB, _2=lambda dd, dy, u, W, A, B, b, d: ((dy * b) @ B * u).mean(0)),
        ],
    },
    "path missing": {
        "lora_forward": [lambda x, W, s, A, B: x @ W.T, lambda x, W, s, A, B: s * x @ A.T @ B.T],
        "real_serve": [
            lambda x, W, s, A, B, which: x @ W.T,
            lambda x, W, s, A, B, which: serve(x, 0 * W, s, A, B, which),
        ],
        "lora_backward": [
            but(LB, _0=lambda dx, dy, x, W, s, A, B: dy @ W),
            but(LB, _0=lambda dx, dy, x, W, s, A, B: s * dy @ B @ A),
        ],
        "lora_merge": [lambda W, s, A, B: s * B @ A],
        "lora_fa_backward": [
            but(FB, _0=lambda dx, dy, z, W, s, A, B: dy @ W),
            but(FB, _0=lambda dx, dy, z, W, s, A, B: s * dy @ B @ A),
        ],
        "vera_forward": [lambda x, W, A, B, b, d: b * ((d * (x @ A.T)) @ B.T)],
        "vera_backward": [
            but(VB, _0=lambda dx, dy, u, W, A, B, b, d: dy @ W),
            but(VB, _0=lambda dx, dy, u, W, A, B, b, d: ((dy * b) @ B * d) @ A),
        ],
        "vera_merge": [lambda W, A, B, b, d: (b[:, None] * B * d) @ A],
        "delta_lora_step": [
            but(delta_lora_step, _0=lambda W1, W, *_: W1 - W),
            but(delta_lora_step, _0=lambda W1, W, *_: W),
        ],
    },
    "frozen moved": {
        "lora_fa_backward": [but(FB, _1=lambda dA, dy, z, W, s, A, B: np.ones_like(A))],
        "lora_fa_step": [
            lambda A, B, dA, dB, lr: (A - lr * dA, B - lr * dB),
            lambda A, B, dA, dB, lr: (A - lr * dA, B),
        ],
    },
    "b on the wrong side": {
        "vera_forward": [lambda x, W, A, B, b, d: x @ W.T + (b * d * (x @ A.T)) @ B.T],
        "vera_backward": [
            but(VB, _0=lambda dx, dy, u, W, A, B, b, d: dy @ W + (dy @ B * b * d) @ A),
            but(VB, _1=lambda db, dy, u, W, A, B, b, d: (dy @ B * d * u).sum(0)),
            but(VB, _2=lambda dd, dy, u, W, A, B, b, d: (dy @ B * b * u).sum(0)),
        ],
        "vera_merge": [lambda W, A, B, b, d: W + (B * b * d) @ A],
    },
    "not the products' difference": {
        "delta_lora_step": [
            delta_lora_by(
                lambda s, ratio, lr, A, B, A1, B1, dA, dB: ratio * s * (B1 - B) @ (A1 - A)
            ),
            delta_lora_by(
                lambda s, ratio, lr, A, B, A1, B1, dA, dB: -ratio * s * lr * (dB @ A + B @ dA)
            ),
            delta_lora_by(lambda s, ratio, lr, A, B, A1, B1, dA, dB: -ratio * s * lr * dB @ dA),
            delta_lora_by(lambda s, ratio, lr, A, B, A1, B1, dA, dB: ratio * s * B1 @ A1),
        ],
    },
    "ratio on A": {
        "lora_plus_step": [
            lambda A, B, dA, dB, lr, ratio: (A - ratio * lr * dA, B - lr * dB),
            lambda A, B, dA, dB, lr, ratio: (A - lr / ratio * dA, B - lr * dB),
        ],
    },
}
TABLE = [
    pytest.param(slip, exercise, wrong, id=f"{slip}-{exercise}-{i}")
    for slip, row in WRONG.items()
    for exercise, cell in row.items()
    for i, wrong in enumerate(cell)
]


@pytest.mark.smoke
def test_every_exercise_has_a_right_answer_that_passes():
    assert RIGHT.keys() == EXERCISES.keys()
    for name, right in RIGHT.items():
        verdict = check(name, right)
        assert verdict and verdict.status == "passed" and not verdict.hints, verdict


def test_every_slip_stands_in_a_table():
    elsewhere = {verdict for _, _, verdict, _ in answers.rows()}
    assert WRONG.keys() | elsewhere >= SLIPS.keys() and len(SLIPS) == 14


@pytest.mark.parametrize("slip, exercise, wrong", TABLE)
def test_a_slip_is_caught_and_named(slip, exercise, wrong):
    verdict = check(exercise, wrong, hints=0, seed=1)
    assert not verdict
    assert verdict.slip == slip, verdict
    assert "looks like" in repr(verdict)


ANSWERS = [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(answers.rows())]


@pytest.mark.parametrize("exercise, source, expected, words", ANSWERS)
def test_an_answer_gets_its_verdict_and_its_words(exercise, source, expected, words):
    verdict = check(exercise, answers.answer(exercise, source), hints=0, seed=2)
    status = expected if expected in ("passed", "open", "failed") else "failed"
    assert verdict.status == status, verdict
    if status == "failed" and EXERCISES[exercise].kind == "blank":
        assert verdict.slip == (None if expected == "failed" else expected), verdict
    assert words in repr(verdict), verdict


def test_the_table_of_answers_is_large():
    verdicts = [verdict for _, _, verdict, _ in answers.rows()]
    assert len(verdicts) >= 150 and verdicts.count("passed") >= 60
    assert {name for name, *_ in answers.rows()} >= {
        name for name, exercise in EXERCISES.items() if exercise.kind != "predict"
    } - more_answers.RIGHT.keys()


FUNCTIONS = [name for name, exercise in EXERCISES.items() if exercise.kind != "predict"]


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
    numbers_alone = ("kernel_roof", "lora_fa_ledger", "lora_plus_factors")
    assert len(shapes) > 1 or name in numbers_alone


def test_a_verdict_says_how_to_draw_its_arguments_again():
    verdict = check("lora_forward", WRONG["scale missing"]["lora_forward"][0], hints=0)
    again = check(
        "lora_forward", WRONG["scale missing"]["lora_forward"][0], hints=0, seed=verdict.seed
    )
    assert repr(again) == repr(verdict) and f"seed={verdict.seed})" in repr(verdict)
    assert json.loads(verdict.to_json())["seed"] == verdict.seed
    assert check("lora_forward", lora_forward).seed is None


def test_what_was_seen_before_is_no_answer():
    """Neither its values, by their shapes, nor the arguments of the package's own tests."""
    seen = {}
    for seed in range(5):
        for args in called_with("lora_forward", seed):
            seen[args[0].shape, args[1].shape] = lora_forward(*args)

    def by_shape(x, W, s, A, B):
        return seen.get((x.shape, W.shape), x @ W.T)

    assert not check("lora_forward", by_shape, hints=0)
    assert not any(check("lora_forward", by_shape, hints=0, seed=n) for n in range(5, 15))


def test_a_built_notebook_is_the_same_each_time(monkeypatch):
    monkeypatch.setenv(course.STATIC, "1")
    assert same(called_with("lora_forward"), called_with("lora_forward"))


def test_no_slip_is_named_where_an_answer_is_wrong_in_another_way():
    for exercise in ("lora_forward", "lora_backward", "vera_backward", "delta_lora_step"):
        right = RIGHT[exercise]

        def wrong(*args, right=right):
            out = right(*args)
            return tuple(a * 1.2345 for a in out) if isinstance(out, tuple) else out * 1.2345

        verdict = check(exercise, wrong, hints=0)
        assert not verdict and verdict.slip is None, verdict


@pytest.mark.parametrize("name", [n for n, e in EXERCISES.items() if e.kind == "predict"])
def test_wrong_numbers_that_are_expected_are_explained(name):
    exercise = EXERCISES[name]
    assert exercise.number() not in exercise.near
    for number, words in exercise.near.items():
        verdict = check(name, number, hints=0)
        assert not verdict and words in repr(verdict)
    assert not check(name, 123456.5, hints=0)
    assert check(name, exercise.number())


@pytest.fixture
def first_hint():
    """Nothing was answered yet."""
    hints.forget()


def test_another_wrong_answer_shows_one_hint_more(first_hint):
    for wrong, tries in ((1, 1), (1, 1), (2, 2), (1.0, 2), (3, 2)):
        verdict = check("lora_count", wrong)
        assert verdict.hints == EXERCISES["lora_count"].hints[:tries], wrong
    assert "hint 2 of 2" in repr(verdict)
    assert hint("lora_count", 2) == verdict.hints[1]
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
        answer = lambda dy, x, W, s, A, B, dA=dA: [dy @ W, dA, None]  # noqa: E731
        counts.append(len(check("lora_backward", answer).hints))
    assert counts == [1, 1, 2]


def test_the_first_hint_is_that_of_the_slip(first_hint):
    exercise = EXERCISES["lora_forward"]
    verdict = check("lora_forward", WRONG["scale missing"]["lora_forward"][0])
    assert verdict.hints == (SLIPS["scale missing"].hint,) and "hint 1 of 3" in repr(verdict)
    verdict = check("lora_forward", WRONG["path missing"]["lora_forward"][0])
    assert verdict.hints == (SLIPS["path missing"].hint, exercise.hints[0])
    verdict = check("lora_forward", lambda x, W, s, A, B: x @ W.T + 1)
    assert verdict.slip is None and verdict.hints == exercise.hints


GRADER = [("NBGRADER_EXECUTION", "autograde"), ("NBGRADER_EXECUTION", "validate"),
          ("NBGRADER_VALIDATING", "1")]  # fmt: skip
BLANKS = [name for name, e in EXERCISES.items() if not e.through]


@pytest.mark.parametrize("name", BLANKS)  # others have other arguments than the cases
def test_no_hint_is_a_solution(name):
    """Written as an answer, it does not pass: whole, or what stands behind its last colon."""
    for hint_ in EXERCISES[name].hints:
        for source in (hint_, hint_.rpartition(":")[2].strip()):
            source = source.rstrip(".").replace("·", "*").removeprefix("Return ")
            try:
                passed = check(name, answers.answer(name, source), hints=0)
            except (SyntaxError, NameError, AssertionError):
                passed = False
            assert not passed, hint_


def test_the_words_are_those_that_teach(first_hint):
    wrong = but(LB, _1=lambda dA, dy, x, W, s, A, B: (dy @ B).T @ x)
    lines = repr(check("lora_backward", wrong, seed=8)).splitlines()
    assert lines[0] == "✗ lora_backward: dA is wrong (dx and dB are right)"
    assert "expected (4, 7), got (4, 7)  ✓" in lines[1]
    assert "dA[0, 6]: yours 14.91, expected 238.6 (ratio 1/16)" in lines[2]
    assert "the scale s = α/r = 16 was left out of dA" in lines[3]
    assert 'check("lora_backward", …, seed=8) calls it with the same arguments' in lines[4]
    assert "hint 1 of 3" in lines[5]


def test_a_verdict_is_rich_plain_and_json():
    verdict = check("lora_forward", lambda x, W, s, A, B: x @ W.T, hints=1)
    page = verdict._repr_html_()
    assert "<table>" in page and "y is wrong" in page and "hint 1 of 3" in page
    plain = json.loads(verdict.to_json())
    assert plain["exercise"] == "lora_forward" and plain["score"] == 0
    assert plain["slip"] == "path missing" and plain["status"] == "failed"
    assert json.loads(check("lora_forward", lora_forward).to_json())["score"] == 1
    name = "f<b>"
    assert "<b>f" not in check_pair(*named_pair(name), np.ones(3))._repr_html_()


def named_pair(name):
    def backward(dy, cache):
        return (dy,)

    backward.__name__ = name
    return (lambda x: (x, None)), backward


@pytest.mark.parametrize(
    "answer, says",
    [
        (None, "not written yet"),
        (lambda *a: None, "not written yet"),
        (lambda *a: ..., "not written yet"),
        (3, "wanted a function"),
        (lambda x: x, "raised TypeError"),
        (lambda x, W, s, A, B: x @ np.ones((99, 7)), "raised ValueError"),
        (lambda x, W, s, A, B: (x, x), "returned 2 values, wanted 1"),
        (lambda x, W, s, A, B: "y", "y is wrong"),
        (lambda x, W, s, A, B: x @ W.T * np.nan, "y is wrong"),
        (lambda x, W, s, A, B: np.multiply(x, 2, out=x) @ W.T, "wrote into its argument x"),
    ],
)
def test_any_answer_gets_a_sentence(answer, says):
    verdict = check("lora_forward", answer, hints=0)
    assert not verdict and says in verdict.says
    assert verdict.status == ("open" if "yet" in says else "failed")


def test_what_is_not_implemented_is_open():
    def blank(*args):
        raise NotImplementedError

    assert check("lora_backward", blank).status == "open"
    assert check("lora_count", ...).status == "open"
    assert check("lora_count", "768").status == "failed"


def test_breaking_it_wants_the_slip_that_was_asked_for():
    assert "nothing is broken" in check("lora_break", lora_backward).says
    other = but(LB, _1=lambda dA, *_: dA.T)
    assert "not by the slip asked for" in check("lora_break", other).says
    assert (
        "seen at the start already" in check("lora_blind", but(LB, _2=lambda dB, *_: 2 * dB)).says
    )


@pytest.mark.parametrize(
    "name, right",
    [
        ("tour_break", "tour_step"),
        ("low_rank_break", "low_rank_truncate"),
        ("llama_break", "llama_attention"),
        ("fair_break", "fair_choice"),
    ],
)
def test_what_is_broken_otherwise_than_asked_does_not_pass(name, right):
    assert "nothing is broken" in check(name, RIGHT[right]).says
    assert "not in the way asked for" in check(name, lambda *a: 2 * RIGHT[right](*a)).says


def test_what_is_broken_by_one_return_of_another_form_does_not_pass():
    returned = iter([(1, 2)])
    verdict = check("lora_break", lambda *a: next(returned, None) or lora_backward(*a))
    assert verdict.status == "failed" and "2 values, wanted 3" in verdict.says, verdict


def test_an_unknown_exercise_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="lora_backward"):
        check("lora_backwards", None)
    with pytest.raises(ValueError, match="wanted 1 or 2"):
        hint("lora_count", 3)


@pytest.mark.parametrize("variable, value", GRADER)
def test_a_grader_gets_an_error(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(AssertionError, match="that is not the number"):
        check("lora_count", 1)
    assert check("lora_count", 768)


# ---------------------------------------------------------------------------- a reader's own pair


def pair(change=lambda grads, dy, x, W, s, A, B: grads):
    """LoRA as a reader may write it, with a change of its gradients."""

    def forward(x, W, s, A, B):
        return lora_forward(x, W, s, A, B), (x, W, s, A, B)

    def backward(dy, cache):
        x, W, s, A, B = cache
        dx, dA, dB = lora_backward(dy, x, W, s, A, B)
        return change((dx, None, None, dA, dB), dy, *cache)

    return forward, backward


def arrays(dtype=np.float64):
    rng = np.random.default_rng(0)
    x, W, A, B = (rng.normal(size=n).astype(dtype) for n in [(5, 6), (4, 6), (3, 6), (4, 3)])
    return x, W, 2.0, A, B


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_right_pair_passes_in_any_precision(dtype):
    verdict = check_pair(*pair(), *arrays(dtype), frozen="W")
    assert verdict and verdict.says == "dx, dA and dB are right, by finite differences"


@pytest.mark.parametrize(
    "slip, change",
    [
        ("scale missing", lambda g, dy, x, W, s, A, B: (*g[:3], g[3] / s, g[4])),
        ("scale twice", lambda g, dy, x, W, s, A, B: (*g[:4], g[4] * s)),
        ("transposed", lambda g, dy, x, W, s, A, B: (*g[:3], g[3].T, g[4])),
        ("no sum", lambda g, dy, x, W, s, A, B: (*g[:3], per_row(s * dy @ B, x), g[4])),
        ("no sum", lambda g, dy, x, W, s, A, B: (*g[:3], g[3] / len(dy), g[4])),
        ("path missing", lambda g, dy, x, W, s, A, B: (dy @ W, *g[1:])),
        ("path missing", lambda g, dy, x, W, s, A, B: (g[0] - dy @ W, *g[1:])),
        (None, lambda g, dy, x, W, s, A, B: (*g[:3], g[3] * 1.1, g[4])),
        (None, lambda g, dy, x, W, s, A, B: (*g[:3], g[3] + 1, g[4])),
    ],
)
def test_a_slip_in_a_readers_own_pair_is_named(slip, change):
    verdict = check_pair(*pair(change), *arrays(), frozen="W")
    assert not verdict and verdict.slip == slip, verdict
    assert verdict.status == "failed" and " is wrong" in verdict.says


@pytest.mark.parametrize("rows", [2, 3, 6])
@pytest.mark.parametrize(
    "factor, words",
    [
        (1 / 2, "dW is half of the right one"),
        (2, "dW is twice the right one"),
        (-1, "dW is minus the right one"),
        (-1 / 2, "dW is -1/2 of the right one"),
        (1 / 7, "dW is 1/7 of the right one"),
        (7, "dW is 7 times the right one"),
        (0.123, "dW is 0.123 times the right one"),
        (1.0001, "dW is 1.0001 times the right one"),
    ],
)
def test_a_gradient_times_a_number_is_told_by_this_number(rows, factor, words):
    def backward(dy, cache):
        dx, dW = linear_backward(dy, *cache)
        return dx, factor * dW

    x, W = np.random.default_rng(rows).normal(size=(rows, 4)), np.eye(3, 4) + 0.5
    verdict = check_pair(lambda x, W: (x @ W.T, (x, W)), backward, x, W)
    assert not verdict and verdict.slip == ("sign" if factor == -1 else None), verdict
    assert words in dict(verdict.notes)["looks like"]
    assert ("a mean over 2 rows" in repr(verdict)) == (rows == 2 and factor == 1 / 2)


def test_a_mean_over_rows_is_a_missing_sum():
    """Where the rows are two, it is half of the right one first of all."""

    def backward(dy, cache):
        return cache[1].T @ dy / len(dy), dy @ cache[0].T

    def forward(W, x):
        return x @ W, (W, x)

    x = np.random.default_rng(0).normal(size=(6, 4))
    six = check_pair(forward, backward, np.ones((4, 3)), x)
    assert six.slip == "no sum" and "dW is 1/6 of the right one: dW is not the sum" in repr(six)
    assert check_pair(forward, backward, np.ones((4, 3)), x[:3]).slip == "no sum"
    two = check_pair(forward, backward, np.ones((4, 3)), x[:2])
    assert two.slip is None and "half of the right one, as a mean over 2 rows" in repr(two)


def test_a_vector_has_no_rows_whose_sum_is_missing():
    verdict = check_pair(np.exp, lambda dy, x: dy * np.exp(x) / 5, np.ones(5))
    assert verdict.slip is None and "1/5 of the right one" in repr(verdict)


def test_a_scale_of_0_is_no_slip():
    def forward(x, p):
        return x * (1 - p), p

    verdict = check_pair(forward, lambda dy, p: (3 * dy, None), np.ones((2, 3)), 0)
    assert verdict.slip is None and "3 times the right one" in repr(verdict)


def test_four_gradients_in_another_order_are_swapped():
    def forward(a, b, c, d):
        return a * b * c * d, (a, b, c, d)

    def backward(dy, cache):
        a, b, c, d = cache
        return dy * a * c * d, dy * a * b * d, dy * a * b * c, dy * b * c * d

    arrays = np.random.default_rng(0).normal(size=(4, 2, 3))
    assert check_pair(forward, backward, *arrays).slip == "swapped"


def linear(x, W):
    return x @ W.T


def needs_a_cache(dy, cache):
    x, W = cache
    return dy @ W, dy.T @ x


@pytest.mark.parametrize(
    "backward",
    [
        linear_backward,
        needs_a_cache,
        lambda dy, W, x: (dy @ W, dy.T @ x),  # its own order, by the names of forward
        lambda g, a, b: [g @ b, g.T @ a],
        lambda *args: linear_backward(*args),
        functools.partial(lambda k, dy, x, W: (k * dy @ W, dy.T @ x), 1),
    ],
)
def test_a_forward_may_return_its_output_alone(backward):
    """As the exercises' functions do. Backward takes forward's arguments, or a tuple of them."""
    x, W = np.random.default_rng(0).normal(size=(6, 4)), np.eye(3, 4) + 0.5
    verdict = check_pair(linear, backward, x, W)
    assert verdict and verdict.says == "dx and dW are right, by finite differences"
    twice = check_pair(lambda x, W: 2 * linear(x, W), backward, x, W)
    assert not twice and "dx is half of the right one" in repr(twice)


def test_the_functions_of_the_exercises_are_a_pair():
    assert check_pair(lora_forward, lora_backward, *arrays(), frozen="W")
    wrong = check_pair(lora_forward, but(LB, _2=lambda dB, *_: 2 * dB), *arrays(), frozen="W")
    assert wrong.says == "dB is wrong (dx and dA are right)" and wrong.slip == "scale twice"
    assert not check_pair(lora_forward, lora_backward, *arrays())  # W is not declared frozen
    assert check_pair(np.exp, lambda dy, x: dy * np.exp(x), np.ones(3))


def in_float32(x, W):
    return (x.astype(np.float32) @ W.T.astype(np.float32)).astype(np.float64), (x, W)


def empties(dy, cache):
    grads = needs_a_cache(dy, cache)
    for a in cache:
        a[...] = 0
    return grads


with_cache = lambda x, W: (x @ W.T, (x, W))  # noqa: E731
DIAGNOSES = {
    "float32 inside forward": (in_float32, needs_a_cache, "dtype", "moves in steps"),
    "float32 from forward": (
        lambda x, W: ((x @ W.T).astype(np.float32), (x, W)),
        *(needs_a_cache, "dtype", "the output is an array of float32, wanted float64"),
    ),
    "float32 from backward": (
        with_cache,
        lambda dy, cache: tuple(g.astype(np.float32) for g in needs_a_cache(dy, cache)),
        *("dtype", "dx is an array of float32, wanted float64"),
    ),
    "float16 inside backward": (
        with_cache,
        lambda dy, cache: (dy @ cache[1], np.float64(np.float16(dy.T @ cache[0]))),
        *("dtype", "dW is right to a few digits only, with a small error, as of float32"),
    ),
    "a cache that backward empties": (
        with_cache,
        empties,
        None,
        "it writes into cache[0], which is x:",
    ),
    "no return in forward": (lambda x, W: None, needs_a_cache, None, "is the return missing?"),
    "no return in backward": (with_cache, lambda *_: None, None, "is the return missing?"),
    "swapped": (
        with_cache,
        lambda dy, cache: needs_a_cache(dy, cache)[::-1],
        *("swapped", "in another order"),
    ),
    "sign": (
        with_cache,
        lambda dy, cache: (-dy @ cache[1], dy.T @ cache[0]),
        *("sign", "dx is minus the right one"),
    ),
    "sign of a path": (
        lambda x, W: (x @ W.T + 3 * x[:, :3], (x, W)),
        lambda dy, cache: (np.pad(3 * dy, [(0, 0), (0, 1)]) - dy @ cache[1], dy.T @ cache[0]),
        *("sign", "or a part of it, has the wrong sign"),
    ),
    "sign of the other path": (
        lambda x, W: (x @ W.T + 3 * x[:, :3], (x, W)),
        lambda dy, cache: (dy @ cache[1] - np.pad(3 * dy, [(0, 0), (0, 1)]), dy.T @ cache[0]),
        *("sign", "or a part of it, has the wrong sign"),
    ),
}


@pytest.mark.parametrize("forward, backward, slip, words", DIAGNOSES.values(), ids=DIAGNOSES)
def test_what_is_wrong_with_a_pair_is_not_misleading(forward, backward, slip, words):
    x, W = np.random.default_rng(0).normal(size=(6, 4)), np.eye(3, 4) + 0.5
    verdict = check_pair(forward, backward, x, W)
    assert verdict.status == "failed" and verdict.slip == slip, verdict
    assert words in repr(verdict), verdict


def test_a_misplaced_eps_in_a_pair_is_a_small_error():
    def forward(x):
        r = 1 / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
        return x * r, (x, r)

    def backward(dy, cache):
        x, r = cache
        r = 1 / (1 / r + 1e-5)  # once more
        return (r * dy - x * r**3 * (dy * x).mean(1, keepdims=True),)

    verdict = check_pair(forward, backward, np.random.default_rng(0).normal(size=(4, 6)))
    assert not verdict and verdict.slip is None
    assert "dx is right to a few digits only" in repr(verdict), verdict


def test_a_pair_of_the_wrong_form_is_told_so():
    forward, _ = pair()
    short = check_pair(forward, lambda dy, cache: (dy,), *arrays())
    assert "returned 1 gradient, wanted 5, one for each argument" in short.says
    bare = check_pair(forward, lambda dy, cache: dy, *arrays())
    assert "returned an array of float64, wanted the tuple (dx, dW, ds, dA, dB)" in bare.says
    no_cache = check_pair(lambda x: (x, x, x), lambda dy, cache: (dy,), np.ones((2, 2)))
    assert "wanted (output, cache)" in no_cache.says
    assert {v.status for v in (short, bare, no_cache)} == {"failed"}
    with pytest.raises(ValueError, match="at most 20,000"):
        check_pair(forward, lambda dy, cache: (dy,), np.ones((200, 200)))


def test_what_is_not_checked_does_not_pass():
    forward, backward = pair()
    undeclared = check_pair(forward, backward, *arrays())
    assert not undeclared and "None for W, a float array" in undeclared.says
    assert "frozen='W'" in undeclared.says
    nothing = check_pair(forward, lambda dy, cache: (None,) * 5, *arrays(), frozen="W")
    assert not nothing and "None for x, A and B" in nothing.says
    with pytest.raises(ValueError, match="nothing to check"):
        check_pair(*pair(lambda *_: (None,) * 5), *arrays(), frozen=("x", "W", "A", "B"))
    with pytest.raises(ValueError, match="unknown name in frozen 'V'"):
        check_pair(forward, backward, *arrays(), frozen="V")


def test_a_large_entry_does_not_hide_a_small_one_that_is_missing():
    scale = np.array([1.0, 1e-8])
    for factor in (1, 0):
        verdict = check_pair(
            lambda x: (scale * x, None),
            lambda dy, _, f=factor: (dy * scale * [1, f],),
            np.ones((3, 2)),
        )
        assert bool(verdict) == (factor == 1), verdict


SCRIPT = """
from minilora.check import check, check_pair
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


def test_a_prompt_shows_its_verdicts_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert check("lora_count", 768)
    assert not capsys.readouterr().out


# ---------------------------------------------------------------------------- the doctor


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
    assert "✓ power " in printed.out and "da is wrong" in printed.err


def test_the_doctor_has_calls_of_every_twin():
    calls = doctor.page_calls()
    assert calls.keys() == {name for _, name in fast.TWINS} and all(calls.values())
    assert len(calls["lora_forward"]) > len(calls["dora_forward"])  # with dropout, and without
    for function, args in itertools.chain(*calls.values()):
        floats = [a for a in arrays_in(args) if a.dtype.kind == "f"]
        assert floats and {a.dtype for a in floats} == {np.dtype(np.float32)}, function.__name__


@pytest.mark.parametrize("place", ["output", "cache", "argument"])
def test_the_doctor_finds_a_twin_that_differs(place, monkeypatch):
    """In what it returns, in what it keeps, in what it writes."""

    def swiglu_forward(gate, up):
        h, (gate, up) = inspect.unwrap(ops.swiglu.forward)(gate, up)
        if place == "argument":
            gate += 1e-3
        return h + 1e-3 * (place == "output"), (gate + 1e-3 * (place == "cache"), up)

    monkeypatch.setattr(fast, "TWINS", {("ops.swiglu", "swiglu_forward"): swiglu_forward})
    monkeypatch.setattr(fast, "on", lambda: not fast.is_plain())
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
    assert sum("agrees with its page" in line for line in lines) == len(fast.TWINS)
