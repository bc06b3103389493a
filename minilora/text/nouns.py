"""Ten categories of nouns: a prompt is a sentence, its answer one token.

"A whale is a type of" -> " animal". The table in data/categories/ has nouns whose senses in WordNet
all belong to one category. A model can answer the test nouns only from its pretraining.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .record_forms import Pair
from .score import of_one_length
from .tasks import TaskData, read_table
from .tokenizer import encode_more, require_tokenizer

NAME, TITLE = "category", "category of a noun"
PROMPT = "A {} is a type of"  # chosen on training nouns


def load() -> TaskData:
    """All nouns as (prompt, (answer,)), in the order of their md5; validation is empty."""
    return read_table(
        "categories/category.tsv", lambda noun, answer: (PROMPT.format(noun), (f" {answer}",))
    )


def exact_match(
    model: Any, pairs: Sequence[Pair], batch_size: int = 64, return_answers: bool = False
) -> Any:
    """The share of prompts whose most probable next token is the answer's.

    Returns a float; with return_answers: (float, answers in the order of `pairs`). Raises
    ValueError for a model without a tokenizer.
    """
    tokenizer, prompts, right = _encoded(model, pairs)
    parts = [prompts[k : k + batch_size] for k in range(0, len(prompts), batch_size)]
    answers = np.array([row[-1] for part in parts for row in model.generate(part, 1)])
    score = float(np.mean(answers == right))
    return (score, [tokenizer.decode([i]) for i in answers]) if return_answers else score


def best_of_ten(model: Any, pairs: Sequence[Pair]) -> float:
    """The share of prompts whose right answer is the most probable among all answers of `pairs`.

    This measures what a model knows, even if it would say it in other words. Raises ValueError for
    a model without a tokenizer.
    """
    _, prompts, right = _encoded(model, pairs)
    allowed, hits = np.unique(right), 0
    for places, ids in of_one_length(prompts, 64):
        best = allowed[model.logits(ids)[:, -1, allowed].argmax(axis=1)]
        hits += int((best == right[places]).sum())
    return hits / len(pairs)


def _encoded(model, pairs):
    """The tokenizer, the prompts' ids, and the first token of each right answer (N,)."""
    tokenizer = require_tokenizer("nouns", getattr(model, "base", model).tokenizer)
    prompts = [tokenizer.encode(prompt) for prompt, _ in pairs]
    return tokenizer, prompts, np.array([encode_more(tokenizer, right[0])[0] for _, right in pairs])
