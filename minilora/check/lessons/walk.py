"""Notebook 01, a network's gradients by hand, and the walk along the tape that finds them."""

import numpy as np

from ... import ops
from ...engine import Tensor, backward, param, tape
from ..slips import Case, Outputs
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
    """y = (p + h + 1) ∘ tanh p with p = h Vᵀ, h = tanh(x Uᵀ).   ->  y, U, V.

    p and h have two paths each. The sum gives both of them one gradient, the same array. The
    constants x and 1 have no node.
    """
    tU, tV = param(U, "U"), param(V, "V")
    h = ops.tanh(ops.linear(x, tU))
    p = ops.linear(h, tV)
    tanh = ops.tanh(p)
    return ops.mul(ops.add(ops.add(p, h), np.ones((len(x), len(U)))), tanh), tU, tV


def walked(function):
    """The function dy, x, U, V -> dU, dV that a walk gives."""

    def run(dy, x, U, V):
        y, tU, tV = network(x, U, V)
        grads = function(tape(y), dy)
        if grads is None:
            return None
        return grads.get(tU.node), grads.get(tV.node)

    return run


def reference(dy, x, U, V):
    """dU, dV by the engine's own walk."""
    y, tU, tV = network(x, U, V)
    backward(y, dy)
    return {"dU": tU.grad, "dV": tV.grad}


def last_path_alone(dy, x, U, V) -> list[Outputs]:
    """Where a second gradient for a node replaces the first."""

    def overwrites(nodes, dy):
        grads = {nodes[-1]: dy}
        for node in reversed(nodes):
            if node.op:
                given = node.op.backward(grads[node], node.cache)
                grads |= {p: g for p, g in zip(node.parents, given) if p is not None}
        return grads

    return [dict(zip(("dU", "dV"), walked(overwrites)(dy, x, U, V)))]


def shared_array(dy, x, U, V) -> list[Outputs]:
    """Where a second gradient is added into the array of the first, which other nodes hold, too."""

    def in_place(nodes, dy):
        grads = {nodes[-1]: dy}
        for node in reversed(nodes):
            if node.op:
                for parent, grad in zip(node.parents, node.op.backward(grads[node], node.cache)):
                    if parent in grads and grad is not None:
                        grads[parent] += grad
                    elif parent is not None:
                        grads[parent] = grad
        return grads

    return [dict(zip(("dU", "dV"), walked(in_place)(dy.copy(), x, U, V)))]


def cases(rng):
    """For dU, dV = f(dy, x, U, V)."""
    slips = {
        "where two paths meet, the second gradient replaced the first: add them": last_path_alone,
        "+= changes an array that another node holds, too: write a = a + b": shared_array,
    }
    cases = []
    for _ in range(2):
        M, (I, O) = rows(rng), widths(rng, 2)
        args = draw(rng, dy=(M, O), x=(M, I), U=(O, I), V=(O, O))
        cases.append(Case(args, reference, slips=slips))
    return cases


# ---- by hand


def by_hand(x, t, W1, W2, square=2.0, slope=True, mean=True, rows=False, of_z=False):
    """dW1, dW2 of mean((tanh(x W1ᵀ) W2ᵀ - t)²), with a factor left out or changed."""
    z = x @ W1.T
    hidden = np.tanh(z)
    error = hidden @ W2.T - t
    derror = square * error / ((len(x) if rows else error.size) if mean else 1)
    dhidden = derror @ W2
    dW1 = (dhidden * (1 - (z if of_z else hidden) ** 2 if slope else 1)).T @ x
    return {"dW1": dW1, "dW2": derror.T @ hidden}


def by_hand_cases(rng):
    """For dW1, dW2 = f(x, t, W1, W2)."""
    slips = {
        "error² has the derivative 2 error: the 2 is missing": lambda **a: [by_hand(**a, square=1)],
        "tanh' = 1 - tanh² is missing": lambda **a: [by_hand(**a, slope=False)],
        "the loss is a mean: divide by the count of numbers in error": lambda **a: [
            by_hand(**a, mean=False)
        ],
        "the mean is over all numbers of error, not only the rows: error.size": lambda **a: [
            by_hand(**a, rows=True)
        ],
        "tanh' = 1 - tanh² is 1 - hidden²: of hidden, not of z": lambda **a: [
            by_hand(**a, of_z=True)
        ],
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
