"""The answers to exercises: what is right passes, each slip is named."""

import subprocess
import sys

import answers
import more_answers
import numpy as np
import pytest

from minilora_course import EXERCISES, SLIPS, check, course, hints


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


def test_a_verdict_is_rich():
    verdict = check("lora_forward", lambda x, W, s, A, B: x @ W.T, hints=1)
    page = verdict._repr_html_()
    assert "<table>" in page and "y is wrong" in page and "hint 1 of 3" in page
    assert verdict.exercise == "lora_forward" and verdict.slip == "path missing"


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
