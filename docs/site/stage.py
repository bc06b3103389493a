"""The folder that Sphinx reads: the repository's pages and notebooks, and the files they link to.

The repository has nothing twice: each build makes this folder anew. Its folders are the
repository's, so links between pages stay as they are. A link to a file that is no page becomes a
link to a page that shows it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from minilora import ops
from minilora.engine import Op
from minilora.methods import METHODS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "TEACHING.md"]
PAGES += [f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")]
PAGES += [f"notebooks/{p.name}" for p in sorted((ROOT / "notebooks").glob("*.ipynb"))]
TITLES = {"rmsnorm": "RMSNorm", "rope": "RoPE", "swiglu": "SwiGLU"}  # of an op's file
OWN = "index.md", "calculator.md", "api.md"  # of this folder
LISTED = ".py", ".ipynb", ".json"  # of a folder
SHOWN = {  # suffix of a file that is shown as it is -> its language
    ".py": "python", ".json": "json", ".toml": "toml", ".gift": "text", "": "text"
}  # fmt: skip
LINK = re.compile(r"(!?\[[^\]\[]*(?:!\[[^\]]*\]\([^)]*\))?\])\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
# a picture that is a link, as GitHub wants it to have a width
PICTURE = re.compile(r'<a href="([^"]+)"><img src="([^"]+)" width="\d+" alt="([^"]*)"></a>')


class Stage:
    """Writes pages into a folder, and remembers which files they link to."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.waiting: list[str] = []  # files of the repository that are linked to
        self.done: set[str] = set(PAGES)
        self.written: set[Path] = set()

    def write(self, name: str, text: str) -> None:
        """A page. One that has not changed keeps its time: Sphinx does not read it again."""
        path = self.folder / name
        self.written.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")

    def linked(self, text: str, name: str) -> str:
        """A page's text with its links turned to pages of the site."""
        folder = PurePosixPath(name).parent

        def turned(match):
            label, target, anchor = match[1], match[2], match[3] or ""
            file = os.path.normpath(folder / target)
            if label.startswith("!") or not (ROOT / file).exists():
                return match[0]
            page = self.page_of(file)
            if page != file:  # lines of a file have no anchor
                anchor = ""
            return f"{label}({os.path.relpath(page, folder)}{anchor})"

        text = PICTURE.sub(lambda m: f"[![{m[3]}]({m[2]})]({m[1]})", text)
        return LINK.sub(turned, text)

    def page_of(self, file: str) -> str:
        """The page that shows a file of the repository; it is written later."""
        if file not in self.done:
            self.done.add(file)
            self.waiting.append(file)
        if (ROOT / file).is_dir():
            return f"source/{file}/index.md"
        return file if file.endswith((".md", ".ipynb")) else f"source/{file}.md"

    def page(self, name: str) -> None:
        """A page or a notebook of the repository."""
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".md"):
            self.write(name, self.linked(text, name))
            return
        book = json.loads(text)
        for cell in book["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.linked("".join(cell["source"]), name)
            for alt in alternatives(cell):
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
        self.write(name, json.dumps(book, ensure_ascii=False))

    def source(self, name: str) -> None:
        """A page that shows a file, or that lists what is in a folder."""
        path = ROOT / name
        if path.is_dir():
            files = sorted(p.name for p in path.iterdir() if p.suffix in LISTED)
            lines = "\n".join(f"- {file}" for file in files)
            self.write(f"source/{name}/index.md", f"# {name}\n\nThe folder's files:\n\n{lines}\n")
            return
        if path.suffix not in SHOWN:
            raise ValueError(f"{name}: a page links to it, and the site cannot show {path.suffix}")
        text = path.read_text(encoding="utf-8")
        fenced = f"# {name}\n\n~~~~~~~~{SHOWN[path.suffix]}\n{text}~~~~~~~~\n"
        self.write(f"source/{name}.md", fenced)

    def clear(self) -> None:
        """Remove the pages of an earlier build that this one did not write."""
        for pattern in ("*.md", "*.ipynb"):
            for path in set(self.folder.rglob(pattern)) - self.written:
                path.unlink()


def alternatives(cell: dict) -> Iterator[str]:
    """What the figures of a cell show, in words: the notebooks' builder wrote it beside them."""
    for output in cell.get("outputs", ()):
        for kind, about in output.get("metadata", {}).items():
            if kind.startswith("image/") and about.get("alt"):
                yield about["alt"].replace("\n", " ")


def mathematics(stage: Stage) -> None:
    """A page a technique and a page an op's file, and the two pages that list them."""
    for name, record in METHODS.items():
        text = f"# {record.title}\n\n```{{mathematics}} minilora.methods.{name}\n```\n"
        stage.write(f"techniques/{name}.md", text)
    rows = [
        f"| [{m.title}](techniques/{name}.md) | {{formula}}`{m.formula}` | {m.source} |"
        for name, m in METHODS.items()
    ]
    words = "Each page shows what stands in the technique's file: the words are its docstrings."
    table = "\n".join(["| technique | adapted weight | source |", "|---|---|---|", *rows])
    toctree = "\n".join(f"techniques/{name}" for name in METHODS)
    hidden = "```{toctree}\n:hidden:\n\n" + toctree + "\n```\n"
    stage.write("techniques.md", f"# Techniques\n\n{words}\n\n{table}\n\n{hidden}")

    found = [op.forward.__module__ for op in vars(ops).values() if isinstance(op, Op)]
    homes = dict.fromkeys(module.rsplit(".", 1)[-1] for module in found)
    for home in homes:
        title = TITLES.get(home, home.replace("_", " ").capitalize())
        text = f"# {title}\n\n```{{mathematics}} minilora.ops.{home}\n```\n"
        stage.write(f"model/{home}.md", text)
    words = "The parts of the model, a file each. The words are its docstrings."
    toctree = "```{toctree}\n\n" + "\n".join(f"model/{home}" for home in homes) + "\n```\n"
    stage.write("model.md", f"# The model\n\n{words}\n\n{toctree}")


def make(folder: Path) -> None:
    """Write the folder that Sphinx reads."""
    stage = Stage(folder)
    for name in OWN:
        text = (HERE / name).read_text(encoding="utf-8")
        stage.write(name, text.replace("](../figures/", "](docs/figures/"))
    shutil.copy(HERE / "calculator.html", folder)
    mathematics(stage)
    for name in PAGES:
        stage.page(name)
    shown = []
    while stage.waiting:
        name = stage.waiting.pop()
        if name.endswith((".md", ".ipynb")):
            stage.page(name)
        else:
            stage.source(name)
        shown.append(stage.page_of(name).removesuffix(".md").removesuffix(".ipynb"))
    listed = "\n".join(sorted(shown))
    hidden = "```{toctree}\n:maxdepth: 1\n\n" + listed + "\n```\n"
    stage.write("source.md", f"# Files\n\nThe files that the pages name.\n\n{hidden}")
    stage.clear()
    shutil.copytree(ROOT / "docs" / "figures", folder / "docs" / "figures", dirs_exist_ok=True)
