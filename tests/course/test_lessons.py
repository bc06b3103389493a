"""The exercises that build on one another: what is right passes, each slip of theirs is named."""

import numpy as np
import pytest
from more_answers import RIGHT, WRONG

from minilora.gradcheck import gradcheck
from minilora_course import EXERCISES, check
from minilora_course.lessons import backward

TABLE = [
    pytest.param(name, wrong, says, id=f"{name}-{i}")
    for name, row in WRONG.items()
    for i, (wrong, says) in enumerate(row)
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name):
    verdict = check(name, RIGHT[name])
    assert verdict and verdict.status == "passed", verdict


def test_a_pair_may_come_as_a_list():
    assert check("lora_pair", list(RIGHT["lora_pair"]))


@pytest.mark.parametrize("name, wrong, says", TABLE)
def test_a_wrong_answer_is_told_what_is_wrong(name, wrong, says):
    verdict = check(name, wrong, hints=0, seed=3)
    assert not verdict and says in repr(verdict), verdict


@pytest.mark.parametrize("name", [n for n, e in EXERCISES.items() if e.lesson in ("01b", "02b")])
def test_what_is_not_written_is_open(name):
    exercise = EXERCISES[name]
    answer = None if exercise.kind == "predict" else lambda *args: None
    assert check(name, answer).status == "open"


def test_the_references_agree_with_finite_differences():
    rng = np.random.default_rng(0)
    angles = backward.rope_cases(rng)[0].args
    cos, sin = angles["cos"], angles["sin"]
    q, k, v = rng.normal(size=(3, len(cos), 2 * cos.shape[1]))
    gradcheck(
        lambda s: (backward.softmax(s), backward.softmax(s)),
        lambda dp, p: (backward.softmax_backward(dp, p)["ds"],),
        q,
    )
    gradcheck(
        lambda q, k, v: (attention(q, k, v), (q, k, v)),
        lambda do, cache: tuple(backward.attention_backward(do, *cache).values()),
        *(q, k, v),
    )
    gradcheck(
        lambda x: (rope(x, cos, sin), None),
        lambda dy, _: tuple(backward.rope_backward(dy, cos, sin).values()),
        rng.normal(size=angles["dy"].shape),
    )


def attention(q, k, v):
    scores = np.where(np.tri(len(q)), q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    return backward.softmax(scores) @ v


def rope(x, cos, sin):
    a, b = np.split(x, 2, axis=1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)
