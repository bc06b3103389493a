"""The tools in tests/tools find the faults that they are made for."""

import json
import mmap
import os
import random
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent
sys.path.insert(0, str(TOOLS))
pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, limits and signals")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Importing a tool sets environment variables; they are restored after the test."""
    chosen = {
        "MINILORA_KERNELS": "numpy",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "0",
    }
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)


SOURCE = """
def f(a, b):
    '''Words.'''
    if a < b and a:
        raise ValueError(f"{a} is too small")
    total = a - b
    total += 2
    return total
"""


def test_mutants_change_one_place_each():
    from mutants import mutants, mutated

    found = mutants("f.py", SOURCE)
    changes = [mutant.change for mutant in found]
    for wanted in (
        "a < b -> a <= b",
        "a < b and a -> a < b or a",
        "a < b and a -> not (a < b and a)",
        "raise ValueError(f'{a} is too small') -> pass",
        "a - b -> a + b",
        "total += 2 -> total -= 2",
        "2 -> 3",
        "return total -> return None",
    ):
        assert changes.count(wanted) == 1, changes
    answers = {_answers(mutated(SOURCE, n)) for n in range(len(found))}
    assert _answers(SOURCE) not in answers and len(answers) > 4


def _answers(source):
    """What f returns or raises for some arguments."""
    space, found = {}, []
    exec(compile(source, "f.py", "exec"), space)
    for a, b in ((5, 2), (2, 2), (1, 2), (0, 1)):
        try:
            found.append(space["f"](a, b))
        except ValueError as error:
            found.append(str(error))
    return tuple(found)


def test_a_sample_of_mutants_stays_the_same_when_the_file_grows():
    from mutants import mutants, shuffled

    def order(source):
        return [m.key() for m in shuffled(mutants("f.py", source), 3) if m.function == "f"]

    assert order(SOURCE) == order("LIMIT = 2\n" + SOURCE)
    assert order(SOURCE) != [m.key() for m in mutants("f.py", SOURCE)]


def test_the_table_of_mutants_leaves_out_what_nobody_can_notice():
    import records

    first = {"mutants": 10, "killed": 6}
    after = [{"room": "ops", "result": r} for r in ("killed", "survived", "equivalent", "gone")]
    rows = records.mutations({"rooms": {"ops": first}, "survivors": after})
    assert rows[-1] == "| all | 10 | 2 | 6 | 7 | 1 | 75.0 % | 87.5 % |"


def test_every_mutant_listed_as_equivalent_is_still_there():
    from mutants import KEY, mutants

    listed = json.loads((TOOLS / "equivalent.json").read_text(encoding="utf-8"))
    for entry in listed:
        source = (TOOLS.parents[1] / entry["file"]).read_text(encoding="utf-8")
        keys = {mutant.key() for mutant in mutants(entry["file"], source)}
        key = tuple(str(entry[name]) for name in KEY)
        assert key in keys, f"no longer in the source: {key}"
        assert len(entry["reason"]) > 10


def test_damaged_files_differ_from_the_valid_one_and_repeat_by_seed():
    from damage import damaged

    data = json.dumps({"a": [1, 2.5], "b": {"c": "d"}}).encode()
    found = [damaged("x.json", data, random.Random(n), [data]) for n in range(100)]
    assert found == [damaged("x.json", data, random.Random(n), [data]) for n in range(100)]
    assert len({*found} - {data}) > 70


@pytest.mark.parametrize("n", range(4))
def test_damaged_files_are_refused_by_name_or_can_be_used(tmp_path, n):
    """Some cases of every loader; .ci/run has two minutes of new ones."""
    import fuzz

    for reader in fuzz.READERS:
        assert fuzz.outcome(reader, fuzz.example(reader), tmp_path / "case") == "used", reader
        for k in range(5 * n, 5 * n + 5):
            said = fuzz.outcome(reader, fuzz.case(reader, 0, k), tmp_path / "case")
            assert said in ("used", "refused"), (reader, k, said)


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("of no file"), RecursionError()])
def test_an_error_that_is_not_promised_is_an_escape(tmp_path, monkeypatch, error):
    import fuzz

    def use(path):
        raise error

    monkeypatch.setitem(fuzz.READERS, "csv", (*fuzz.READERS["csv"][:1], use, "data.csv", ()))
    assert fuzz.outcome("csv", fuzz.example("csv"), tmp_path / "case") not in ("used", "refused")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_the_memory_of_a_case_is_its_own(tmp_path, monkeypatch):
    """A case that uses much memory does not hide the next one's use."""
    import fuzz

    sizes = iter([150, 250, 1])  # MiB

    def use(path):
        with mmap.mmap(-1, next(sizes) << 20) as area:  # malloc may keep what it was given
            for at in range(0, len(area), mmap.PAGESIZE):
                area[at] = 1

    monkeypatch.setitem(fuzz.READERS, "csv", (*fuzz.READERS["csv"][:1], use, "data.csv", ()))
    said = [fuzz.outcome("csv", fuzz.example("csv"), tmp_path / "case") for _ in range(3)]
    assert said[0] == said[2] == "used" and said[1].startswith("took 2"), said


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_case_that_does_not_end_is_ended_and_kept(tmp_path, monkeypatch):
    """A new worker runs the cases that follow."""
    import fuzz

    def use(path):
        while b"walk" not in path.read_bytes():
            pass

    monkeypatch.setitem(fuzz.READERS, "csv", (*fuzz.READERS["csv"][:1], use, "data.csv", ()))
    monkeypatch.setattr(fuzz, "SECONDS", 0.02)
    counts, escapes = fuzz.campaign(["csv"], 0, 300.0, tmp_path, most=8)
    assert counts.total() == 8 and counts["csv", "escaped"] == len(escapes) >= 1
    assert "ended or hung the process" in escapes[0]
    kept = tmp_path / escapes[0].partition(":")[0]
    assert b"walk" not in (kept / "data.csv").read_bytes()


def test_the_tables_of_the_page_are_the_records():
    """python tests/tools/records.py writes these tables."""
    import records

    shown = records.tables()
    assert [name for name, _ in shown] == list(records.KINDS)
    for name, text in shown:
        assert text == records.table(name), name
    assert records.read("faults")["losses"] == []
    fuzz = records.read("fuzz")
    escaped, mended = {said.partition(":")[0] for said in fuzz["escapes"]}, fuzz.get("mended", {})
    assert escaped == mended.keys() and {*mended.values()} <= {folder.name for folder in CORPUS}


def test_a_second_campaign_is_added_to_the_record_of_the_first(tmp_path):
    import records

    path = tmp_path / "fuzz.json"
    first = {"seed": 1, "cases": {"gguf": {"used": 3, "refused": 4}}, "escapes": []}
    records.write(path, {**first, "computed": 2})
    second = {"seed": 2, "cases": {"csv": {"used": 5}, "gguf": {"used": 1}}, "escapes": ["x"]}
    assert records.added(path, second) == {
        "seed": "1, 2",
        "cases": {"gguf": {"used": 4, "refused": 4}, "csv": {"used": 5}},
        "escapes": ["x"],
    }
    records.write(path, records.added(path, second))
    assert records.added(path, {**second, "seed": 3})["seed"] == "1, 2, 3"
    records.write(path, {**first, "mended": {"x": "gguf-x"}})
    assert records.added(path, second)["mended"] == {"x": "gguf-x"}


CORPUS = sorted((TOOLS / "corpus").glob("*/"))
USED = {"tokenizer-surrogate"}  # the model comes without a tokenizer, and a warning says so


@pytest.mark.parametrize("folder", CORPUS, ids=lambda folder: folder.name)
def test_what_once_escaped_is_refused_or_used(folder):
    """Each folder is a case on which a loader failed: <loader>-<what>."""
    import fuzz

    wanted = "used" if folder.name in USED else "refused"
    assert fuzz.judged(folder.name.split("-")[0], folder) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "save_model", "save_adapter", "sweep", "compare"])
def test_a_killed_process_loses_nothing(kind, tmp_path):
    """One kill of each kind by each signal; tests/tools/faults.py does hundreds."""
    import signal

    import faults

    rng = random.Random(kind)
    for n, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
        (tmp_path / str(n)).mkdir()
        faults.KILLS[kind][0](rng, how, tmp_path / str(n))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "read_only", "removed", "two_writers"])
def test_faults_of_the_disk_lose_nothing(kind, tmp_path):
    import faults

    os.chmod(tmp_path, 0o755)
    faults.OTHERS[kind](random.Random(kind), tmp_path)
