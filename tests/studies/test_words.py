"""What a run on words is scored by: the likelihood of a completion, and a choice among four."""

import math

import numpy as np
import pytest

from minilora.lab.runs import the_model
from minilora.llama.model import Llama, ModelConfig, init_params
from minilora.text.batches import all_once
from minilora.text.tasks import TaskData, load_task
from minilora.text.tokenizer import encode_more
from minilora.tuning.adapters import attach
from studies import _words

PAIRS = [("Pwalk>", "wɔk"), ("Pa>", "ʌ"), ("Pwalk>", "wɔ"), ("Dtalk>", "talked")]


@pytest.fixture(scope="module")
def small():
    """A Llama of random weights with the base's tokenizer."""
    tokenizer = the_model("base").tokenizer
    config = ModelConfig(tokenizer.vocab_size, 16, 24, 2, 2, 1)
    return Llama(config, init_params(config, seed=1, std=0.3, dtype=np.float64), tokenizer)


@pytest.mark.parametrize("place", range(len(PAIRS)))
def test_the_likelihood_of_a_completion_is_the_product_of_its_tokens(small, place):
    """By a softmax written out, token after token; and by the loss that is trained on."""
    prompt, text = PAIRS[place]
    found = _words.log_likelihoods(small, PAIRS)[place]
    ids, wanted = list(small.tokenizer.encode(prompt)), 0.0
    for token in [*encode_more(small.tokenizer, text), small.tokenizer.eos_id]:
        logits = small.logits(np.array([ids]))[0, -1].tolist()
        wanted += logits[token] - math.log(sum(map(math.exp, logits)))
        ids.append(token)
    assert found == pytest.approx(wanted, rel=1e-9)
    tuned = attach(small, "lora", rank=2)
    ((ids, targets),) = all_once([(prompt, (text,))], small.tokenizer)
    loss = float(tuned.loss(ids, targets).data)
    assert _words.log_likelihoods(tuned, PAIRS)[place] == pytest.approx(
        -loss * (targets >= 0).sum(), rel=1e-9
    )


class Knows:
    """A model that gives a likely next token to each beginning of the answers it knows."""

    def __init__(self, pairs, tokenizer):
        self.tokenizer, self.next = tokenizer, {}
        for prompt, (sounds, *_) in pairs:
            start, rest = tokenizer.encode(prompt), encode_more(tokenizer, sounds)
            whole = [*start, *rest, tokenizer.eos_id]
            for k in range(len(start), len(whole)):
                self.next.setdefault(tuple(whole[:k]), whole[k])

    def logits(self, ids):
        found = np.zeros((*ids.shape, self.tokenizer.vocab_size))
        for n, row in enumerate(ids.tolist()):
            for t in range(len(row)):
                likely = self.next.get(tuple(row[: t + 1]))
                if likely is not None:
                    found[n, t, likely] = 20.0
        return found


def test_who_knows_the_sounds_chooses_them_and_who_does_not_guesses(small):
    words = load_task("phonemes").test[: _words.OLD_WORDS]
    assert _words.choice(Knows(words, small.tokenizer)) == 1
    turned = [(prompt, other) for (prompt, _), (_, other) in zip(words, [*words[1:], words[0]])]
    assert _words.choice(Knows(turned, small.tokenizer)) < 0.5
    # four standard errors of a share of a quarter on 200 words
    apart = 4 * math.sqrt(_words.CHANCE * (1 - _words.CHANCE) / _words.OLD_WORDS)
    assert _words.choice(small) == pytest.approx(_words.CHANCE, abs=apart)


def test_the_other_three_sounds_are_wrong_and_next_in_the_alphabet(monkeypatch):
    words = {"Pe>": ("e",), "Pa>": ("x",), "Pb>": ("b", "x"), "Pc>": ("b",), "Pd>": ("d",)}
    words["Pf>"] = ("f",)
    asked = []
    monkeypatch.setattr(
        _words.tasks, "load_task", lambda name: TaskData([], [], list(words.items()))
    )
    monkeypatch.setattr(
        _words, "log_likelihoods", lambda model, pairs: asked.extend(pairs) or np.zeros(len(pairs))
    )
    _words.choice(None)
    assert asked[:4] == [("Pa>", "x"), ("Pa>", "b"), ("Pa>", "d"), ("Pa>", "e")]
    assert asked[-4:] == [("Pf>", "f"), ("Pf>", "x"), ("Pf>", "b"), ("Pf>", "b")]


def test_bits_of_hits_come_back():
    rng = np.random.default_rng(0)
    for words in (1, 7, 8, 600, 611):
        hits = rng.random(words) < 0.5
        assert np.array_equal(_words.hits(_words.bits(hits.tolist()), words), hits)


def test_a_diverged_run_has_no_right_word():
    words = TaskData([], [("Da>", ("a",))] * 600, [("Da>", ("a",))] * 9)
    for name, scores in _words.nothing(words).items():
        count = len(getattr(words, name))
        assert not _words.hits(scores["right"], count).any() and scores["words"] == count
        assert (scores["exact_match"], scores["loss"]) == (0.0, None)
