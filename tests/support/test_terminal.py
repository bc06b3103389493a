"""What is printed where a terminal is narrow, knows few characters, or has gone."""

import ast
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from results import make_results

from minilora.bench import tables
from minilora.cli import main
from minilora.commands import COMMANDS
from minilora.support import terminal

PACKAGE, ERRORS = Path(tables.__file__).parent.parent, terminal.ERRORS

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
    assert "Full fine-tuning" in text and "standard deviation " in text
    if encoding != "cp437":  # which has them all
        assert "-----" in text
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert b"dx is right" in done.stdout and done.returncode == 0


def test_every_sign_of_the_program_s_own_texts_has_a_plain_one():
    """A lesson's feedback, a help text, a table: no question mark stands for a sign of formulas."""
    phonemes = set("ɑæʌɔäïɛɝɪöʊʧðʤŋʃθʒ")  # letters of a task, not of a formula
    signs = set()
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
        texts = [n.value for n in nodes if isinstance(n, ast.Constant) and n not in docstrings]
        signs |= {c for text in texts if isinstance(text, str) for c in text if ord(c) > 127}
    in_tokens = {"\ufffd", "▁"}  # no text of the program has them
    signs = {c for c in signs if c.isprintable()} - phonemes - in_tokens
    missing = [c for c in signs if b"?" in c.encode("ascii", ERRORS)]
    assert signs and not missing
    assert "10⁻⁶ A⁻¹".encode("ascii", ERRORS) == b"10^-6 A^-1"


def printed(words, columns, capsys, monkeypatch):
    """The lines of a command in a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.suppress(SystemExit):
        assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_text_is_as_narrow_as_the_terminal(command, columns, capsys, monkeypatch):
    lines = printed([*command.split(), "--help"], columns, capsys, monkeypatch)
    assert lines[0].startswith("usage: minilora") and max(map(len, lines)) <= columns


@pytest.mark.parametrize("columns", [60, 80, 84])
@pytest.mark.parametrize(
    "command",
    [
        "count",
        "memory --seq 16",
        "memory --prompts 9 --answers 2",
        "memory --seq 16 --method lora --fit 0.1",
        "gradcheck",
    ],
)
def test_every_table_is_as_narrow_as_the_terminal(command, columns, capsys, monkeypatch):
    assert max(map(len, printed(command.split(), columns, capsys, monkeypatch))) <= columns


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
