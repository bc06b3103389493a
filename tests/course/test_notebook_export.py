"""Figures of the notebooks: what an export keeps of them, and the records that they show."""

import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from minilora.lab import cells
from minilora.support import plots
from minilora_course import course

ROOT = Path(__file__).parents[2] / "notebooks"
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


def test_a_notebook_asks_for_the_runs_of_a_study_by_their_settings(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    about = {"seconds": 0.1, "made_by": {}}
    runs = [{"cell": {"kind": "learn", "rank": n}, "result": n} | about for n in (1, 2)]
    runs += [{"cell": {"kind": "bytes"}, "result": 3} | about]
    cells.write(folder / "made_up.jsonl", runs)
    monkeypatch.setattr(course, "data_folder", lambda: tmp_path)
    assert [run["result"] for run in course.records("made_up", kind="learn")] == [1, 2]
    assert [run["result"] for run in course.records("made_up", rank=2)] == [2]
    with pytest.raises(FileNotFoundError, match="python -m studies none"):
        course.records("none")


def test_ticks_that_a_notebook_sets_on_a_logarithmic_axis_stay(monkeypatch):
    shown = []
    monkeypatch.setattr(course, "show", lambda canvas, caption: shown.append(canvas))
    with course.figure("made up", width=3) as axes:
        axes.plot([64, 512], [1, 2])
        axes.set_xscale("log")
        axes.set_xticks([64, 512], [64, 512])
    (canvas,) = shown
    assert [text.get_text() for text in canvas.axes[0].get_xticklabels()] == ["64", "512"]


def test_a_notebooks_picture_is_small_and_of_the_same_size():
    with plots.style():
        canvas = plots.canvas(4, 3)
        canvas.subplots().plot([1, 2])
    large = plots.png(canvas)
    small = course._small(large)
    assert len(small) < 0.6 * len(large)
    assert Image.open(io.BytesIO(small)).size == Image.open(io.BytesIO(large)).size
