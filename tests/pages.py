"""Pages whose code blocks begin with `$ minilora …` and show what that prints, and pages with the
tables of committed records.

    python tests/pages.py docs/memory.md docs/errata.md docs/claims.md

writes blocks and tables of these pages anew.
"""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import studies
from minilora.cli import main
from minilora.lab import cells
from studies import claims

BLOCK = re.compile(r"^```\n\$ minilora (.+)\n((?:(?!```).*\n)*)```$", re.M)
TABLE = re.compile(r"^<!-- record: (\w+) -->\n(.*?)<!-- end -->$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(command, output) of every block."""
    return [(m[1], m[2].rstrip()) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def records(page: Path) -> list[tuple[str, str]]:
    """(study, table) of every table of a record."""
    return [(m[1], m[2].strip()) for m in TABLE.finditer(page.read_text(encoding="utf-8"))]


def table(name: str) -> str:
    """The table of a study's committed record; of "claims": every study's rows."""
    if name == "claims":
        return verdicts()
    return studies.study(name).table(cells.read(studies.record_path(name))).strip()


def verdicts() -> str:
    """Claim, study, what came out, verdict."""
    rows = ["| claim | study | what came out | verdict |", "| --- | --- | --- | --- |"]
    for name in studies.ORDER:
        if not studies.record_path(name).is_file():
            continue
        for claim in claims.claims(name, cells.read(studies.record_path(name))):
            place = f"[{name}](#{name.replace('_', '-')})"
            rows.append(f"| {claim.sentence} | {place} | {claim.evidence} | **{claim.verdict}** |")
    return "\n".join(rows)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```$.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def output(command: str) -> str:
    """What `minilora command` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(shlex.split(command)) == 0, command
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip()


def write(page: Path) -> None:
    """Run every block's command and put in what it prints; put in every record's table."""
    text = page.read_text(encoding="utf-8")
    again = BLOCK.sub(lambda m: f"```\n$ minilora {m[1]}\n{output(m[1])}\n```", text)
    again = TABLE.sub(_filled, again)
    page.write_text(again, encoding="utf-8")


def _filled(match: re.Match) -> str:
    """The table between its markers; as it was where there is no record yet."""
    name = match[1]
    if name != "claims" and not studies.record_path(name).is_file():
        return match[0]
    return f"<!-- record: {name} -->\n\n{table(name)}\n\n<!-- end -->"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
