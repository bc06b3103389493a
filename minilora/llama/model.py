"""A Llama: a flat dict of arrays under the checkpoint's own names, and one forward pass over them.

Training and generation use the same pass. A `Forward` holds its weights, and for each linear that a
technique adapts the function that computes it. The pass computes only the rows that it is asked
for: see rows.py.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..engine import Tensor, scope
from ..ops.loss import IGNORED
from ..support import show
from ..support.meta import Meta, dense, form_of
from ..support.names import hinting
from ..support.plots import human
from ..support.values import is_finite, shown, whole
from . import generation, rotation
from .architectures import ARCHITECTURES, Architecture
from .rotation import Llama3Scaling
from .rows import Rows, all_rows, needed_rows

Adapted = Callable[[Tensor, Rows], Tensor]  # x (M, I), the rows that x has -> y (M, O)

QKV = "q_proj", "k_proj", "v_proj"
MLP = "gate_proj", "up_proj", "down_proj"
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True)
class Forward:
    """The weights and the adapted linears of one forward pass."""

    weights: Mapping[str, Any]  # name -> array, or leaf of the tape
    adapted: Mapping[str, Adapted] = dataclasses.field(default_factory=dict)  # by linear
    recompute: bool = False  # keep only each layer's input, and run the layer again in backward?

    def linear(self, name: str, x: Tensor, rows: Rows) -> Tensor:
        """Run this linear, adapted or not.   x (M, I), rows: the rows that x has -> (M, O)."""
        run, W = self.adapted.get(name), self.weights[f"{name}.weight"]
        op = ops.linear if isinstance(W, Tensor) else ops.frozen_linear
        if run is None and x.node is None and op is ops.frozen_linear:
            return op(x, W)  # nothing goes on the tape, so no scope is needed: decoding is fast
        with scope(name.rsplit(".", 1)[-1]):
            return run(x, rows) if run else op(x, W)

    def feed_forward(self, name: str, h: Tensor, rows: Rows) -> Tensor:
        """A layer's "…mlp": one op where its three linears are frozen.   h (M, C) -> (M, C)."""
        gate, up, down = parts = [f"{name}.{part}" for part in MLP]
        Ws = [self.weights[f"{part}.weight"] for part in parts]
        trains = any(isinstance(W, Tensor) for W in Ws)
        if trains or not self.adapted.keys().isdisjoint(parts):
            h = ops.swiglu(self.linear(gate, h, rows), self.linear(up, h, rows))
            return self.linear(down, h, rows)
        return ops.frozen_feed_forward(h, *Ws)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama or a similar model, under the names of Hugging Face's config.json."""

    vocab_size: int  # V, tokens
    hidden_size: int  # C, width of the residual stream
    intermediate_size: int  # F, width of the feed-forward
    num_hidden_layers: int  # L
    num_attention_heads: int  # H, query heads
    num_key_value_heads: int  # G, key and value heads; H is a multiple of it
    head_dim: int = 0  # D, even; 0: C / H
    rms_norm_eps: float = 1e-5  # added to the mean square
    rope_theta: float = 10000.0  # base of the rotation's wavelengths
    max_position_embeddings: int = 2048  # the longest T that the model was made for, tokens
    tie_word_embeddings: bool = False  # is the head the embedding?
    rope_scaling: Llama3Scaling | None = None  # stretches the long wavelengths
    model_type: str = "llama"  # the architecture: a name in ARCHITECTURES
    no_rope_layers: tuple[int, ...] = ()  # SmolLM3: 0 for a layer that does not rotate q and k
    no_rope_layer_interval: int = 4  # SmolLM3, without that list: every fourth layer does not
    sliding_window: int | None = None  # attention window, tokens: no row may be longer

    def __post_init__(self):
        if self.model_type not in ARCHITECTURES:
            wanted = f"wanted one of {', '.join(ARCHITECTURES)}"
            raise ValueError(f"config: model_type is {self.model_type!r:.80}, {wanted}")
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "head_dim" else 1
            if field.type is int:
                whole(f"config: {field.name}", value, least)
            if field.type is float and not (is_finite(value) and value > 0):
                raise ValueError(f"config: {field.name} is {shown(value)}, wanted a number above 0")
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"config: hidden_size {self.hidden_size} is not a multiple of "
                    f"{self.num_attention_heads} heads"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"config: {self.num_attention_heads} query heads are not a multiple of "
                f"{self.num_key_value_heads} key heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"config: head_dim is {self.head_dim}, RoPE wants an even number")
        self._check_own()

    def _check_own(self):
        """Raises ValueError for a field out of range, or one that the model_type does not have."""
        for name in ("no_rope_layers", "sliding_window"):
            if (value := getattr(self, name)) and name not in self.architecture.own:
                lacks = f"which {self.model_type} does not have"
                raise ValueError(f"config: {name} is {value!r:.80}, {lacks}")
        listed, layers = len(self.no_rope_layers), self.num_hidden_layers
        if listed not in (0, layers):
            raise ValueError(f"config: no_rope_layers has {listed} entries for {layers} layers")
        if self.sliding_window is not None:
            whole("config: sliding_window", self.sliding_window, 1)

    @property
    def architecture(self) -> Architecture:
        """What the model_type stands for."""
        return ARCHITECTURES[self.model_type]

    def rotates(self, layer: int) -> bool:
        """Does this layer rotate q and k?"""
        if self.no_rope_layers:
            return bool(self.no_rope_layers[layer])
        interval = self.no_rope_layer_interval
        return "no_rope_layers" not in self.architecture.own or (layer + 1) % interval != 0

    def linears(self) -> dict[str, tuple[int, int]]:
        """Name -> (O, I) of every linear of the layers, in the order of the forward pass."""
        C, F, D = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_attention_heads * D, self.num_key_value_heads * D
        layer = {
            "self_attn.q_proj": (q, C),
            "self_attn.k_proj": (kv, C),
            "self_attn.v_proj": (kv, C),
            "self_attn.o_proj": (C, q),
            "mlp.gate_proj": (F, C),
            "mlp.up_proj": (F, C),
            "mlp.down_proj": (C, F),
        }
        return {
            f"model.layers.{i}.{name}": shape
            for i in range(self.num_hidden_layers)
            for name, shape in layer.items()
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every array of a checkpoint."""
        C = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {EMBED: (self.vocab_size, C)}
        for name, shape in self.linears().items():
            shapes[f"{name}.weight"] = shape
            if self.architecture.qkv_bias and name.endswith(QKV):
                shapes[f"{name}.bias"] = shape[:1]
        for i in range(self.num_hidden_layers):
            if self.architecture.qk_norm:
                shapes[f"model.layers.{i}.self_attn.q_norm.weight"] = (self.head_dim,)
                shapes[f"model.layers.{i}.self_attn.k_norm.weight"] = (self.head_dim,)
            shapes[f"model.layers.{i}.input_layernorm.weight"] = (C,)
            shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (C,)
        shapes[NORM] = (C,)
        if not self.tie_word_embeddings:
            shapes[HEAD] = (self.vocab_size, C)
        return shapes


class Llama:
    """config, params (name -> array; do not write into them) and, if there is one, a tokenizer."""

    def __init__(self, config: ModelConfig, params: dict[str, np.ndarray], tokenizer: Any = None):
        check_params(config, params)
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self._tables = self._angles(0)  # grow when longer ones are needed

    @property
    def dtype(self) -> np.dtype:
        return self.params[EMBED].dtype

    def astype(self, dtype) -> "Llama":
        """The same model in another precision (a copy)."""
        return Llama(
            self.config, {k: dense(v).astype(dtype) for k, v in self.params.items()}, self.tokenizer
        )

    def rope_tables(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin (end - start, D/2) of the positions start … end - 1.

        Warns if end exceeds the length that the model was made for; raises ValueError if it
        exceeds the attention window.
        """
        real = not isinstance(self.params[EMBED], Meta)  # not a shape-only model
        if real:
            self.check_length(end)
        if real and end > self.config.max_position_embeddings:
            warnings.warn(
                f"more than the {self.config.max_position_embeddings} tokens a row that the model "
                "was made for (max_position_embeddings)",
                stacklevel=2,
            )
        have = len(self._tables[0])
        if have < end:  # at least doubled: for T tokens only log T tables are made
            self._tables = self._angles(max(64, 2 * have, end))
        cos, sin = self._tables
        return cos[start:end], sin[start:end]

    def check_length(self, length: int) -> None:
        """Raises ValueError for rows in which a token would not attend to all earlier ones."""
        window = self.config.sliding_window
        if window is not None and length > window:
            raise ValueError(
                f"model: a row of {length} tokens, wanted at most {window}: in longer ones a token "
                f"attends to the last {window} only (sliding_window), which is not supported"
            )

    def _angles(self, length):
        c = self.config
        tables = rotation.tables(c.head_dim, c.rope_theta, c.rope_scaling, length, self.dtype)
        if isinstance(self.params[EMBED], Meta):
            return tuple(Meta(t.shape, t.dtype) for t in tables)
        return tables

    def hidden(
        self,
        ids: np.ndarray,
        forward: Forward | None = None,
        cache: generation.KVCache | None = None,
    ) -> Tensor:
        """The last hidden states of a batch, normalised.   ids (N, T) ints -> (N·T, C).

        forward: None: the model's own weights. cache: keys and values of the earlier positions;
        those of these positions are added to it.
        """
        N, T = ids.shape
        if cache:
            every = cache.rows(np.full(N, T), self, np.arange(N))
        else:
            every = all_rows(N, T, self.rope_tables(0, T))
        return self.run(ids.reshape(-1), (every, every), forward, cache)

    def run(
        self,
        ids: np.ndarray,
        rows: tuple[Rows, Rows],
        forward: Forward | None = None,
        cache: generation.KVCache | None = None,
    ) -> Tensor:
        """The forward pass on rows: the last hidden states, normalised.   ids (M,) ints -> (R, C).

        rows: the rows of all layers (M), and those of the last layer's queries and all that follows
        (R). forward, cache: as for `hidden`.
        """
        forward, (every, asked) = forward or Forward(self.params), rows
        layers = self.config.num_hidden_layers
        with scope("model.embed_tokens"):
            x = ops.embedding(forward.weights[EMBED], ids)
        for i in range(layers):
            goes_on = asked if i == layers - 1 else every
            layer = functools.partial(self._layer, i, forward, every, goes_on, cache)
            with scope(f"model.layers.{i}"):
                x = ops.recompute(layer, x) if forward.recompute else layer(x)
        if cache:
            cache.advance(every)
        with scope("model.norm"):
            return ops.rmsnorm(x, forward.weights[NORM], self.config.rms_norm_eps)

    def _layer(self, i, forward, every, asked, cache, x):
        """x + attention(norm(x)), then x + mlp(norm(x)).   x (M, C) -> (R, C).

        Keys and values are computed for the rows in `every`, all else for the rows in `asked`.
        """
        c, layer = self.config, f"model.layers.{i}"

        def heads(name, h, rows, n):
            part = f"{layer}.self_attn.{name}"
            y = forward.linear(f"{part}_proj", h, rows)
            if c.architecture.qkv_bias:
                y = ops.add(y, forward.weights[f"{part}_proj.bias"])
            if c.architecture.qk_norm and name != "v":
                with scope(f"{name}_norm"):
                    y = ops.reshape(y, (y.shape[0] * n, c.head_dim))
                    y = ops.rmsnorm(y, forward.weights[f"{part}_norm.weight"], c.rms_norm_eps)
            return ops.reshape(y, (h.shape[0], n, c.head_dim))

        def rotated(x, rows):
            return ops.rope(x, *rows.angles) if c.rotates(i) else x

        with scope("input_layernorm"):
            gain = forward.weights[f"{layer}.input_layernorm.weight"]
            h = ops.rmsnorm(x, gain, c.rms_norm_eps)
        with scope("self_attn"):
            q = rotated(heads("q", asked.of(h), asked, c.num_attention_heads), asked)
            k = rotated(heads("k", h, every, c.num_key_value_heads), every)
            v = heads("v", h, every, c.num_key_value_heads)
            if cache:
                k, v = (Tensor(a) for a in cache.extend(i, k.data, v.data, every))
            o = ops.attention(q, k, v, asked.spans)
            o = ops.reshape(o, (o.shape[0], c.num_attention_heads * c.head_dim))
            x = ops.add(asked.of(x), forward.linear(f"{layer}.self_attn.o_proj", o, asked))
        with scope("post_attention_layernorm"):
            gain = forward.weights[f"{layer}.post_attention_layernorm.weight"]
            h = ops.rmsnorm(x, gain, c.rms_norm_eps)
        with scope("mlp"):
            return ops.add(x, forward.feed_forward(f"{layer}.mlp", h, asked))

    def head(self, forward: Forward | None = None) -> Any:
        """The head's matrix (V, C), an array or a leaf; if tied, it is the embedding."""
        weights = forward.weights if forward else self.params
        return weights[EMBED if self.config.tie_word_embeddings else HEAD]

    def logits(self, ids, forward: Forward | None = None) -> np.ndarray:
        """ids (N, T) ints -> logits (N, T, V)."""
        ids = generation.check_ids(ids, self.config.vocab_size)
        h, W = self.hidden(ids, forward).data, generation.array(self.head(forward))
        return ops.frozen_linear(h, W).data.reshape(*ids.shape, self.config.vocab_size)

    def loss(self, ids, targets, count=None, forward: Forward | None = None) -> Tensor:
        """Mean cross-entropy over the targets that are not -100.   ids, targets (N, T) ints -> ().

        count: the divisor, for a part of a larger batch; None: the number of those targets. Only
        rows that can change the loss are computed, and logits only for rows whose target counts.
        """
        ids = generation.check_ids(ids, self.config.vocab_size)
        targets = check_targets(targets, ids.shape, self.config.vocab_size)
        every, asked = rows = self.rows_for(targets)
        ids, targets = ids.reshape(-1), targets.reshape(-1)
        if every.batch is not None:
            ids = ids[every.batch]
        if asked.batch is not None:
            targets = targets[asked.batch]
        h, W = self.run(ids, rows, forward), self.head(forward)
        op = ops.head_loss if isinstance(W, Tensor) else ops.frozen_head_loss
        with scope("lm_head"):
            return op(h, W, targets, count)

    def rows_for(self, targets: np.ndarray) -> tuple[Rows, Rows]:
        """The rows that a loss on these targets (N, T) needs: see `rows.needed_rows`."""
        return needed_rows(targets, self.rope_tables(0, targets.shape[1]))

    @hinting
    def generate(self, ids, max_new_tokens: int, **choices) -> np.ndarray:
        """Continue each row: see `generation.generate`."""
        return generation.generate(self, ids, max_new_tokens, **choices)

    name = ""  # what it was loaded as

    def generate_text(self, prompt: str, max_new_tokens: int = 32, **choices) -> str:
        """The text that follows a prompt, up to the end token: see `generation.generate_text`."""
        return generation.generate_text(self, prompt, max_new_tokens, **choices)

    def _facts(self) -> dict[str, str]:
        c, arrays = self.config, self.params.values()
        forms = dict.fromkeys(form_of(a) or str(a.dtype) for a in arrays)
        return {
            "parameters": f"{sum(math.prod(a.shape) for a in arrays):,}",
            "size": f"{human(sum(a.nbytes for a in arrays))} of {', '.join(forms)}",
            "layers": str(c.num_hidden_layers),
            "width": str(c.hidden_size),
            "vocabulary": f"{c.vocab_size:,}",
        }

    def __repr__(self) -> str:
        return show.line(f"Llama {self.name}".rstrip(), self._facts())

    def _repr_html_(self) -> str:
        return show.table(f"Llama {self.name}".rstrip(), self._facts())


def init_params(config: ModelConfig, seed: int = 0, std: float = 0.02, dtype=np.float32) -> dict:
    """Normal weights; those that write into the residual stream are scaled by 1/√(2L). Gains are 1,
    biases 0 (GPT-2's recipe).
    """
    rng = np.random.default_rng(seed)
    residual = std / math.sqrt(2 * config.num_hidden_layers)
    params = {}
    for name, shape in config.shapes().items():
        if len(shape) == 1:
            params[name] = np.full(shape, 0 if name.endswith(".bias") else 1, dtype)
        else:
            scale = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else std
            params[name] = (rng.standard_normal(shape) * scale).astype(dtype)
    return params


def check_targets(targets, shape: tuple[int, ...], vocab_size: int) -> np.ndarray:
    """targets as an array of ids of this shape, -100 where ignored; raises ValueError."""
    targets = np.asarray(targets)
    if targets.shape != shape or targets.dtype.kind not in "iu":
        raise ValueError(
            f"targets: shape {targets.shape} of {targets.dtype}, wanted whole numbers of the shape "
            f"of ids, {shape}"
        )
    bad = (targets != IGNORED) & ((targets < 0) | (targets >= vocab_size))
    if bad.any():
        raise ValueError(
            f"targets: a target is {targets[bad][0]}, wanted 0 … {vocab_size - 1} or {IGNORED}"
        )
    return targets


def check_base(who: str, model: Any) -> None:
    """Raises TypeError, and says what to do, unless model is a Llama (which has no adapter)."""
    if not isinstance(model, Llama):
        kind, wanted = type(model).__name__, "a Llama: load_model, detach and merge return one"
        raise TypeError(f"{who}: got a {kind}, wanted {wanted}")


def check_params(config: ModelConfig, params: Mapping[str, np.ndarray]) -> None:
    """Like `check_shapes`; also raises ValueError for mixed precision."""
    check_shapes(config, params)
    dtypes = {str(a.dtype) for a in params.values() if not isinstance(a, Meta)}
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        raise ValueError(
            f"model: arrays of {', '.join(sorted(dtypes))}, wanted all float32 or all float64"
        )


def check_shapes(config: ModelConfig, params: Mapping[str, Any]) -> None:
    """Raises ValueError if an array is missing, unknown or of another shape."""
    wanted = config.shapes()
    if missing := sorted(wanted.keys() - params.keys()):
        first = f"{missing[0]}, wanted with shape {wanted[missing[0]]}"
        raise ValueError(f"model: {len(missing)} arrays are missing, the first is {first}")
    if extra := sorted(params.keys() - wanted.keys()):
        first = f"{extra[0]} of shape {params[extra[0]].shape}"
        raise ValueError(f"model: {len(extra)} arrays are not in the config, the first is {first}")
    for name, shape in wanted.items():
        if params[name].shape != shape:
            raise ValueError(
                f"model: {name} has shape {params[name].shape}, the config wants {shape}"
            )
