"""A course folder for nbgrader: an assignment for each notebook, and the answer key.

    python notebooks/grading.py build/grading

nbgrader's own commands make the student copy from it and grade what comes back: see TEACHING.md.
"""

import argparse
import re
import textwrap
from pathlib import Path

import nbformat

import build
from minilora_course import EXERCISES, points

CONFIG = '''\
"""How nbgrader runs the notebooks of minilora."""

import os

os.environ["MINILORA_STATIC"] = "1"  # no sliders
os.environ["PYTHONWARNINGS"] = "ignore"  # none in the feedback

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "minilora"
c.ClearSolutions.code_stub = {"python": "...  # your code here"}
c.ExecutePreprocessor.timeout = 1800  # seconds for a cell: nbgrader's 30 are too few to train
c.Autograde.autograde_preprocessors = [
    "minilora_course.autograde.Graded",  # in the place of nbgrader's Execute
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
'''
OPEN = 6  # points of an open question: three rows of the rubric in TEACHING.md
KINDS = {"predict": "predict", "blank": "fill the blank", "break": "break it"}
SOLUTION = re.compile(r"^ *### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION", re.M | re.S)


def assignment(path: Path):
    """A source as nbgrader wants it: with solutions and points, without outputs."""
    made = build.notebook(path, solved=True)
    for cell in made.cells:
        role, name = role_of(cell)
        if role == "check":
            cell.metadata["nbgrader"]["points"] = points(name)
        elif role == "open":
            cell.metadata["nbgrader"]["points"] = OPEN
    return made


def role_of(cell) -> tuple[str, str]:
    """What a cell is, "exercise", "check" or "open", and of which exercise; else empty words."""
    role, _, name = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
    return role, name


def answer_key(paths) -> str:
    """Each exercise with its answer, its reason and its points, in Markdown."""
    lines = ["# Answer key", "", "For teachers. Do not put it into the folder that students get."]
    for path in paths:
        made = build.notebook(path, solved=True)
        lines += ["", f"## {made.cells[0].source.splitlines()[0].lstrip('# ')}"]
        for cell in made.cells:
            lines += entry(cell)
    return "\n".join(lines) + "\n"


def solution(source: str) -> str:
    """What stands between the marks, of all blanks of a cell."""
    return "\n\n".join(textwrap.dedent(found).rstrip() for found in SOLUTION.findall(source))


def entry(cell) -> list[str]:
    """What the key says of a cell; nothing where it asks nothing."""
    role, name = role_of(cell)
    if role not in ("exercise", "open"):
        return []
    code = textwrap.indent(solution(cell.source), "    ")
    if role == "open":
        return ["", f"**{name}** (open, {OPEN} points, by hand). One of many answers:", "", code]
    exercise, most = EXERCISES[name], points(name)
    about = f"{KINDS[exercise.kind]}, {most} point{'s' * (most > 1)}"
    lines = ["", f"**{name}** ({about}): {exercise.asks}", "", code]
    if exercise.because:
        lines += ["", f"Why: {exercise.because}"]
    slips = [f"- {wrong:,g}: {words}" for wrong, words in exercise.near.items()]
    return lines + (["", "Wrong numbers:", "", *slips] if slips else [])


def main(arguments=None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("wanted", nargs="*", help="numbers of notebooks: 04; none: all")
    chosen = parser.parse_args(arguments)
    paths = build.sources(chosen.wanted)
    for path in paths:
        place = chosen.folder / "source" / path.stem
        place.mkdir(parents=True, exist_ok=True)
        nbformat.write(assignment(path), place / f"{path.stem}.ipynb")
    (chosen.folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    (chosen.folder / "answers.md").write_text(answer_key(paths), encoding="utf-8")


if __name__ == "__main__":
    main()
