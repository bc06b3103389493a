"""The notebooks, from their sources in src/.

    python notebooks/build.py [04 …]              run them; write NN.ipynb and solutions/NN.ipynb,
                                                  and the README's small copy of one figure
    python notebooks/build.py --address           put the repository's address into the committed
                                                  notebooks, without running them

A source is a Python file in cells. `# %% [markdown]` begins one of text, in triple quotes; `# %%`
one of code; `# %% figure` the one whose figure the README shows; `# %% exercise NAME` one that a
reader fills in, its solution between nbgrader's markers; `# %% check NAME` the one that judges it;
`# %% open NAME` one that a reader fills in and nothing judges, also with a solution.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import textwrap
from pathlib import Path

import launch
import nbformat
from nbclient import NotebookClient
from PIL import Image

from minilora_course import kept

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures" / "course"
EMPTY = "# your code here"  # in a cell that is a solution as a whole
WIDTH = 480  # pixels of a small copy: twice what the README shows
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n?", re.M | re.S)
SECONDS = 1800  # a cell may take at most so long: a busy machine is no error


def sources(wanted=()) -> list[Path]:
    """The sources of the numbers or names that are wanted; all where there is none."""
    found = sorted((HERE / "src").glob("*.py"))
    return [p for p in found if not wanted or number(p) in wanted or p.stem in wanted]


def number(path: Path) -> str:
    """A notebook's number: 04; 01b is between 01 and 02."""
    return path.stem.partition("_")[0]


def parts(path: Path) -> list[tuple[str, str]]:
    """The cells of a source: what stands behind `# %%`, and the text."""
    found = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    return list(zip(found[::2], found[1::2]))


def notebook(path: Path, solved: bool):
    """A source as a notebook without outputs."""
    made = [
        cell(kind.split(), text, f"{number(path)}-{i:02}", solved)
        for i, (kind, text) in enumerate(parts(path))
    ]
    imports = next(cell for cell in made if cell.cell_type == "code")
    imports.source = launch.lines(launch.address(), imports.source) + imports.source
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=made, metadata=about)


def cell(kind: list[str], text: str, number: str, solved: bool):
    """One cell; kind: what stands behind its `# %%`."""
    if kind == ["[markdown]"]:
        words = re.fullmatch(r'r?"""\n(.*)"""', text.strip(), re.S)[1]
        return nbformat.v4.new_markdown_cell(words.strip(), id=number)
    code = text if solved else SOLUTION.sub(blank, text)
    made = nbformat.v4.new_code_cell(textwrap.dedent(code).strip() or EMPTY, id=number)
    if kind == ["figure"]:
        made.metadata["tags"] = kind
    elif kind:
        role, name = kind
        graded = role in ("check", "open")  # an open one by the teacher
        points = {"points": 1} if graded else {}
        made.metadata["nbgrader"] = {
            "schema_version": 3,
            "grade_id": f"{role}-{name}",
            "solution": role != "check",
            "grade": graded,
            "locked": role == "check",
            "task": False,
            **points,
        }
    return made


def blank(solution: re.Match) -> str:
    """What a student finds in a solution's place: in a function a line to fill, else nothing."""
    return f"{solution[1]}...  # your code here\n" if solution[1] else ""


def run(made, students_file: str = ""):
    """Run a notebook from its top in a fresh kernel; an error in a cell is raised.

    students_file: what a student has kept before.
    """
    # one thread of BLAS: two that wait for each other on a busy machine are far slower
    os.environ |= {"MINILORA_STATIC": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my_minilora.py"
        if students_file:
            path.write_text(students_file, encoding="utf-8")
        os.environ["MINILORA_MINE"] = str(path)
        return _run(made)


def kept_before(path: Path) -> str:
    """The file of a student who has solved, and kept, all that is asked before a notebook."""
    found = [kept.HEADER]
    for earlier in (p for p in sources() if p < path):
        cells = {kind.split()[-1]: text for kind, text in parts(earlier) if " exercise" in kind}
        asked = re.findall(r'^course.keep\("(\w+)", (.*)\)', earlier.read_text("utf-8"), re.M)
        for name, functions in asked:
            found.append(re.sub(r"^ *### .*\n", "", cells[name], flags=re.M).strip())
            found += [f"{name} = {functions}"] * (functions != name)
    return "\n\n\n".join(part.strip() for part in found) + "\n"


def _run(made):
    client = NotebookClient(
        made,
        timeout=SECONDS,
        record_timing=False,
        coalesce_streams=True,  # how a stream is cut depends on time
        resources={"metadata": {"path": str(HERE)}},
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors: no word on TCP to localhost
    )
    done = client.execute()
    done.metadata["language_info"] = {"name": "python"}  # without the version that ran it
    done.metadata.pop("widgets", None)
    return done


def put_address(path: Path) -> None:
    """Write the first cell of code of a committed notebook anew: it names the repository."""
    for solved, folder in ((False, HERE), (True, HERE / "solutions")):
        file = folder / f"{path.stem}.ipynb"
        kept = nbformat.read(file, as_version=4)
        for old, new in zip(kept.cells, notebook(path, solved).cells):
            if old.cell_type == "code":
                old.source = new.source
                break
        nbformat.write(kept, file)


def thumbnail(done) -> bytes:
    """The figure that a notebook is remembered for, small: a PNG of 256 colours."""
    (cell,) = [cell for cell in done.cells if "figure" in cell.metadata.get("tags", ())]
    (drawn,) = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    image = Image.open(io.BytesIO(base64.b64decode(drawn))).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def main(arguments=None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wanted", nargs="*", help="numbers of notebooks: 04; none: all")
    parser.add_argument("--address", action="store_true", help="write it into what is committed")
    chosen = parser.parse_args(arguments)
    for path in sources(chosen.wanted):
        name = f"{path.stem}.ipynb"
        if chosen.address:
            put_address(path)
            continue
        print(name, file=sys.stderr)
        done = run(notebook(path, solved=False))
        nbformat.write(done, HERE / name)
        FIGURES.mkdir(exist_ok=True)
        (FIGURES / f"{number(path)}.png").write_bytes(thumbnail(done))
        (HERE / "solutions").mkdir(exist_ok=True)
        done = run(notebook(path, solved=True), kept_before(path))
        nbformat.write(done, HERE / "solutions" / name)


if __name__ == "__main__":
    main()
