"""The notebooks, from their sources in src/.

    python notebooks/build.py [04 …]              run them; write NN.ipynb and solutions/NN.ipynb,
                                                  and the README's small copy of one figure
    python notebooks/build.py --student FOLDER    copies to hand out: no solutions, no outputs

A source is a Python file in cells. `# %% [markdown]` begins one of text, in triple quotes; `# %%`
one of code; `# %% figure` the one whose figure the README shows; `# %% exercise NAME` one that a
reader fills in, its solution between nbgrader's markers; `# %% check NAME` the one that judges it.
"""

import argparse
import base64
import io
import os
import re
import sys
import textwrap
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures" / "course"
WIDTH = 480  # pixels of a small copy: twice what the README shows
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n?", re.M | re.S)
SECONDS = 1800  # a cell may take at most so long: a busy machine is no error


def sources(wanted=()) -> list[Path]:
    """The sources whose names begin with one of the words wanted; all where there is none."""
    found = sorted((HERE / "src").glob("*.py"))
    return [path for path in found if not wanted or path.name.startswith(tuple(wanted))]


def notebook(path: Path, solved: bool):
    """A source as a notebook without outputs."""
    parts = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    made = [
        cell(kind.split(), text, f"{path.stem[:2]}-{i:02}", solved)
        for i, (kind, text) in enumerate(zip(parts[::2], parts[1::2]))
    ]
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
    made = nbformat.v4.new_code_cell(textwrap.dedent(code).strip(), id=number)
    if kind == ["figure"]:
        made.metadata["tags"] = kind
    elif kind:
        role, name = kind
        graded = role == "check"
        points = {"points": 1} if graded else {}
        made.metadata["nbgrader"] = {
            "schema_version": 3,
            "grade_id": f"{role}-{name}",
            "solution": not graded,
            "grade": graded,
            "locked": graded,
            "task": False,
            **points,
        }
    return made


def blank(solution: re.Match) -> str:
    """What a student finds in a solution's place: in a function a line to fill, else nothing."""
    return f"{solution[1]}...  # your code here\n" if solution[1] else ""


def run(made):
    """Run a notebook from its top in a fresh kernel; an error in a cell is raised."""
    # one thread of BLAS: two that wait for each other on a busy machine are far slower
    os.environ |= {"MINILORA_STATIC": "1", "OPENBLAS_NUM_THREADS": "1"}
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
    parser.add_argument("--student", metavar="FOLDER", type=Path)
    chosen = parser.parse_args(arguments)
    for path in sources(chosen.wanted):
        name = f"{path.stem}.ipynb"
        if chosen.student:
            chosen.student.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook(path, solved=False), chosen.student / name)
            continue
        print(name, file=sys.stderr)
        done = run(notebook(path, solved=False))
        nbformat.write(done, HERE / name)
        FIGURES.mkdir(exist_ok=True)
        (FIGURES / f"{path.stem[:2]}.png").write_bytes(thumbnail(done))
        (HERE / "solutions").mkdir(exist_ok=True)
        nbformat.write(run(notebook(path, solved=True)), HERE / "solutions" / name)


if __name__ == "__main__":
    main()
