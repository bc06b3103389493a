"""Batches of ids and targets, made from pairs of text."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..ops.loss import IGNORED
from .encode import Row, encode
from .record_forms import Pair
from .tokenizer import require_tokenizer

Batch = tuple[np.ndarray, np.ndarray]  # ids (N, T), targets (N, T), int64


def batches(
    pairs: Sequence[Pair | Row],
    tokenizer: Any,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    by_length: int = 1,
    *,
    chat: bool | None = None,
    system: str | None = None,
    max_length: int | None = None,
    too_long: Literal["cut", "skip"] = "cut",
) -> list[Batch]:
    """targets[t] = ids[t+1] on the completion and its end, -100 on the prompt and the padding.

    ids, targets (N, T), where T is the longest row. There is no packing: training does not compute
    padding, nor any position that no target depends on, so these cost nothing.
    chat: write each prompt as the user's turn and each completion as the assistant's turn of the
    tokenizer's chat template; system: the text of the system's turn. max_length: the most tokens of
    a row; too_long: cut a longer row, or leave it out. `encode` warns how many these are.
    Each epoch has its own random order. The last batch of an epoch is filled from the next epoch,
    so every batch has batch_size rows, or all pairs if there are fewer.
    by_length: take the rows of this many batches, sort them by length and divide them into batches
    again: this gives less padding. These batches come in random order, and the number of all
    batches is a multiple of by_length. More epochs do not change the first batches.
    Raises ValueError for no pairs, no tokenizer, no chat template, an empty prompt, an end token
    inside a completion, a character without a token, or nothing to learn; TypeError if tokenizer is
    not a tokenizer.
    """
    require_tokenizer("batches", tokenizer)
    if not hasattr(tokenizer, "eos_id"):
        its = "its tokenizer: model.tokenizer" if hasattr(tokenizer, "tokenizer") else "a tokenizer"
        raise TypeError(f"batches: got a {type(tokenizer).__name__}, wanted {its}")
    if not pairs or min(batch_size, epochs, by_length) < 1:
        raise ValueError(
            f"batches: {len(pairs)} pairs, batch_size {batch_size}, epochs {epochs}, by_length "
            f"{by_length}; each from 1"
        )
    how: dict[str, Any] = {"max_length": max_length, "too_long": too_long}
    rows = encode(pairs, tokenizer, chat=chat, system=system, **how)
    rng = np.random.default_rng(seed)
    size = min(batch_size, len(rows))
    sets = -(-epochs * len(rows) // (size * by_length))  # rounded up: every pair in every epoch
    total = sets * by_length * size
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(-(-total // len(rows)))])
    chosen = order[:total].reshape(sets, by_length, size)
    if by_length > 1:
        lengths = np.array([len(ids) for ids, _ in rows])
        # not the generator above: more epochs would change the order of the first batches
        rng = np.random.default_rng((seed, by_length))
        chosen = np.stack([_by_length(each, lengths, rng) for each in chosen])
    return [pad([rows[i] for i in batch], tokenizer.pad_id) for batch in chosen.reshape(-1, size)]


def _by_length(batches, lengths, rng):
    """Sort the rows of K batches (K, size) by length, cut them into K batches, shuffle these."""
    rows = batches.ravel()
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    return rng.permutation(rows.reshape(batches.shape))


def enough_batches(
    steps: int,
    pairs: Sequence[Pair],
    tokenizer: Any,
    batch_size: int,
    seed: int,
    by_length: int = 1,
) -> list[Batch]:
    """`batches` with enough epochs for this number of steps. Raises ValueError as `batches`."""
    epochs = -(-steps * batch_size // max(1, len(pairs)))
    return batches(pairs, tokenizer, batch_size, seed, epochs, by_length, chat=False)


def all_once(pairs: Sequence[Pair], tokenizer: Any, batch_size: int = 64) -> list[Batch]:
    """All pairs, each once, in batches of rows of similar length, to compute a mean loss.

    Raises ValueError as `batches`.
    """
    rows = sorted(encode(pairs, tokenizer, chat=False), key=lambda row: len(row.ids))
    parts = [rows[k : k + batch_size] for k in range(0, len(rows), batch_size)]
    return [batch for part in parts for batch in batches(part, tokenizer, len(part))]


def pad(rows: Sequence[Row], pad_id: int) -> Batch:
    """ids and targets (N, T) of N rows, padded on the right to the longest one."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids, targets = np.full(shape, pad_id, np.int64), np.full(shape, IGNORED, np.int64)
    for n, (row_ids, row_targets) in enumerate(rows):
        ids[n, : len(row_ids)] = row_ids
        targets[n, : len(row_targets)] = row_targets
    return ids, targets


def random_batch(
    vocab_size: int,
    batch_size: int,
    prompts: tuple[int, int],
    answers: tuple[int, int],
    seed: int = 0,
) -> Batch:
    """Random tokens shaped like instruction data: a prompt without targets, then an answer.

    prompts, answers: the smallest and the largest length in tokens; each row draws its own.
    ->  ids, targets (batch_size, T), the same for the same seed.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(batch_size):
        prompt, answer = (int(rng.integers(least, most + 1)) for least, most in (prompts, answers))
        tokens = rng.integers(0, vocab_size, prompt + answer).tolist()
        rows.append(Row(tokens[:-1], [IGNORED] * (prompt - 1) + tokens[prompt:]))
    return pad(rows, 0)
