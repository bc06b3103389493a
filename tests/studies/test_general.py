"""What a language model knows and what it says: questions, likelihoods, the strict score."""

import hashlib
import importlib
import json
from collections import Counter

import numpy as np
import pytest
from conftest import make_llama

from minilora.ops.loss import IGNORED
from minilora.support.files import data_folder
from minilora.text import nouns
from minilora.tuning.adapters import attach
from studies import _general, _text, _words, language_model

FOLDER = data_folder() / "categories"
CHOICES = _general.choices()


# ------------------------------------------------------------------------------------ the questions


def test_the_questions_are_what_their_record_says():
    raw = (FOLDER / "questions.tsv").read_bytes()
    record = json.loads((FOLDER / "QUESTIONS.json").read_text(encoding="utf-8"))
    assert record["sha256"] == hashlib.sha256(raw).hexdigest()
    assert record["questions"] == Counter(choice.kind for choice in CHOICES)
    assert len(CHOICES) == language_model.CHOICES >= 200
    assert "questions.tsv" in (FOLDER / "NOTICE.md").read_text(encoding="utf-8")


def test_no_question_has_a_word_of_the_task():
    data = nouns.load()
    before, after = nouns.PROMPT.split("{}")
    pairs = data.train + data.test
    taught = {prompt.removeprefix(before).removesuffix(after).lower() for prompt, _ in pairs}
    taught |= {answer.strip() for _, (answer,) in pairs}
    assert len(taught) == 1410
    for choice in CHOICES:
        asked = choice.prompt.lower().removesuffix(" is a city in").split(" is")[0]
        asked = asked.removeprefix("the opposite of ").removeprefix("to ")
        assert not {asked, *(a.lower() for a in choice.answers)} & taught, choice


def test_one_answer_is_right():
    """Four different ones; none in the prompt; no other question makes a wrong one right."""
    right: dict[str, set[str]] = {}
    for choice in CHOICES:
        right.setdefault(choice.prompt, set()).add(choice.answers[0])
    assert len(right) == len(CHOICES)
    for choice in CHOICES:
        assert len(set(choice.answers)) == 4
        assert not set(choice.answers) & set(choice.prompt.split())
        assert set(choice.answers[1:]) <= {c.answers[0] for c in CHOICES if c.kind == choice.kind}


def test_an_answer_is_wrong_three_times_as_often_as_right():
    """So who always says the same, whatever is asked, gets one quarter."""
    right = Counter(choice.answers[0] for choice in CHOICES)
    wrong = Counter(answer for choice in CHOICES for answer in choice.answers[1:])
    assert set(wrong) <= set(right)
    assert all(abs(wrong[answer] - 3 * n) <= n for answer, n in right.items())


def test_what_may_be_right_too_is_no_wrong_answer(monkeypatch, tmp_path):
    """By hand: hot and cold, warm next to hot; a city in a region of a country."""
    monkeypatch.syspath_prepend(FOLDER.parent)
    build = importlib.import_module("build_questions")
    pointers = {"hot": "002 ! 02 a 0101 & 03 a 0000", "cold": "001 ! 01 a 0101"}
    pointers |= {"warm": "001 & 01 a 0000", "tall": "001 ! 05 a 0101", "short": "001 ! 04 a 0101"}
    data = [f"0{k} 00 a 01 {w} 0 {p} | gloss" for k, (w, p) in enumerate(pointers.items(), 1)]
    index = [f"{w} a 1 0 1 0 0{k}" for k, w in enumerate(pointers, 1)]
    (tmp_path / "data.adj").write_text("\n".join(data))
    (tmp_path / "index.adj").write_text("\n".join(index))
    found = {q.word: q for q in build.opposites(tmp_path, "adj")}
    assert {(q.word, q.answer) for q in found.values()} == {
        ("hot", "cold"), ("cold", "hot"), ("tall", "short"), ("short", "tall"),
    }  # fmt: skip
    assert found["cold"].also == {"hot", "cold", "warm"}
    made = [build.Asked(w, a, {a, *also}) for w, a, also in ASKED]
    assert [wrong for _, wrong in build.with_wrong(made)] == [list("bce"), list("cef"), *LAST]
    with pytest.raises(ValueError, match="2 wrong answers, wanted 3"):
        list(build.with_wrong(made[:3]))

    synset, country = build.Synset, ("@i", "c", "0000")
    nouns_of = {
        "c": synset(["country"], []),
        "t": synset(["city"], []),
        "1": synset(["Peru"], [country]),
        "2": synset(["Chile"], [country]),
        "3": synset(["Andes"], [("#p", "1", "0000")]),
        "4": synset(["Cusco"], [("@i", "t", "0000"), ("#p", "3", "0000")]),
        "5": synset(["Arica"], [("@i", "t", "0000"), ("#p", "1", "0000")]),
        "6": synset(["Arica"], [("@i", "t", "0000"), ("#p", "2", "0000")]),
    }
    (city,) = build.cities(nouns_of, lambda kind: kind == "country")
    assert city == ("Cusco", "Peru", {"Andes", "Peru"})


ASKED = [("1", "a", ""), ("2", "b", ""), ("3", "c", ""), ("4", "e", "b"), ("5", "f", "")]
LAST = [list("efa"), list("fac"), list("abc")]


# -------------------------------------------------------------------------------------- likelihoods


class Words:
    """A tokenizer of whole words; the answers are the last tokens."""

    eos_id = 0

    def __init__(self, size):
        self.size = size

    def encode(self, text):
        return [1 + sum(map(ord, word)) % (self.size - 1) for word in text.split()]


ASKED_OF = [
    _general.Choice("a", "one two three", ("d", "e", "f", "g")),
    _general.Choice("a", "four five", ("e", "f", "g", "d")),
    _general.Choice("b", "six seven eight", ("f", "g", "d", "e")),
]


@pytest.fixture
def model():
    return make_llama(seed=1, tokenizer=Words(29))


def test_likelihoods_have_two_judges(model):
    """The softmax of one row's logits; and the loss of the model where one target counts."""
    found = _general.likelihoods(model, ASKED_OF)
    for choice, row in zip(ASKED_OF, found, strict=True):
        ids = np.array([model.tokenizer.encode(choice.prompt)])
        answers = [model.tokenizer.encode(answer)[0] for answer in choice.answers]
        z = model.logits(ids)[0, -1]
        np.testing.assert_allclose(row, np.log((np.exp(z) / np.exp(z).sum())[answers]), rtol=1e-9)
        for answer, logp in zip(answers, row, strict=True):
            targets = np.full(ids.shape, IGNORED)
            targets[0, -1] = answer
            assert -float(model.loss(ids, targets).data) == pytest.approx(logp, rel=1e-9)


def test_known_likelihoods_give_known_scores(model, monkeypatch):
    """Right by ln 2, wrong by ln 4, and a tie, which is not right."""
    p = np.array([[4, 2, 1, 1], [1, 4, 2, 1], [2, 2, 1, 1]]) / 8
    logits = {tuple(model.tokenizer.encode(c.prompt)): row for c, row in zip(ASKED_OF, p)}

    def of(ids):
        z = np.full((*ids.shape, 29), -np.inf)
        for n, row in enumerate(ids):
            choice = next(c for c in ASKED_OF if model.tokenizer.encode(c.prompt) == row.tolist())
            answers = [model.tokenizer.encode(a)[0] for a in choice.answers]
            z[n, -1, answers] = np.log(logits[tuple(row.tolist())]) + 100
        return z

    monkeypatch.setattr(model, "logits", of, raising=False)
    np.testing.assert_allclose(
        np.exp(_general.likelihoods(model, ASKED_OF)), p / p.sum(axis=1, keepdims=True)
    )
    found = _general.knows(model, ASKED_OF)
    assert _words.hits(found["right"], 3).tolist() == [1, 0, 0]
    assert found["share"] == pytest.approx(1 / 3, rel=1e-5)
    assert found["margin"] == pytest.approx((np.log(2) - np.log(4)) / 3, rel=1e-5)


def test_an_answer_of_two_tokens_is_refused(model):
    with pytest.raises(ValueError, match=r"'d e', .* wanted answers of one token"):
        _general.likelihoods(model, [_general.Choice("a", "one", ("d e", "f", "g", "h"))])


def test_an_adapter_counts_and_its_base_comes_back(model):
    tuned, before = attach(model, "lora", rank=2), _general.likelihoods(model, ASKED_OF)
    for name, array in tuned.trainable.items():
        array += 0.5 * ("lora_B" in name)
    assert not np.allclose(_general.likelihoods(tuned, ASKED_OF), before)
    assert np.array_equal(_general.likelihoods(tuned.base, ASKED_OF), before)
    assert _text.losses(tuned.base) == _text.losses(model) != _text.losses(tuned)


# ------------------------------------------------------------------------------------- what it says


def said(question, text):
    (found,) = (q for q in _general.QUESTIONS if question in q[0])
    return _general.answered(text, *found)


@pytest.mark.parametrize(
    "question, text, right",
    [
        ("months", "There are twelve months in a year.", True),
        ("months", "1 year is 12 months", True),
        ("months", "A year is approximately 365 days. So, 1 year is 365 * 12 = 312 months.", False),
        ("months", "365 * 12 = 312 months", False),
        ("months", "There are 112.", False),
        ("months", "12.5", False),
        ("months", "Eleven or twelve", False),
        ("2 + 2", "2 + 2 = 4.", True),
        ("2 + 2", "2 + 2 is 22", False),
        ("2 + 2", "It is 14", False),
        ("days", "A week has 7 days.", True),
        ("days", "17", False),
        ("France", "The capital of France is Paris.", True),
        ("France", "Comparison", False),
        ("France", "Paris or London", False),
        ("France", "", False),
        ("France", "London", False),
        ("planet do we", "We live on Earth.", True),
        ("planet do we", "Earthlings", False),
        ("ocean on Earth", "The Pacific Ocean is the largest on Earth", True),
        ("water", "H2O", True),
        ("water", "H₂O", True),
        ("water", "H2O2", False),
        ("hot", "The opposite of hot is cold.", True),
        ("hot", "warm, not cold", False),
        ("hot", "They scold", False),
        ("gas", "Carbon Dioxide.", True),
        ("gas", "oxygen and carbon dioxide", False),
    ],
)
def test_an_answer_is_scored_strictly(question, text, right):
    assert said(question, text) is right


def test_every_right_answer_is_a_candidate_and_no_category():
    for question, kind, wanted in _general.QUESTIONS:
        for answer in wanted:
            assert _general.named(answer, kind) == {answer}
            assert _general.answered(f"It is {answer}.", question, kind, wanted)
    assert _general.right([wanted[0] for *_, wanted in _general.QUESTIONS]) == [True] * 20


def test_an_empty_answer_is_counted_and_shown():
    assert _general.empty(["", " \n", "Paris"]) == 2
    assert language_model._short(" \n") == "(empty)" and language_model._short("a |\nb") == "a / b"
