"""What a comparison prints and draws: from results made up here, none of them measured."""

import copy
import dataclasses
import functools
import json
import operator
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import make_llama
from results import a_row, make_results

import minilora as ml
from minilora.cli import main, parser
from minilora.commands.comparison import settings_of
from minilora.lab import report, table
from minilora.lab.page import command_line, page
from minilora.lab.settings import Settings
from minilora.lab.table import standard_error
from minilora.methods import METHODS
from minilora.support import plots
from minilora.support.plots import human, looks, spread

VOID = {"meta", "img"}  # elements without an end
ATTACK = "<script>alert('&')</script>"


class Reader(HTMLParser):
    """A page's elements and text; raises where an element is left open or closed twice."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data + " "

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def made(results):
    """The page with empty images, and what a reader finds in it."""
    text = page(json.loads(json.dumps(results)), dict.fromkeys(report.FIGURES, b""))
    return text, Reader(text)


def test_no_caption_or_command_is_as_wide_as_the_table_under_it():
    """On a phone a table scrolls; what is read from left to right does not."""
    text, reader = made(make_results())
    assert text.count("<caption><span>") == len(reader.all("caption")) > 0
    assert "white-space: pre-wrap" in text.partition("@media print")[0]
    assert "<span>--rank</span> <span>" in text


# ------------------------------------------------------------------------------------------- files


def test_everything_is_written(tmp_path):
    folder = tmp_path / "new" / "folder"
    report.write_all(make_results(), folder)
    wanted = {"results.json", "report.html", *report.FIGURES}
    assert {path.name for path in folder.iterdir()} == wanted
    for name in report.FIGURES:
        assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_results_are_read_back_and_drawn_again_to_the_byte(tmp_path):
    results = make_results()
    report.write_all(results, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = report.read_results(tmp_path)
    made_with = again.pop("made_with")
    assert again == json.loads(json.dumps(results))
    assert {"python", "numpy", "numba", "minilora", "kernels", "processor"} <= set(made_with)
    assert main(["report", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_another_machine_keeps_what_made_the_numbers(tmp_path):
    made_with = {"python": "3.99", "processor": "an abacus"}
    report.write_all({**make_results(only=["lora"]), "made_with": made_with}, tmp_path)
    assert report.read_results(tmp_path)["made_with"] == made_with
    assert "an abacus" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_results_are_told_in_a_line(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"results\.json: not there; wanted a folder"):
        report.read_results(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"base": ', r"results\.json: not JSON"),
        (b"\xff\xfe", r"results\.json: line 1: not UTF-8"),
        (b"[]", r"results\.json: it is \[\], wanted an object"),
        (b'{"base": 1}', r"results\.json: base is 1, wanted an object"),
        (b'{"base": ' + b"[" * 70 + b"]" * 70 + b"}", "too many brackets inside one another"),
    ],
)
def test_damaged_results_are_told_in_a_line(tmp_path, text, message):
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(ValueError, match=message) as caught:
        report.read_results(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_row_is_named(tmp_path):
    results = make_results()
    del results["methods"]["lora"]["curve"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"no methods\.lora\.curve in it"):
        report.read_results(tmp_path)


def places(value, place=()):
    """The way to every value inside a JSON value: names and numbers."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in inside:
        yield (*place, key)
        if isinstance(inner, dict | list) and inner:
            yield from places(inner, (*place, key))


WRONG = [None, True, -1, 0, 10**400, 10**18, float("nan"), 1e308, "x", "$\\frac{$", [], {}, [[]]]


def test_whatever_stands_in_results_is_told_or_drawn(tmp_path):
    """Every value of a results.json, each replaced by every wrong one, and each left out."""
    results = make_results(only=["lora", "thing"])
    results["took"] = {"seconds": 5.0, "resident_peak": 10**8, "base": {}, "jobs": 2}
    results["took"]["base"] = {"seconds": 1.0, "resident_peak": None}
    for row in (*results["methods"].values(), results["scratch"]):
        row["took"] = {"seconds": 2.0, "resident_peak": None}
        row["ms_per_step_quartiles"] = [24.0, 28.0]
    results = json.loads(json.dumps(results))
    path, refused = tmp_path / "results.json", 0
    for *way, last in places(results):
        for wrong in (*WRONG, "left out"):
            damaged = copy.deepcopy(results)
            inner = functools.reduce(operator.getitem, way, damaged)
            inner[last] = wrong
            if wrong == "left out":
                del inner[last]
            path.write_text(json.dumps(damaged))
            try:
                read = report.read_results(tmp_path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                assert len(str(error)) < 300
                refused += 1
            else:
                assert table.table(read) and page(read, dict.fromkeys(report.FIGURES, b""))
    assert refused > 500


def test_a_dollar_in_a_title_is_drawn_as_it_is(tmp_path):
    results = make_results(only=["lora"])
    results["methods"]["lora"]["title"] = r"$\frac{$ and $x$"
    report.write_all(results, tmp_path)


def test_options_other_than_the_defaults_are_named():
    results = make_results()
    assert "As published" not in " ".join(table.notes_on(results))
    delta = {**results["methods"]["lora"], "title": "Delta-LoRA"}
    results["methods"]["delta_lora"] = {**delta, "options": {"start_step": 3, "update_ratio": 2.0}}
    said = "As published, not attach's defaults: Delta-LoRA start_step 3."
    assert said in table.notes_on(results)


def test_a_comparison_takes_the_published_start_of_delta_lora():
    settings = Settings().changed(steps=500)
    base = ml.load_model("base")
    assert settings.attach(base, "delta_lora", 0).options["start_step"] == 10
    assert settings.attach(base, "delta_lora", 0, start_step=0).options["start_step"] == 0
    assert ml.attach(base, "delta_lora").options["start_step"] == 0


def test_each_seed_of_a_comparison_draws_its_own_arrays(monkeypatch):
    """A technique that draws by a key of its own says so in `of_run`, under any name."""
    vera = METHODS["vera"]
    mine = dataclasses.replace(
        vera,
        options={**vera.options, "my_key": 0},
        prepare=lambda shapes, rank, options, like: vera.prepare(
            shapes, rank, {"projection_prng_key": options["my_key"]}, like
        ),
        of_run=lambda steps, seed: {"my_key": seed},
    )
    monkeypatch.setitem(METHODS, "mine", mine)
    for name in ("vera", "mine"):
        drawn = [Settings().attach(make_llama(), name, seed).shared["A"] for seed in (0, 1, 1)]
        assert not np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[1], drawn[2])


def test_powers_of_ten_on_an_axis_are_drawn_as_powers():
    with plots.style():
        axes = plots.canvas().subplots()
        axes.set_xscale("log")
        assert all(label.get_parse_math() for label in axes.get_xticklabels())


def test_any_error_of_a_command_is_one_line(monkeypatch, capsys, tmp_path):
    """Also one that nobody thought of: with the command and where to report it."""
    monkeypatch.setattr(report, "read_results", lambda folder: {}["methods"])
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("minilora: this should not happen: KeyError: 'methods' in ")
    assert "minilora report" in error and "MINILORA_DEBUG=1" in error and error.count("\n") == 1
    monkeypatch.setenv("MINILORA_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["report", str(tmp_path)])


# -------------------------------------------------------------------------------------------- page


def test_the_page_needs_nothing_else(tmp_path):
    report.write_all(make_results(), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Reader(text)
    loaded = text.replace('<a href="https://arxiv.org/abs/', "")  # a link loads nothing
    assert "http://" not in loaded and "https://" not in loaded
    assert (
        len(re.findall(r"src=", text)) == len(re.findall(r'src="data:image/png;base64,', text)) == 3
    )
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.found}
    assert all(len(image["alt"]) > 40 for image in found.all("img"))
    assert found.all("html") == [{"lang": "en"}]


def test_the_page_has_every_number_of_the_table():
    results = make_results()
    _, found = made(results)
    lines = table.table(results).split("─\n")[2].splitlines()[:4]
    numbers = [re.findall(r"[\d.,]+(?: [KM]iB)?", line) for line in lines]
    assert [len(row) for row in numbers] == [10, 11, 11, 10]  # two rows have no rank
    for number in (n for row in numbers for n in row):
        assert f" {number} " in f" {found.text} "


def test_text_is_escaped():
    text, found = made(make_results(answer=ATTACK))
    assert "<script" not in text and "<Thing>" not in text and "<b>" not in text
    assert f"✗ {ATTACK}" in found.text and "A & <Thing>" in found.text


def test_right_and_wrong_answers_differ_in_more_than_colour():
    results = make_results()
    results["examples"][0]["answers"]["lora"] = "walkt"
    results["examples"][1]["answers"]["lora"] = ""
    results["examples"][2]["answers"]["lora"] = "wolk"  # right too
    _, found = made(results)
    assert "✗ walkt" in found.text and "✗ (nothing)" in found.text and "✓ wolk" in found.text
    assert found.text.count("✗") == 3 and found.text.count("✓") == 11  # one of each explains them


def test_the_command_line_makes_the_same_settings_again():
    results = make_results(only=["full", "lora"])
    settings = Settings(methods=("full", "lora"), steps=30, warmup=3, ranks={"vera": 64}, seeds=2)
    results["settings"] = {**vars(settings), "test_size": 655}
    program, *arguments = command_line(results).split()
    parsed = parser().parse_args(arguments)
    assert program == "minilora"
    assert settings_of(parsed) == settings
    assert parsed.lr == ["full=0.0123", "lora=0.0123", "scratch=0.0123"]


# ----------------------------------------------------------------------------------------- printed


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_table_is_aligned_and_narrow(seeds):
    lines = table.table(make_results(seeds)).splitlines()
    assert not any(line.startswith(" ") for line in lines[-3:])  # three notes of one line each
    assert max(map(len, lines)) <= 110
    first, last = (i for i, line in enumerate(lines) if set(line) == {"─"})
    assert {len(line) for line in lines[first - 1 : last + 1]} == {len(lines[first])}
    assert last - first == 5  # three methods and from scratch


def test_the_report_says_what_its_numbers_are():
    text = " ".join(table.notes_on(make_results()))
    error = f"standard error √(p(1-p)/n) of {standard_error(0.906, 655):.3f}"
    for part in ("655 held-out words", "over 2 seeds", error, "chosen on validation words"):
        assert part in text
    for part in ("untrained base 0.000", 'add "ed" 0.499', "0.951", "32 × 29 tokens", "0.0123"):
        assert part in text


def test_the_report_says_what_it_took_where_the_results_do():
    results = make_results()
    assert "in all" not in " ".join(table.notes_on(results))
    for row, seconds in zip(plots.rows(results).values(), (9.6, 30, 20.2, 15)):
        row["took"] = {"seconds": seconds, "resident_peak": 1 << 29}
    results["took"] = {
        "base": {"seconds": 2.2, "resident_peak": 1 << 28},
        "seconds": 90.0,
        "resident_peak": 3 << 29,
    }
    text = " ".join(table.notes_on(results))
    assert "Time: 1.5 minutes in all; 2 s for the base's scores, 10 to 30 s for a row" in text
    assert "A process held at most 1.50 GiB" in text
    results["took"]["resident_peak"] = None  # not Linux
    assert "held at most" not in " ".join(table.notes_on(results))


def test_one_seed_shows_no_spread():
    results = make_results(seeds=1)
    _, found = made(results)
    assert "no spread is known" in table.table(results)
    assert "0.910 ±" not in found.text and "±" not in table.progress_line(
        results["methods"]["lora"]
    )


@pytest.mark.parametrize("scratch", [True, False])
def test_one_method_alone(scratch):
    results = make_results(only=["lora"], scratch=scratch)
    _, found = made(results)
    assert "LoRA answers 0.875" in found.text and "training only" not in found.text
    assert "Full fine-tuning" not in table.table(results) + found.text


def test_a_row_that_is_done_is_one_line():
    line = table.progress_line(a_row("LoRA", 7168, [0.88, 0.87]))
    assert " ".join(line.split()) == "LoRA 7,168 numbers exact match 0.875 ± 0.007 25.1 ms/step"


def test_the_opening_says_what_will_be_done():
    text = table.opening(Settings(methods=("lora", "vera"), seeds=1, steps=20))
    assert text.startswith("Past tense from 300 words, base 'base': LoRA, VeRA; and the same model")
    assert "3 runs (1 seed each) of 20 steps" in text and "half a minute" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (28_672, "28.0 KiB"),
        (1_023_900, "0.98 MiB"),
        (2_883_584, "2.75 MiB"),
        (538_060_032, "513 MiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_bytes_for_people(n, text):
    assert human(n) == text


# ----------------------------------------------------------------------------------------- figures


def test_each_method_has_a_look_of_its_own():
    names = [*plots.LOOKS, "thing", "another"]
    assert len(set(looks(names).values())) == len(names)
    assert looks(["thing", "lora"])["lora"] == looks(names)["lora"]


def test_labels_are_moved_apart():
    moved = spread([0.5, 0.0, 0.01, 0.02], 0.1)
    assert sorted(moved) == [moved[i] for i in (1, 2, 3, 0)]  # their order stays
    assert min(b - a for a, b in zip(sorted(moved), sorted(moved)[1:])) >= 0.1 - 1e-12
    assert spread([], 0.1) == []


def test_every_marker_stands_at_its_own_numbers_and_the_bars_are_named():
    """LoRA, Delta-LoRA and LoRA+ train equally many: none is moved aside."""
    results = make_results()
    figure = plots.accuracy(results)
    counts = sorted(row["trainable"] for row in results["methods"].values())
    for axes in figure.axes:
        assert sorted(float(bar.lines[0].get_xdata()[0]) for bar in axes.containers) == counts
    assert "bars: standard deviation over" in figure.axes[-1].get_xlabel()


@pytest.mark.parametrize("only", [None, ["lora"]])
@pytest.mark.parametrize("name", ["convergence", "accuracy", "memory"])
def test_no_text_of_a_figure_is_cut_or_covered(name, only, monkeypatch):
    figure = getattr(plots, name)(make_results(only=only))
    boxes = drawn_text(figure, monkeypatch)
    assert len(boxes) > 10
    for i, (text, box) in enumerate(boxes):
        x0, y0, x1, y1 = box
        inside = x0 >= 0 and y0 >= 0 and x1 <= figure.bbox.width and y1 <= figure.bbox.height
        assert inside, f"{text!r} is cut: {box} of {figure.bbox.size}"
        for other, (u0, v0, u1, v1) in boxes[:i]:
            apart = x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
            assert apart, f"{text!r} on {other!r}"


def drawn_text(figure, monkeypatch):
    """[(text, (left, top, right, bottom) in pixels)] of all that is drawn."""
    from matplotlib.backends.backend_agg import RendererAgg

    boxes, draw_text = [], RendererAgg.draw_text

    def spy(renderer, gc, x, y, text, prop, angle, ismath=False, mtext=None):
        width, height, below = renderer.get_text_width_height_descent(text, prop, ismath)
        above = height - below
        flat, upright = (x, y - above, x + width, y + below), (x - above, y - width, x + below, y)
        boxes.append((text, upright if angle else flat))
        draw_text(renderer, gc, x, y, text, prop, angle, ismath, mtext)

    monkeypatch.setattr(RendererAgg, "draw_text", spy)
    with plots.style():
        figure.canvas.draw()
    return boxes


def test_the_page_says_what_each_technique_is_and_links_its_paper():
    _, reader = made(make_results())
    links = [a["href"] for a in reader.all("a")]
    assert links == ["https://arxiv.org/abs/2106.09685"]
    assert "LoRA : W + s B A (Hu et al. 2021, arXiv:2106.09685 , eq. 3)" in " ".join(
        reader.text.split()
    )


def test_the_page_has_the_spread_of_the_times_and_a_column_that_stays():
    results = make_results()
    results["methods"]["lora"]["ms_per_step_quartiles"] = [24.04, 27.96]
    text, reader = made(results)
    assert "its middle half" in reader.text and "24.0–28.0" in reader.text
    assert re.search(r"th\[scope=row\].*\{ position: sticky; left: 0", text)


@pytest.mark.parametrize("seeds", [1, 2])
def test_points_stand_at_their_numbers_with_a_bar_each(seeds):
    """Two of equally many numbers too; of one seed, the bar is that of the sample of words."""
    results = make_results(seeds=seeds)
    results["methods"]["thing"]["trainable"] = 7168
    panels = plots.accuracy(results).axes
    for axes in panels:
        points = [c for c in axes.containers if hasattr(c, "has_yerr")]
        assert [c.lines[0].get_xdata()[0] for c in points] == [720_896, 7168, 7168]
        assert all(c.has_yerr for c in points)
    bar = panels[0].containers[1].lines[2][0].get_segments()[0]
    p = results["methods"]["lora"]["exact_match"]
    half = standard_error(p, 655) if seeds == 1 else results["methods"]["lora"]["exact_match_sd"]
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * half)


def test_small_differences_look_small():
    results = make_results(only=["lora"])
    upper = plots.accuracy(results).axes[0]
    assert upper.get_ylim()[1] - upper.get_ylim()[0] >= 0.3
