"""What a comparison prints and draws: from results made up here, none of them measured."""

import json
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
from minilora.support.plots import accuracy, human

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
        (b"[]", r"results\.json: it is \[\], wanted an object"),
        (b'{"base": 1}', r"results\.json: base is 1, wanted an object"),
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


def test_a_dollar_in_a_title_is_drawn_as_it_is(tmp_path):
    results = make_results(only=["lora"])
    results["methods"]["lora"]["title"] = r"$\frac{$ and $x$"
    report.write_all(results, tmp_path)


def test_methods_of_equal_numbers_stand_apart_on_an_axis_that_begins_where_they_do():
    results = make_results()
    counts = {"full": 720_896, "lora": 7168, "vera": 2816, "delta_lora": 7168, "lora_plus": 7168}
    results["methods"] = {n: a_row(n, count, [0.82, 0.84]) for n, count in counts.items()}
    results["references"] = {"base": 0.0, "scratch": 0.12, "rule_ed": 0.75, "rule_four": 0.95}
    (axes,) = accuracy(results).axes
    places = {c.get_label().split("  ")[0]: c.lines[0].get_xdata()[0] for c in axes.containers}
    same = [places[name] for name in ("lora", "delta_lora", "lora_plus")]
    width = np.log(np.divide(*axes.get_xlim()[::-1]))
    assert (np.diff(np.log(same)) > width / 45).all() and same[1] == pytest.approx(7168)
    assert [places["full"], places["vera"]] == pytest.approx([720_896, 2816])
    low, high = axes.get_ylim()
    assert 0.6 < low < 0.75 and 0.95 < high <= 1.02
    assert "below the axis: untrained base 0.000, trained from scratch 0.120" in axes.get_title(
        "left"
    )
    labels = [text.get_text() for text in axes.texts]
    assert labels == ['rule: add "ed"  0.750', "rule: four cases of spelling  0.950"]
    for score in (0.0, 1.0):  # no share is below 0 or above 1
        for record in results["methods"].values():
            record |= {"exact_match": score, "exact_match_sd": 0.0}
        (axes,) = accuracy(results).axes
        low, high = axes.get_ylim()
        assert low >= -0.02 and high <= 1.02


def test_a_comparison_takes_the_published_start_of_delta_lora():
    settings = Settings().changed(steps=500)
    base = ml.load_model("base")
    assert settings.attach(base, "delta_lora", 0).options["start_step"] == 10
    assert settings.attach(base, "delta_lora", 0, start_step=0).options["start_step"] == 0
    assert ml.attach(base, "delta_lora").options["start_step"] == 0


def test_each_seed_of_a_comparison_draws_its_own_arrays():
    """A technique that draws by a key of its own says so in `of_run`."""
    drawn = [Settings().attach(make_llama(), "vera", seed).shared["A"] for seed in (0, 1, 1)]
    assert not np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[1], drawn[2])


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
    assert max(map(len, table.table(make_results(seeds), 60).splitlines())) <= 60


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
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
