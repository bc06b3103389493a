"""Ten kinds of nouns: a task for a language model, asked in a sentence and answered in one token.

"A whale is a type of" -> " animal". The table is data/categories/: nouns all of whose senses are of
one category of WordNet's. Held-out nouns can be answered only from what the model has read before.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..support.files import data_folder
from .tasks import Pair, TaskData, of_one_length

NAME, TITLE = "category", "category of a noun"
PROMPT = "A {} is a type of"  # chosen on training words


def load() -> TaskData:
    """All nouns as (prompt, (answer,)), in the order of their md5; validation is empty."""
    table = (data_folder() / "categories" / "category.tsv").read_text(encoding="utf-8")
    pairs: dict[str, list[Pair]] = {"train": [], "test": []}
    for line in table.splitlines()[1:]:
        noun, category, split = line.split("\t")
        pairs[split].append((PROMPT.format(noun), (f" {category}",)))
    return TaskData(pairs["train"], [], pairs["test"])


def exact_match(
    model: Any, pairs: Sequence[Pair], batch_size: int = 64, return_answers: bool = False
) -> Any:
    """The share of prompts whose likeliest next token is the answer; as tasks.exact_match."""
    return _share(model, pairs, batch_size, return_answers)


def best_of_ten(model: Any, pairs: Sequence[Pair], batch_size: int = 64) -> float:
    """The share of prompts whose answer is the likeliest of the answers that occur: what a model
    knows, apart from how it would say it.
    """
    tokenizer = getattr(model, "base", model).tokenizer
    among = np.array(sorted({_token(tokenizer, pair) for pair in pairs}))
    return _share(model, pairs, batch_size, False, among)


def _share(model, pairs, batch_size, return_answers, among=None):
    """Right answers by the likeliest next token, of all or of some."""
    tokenizer = getattr(model, "base", model).tokenizer
    if tokenizer is None:
        raise ValueError("nouns: the model has no tokenizer to read its prompts with")
    prompts = [tokenizer.encode(prompt) for prompt, _ in pairs]
    said = np.zeros(len(pairs), int)
    for places, ids in of_one_length(prompts, batch_size):
        if among is None:
            said[places] = model.generate(ids, 1)[:, -1]
        else:
            said[places] = among[model.logits(ids)[:, -1, among].argmax(axis=1)]
    score = float(np.mean(said == [_token(tokenizer, pair) for pair in pairs]))
    return (score, [tokenizer.decode([i]) for i in said]) if return_answers else score


def _token(tokenizer, pair):
    """The first token of the right answer."""
    return tokenizer.encode(pair[1][0])[0]
