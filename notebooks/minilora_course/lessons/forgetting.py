"""Notebook 13, what is forgotten: what a model says and knows, and which runs no other beats."""

import numpy as np

from minilora.ops.loss import IGNORED

from ..slips import Case, Slips
from .exercise import as_numbers, blank, broken, draw, predict

END = 1  # the end token of the cases


def said_right(said, right, end):
    """(N,) of bools: is an answer right up to the first end token of the right one, and with it?"""
    counts = (right == end).cumsum(1) - (right == end) == 0  # up to the first end
    return np.where(counts, said == right, True).all(1)


def says(said, right, end):
    """The share of answers that are right as a whole."""
    return {"share": said_right(said, right, end).mean()}


def says_cases(rng):
    """For share = f(said, right, end): each kind of answer is there, in any order."""

    def without_end(said, right, end):
        counts = (right == end).cumsum(1) == 0
        return np.where(counts, said == right, True).all(1)

    def to_its_own_end(said, right, end):
        counts = (said == end).cumsum(1) == 0
        return np.where(counts, said == right, True).all(1)

    slips: Slips = {
        "the tokens after the end were compared, too: they are not part of an answer": (
            lambda said, right, end: [{"share": (said == right).all(1).mean()}]
        ),
        "the end was not compared: an answer that continues is another answer": (
            lambda **a: [{"share": without_end(**a).mean()}]
        ),
        "that is the share of the tokens that are right: one wrong token makes an answer wrong": (
            lambda said, right, end: [
                {"share": (said == right).mean()},
                {"share": (said == right)[(right == end).cumsum(1) == 0].mean()},
                {"share": (said == right)[(right == end).cumsum(1) - (right == end) == 0].mean()},
            ]
        ),
        "an answer that ends too early is another answer: compare up to the right one's end": (
            lambda **a: [{"share": to_its_own_end(**a).mean()}]
        ),
        "only the first token was compared": lambda said, right, end: [
            {"share": (said == right)[:, 0].mean()}
        ],
        "one value for each answer, or their number: wanted the share": lambda **a: [
            {"share": said_right(**a)},
            {"share": said_right(**a).sum()},
        ],
    }
    cases = []
    for T in rng.permutation([5, 6, 7]):
        # right, with other tokens behind; goes on; last token wrong; first token wrong; too early
        kinds = rng.permutation(np.repeat(np.arange(6), [4, 4, 2, 5, 2, 3]))
        right = rng.integers(2, 30, (len(kinds), T))
        said = right.copy()
        for n, kind in enumerate(kinds):
            length = int(rng.integers(2, T - 1))  # of the answer; then its end
            right[n, length] = said[n, length] = END
            right[n, length + 1 :] = 0
            said[n, length + 1 :] = 0 if kind == 0 else rng.integers(2, 30, T - length - 1)
            place = {2: length, 3: length - 1, 4: 0}.get(kind)
            if place is not None:
                said[n, place] = 31
            if kind == 5:
                said[n, length - 1] = END
        cases.append(Case({"said": said, "right": right, "end": END}, says, slips=slips))
    return cases


def chances(logits, axis=-1):
    """Logarithms of probabilities: a softmax over an axis."""
    less = logits - logits.max(axis, keepdims=True)
    return less - np.log(np.exp(less).sum(axis, keepdims=True))


def of_targets(values, targets):
    """The value of each target, (N, T); those that are ignored have the value of token 0."""
    return np.take_along_axis(values, np.maximum(targets, 0)[..., None], -1)[..., 0]


def likelihood(logits, targets):
    """log P(answer | prompt): the sum over the targets that count."""
    found = of_targets(chances(logits), targets)
    return {"logp": np.where(targets == IGNORED, 0, found).sum(1)}


def likelihood_without_end(logits, targets):
    """The last target that counts is left out."""
    after = (targets[:, ::-1] != IGNORED).cumsum(1)[:, ::-1]  # counted from here to the last
    return likelihood(logits, np.where(after <= 1, IGNORED, targets))


def likelihood_cases(rng):
    """For logp = f(logits, targets): a prompt, an answer of two tokens or more, padding."""

    def summed(values, targets, over=np.sum):
        counts = targets != IGNORED
        found = of_targets(values, targets)
        return {"logp": np.array([over(row[kept]) for row, kept in zip(found, counts)])}

    slips: Slips = {
        "that is a mean over the answer's tokens: the probabilities of the tokens are multiplied, "
        "so their logarithms are added": lambda logits, targets: [
            summed(chances(logits), targets, np.mean),
            {"logp": likelihood(logits, targets)["logp"] / targets.shape[1]},
        ],
        "prompt and padding count, too: where the target is -100, nothing is added": (
            lambda logits, targets: [
                {"logp": of_targets(chances(logits), targets).sum(1)},
                {
                    "logp": likelihood(logits, targets)["logp"]
                    + (chances(logits)[..., -1] * (targets < 0)).sum(1)
                },
            ]
        ),
        "logits are no logarithms of probabilities: the softmax is missing": (
            lambda logits, targets: [summed(logits, targets)]
        ),
        "probabilities were added: multiply them, or add their logarithms": (
            lambda logits, targets: [
                summed(np.exp(chances(logits)), targets),
                {"logp": np.log(summed(np.exp(chances(logits)), targets)["logp"])},
            ]
        ),
        "the softmax runs over the places of a row, or over all: a token competes with the other "
        "tokens of the vocabulary, at its own place": lambda logits, targets: [
            summed(chances(logits, 1), targets),
            summed(chances(logits, 0), targets),
            summed(chances(logits, (1, 2)), targets),
            summed(chances(logits, (0, 1, 2)), targets),
        ],
        "that is the probability: wanted its logarithm": lambda **a: [
            {"logp": np.exp(likelihood(**a)["logp"])}
        ],
        "the last token of each answer, which ends it, was left out": lambda **a: [
            likelihood_without_end(**a)
        ],
        "the targets were shifted again: targets[n, t] belongs to logits[n, t] already": (
            lambda logits, targets: [summed(chances(logits)[:, :-1], targets[:, 1:])]
        ),
        "one value for each token: wanted the sum over the answer's tokens": (
            lambda logits, targets: [
                {"logp": np.where(targets == IGNORED, 0, of_targets(chances(logits), targets))},
                {"logp": of_targets(chances(logits), targets)},
            ]
        ),
        "one number for all rows: wanted one for each row": lambda **a: [
            {"logp": likelihood(**a)["logp"].sum()},
            {"logp": likelihood(**a)["logp"].mean()},
        ],
    }
    cases = []
    for T in rng.permutation([7, 8, 9]):
        N, V = int(rng.integers(3, 7)), int(rng.integers(11, 16))
        targets = rng.integers(0, V, (N, T))
        for row in targets:
            first = int(rng.integers(1, 3))
            row[:first] = IGNORED
            row[first + int(rng.integers(2, 4)) :] = IGNORED
        logits = 2 * rng.standard_normal((N, T, V))
        cases.append(Case({"logits": logits, "targets": targets}, likelihood, slips=slips))
    return cases


def knows(logp, right):
    """The share of questions whose right answer is the likeliest of those that are offered."""
    return {"share": (logp.argmax(1) == right).mean()}


def knows_cases(rng):
    """For share = f(logp, right): the right one has any place."""
    slips: Slips = {
        "the first answer was taken for the right one: it is number right[n]": (
            lambda logp, right: [{"share": (logp.argmax(1) == 0).mean()}]
        ),
        "the least likely was taken: logarithms are below 0, and the largest is the likeliest": (
            lambda logp, right: [
                {"share": (logp.argmin(1) == right).mean()},
                {"share": (np.abs(logp).argmax(1) == right).mean()},
            ]
        ),
        "that is the mean probability of the right answer: wanted how often it is the likeliest": (
            lambda logp, right: [
                {"share": np.exp(chances(logp)[range(len(logp)), right]).mean()},
                {"share": np.exp(logp[range(len(logp)), right]).mean()},
            ]
        ),
        "one value for each question, or their number: wanted the share": lambda logp, right: [
            {"share": logp.argmax(1) == right},
            {"share": (logp.argmax(1) == right).sum()},
        ],
    }
    cases = []
    for N in rng.permutation([11, 13, 17]):
        K = int(rng.integers(3, 6))
        logp = -1 - np.abs(2 * draw(rng, logp=(N, K))["logp"])
        best = logp.argmax(1)
        best[1::3] = (best[1::3] + 1) % K  # the likeliest is wrong in a third
        best[0] = logp[0].argmin()
        order = [best, logp.argmax(1), logp.argmin(1), 0 * best]
        shares = [np.mean(best == other) for other in order[1:]]
        if len({*shares}) < 3:  # the slips are told apart
            best[-1] = logp[-1].argmax()
        cases.append(Case({"logp": logp, "right": best}, knows, slips=slips))
    return cases


def beaten(learnt, kept, by):
    """The points that another beats, (n,).

    by: (a, b, c, d) -> does a point with (a, b) beat one with (c, d)?
    """
    n = len(learnt)
    return np.array(
        [any(by(learnt[j], kept[j], learnt[i], kept[i]) for j in range(n)) for i in range(n)]
    )


def frontier(learnt, kept):
    """Points that no other beats: as good in both, and better in one."""
    lost = beaten(learnt, kept, lambda a, b, c, d: a >= c and b >= d and (a > c or b > d))
    return {"on": (~lost).astype(int)}


def frontier_cases(rng):
    """For on = f(learnt, kept): shares of a hundred words, with equal ones and one point twice."""

    def on(by):
        return lambda learnt, kept: [{"on": (~beaten(learnt, kept, by)).astype(int)}]

    slips: Slips = {
        "a point that is better in one and equal in the other beats, too": on(
            lambda a, b, c, d: a > c and b > d
        ),
        "no point is left: each is as good as itself, and none has to be the best in both": on(
            lambda a, b, c, d: a >= c and b >= d
        ),
        "a point that is there twice is not beaten by its equal": lambda learnt, kept: [
            {
                "on": np.array(
                    [np.sum((learnt >= a) & (kept >= b)) == 1 for a, b in zip(learnt, kept)], int
                )
            }
        ],
        "the largest sum is one point: another may be better in one of the two": (
            lambda learnt, kept: [{"on": (learnt + kept == (learnt + kept).max()).astype(int)}]
        ),
        "the best of each alone: between them lie points that no other beats in both": (
            lambda learnt, kept: [
                {"on": ((learnt == learnt.max()) | (kept == kept.max())).astype(int)}
            ]
        ),
        "the smaller share counts as better: here both are to be large": lambda learnt, kept: [
            {"on": frontier(-learnt, -kept)["on"]},
            {"on": frontier(-learnt, kept)["on"]},
            {"on": frontier(learnt, -kept)["on"]},
        ],
        "these are places: wanted True or False for each point": lambda **a: [
            {"on": np.flatnonzero(frontier(**a)["on"])}
        ],
        "these are in another order: value i is of point i as it came": lambda learnt, kept: [
            {"on": frontier(learnt, kept)["on"][order]}
            for order in (
                np.lexsort((-kept, -learnt)),
                np.lexsort((kept, learnt)),
                np.lexsort((-learnt, -kept)),
                np.lexsort((learnt, kept)),
            )
        ],
        "these are the points that are beaten: wanted the others": lambda **a: [
            {"on": 1 - frontier(**a)["on"]}
        ],
    }
    cases = []
    for n in rng.permutation([9, 10, 12]):
        x = np.sort(rng.choice(np.arange(20, 80), 4, replace=False))[[0, 1, 2, 3, 3, 0]] / 100
        y = np.sort(rng.choice(np.arange(20, 80), 4, replace=False))[[3, 2, 1, 0, 0, 3]] / 100
        x[4], y[5] = x[3], y[0]
        y[4] -= 0.05  # as much learnt, and less kept
        x[5] -= 0.05
        twice = int(rng.integers(0, 4))
        few = rng.integers(5, 20, (2, n - 7)) / 100  # points that all others beat
        learnt, kept = np.r_[x, x[twice], few[0]], np.r_[y, y[twice], few[1]]
        order = rng.permutation(n)
        cases.append(Case({"learnt": learnt[order], "kept": kept[order]}, frontier, slips=slips))
    return cases


EXERCISES = (
    predict(
        "forget_chance",
        "A model knows nothing. Of three answers that are offered it calls one the likeliest. In "
        "what share of the questions is that the right one?",
        (
            "It has no reason to prefer any of the three.",
            "So each is the most likely equally often.",
        ),
        number=lambda: 1 / 3,
        tolerance=0.02,
        because="one in three: what is known begins above it, and not above 0.",
        near={
            0: "that is what it says: it would have to write the answer by itself",
            0.5: "that is chance between two",
            0.25: "that is chance among four: here three answers are offered",
            33: "a share lies between 0 and 1",
        },
    ),
    blank(
        "forget_says",
        "The share of answers that are right as a whole: said (N, T), right (N, T), end -> share",
        (
            "Which places of a row belong to the right answer? Its end is the last of them.",
            "One wrong token makes an answer wrong. Then take the mean over the N answers.",
        ),
        says_cases,
    ),
    blank(
        "forget_likelihood",
        "The logarithm of an answer's probability: logits (N, T, V), targets (N, T) -> logp (N,)",
        (
            "At each place take a softmax over the vocabulary, and its entry for the target.",
            "Probabilities of tokens are multiplied; and their logarithms? What happens at -100?",
        ),
        likelihood_cases,
    ),
    blank(
        "forget_knows",
        "How often the right answer is the likeliest of K: logp (N, K), right (N,) -> share",
        (
            "Which column of a row has the largest number?",
            "Compare that with right, and take the mean.",
        ),
        knows_cases,
    ),
    broken(
        "forget_break",
        "The likelihood without the token that ends an answer: logits, targets -> logp",
        (
            "Start from the right function.",
            "In each row, leave out the last target that counts.",
        ),
        likelihood_cases,
        wanted=likelihood_without_end,
    ),
    blank(
        "forget_frontier",
        "Which points lie on the frontier: learnt (n,), kept (n,) -> on (n,), True or False",
        (
            "When does one point beat another? Both numbers count.",
            "It is at least as good in both, and better in one. No point beats the frontier.",
        ),
        frontier_cases,
        through=as_numbers,
    ),
)
