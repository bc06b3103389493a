"""A figure that cannot be drawn or written: the results, the records and the adapters are there."""

import errno
import json
import types
import warnings

import pytest
from results import make_results

import minilora as ml
import studies.__main__ as studies_command
from minilora.cli import main
from minilora.lab import compare, report
from minilora.support import plots
from minilora.support.files import optional_files

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(
    params=[FULL, MemoryError(), RuntimeError("no font")], ids=["disk", "memory", "font"]
)
def no_figure(request, monkeypatch):
    """No figure can be drawn; returns what a warning says of it."""

    def fail(*_, **__):
        raise request.param

    monkeypatch.setattr(plots, "png", fail)
    return str(request.param) or "MemoryError"


def test_a_comparison_is_published_before_its_figures(tmp_path, monkeypatch, capsys, no_figure):
    """And no figure of an earlier comparison stays beside it."""
    results = make_results()

    def finished(settings, lr, folder, **_):
        (folder / "adapters" / "lora").mkdir(parents=True)
        (folder / "adapters" / "lora" / "adapter_config.json").write_text("new")
        return results

    monkeypatch.setattr(compare, "compare", finished)
    drawn = ("report.html", *report.FIGURES)
    for name in ("results.json", *drawn):
        (tmp_path / name).write_text("of an earlier comparison")
    assert main(["compare", "--out", str(tmp_path)]) == 0
    assert report.read_results(tmp_path)["methods"].keys() == results["methods"].keys()
    assert (tmp_path / "adapters" / "lora" / "adapter_config.json").read_text() == "new"
    assert not any((tmp_path / name).exists() for name in drawn)
    said = capsys.readouterr()
    assert no_figure in said.err and "warning: not written, and the run goes on" in said.err
    assert f"written to {tmp_path}: results.json, adapters/" in said.out


def test_a_trained_adapter_and_its_card_are_there_without_the_curves(tmp_path, capsys, no_figure):
    data, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    data.write_text(json.dumps({"prompt": "walk", "completion": "walked"}))
    line = ["train", "--steps", "1", "--lr", "0.01", "--data", data, "--out", out]
    assert main([str(word) for word in line]) == 0
    assert ml.load_adapter(ml.load_model("base"), out).method == "lora"
    assert "# LoRA" in (out / "README.md").read_text() and not (out / "loss.png").exists()
    said = capsys.readouterr()
    assert no_figure in said.err and f"card: {out / 'README.md'}" in said.out


def test_the_next_study_is_run_where_a_figure_fails(tmp_path, monkeypatch, capsys):
    def fail(records, path):
        raise FULL

    def made_up(name):
        draw = fail if name == "first" else lambda records, path: path.write_bytes(b"drawn")
        about = {"name": name, "title": "", "table": lambda records: "a table"}
        return types.SimpleNamespace(**about, figure=draw)

    monkeypatch.setattr(studies_command, "study", made_up)
    monkeypatch.setattr(studies_command, "run_study", lambda *_, **__: [{"seconds": 1.0}])
    with pytest.warns(UserWarning, match=r"not written, and the run goes on: .*first\.png"):
        assert studies_command.main(["first", "second", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["second.png"]
    assert capsys.readouterr().out.count("1 cells in") == 2


def test_what_is_no_failure_of_a_file_goes_on_up(tmp_path):
    with pytest.raises(KeyboardInterrupt), optional_files(tmp_path / "a.png"):
        raise KeyboardInterrupt
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with optional_files(tmp_path / "a.png"):
            (tmp_path / "a.png").write_bytes(b"drawn")
    assert (tmp_path / "a.png").exists()
