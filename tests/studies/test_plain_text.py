"""The plain text on which studies measure a language model's loss, and that loss."""

import hashlib
import importlib
import json
import math

import numpy as np
import pytest
from conftest import make_llama

from minilora.support.files import data_folder
from minilora.tuning.adapters import attach
from studies import _text

FOLDER = data_folder() / "text"
TEXT = (FOLDER / "workshop.txt").read_text(encoding="utf-8")


def test_the_text_is_what_its_record_says():
    record = json.loads((FOLDER / "SOURCES.json").read_text(encoding="utf-8"))
    assert record["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert record["words"] == len(TEXT.split())
    assert "public domain" in (FOLDER / "NOTICE.md").read_text(encoding="utf-8")


def test_a_paragraph_is_a_line(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER.parent)
    build = importlib.import_module("build_text")
    pages = (
        f"title\r\n\r\n   {build.FIRST}\r\nmany  people. \r\n\r\nEnd.\r\n\r\n {build.AFTER} more"
    )
    assert build.paragraphs(pages) == f"{build.FIRST} many people.\n\nEnd.\n"


@pytest.fixture
def model():
    made = make_llama(seed=1)
    made.tokenizer = Letters(made.config.vocab_size)
    return made


class Letters:
    """A tokenizer of so many ids."""

    def __init__(self, size):
        self.size = size

    def encode(self, text):
        return [ord(c) % self.size for c in text[: 3 * _text.WINDOW // 2]]


def test_the_loss_is_that_of_the_logits(model):
    """By hand, from the softmax of the logits; a part of a window is left out."""
    (loss,) = _text.losses(model)
    ids = np.array(model.tokenizer.encode(TEXT)[: _text.WINDOW])
    z = model.logits(ids[None])[0, :-1].astype(float)
    chosen = z[np.arange(len(z)), ids[1:]]
    wanted = np.mean(np.log(np.exp(z).sum(axis=1)) - chosen)
    assert loss == pytest.approx(wanted, rel=1e-5) and loss < 2 * math.log(len(z))


def test_an_adapter_counts(model):
    tuned = attach(model, "lora", rank=2)
    assert _text.losses(tuned) == _text.losses(model)
    for name, array in tuned.trainable.items():
        array += 0.5 * ("lora_B" in name)
    assert _text.losses(tuned) != _text.losses(model)
