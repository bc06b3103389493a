"""Answers made without sight of the checks: each gets its verdict and its words. And what they
taught: a known slip is seen at every draw, a pair's cache may hide nothing.
"""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import answers
import more_answers
import numpy as np
import pytest
from first_tries import TRIES

from minilora_course import EXERCISES, SLIPS, check
from minilora_course.slips import SINGLE, agree

ROOT = Path(__file__).parents[2]
GIVEN = {  # exercise -> what its cell hands to the check
    name: expression
    for path in (ROOT / "notebooks" / "src").glob("*.py")
    for name, expression in re.findall(
        r'^check\("(\w+)", (.*)\)$', path.read_text(encoding="utf-8"), re.M
    )
}


class Row(NamedTuple):
    """One answer; first.txt says what the fields are."""

    exercise: str
    verdict: str
    was: str
    words: str
    what: str
    source: str

    @property
    def answer(self):
        """As the cell of a student gives it to the check."""
        names = {"np": np}
        exec(compile(self.source, "<cell>", "exec"), names)
        return eval(GIVEN[self.exercise], names)


def read(name):
    """The rows of one list."""
    text = (ROOT / "tests" / "course" / "unseen" / f"{name}.txt").read_text(encoding="utf-8")
    blocks = [block.partition("\n") for block in re.split(r"^=== ", text, flags=re.M)[1:]]
    return [Row(*head.split(" | "), source) for head, _, source in blocks]


LISTS = {name: read(name) for name in ("first", "second")}
ROWS = [
    pytest.param(row, id=f"{row.exercise}-{name}-{i}")
    for name, rows in LISTS.items()
    for i, row in enumerate(rows)
]


@pytest.mark.parametrize("row", ROWS)
def test_an_answer_that_was_made_without_sight_of_the_checks(row):
    verdict = check(row.exercise, row.answer, hints=0, seed=4)
    assert verdict.status == row.verdict and row.words in repr(verdict), (row.what, verdict)


def test_the_figures_that_are_told_are_those_of_the_lists():
    teaching = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    assert "made without sight of the checks" in teaching
    exercises = [{row.exercise for row in rows} for rows in LISTS.values()]
    assert not exercises[0] & exercises[1]
    for names, rows in zip(exercises, LISTS.values()):
        was = Counter(row.was for row in rows)
        assert was.keys() <= {"", "misjudged", "misleading", "silent"}
        wrong = [row for row in rows if row.verdict != "passed" and row.was != "misjudged"]
        named = len(wrong) - was["silent"] - was["misleading"]
        cells = [f"{len(rows) - was['misjudged']} of {len(rows)}", f"{named} of {len(wrong)}"]
        cells += [str(was["silent"]), str(was["misleading"])]
        assert re.search(rf"\| {len(names)}\b.*{re.escape(' | '.join(cells))} \|", teaching)


FUNCTIONS = [name for name, exercise in EXERCISES.items() if exercise.kind != "predict"]


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


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if EXERCISES[n].kind == "blank"])
def test_a_slip_of_each_kind_is_planted(name):
    """Every slip that an exercise alone names is made by one of the wrong answers."""
    given = [wrong for wrong, _ in more_answers.WRONG.get(name, [])]
    given += [answers.answer(name, source) for source, *_ in answers.ANSWERS.get(name, [])]
    given += [row.answer for rows in LISTS.values() for row in rows if row.exercise == name]
    given += [wrong for exercise, wrong, _ in TRIES if exercise == name]
    made = {check(name, answer, hints=0, seed=3).slip for answer in given}
    named = {slip for case in EXERCISES[name].drawn(0) for slip in case.slips}
    assert named - SLIPS.keys() <= made, named - SLIPS.keys() - made


def fa_pair(keep, read_back):
    """LoRA-FA's pair whose cache is keep(x, A, z, …)."""

    def forward(x, W, s, A, B):
        z = x @ A.T
        return x @ W.T + s * z @ B.T, (keep(x, A, z), W, s, A, B)

    def backward(dy, cache):
        kept, W, s, A, B = cache
        z = read_back(kept, A)
        return dy @ W + s * (dy @ B) @ A, None, None, None, s * dy.T @ z

    return forward, backward


class Box:
    """An object without a dict of its own."""

    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


KEEPERS = {  # what a cache keeps, how z comes out of it, what is said
    "z in a dict": (lambda x, A, z: {"z": z}, lambda kept, A: kept["z"], "are right"),
    "z in a function": (lambda x, A, z: lambda: z, lambda kept, A: kept(), "are right"),
    "x in a dict": (lambda x, A, z: {"x": x}, lambda kept, A: kept["x"] @ A.T, "the cache holds x"),
    "a copy in a dict": (
        lambda x, A, z: {"x": x.copy()},
        lambda kept, A: kept["x"] @ A.T,
        "the cache holds x",
    ),
    "x as a default": (
        lambda x, A, z: lambda x=x: x,
        lambda kept, A: kept() @ A.T,
        "the cache holds x",
    ),
    "a view of x": (lambda x, A, z: x[:], lambda kept, A: kept @ A.T, "the cache holds x"),
    "x in an object": (
        lambda x, A, z: Box(x),
        lambda kept, A: kept.x @ A.T,
        "x stays in memory after forward",
    ),
}


@pytest.mark.parametrize("kind", KEEPERS)
def test_a_cache_hides_no_x(kind):
    keep, read_back, says = KEEPERS[kind]
    verdict = check("lora_fa_pair", fa_pair(keep, read_back), hints=0, seed=1)
    assert says in repr(verdict), verdict


def test_a_walk_that_adds_in_place_to_an_array_of_its_own_is_right():
    def walk(nodes, dy):
        grads = {nodes[-1]: np.copy(dy)}
        for node in reversed(nodes):
            given = node.op.backward(grads[node], node.cache) if node.op else ()
            for parent, grad in zip(node.parents, given):
                if parent is not None:
                    grads.setdefault(parent, np.zeros_like(grad))
                    grads[parent] += grad
        return grads

    assert check("tape_walk", walk)
