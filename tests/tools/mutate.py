"""Would a test notice? Changes the package's code in one place at a time and runs the tests.

    python tests/tools/mutate.py --rooms methods,ops --sample 200 --seed 0
    python tests/tools/mutate.py --again build/mutations.json     # only its survivors

A first run finds out which lines each test runs and how long it takes. Then, for each mutant, the
tests that run its statement are run until one fails: first the quick tests, and those that noticed
other changes of the same function. This happens in a forked process, where the changed functions
get the mutant's code. If no function changes (a constant at the top of a file), the process imports
the package from the mutant instead. Not on Windows.
A mutant counts as killed if a test fails or takes four times as long as before. Mutants listed in
equivalent.json, each with its reason, are drawn, too, but not run.
The record is written after each room. A later run of other rooms with the same seed and the same
sample adds to it.
"""

import argparse
import collections
import contextlib
import gc
import hashlib
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KERNELS = "MINILORA_KERNELS"
os.environ.setdefault(KERNELS, "numpy")  # so that nothing is compiled
os.environ.update(OPENBLAS_NUM_THREADS="1", MINILORA_TESTS="mutants", TOKENIZERS_PARALLELISM="0")

import numpy as np  # noqa: F401  imported once, for all forks
import pytest
from hypothesis import HealthCheck, Phase, settings
from mutants import KEY, Mutant, mutants, mutated, shuffled
from records import mutations, write

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("equivalent.json")
# room -> its files, from the top of the checkout, and the files of tests that may be run for it,
# its own first
ROOMS = {
    "methods": (
        "minilora/methods/*",
        "methods dora golden count formats train bad_input model library boundaries_adapters "
        "boundaries_training",
    ),
    "ops": ("minilora/ops/*", "ops engine methods model golden boundaries_tape"),
    "engine": ("minilora/engine", "engine ops train model methods boundaries_tape"),
    "optim": (
        "minilora/tuning/optim",
        "train ops golden methods bad_input boundaries_training",
    ),
    "adapters": (
        "minilora/tuning/adapters minilora/tuning/choices minilora/tuning/storage "
        "minilora/tuning/peft_config",
        "methods formats bad_input dora library train count patterns boundaries_adapters model",
    ),
    "train": (
        "minilora/tuning/train",
        "train methods bad_input golden boundaries_training boundaries_tape",
    ),
    "gradcheck": ("minilora/gradcheck", "gradcheck boundaries_tape methods"),
    "memory": ("minilora/memory/*", "memory count boundaries_memory bad_input"),
    "formats": (
        "minilora/formats/*",
        "formats gguf bad_input files smollm2 boundaries_models",
    ),
    "checkpoints": (
        "minilora/tuning/checkpoints",
        "train formats methods bad_input dora boundaries_adapters",
    ),
    "generation": ("minilora/llama/generation", "model rows boundaries_training library"),
    "check": (
        "minilora/check/* notebooks/minilora_course/*",
        "check_pair doctor check unseen kept teaching course grading",
    ),
}
PACKAGES = ROOT / "minilora", ROOT / "notebooks" / "minilora_course"
KEEP = ROOT / "build" / "mutate"
UNPATCHED = 77  # exit code: the change is outside all functions
MEMORY = 8 << 30  # bytes of address space for a process


def files_of(room: str) -> list[str]:
    """The source files of a room, as paths relative to the checkout."""
    found = [path for part in ROOMS[room][0].split() for path in ROOT.glob(f"{part}.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def tests_of(rooms) -> list[str]:
    """The test files for some rooms."""
    stems = dict.fromkeys(stem for room in rooms for stem in ROOMS[room][1].split())
    found = (path for stem in stems for path in (ROOT / "tests").glob(f"*/test_{stem}.py"))
    return [str(path.relative_to(ROOT)) for path in found]


def draw(room: str, sample: int, seed: int, constants: bool = True) -> list[Mutant]:
    """`sample` random mutants of a room (0: all). Other mutants in a file do not change the choice.

    constants: also those outside functions.
    """
    found = [m for f in files_of(room) for m in mutants(f, (ROOT / f).read_text(encoding="utf-8"))]
    found = [m for m in found if m.function or constants]
    return shuffled(found, seed)[: sample or None]


def listed() -> set[tuple[str, ...]]:
    """The keys of the mutants in equivalent.json."""
    return {tuple(str(e[name]) for name in KEY) for e in json.loads(LIST.read_text())}


# ---------------------------------------- processes


@dataclass
class Child:
    """A running process."""

    item: Any
    left: float  # seconds of wall time
    folder: str


def forked(job, jobs: int, work, done) -> None:
    """Run a job for each item of work, each in its own process, `jobs` at a time.

    work: pairs (item, limit of processor seconds; the limit of wall time is four times that, and a
    minute). job(item, folder) returns an exit code, and done(item, code, folder) gets it: None if
    the time ran out.
    """
    running: dict[int, Child] = {}
    waiting, last = iter(work), time.monotonic()
    while True:
        for item, seconds in itertools.islice(waiting, jobs - len(running)):
            folder = tempfile.mkdtemp(prefix="mutant-")
            if not (pid := os.fork()):
                _child(job, item, folder, seconds)
            running[pid] = Child(item, 60 + 4 * seconds, folder)
        if not running:
            return
        time.sleep(0.01)
        passed, last = time.monotonic() - last, time.monotonic()
        for pid, child in [*running.items()]:
            child.left -= min(passed, 0.5)  # a pause of all processes does not count
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = not ended and child.left < 0
            if ended or late:
                _kill(pid, wait=late)
                del running[pid]
                code = None if late else os.waitstatus_to_exitcode(status)
                done(child.item, None if code == -signal.SIGXCPU else code, Path(child.folder))
                shutil.rmtree(child.folder, ignore_errors=True)


def _kill(pid, wait) -> None:
    """Kill a child and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if wait:
        os.waitpid(pid, 0)


def _child(job, item, folder, seconds) -> None:
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1,) * 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY,) * 2)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(null, handle)
        code = job(item, Path(folder))
    finally:
        os._exit(code)


def patch(mutant: Mutant, functions) -> bool:
    """Give these functions the code of the mutant; False if no function differs."""
    path = str(ROOT / mutant.file)
    source = Path(path).read_text(encoding="utf-8")
    new = _codes(compile(mutated(source, mutant.n), path, "exec", dont_inherit=True))
    patched = False
    for function in functions:
        code = function.__code__
        other = new.get((code.co_qualname, code.co_firstlineno))
        if code.co_filename == path and other is not None and other != code:
            function.__code__ = other
            patched = True
    return patched


def _codes(code) -> dict:
    """(name, first line) -> code of each function in a module, without those that share both."""
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


# ---------------------------------------- inside pytest


class Loop:
    """Replaces pytest's own loop over the collected tests."""

    def __init__(self, plan, jobs, limit, answer, always):
        self.plan, self.jobs, self.limit, self.answer = plan, jobs, limit, answer
        self.anew = always  # import the package from each mutant

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        ran = first_run(session, items, self.jobs)
        for room in sorted({room for _, room in self.plan}):
            control(session, items, ran, room, self.limit)
        failed = [name for name in items if not ran[name].passed]
        print(f"{len(items)} tests, {len(self.plan)} mutants; left out, since they fail without a ")
        print(f"change: {', '.join(failed) or 'none'}", flush=True)
        kills: collections.Counter[tuple[str, ...]] = collections.Counter()
        gc.collect()
        functions = [f for f in gc.get_objects() if type(f) is types.FunctionType]
        functions = [f for f in functions if f.__code__.co_filename.startswith(str(ROOT))]
        gc.freeze()  # so that a fork copies less

        def work():
            for mutant, room in self.plan:
                tests = choose(ran, room, self.limit, mutant, kills)
                yield (mutant, room, tests), 1 + 4 * sum(ran[t].seconds for t in tests)

        def run(item, folder):
            mutant, _, names = item
            if self.anew or not patch(mutant, functions):
                return UNPATCHED
            return run_tests(session, [items[name] for name in names], folder / "failed")

        def done(item, code, folder):
            mutant, room, names = item
            if code == UNPATCHED:
                self.answer(mutant, room, choose(ran, room, self.limit, mutant, anywhere=True))
                return
            self.answer(mutant, room, names, _result(code))
            if (folder / "failed").exists():
                name = (folder / "failed").read_text()
                kills.update([(name, mutant.file), (name, mutant.file, mutant.function)])

        forked(run, self.jobs, work(), done)
        return True


def _result(code: int | None) -> str:
    return {0: "survived", None: "time"}.get(code, "killed")


def run_tests(session, items, told: Path | None = None) -> int:
    """Run tests until one fails; returns 1, and writes its name into `told`; else 0."""
    for item, following in zip(items, [*items[1:], None]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            if told:
                told.write_text(item.nodeid)
            return 1
    return 0


@dataclass
class Ran:
    """One test in the first run."""

    seconds: float
    passed: bool
    lines: dict[str, int]  # file in the checkout -> a bit for each line that ran


def control(session, items, ran, room, limit) -> None:
    """Run a room's tests one after another without a mutant; tests that fail are left out."""

    def run(names, folder):
        for name in names:
            session.testsfailed = 0
            if run_tests(session, [items[name]]):
                print(name, file=(folder / "failed").open("a"), flush=True)
        return 0

    def done(names, code, folder):
        told = (folder / "failed").read_text().split("\n") if (folder / "failed").exists() else ()
        for name in filter(None, told):
            ran[name].passed = False

    forked(run, 1, [(choose(ran, room, limit), 600)], done)


def choose(ran, room, limit, mutant=None, kills=None, anywhere=False) -> list[str]:
    """A room's tests that run a mutant's statement, up to `limit` seconds in all. anywhere: those
    that run any line of its file; mutant None: all.

    Quick tests, tests in the room's first file, and tests that noticed other changes of the
    function or the file come first. kills: number of these, by (test, file) and (test, file,
    function).
    """
    kills, files = kills or collections.Counter(), set(tests_of([room]))
    first = tuple(tests_of([room])[:1])
    spot = _bits(range(mutant.first, mutant.last + 1)) if mutant and not anywhere else -1

    def worth(pair):
        name, test = pair
        there = kills[name, mutant.file, mutant.function], kills[name, mutant.file]
        own = 10 if name.startswith(first) else 1
        return test.seconds / own / (1 + 20 * there[0] + 2 * there[1])

    mine = [pair for pair in ran.items() if pair[1].passed and pair[0].split("::")[0] in files]
    if mutant:
        mine = [(n, t) for n, t in mine if t.lines.get(mutant.file, 0) & spot]
    found, total = [], 0.0
    for name, test in sorted(mine, key=worth if mutant else lambda pair: pair[1].seconds):
        total += test.seconds
        if total > limit and found:
            break
        found.append(name)
    return found


def _bits(numbers) -> int:
    """A whole number with these bits."""
    return sum(1 << n for n in set(numbers))


def first_run(session, items, jobs) -> dict[str, Ran]:
    """Run each test once, 20 in a process. The results are kept on disk, and stay valid while the
    package, the test's file and the tests' helpers do not change.
    """
    places = {test: KEEP / f"{_stamp(test)}.pickle" for test in {n.split("::")[0] for n in items}}
    ran: dict[str, Ran] = {}
    for place in places.values():
        if place.exists():
            ran |= pickle.loads(place.read_bytes())

    def record(names, folder):
        lines, told = _trace(), {}
        for name in names:
            lines.clear()
            sys.monitoring.restart_events()
            start, session.testsfailed = time.process_time(), 0
            failed = run_tests(session, [items[name]])
            took = time.process_time() - start
            told[name] = Ran(took, not failed, _by_file(lines))
            (folder / "ran").write_bytes(pickle.dumps(told))
        return 0

    def done(names, code, folder):
        if (folder / "ran").exists():
            ran.update(pickle.loads((folder / "ran").read_bytes()))
        _keep(places, ran)
        print(f"  {len(ran)} of {len(items)} tests are known", flush=True)

    def again(name, code, folder):
        ran[name].passed = code == 0

    for many in (20, 1):  # if one of 20 takes too long or ends the process, each runs alone
        missing = [name for name in items if name not in ran]
        chunks = [missing[i : i + many] for i in range(0, len(missing), many)]
        forked(record, jobs, [(names, 3 + many) for names in chunks], done)
    for name in items:
        ran.setdefault(name, Ran(0.0, False, {}))
    # tests that measure memory fail only because their lines are counted
    failed = [(name, 20) for name in items if not ran[name].passed and ran[name].lines]
    forked(lambda name, folder: run_tests(session, [items[name]]), jobs, failed, again)
    _keep(places, ran)
    return ran


def _keep(places, ran) -> None:
    KEEP.mkdir(parents=True, exist_ok=True)
    for test, place in places.items():
        mine = {name: one for name, one in ran.items() if name.split("::")[0] == test}
        place.write_bytes(pickle.dumps(mine))


def _by_file(lines) -> dict[str, int]:
    """File in the checkout -> a bit for each line that ran."""
    found = collections.defaultdict(list)
    for file, line in lines:
        found[file[len(str(ROOT)) + 1 :]].append(line)
    return {file: _bits(those) for file, those in found.items()}


def _stamp(*tests: str) -> str:
    """A hash of all files on which the first run of these test files depends."""
    files = [path for package in PACKAGES for path in package.rglob("*.py")]
    files += (ROOT / "tests").glob("[!t]*.py")
    files += [ROOT / test for test in tests]
    whole = hashlib.sha256(os.environ[KERNELS].encode())
    for path in sorted(files):
        whole.update(path.read_bytes())
    return f"{Path(tests[0]).stem}-{whole.hexdigest()[:16]}"


def _trace() -> set[tuple[str, int]]:
    """A set that collects each (file, line) of the packages that runs from now on."""
    lines: set[tuple[str, int]] = set()
    monitoring, tops = sys.monitoring, tuple(f"{package}{os.sep}" for package in PACKAGES)

    def line(code, number):
        if code.co_filename.startswith(tops):
            lines.add((code.co_filename, number))
        return monitoring.DISABLE

    monitoring.use_tool_id(monitoring.COVERAGE_ID, "mutate")

    def start(code, offset):  # a lambda's line has no event of its own
        return line(code, code.co_firstlineno)

    events = monitoring.events
    monitoring.register_callback(monitoring.COVERAGE_ID, events.LINE, line)
    monitoring.register_callback(monitoring.COVERAGE_ID, events.PY_START, start)
    monitoring.set_events(monitoring.COVERAGE_ID, events.LINE | events.PY_START)
    return lines


# ---------------------------------------- the two ways to run a mutant


OPTIONS = ["--capture=sys", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-m", "not slow"]
OPTIONS += ["--assert=plain", "--tb=native"]  # nobody reads why a test failed


def in_forks(plan, jobs, limit, log, always) -> None:
    """Run mutants of functions in forks of one process that has collected all tests."""

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
            code = pytest.main(
                [*OPTIONS, *files], plugins=[Loop(plan, jobs, limit, answer, always)]
            )
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("the tests could not be collected, or the run was stopped")


def anew(mutant, names) -> int:
    """Run one mutant in a process that has not imported the package -> exit code of its tests."""

    class Chosen:
        def pytest_collection_modifyitems(self, session, config, items):
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in names if name in by_name]

    sys.meta_path.insert(0, Finder(mutant))
    files = sorted({name.split("::")[0] for name in names})
    code = pytest.main([*OPTIONS, "-x", *files], plugins=[Chosen()]) if files else 0
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


def run(plan, jobs, limit, log=None, always=False) -> list[dict]:
    """A record of each mutant of the plan, pairs (mutant, room).

    log: the file for results, each written at once; results of an interrupted run are used.
    always: import the package from each mutant, for code that runs only at import.
    """
    log = log or Path(tempfile.mkdtemp()) / "log"
    known = {mutant for mutant, *_ in _answers(log)}
    if missing := [(mutant, room) for mutant, room in plan if mutant not in known]:
        in_forks(missing, jobs, limit, log, always)
    records, later, wanted = [], [], {mutant for mutant, _ in plan}

    def note(mutant, room, names, result):
        about = {name: getattr(mutant, name) for name in ("line", *KEY)}
        records.append({"room": room, **about, "tests": len(names), "result": result})

    def done(item, code, folder):
        note(*item, _result(code))
        if code == 0:
            print(f"  {item[0].file}:{item[0].line}: {item[0].change}", flush=True)

    for mutant, room, names, result in _answers(log):
        if mutant in wanted and result is None:
            later.append(((mutant, room, names), 60 + 10 * limit))
        elif mutant in wanted:
            note(mutant, room, names, result)
    forked(lambda item, folder: anew(item[0], item[2]), jobs, later, done)
    return records


def _answers(log):
    lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
    return [(Mutant(**fields), *rest) for fields, *rest in lines]


def new_rooms(asked, record) -> None:
    """Run a sample of each room; record: earlier results, of other rooms too."""
    known = listed()
    for room in asked.rooms.split(","):
        start = time.monotonic()
        drawn = draw(room, asked.sample, asked.seed, asked.constants)
        plan = [(m, room) for m in drawn if m.key() not in known]
        KEEP.mkdir(parents=True, exist_ok=True)
        log = KEEP / f"{room}-{_stamp(*tests_of([room]))}.log"
        found = run(plan, asked.jobs, asked.limit, log)
        by_time = [f"{r['file']}:{r['line']}" for r in found if r["result"] == "time"]
        record["rooms"][room] = {
            "mutants": len(drawn),
            "killed": sum(r["result"] != "survived" for r in found),
            "by_time": by_time,
        }
        kept = [s for s in record["survivors"] if s["room"] != room]
        for m in drawn:
            if m.key() in known:
                about = {name: getattr(m, name) for name in ("line", *KEY)}
                found.append({"room": room, **about, "tests": 0, "result": "equivalent"})
        record["survivors"] = kept + [r for r in found if r["result"] in ("survived", "equivalent")]
        write(asked.out, record)
        print("\n".join(mutations(record)))
        print(f"{room}: {time.monotonic() - start:.0f} s; {asked.out}", flush=True)


def again(asked, record) -> None:
    """Run a record's survivors again."""
    known, here = listed(), {m.key(): m for room in record["rooms"] for m in draw(room, 0, 0)}
    plan, how = [], (asked.jobs, asked.limit, None, asked.anew)
    for r in record["survivors"]:
        key = tuple(str(r[name]) for name in KEY)
        if key in known:
            r["result"] = "equivalent"
        elif key not in here:
            r["result"] = "gone"
        elif r["result"] != "killed":
            r["result"] = "survived"
            plan.append((here[key], r["room"]))
    found = {tuple(str(r[n]) for n in KEY): r for r in run(plan, *how)}
    for r in record["survivors"]:
        if new := found.get(tuple(str(r[name]) for name in KEY)):
            r.update(line=new["line"], tests=new["tests"])
            r["result"] = "survived" if new["result"] == "survived" else "killed"
    write(asked.out, record)
    print("\n".join(mutations(record)))


def main() -> None:
    about = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about.add_argument("--rooms", default=",".join(ROOMS), help="of " + ", ".join(ROOMS))
    about.add_argument("--sample", type=int, default=200, help="mutants a room; 0: all")
    about.add_argument("--seed", type=int, default=0)
    about.add_argument("--jobs", type=int, default=2)
    about.add_argument("--limit", type=float, default=10.0, help="seconds of tests for a mutant")
    about.add_argument("--constants", action="store_true", help="also outside functions: slow")
    about.add_argument("--at", help="only these places: FILE:LINE,...")
    about.add_argument("--anew", action="store_true", help="with --again, --at: import each mutant")
    about.add_argument("--tests", help="only these test files: formats,gguf")
    about.add_argument("--again", type=Path, help="a record: run only its survivors")
    about.add_argument("--out", type=Path, default=ROOT / "build" / "mutations.json")
    asked = about.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore SIGINT
    settings.register_profile(
        "mutants",
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=25,
        phases=(Phase.explicit, Phase.generate),  # no shrinking of failures
        suppress_health_check=[HealthCheck.too_slow],
    )
    if asked.tests:
        ROOMS.update({room: (of, asked.tests.replace(",", " ")) for room, (of, _) in ROOMS.items()})
    if asked.at:
        wanted = set(asked.at.split(","))
        plan = [(m, room) for room in ROOMS for m in draw(room, 0, 0)]
        found = run(
            [(m, room) for m, room in plan if f"{m.file}:{m.line}" in wanted],
            asked.jobs, asked.limit, None, asked.anew,
        )  # fmt: skip
        print(*(f"{r['line']} {r['change']}: {r['result']}" for r in found), sep="\n")
        return
    about_run = {
        "seed": asked.seed,
        "sample": asked.sample,
        "constants": asked.constants,
        "kernels": os.environ[KERNELS],
    }
    record = {**about_run, "rooms": {}, "survivors": []}
    if asked.again:
        record = json.loads(asked.again.read_text())
        again(asked, record)
        return
    if asked.out.exists():
        old = json.loads(asked.out.read_text())
        record = old if about_run.items() <= old.items() else record
    new_rooms(asked, record)


if __name__ == "__main__":
    main()
