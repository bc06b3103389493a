"""Text generation: the cache of keys and values, and the choice of the next token."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import ops
from ..engine import Tensor
from ..support.files import errors_at
from ..support.machine import allocating
from ..support.values import number, shown, whole
from .rows import Rows, last_rows, next_rows


class KVCache:
    """The keys and values of all earlier tokens, so that they are computed only once.

    The keys of sequence n begin at row n·capacity.
    """

    def __init__(self, config, batch_size: int, capacity: int, dtype):
        shape = (batch_size * capacity, config.num_key_value_heads, config.head_dim)
        self.capacity = capacity
        self.k = [np.empty(shape, dtype) for _ in range(config.num_hidden_layers)]
        self.v = [np.empty(shape, dtype) for _ in range(config.num_hidden_layers)]
        self.lengths = np.zeros(batch_size, int)  # number of tokens of each sequence

    def rows(self, new: np.ndarray, model, of: np.ndarray) -> Rows:
        """The rows of the next tokens.   of (K,): sequences; new (K,): how many tokens of each."""
        begin = self.lengths[of]
        end = begin + new
        return next_rows(begin, end, of * self.capacity, model.rope_tables(0, int(end.max())))

    def extend(self, layer: int, k: Any, v: Any, rows: Rows) -> tuple[Any, Any]:
        """Store k and v (M, G, D) of these rows; returns all rows (N·capacity, G, D) of both."""
        self.k[layer][rows.keys], self.v[layer][rows.keys] = k, v
        return self.k[layer], self.v[layer]

    def advance(self, rows: Rows) -> None:
        """Count these rows as stored, once every layer has stored them."""
        self.lengths[rows.spans[:, 2] // self.capacity] = rows.spans[:, 3] - rows.spans[:, 2]


@allocating("generate: max_new_tokens")
def generate(
    model,
    ids,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: int | str | Sequence[int | str] | None = None,
    on_token: Callable[[np.ndarray], None] | None = None,
    forward=None,
) -> Any:
    """Continue each row of ids by at most max_new_tokens, with a KV cache.

    ids (N, T) -> (N, T + new); a list of N rows of several lengths -> a list of N arrays, each row
    with its new tokens. Nothing is padded, and a row that has ended is no longer computed.
    repetition_penalty: the logits of all tokens so far, prompt included, are divided by it if they
    are above 0, else multiplied by it. temperature: 0 takes the most probable token; above 0 a
    token is sampled from the top_k most probable ones (0: all), and of these from the first ones
    whose probabilities sum to at least top_p. All as in transformers.
    stop: a token or a text that ends a row, or a list of them. An ended row repeats its last token
    (padding if a text ended it) until all rows have ended. on_token: called with each new column
    (N,). forward: a `Forward`; None: the model's own weights.
    Raises ValueError if ids or a setting is out of range, or the logits are not finite.
    """
    prompts = check_prompts(ids, model.config.vocab_size)
    if not (temperature >= 0 and 0 < top_p <= 1):
        raise ValueError(
            f"generate: temperature {temperature}, wanted at least 0; "
            f"top_p {top_p}, wanted in (0, 1]"
        )
    max_new_tokens = whole("generate: max_new_tokens", max_new_tokens)
    top_k = whole("generate: top_k", top_k)
    penalty = number("generate: repetition_penalty", repetition_penalty, above=0)
    ends, texts = _stops(stop, model)
    rng = np.random.default_rng(whole("generate: seed", seed))
    lengths, W = np.array([len(p) for p in prompts]), array(model.head(forward))
    model.check_length(int(lengths.max()) + max(0, max_new_tokens - 1))  # the last one is no input
    cache = KVCache(model.config, len(prompts), lengths.max() + max_new_tokens, model.dtype)
    going, columns = np.arange(len(prompts)), []  # the rows that have not ended; the new tokens
    fill = np.zeros(len(prompts), int)  # of each row: its last token, or what fills it up
    seen = np.zeros((len(prompts), model.config.vocab_size if penalty != 1 else 0), bool)
    new, count = np.concatenate(prompts), lengths
    for _ in range(max_new_tokens):
        every = cache.rows(count, model, going)
        h = model.run(new, (every, last_rows(every)), forward, cache).data
        u = rng.random((len(prompts), 1))[going] if temperature else None
        logits = ops.frozen_linear(h, W).data
        if penalty != 1:
            seen[np.repeat(going, count), new] = True
            again = np.where(logits > 0, logits / penalty, logits * penalty)
            logits = np.where(seen[going], again, logits)
        fill[going] = new = _choose(logits, temperature, top_p, u, top_k)
        columns.append(fill.copy())
        if on_token:
            on_token(columns[-1])
        ended = np.isin(new, ends)
        for i in np.flatnonzero(~ended) if texts else ():
            said = model.tokenizer.decode(column[going[i]] for column in columns)
            if cut(said, texts) != said:
                ended[i], fill[going[i]] = True, model.tokenizer.pad_id
        going, new = going[~ended], new[~ended]
        if not len(going):
            break
        count = np.ones_like(going)
    out = np.array(columns, int).reshape(-1, len(prompts)).T  # (N, new)
    rows = [np.concatenate(pair) for pair in zip(prompts, out)]
    return np.stack(rows) if len(set(lengths)) == 1 else rows


def generate_text(model, prompt: str, max_new_tokens: int = 32, **choices) -> str:
    """The text that a model writes after a prompt, without the prompt and the end token.

    model: a Llama, a Tuned or a Library. choices: keywords of `generate`. The tokenizer's end token
    and what `stop` names end the text; with stop=None nothing does. A stop text is cut off. Raises
    ValueError for an empty prompt or a model without a tokenizer.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("generate_text: the model has no tokenizer")
    ids = tokenizer.encode(prompt)
    if not ids:
        raise ValueError(f"generate_text: prompt is {prompt!r}, wanted some text")
    given = choices.pop("stop", [])
    stop = [] if given is None else [tokenizer.eos_id, *_listed(given)]
    new = model.generate([ids], max_new_tokens, stop=stop, **choices)[0][len(ids) :]
    said = [*itertools.takewhile(lambda token: token not in stop, map(int, new))]
    text = decode_more(tokenizer, ids, said)
    return cut(text, [text for text in stop if isinstance(text, str)])


def decode_more(tokenizer: Any, ids: list[int], new: list[int]) -> str:
    """The text of new tokens after ids; keeps the space that some tokenizers drop at a start."""
    return tokenizer.decode([*ids, *new])[len(tokenizer.decode(ids)) :]


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of these stops."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=None)]


def _listed(stop):
    return [*stop] if isinstance(stop, list | tuple) else [] if stop is None else [stop]


def _stops(stop, model):
    """The tokens and the texts that end a row; raises ValueError for anything else.

    A text that encodes to one special token counts as the token: decoded text does not show it.
    """
    ids, texts, V = [], [], model.config.vocab_size
    for item in _listed(stop):
        is_id = isinstance(item, int | np.integer) and not isinstance(item, bool)
        if is_id and 0 <= item < V:
            ids.append(int(item))
            continue
        if not (isinstance(item, str) and item):
            wanted = f"a token's id from 0 to {V - 1}, or some text"
            raise ValueError(f"generate: stop is {shown(item)}, wanted {wanted}")
        if model.tokenizer is None:
            raise ValueError(f"generate: stop is {shown(item)}, but the model has no tokenizer")
        with errors_at(f"generate: stop is {shown(item)}", "tokenizer: "):
            own = getattr(model.tokenizer, "encode_more", model.tokenizer.encode)(item)
        said = model.tokenizer.decode(own)
        if said == item:
            texts.append(item)
        elif not said and len(own) == 1:
            ids += own
        else:
            raise ValueError(f"generate: stop is {shown(item)}, which no decoded text has in it")
    return ids, texts


def _choose(logits, temperature, top_p, u=None, top_k=0):
    """The next token of each row.   logits (N, V), u (N, 1) random in [0, 1) -> (N,) ints."""
    best = logits.argmax(axis=1)  # a NaN's position, if there is one
    if not np.isfinite(logits[np.arange(len(best)), best]).all():
        raise ValueError("generate: the logits are not finite: a weight of the model is too large")
    if temperature == 0:
        return best
    z = logits.astype(np.float64) / temperature
    if 0 < top_k < z.shape[1]:
        z[z < np.partition(z, -top_k, axis=1)[:, -top_k, None]] = -np.inf
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")
    p = np.take_along_axis(p, order, axis=1)
    # a token stays if the more probable ones before it sum to less than top_p
    p[np.cumsum(p, axis=1) - p >= top_p] = 0
    total = np.cumsum(p, axis=1)
    place = (total < u * total[:, -1:]).sum(axis=1)
    return order[np.arange(len(p)), place]


def check_prompts(ids, vocab_size: int) -> list[np.ndarray]:
    """The rows of ids (N, T), or of a list of rows of several lengths; raises as `check_ids`."""
    if isinstance(ids, list | tuple) and len({np.size(row) for row in ids}) > 1:
        return [check_ids(np.asarray(row)[None], vocab_size)[0] for row in ids]
    return list(check_ids(ids, vocab_size))


def check_ids(ids, vocab_size: int) -> np.ndarray:
    """ids as an (N, T) array of ints; raises ValueError if one is outside the vocabulary."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"ids: got shape {ids.shape} of {ids.dtype}, wanted (N, T) whole numbers, not empty"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"ids: {ids.min()} … {ids.max()}, the vocabulary has 0 … {vocab_size - 1}")
    return ids


def array(a: Tensor | np.ndarray) -> np.ndarray:
    """The array of a Tensor, of any shape; an array as it is."""
    return a.data if isinstance(a, Tensor) else a
