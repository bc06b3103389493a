"""Text generation: the cache of keys and values, and the choice of the next token."""

from collections.abc import Callable

import numpy as np

from .. import ops
from ..engine import Tensor
from ..support.values import whole


class KVCache:
    """The keys and values of all earlier tokens, so that they are computed only once."""

    def __init__(self, config, batch_size: int, capacity: int, dtype):
        shape = (batch_size, capacity, config.num_key_value_heads, config.head_dim)
        self.capacity = capacity
        self.k = [np.empty(shape, dtype) for _ in range(config.num_hidden_layers)]
        self.v = [np.empty(shape, dtype) for _ in range(config.num_hidden_layers)]
        self.length = 0  # number of tokens in each row

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Append k and v (N·T, G, D) to a layer; returns all rows (N·capacity, G, D) of both.

        Sequence n has its keys in the rows from n·capacity on.
        """
        rows = []
        for stored, new in ((self.k[layer], k), (self.v[layer], v)):
            N, capacity, *head = stored.shape
            T = len(new) // N
            stored[:, self.length : self.length + T] = new.reshape(N, T, *head)
            rows.append(stored.reshape(N * capacity, *head))
        return rows[0], rows[1]


def generate(
    model,
    ids,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: int | None = None,
    on_token: Callable[[np.ndarray], None] | None = None,
    how=None,
) -> np.ndarray:
    """Continue each row of ids (N, T) by at most max_new_tokens, with a KV cache  ->  (N, T + new).

    temperature: 0 takes the most probable token; above 0 a token is sampled from the most probable
    ones, whose probabilities sum to top_p. stop: this token ends a row; an ended row repeats it
    until all rows have ended. on_token: called with each new column (N,).
    how: weights and linears, a `Forward`; the model's own where None.
    Raises ValueError if ids or a setting is out of range.
    """
    ids = check_ids(ids, model.config.vocab_size)
    if not (temperature >= 0 and 0 < top_p <= 1):
        raise ValueError(
            f"generate: temperature {temperature}, wanted at least 0; "
            f"top_p {top_p}, wanted in (0, 1]"
        )
    max_new_tokens = whole("generate: max_new_tokens", max_new_tokens)
    rng = np.random.default_rng(whole("generate: seed", seed))
    W = array(model.head(how))
    N, T = ids.shape
    cache = KVCache(model.config, N, T + max_new_tokens, model.dtype)
    ended, new = np.zeros(N, bool), ids
    for _ in range(max_new_tokens):
        h = model.hidden(new, how, cache).data.reshape(N, -1, model.config.hidden_size)
        token = _choose(ops.frozen_linear(h[:, -1], W).data, temperature, top_p, rng)
        if stop is not None:
            token[ended] = stop
            ended |= token == stop
        new = token[:, None]
        ids = np.concatenate([ids, new], axis=1)
        if on_token:
            on_token(token)
        if ended.all():
            break
    return ids


def _choose(logits, temperature, top_p, rng):
    """The next token of each row.   logits (N, V) -> (N,) ints."""
    if temperature == 0:
        return logits.argmax(axis=1)
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")
    p = np.take_along_axis(p, order, axis=1)
    # a token stays if the more probable ones before it sum to less than top_p
    p[np.cumsum(p, axis=1) - p >= top_p] = 0
    total = np.cumsum(p, axis=1)
    place = (total < rng.random((len(p), 1)) * total[:, -1:]).sum(axis=1)
    return order[np.arange(len(p)), place]


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
    """The array of a Tensor; an array as it is."""
    return a.data if isinstance(a, Tensor) else a
