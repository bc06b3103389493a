"""Pages whose code blocks begin with `$ minilora …` or `$ python -m studies.…` and show what that
prints, and pages with the tables of committed records.

    python tests/pages.py docs/memory.md docs/errata.md docs/claims.md

writes blocks and tables of these pages anew.
"""

import contextlib
import importlib
import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import studies
from minilora.cli import main
from minilora.lab import cells
from studies import claims

BLOCK = re.compile(r"^```\n\$ (minilora .+|python -m studies.+)\n((?:(?!```).*\n)*)```$", re.M)
TABLE = re.compile(r"^<!-- record: (\w+) -->\n(.*?)<!-- end -->$", re.M | re.S)
FORM = re.compile(r"^<!-- questions: (\w+) -->\n(.*?)<!-- end -->$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(command, output) of every block."""
    return [(m[1], m[2].rstrip()) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def records(page: Path) -> list[tuple[str, str]]:
    """(study, table) of every table of a record."""
    return [(m[1], m[2].strip()) for m in TABLE.finditer(page.read_text(encoding="utf-8"))]


def forms(page: Path) -> list[tuple[str, str]]:
    """(study, its questions) of every list of questions."""
    return [(m[1], m[2].strip()) for m in FORM.finditer(page.read_text(encoding="utf-8"))]


def table(name: str) -> str:
    """The table of a study's committed record; of "claims": every study's rows; of "sentences":
    every sentence with its verdicts.
    """
    if name == "claims":
        return verdicts()
    if name == "sentences":
        return sentences()
    return studies.study(name).table(cells.read(studies.record_path(name))).strip()


def is_whole(name: str) -> bool:
    """Does the committed record hold all of the study's cells and nothing else?"""
    path = studies.record_path(name)
    if not path.is_file():
        return False
    known = {json.dumps(r["cell"], sort_keys=True): r for r in cells.read(path)}

    def run(wanted, part):
        return [known[json.dumps(cell, sort_keys=True)] for cell in wanted]

    try:
        records = studies.completed(studies.study(name), run)
    except (KeyError, ValueError):  # a cell is missing, or a result is of an older form
        return False
    return [r["cell"] for r in records] == [r["cell"] for r in cells.read(path)]


def whole(name: str) -> list:
    """The committed record; skips the test where it is yet to be made again, which a test in
    test_studies.py says.
    """
    if not is_whole(name):
        pytest.skip(f"the record is yet to be made: python -m studies {name}")
    return cells.read(studies.record_path(name))


def verdicts() -> str:
    """Number, claim, study, what came out, verdict: of every study whose record is whole."""
    lines = ["| no. | claim | study | what came out | verdict |", "| --- | --- | --- | --- | --- |"]
    for row in rows():
        place = link(row.study) if row.study else "–"
        said = (row.numbers, row.sentence, place, row.evidence, f"**{row.verdict}**")
        lines.append(f"| {' | '.join(said)} |")
    return "\n".join(lines)


def sentences() -> str:
    """Number, sentence, and the verdict of each study that answers it."""
    lines = ["| no. | sentence | verdicts |", "| --- | --- | --- |"]
    for number, text, found in claims.answers(rows()):
        said = [f"{link(study)}: {verdict}" if study else verdict for study, verdict in found]
        lines.append(f"| {number} | {text} | {'. '.join(said)} |")
    return "\n".join(lines)


def rows() -> list[claims.Row]:
    """The lines of the page, of every study whose record is whole."""
    names = [n for n in (*studies.ORDER, *studies.APART) if is_whole(n)]
    return claims.rows({name: cells.read(studies.record_path(name)) for name in names})


def link(study: str) -> str:
    """The place of a study on the page."""
    return f"[{study}](#{study.replace('_', '-')})"


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```$.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def output(command: str) -> str:
    """What a command prints."""
    words, run = shlex.split(command)[1:], main
    if words[0] == "-m":
        run = importlib.import_module(f"{words[1]}.__main__").main
        words = words[2:]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(words) == 0, command
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip()


def write(page: Path) -> None:
    """Run every block's command and put in what it prints; put in every record's table."""
    text = page.read_text(encoding="utf-8")
    again = BLOCK.sub(lambda m: f"```\n$ {m[1]}\n{output(m[1])}\n```", text)
    again = TABLE.sub(_filled, again)
    again = FORM.sub(
        lambda m: f"<!-- questions: {m[1]} -->\n\n{claims.form(m[1])}\n\n<!-- end -->", again
    )
    page.write_text(again, encoding="utf-8")


def _filled(match: re.Match) -> str:
    """The table between its markers; as it was where there is no record yet."""
    name = match[1]
    if name not in ("claims", "sentences") and not is_whole(name):
        return match[0]
    return f"<!-- record: {name} -->\n\n{table(name)}\n\n<!-- end -->"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
