"""Tokens a second beside what memory allows."""

import re

import numpy as np
import pytest
from conftest import make_llama

from minilora import cli
from minilora.bench import decoding, machine


def test_the_bandwidth_is_a_machines():
    assert 1e8 < machine.read_bandwidth(nbytes=1 << 24, tries=3) < 1e13


@pytest.mark.parametrize("tied", [True, False])
def test_the_line_by_hand(tied):
    """Four tokens, 0.1 s apart; the bytes are those that a token reads."""
    model = make_llama(dtype=np.float32, tie_word_embeddings=tied)
    clock = decoding.Clock()
    clock.times = [5.0, 5.1, 5.2, 5.3]
    numbers = 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16 + 2 * 16) + 16 + 29 * 16
    line = clock.line(model, bandwidth=4 * numbers * 20.0)
    assert line.startswith("10.0 tokens a second (median of 3)") and line.endswith(" 50%")
    clock.times = clock.times[:2]
    with pytest.raises(ValueError, match="2 tokens, wanted at least 3"):
        clock.line(model, 1.0)


def test_the_command_prints_it_beside_the_text(capsys):
    assert cli.main("generate --task third --prompt laugh --speed".split()) == 0
    out = capsys.readouterr()
    assert out.out == "laughs\n"
    assert re.search(r"[\d.]+ tokens a second .* of [\d.]+ GB/s from memory, \d+%\n", out.err)
