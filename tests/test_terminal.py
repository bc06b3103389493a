"""What is printed where a terminal is narrow, knows few characters, or has gone."""

import json
import os
import subprocess
import sys

import pytest
from test_report import make_results

from minilora.lab import table
from minilora.support import terminal

SCRIPT = """
from minilora.check import check_pair
import numpy as np
check_pair(lambda x: (2 * x, None), lambda dy, _: (2 * dy,), np.ones(3))
"""


def minilora(*words, **environment):
    """A command in a process of its own -> (exit code, stdout, stderr) in bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "minilora", *map(str, words)],
        capture_output=True,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path):
    """A folder made by compare."""
    (tmp_path / "results.json").write_text(json.dumps(make_results()), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
def test_a_terminal_of_few_characters(folder, encoding):
    """The table, after all the training, and a check's verdict."""
    code, out, err = minilora("report", folder, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"")
    text = out.decode(encoding)
    assert "Full fine-tuning" in text and "standard error " in text
    if encoding != "cp437":  # which has them all
        assert "-----" in text and "error sqrt(p(1-p)/n)" in text
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert b"dx is right" in done.stdout and done.returncode == 0


def test_a_narrow_terminal(folder):
    for columns in (60, 80, 200):
        code, out, _ = minilora("report", folder, COLUMNS=str(columns), PYTHONIOENCODING="utf-8")
        lines = out.decode().splitlines()
        assert code == 0 and max(map(len, lines)) <= min(columns, 110)


def test_a_narrow_table_has_all_columns():
    results = make_results()
    wide, narrow = (table.table(results, width) for width in (110, 60))
    for _, group in table.COLUMNS:
        for head, cell in group:
            for text in (head, *map(cell, results["methods"].values())):
                assert text in narrow and text in wide
    assert narrow.count("\nLoRA ") == wide.count("\nLoRA ") + 2


def test_the_width_is_the_terminal_s(monkeypatch):
    for columns, wanted in (("60", 60), ("300", 110), ("3", 20)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal.width() == wanted
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(sys, "__stdout__", None)
    assert terminal.width() == 110


@pytest.mark.skipif(os.name != "posix", reason="a pipe of a shell")
def test_a_pipe_that_nobody_reads_any_more(folder):
    """minilora … | head -1: no word, and the exit code that other programs give."""
    for command in ("report", "count"):
        words = [sys.executable, "-m", "minilora", command, *([folder] * (command == "report"))]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
        process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="a shell's >&-")
def test_output_that_is_closed(folder):
    line = [sys.executable, "-m", "minilora", "count"]
    for closed in (1, 2):
        done = subprocess.run(line, preexec_fn=lambda fd=closed: os.close(fd))
        assert done.returncode == 0


def test_no_colour_is_printed(folder):
    """NO_COLOR has nothing to switch off but what argparse colours itself."""
    for words in (["report", folder], ["count"], ["train", "--help"], ["--help"]):
        code, out, err = minilora(*words, NO_COLOR="1", FORCE_COLOR="")
        assert code == 0 and b"\x1b" not in out + err
    assert json.loads(minilora("count", "--json")[1])
