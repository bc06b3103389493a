"""What an export of a notebook keeps: each figure's alternative text."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "notebooks"
if not ROOT.is_dir():
    pytest.skip("an installed package has no notebooks", allow_module_level=True)
nbformat = pytest.importorskip("nbformat")
nbconvert = pytest.importorskip("nbconvert")

CAPTION = 'Left: x < y, "kept"; right: a line.'


def a_notebook():
    """One cell with one figure, as `course.show` displays it."""
    picture = nbformat.v4.new_output(
        "display_data",
        data={"image/png": "iVBORw0KGgo="},
        metadata={"image/png": {"alt": CAPTION}},
    )
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("draw()", outputs=[picture])])


def exported(exporter, template="course"):
    made = exporter(extra_template_basedirs=[str(ROOT / "export")], template_name=template)
    return made.from_notebook_node(a_notebook())[0]


class Pictures(HTMLParser):
    """The alternative texts of a page's embedded pictures."""

    def __init__(self, page):
        super().__init__()
        self.texts = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.texts.append(dict(attrs)["alt"])


def test_a_page_of_html_has_each_figures_alternative_text():
    assert Pictures(exported(nbconvert.HTMLExporter)).texts == [CAPTION]


def test_markdown_has_each_figures_alternative_text():
    assert f"![{CAPTION}](" in exported(nbconvert.MarkdownExporter)
