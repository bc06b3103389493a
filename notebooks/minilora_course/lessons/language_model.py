"""Notebook 11, a real language model: the likeliest of ten, and an adapter for each row."""

import numpy as np

from minilora.methods.lora import count

from ..slips import Case, Slips
from .exercise import blank, broken, draw, predict, rows
from .lora import shapes


def best_of(logits, among):
    """The likeliest of some tokens, for each row."""
    return {"token": among[logits[:, among].argmax(axis=1)]}


def best_of_all(logits, among):
    """The likeliest of the whole vocabulary: what the model says, not what it knows."""
    return {"token": logits.argmax(axis=1)}


def best_cases(rng):
    """For token = f(logits, among): the tokens stand in no order."""
    slips: Slips = {
        "that is a place in `among`: return the token that stands there": lambda logits, among: [
            {"token": logits[:, among].argmax(axis=1)}
        ],
        "all tokens competed, not only those in `among`": lambda **a: [best_of_all(**a)],
    }
    cases = []
    for N in (rows(rng), rows(rng), 7):
        V = int(rng.integers(18, 30))
        among = rng.choice(V, 4, replace=False)
        cases.append(Case({**draw(rng, logits=(N, V)), "among": among}, best_of, slips=slips))
    return cases


def serve(x, W, s, A, B, which):
    """y_m = W x_m + s B_n A_n x_m, n = which[m]."""
    z = np.einsum("mi,mri->mr", x, A[which])
    return {"y": x @ W.T + s * np.einsum("mr,mor->mo", z, B[which])}


def serve_cases(rng):
    """For y = f(x, W, s, A, B, which): some adapters, in any order."""
    slips: Slips = {
        "all rows got one row's adapter: row m has which[m]": lambda which, **a: [
            serve(which=which * 0 + n, **a) for n in set(which)
        ],
        "each row got every adapter: it has which[m] alone": lambda x, W, s, A, B, which: [
            {"y": x @ (W + s * np.einsum("nor,nri->oi", B, A)).T}
        ],
    }
    cases = []
    for M, I, O, r, s in shapes(rng):
        n = int(rng.integers(3, 6))
        a = draw(rng, x=(M, I), W=(O, I), A=(n, r, I), B=(n, O, r))
        which = rng.integers(n, size=M)
        args = {"x": a["x"], "W": a["W"], "s": s, "A": a["A"], "B": a["B"], "which": which}
        cases.append(Case(args, serve, rows=("x",), adapter="B", two_paths=("y",), slips=slips))
    return cases


EXERCISES = (
    predict(
        "real_count",
        "30 layers, each with a q_proj of 576 x 576 and a v_proj of 192 x 576: how many numbers "
        "does LoRA of rank 8 train?",
        (
            "r (I + O) for each linear.",
            "8 · (576 + 576) and 8 · (576 + 192) in a layer.",
        ),
        number=lambda: 30 * (count(576, 576, 8) + count(576, 192, 8)),
        because="a third of a percent of the model's 134,515,008.",
        near={
            15360: "that is one layer's",
            30 * 8 * 2 * (576 + 576): "v_proj has 192 outputs: three key heads of 64",
            30 * 8 * (576 + 192): "that is B alone, LoRA-FA's count",
        },
    ),
    blank(
        "real_best",
        "The likeliest of some tokens: logits (N, V), among (n,) -> tokens (N,)",
        (
            "logits[:, among] has a column for each of them.",
            "argmax gives a place in `among`; the answer is the token at this place.",
        ),
        best_cases,
    ),
    broken(
        "real_break",
        "Take the likeliest of all tokens: logits (N, V), among (n,) -> tokens (N,)",
        (
            "Start from the right function.",
            "Choose from the whole vocabulary.",
        ),
        best_cases,
        wanted=best_of_all,
    ),
    blank(
        "real_serve",
        "An adapter for each row: x, W, s, A (n, r, I), B (n, O, r), which (M,) -> y",
        (
            "The base is the same for all rows: x @ W.T.",
            "A[which] (M, r, I) has each row's own A: z = np.einsum('mi,mri->mr', x, A[which]).",
        ),
        serve_cases,
    ),
)
