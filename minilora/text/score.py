"""The exact-match score: the share of prompts that a model answers correctly."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..llama.generation import decode_more
from ..support.files import errors_at
from ..support.values import named
from .encode import as_chats, question
from .record_forms import Pair
from .tokenizer import encode_more, require_tokenizer


def exact_match(
    model: Any,
    pairs: Sequence[Pair],
    batch_size: int = 512,
    return_answers: bool = False,
    *,
    chat: bool = False,
    system: str | None = None,
) -> Any:
    """The share of prompts whose greedy answer, up to the end token, is a right completion.

    model: has .tokenizer or .base.tokenizer, and .generate(ids, max_new_tokens, stop=id), which
    takes a list of prompts of several lengths. chat, system: as in `batches`.
    Returns a float; with return_answers: (float, answers in the order of `pairs`). An answer longer
    than the longest right completion is wrong.
    Raises ValueError for an empty list of pairs or a model without a tokenizer; TypeError if model
    is not a model.
    """
    if not hasattr(model, "generate") and not hasattr(model, "tokenizer"):
        raise TypeError(
            f"exact_match: got {named(model)}, wanted a model: load_model gives one, by its name"
        )
    if not pairs:
        raise ValueError("exact_match: no pairs")
    base = getattr(model, "base", model)
    tokenizer = require_tokenizer("exact_match", getattr(base, "tokenizer", None))
    words = []
    for pair in as_chats(pairs, tokenizer, chat, system):
        with errors_at(f"exact_match: {pair!r:.120}"):
            words.append(question(pair, tokenizer))
    prompts = [tokenizer.encode(prompt) for prompt, _ in words]
    right = [texts for _, texts in words]
    longest = max(len(encode_more(tokenizer, text)) for texts in right for text in texts)

    answers: list[str] = []
    hits = 0
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        out = model.generate(some, longest + 1, stop=tokenizer.eos_id)
        for prompt, texts, row in zip(some, right[start:], out):
            new = list(map(int, row[len(prompt) :]))
            ended = tokenizer.eos_id in new
            new = new[: new.index(tokenizer.eos_id)] if ended else new
            answers.append(decode_more(tokenizer, prompt, new))
            hits += ended and answers[-1] in texts
    score = hits / len(pairs)
    return (score, answers) if return_answers else score


def of_one_length(
    prompts: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Batches of prompts of equal length, without padding: indices in `prompts`, ids (N, T)."""
    by_length = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    for places in by_length.values():
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            yield chosen, np.array([prompts[place] for place in chosen], np.int64)
