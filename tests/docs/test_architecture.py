"""docs/architecture.md and the README's reading order say what the code is; nothing is drawn."""

import importlib.util
import re
from pathlib import Path

import pytest
from test_structure import FLOORS

from minilora import fast

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "architecture.py"
if not SCRIPT.is_file():
    pytest.skip("an installed package has no pages", allow_module_level=True)

spec = importlib.util.spec_from_file_location("architecture", SCRIPT)
architecture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architecture)
PAGE = architecture.PAGE.read_text(encoding="utf-8")


def block(name):
    """A table of the page, as it is committed."""
    return re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- end -->", PAGE, re.S)[1]


def number(text):
    return int(text.replace(",", ""))


def near(said, lines):
    """A rounded number of lines may be a quarter off: code changes every day."""
    return abs(said - lines) <= max(20, lines / 4)


def test_the_rooms_are_those_of_the_package():
    """Names, questions and imports to the letter; numbers of lines roughly."""
    said = [row.split(" | ") for row in block("rooms").splitlines()]
    now = [row.split(" | ") for row in architecture.table_of_rooms().splitlines()]
    for mine, wanted in zip(said, now, strict=True):
        assert (mine[:2], mine[3:]) == (wanted[:2], wanted[3:]), "python docs/architecture.py"
    for row, name in zip(said[2:], architecture.ROOMS, strict=True):
        assert near(number(row[2]), architecture.lines_in(architecture.place(name))), (
            f"{name}: {row[2]} lines"
        )


def test_the_floors_are_those_that_the_imports_are_held_to():
    """All of FLOORS but the package's own two files; studies and the course stand above them."""
    top, *floors = [set(floor) for floor in architecture.FLOORS]
    *below, _, course = FLOORS
    assert top == {"studies"} | course and floors == list(reversed(below))


def test_the_hops_are_those_of_a_real_step():
    assert block("hops") == architecture.table_of_hops(), "python docs/architecture.py"


@pytest.mark.skipif(fast.backend() == "numpy", reason="about Numba's twins")
def test_with_twins_the_way_is_the_same_but_for_its_end():
    plain, twins = architecture.trace(), architecture.trace(plain=False)
    for name in ("lora_forward", "lora_backward"):
        assert twins[name][:-1] == plain[name][:-1]
        assert twins[name][-1] == architecture.Hop("fast/twins.py", (name,))
    assert twins["adamw"][-1].file == "fast/twins.py"


def test_links_and_files_are_there():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links and all((SCRIPT.parent / link).exists() for link in links if "://" not in link)


def test_the_reading_order_gives_each_file_its_lines():
    """[file](path), and "N lines" after it."""
    said = architecture.LINES.findall(architecture.README.read_text(encoding="utf-8"))
    assert len(said) > 15
    for path, lines in said:
        now = architecture.lines_in(ROOT / path)
        assert near(number(lines), now), f"{path}: {now} lines; python docs/architecture.py"
