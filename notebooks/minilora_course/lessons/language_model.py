"""Notebook 11, a real language model: the likeliest of ten, and an adapter for each row."""

import numpy as np

from minilora.methods.lora import count

from ..slips import Case, Slips
from .exercise import as_numbers, blank, broken, draw, predict, rows
from .lora import shapes


def best_of(logits, among):
    """The likeliest of some tokens, for each row."""
    return {"token": among[logits[:, among].argmax(axis=1)]}


def best_of_all(logits, among):
    """The likeliest of the whole vocabulary: what the model says, not what it knows."""
    return {"token": logits.argmax(axis=1)}


def zero_for_masked(logits, among):
    """The likeliest where all other tokens have the logit 0."""
    masked = np.zeros_like(logits)
    masked[:, among] = logits[:, among]
    return [{"token": masked.argmax(axis=1)}]


def best_cases(rng):
    """For token = f(logits, among): the tokens stand in no order; in the last, no logit is > 0."""
    slips: Slips = {
        "that is a place in `among`: return the token that stands there": lambda logits, among: [
            {"token": logits[:, among].argmax(axis=1)}
        ],
        "all tokens competed, not only those in `among`": lambda **a: [best_of_all(**a)],
        "a token that is masked must not win: 0 is more than a negative logit": zero_for_masked,
    }
    cases = []
    for N, less in ((rows(rng), 0), (rows(rng), 0), (7, 4)):
        V = int(rng.integers(18, 30))
        among = rng.choice(V, 4, replace=False)
        logits = rng.standard_normal((N, V)) - less  # a logit may be below 0, as all are here
        cases.append(Case({"logits": logits, "among": among}, best_of, slips=slips))
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


def assistants(ids, opens, end):
    """(T,) of 0 and 1: the tokens of the assistant's turn, and the one that ends it."""
    first = len(opens) + next(
        t for t in range(len(ids)) if np.array_equal(ids[t:][: len(opens)], opens)
    )
    last = first + int((ids[first:] == end).argmax())
    t = np.arange(len(ids))
    return ((first <= t) & (t <= last)).astype(int)


def mask(ids, opens, end):
    """Which targets, ids[1:], count."""
    return {"mask": assistants(ids, opens, end)[1:]}


def mask_cases(rng):
    """For mask = f(ids, opens, end): what the system says, or not; then the user, the assistant."""

    def tokens(change):
        """The slip whose tokens are change(true, ids, end): as targets."""

        def slip(ids, opens, end):
            true = assistants(ids, opens, end)
            return [{"mask": np.asarray(change(true, ids, opens, end), int)[1:]}]

        return slip

    def before(true, count):
        """So many places before the first, too."""
        first = int(true.argmax())
        return np.maximum(true, (np.arange(len(true)) >= first - count) * (true.cumsum() == 0))

    slips: Slips = {
        "the prompt counts, too: the model would learn to write what the user says": lambda **a: [
            {"mask": np.ones_like(mask(**a)["mask"])},
            *tokens(lambda true, ids, opens, end: before(true, len(ids)))(**a),
            *tokens(lambda true, ids, opens, end: before(true, len(ids)) * (ids != end))(**a),
        ],
        "the words that open the assistant's turn count: the template writes them, not the model": (
            tokens(lambda true, ids, opens, end: before(true, len(opens)))
        ),
        "the end token does not count: the model would never learn to stop": tokens(
            lambda true, ids, opens, end: true * (ids != end)
        ),
        "what stands behind the end token counts: the turn is over": tokens(
            lambda true, ids, opens, end: np.maximum(true, np.r_[0, true[:-1]])
        ),
        "the user's end token counts, too: only the assistant's turn is learned": tokens(
            lambda true, ids, opens, end: np.maximum(true, ids == end)
        ),
        "shifted by one: place t of the mask is of the target ids[t + 1], not of ids[t]": (
            lambda **a: [
                {"mask": assistants(**a)[:-1]},
                {"mask": np.r_[mask(**a)["mask"][1:], 0]},
            ]
        ),
        "shifted by one, and the end token does not count: both tell the model when to stop": (
            lambda **a: [{"mask": (assistants(**a) * (a["ids"] != a["end"]))[:-1]}]
        ),
        "no target counts: was the first end token taken? That is the user's end token": (
            lambda **a: [{"mask": np.zeros_like(mask(**a)["mask"])}]
        ),
        "one for each token: the targets are ids[1:], one fewer": lambda **a: [
            {"mask": assistants(**a)},
            {"mask": np.r_[mask(**a)["mask"], 0]},
        ],
        "these are places: wanted True or False for each target": lambda **a: [
            {"mask": np.flatnonzero(mask(**a)["mask"])},
            {"mask": np.flatnonzero(assistants(**a))},
        ],
        "turned round: True is where the target counts": lambda **a: [
            {"mask": 1 - mask(**a)["mask"]}
        ],
    }
    start, end, line, role = 1, 2, 3, 4

    def turn(who, length):
        return [start, *who, line, *rng.integers(10, 40, length), end, line]

    cases = []
    for system in rng.permutation([0, 3, 4]):
        lengths = [int(n) for n in rng.permutation([3, 4, 5, 6])[:2]]
        ids = turn([6], int(system)) if system else []
        ids += turn([7], lengths[0]) + turn([role, role + 1], lengths[1])
        opens = np.array([start, role, role + 1, line])
        cases.append(Case({"ids": np.array(ids), "opens": opens, "end": end}, mask, slips=slips))
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
        "real_mask",
        "Which targets count: ids (T,), opens (h,), end -> mask (T - 1,), True or False",
        (
            "Where does opens stand in ids? The answer begins behind it, and its end token counts.",
            "Mark the tokens themselves first, (T,). The target of place t is token t + 1.",
        ),
        mask_cases,
        through=as_numbers,
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
