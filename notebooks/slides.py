"""Slides from the notebooks: a page of reveal.js for each, which needs no network.

    python notebooks/slides.py build/slides --parts build/slides-parts [04 …] [--no-answers]

A notebook's headings begin the columns of its deck: right goes to the next one, down through it.
Text, formulas, short code with its output and every figure become slides; so does each exercise,
whose answer appears at the next key press, below the question or on the next slide. What is too
long for one slide goes on below it.
`--parts`: a folder with the two packages that `make slides` fetches, for reveal.js and MathJax.
"""

import argparse
import html
import math
import re
import shutil
from pathlib import Path

import nbformat
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import build
import grading
from minilora_course import EXERCISES

PARTS = {  # name beside the slides -> place in the packages
    "reveal.js": "sphinx_revealjs/_static/revealjs/dist/reveal.js",
    "reveal.css": "sphinx_revealjs/_static/revealjs/dist/reveal.css",
    "tex-svg-full.js": "mathjax/static/mathjax/es5/tex-svg-full.js",
}
STYLE = build.HERE.parent / "docs" / "teaching" / "slides.css"
LINES = 13  # of text that fit on a slide below its heading
SMALL_FIGURE = 9  # of these lines, for a figure with some text above it
MOST_CODE = 14  # lines: longer code stays in the notebook
ASKED = re.compile(r"\*\*(?:Predict|Fill the blank|Break it)\b.*", re.S | re.I)
FOLDED = re.compile(r"<details><summary><b>(.*?)</b></summary>")
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="reveal.css">
<link rel="stylesheet" href="slides.css">
<script>
MathJax = {{tex: {{inlineMath: [["$", "$"]]}}, svg: {{matchFontHeight: false}},
  options: {{enableMenu: false}}}};
</script>
<script src="tex-svg-full.js"></script>
<div class="reveal"><div class="slides">
{columns}
</div></div>
<script src="reveal.js"></script>
<script>
Reveal.initialize({{width: 1280, height: 720, margin: 0.03, center: false, hash: true,
  transition: "none", slideNumber: "h.v", pdfSeparateFragments: false}});
</script>
</html>
"""


class Deck:
    """Columns of slides, filled from the top."""

    def __init__(self):
        self.columns: list[list[str]] = []
        self.heading, self.held, self.lines = "", [], 0.0

    def begin(self, heading: str, column: bool = False) -> None:
        """A new heading, in a new column or in the same one.

        A heading over nothing joins the one that follows in its column; a column of nothing goes.
        """
        self.flush()
        empty = self.columns and not self.columns[-1]
        if column and not empty:
            self.columns.append([])
        self.heading = f"{self.heading}: {heading}" if empty and not column else heading

    def add(self, body: str, lines: float) -> None:
        """Put a piece on the slide, or on the next one where it does not fit."""
        if self.held and self.lines + lines > LINES:
            self.flush()
        self.held.append(body)
        self.lines += lines

    def flush(self) -> None:
        """The slide is done."""
        if self.held:
            body = "\n".join(self.held)
            self.columns[-1].append(f"<section>\n{text(f'## {self.heading}')}{body}\n</section>")
        self.held, self.lines = [], 0.0


def text(source: str) -> str:
    """Markdown as HTML; formulas stay as they are, for MathJax."""
    made = markdown2html_mistune(source)
    return re.sub(r' id="[^"]*"|<a class="anchor-link".*?</a>', "", made)


def code(source: str) -> str:
    """Python with colours."""
    return f"<pre>{highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))}</pre>"


def height(block: str) -> float:
    """How many lines of a slide a piece of Markdown takes."""
    if "$$" in block:
        return 3.0 + 1.5 * block.count(r"\\")
    return sum(math.ceil(len(line) / 75) for line in joined(block).splitlines()) + 0.5


def joined(block: str) -> str:
    """One line for a paragraph or an item of a list; a table keeps its lines."""
    return block if block.startswith("|") else re.sub(r"\n(?!- |\d\. )\s*", " ", block)


def blocks(source: str) -> list[str]:
    """The paragraphs, formulas, lists and tables of a cell of text."""
    return [block.strip() for block in re.split(r"\n\s*\n", source) if block.strip()]


def add_text(deck: Deck, source: str) -> str:
    """Put a cell of text on slides; the question that it ends with is returned."""
    source = FOLDED.sub(r"### \1", source).replace("</details>", "")  # slides have no folds
    asked = ASKED.search(source)
    for block in blocks(source[: asked.start()] if asked else source):
        if block.startswith("#"):
            mark, _, heading = block.partition(" ")
            deck.begin(heading.strip(), column=mark == "##")
        else:
            deck.add(text(block), height(block))
    return asked[0] if asked else ""


def add_exercise(deck: Deck, cell, asked: str, exercise, answers: bool) -> None:
    """The question, the blank, and the answer at the next key press.   exercise: None if open."""
    if exercise and not re.sub(r"\*\*.*?\*\*", "", asked).strip():  # no words but Fill the blank
        asked = f"**{grading.KINDS[exercise.kind].capitalize()}.** {exercise.asks}"
    question, lines = (text(asked), height(asked)) if asked else ("", 0)
    blank = build.SOLUTION.sub(build.blank, cell.source).strip()
    if blank and not (exercise and exercise.kind == "predict"):
        question += code(blank)
        lines += code_height(blank)
    solution = grading.solution(cell.source)
    why = f"<p>{html.escape(exercise.because)}</p>" if exercise and exercise.because else ""
    more = code_height(solution) + 1.5 * bool(why) if answers else 0
    if question:
        if lines + more <= LINES < deck.lines + lines + more:
            deck.flush()  # so that the answer stands on the slide of its question
        deck.add(question, lines)
    if answers:
        alone = not deck.held or deck.lines + more > LINES
        later = "" if alone else "fragment "  # alone on a slide, it is shown at once
        deck.add(f'<div class="{later}answer">{code(solution)}{why}</div>', more)
    deck.flush()


def code_height(source: str) -> float:
    """How many lines of a slide a piece of code takes: they are lower, and hold more letters."""
    return 0.75 * sum(max(1, math.ceil(len(line) / 92)) for line in source.splitlines()) + 1.2


def add_code(deck: Deck, cell) -> None:
    """Short code with what it printed; each figure on a slide of its own."""
    printed, figures = "", []
    for out in cell.outputs:
        data = out.get("data", {})
        if "image/png" in data:
            figures.append((data["image/png"], out.metadata["image/png"]["alt"]))
        elif "text/plain" in data and "text/markdown" not in data:
            printed += data["text/plain"] + "\n"
        elif out.output_type == "stream" and not out.text.startswith("In a running notebook"):
            printed += out.text
    lines, said = len(cell.source.splitlines()), len(printed.splitlines())
    short = lines <= MOST_CODE and not figures and "course.explore" not in cell.source
    shown = [(code(cell.source), code_height(cell.source))] if short else []
    if printed and said <= MOST_CODE:
        out = f'<pre class="out">{html.escape(printed.rstrip())}</pre>'
        shown.append((out, code_height(printed)))
    if sum(lines for _, lines in shown) <= LINES:  # together, where they fit
        shown = [("".join(body for body, _ in shown), sum(lines for _, lines in shown))]
    for body, lines in shown:
        if body:
            deck.add(body, lines)
    for image, caption in figures:
        drawn = f'<img alt="" src="data:image/png;base64,{"".join(image.split())}">'
        words = f"<figcaption>{html.escape(caption)}</figcaption>"
        small = "small" if 0 < deck.lines <= LINES - SMALL_FIGURE else ""
        deck.add(f'<figure class="{small}">{drawn}{words}</figure>', SMALL_FIGURE)
        deck.flush()


def page(path: Path, answers: bool) -> str:
    """The deck of one notebook, from its committed run."""
    notebook = nbformat.read(build.HERE / "solutions" / f"{path.stem}.ipynb", as_version=4)
    first, _imports, *cells = notebook.cells
    title, *rest = blocks(first.source)
    deck, asked = Deck(), ""
    idea = re.search(r"\*The one idea\*: (.*)", joined(rest[-1]))[1]
    deck.columns.append([f'<section class="title">{text(title)}{text(idea)}</section>'])
    deck.begin("When you are done you can")
    for block in rest[1:]:
        deck.add(text(block.split("*The one idea*")[0]), height(block))
    for cell in cells:
        role, _, name = cell.metadata.get("nbgrader", {}).get("grade_id", "").partition("-")
        if cell.cell_type == "markdown":
            asked = add_text(deck, cell.source)
            continue
        if role in ("exercise", "open"):
            add_exercise(deck, cell, asked, EXERCISES.get(name), answers)
        elif role != "check":
            if asked:  # a question that the next cell answers
                deck.add(text(asked), height(asked))
            add_code(deck, cell)
        asked = ""
    deck.flush()
    filled = ["\n".join(column) for column in deck.columns if column]
    columns = [f"<section>\n{column}\n</section>" for column in filled]
    title = html.escape(title.lstrip("# "))
    return PAGE.format(title=title, columns="\n".join(columns))


def main(arguments=None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("wanted", nargs="*", help="numbers of notebooks: 04; none: all")
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--no-answers", action="store_true", help="a copy to hand out")
    chosen = parser.parse_args(arguments)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name, place in PARTS.items():
        shutil.copyfile(chosen.parts / place, chosen.folder / name)
    shutil.copyfile(STYLE, chosen.folder / STYLE.name)
    links = []
    for path in build.sources(chosen.wanted):
        made = page(path, answers=not chosen.no_answers)
        (chosen.folder / f"{path.stem}.html").write_text(made, encoding="utf-8")
        title = re.search("<title>(.*)</title>", made)[1]
        links.append(f'<li><a href="{path.stem}.html">{title}</a>')
    start = '<!doctype html><meta charset="utf-8"><title>minilora</title><h1>Slides</h1><ul>\n'
    (chosen.folder / "index.html").write_text(start + "\n".join(links), encoding="utf-8")


if __name__ == "__main__":
    main()
