"""Build the site: python docs/site/build.py [FOLDER], build/site where none is given.

FOLDER/html has the pages; index.html opens without a server.
"""

import hashlib
import shutil
import sys
import time
from pathlib import Path

import conf
import formulas
import stage
import step
from sphinx.cmd.build import main as sphinx

STATIC = "site.css", "site.js", "calculator.js"  # beside the formulas and MathJax


def fingerprint() -> str:
    """What the calculator's formulas depend on: the code."""
    digest = hashlib.sha256()
    for path in (Path(formulas.__file__), *sorted((stage.ROOT / "minilora").rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_formulas(static: Path, folder: Path) -> None:
    """The calculator's formulas, made once for each state of the code: half a minute."""
    made = folder / f"formulas-{fingerprint()}.js"
    if not made.is_file():
        for old in folder.glob("formulas-*.js"):
            old.unlink()
        formulas.write(made)
    shutil.copy(made, static / "calculator-tables.js")


def build(folder: Path) -> int:
    """Write the site; 0 where it is whole. A warning of Sphinx is an error: it is a dead link."""
    source, html = folder / "source", folder / "html"
    static = source / "_static"
    (static / "mathjax").mkdir(parents=True, exist_ok=True)
    stage.make(source)
    for name in STATIC:
        shutil.copy(stage.HERE / name, static)
    shutil.copy(conf.mathjax_file(), static / "mathjax")
    write_formulas(static, folder)
    options = ["-q", "-W", "--keep-going", "-j", "auto", "-c", str(stage.HERE)]
    options += ["-D", f"html_static_path={static}"]
    status = sphinx([*options, "-d", str(folder / "doctrees"), str(source), str(html)])
    step.write(html)
    return status


if __name__ == "__main__":
    start = time.perf_counter()
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else stage.ROOT / "build" / "site"
    target.mkdir(parents=True, exist_ok=True)
    if status := build(target):
        sys.exit(status)
    if conf.ADDRESS and "colab_url" not in conf.html_theme_options["launch_buttons"]:
        print(f"no button for Colab: the notebooks do not install minilora from {conf.ADDRESS};")
        print("with this address in pyproject.toml, python notebooks/build.py --address does it")
    pages = sum(1 for _ in (target / "html").rglob("*.html"))
    print(f"{pages} pages in {time.perf_counter() - start:.0f} s: {target / 'html' / 'index.html'}")
