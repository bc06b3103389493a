"""Notebook 01, a network's gradients by hand, and the walk along the tape that finds them."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from minilora import ops
from minilora.check.words import agree
from minilora.engine import Tensor, backward, param, tape

from ..calls import WrongForm
from ..slips import SINGLE, Case
from .exercise import blank, draw, rows, widths


def walk(nodes, dy):
    """The gradient of every node of a tape.   dy: of the last one  ->  {node: gradient}."""
    grads = {nodes[-1]: dy}
    for node in reversed(nodes):
        if node.op:
            for parent, grad in zip(node.parents, node.op.backward(grads[node], node.cache)):
                if parent is not None and grad is not None:
                    grads[parent] = grads[parent] + grad if parent in grads else grad
    return grads


def network(x, U, V) -> tuple[Tensor, Tensor, Tensor]:
    """y = h ∘ h with h = z + z Vᵀ + tanh(z) Vᵀ + 1, z = x Uᵀ: z has three paths.   ->  y, U, V.

    `add` hands one array to two parents; what comes to z later must not be written into it. The
    constants x and 1 have no node: their gradients differ in shape and must not be added.
    """
    tU, tV = param(U, "U"), param(V, "V")
    z = ops.linear(x, tU)
    u, v = ops.linear(z, tV), ops.linear(ops.tanh(z), tV)
    h = ops.add(ops.add(ops.add(z, u), v), np.ones((len(x), len(U))))
    return ops.mul(h, h), tU, tV


def walked(function):
    """The function dy, x, U, V -> dU, dV that a walk gives."""

    def run(dy, x, U, V):
        y, tU, tV = network(x, U, V)
        nodes = tape(y)
        grads = function(nodes, dy)
        if grads is None:
            return None
        if not isinstance(grads, Mapping):
            kind = type(grads).__name__
            raise WrongForm(f"it returned a {kind}, wanted a dict: each node to its gradient")
        found = grads.get(tU.node), grads.get(tV.node)
        missing = sum(node not in grads for node in nodes)
        if missing and all(map(agree, found, reference(dy, x, U, V).values(), (SINGLE, SINGLE))):
            raise WrongForm(
                "the gradients of inner nodes were dropped: {node: its gradient} has each of the "
                f"{len(nodes)} nodes, and {missing} are missing"
            )
        return found

    return run


def reference(dy, x, U, V):
    """dU, dV by the engine's own walk."""
    y, tU, tV = network(x, U, V)
    backward(y, dy)
    return {"dU": tU.grad, "dV": tV.grad}


def walk_by(join=operator.add, first=np.asarray):
    """The walk that combines a node's first gradient and its next one by another function.

    first: the gradient of the last node, made of dy.
    """

    def function(nodes, dy):
        grads = {nodes[-1]: first(dy)}
        for node in reversed(nodes):
            given = node.op.backward(grads[node], node.cache) if node.op else ()
            for parent, grad in zip(node.parents, given):
                if parent is not None:
                    grads[parent] = join(grads[parent], grad) if parent in grads else grad
        return grads

    return lambda **args: [dict(zip(("dU", "dV"), walked(function)(**args)))]


def carried(**args):
    """The walk that gives each op the gradient that the op after it gave to its first parent."""

    def function(nodes, dy):
        grads: dict[Any, np.ndarray] = {}
        for node in reversed(nodes):
            given = node.op.backward(dy, node.cache) if node.op else ()
            for parent, grad in zip(node.parents, given):
                if parent is not None:
                    grads[parent] = grads[parent] + grad if parent in grads else grad
            dy = next((g for p, g in zip(node.parents, given) if p is not None), dy)
        return grads | {nodes[-1]: dy}

    return [dict(zip(("dU", "dV"), walked(function)(**args)))]


SLIPS = {
    "an op got the gradient of another node: keep one for each node until its turn": carried,
    "the walk begins at the last node with dy, not with 1": walk_by(first=np.ones_like),
    "where two paths meet, the second gradient replaced the first: add them": walk_by(
        lambda first, second: second
    ),
    "a gradient was added in place: += writes into an array that another node holds too; a + b "
    "is a new one": walk_by(operator.iadd),
}


def cases(rng):
    """For dU, dV = f(dy, x, U, V)."""
    cases = []
    for _ in range(2):
        M, (I, O) = rows(rng), widths(rng, 2)
        args = draw(rng, dy=(M, O), x=(M, I), U=(O, I), V=(O, O))
        cases.append(Case(args, reference, slips=SLIPS))
    return cases


# ---- by hand


def by_hand(x, t, W1, W2, square=2.0, slope=lambda hidden: 1 - hidden**2, count=np.size):
    """dW1, dW2 of mean((tanh(x W1ᵀ) W2ᵀ - t)²), from which a factor can be left out."""
    hidden = np.tanh(x @ W1.T)
    error = hidden @ W2.T - t
    derror = square * error / count(error)
    dhidden = derror @ W2
    return {"dW1": (dhidden * slope(hidden)).T @ x, "dW2": derror.T @ hidden}


def by_hand_cases(rng):
    """For dW1, dW2 = f(x, t, W1, W2)."""
    slips = {
        "error² has the derivative 2 error: the 2 is missing": lambda **a: [by_hand(**a, square=1)],
        "tanh' = 1 - tanh² is missing": lambda **a: [by_hand(**a, slope=np.ones_like)],
        "hidden is tanh z already: tanh' is 1 - hidden²": lambda **a: [
            by_hand(**a, slope=lambda hidden, of=of: 1 - of(hidden) ** 2)
            for of in (np.tanh, np.arctanh)  # arctanh(hidden) is z
        ],
        "the loss is a mean: divide by the count of numbers in error, rows times columns": (
            lambda **a: [by_hand(**a, count=count) for count in (lambda error: 1, len)]
        ),
    }
    cases = []
    for _ in range(2):
        M, (I, H, O) = rows(rng), widths(rng, 3)
        args = draw(rng, x=(M, I), t=(M, O), W1=(H, I), W2=(O, H))
        cases.append(Case(args, by_hand, slips=slips))
    return cases


EXERCISES = (
    blank(
        "tape_network",
        "loss = mean((tanh(x W1ᵀ) W2ᵀ - t)²): x, t, W1, W2 -> dW1, dW2",
        (
            "Name every step: hidden, error, loss. Then go back: derror, dW2, dhidden, dW1.",
            "derror = 2 error / error.size; dhidden = derror W2; tanh' = 1 - hidden².",
        ),
        by_hand_cases,
    ),
    blank(
        "tape_walk",
        "The walk: nodes (parents before children), dy -> {node: its gradient}",
        (
            "Begin with the last node, whose gradient is dy, and go backward: every child comes "
            "before its parents.",
            "node.op.backward(its gradient, node.cache) gives one gradient for each of "
            "node.parents; a parent may be None.",
        ),
        cases,
        through=walked,
        package=walk,
    ),
)
