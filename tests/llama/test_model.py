"""The Llama against one written here in loops, from the equations; its gradient; and generation."""

import itertools
import math

import numpy as np
import pytest
from conftest import make_llama, rel
from hypothesis import given, settings
from hypothesis import strategies as st

import minilora as ml
from minilora import strategies as some
from minilora.engine import backward, param
from minilora.llama import generation
from minilora.llama.generation import KVCache, _choose
from minilora.llama.model import EMBED, HEAD, Forward, Llama, ModelConfig, init_params
from minilora.text.tokenizer import WORD_LAB

SHAPES = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "untied": {"tie_word_embeddings": False},
    "wide heads": {"head_dim": 6, "tie_word_embeddings": False, "rope_theta": 100.0},
    "odd width": {"hidden_size": 15, "head_dim": 8, "num_attention_heads": 2},
    "biases": {"model_type": "qwen2"},
    "normalised heads": {"model_type": "qwen3", "head_dim": 6},
    "a layer that does not rotate": {"model_type": "smollm3", "no_rope_layers": (1, 0)},
    "no second one": {"model_type": "smollm3", "no_rope_layer_interval": 2},
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


# ---- the second implementation: one row, one head, one place at a time


def plain_logits(config, params, ids):
    return np.stack([_row(config, params, row) for row in ids])


def _row(config, params, ids):
    x = [params["model.embed_tokens.weight"][token] for token in ids]
    for i in range(config.num_hidden_layers):
        rotates = not (config.model_type == "smollm3" and i == 1)  # in both such SHAPES
        layer = {k.split(f"layers.{i}.")[1]: a for k, a in params.items() if f".layers.{i}." in k}
        x = [xt + ot for xt, ot in zip(x, _attend(config, layer, x, rotates))]
        for t in range(len(x)):
            h = _norm(x[t], layer["post_attention_layernorm.weight"], config)
            gate, up = layer["mlp.gate_proj.weight"] @ h, layer["mlp.up_proj.weight"] @ h
            x[t] = x[t] + layer["mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    head = params.get("lm_head.weight", params["model.embed_tokens.weight"])
    return np.stack([head @ _norm(xt, params["model.norm.weight"], config) for xt in x])


def _norm(x, gain, config):
    return x / math.sqrt(sum(x * x) / len(x) + config.rms_norm_eps) * gain


def _rotate(z, place, theta):
    """Each (z[j], z[j + D/2]) as a complex number, turned by place · θ^(-2j/D)."""
    half = len(z) // 2
    turn = np.exp(1j * place * np.array([theta ** (-2 * j / len(z)) for j in range(half)]))
    turned = (z[:half] + 1j * z[half:]) * turn
    return np.concatenate([turned.real, turned.imag])


def _attend(config, layer, x, rotates):
    D, H, G = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    h = [_norm(xt, layer["input_layernorm.weight"], config) for xt in x]

    def project(name, head):
        own = slice(head * D, (head + 1) * D)
        W, b = layer[f"self_attn.{name}_proj.weight"], layer.get(f"self_attn.{name}_proj.bias")
        z = [W[own] @ ht + (0 if b is None else b[own]) for ht in h]
        gain = layer.get(f"self_attn.{name}_norm.weight")
        return z if gain is None else [_norm(zt, gain, config) for zt in z]

    heads = []
    for head in range(H):
        group = head // (H // G)
        q, k, v = project("q", head), project("k", group), project("v", group)
        if rotates:
            q, k = ([_rotate(z, t, config.rope_theta) for t, z in enumerate(zs)] for zs in (q, k))
        out = []
        for t in range(len(x)):
            p = np.exp([q[t] @ k[s] / math.sqrt(D) for s in range(t + 1)])
            out.append(sum(p[s] * v[s] for s in range(t + 1)) / p.sum())
        heads.append(out)
    joined = [np.concatenate([heads[head][t] for head in range(H)]) for t in range(len(x))]
    return [layer["self_attn.o_proj.weight"] @ o for o in joined]


@pytest.mark.smoke
@each_shape
def test_logits_equal_the_plain_implementation(shape, rng):
    model = make_llama(**shape)
    ids = rng.integers(0, model.config.vocab_size, (2, 9))
    assert rel(model.logits(ids), plain_logits(model.config, model.params, ids)) < 1e-12


@settings(max_examples=10)
@given(
    data=st.data(),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 2), (3, 3)]),
    half=st.integers(1, 3),
    layers=st.integers(1, 3),
    tied=st.booleans(),
)
def test_logits_of_any_shape(data, heads, half, layers, tied):
    model = make_llama(
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=2 * half,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
        hidden_size=data.draw(some.sizes),
        intermediate_size=data.draw(some.sizes),
    )
    ids, _ = data.draw(some.batches(29))
    assert rel(model.logits(ids), plain_logits(model.config, model.params, ids)) < 1e-11


@given(batch=some.batches(29), count=st.sampled_from([None, 50]))
def test_loss_is_the_mean_over_the_targets_that_count(batch, count):
    model, (ids, targets) = make_llama(), batch
    z = plain_logits(model.config, model.params, ids)
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    counted = [-math.log(p[place][targets[place]]) for place in zip(*np.nonzero(targets != -100))]
    wanted = sum(counted) / (count or len(counted))
    assert math.isclose(model.loss(ids, targets, count).data, wanted, rel_tol=1e-12)


def full_gradient(model, ids, targets):
    """Loss and gradients of all weights, through ml.attach's full fine-tuning."""
    tuned = ml.attach(model, "full")
    leaves = tuned.leaves()
    loss = tuned.loss(ids, targets, leaves=leaves)
    backward(loss)
    return loss.data, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.smoke
@pytest.mark.parametrize("shape", ["gqa", "wide heads", "biases", "normalised heads"])
def test_gradient_of_every_weight(shape, rng):
    """One random direction an array, finite differences of the loss."""
    model = make_llama(**SHAPES[shape])
    ids, targets = rng.integers(0, 29, (2, 2, 6))
    targets[0, :3] = -100
    loss, grads = full_gradient(model, ids, targets)
    assert grads.keys() == model.params.keys()
    assert math.isclose(loss, model.loss(ids, targets).data, rel_tol=1e-14)
    for name, weight in model.params.items():
        direction = rng.standard_normal(weight.shape)

        def moved(t, name=name, weight=weight, direction=direction):
            params = {**model.params, name: weight + t * direction}
            return float(Llama(model.config, params).loss(ids, targets).data)

        step = 1e-4
        slope = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (
            12 * step
        )
        size = np.linalg.norm(grads[name] * direction)
        assert abs((grads[name] * direction).sum() - slope) < 1e-7 * (size + 1e-3), name


def test_a_tied_head_adds_to_the_embeddings_gradient(rng):
    """The gradient of a tied matrix is the sum of the two that it has apart."""
    tied = make_llama()
    apart = Llama(
        ModelConfig(**{**tied.config.__dict__, "tie_word_embeddings": False}),
        {**tied.params, HEAD: tied.params[EMBED].copy()},
    )
    ids, targets = rng.integers(0, 29, (2, 2, 5))
    (loss, grads), (loss2, grads2) = (full_gradient(m, ids, targets) for m in (tied, apart))
    assert math.isclose(loss, loss2, rel_tol=1e-14)
    assert rel(grads[EMBED], grads2[EMBED] + grads2[HEAD]) < 1e-13


def test_a_later_token_changes_no_earlier_logits(tiny, rng):
    ids = rng.integers(0, 29, (1, 8))
    other = ids.copy()
    other[0, 5] = (other[0, 5] + 1) % 29
    z, z2 = tiny.logits(ids), tiny.logits(other)
    assert np.array_equal(z[:, :5], z2[:, :5]) and not np.allclose(z[:, 5:], z2[:, 5:])


@pytest.mark.smoke
@each_shape
def test_float32_agrees_with_float64(shape, rng):
    model = make_llama(**shape)
    narrow = model.astype(np.float32)
    ids, targets = rng.integers(0, 29, (2, 3, 20))
    z = narrow.logits(ids)
    assert z.dtype == np.float32 and rel(z, model.logits(ids)) < 1e-4
    (loss, grads), (loss32, grads32) = (full_gradient(m, ids, targets) for m in (model, narrow))
    assert abs(loss32 - loss) < 1e-4
    for name, grad in grads.items():
        assert grads32[name].dtype == np.float32 and rel(grads32[name], grad) < 1e-4, name


def test_nothing_writes_into_the_params(rng):
    model = make_llama()
    before = {name: a.copy() for name, a in model.params.items()}
    for a in model.params.values():
        a.flags.writeable = False
    ids, targets = rng.integers(0, 29, (2, 2, 5))
    model.logits(ids)
    full_gradient(model, ids, targets)
    model.generate(ids, 3)
    assert all(np.array_equal(model.params[name], a) for name, a in before.items())


def test_a_part_of_the_weights_trained(tiny, rng):
    """A Forward's weights are leaves for some arrays and plain arrays for the rest."""
    ids, targets = rng.integers(0, 29, (2, 2, 5))
    gain = param(tiny.params["model.norm.weight"])
    weights = {**tiny.params, "model.norm.weight": gain}
    loss = tiny.loss(ids, targets, forward=Forward(weights))
    backward(loss)
    _, grads = full_gradient(tiny, ids, targets)
    assert rel(gain.grad, grads["model.norm.weight"]) < 1e-13


# ---- the config and the params


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"hidden_size": 2.5}, "hidden_size is 2.5"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of 3 heads"),
        ({"num_key_value_heads": 3}, "4 query heads are not a multiple of 3 key heads"),
        ({"head_dim": 3}, "head_dim is 3, RoPE wants an even number"),
        ({"head_dim": -2}, "head_dim is -2"),
        ({"head_dim": "8"}, "head_dim is '8'"),
        ({"model_type": "phi3"}, "model_type is 'phi3', wanted one of llama, mistral"),
        ({"no_rope_layers": (1,)}, r"no_rope_layers is \(1,\), which llama does not have"),
        ({"sliding_window": 8, "model_type": "qwen2"}, "is 8, which qwen2 does not have"),
        ({"sliding_window": 0, "model_type": "mistral"}, "sliding_window is 0, wanted"),
        ({"no_rope_layers": (1, 0), "model_type": "smollm3"}, "has 2 entries for 1 layers"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
    ],
)
def test_a_config_that_makes_no_sense(changes, message):
    shape = dict(
        vocab_size=9,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with pytest.raises(ValueError, match=f"^config: .*{message}") as caught:
        ModelConfig(**{**shape, **changes})
    assert "\n" not in str(caught.value)


def test_params_that_do_not_fit(tiny):
    name, p = "model.layers.1.mlp.up_proj.weight", tiny.params
    lacking = {k: a for k, a in p.items() if k != name}
    for params, message in (
        (lacking, f"1 arrays are missing, the first is {name}"),
        ({**p, "extra": p[name]}, "1 arrays are not in the config, the first is extra"),
        ({**p, name: p[name].T}, rf"{name} has shape \(16, 24\), the config wants \(24, 16\)"),
        ({**p, name: p[name].astype(np.float32)}, "arrays of float32, float64, wanted all"),
        ({k: a.astype(np.float16) for k, a in p.items()}, "arrays of float16, wanted all"),
    ):
        with pytest.raises(ValueError, match=message):
            Llama(tiny.config, params)


def test_layers_that_do_not_rotate():
    """By SmolLM3's rule every fourth, or as they are listed."""
    shape = dict(model_type="smollm3", num_hidden_layers=9)
    plain = make_llama(**shape).config
    assert [plain.rotates(i) for i in range(9)] == [i not in (3, 7) for i in range(9)]
    listed = make_llama(**shape, no_rope_layers=(1, 0, 0) * 3).config
    assert [listed.rotates(i) for i in range(9)] == [True, False, False] * 3


def test_init_params():
    config = make_llama(num_hidden_layers=8, hidden_size=64, tie_word_embeddings=False).config
    params = init_params(config, seed=3)
    assert {n: a.shape for n, a in params.items()} == config.shapes()
    assert all(a.dtype == np.float32 for a in params.values())
    assert params["model.layers.0.mlp.up_proj.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert params["model.layers.0.mlp.down_proj.weight"].std() == pytest.approx(0.005, rel=0.1)
    assert np.all(params["model.norm.weight"] == 1)
    biased = init_params(make_llama(model_type="qwen2").config)
    assert not biased["model.layers.1.self_attn.k_proj.bias"].any()
    again, other = init_params(config, seed=3), init_params(config, seed=4)
    assert all(np.array_equal(params[n], again[n]) for n in params)
    assert not np.array_equal(params[EMBED], other[EMBED])


def test_linears_are_the_two_dimensional_arrays_of_the_layers(tiny):
    names = [f"{n}.weight" for n in tiny.config.linears()]
    assert names == [n for n, s in tiny.config.shapes().items() if len(s) == 2 and n != EMBED]


# ---- generation


def greedy_without_cache(model, ids, steps):
    for _ in range(steps):
        ids = np.concatenate([ids, model.logits(ids)[:, -1].argmax(-1)[:, None]], axis=1)
    return ids


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "shape", ["gqa", "wide heads", "biases", "normalised heads", "a layer that does not rotate"]
)
def test_the_cache_changes_nothing(shape, dtype, rng):
    model = make_llama(dtype=dtype, **SHAPES[shape])
    ids = rng.integers(0, 29, (3, 4))
    assert np.array_equal(model.generate(ids, 12), greedy_without_cache(model, ids, 12))


def test_the_cache_takes_a_text_in_pieces(tiny, rng):
    ids = rng.integers(0, 29, (2, 9))
    whole = tiny.hidden(ids).data.reshape(2, 9, -1)
    cache = KVCache(tiny.config, 2, 9, tiny.dtype)
    pieces = [
        tiny.hidden(ids[:, a:b], cache=cache).data.reshape(2, b - a, -1)
        for a, b in ((0, 4), (4, 5), (5, 9))
    ]
    assert rel(np.concatenate(pieces, axis=1), whole) < 1e-13


def test_stop_ends_a_row_and_all_rows_end_it_all(tiny, rng):
    ids = rng.integers(0, 29, (6, 3))
    free = tiny.generate(ids, 20)[:, 3:]
    stop = int(free[0, 2])  # occurs in the first row by its third token
    seen = []
    out = tiny.generate(ids, 20, stop=stop, on_token=seen.append)[:, 3:]
    assert np.array_equal(np.stack(seen, axis=1), out)
    longest = 0
    for row, wanted in zip(out, free):
        ends = np.flatnonzero(wanted == stop)
        end = ends[0] + 1 if len(ends) else 20
        longest = max(longest, end)
        assert np.array_equal(row[:end], wanted[: len(row)][:end]) and np.all(row[end:] == stop)
    assert out.shape[1] == longest


def test_the_same_seed_gives_the_same_text(tiny, rng):
    ids = rng.integers(0, 29, (2, 3))
    how = dict(temperature=1.5, top_p=0.95)
    texts = [tiny.generate(ids, 30, seed=seed, **how) for seed in (1, 1, 2)]
    assert np.array_equal(texts[0], texts[1]) and not np.array_equal(texts[0], texts[2])


def draws(z):
    """A random number for each row."""
    return np.random.default_rng(0).random((len(z), 1))


def frequencies(p, temperature, top_p, n=20_000):
    z = np.tile(np.log(p), (n, 1))
    tokens = _choose(z, temperature, top_p, draws(z))
    return np.bincount(tokens, minlength=len(p)) / n


def test_temperature():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    for temperature in (0.5, 1.0, 2.0):
        wanted = p ** (1 / temperature)
        assert np.allclose(frequencies(p, temperature, 1.0), wanted / wanted.sum(), atol=0.015)
    assert frequencies(p, 0.0, 1.0).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "top_p, kept",
    [(0.3, [3]), (0.5, [3, 2]), (0.65, [3, 2]), (0.75, [3, 2, 1]), (1.0, [3, 2, 1, 0])],
)
def test_top_p_keeps_the_smallest_set_that_has_the_mass(top_p, kept):
    p = np.array([0.1, 0.2, 0.3, 0.4])
    wanted = np.where(np.isin(np.arange(4), kept), p, 0)
    got = frequencies(p, 1.0, top_p)
    assert np.all((got > 0) == (wanted > 0))
    assert np.allclose(got, wanted / wanted.sum(), atol=0.015)


@pytest.mark.parametrize(
    "top_k, kept", [(1, [3]), (2, [1, 2, 3]), (4, [0, 1, 2, 3]), (0, range(4))]
)
def test_top_k_keeps_the_k_most_probable_and_all_that_tie_with_the_last(top_k, kept):
    p = np.array([0.1, 0.2, 0.2, 0.5])
    z = np.tile(np.log(p), (1000, 1))
    found = _choose(z, 1.0, 1.0, draws(z), top_k)
    assert sorted(set(found.tolist())) == [*kept]
    of_two = _choose(z, 1.0, 0.7, draws(z), 2)  # 0.5, 0.2, 0.2 of 0.9: the first two have 0.78
    assert set(of_two.tolist()) == {1, 3}


def test_a_repetition_is_punished_in_the_prompt_and_after_it(tiny):
    """By hand: each step's choice is that of the logits with the rule, from the whole text."""
    ids, penalty = [[3, 1, 4], [1, 5, 9]], 1.7
    out = tiny.generate(ids, 8, repetition_penalty=penalty)
    for row in out:
        for end in range(3, len(row)):
            logits = tiny.logits(row[None, :end])[0, -1]
            for token in set(row[:end].tolist()):
                logits[token] *= penalty if logits[token] < 0 else 1 / penalty
            assert logits.argmax() == row[end]
    assert not np.array_equal(out, tiny.generate(ids, 8))


class Letters:
    """A tokenizer of one and two letters; 0 is a special token, which ends and pads."""

    texts = ("<end>", "ab", "bc", "ca", "aa", "cb", "a", "b", "c")
    pad_id = eos_id = 0

    def encode(self, text):
        ids = []
        while text:
            ids.append(next(i for i, part in enumerate(self.texts) if text.startswith(part)))
            text = text.removeprefix(self.texts[ids[-1]])
        return ids

    def decode(self, ids):
        return "".join(self.texts[i] for i in ids if i)


def test_a_text_ends_a_row_also_in_the_middle_of_a_token(monkeypatch):
    """The last of three rows writes bc, ca, and "bcc" is in it; the second one a special token."""
    model = make_llama(tokenizer=Letters(), vocab_size=9)
    steps = iter([[1, 4, 2], [4, 0, 3], [1], [5]])  # the rows that have not ended
    monkeypatch.setattr(generation, "_choose", lambda *_: np.array(next(steps)))
    seen = []
    out = model.generate([[1], [2], [3]], 4, stop=["bcc", "<end>"], on_token=seen.append)[:, 1:]
    assert out.tolist() == [[1, 4, 1, 5], [4, 0, 0, 0], [2, 3, 0, 0]]
    assert np.array_equal(np.stack(seen, axis=1), out)
    with pytest.raises(ValueError, match="stop is '<end>ab', which no decoded text has in it"):
        model.generate([[1]], 4, stop="<end>ab")


def test_generate_text_ends_before_a_stop():
    model = make_llama(tokenizer=WORD_LAB, vocab_size=WORD_LAB.vocab_size)
    free = model.generate_text("Dwalk>", 20, stop=None)
    assert len(free) == 20
    stop = free[7:9]
    assert model.generate_text("Dwalk>", 20, stop=stop) == free[: free.index(stop)]
    token = WORD_LAB.encode(free[5])[0]
    assert model.generate_text("Dwalk>", 20, stop=[stop, token]) == free[: free.index(free[5])]


@given(z=some.arrays(some.shapes(2, 2)), top_p=st.floats(0.01, 1), temperature=st.floats(0.01, 10))
def test_a_choice_is_always_in_the_kept_set(z, top_p, temperature):
    tokens = _choose(z, temperature, top_p, draws(z))
    for row, token in zip(z, tokens):
        p = np.exp((row - row.max()) / temperature)
        p /= p.sum()
        assert p[p > p[token]].sum() < top_p + 1e-9


@pytest.mark.parametrize(
    "ids, how, message",
    [
        ([1, 2], {}, r"ids: got shape \(2,\) of int64"),
        ([[]], {}, r"ids: got shape \(1, 0\)"),
        ([[1.0]], {}, "of float64"),
        ([[29]], {}, r"ids: 29 … 29, the vocabulary has 0 … 28"),
        ([[-1, 3]], {}, "ids: -1 … 3"),
        ([[1]], {"temperature": -1}, "temperature -1"),
        ([[1]], {"temperature": float("nan")}, "temperature nan"),
        ([[1]], {"top_p": 0}, "top_p 0, wanted"),
        ([[1]], {"top_p": 1.5}, "top_p 1.5"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens is -1"),
        ([[1]], {"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ([[1]], {"top_k": -1}, "top_k is -1, wanted a whole number of at least 0"),
        ([[1]], {"repetition_penalty": 0}, "repetition_penalty is 0, wanted a finite number above"),
        ([[1]], {"stop": "d"}, "stop is 'd', but the model has no tokenizer"),
        ([[1]], {"stop": ""}, "stop is '', wanted a token's id from 0 to 28, or some text"),
        ([[1]], {"stop": [1, 29]}, "stop is 29, wanted a token's id from 0 to 28"),
        ([[1]], {"stop": True}, "stop is True, wanted"),
        ([[1]], {"stop": 1.0}, "stop is 1.0, wanted"),
        ([[1]], {"stop": [[1]]}, r"stop is \[1\], wanted"),
    ],
)
def test_generate_refuses(tiny, ids, how, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny.generate(ids, **{"max_new_tokens": 2, **how})
    assert "\n" not in str(caught.value)
    if not how:
        with pytest.raises(ValueError, match=message):
            tiny.logits(ids)


@pytest.mark.parametrize(
    "ids, targets, message",
    [
        ([[1, 2]], [[1]], r"targets: shape \(1, 1\) of int64, wanted .*\(1, 2\)"),
        ([[1, 2]], [[1, 29]], "a target is 29"),
        ([[1, 2]], [[1, -1]], "a target is -1"),
        ([[1, 2]], [[1.0, 2.0]], "targets: .*float64"),
    ],
)
def test_loss_refuses(tiny, ids, targets, message):
    with pytest.raises(ValueError, match=message) as caught:
        tiny.loss(np.array(ids), np.array(targets))
    assert "\n" not in str(caught.value)


def test_more_tokens_than_the_model_was_made_for_are_told_of_and_tables_double():
    tiny, lengths = make_llama(max_position_embeddings=90), set()
    with pytest.warns(UserWarning, match="more than the .* tokens a row"):
        for end in range(1, tiny.config.max_position_embeddings + 20):
            cos, sin = tiny.rope_tables(end - 1, end)
            lengths.add(len(tiny._tables[0]))
            assert cos.shape == sin.shape == (1, tiny.config.head_dim // 2)
    sizes = sorted(lengths)
    assert len(sizes) > 1 and all(b >= 2 * a for a, b in itertools.pairwise(sizes))


def test_rows_longer_than_the_window_of_attention_are_refused(rng):
    """With the length that works; up to it the rows are plain causal ones."""
    model, plain = make_llama(model_type="mistral", sliding_window=9), make_llama()
    ids, targets = rng.integers(0, 29, (2, 2, 9))
    assert np.array_equal(model.logits(ids), plain.logits(ids))
    assert np.array_equal(model.generate(ids[:, :5], 5), plain.generate(ids[:, :5], 5))
    longer = np.tile(ids, 2)
    for run in (
        lambda: model.logits(longer),
        lambda: model.loss(longer, longer),
        lambda: ml.train(ml.attach(model, "lora"), [(longer, longer)], steps=1, lr=1e-3),
        lambda: model.generate(longer, 1),
        lambda: model.generate(ids[:, :5], 14),
    ):
        with pytest.raises(ValueError, match="a row of 18 tokens, wanted at most 9: in longer"):
            run()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [np.nan, 1e30])
def test_generate_refuses_logits_that_are_not_finite(size, temperature):
    """Instead of the first token, again and again."""
    model = make_llama(dtype=np.float32)
    model.params["model.norm.weight"][:] *= np.float32(size)
    model.params["model.embed_tokens.weight"][:] *= np.float32(1e15)
    with pytest.raises(ValueError, match="generate: the logits are not finite"):
        model.generate([[1, 2]], 3, temperature=temperature)
