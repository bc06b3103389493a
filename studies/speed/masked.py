"""What is trained: one full batch, or batches with padding and masked prompts.

"words" is the training of `minilora compare`, on its words and with its settings. "instructions" is
SmolLM2 on prompts of 60 to 200 tokens and answers of 5 to 60.
"""

import functools
import statistics
from collections.abc import Callable, Sequence

from minilora.bench import cases
from minilora.bench.steps import BASE
from minilora.formats.models import load_model
from minilora.lab import rates
from minilora.lab.settings import Settings as Comparison
from minilora.llama.rows import last_targets
from minilora.ops.loss import IGNORED
from minilora.text import tasks
from minilora.text.batches import enough_batches, random_batch

PROMPTS, ANSWERS = (60, 200), (5, 60)  # the least and the most tokens of "instructions"
TOY_PROMPTS, TOY_ANSWERS = (3, 10), (1, 4)
BATCHES, BATCH = 10, 4  # of "instructions": batches, and sequences of each


def words(case: cases.Case, by_length: int = 1) -> cases.Training:
    """What `minilora compare` trains, with the rate and the rank that `tune` chose for the method.

    A method without a rate on record gets LoRA's. The rates are for the comparison's targets; a
    case with others gets a quarter.
    """
    s, model = Comparison(), load_model("base")
    chosen = rates.chosen_for(s.task, rates.read())
    row = chosen.get(case.method) or chosen[BASE]
    s = s.changed(targets=case.how.get("targets", s.targets), ranks={case.method: row["rank"]})
    pairs = tasks.select(s.task, s.train_size).train
    batches = enough_batches(s.steps, pairs, model.tokenizer, s.batch_size, 0, by_length)
    names = ("schedule", "warmup", "betas", "weight_decay", "clip")
    lr = row["lr"] * (1 if s.targets == Comparison.targets else 0.25)
    recipe = {"lr": lr, **{name: getattr(s, name) for name in names}}
    return cases.Training(s.attach(model, case.method, 0), batches[: s.steps], recipe)


def words_by_length(case: cases.Case) -> cases.Training:
    """`words` in batches of similar length, as the comparison has them."""
    return words(case, Comparison.by_length)


def instructions(
    case: cases.Case,
    size: str = "smollm2",
    prompts: tuple[int, int] = PROMPTS,
    answers: tuple[int, int] = ANSWERS,
) -> cases.Training:
    """Prompts and answers of random lengths and random tokens, on a model of random weights."""
    of = cases.SIZES[size]
    drawn = (random_batch(of.config.vocab_size, BATCH, prompts, answers, n) for n in range(BATCHES))
    return cases.Training(cases.make(of, case), list(drawn))


def full(case: cases.Case, size: str) -> cases.Training:
    """One batch without padding, on a model of random weights."""
    of = cases.SIZES[size]
    return cases.Training(cases.make(of, case), [cases.batch(of)])


few_tokens = functools.partial(instructions, size="toy", prompts=TOY_PROMPTS, answers=TOY_ANSWERS)
TRAININGS: dict[str, Callable[[cases.Case], cases.Training]] = {
    **{size: functools.partial(full, size=size) for size in cases.SIZES},
    "words": words,
    "words by length": words_by_length,
    "instructions": instructions,
    "few tokens": few_tokens,
}


def rows(batches: Sequence[cases.Batch]) -> dict[str, float]:
    """Means over the batches: all rows, the rows that can matter, the rows with a target."""
    return {
        "all": statistics.fmean(ids.size for ids, _ in batches),
        "matter": statistics.fmean(int(last_targets(t).sum()) for _, t in batches),
        "targets": statistics.fmean(int((t != IGNORED).sum()) for _, t in batches),
    }
