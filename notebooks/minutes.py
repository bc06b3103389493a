"""The minutes of each notebook, counted from its source.

    python notebooks/minutes.py            print the table of TEACHING.md
    python notebooks/minutes.py --write    write the numbers wherever they are quoted

To read: 130 words a minute, a speed for technical text in a second language; 8 seconds a line of
code; a minute for each displayed formula and each figure. To do: 3 minutes to predict a number,
4 to break a function; for a function to write 3 for each of its outputs, and 1 for each line of its
solution; for an open question 1.5 for each line of its solution, and at least 8. Both are rounded
up to 5.
"""

import argparse
import ast
import functools
import math
import re
from pathlib import Path
from typing import NamedTuple

import build
import grading
from minilora_course import EXERCISES, points

ROOT = Path(__file__).parent.parent
WORDS_A_MINUTE, SECONDS_A_LINE = 130, 8
QUOTED = re.compile(r"\d+ minutes to read, \d+ to do")
TEACHING = ROOT / "TEACHING.md"
PATH = re.compile(  # a row of TEACHING.md: a path through the course, or a week of its plan
    r"^(?P<start>\| `(?P<name>[\w-]+)`[^|]* \| )(?P<notebooks>\d\d\w*(?:, \d\d\w*)*) \| \d+ \|",
    re.M,
)
START = (
    "| notebook | words | lines of code | formulas, figures | exercises, open | to read | to do |"
)


class Size(NamedTuple):
    """What there is to read and to do in a notebook."""

    title: str
    words: int
    lines: int  # of code, without exercises and their checks
    formulas: int
    figures: int
    exercises: dict[str, int]  # name -> lines of its solution
    open: tuple[int, ...]  # of each question that no check judges, the lines of its solution

    @property
    def to_read(self) -> int:
        """Minutes."""
        text = self.words / WORDS_A_MINUTE + self.lines * SECONDS_A_LINE / 60
        return _to_five(text + self.formulas + self.figures)

    @property
    def to_do(self) -> int:
        """Minutes."""
        each = {"predict": 3, "break": 4}
        written = self.exercises.items()
        asked = sum(each.get(EXERCISES[n].kind) or 3 * points(n) + lines for n, lines in written)
        return _to_five(asked + sum(max(8, 1.5 * lines) for lines in self.open))


def _to_five(minutes: float) -> int:
    return 5 * math.ceil(minutes / 5)


def size(path: Path) -> Size:
    """Count one source."""
    cells = build.parts(path)
    words = lines = formulas = figures = 0
    exercises, asked = {}, []
    for kind, cell in ((kind.split(), cell) for kind, cell in cells):
        if kind == ["[markdown]"]:
            formulas += cell.count("$$") // 2
            prose = re.sub(r"\$\$.*?\$\$|\]\([^)]*\)", " ", cell, flags=re.S)
            prose = re.sub(r"\$[^$]+\$", " x ", prose)  # a formula in a line: one word
            words += len(re.findall(r"[^\W_][\w'’-]*", prose))
        elif kind[:1] == ["exercise"]:
            exercises[kind[1]] = _lines(grading.solution(cell))
        elif kind[:1] == ["open"]:
            asked.append(_lines(grading.solution(cell)))
        elif kind[:1] != ["check"]:
            figures += "caption = " in cell
            lines += _lines(cell)
    title = re.search(r"^# (.*)$", cells[0][1], re.M)[1]
    return Size(title, words, lines, formulas, figures, exercises, tuple(asked))


def _lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())


def written(path: Path) -> tuple[int, int]:
    """Lines of code that a student writes, and all: everything but imports counts.

    A line of code is one on which a statement has a part; docstrings and comments are none.
    """
    by_student = whole = 0
    for kind, cell in build.parts(path):
        if kind.split() == ["[markdown]"]:
            continue
        marks = [n for n, line in enumerate(cell.splitlines(), 1) if "### " in line]
        lines = _code_lines(ast.parse(cell).body)
        whole += len(lines)
        ends = zip(marks[::2], marks[1::2])
        by_student += sum(first < n < last for first, last in ends for n in lines)
    return by_student, whole


def _code_lines(body) -> set[int]:
    """The lines of these statements that are neither imports nor docstrings."""
    lines: set[int] = set()
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        inner = [n for name in ("body", "handlers", "orelse") for n in getattr(node, name, [])]
        if inner and all(isinstance(n, ast.stmt | ast.ExceptHandler) for n in inner):
            lines |= {*range(node.lineno, inner[0].lineno)} | _code_lines(inner)
        else:
            lines |= {*range(node.lineno, node.end_lineno + 1)}
    return lines


def _share() -> str:
    """A row of the table: how much of the code students write."""
    own, whole = map(sum, zip(*map(written, build.sources())))
    words = f"{own:,} of {whole:,}: {own / whole:.0%}"
    return f"| lines that students write, imports not counted | | {words} | | | | |"


def table() -> str:
    """The table of TEACHING.md, with its sums."""
    rows, sums = [START, "|---|---|---|---|---|---|---|"], [0] * 8
    for path in build.sources():
        s = size(path)
        asked = len(s.exercises), len(s.open)
        counts = s.words, s.lines, s.formulas, s.figures, *asked, s.to_read, s.to_do
        link = f"[{s.title}](notebooks/{path.stem}.ipynb)"
        rows.append(_row(link, counts))
        sums = [a + b for a, b in zip(sums, counts)]
    return "\n".join([*rows, _share(), _row("all", sums)])


def _row(name, counts) -> str:
    words, lines, formulas, figures, exercises, asked, to_read, to_do = counts
    cells = f"{words:,}", f"{lines:,}", f"{formulas}, {figures}", f"{exercises}, {asked}"
    return "| " + " | ".join([name, *cells, str(to_read), str(to_do)]) + " |"


def quoted() -> dict[Path, str]:
    """Each file that quotes minutes -> its text with the right ones."""
    found, minutes = {}, {}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in build.sources():
        s = size(path)
        minutes[build.number(path)] = s.to_read + s.to_do
        name = f"{path.stem}.ipynb"
        for file in (path, build.HERE / name, build.HERE / "solutions" / name):
            text = file.read_text(encoding="utf-8")
            found[file] = QUOTED.sub(f"{s.to_read} minutes to read, {s.to_do} to do", text, count=1)
        row = rf"^(\|.*\]\(notebooks/{path.stem}\.ipynb\) \|.* \|) \d+, \d+ \| \d+ \|$"
        now = rf"\1 {s.to_read}, {s.to_do} | {len(s.exercises)} |"
        readme = re.sub(row, now, readme, flags=re.M)
    teaching = TEACHING.read_text(encoding="utf-8")
    old = re.compile(re.escape(START) + r"\n(?:\|.*\n)*?\| all \|.*")
    teaching = PATH.sub(functools.partial(_path_row, minutes), old.sub(lambda _: table(), teaching))
    return found | {ROOT / "README.md": readme, TEACHING: teaching}


def paths() -> dict[str, list[str]]:
    """The paths and the weeks of TEACHING.md: name -> the numbers of its notebooks."""
    rows = PATH.finditer(TEACHING.read_text(encoding="utf-8"))
    return {row["name"]: row["notebooks"].split(", ") for row in rows}


def _path_row(minutes: dict[str, int], row: re.Match) -> str:
    """A path through the course, with the sum of its notebooks' minutes."""
    total = sum(minutes[n] for n in row["notebooks"].split(", "))
    return f"{row['start']}{row['notebooks']} | {total} |"


def main(arguments=None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args(arguments).write:
        print(table())
        return
    for file, text in quoted().items():
        if text != file.read_text(encoding="utf-8"):
            file.write_text(text, encoding="utf-8")
            print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
