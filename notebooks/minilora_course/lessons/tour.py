"""Notebook 00, the tour: what is trained, and the step by which it moves."""

from minilora.methods.lora import count

from ..slips import Case
from .exercise import blank, broken, draw, number, old_and_step, predict, rows, widths


def step(w, dw, lr):
    """w' = w - lr dw."""
    return {"w'": w - lr * dw}


def without_rate(w, dw, lr):
    """The learning rate forgotten."""
    return {"w'": w - dw}


def step_cases(rng):
    """For w' = f(w, dw, lr)."""
    shapes = tuple(widths(rng, 2)), (rows(rng),), (3, 2, 4)
    args = [{**draw(rng, w=n, dw=n), "lr": number(rng, 0.05, 0.5)} for n in shapes]
    slips = {"the learning rate is missing": lambda w, dw, lr: [without_rate(w, dw, lr)]}
    return [Case(a, step, slips=slips, **old_and_step("w'")) for a in args]


def exact(pairs, answers):
    """The share of answers that are one of the right forms.   pairs: (prompt, forms)."""
    return {"share": _share(pairs, answers, lambda forms, answer: answer in forms)}


def _share(pairs, answers, agrees):
    found = [agrees(forms, answer) for (_, forms), answer in zip(pairs, answers)]
    return sum(found) / len(found)


EXACT = {
    "a verb may have two right forms: each of them counts": lambda pairs, answers: [
        {"share": _share(pairs, answers, lambda forms, answer: answer == forms[0])},
        {"share": _share(pairs, answers, lambda forms, answer: answer == forms[-1])},
    ],
    "a part of a right word is wrong, and so is a right word with more letters after it": (
        lambda pairs, answers: [
            {"share": _share(pairs, answers, agrees)}
            for agrees in (
                lambda forms, answer: any(answer in form for form in forms),
                lambda forms, answer: any(form in answer for form in forms),
                lambda forms, answer: answer in forms[0],
                lambda forms, answer: forms[0] in answer,
            )
        ]
    ),
    "a share is from 0 to 1: divide by the number of verbs": lambda pairs, answers: [
        {"share": exact(pairs, answers)["share"] * factor} for factor in (len(pairs), 100)
    ],
}
VERBS = [
    line.split()
    for line in (
        "dream dreamed dreamt",
        "walk walked",
        "spill spilled spilt",
        "toll tolled",
        "learn learned learnt",
        "infer inferred",
    )
]


def exact_cases(rng):
    """For share = f(pairs, answers): some say the other form, a part of it, or more than it."""
    cases = []
    for more in widths(rng, 2):
        verbs = [VERBS[i] for i in (0, 1, 2, 4, *rng.integers(len(VERBS), size=more))]
        pairs = [(f"D{verb}>", forms) for verb, *forms in verbs]
        said = [forms[-1] for _, forms in pairs]
        said[1], said[2], said[3] = said[1][:-1], said[2] + "ed", pairs[3][1][0]
        for i in range(4, len(said)):
            said[i] = pairs[i][1][0] if rng.random() < 0.5 else verbs[i][0]
        cases.append(Case({"pairs": pairs, "answers": said}, exact, slips=EXACT))
    return cases


EXERCISES = (
    predict(
        "tour_count",
        "Two weights of 128 x 128 and 64 x 128 get LoRA of rank 4: how many numbers are trained?",
        (
            "Each weight (O, I) gets two thin matrices.",
            "One is r x I, the other O x r: r (I + O) numbers.",
        ),
        number=lambda: count(128, 128, 4) + count(128, 64, 4),
        because="r (I + O) for each weight; the two weights themselves have 24,576 numbers.",
        near={
            128 * 128 + 64 * 128: "that is full fine-tuning: all numbers of the two weights",
            128 + 128 + 64 + 128: "the rank is missing: r (I + O) for each weight",
            4 * (128 + 64): "that is LoRA-FA's count: one thin matrix for each weight",
        },
    ),
    blank(
        "tour_exact",
        "Exact match: pairs (prompt, right forms), answers -> a share",
        (
            "An answer is right if it is one of the forms, as a whole word.",
            "Count the right answers, and divide by the number of verbs.",
        ),
        exact_cases,
    ),
    blank(
        "tour_step",
        "One step of gradient descent: w, dw, lr -> w'",
        (
            "dw is the direction in which the loss grows.",
            "The loss must fall: go against dw, by a small step.",
        ),
        step_cases,
    ),
    broken(
        "tour_break",
        "Forget the learning rate: w, dw, lr -> w'",
        (
            "Start from the right step.",
            "Without a learning rate the step is the whole gradient.",
        ),
        step_cases,
        wanted=without_rate,
    ),
)
