"""minilora step: what it writes, and what it says to what is wrong."""

import pytest

from minilora.cli import main


def test_it_writes_each_technique_at_each_number_of_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["step", "--methods", "lora,vera", "--rank", "4", "--steps", "0,2"]) == 0
    said = capsys.readouterr().out
    assert "LoRA, step 0, LoRA, step 2, VeRA, step 0, VeRA, step 2: step.html" in said
    assert (tmp_path / "step.html").stat().st_size > 500_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--adapter here", "here"),
        ("--adapter here --rank 3", "--adapter has its own rank"),
        ("--adapter here --option dropout=0.1", "--adapter has its own options"),
        ("--steps x", "--steps: got 'x', wanted a whole number"),
        ("--steps -3", "--steps: got -3, wanted numbers from 0"),
        ("--layers 9", "wanted some of 0 … 3"),
        ("--method lorra", "unknown method 'lorra'"),
        ("--lr nan", "lr is nan"),
        ("--prompt Ω", "Ω"),
        ("--weights nf3", "nf3"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, monkeypatch, capsys, line, said):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["step", *line.split()])
    except SystemExit as end:  # argparse
        code = end.code
    printed = capsys.readouterr().err
    assert code == 2 and said in printed and printed.count("\n") == 1, printed
    assert not [*tmp_path.iterdir()]
