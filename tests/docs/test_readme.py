"""What the README says is what the code does: its snippets run, its numbers are the record's."""

import contextlib
import io
import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pages
import pytest

import minilora as ml
import studies
from minilora.cli import main, parser
from minilora.formats.models import smollm2_path
from minilora.gradcheck import GradientError
from minilora.lab import table
from minilora.lab.report import read_results
from minilora.methods import METHODS
from minilora.text.pairs import read_pairs
from studies import _general, four_bits, language_model
from studies._verdicts import interval, times

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
PROSE = " ".join(README.split())
# Processors round differently, and 150 steps of training add it up: the README says so.
NEAR = 0.04
NUMBER = r"-?[\d,]*\.?\d+(?:e-?\d+)?"


@pytest.fixture(scope="module")
def record():
    """The comparison that is committed."""
    return read_results(ROOT / "data" / "results" / "compare")


def numbers(text):
    return [float(n.replace(",", "")) for n in re.findall(NUMBER, text)]


def test_the_snippet_prints_the_numbers_in_its_comments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = [line.split("#", 1)[1] for line in SNIPPETS[0].splitlines() if "print(" in line]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(SNIPPETS[0], {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(said) > 3
    for comment, line in zip(said, lines, strict=True):
        got = numbers(line)
        wanted = numbers(comment)[: len(got)]
        if all(n.is_integer() and n > 1 for n in wanted):
            assert got == wanted, line
        else:
            assert got == pytest.approx(wanted, abs=NEAR), line


def test_the_numbers_beside_the_snippet_are_the_models(record):
    base = ml.load_model("base")
    parameters = sum(a.size for a in base.params.values())
    assert f"# {parameters:,} parameters" in SNIPPETS[0]
    assert f"{record['methods']['lora']['trainable']:,} trainable numbers" in SNIPPETS[0]
    assert f"{parameters / 1e6:.1f} M parameters" in PROSE
    assert f"all {record['settings']['test_size']} held-out verbs" in PROSE


def test_the_table_is_the_committed_record(record):
    printed = [line.rstrip() for line in table.table(record).splitlines() if line.strip()]
    shown = [line.strip() for line in README.splitlines()]
    for line in printed:
        assert line.strip() in shown


def test_what_is_said_of_smollm2_is_the_studys_record():
    for name in studies.APART:
        pages.whole(name)
    shown = dict(pages.records(ROOT / "README.md"))
    assert shown == {name: pages.table(name) for name in studies.APART}
    assert f"of {language_model.CHOICES} questions" in PROSE
    assert len(_general.QUESTIONS) == 20 and "of twenty open questions" in PROSE


def test_what_is_said_of_four_bits_is_the_studys_record():
    s = four_bits.summary(pages.whole("four_bits"))

    def shown(e, digits):
        return f"{e.mean:.{digits}f} [{', '.join(f'{end:.{digits}f}' for end in interval(e))}]"

    whole = {form: f"{s['base'][form]['bytes']['all'] / 1e6:.0f}" for form in four_bits.FORMS}
    faster = [shown(s["speed"]["faster"][form], 1) for form in ("stored", "nf4")]
    lower = times(-1, four_bits.gap(s, "nf4", *four_bits.LEARNERS))
    for said in (
        f"takes {whole['stored']} or {whole['nf4']} MB in place of {whole['float32']}.",
        f"it decodes {faster[0]} and {faster[1]} times as fast",
        f"from NF4 the mean of their scores is {lower.mean:.3f} lower",
        f"NF4's own rounding costs {four_bits.text_gap(s, 'nf4').mean:.2f} nats per token",
    ):
        assert said in PROSE
    (step,) = (q for q in four_bits.QUESTIONS if "takes no longer" in q.sentence)
    assert step.judge(s).verdict == "holds"
    assert four_bits.gap(s, "stored", *four_bits.LEARNERS)[:2] == (0, 0), "the same scores"
    for rows in s["learn"].values():
        lost = {form: rows[form]["text"].mean - np.mean(s["base"][form]["text"]) for form in rows}
        assert min(lost.values()) > 1 and max(lost, key=lost.get) == "nf4"


def test_what_is_said_of_training_from_scratch_is_the_studys_record(record):
    row = studies.study("scratch").summary(pages.whole("scratch"))["scratch"]
    best = row["curve"][row["best"]]["exact_match"].mean
    said = re.search(
        r"the same model gets (\d+) % in these (\d+) steps, and (\d+) % in its own best number of "
        r"steps, ([\d,]+)",
        PROSE,
    )
    scratch, steps = record["references"]["scratch"], record["settings"]["steps"]
    wanted = (f"{100 * scratch:.0f}", str(steps), f"{100 * best:.0f}", f"{row['best']:,}")
    assert said.groups() == wanted


def test_the_scores_in_the_prose_are_the_records(record):
    scores = record["references"]
    for name, words in (
        ("rule_ed", r'rule \*add "ed"\* gets (.*?) of these'),
        ("rule_four", r"four rules of spelling get (.*?)\."),
        ("base", r"The base before training gets (.*?);"),
    ):
        said = re.search(words, PROSE)[1]
        assert said == f"{100 * scores[name]:.0f} %" if said != "none" else scores[name] == 0


def test_the_failed_gradient_is_told_in_these_words():
    with pytest.raises(GradientError) as found:
        exec(SNIPPETS[1], {"ml": ml})
    assert "GradientError: " + " ".join(str(found.value).split()) in " ".join(
        SNIPPETS[1].replace("\n# ", " ").split()
    )


def test_the_property_test_finds_the_wrong_gradient():
    """Its snippet goes on from the forward and backward of the one before."""
    names = {"ml": ml}
    for snippet in SNIPPETS[1:3]:
        with pytest.raises(GradientError, match="dW is wrong"):
            exec(snippet, names)


def test_each_technique_has_its_row():
    for name, method in METHODS.items():
        if name != "full":
            link = re.escape(f"| [{method.title}](minilora/methods/{name}.py)")
            row = re.search(rf"^{link}.*", README, re.M)
            assert row, method.title
            authors, year = row[0].split("|")[-2].split()
            assert authors in method.source and year in method.source


def test_every_option_has_its_row():
    """Techniques, default and meaning are the records'."""
    for record in METHODS.values():
        for option, default in record.options.items():
            rows = re.findall(rf"^\| `{option}` \|.*$", README, re.M)
            cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
            (mine,) = [c for c in cells if record.title in c[1].split(", ")]
            assert mine[2:] == [str(default), record.about[option]]


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^    (minilora .*?)$", README, re.M))))
def test_commands_are_understood(line):
    arguments = parser().parse_args(shlex.split(line, comments=True)[1:])
    assert callable(arguments.command)


def test_the_lines_on_your_own_data_run_word_for_word(tmp_path, monkeypatch, capsys):
    """In an empty folder, as after an installation from a wheel; the comment is what is printed."""
    monkeypatch.chdir(tmp_path)
    block = README.split("## Your own data")[1].split("\n\n")[1]
    train, generate = block.splitlines()
    assert main(shlex.split(train)[1:]) == 0
    assert "on 105 pairs" in capsys.readouterr().out
    line, comment = generate.split("#")
    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out.strip() == comment.strip()


@pytest.mark.slow
def test_the_lines_on_a_real_model_run_word_for_word(tmp_path, monkeypatch, capsys):
    """What it says after is in the style of its 80 pairs, and was not before."""
    pytest.importorskip("tokenizers")
    try:
        smollm2_path()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    monkeypatch.chdir(tmp_path)
    block = README.split("## Fine-tune a real model")[1].split("\n\n")[1]
    _, train, generate = (shlex.split(line)[1:] for line in block.splitlines())
    assert main(train) == 0
    out = capsys.readouterr().out
    assert "on 80 pairs" in out and "chosen by minilora tune on the task category" in out
    said = [answer.startswith("Aye,") for answer in re.findall("^    .* -> (.*)$", out, re.M)]
    assert said[:3] == [False] * 3 and said[-3:] == [True] * 3, out
    assert main(generate) == 0 and capsys.readouterr().out.startswith("Aye,")
    files = re.findall(r"\(`([\w.]+)`\)", README.split("`runs/keeper` then has")[1])[:3]
    assert all((tmp_path / "runs/keeper" / name).is_file() for name in (*files, "run.toml"))


def test_the_examples_are_in_the_wheel_and_keep_training_and_test_apart():
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "data/examples" in packed["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    train, held_out = (
        read_pairs(ROOT / f"data/examples/{name}.jsonl") for name in ("pairs", "held_out")
    )
    prompts = [prompt for prompt, _ in train + held_out]
    assert len(train) == 105 and len(set(prompts)) == len(prompts)
    keeper = [
        dict(read_pairs(ROOT / f"data/examples/keeper{name}.jsonl")) for name in ("", "_held_out")
    ]
    assert [len(pairs) for pairs in keeper] == [80, 10] and not {*keeper[0]} & {*keeper[1]}


def test_links_and_files_are_there():
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if "://" not in t]
    named = re.findall(r"`((?:minilora|data|tests|notebooks|docs)/[\w/.]*)`", README)
    for target in [*targets, *named]:
        assert (ROOT / target.split("#")[0]).exists(), target


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in set(
        sum(re.findall(r"^    make ([a-z0-9-]+)|`make ([a-z0-9-]+)`", README, re.M), ())
    ) - {""}:
        assert re.search(rf"^{name}:", makefile, re.M), name


def test_the_record_names_no_place_of_its_machine(record):
    assert "/" not in json.dumps(record["settings"]) and record["settings"]["base"] == "base"
