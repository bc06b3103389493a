"""What the notebooks show, and what an export keeps of it; points and hints at their limits."""

import io
import sys
import time
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from answers import RIGHT
from graded import graded

import minilora as ml
from minilora.lab import cells
from minilora_course import EXERCISES, SLIPS, course, grading
from minilora_course.grading import points
from minilora_course.hints import hints_for
from minilora_course.judge import Judgement
from minilora_course.lessons import forgetting

EXPORT = Path(__file__).parents[2] / "notebooks" / "export"
CAPTION = 'Left: x < y, "kept"; right: a line.'


class Pictures(HTMLParser):
    """The alternative texts of a page's embedded pictures."""

    def __init__(self, page):
        super().__init__()
        self.texts = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.texts.append(dict(attrs)["alt"])


def test_an_export_has_each_figures_alternative_text():
    nbformat, nbconvert = map(pytest.importorskip, ("nbformat", "nbconvert"))
    picture = nbformat.v4.new_output(
        "display_data",
        data={"image/png": "iVBORw0KGgo="},
        metadata={"image/png": {"alt": CAPTION}},
    )
    cell = nbformat.v4.new_code_cell("draw()", outputs=[picture])
    notebook = nbformat.v4.new_notebook(cells=[cell])

    def exported(exporter):
        made = exporter(extra_template_basedirs=[str(EXPORT)], template_name="course")
        return made.from_notebook_node(notebook)[0]

    assert Pictures(exported(nbconvert.HTMLExporter)).texts == [CAPTION]
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


@pytest.mark.parametrize(
    "low, high, ticks, set_",
    [
        (1, 30, ["1", "2", "5", "10", "20"], None),
        (0.1, 1000, ["0.1", "1", "10", "100", "1,000"], None),
        (64, 512, ["64", "512"], [64, 512]),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers_and_keeps_ticks_that_were_set(
    low, high, ticks, set_, monkeypatch
):
    shown = []
    monkeypatch.setattr(course, "show", lambda canvas, caption: shown.append(canvas))
    with course.figure("made up", width=3) as axes:
        axes.set(xscale="log", xlim=(low, high))
        if set_:
            axes.set_xticks(set_, set_)
    (canvas,) = shown
    axis = canvas.axes[0].xaxis
    at = [(t, text.get_text()) for t, text in zip(axis.get_ticklocs(), axis.get_ticklabels())]
    assert [text for t, text in at if low <= t <= high * 1.0001] == ticks
    assert not any(text.get_text() for text in axis.get_ticklabels(minor=True))


def test_a_picture_of_a_notebook_is_a_smaller_one_of_the_same_size():
    image, file = pytest.importorskip("PIL.Image"), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image.fromarray(noise).save(file, "PNG")
    small = course._small(file.getvalue())
    assert small.startswith(b"\x89PNG") and len(small) < 0.6 * len(file.getvalue())
    assert image.open(io.BytesIO(small)).size == (64, 64)


def test_a_method_looks_the_same_everywhere():
    assert course.look("lora") == {"color": "#0072B2", "marker": "o", "label": "LoRA"}


@pytest.mark.parametrize("static", ["1", ""])
def test_a_line_stands_for_sliders_and_rates_where_notebooks_are_built(static, monkeypatch, capsys):
    monkeypatch.setenv(course.STATIC, static)
    course.race({"one": lambda: time.sleep(1e-3), "twice": lambda: None}, 1e9, rounds=1)
    said = capsys.readouterr().out
    assert ("this machine's rates for one, twice stand here" in said) == bool(static)
    assert said.count("GFLOP/s") == (0 if static else 2)
    if static:
        course.explore(lambda **_: None, rank=[1, 2])
        assert capsys.readouterr().out == ("In a running notebook, sliders for rank stand here.\n")


@pytest.mark.parametrize("static", ["1", ""])
def test_the_ledger_of_time_is_this_machines_where_a_notebook_runs(static, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(course, "show", lambda canvas, caption: shown.append(caption))
    monkeypatch.setenv(course.STATIC, static)
    course.where("toy", rows=32, seconds=0.1)
    said = capsys.readouterr().out
    assert "frozen_feed_forward backward" in said
    assert ("In a running notebook" in said) == bool(static)
    assert ("share" in said) == (not static) == (len(shown) == 1)


def test_a_slider_begins_at_the_first_value_and_a_line_says_what_it_needs(monkeypatch, capsys):
    widgets, made = pytest.importorskip("ipywidgets"), {}
    monkeypatch.delenv("MINILORA_STATIC", raising=False)
    monkeypatch.setattr(widgets, "interact", lambda draw, **sliders: made.update(sliders))
    course.explore(lambda rank: None, rank=[8, 2, 4])
    assert made["rank"].value == 8 and tuple(made["rank"].options) == (2, 4, 8)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    course.explore(lambda rank: None, rank=[8, 2, 4])
    assert capsys.readouterr().out == "For sliders over rank: pip install ipywidgets\n"


def test_the_hint_of_a_slip_comes_before_the_exercise_s_own():
    exercise = types.SimpleNamespace(kind="blank", hints=("a", "b"))
    number = types.SimpleNamespace(kind="number", hints=("a", "b"))
    slip, about = next(iter(SLIPS.items()))
    assert hints_for(exercise, slip) == (about.hint, "a", "b")
    assert hints_for(exercise, None) == hints_for(number, slip) == ("a", "b")


def test_the_points_of_an_exercise_are_its_outputs_or_one():
    for name, exercise in EXERCISES.items():
        outputs = exercise.drawn(0)[0].true.values() if exercise.kind == "blank" else ()
        assert points(name) == (len([o for o in outputs if o is not None]) if outputs else 1)


def test_a_grade_shows_the_draw_that_is_wrong_and_no_two_seeds_share_a_draw(monkeypatch):
    drawn = []

    def compared(name, returned, seed):
        drawn.append(seed)
        return Judgement(*(("failed", "the second") if len(drawn) == 2 else ("passed", "right")))

    monkeypatch.setattr(grading, "compared", compared)
    found = graded("tour_break", RIGHT["tour_break"], seed=1)
    assert drawn == [*range(grading.DRAWS, 2 * grading.DRAWS)]
    assert found.points == 0 and found.verdict.seed == drawn[1]
    assert "the second" in str(found.verdict) and "hint" not in str(found.verdict)


def test_techniques_stand_beside_each_other_on_the_same_axes(monkeypatch, capsys):
    """The counts are those that train, the bars the ledger's, the curve the mean of the seeds."""
    shown = []
    monkeypatch.setattr(course, "show", lambda canvas, caption: shown.append(canvas))
    model = ml.load_model("base")
    lora, full = (
        ml.attach(model, name, **how) for name, how in (("lora", {"rank": 4}), ("full", {}))
    )
    losses = np.linspace(3, 0.5, 40) * np.array([[1.0], [1.5]])
    course.beside({"LoRA": (lora, losses), "full": (full, losses / 2)}, 8, 16, "a figure")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("LoRA: 7,168 numbers train; a step holds ") and len(said) == 2
    assert f"loss at the end {losses[:, -4:].mean():.3f} ± " in said[0]
    course.beside({"LoRA": (lora, losses), "twice": (lora, losses)}, 8, 16, "another")
    for (left, middle, right), rows in zip([canvas.axes for canvas in shown], (2, 2)):
        assert left.lines[0].get_xdata()[0] == 7168
        ends = [sum(bars[i].get_width() for bars in middle.containers) for i in range(rows)]
        assert np.isclose(ends[0] * 2**20, ml.ledger(lora, 8, 16).total())
        np.testing.assert_allclose(
            right.lines[0].get_ydata(), losses.reshape(2, 10, 4).mean((0, 2))
        )
    first, second = ([axes.get_xlim() + axes.get_ylim() for axes in c.axes] for c in shown)
    assert np.allclose(first, second)
    colours = [line.get_color() for line in shown[1].axes[2].lines]
    assert len(set(colours)) == 2  # the same technique twice: two colours


def test_the_likelihood_of_an_answer_is_what_training_makes_large():
    """Per token, and with its sign turned, it is the loss of the package."""
    model = ml.load_model("base")
    pairs = ml.load_task("third").test[:20]
    (batch,) = ml.batches(pairs, model.tokenizer, batch_size=20)
    ids, targets = batch
    logp = forgetting.likelihood(np.float64(model.logits(ids)), targets)["logp"]
    tuned = ml.attach(model, "lora", rank=1)
    loss = ml.train(tuned, [batch], steps=1, lr=1e-3).losses[0]
    assert np.isclose(-logp.sum() / (targets >= 0).sum(), loss, rtol=1e-5)


def test_the_frontier_is_what_a_walk_from_the_right_finds():
    """Sorted by what is learnt, each point on it keeps more than all that have learnt more."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        learnt, kept = rng.integers(0, 6, (2, 12))
        walk = np.zeros(12, int)
        for x, y in {*zip(learnt, kept)}:
            further = kept[learnt > x].max(initial=-1)
            walk[(learnt == x) & (kept == y)] = y > further and y == kept[learnt == x].max()
        assert np.array_equal(forgetting.frontier(learnt, kept)["on"], walk)
