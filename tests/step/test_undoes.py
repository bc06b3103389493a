"""The terms that a backward's comments name, in the forward that stands above it."""

import inspect
import re
import textwrap

import numpy as np
import pytest
from cases import PAIRS

from minilora.step.undoes import undone

pytestmark = pytest.mark.smoke


def source(function):
    return textwrap.dedent(inspect.getsource(function)).splitlines()


def marked(forward, backward, start):
    """The text of forward that is marked where backward's one line begins with `start`."""
    (line,) = [i for i, text in enumerate(source(backward)) if text.strip().startswith(start)]
    lines = source(forward)
    return [lines[i][first:last] for i, first, last in undone(forward, backward).get(line, [])]


def comments(function):
    """(line, comment) of the comments that stand at a line's end."""
    found = ((i, re.search(r"\S\s+# (.*)$", text)) for i, text in enumerate(source(function)))
    return [(i, match[1]) for i, match in found if match]


@pytest.mark.parametrize("name", PAIRS)
def test_each_clause_of_a_page_names_a_term(name):
    """Whoever writes "y has …" or "y = …" behind a line of backward names a term of forward."""
    forward, backward = PAIRS[name]
    places = undone(forward, backward)
    for line, comment in comments(backward):
        clauses = re.findall(r"\w (?:has|=) ", comment)
        assert len(places.get(line, [])) == len(clauses), comment
    assert places, "no line says which term of forward it undoes"


TERMS = [
    ("lora", "dz =", ["s * (z @ B.T)"]),
    ("lora", "dA =", ["xa @ A.T"]),
    ("lora", "dx, dxd = dy @ W, dz @ A", ["x @ W.T", "xa @ A.T"]),
    ("lora", "dx, dxd = dy @ W + dz @ A", ["x @ W.T", "xa @ A.T", "x"]),
    ("vera", "dd =", ["d * u"]),
    ("dora", "dm =", ["m / norm * u"]),
    ("attention", "dp =", ["p @ vs"]),
    ("attention", "ds = p", ["e / total", "np.exp(s - top)"]),
    ("attention", "dks, dvs =", ["scores(qs, ks)", "p @ vs"]),
    ("rmsnorm", "dr =", ["x * r"]),
    ("rmsnorm", "dx = dxr", ["x * r", "(x * x).mean(axis=1, keepdims=True)"]),
    ("swiglu", "dgate =", ["gate * p * up", "sigmoid(gate)"]),
    ("rope", "db =", ["b * c", "b * s"]),
    ("cross_entropy", "dz =", ["losses.sum() / count"]),
    ("row_norm", "dV =", ["np.sqrt((V * V).sum(axis=1))"]),
    ("embedding", "np.add.at", ["E[ids]"]),
]


@pytest.mark.parametrize("name, start, wanted", TERMS)
def test_the_marked_text_is_the_term_that_the_line_undoes(name, start, wanted):
    assert marked(*PAIRS[name], start) == wanted


# ---------------------------------------- a reader's own pair


def own_forward(x, W, A, B, s):
    """é: a letter of two bytes moves no column.   x (M, I), W (O, I)  ->  y (M, O)."""
    z, é = x @ A.T, 2 * np.exp(s)
    z[0], (a, *_) = x @ A.T, (s, x)
    y = x + x @ W.T + s * (z @ B.T) + é * a
    y += (x * x).mean(axis=1, keepdims=True) / np.sqrt(
        s,
    )
    return y, (x, z)


def own_backward(dy, cache):
    """Which comments name a term, and which do not."""
    text = "# y has s z Bᵀ"
    one = dy  # y has s z Bᵀ
    two = dy  # y has x Wᵀ, y has mean(x²): words, é = 2 exp(s)
    another_name = dy  # y has s v Bᵀ
    one_more = dy  # y has s z x Bᵀ
    one_less = dy  # y has z B
    no_transpose = dy  # y has x W
    no_function = dy  # é = 2 s
    at_another_name = dy  # z has s z Bᵀ
    unknown = dy  # v has s z Bᵀ
    twice = dy  # z = x Aᵀ
    over_lines = dy  # y has mean(x²) / √s
    words = dy  # which has no term; and y has
    return (text, one, two, another_name, one_more, one_less, no_transpose, no_function) and (
        (at_another_name, unknown, twice, over_lines, words),
        None,
    )


def test_exact_names_alone_are_marked():
    mean = "(x * x).mean(axis=1, keepdims=True)"
    assert marked(own_forward, own_backward, "one =") == ["s * (z @ B.T)"]
    assert marked(own_forward, own_backward, "two =") == ["x @ W.T", mean, "2 * np.exp(s)"]
    assert len(undone(own_forward, own_backward)) == 2


def test_the_output_has_the_name_of_the_gradient_that_comes_in():
    def forward(x, W):
        return x @ W.T, (x, W)

    def backward(dy, cache):
        x, W = cache
        dx = dy @ W  # y = x Wᵀ
        dW = dy.T @ x  # h = x Wᵀ
        return dx, dW

    assert marked(forward, backward, "dx =") == ["x @ W.T"]
    assert marked(forward, backward, "dW =") == []


def test_where_there_is_no_source_there_is_no_term():
    namespace = {}
    exec("def f(x): return x, x\ndef b(dy, x): return dy,  # y = x", namespace)
    assert undone(namespace["f"], namespace["b"]) == {}
    assert undone(np.add, own_backward) == undone(own_forward, len) == {}
    twice = (lambda x: (2 * x, None), lambda dy, cache: 2 * dy)  # y = 2 x
    assert undone(*twice) == {}
