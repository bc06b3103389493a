"""The studies: every committed record is what its settings give, and says what the page says."""

import functools
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import made_up
import pages
import pytest

import studies
from minilora.lab import cells
from studies import claims
from studies.__main__ import main

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "docs" / "claims.md"
each_record = pytest.mark.parametrize("name", (*studies.ORDER, *studies.APART))


@pytest.fixture(scope="module")
def record():
    """Name -> the committed record, read once."""
    return functools.cache(pages.whole)


def plain(value):
    """As it comes back from a file."""
    return json.loads(json.dumps(value, allow_nan=False))


@each_record
def test_a_study_is_whole(name):
    study = studies.study(name)
    assert study.name == name and study.title
    for work in (study.cells(), study.quick()):
        assert plain(work) == work, "settings are plain JSON"
        assert len({json.dumps(cell, sort_keys=True) for cell in work}) == len(work)
    assert 2 <= len(study.quick()) <= 6 and study.questions


@each_record
def test_the_record_holds_the_studys_cells_and_nothing_else(name):
    assert studies.record_path(name).is_file() and pages.is_whole(name)


@each_record
def test_a_record_says_by_what_it_was_made(name, record):
    for made in (r["made_by"] for r in record(name)):
        assert {"minilora", "commit", "python", "numpy", "numba", "processor"} <= set(made)
        assert re.fullmatch("[0-9a-f]{7,}", made["commit"]), "a clean checkout's commit"
    assert studies.record_path(name).stat().st_size < 600_000


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "scratch" else []) for n in studies.ORDER],
)
def test_a_quick_cell_runs(name, tmp_path):
    """And is a record as the committed ones are."""
    study = studies.study(name)
    (cell, *_) = study.quick()
    (made,) = cells.run(study.run, [cell], tmp_path / "a.jsonl")
    assert made["cell"] == plain(cell) and plain(made["result"]) == made["result"]


@each_record
def test_table_and_figure_come_from_the_record_in_seconds(name, record, tmp_path):
    """And the page has them."""
    study, path = studies.study(name), tmp_path / "figure.png"
    start = time.process_time()
    table = study.table(record(name))
    study.figure(record(name), path)
    assert time.process_time() - start < 20
    assert table.count("\n|") >= 2 and "nan" not in table
    committed = ROOT / "docs" / "figures" / f"{name}.png"
    for picture in (path, committed):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert committed.stat().st_size < 200_000
    if CLAIMS.is_file():  # an installed package has no pages
        assert dict(pages.records(CLAIMS))[name] == table.strip()
        assert f"figures/{name}.png" in CLAIMS.read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------- the page


@pytest.mark.skipif(not CLAIMS.is_file(), reason="an installed package has no pages")
def test_the_page_has_every_study_s_questions():
    names = (*studies.ORDER, *studies.APART)
    assert dict(pages.forms(CLAIMS)) == {name: claims.form(name) for name in names}


def test_the_verdicts_are_the_records(record):
    for name in (*studies.ORDER, *studies.APART):
        record(name)
    assert dict(pages.records(CLAIMS))["claims"] == pages.table("claims")


@each_record
def test_a_verdict_is_one_of_three_and_has_a_spread(name, record):
    """Or it is counted, and says so; a file that moves is tested in part."""
    study = studies.study(name)
    summary = study.summary(record(name))
    for question in study.questions:
        finding = question.judge(summary)
        assert made_up.is_told(finding.verdict), finding
        counted = "counted" in finding.evidence or "counted" in question.rule
        assert counted or re.search(r"±|\[|\bof \d+ × |float64", finding.evidence), finding
        assert "|" not in finding.evidence


# ------------------------------------------------------------------------------------- the command


def test_a_whole_record_is_only_drawn_again(tmp_path, capsys, record):
    path = tmp_path / "swapping.jsonl"
    path.write_bytes(studies.record_path("swapping").read_bytes())
    before = path.read_bytes()
    start = time.process_time()
    assert main(["swapping", "--out", str(tmp_path)]) == 0
    assert time.process_time() - start < 20
    assert studies.study("swapping").table(record("swapping")) in capsys.readouterr().out
    assert path.read_bytes() == before and (tmp_path / "swapping.png").is_file()


@pytest.mark.slow
def test_quick_runs_and_draws_nothing(tmp_path):
    line = [sys.executable, "-m", "studies", "swapping", "--quick", "--out"]
    done = subprocess.run([*line, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "3 cells" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["swapping.quick.jsonl"]


@pytest.mark.parametrize(
    "line, says",
    [
        (["lora_pluss"], "did you mean 'lora_plus'"),
        (["swapping", "lorra"], "lora"),
        (["swapping", "--jobs", "0"], "jobs is 0"),
        (["swapping", "--out", __file__], "exists"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(line, says, tmp_path, capsys):
    out = [] if "--out" in line else ["--out", str(tmp_path)]
    assert main([*line, *out]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert says in error and not list(tmp_path.iterdir())


def test_another_file_in_the_way_stays(tmp_path, capsys):
    path = tmp_path / "swapping.jsonl"
    path.write_text("a letter")
    assert main(["swapping", "--out", str(tmp_path)]) == 2
    assert path.read_text() == "a letter"


def test_every_study_s_file_is_in_the_order():
    folder = Path(importlib.import_module("studies").__file__).parent
    names = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert names - {"claims", "common"} == {*studies.ORDER, *studies.APART}
