"""Notebook 12, rank and targets: ranks at a budget, a rate from a grid, α and the rates."""

import math
from dataclasses import replace

import numpy as np

from ..calls import WrongForm
from ..slips import Case, Slips
from .exercise import blank, broken, draw, number, predict, rank, rows, widths


def of_budget(shapes, budget):
    """The whole rank whose count is nearest to a budget, from 1 to the smallest side."""
    return {"rank": _whole(budget / shapes.sum(), shapes)}


def _whole(ratio, shapes):
    """The nearest whole rank that is of use."""
    return int(min(max(1, round(ratio)), shapes.min()))


def budget_cases(rng):
    """For rank = f(shapes, budget)."""

    def per(numbers, shapes, budget):
        """Ranks by another count of the numbers of one rank."""
        return [{"rank": _whole(budget / n, shapes)} for n in numbers]

    slips: Slips = {
        "there is no rank 0: it is at least 1": lambda shapes, budget: [
            {"rank": min(round(budget / shapes.sum()), int(shapes.min()))}
        ],
        "A has r · I numbers and B has O · r: add I and O, no product": lambda shapes, budget: (
            per([shapes.prod(1).sum()], shapes, budget)
            + [{"rank": round(budget / shapes.prod(1).sum())}]
        ),
        "both A and B train: one of them is not counted": lambda shapes, budget: per(
            shapes.sum(0), shapes, budget
        ),
        "the budget is for all linears together": lambda shapes, budget: per(
            [*shapes.sum(1), shapes.sum(1).mean()], shapes, budget
        ),
        "the nearest rank may be below or above": lambda shapes, budget: [
            {"rank": min(f(budget / shapes.sum()), int(shapes.min()))}
            for f in (math.floor, math.ceil)
        ],
        "the linears are not equally large: add I + O of each": lambda shapes, budget: per(
            [len(shapes) * shapes[0].sum()], shapes, budget
        ),
        "a rank above the smallest side of a linear is of no use": lambda shapes, budget: (
            [{"rank": f(budget / shapes.sum())} for f in (round, math.floor, math.ceil)]
            + [{"rank": max(1, round(budget / shapes.sum()))}]
        ),
        "the cap is the smallest side of all linears, of inputs and outputs": (
            lambda shapes, budget: [
                {"rank": int(min(max(1, round(budget / shapes.sum())), cap))}
                for cap in (*shapes.min(0), *shapes.max(0), *shapes.min(1), shapes.max())
            ]
        ),
        "a rank is a whole number": lambda shapes, budget: [
            {"rank": min(max(1, budget / shapes.sum()), int(shapes.min()))}
        ],
    }
    cases: list[Case] = []
    for share, low in ((0.3, 4), (0.7, 5), (0.2, 120), (0.2, 120), (0.4, 0)):
        shapes = 4 * np.stack([widths(rng, 4), rng.permutation([6, 8, 10, 12])], axis=1)
        shapes = shapes[: int(rng.choice([3, 4]))]
        # the first linear is large; the smallest side is one of the second: an output, or an input
        shapes += 4
        shapes[0] *= 2
        shapes[1, len(cases) % 2] = shapes.min() - 4
        budget = int((low + share) * shapes.sum())
        cases.append(Case({"shapes": shapes, "budget": budget}, of_budget, slips=slips))
    return cases


def choose(scores):
    """The place of the rate with the highest mean over the seeds; is it at an end?"""
    return _place(scores.mean(1))


def _place(values):
    """Where the highest is, and whether it is the first or the last."""
    best = int(np.argmax(values))
    return {"best": best, "at an end": float(best in (0, len(values) - 1))}


def with_place(function):
    """A choice whose second value is a truth value, as a number."""

    def run(scores):
        made = function(scores)
        if not isinstance(made, tuple | list) or len(made) != 2:
            return made
        place, end = made
        return place, end if np.ndim(end) or not isinstance(end, bool | np.bool) else float(end)

    return run


def choose_cases(rng):
    """For best, at an end = f(scores): the best is first, last and between."""
    slips: Slips = {
        "the mean goes over the seeds, for each rate": lambda scores: [_place(scores.mean(0))],
        "the best of single runs is luck: compare the means over the seeds": lambda scores: [
            _place(scores.max(1)),
            {"best": int(scores.argmax())},
        ],
        "wanted the highest mean: not the median, the worst run or the number of seeds won": (
            lambda scores: [
                _place(np.median(scores, 1)),
                _place(scores.min(1)),
                _place(scores.mean(1) - scores.std(1)),
                _place(np.bincount(scores.argmax(0), minlength=len(scores))),
            ]
        ),
        "a score is better where it is higher": lambda scores: [_place(-scores.mean(1))],
        "a grid has two ends": lambda scores: [
            {"at an end": float(place == end)}
            for place in [int(scores.mean(1).argmax())]
            for end in (0, len(scores) - 1)
        ],
        "0 is the first place: the last one has the number of rates less 1": lambda scores: [
            {"best": choose(scores)["best"] + 1}
        ],
    }
    cases, (count, seeds) = [], sorted(widths(rng, 2))
    few = -(-seeds // 3)
    for place in (0, count - 1, int(rng.integers(1, count - 1))):
        scores = 0.5 + 0.05 * rng.random((count, seeds))
        luck, often, low = rng.permutation(np.delete(np.arange(count), place))[:3]
        scores[place] -= 0.06  # most of its runs, and its worst, are below the others'
        scores[place, :few] += 0.45
        scores[often, few:] += 0.06  # the best of most seeds, and by its median
        scores[low] -= 0.1
        scores[luck, :2] = [0.99, 0.05]  # the best run of all, and the worst
        cases.append(Case({"scores": scores}, choose, slips=slips))
    return cases


def twin(c, A, B, rate_A, rate_B):
    """What trains alike under Adam where s is c times as large: B and its rate over c."""
    return A, B / c, rate_A, rate_B / c


WHEN = {"ΔW at the start": 0, "ΔW after a step": 1, "ΔW after five steps": 5}


def trained(x, t, s, A, B, rate_A, rate_B):
    """ΔW = s B A at the start and after steps of Adam on ½ |x ΔWᵀ - t|², with ε = 0."""
    arrays, rates = [np.float64(A), np.float64(B)], (rate_A, rate_B)
    moments = [(np.zeros_like(a), np.zeros_like(a)) for a in arrays]
    seen = [s * arrays[1] @ arrays[0]]
    for step in range(1, 6):
        A, B = arrays
        dW = (s * x @ A.T @ B.T - t).T @ x
        for i, grad in enumerate((s * B.T @ dW, s * dW @ A.T)):
            m, v = moments[i]
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            moments[i] = m, v
            size = np.sqrt(v / (1 - 0.999**step))
            moved = np.divide(m / (1 - 0.9**step), size, np.zeros_like(m), where=size > 0)
            arrays[i] = arrays[i] - rates[i] * moved
        seen.append(s * arrays[1] @ arrays[0])
    return {name: seen[step] for name, step in WHEN.items()}


def as_before(x, t, s, c, A, B, rate_A, rate_B):
    """The training that has to be matched."""
    return trained(x, t, s, A, B, rate_A, rate_B)


def with_twin(function):
    """The training with c s and the values that a function returns for A, B and their rates."""

    def run(x, t, s, c, A, B, rate_A, rate_B):
        made = function(c, A, B, rate_A, rate_B)
        if not isinstance(made, tuple | list) or len(made) != 4:
            raise WrongForm("wanted four values: A, B, rate_A, rate_B, as they are with c s")
        if np.shape(made[0]) != A.shape or np.shape(made[1]) != B.shape:
            shapes = f"{np.shape(made[0])} and {np.shape(made[1])}"
            raise WrongForm(f"A and B have the shapes {shapes}, wanted {A.shape} and {B.shape}")
        if any(np.ndim(rate) or not np.isreal(rate) for rate in made[2:]):
            raise WrongForm("the last two of the four values are rates: a number each")
        return tuple(trained(x, t, c * s, *made).values())

    return run


def _twins(*makers):
    """The outputs of other functions instead of `twin`."""
    return lambda **a: [dict(zip(WHEN, with_twin(make)(**a))) for make in makers]


def same_rate_for_both(c, A, B, rate_A, rate_B):
    """The rule of thumb: α times c, both rates over c."""
    return A, B, rate_A / c, rate_B / c


def twin_cases(rng):
    """For A, B, rate_A, rate_B = f(c, A, B, rate_A, rate_B): one case begins at B = 0."""
    slips: Slips = {
        "both rates are divided by c: then A, as large as before, moves too little": _twins(
            same_rate_for_both, lambda c, A, B, p, q: (A, B / c, p / c, q / c)
        ),
        "nothing makes up for c: s B A moves c times as far": _twins(
            lambda c, A, B, p, q: (A, B, p, q)
        ),
        "an array that is c times smaller needs steps that are c times smaller: its rate; one that "
        "did not change keeps its rate": _twins(
            # and what trains as these do: A, B / c, p c, q / c and A / c, B, p / c, q c
            lambda c, A, B, p, q: (A, B / c, p, q),
            lambda c, A, B, p, q: (A / c, B, p, q),
        ),
        "steps that are c times smaller belong to an array that starts c times smaller": _twins(
            lambda c, A, B, p, q: (A, B, p, q / c), lambda c, A, B, p, q: (A, B, p / c, q)
        ),
        "c² is gradient descent's: Adam's steps do not grow with the gradient": _twins(
            lambda c, A, B, p, q: (A, B / c, p, q / c**2),
            lambda c, A, B, p, q: (A / c, B, p / c**2, q),
            lambda c, A, B, p, q: (A / c**0.5, B / c**0.5, p / c, q / c),
        ),
        "c is taken away twice: the two factors on A and B multiply to 1 / c": _twins(
            lambda c, A, B, p, q: (A / c, B / c, p / c, q / c)
        ),
        "times c, where it is a division: s is c times as large already": _twins(
            lambda c, A, B, p, q: (A, B * c, p, q * c), lambda c, A, B, p, q: (A * c, B, p * c, q)
        ),
    }
    cases = []
    for start in (1.0, 0.0):
        M, (I, O), r = rows(rng), widths(rng, 2), rank(rng)
        a = draw(rng, x=(M, I), t=(M, O), A=(r, I), B=(O, r))
        s, c = float(rng.choice([0.5, 2.0])), float(rng.choice([3.0, 5.0, 8.0]))
        args = {"x": a["x"], "t": a["t"], "s": s, "c": c, "A": a["A"], "B": start * a["B"]}
        args |= {"rate_A": number(rng, 0.05, 0.1), "rate_B": number(rng, 0.02, 0.04)}
        cases.append(Case(args, as_before, slips=slips))
    return cases


def break_cases(rng):
    """The same cases, with the slips that differ from the rule of thumb."""
    slips: Slips = {
        "B stays as it is": _twins(lambda c, A, B, p, q: (A, B / c, p / c, q / c)),
        "both rates are divided": _twins(
            lambda c, A, B, p, q: (A, B, p / c, q), lambda c, A, B, p, q: (A, B, p, q / c)
        ),
    }
    return [replace(case, slips={**slips, **case.slips}) for case in twin_cases(rng)]


EXERCISES = (
    predict(
        "rank_budget",
        "LoRA of rank 10 on q and v of this base trains 17,920 numbers. Which rank on all linears "
        "comes nearest to that?",
        (
            "One rank costs I + O in each linear. Add them over the seven linears of a layer.",
            "One rank on q and v costs 1,792 numbers in four layers; how many on all linears?",
        ),
        number=lambda: 2,
        because="One rank on all 28 linears is 9,152 numbers: 18,304 at rank 2.",
        near={
            10: "an equal rank: with all linears that is five times as many numbers",
            3: "28 linears are 3.5 times as many, but not equally large; 27,456 numbers",
            1: "that is 9,152 numbers, about half",
            10 * 2 / 7: "the linears are not equally large: count I + O of each",
        },
    ),
    blank(
        "rank_of_budget",
        "The rank that a budget pays: shapes (n, 2) of n linears, budget -> rank",
        (
            "How many numbers does rank 1 cost, over all linears?",
            "Round to the nearest; at least 1, and at most the smallest side of all.",
        ),
        budget_cases,
    ),
    blank(
        "rank_choose",
        "The best rate of a grid: scores (rates, seeds) -> its place, is it the first or last?",
        (
            "One number for each rate: over which axis is the mean?",
            "If the best rate is at an end of the grid, a better one may lie outside.",
        ),
        choose_cases,
        through=with_place,
    ),
    blank(
        "rank_twin",
        "With c s in the place of s, what trains alike under Adam: c, A, B, rate_A, rate_B -> A, "
        "B, rate_A, rate_B",
        (
            "s B A must stay the same, at the start and after each step.",
            "Adam moves each number by about its rate, however large the gradient is.",
        ),
        twin_cases,
        through=with_twin,
        package=twin,
    ),
    broken(
        "rank_break",
        "The rule of thumb: α times c, both rates divided by c, A and B as they are",
        (
            "Two of the four values change.",
            "A and B stay; each rate is divided by c.",
        ),
        break_cases,
        through=with_twin,
        wanted=lambda x, t, s, c, A, B, rate_A, rate_B: dict(
            zip(WHEN, with_twin(same_rate_for_both)(x, t, s, c, A, B, rate_A, rate_B))
        ),
    ),
)
