"""A course folder for nbgrader: an assignment for each notebook, and the answer key.

    python notebooks/grading.py build/grading --seed 2026

nbgrader's own commands make the student copy from it and grade what comes back: see TEACHING.md.
The seed, a whole number, draws the hidden cases: another one for each class, told to nobody.
"""

import argparse
import re
import textwrap
from pathlib import Path

import nbformat

import build
from minilora.check import EXERCISES, points

HIDDEN = """\
### BEGIN HIDDEN TESTS
from minilora.check import grade as check  # judges on other numbers, and gives the points
### END HIDDEN TESTS
"""
CONFIG = '''\
"""How nbgrader runs the notebooks of minilora."""

import os

os.environ["MINILORA_SEED"] = "{seed}"  # draws the hidden cases
os.environ["MINILORA_STATIC"] = "1"  # no sliders
os.environ["PYTHONWARNINGS"] = "ignore"  # a cell that writes to stderr would get no points

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "minilora"
c.ClearSolutions.code_stub = {{"python": "...  # your code here"}}
c.ExecutePreprocessor.timeout = 1800  # seconds for a cell: nbgrader's 30 are too few to train
'''
SOLUTION = re.compile(r"^ *### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION", re.M | re.S)


def assignment(path: Path):
    """A source as nbgrader wants it: with solutions, points and hidden cases, without outputs."""
    made = build.notebook(path, solved=True)
    for cell in made.cells:
        about = cell.metadata.get("nbgrader", {})
        if about.get("grade"):
            about["points"] = points(name_of(cell))
            cell.source = HIDDEN + cell.source
    return made


def name_of(cell) -> str:
    """The exercise that a cell asks or judges."""
    return cell.metadata["nbgrader"]["grade_id"].partition("-")[2]


def answer_key(paths) -> str:
    """Each exercise with its answer, its reason and its points, in Markdown."""
    lines = ["# Answer key", "", "For teachers. Do not put it into the folder that students get."]
    for path in paths:
        made = build.notebook(path, solved=True)
        lines += ["", f"## {made.cells[0].source.splitlines()[0].lstrip('# ')}"]
        for cell in made.cells:
            about = cell.metadata.get("nbgrader", {})
            if about.get("solution"):
                exercise = EXERCISES[name_of(cell)]
                kind = {"predict": "predict", "blank": "fill the blank", "break": "break it"}
                most = points(exercise.name)
                count = f"{most} point{'s' * (most > 1)}"
                (solution,) = SOLUTION.findall(cell.source)
                code = textwrap.indent(textwrap.dedent(solution).rstrip(), "    ")
                title = f"**{exercise.name}** ({kind[exercise.kind]}, {count})"
                lines += ["", f"{title}: {exercise.asks}", "", code]
                lines += ["", f"Why: {exercise.because}"] * bool(exercise.because)
                slips = [f"- {wrong:,g}: {words}" for wrong, words in exercise.near.items()]
                lines += ["", "Wrong answers:", "", *slips] if slips else []
    return "\n".join(lines) + "\n"


def main(arguments=None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("wanted", nargs="*", help="numbers of notebooks: 04; none: all")
    parser.add_argument("--seed", type=int, required=True, help="draws the hidden cases")
    chosen = parser.parse_args(arguments)
    paths = build.sources(chosen.wanted)
    for path in paths:
        place = chosen.folder / "source" / path.stem
        place.mkdir(parents=True, exist_ok=True)
        nbformat.write(assignment(path), place / f"{path.stem}.ipynb")
    (chosen.folder / "nbgrader_config.py").write_text(
        CONFIG.format(seed=chosen.seed), encoding="utf-8"
    )
    (chosen.folder / "answers.md").write_text(answer_key(paths), encoding="utf-8")


if __name__ == "__main__":
    main()
