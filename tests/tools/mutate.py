"""Would a test notice? Changes the package's code in one place at a time and runs the tests.

    python tests/tools/mutate.py --rooms methods,ops --sample 200 --seed 0 --jobs 2
    python tests/tools/mutate.py --again build/mutations.json     # only what survived there

A first run finds out which lines each test runs and how long it takes. Then each mutant gets the
tests that run its statement, the quick ones first, until one fails: in a forked process, in which
the functions that differ get the code of the mutant. Where no function differs (a constant at the
top of a file), the process imports the package anew. Not on Windows.
A mutant counts as killed where a test fails or takes ten times as long as before. Those listed in
equivalent.json, each with its reason, are not counted.
"""

import argparse
import collections
import contextlib
import gc
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MINILORA_KERNELS", "numpy")  # so that nothing is compiled
os.environ.update(OPENBLAS_NUM_THREADS="1", MINILORA_TESTS="mutants", TOKENIZERS_PARALLELISM="0")

import numpy as np  # noqa: F401  imported once, for all forks
import pytest
from hypothesis import HealthCheck, Phase, settings
from mutants import Mutant, mutants, mutated
from records import write

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("equivalent.json")
# room -> its files, and the files of tests that may be run for it
ROOMS = {
    "methods": ("methods/*", "methods dora golden count formats train bad_input model"),
    "ops": ("ops/*", "ops page engine memory model rows stress train methods"),
    "engine": ("engine", "engine ops train memory model methods stress boundaries"),
    "optim": ("tuning/optim", "train ops page golden methods stress bad_input"),
    "adapters": (
        "tuning/adapters tuning/choices tuning/peft_config tuning/storage",
        "methods formats bad_input dora library train count memory patterns boundaries model",
    ),
    "train": ("tuning/train", "train methods bad_input golden memory boundaries"),
    "gradcheck": ("gradcheck", "gradcheck page boundaries methods"),
    "memory": ("memory/*", "memory memory_choices count methods boundaries"),
    "formats": ("formats/*", "formats gguf bad_input files smollm2 boundaries"),
    "checkpoints": ("tuning/checkpoints", "train formats methods bad_input dora boundaries"),
    "generation": ("llama/generation", "model rows formats commands boundaries library"),
    "check": ("check/*", "check gradcheck questions"),
}
UNPATCHED = 77  # exit code: the change is in no function


def files_of(room: str) -> list[str]:
    """The source files of a room, from the top of the checkout."""
    found = [p for part in ROOMS[room][0].split() for p in (ROOT / "minilora").glob(f"{part}.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def tests_of(rooms) -> list[str]:
    """The files of tests for some rooms."""
    stems = sorted({stem for room in rooms for stem in ROOMS[room][1].split()})
    return [p for s in stems if (ROOT / (p := f"tests/test_{s}.py")).exists()]


def draw(room: str, sample: int, seed: int) -> list[Mutant]:
    """So many mutants of a room at random (0: all), without those that are listed as equivalent."""
    known = {(e["file"], e["text"], e["column"], e["change"]) for e in json.loads(LIST.read_text())}
    found = [m for f in files_of(room) for m in mutants(f, (ROOT / f).read_text(encoding="utf-8"))]
    found = [m for m in found if m.key() not in known]
    random.Random(f"{seed} {room}").shuffle(found)
    return found[: sample or None]


# ---------------------------------------- processes


def forked(job, jobs: int, work, done) -> None:
    """job(item) for each item of work, each in a process of its own, `jobs` at a time.

    work: pairs (item, seconds that it may take). job(item, folder) returns an exit code, and
    done(item, code, folder) is called with it, None where time ran out.
    """
    running: dict[int, tuple] = {}
    waiting = collections.deque(work)
    while waiting or running:
        while waiting and len(running) < jobs:
            item, seconds = waiting.popleft()
            folder = tempfile.mkdtemp(prefix="mutant-")
            if not (pid := os.fork()):
                _child(job, item, folder)
            running[pid] = item, time.monotonic() + seconds, folder
        time.sleep(0.01)
        for pid, (item, end, folder) in [*running.items()]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = not ended and time.monotonic() > end
            if ended or late:
                _kill(pid, wait=late)
                del running[pid]
                done(item, None if late else os.waitstatus_to_exitcode(status), Path(folder))
                shutil.rmtree(folder, ignore_errors=True)


def _kill(pid, wait) -> None:
    """End a child and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if wait:
        os.waitpid(pid, 0)


def _child(job, item, folder) -> None:
    code = 1
    try:
        os.setsid()
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(null, handle)
        code = job(item, Path(folder))
    finally:
        os._exit(code)


def patch(mutant: Mutant) -> bool:
    """Give the functions of this process the code of the mutant; False where none differs."""
    path = str(ROOT / mutant.file)
    source = Path(path).read_text(encoding="utf-8")
    new = _codes(compile(mutated(source, mutant.n), path, "exec", dont_inherit=True))
    patched = False
    for function in gc.get_objects():
        if type(function) is types.FunctionType and function.__code__.co_filename == path:
            code = function.__code__
            other = new.get((code.co_qualname, code.co_firstlineno))
            if other is not None and other != code:
                function.__code__ = other
                patched = True
    return patched


def _codes(code) -> dict:
    """(name, first line) -> code of every function in a module; without those that share both."""
    found, several = {}, set()
    waiting = [code]
    while waiting:
        for inner in waiting.pop().co_consts:
            if isinstance(inner, types.CodeType):
                key = inner.co_qualname, inner.co_firstlineno
                several |= {key} & found.keys()
                found[key] = inner
                waiting.append(inner)
    return {key: code for key, code in found.items() if key not in several}


class Finder:
    """Imports one module of the package from its mutant."""

    def __init__(self, mutant):
        self.mutant, self.path = mutant, str(ROOT / mutant.file)

    def find_spec(self, name, path=None, target=None):
        import importlib.machinery

        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.origin == self.path:
            spec.loader.get_code = self._code
        return spec

    def _code(self, name):
        source = Path(self.path).read_text(encoding="utf-8")
        return compile(mutated(source, self.mutant.n), self.path, "exec", dont_inherit=True)


# ---------------------------------------- inside of pytest


class Loop:
    """Takes the place of pytest's own loop over the tests that it has collected."""

    def __init__(self, plan, jobs, limit, answer):
        self.plan, self.jobs, self.limit, self.answer = plan, jobs, limit, answer

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        ran = first_run(session, items, self.jobs)
        failed = [name for name in items if not ran[name].passed]
        print(f"{len(items)} tests, {len(self.plan)} mutants; left out, since they fail without a ")
        print(f"change: {', '.join(failed) or 'none'}", flush=True)
        work = []
        for mutant, room in self.plan:
            tests = choose(ran, room, self.limit, mutant)
            work.append(((mutant, room, tests), 30 + 10 * sum(ran[t].seconds for t in tests)))

        def run(item, folder):
            mutant, _, names = item
            if not patch(mutant):
                return UNPATCHED
            return run_tests(session, [items[name] for name in names])

        def done(item, code, folder):
            mutant, room, names = item
            if code == UNPATCHED:
                self.answer(mutant, room, choose(ran, room, self.limit))
            else:
                self.answer(mutant, room, names, "survived" if code == 0 else "killed")

        forked(run, self.jobs, work, done)
        return True


def run_tests(session, items) -> int:
    """Run tests until one fails: 1, else 0."""
    for item, following in zip(items, [*items[1:], None]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


@dataclass
class Ran:
    """One test in the first run."""

    seconds: float
    passed: bool
    lines: dict[str, int]  # file, from the top of the checkout -> a bit for each line


def choose(ran: dict[str, Ran], room: str, limit: float, mutant: Mutant | None = None) -> list[str]:
    """The room's tests that run a mutant's statement (None: all), the quick ones first, up to
    `limit` seconds together.
    """
    found, total, files = [], 0.0, tests_of([room])
    spot = mutant and _bits(range(mutant.first, mutant.last + 1))
    for name, test in sorted(ran.items(), key=lambda pair: pair[1].seconds):
        runs = not mutant or test.lines.get(mutant.file, 0) & spot
        if test.passed and name.split("::")[0] in files and runs:
            total += test.seconds
            if total > limit and found:
                break
            found.append(name)
    return found


def _bits(numbers) -> int:
    """A whole number with these bits."""
    return sum(1 << n for n in set(numbers))


def first_run(session, items, jobs) -> dict[str, Ran]:
    """Run each test once, in a process of its own. What was found is kept for the next time, as
    long as the package, the test's file and the helpers of the tests stay the same.
    """
    keep = ROOT / "build" / "mutate"
    keep.mkdir(parents=True, exist_ok=True)
    places = {test: keep / f"{_stamp(test)}.pickle" for test in {n.split("::")[0] for n in items}}
    ran: dict[str, Ran] = {}
    for place in places.values():
        if place.exists():
            ran |= pickle.loads(place.read_bytes())
    missing = [name for name in items if name not in ran]
    if missing:
        print(f"the first run: {len(missing)} tests", flush=True)

    def record(name, folder):
        lines = _trace()
        start = time.process_time()
        failed = run_tests(session, [items[name]])
        took = time.process_time() - start
        top, found = len(str(ROOT)) + 1, collections.defaultdict(list)
        for file, line in lines:
            found[file[top:]].append(line)
        told = Ran(took, not failed, {file: _bits(those) for file, those in found.items()})
        (folder / "ran").write_bytes(pickle.dumps(told))
        return 0

    def done(name, code, folder):
        nothing = Ran(0.0, False, {})
        ran[name] = pickle.loads((folder / "ran").read_bytes()) if code == 0 else nothing

    def again(name, code, folder):
        ran[name].passed = code == 0

    forked(record, jobs, [(name, 600) for name in missing], done)
    # tests that measure memory fail only because their lines are counted
    failed = [(name, 600) for name in missing if not ran[name].passed]
    forked(lambda name, folder: run_tests(session, [items[name]]), jobs, failed, again)
    for test, place in places.items():
        mine = {name: one for name, one in ran.items() if name.split("::")[0] == test}
        place.write_bytes(pickle.dumps(mine))
    return ran


def _stamp(test: str) -> str:
    """A hash of what a test file's first run depends on."""
    files = [*(ROOT / "minilora").rglob("*.py"), *(ROOT / "tests").glob("[!t]*.py"), ROOT / test]
    whole = hashlib.sha256(os.environ["MINILORA_KERNELS"].encode())
    for path in sorted(files):
        whole.update(path.read_bytes())
    return f"{Path(test).stem}-{whole.hexdigest()[:16]}"


def _trace() -> set[tuple[str, int]]:
    """A set that gets each (file, line) of the package that runs from now on."""
    lines: set[tuple[str, int]] = set()
    monitoring, top = sys.monitoring, f"{ROOT / 'minilora'}{os.sep}"

    def line(code, number):
        if code.co_filename.startswith(top):
            lines.add((code.co_filename, number))
        return monitoring.DISABLE

    monitoring.use_tool_id(monitoring.COVERAGE_ID, "mutate")
    def start(code, offset):  # the one line of a lambda is no event of its own
        return line(code, code.co_firstlineno)

    events = monitoring.events
    monitoring.register_callback(monitoring.COVERAGE_ID, events.LINE, line)
    monitoring.register_callback(monitoring.COVERAGE_ID, events.PY_START, start)
    monitoring.set_events(monitoring.COVERAGE_ID, events.LINE | events.PY_START)
    return lines


# ---------------------------------------- the two ways to run a mutant


OPTIONS = ["--capture=sys", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-m", "not slow"]


def in_forks(plan, jobs, limit, log) -> None:
    """Mutants of functions: in forks of one process that has collected all tests."""

    def answer(mutant, room, names, result=None):
        if result == "survived":
            print(f"  {mutant.file}:{mutant.line}: {mutant.change}", flush=True)
        with log.open("a") as file:
            print(json.dumps([vars(mutant), room, names, result]), file=file)

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            files = tests_of({room for _, room in plan})
            code = pytest.main([*OPTIONS, *files], plugins=[Loop(plan, jobs, limit, answer)])
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("the tests could not be collected, or the run was stopped")


def anew(mutant, names) -> int:
    """One mutant in a process that has not imported the package: the exit code of its tests."""

    class Chosen:
        def pytest_collection_modifyitems(self, session, config, items):
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in names if name in by_name]

    sys.meta_path.insert(0, Finder(mutant))
    files = sorted({name.split("::")[0] for name in names})
    return int(pytest.main([*OPTIONS, "-x", *files], plugins=[Chosen()]))


def run(plan, jobs, limit) -> list[dict]:
    """A record of each mutant of the plan, pairs (mutant, room)."""
    log = Path(tempfile.mkdtemp()) / "log"
    records = []

    def note(mutant, room, tests, result):
        about = {k: v for k, v in vars(mutant).items() if k not in ("n", "first", "last")}
        records.append({"room": room, **about, "tests": tests, "result": result})

    in_forks(plan, jobs, limit, log)
    later = []
    for line in log.read_text().splitlines() if log.exists() else ():
        fields, room, names, result = json.loads(line)
        mutant = Mutant(**fields)
        if result is None:
            later.append(((mutant, room, names), 60 + 20 * limit))
        else:
            note(mutant, room, len(names), result)

    def done(item, code, folder):
        mutant, room, names = item
        note(mutant, room, len(names), "survived" if code == 0 else "killed")
        if code == 0:
            print(f"  {mutant.file}:{mutant.line}: {mutant.change}", flush=True)

    forked(lambda item, folder: anew(item[0], item[2]), jobs, later, done)
    shutil.rmtree(log.parent)
    return records


def table(records) -> str:
    """A row a room: mutants, killed, per cent."""
    rows = [f"{'room':14}{'mutants':>9}{'killed':>9}{'%':>7}"]
    for room in [*ROOMS, "all"]:
        mine = [r["result"] for r in records if room in (r["room"], "all")]
        if mine:
            killed = mine.count("killed")
            rows.append(f"{room:14}{len(mine):9}{killed:9}{100 * killed / len(mine):7.1f}")
    return "\n".join(rows)


def main() -> None:
    about = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about.add_argument("--rooms", default=",".join(ROOMS), help="of " + ", ".join(ROOMS))
    about.add_argument("--sample", type=int, default=200, help="mutants a room; 0: all")
    about.add_argument("--seed", type=int, default=0)
    about.add_argument("--jobs", type=int, default=2)
    about.add_argument("--limit", type=float, default=10.0, help="seconds of tests for a mutant")
    about.add_argument("--at", help="only these places: FILE:LINE,...")
    about.add_argument("--tests", help="only these files of tests: boundaries,formats")
    about.add_argument("--again", type=Path, help="a record: only what survived there")
    about.add_argument("--out", type=Path, default=ROOT / "build" / "mutations.json")
    asked = about.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    settings.register_profile(
        "mutants",
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=25,
        phases=(Phase.explicit, Phase.generate),  # a failure is not made smaller
        suppress_health_check=[HealthCheck.too_slow],
    )
    if asked.tests:
        ROOMS.update({room: (of, asked.tests.replace(",", " ")) for room, (of, _) in ROOMS.items()})
    old = []
    if asked.at:
        wanted = set(asked.at.split(","))
        plan = [(m, room) for room in ROOMS for m in draw(room, 0, 0)]
        plan = [(m, room) for m, room in plan if f"{m.file}:{m.line}" in wanted]
    elif asked.again:
        old = json.loads(asked.again.read_text())["mutants"]
        wanted = {_key(r) for r in old if r["result"] == "survived"}
        plan = [(m, room) for room in ROOMS for m in draw(room, 0, 0) if m.key() in wanted]
        again = {m.key() for m, _ in plan}
        old = [r for r in old if r["result"] == "killed"]
        print(f"{len(wanted)} survivors, {len(wanted - again)} of them changed or listed since")
    else:
        plan = [
            (m, room)
            for room in asked.rooms.split(",")
            for m in draw(room, asked.sample, asked.seed)
        ]
    start = time.monotonic()
    records = [*old, *run(plan, asked.jobs, asked.limit)]
    print(table(records))
    kernels = os.environ["MINILORA_KERNELS"]
    print(f"seed {asked.seed}, kernels {kernels}, {time.monotonic() - start:.0f} s; {asked.out}")
    before = {"killed_before": len(old)} if asked.again else {}
    write(asked.out, {"seed": asked.seed, **before, "mutants": records})


def _key(record):
    return record["file"], record["text"], record["column"], record["change"]


if __name__ == "__main__":
    main()
