"""Kills, full disks, folders that cannot be written to, two writers: is anything lost?

    python tests/tools/faults.py --kills 300                   # a new seed, which is printed
    python tests/tools/faults.py --kills 20 --kinds train,sweep --seed 3

Each round starts from a good state, interrupts a run at a random moment, and then checks: the last
good state loads; the resumed run gives the same bits as an uninterrupted one; no process, lock or
temporary file is left. SIGKILL may leave a temporary file: the next write removes it when it is a
day old. The moment is a share of a whole run's processor time, so it is equally random on a busy
machine. sweep and compare run in a copy of the package with a small base and few words. Linux only:
a full disk is a tmpfs of a random size if the user may mount one, else a limit on the size of each
file.
"""

import argparse
import atexit
import collections
import contextlib
import dataclasses
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("MINILORA_KERNELS", "numpy")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
ROOMS = (ROOT, *(ROOT / "tests" / room for room in ("", "formats", "fast", "tools")))
sys.path[:0] = map(str, ROOMS)

import numpy as np
import records
from conftest import make_llama

import minilora as ml
from minilora.cli import main as command
from minilora.cli import parser
from minilora.formats.safetensors import read_arrays
from minilora.llama.model import init_params
from minilora.support import files
from minilora.text.tokenizer import CharTokenizer

WORDS = "walk talk look jump call need want turn play stay".split()


# ---------------------------------------- commands to interrupt


@functools.cache
def model() -> ml.Llama:
    tokenizer = CharTokenizer.from_characters("abcdefghijklmnopqrstuvwxyz ")
    return make_llama(dtype=np.float32, num_hidden_layers=1, tokenizer=tokenizer)


def train_line(folder: Path) -> list[str]:
    """A run of 30 steps that saves a checkpoint after each."""
    line = f"train --base {folder}/base --data {folder}/words.jsonl --steps 30 --lr 0.01 --seed 1"
    keep = f"--checkpoint {folder}/run.safetensors --checkpoint-every 1 --out {folder}/adapter"
    return f"{line} --batch-size 4 --method delta_lora {keep}".split()


SIDE_BY_SIDE = {"one": "--jobs 1", "two": "--jobs 2", "dask": "--jobs 2 --dask local"}


def sweep_line(folder: Path, how: str) -> list[str]:
    """Four cells; how: a key of SIDE_BY_SIDE."""
    few = "--train-size 40 --steps 3 --batch-size 8 --targets q_proj --seed 0,1"
    few += f" {SIDE_BY_SIDE[how]}"
    return f"sweep --method lora,vera --lr 0.01 {few} --out {folder}/s.jsonl".split()


def compare_line(folder: Path, how: str) -> list[str]:
    few = f"--train-size 40 --steps 3 --seeds 2 --methods lora,vera {SIDE_BY_SIDE[how]}"
    rates = " ".join(f"--lr {name}=0.01" for name in ("lora", "vera", "scratch"))
    return f"compare {few} {rates} --out {folder}/compare".split()


@functools.cache
def small_lab() -> Path:
    """A folder with a copy of the package whose base has one layer and whose tables have 120 words.
    Commands start processes, write files and take locks there as usual.
    """
    top = Path(tempfile.mkdtemp(prefix="faults-lab-"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    cached = shutil.ignore_patterns("*.nb?")
    shutil.copytree(ROOT / "minilora", top / "minilora", ignore=cached)
    shutil.copytree(ROOT / "data" / "results", top / "data" / "results")
    (top / "data" / "words").mkdir()
    for path in (ROOT / "data" / "words").glob("*.tsv"):
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        parts = [[n for n in lines if n.endswith(split)] for split in ("\ttrain", "\ttest")]
        few = "\n".join([head, *parts[0][:90], *parts[1][:30]])
        (top / "data" / "words" / path.name).write_text(f"{few}\n", encoding="utf-8")
    base = ml.load_model("base")
    config = dataclasses.replace(base.config, num_hidden_layers=1)
    ml.save_model(ml.Llama(config, init_params(config, 0), base.tokenizer), top / "data" / "base")
    return top


def prepare(folder: Path) -> None:
    """A base and some words to train on."""
    ml.save_model(model(), folder / "base")
    lines = [json.dumps({"prompt": f"{w} ", "completion": f"{w}ed"}) for w in WORDS]
    (folder / "words.jsonl").write_text("\n".join(lines))


def other(n: int) -> ml.Llama:
    """A model whose weights are all n."""
    return ml.Llama(model().config, {k: np.full_like(a, n) for k, a in model().params.items()})


def save_models(folder: Path) -> None:
    for n in range(1, 10_000):
        ml.save_model(other(1 + n % 2), folder / "model")


def save_adapters(folder: Path) -> None:
    tuned = ml.attach(model(), "lora", rank=2)
    for n in range(1, 10_000):
        for a in tuned.trainable.values():
            a[:] = 1 + n % 2
        ml.save_adapter(tuned, folder / "adapter")


# ---------------------------------------- processes


def child(function: Callable, *args) -> int:
    """Start function(*args) in a forked process with its own session; returns the process's id. The
    exit code is what the function returns, or 99 if it raises.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see _listen
        code = function(*args) or 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, seconds: float = 300.0) -> int:
    """Wait for a process; returns its exit code, or raises if it takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    raise AssertionError(f"still there after {seconds:g} s")


def alone(session: int, killed: bool = False) -> None:
    """Raises unless every process of a session ends and frees its shared memory, before they have
    waited for 10 s or used 10 s more of the processor. Wall time says little on a busy machine.
    """
    start, used, waited = None, 0.0, 0
    while left := (members := _members(session)) + _shared(session, killed):
        now = sum(took for _, took in members)
        start = now if start is None else start
        used, waited = now, 0 if now > used else waited + 1  # turns, not time: for SIGSTOP
        assert now < start + 10 and waited < 100, f"left: {left}"
        time.sleep(0.1)


def _members(session: int) -> list[tuple[str, float]]:
    """(name, processor seconds, ended children included) of each process of a session."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, text = place.read_text().rpartition(")")
            fields = text.split()
            if int(fields[3]) == session and fields[0] != "Z":
                ticks = sum(map(int, fields[11:15]))
                found.append((name, ticks / os.sysconf("SC_CLK_TCK")))
    return found


def _shared(pid: int, killed: bool) -> list[str]:
    """A process's files in shared memory: semaphores and folders of joblib.

    After SIGKILL one semaphore of loky, 32 bytes, may stay: loky creates a semaphore, and registers
    it with its cleaning process some microseconds later. Only loky can change that.
    """
    names = (f"*-{pid}-*", f"*_{pid}_*")
    found = sorted(path.name for name in names for path in Path("/dev/shm").glob(name))
    return [] if killed and len(found) == 1 and found[0].startswith("sem.loky-") else found


def broken(pid: int, how: int, seconds: float, processes: int = 1) -> None:
    """Send a signal to the first process of a session, after the session has used `seconds` of the
    processor since it had `processes` processes. SIGINT goes to all of them, as from a terminal.
    """
    pause, start = min(0.05, seconds / 20), None
    while True:
        members = _members(pid)
        took = sum(took for _, took in members)
        if start is None and len(members) >= processes:
            start = 0 if processes == 1 else took
        if start is not None and took >= start + seconds:
            break
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(pause)
    time.sleep(pause * random.random())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, how) if how == signal.SIGINT else os.kill(pid, how)


def computed() -> float:
    """Processor seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tidy(folder: Path, killed: bool) -> None:
    """Raises if a temporary file, lock or unfinished folder is left. After SIGKILL: if a temporary
    file is left after a write one day later.
    """
    left = [*folder.rglob("*.tmp")]
    if killed:
        for path in left:
            os.utime(path, (time.time() - 90_000,) * 2)
            files.write_json(path.parent / "next.json", {})
        left = [*folder.rglob("*.tmp")]
    else:
        left += [*folder.rglob("*.lock"), *folder.rglob(".unfinished")]
    assert not left, f"left: {[path.name for path in left]}"


# ---------------------------------------- kills

ENDINGS = {  # signal -> exit codes that a command may return
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (-signal.SIGTERM, 143),
    signal.SIGINT: (130,),
}


def kill_train(rng, how, top) -> None:
    whole, took = undisturbed_training()
    folder = top / "train"
    prepare(folder)
    pid = child(command, train_line(folder))
    broken(pid, how, rng.uniform(0, 1.1 * took))
    code = ended(pid)
    assert code in (0, *ENDINGS[how]), f"ended with {code}"
    alone(pid)
    tidy(folder, how == signal.SIGKILL)
    state = folder / "run.safetensors"
    if state.exists():
        ml.load_adapter(model(), state)
    resume = ["--resume"] if state.exists() else []
    assert ended(child(command, [*train_line(folder), *resume])) == 0
    assert numbers(folder) == whole, "the resumed run gave other bits"
    tidy(folder, False)


@functools.cache
def undisturbed_training() -> tuple[dict[str, bytes], float]:
    """The arrays of an uninterrupted run, and its processor seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        start = computed()
        assert ended(child(command, train_line(folder))) == 0
        return numbers(folder), computed() - start


def numbers(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of each array of the adapter and of the last checkpoint in the folder."""
    found = {}
    for path in ("adapter/adapter_model.safetensors", "run.safetensors"):
        arrays, _ = read_arrays(folder / path)
        found |= {f"{path} {name}": a.tobytes() for name, a in arrays.items()}
    return found


def kill_save_model(rng, how, top) -> None:
    ml.save_model(other(1), top / "model")
    _kill_saver(save_models, rng, how, top)
    values = {float(v) for a in ml.load_model(top / "model").params.values() for v in a.flat}
    assert len(values) == 1, f"a mixture of {values}"


def kill_save_adapter(rng, how, top) -> None:
    ml.save_adapter(ml.attach(model(), "lora", rank=2), top / "adapter")
    _kill_saver(save_adapters, rng, how, top)
    tuned = ml.load_adapter(model(), top / "adapter")
    values = {float(v) for a in tuned.trainable.values() for v in a.flat}
    assert len(values) == 1 or 0.0 in values, f"a mixture of {values}"  # zeros: the initial adapter


def _kill_saver(saver, rng, how, top) -> None:
    pid = child(saver, top)
    broken(pid, how, rng.uniform(0.001, 0.1))
    assert ended(pid) in (-how, *ENDINGS[how])
    tidy(top, how != signal.SIGINT)  # in the library, SIGTERM acts like SIGKILL


def kill_sweep(rng, how, top, side="") -> None:
    side = side or rng.choice(("one", "two"))
    whole, took = undisturbed_sweep(side)
    _kill_command(sweep_line(top, side), how, *_moment(rng, took))
    tidy(top, how == signal.SIGKILL)
    path = top / "s.jsonl"
    before = _bare(path, whole=False) if path.exists() else []
    assert all(record in whole for record in before), "a record of other bits"
    assert _run(sweep_line(top, side)) == 0
    assert _bare(path) == whole, "the resumed run gave other bits"
    tidy(top, how == signal.SIGKILL)


def kill_dask(rng, how, top) -> None:
    kill_sweep(rng, how, top, "dask")


@functools.cache
def undisturbed_sweep(side):
    """The records, without times, of an uninterrupted sweep, and its processor seconds."""
    with tempfile.TemporaryDirectory() as name:
        start = computed()
        assert _run(sweep_line(Path(name), side)) == 0
        return _bare(Path(name) / "s.jsonl"), computed() - start


def _bare(path, whole=True):
    """Records without times; whole=False: the file's last line may be a part of one."""
    text = path.read_text()
    if not whole:
        text = text[: text.rfind("\n") + 1]
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k in ("cell", "result")} for line in lines]


def kill_compare(rng, how, top) -> None:
    side = rng.choice(("one", "two"))
    whole, took = undisturbed_compare(side)
    out = top / "compare"
    shutil.copytree(_compared(side), out)
    (out / "results.json").write_text("old")
    seconds, processes = _moment(rng, took)
    _kill_command(compare_line(top, side), how, seconds, 1 if side == "one" else processes)
    if (out / "results.json").read_text() != "old":
        found = _scores(out)
        assert found.items() <= whole.items(), "results of other bits"
        assert found == whole or how != signal.SIGKILL  # finished rows are kept
    for adapter in (out / "adapters").iterdir():
        ml.load_adapter(ml.load_model(small_lab() / "data" / "base"), adapter)
    if how != signal.SIGKILL:
        tidy(top, False)
    assert _run(compare_line(top, side)) == 0
    assert _scores(out) == whole, "the second run gave other bits"
    tidy(top, how == signal.SIGKILL)
    assert not (out / ".unfinished").exists()


@functools.cache
def _compared(side) -> Path:
    """The folder of an uninterrupted comparison."""
    top = small_lab() / "compared" / side
    assert _run(compare_line(top, side)) == 0
    return top / "compare"


@functools.cache
def undisturbed_compare(side):
    """The scores of an uninterrupted comparison, and its processor seconds."""
    start = computed()
    return _scores(_compared(side)), computed() - start


def _scores(out: Path) -> dict[str, str]:
    """Method -> those of its results that are the same in every run."""
    from minilora.lab import report

    same = ("exact_match", "loss", "curve", "seeds", "trainable", "adapter_bytes")
    rows = report.read_results(out)["methods"]
    return {name: json.dumps([row[key] for key in same]) for name, row in rows.items()}


def _start(line, stderr=subprocess.DEVNULL, **variables) -> subprocess.Popen:
    """Start a command in the small lab, in its own session."""
    start = [sys.executable, "-m", "minilora", *line]
    variables = {**os.environ, "PYTHONPATH": str(small_lab()), **variables}
    where = {"cwd": small_lab(), "env": variables, "start_new_session": True}
    streams = {"stdout": subprocess.DEVNULL, "stderr": stderr}
    return subprocess.Popen(start, preexec_fn=_listen, **where, **streams)


def _listen() -> None:
    """Do not ignore Ctrl-C: a shell's background jobs, and the processes they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(line) -> int:
    """Run a command; returns its exit code, and prints its errors if it fails."""
    process = _start(line, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=1200)
    if process.returncode:
        print(errors.decode()[-2000:], flush=True)
    alone(process.pid)
    return process.returncode


def _moment(rng, took: float) -> tuple[float, int]:
    """A random moment for `broken`; in half of the cases, while workers start."""
    return (rng.uniform(0, 1.1 * took), 1) if rng.random() < 0.5 else (rng.uniform(0, 0.5), 2)


# What Python prints if Ctrl-C comes before it runs the command.
UNBORN = ("Fatal Python error: init", "Could not import runpy module")


def _kill_command(line, how, seconds, processes) -> None:
    """Start a command and interrupt it: all its processes end, and no temporary file is left."""
    with tempfile.TemporaryDirectory(dir=small_lab()) as place, tempfile.TemporaryFile() as errors:
        process = _start(line, stderr=errors, TMPDIR=place)
        broken(process.pid, how, seconds, processes)
        code = process.wait(timeout=600)
        errors.seek(0)
        said = errors.read().decode()
        early = code == -how or (code == 1 and said.startswith(UNBORN))
        assert early or code in (0, *ENDINGS[how]), f"ended with {code}: {said[-800:]}"
        alone(process.pid, how == signal.SIGKILL)
        # Dask empties its folder the next time that it starts there
        left = {path.name for path in Path(place).iterdir()} - {"dask-scratch-space"}
        assert not left, f"left: {left}"


KILLS = {  # kind -> its function, and its share of the kills
    "train": (kill_train, 0.5),
    "save_model": (kill_save_model, 0.2),
    "save_adapter": (kill_save_adapter, 0.2),
    "sweep": (kill_sweep, 0.05),
    "dask": (kill_dask, 0.02),
    "compare": (kill_compare, 0.03),
}


# ---------------------------------------- other faults


@contextlib.contextmanager
def full_disk(top: Path, room: int) -> Iterator[Path]:
    """A folder on a disk of `room` bytes, if this user may mount one."""
    place = top / "disk"
    place.mkdir()
    if may_mount():
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", place], check=True)
    else:
        yield place


@functools.cache
def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as place:
        line = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", place]
        if subprocess.run(line, capture_output=True).returncode:
            return False
        subprocess.run(["umount", place], check=True)
        return True


def full(rng, top) -> None:
    """A disk that is full after a random number of bytes: the error names the place, and the
    earlier state is complete.
    """
    with full_disk(top, 1 << 21) as place:
        prepare(place)
        ml.save_adapter(ml.attach(model(), "lora", rank=2), place / "adapter")
        before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
        filler = place / "filler"
        left = rng.randrange(0, 120_000)
        if may_mount():
            free = os.statvfs(place)
            filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left)))
        code = ended(child(_write_until_full, place, left, rng.choice([*WRITERS])))
        assert code in (0, 1), f"ended with {code}"
        filler.unlink(missing_ok=True)
        tidy(place, False)
        ml.load_model(place / "base")
        ml.load_adapter(model(), place / "adapter")
        if (place / "run.safetensors").exists():
            ml.load_adapter(model(), place / "run.safetensors")
        if (place / "records.jsonl").exists():
            assert ended(child(_write_records, place)) == 0  # it continues where it stopped
        if code:  # a file that could not be replaced is unchanged
            for path, data in before.items():
                assert path.exists() and (code == 0 or path.read_bytes() == data), path


def _write_until_full(place, left, what) -> int:
    """0: there was enough space; 1: an OSError that names the place."""
    if not may_mount():
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        WRITERS[what](place)
    except OSError as error:
        assert str(place) in str(error), f"{what} does not name the place: {error}"
        return 1
    return 0


def _train_here(place) -> None:
    """Train, with checkpoints, an adapter and a log."""
    asked = parser().parse_args(train_line(place))
    asked.command(asked)


def _write_records(place) -> None:
    from minilora.lab import cells

    mine = [{"n": n, "text": "x" * 500} for n in range(40)]
    with mock.patch.object(cells, "each", _here):
        found = cells.run(dict, mine, place / "records.jsonl", progress=False)
    assert [record["result"] for record in found] == mine


def _write_page(place) -> None:
    from results import make_results

    from minilora.lab import report

    report.write_all(make_results(), place / "page")


WRITERS: dict[str, Callable] = {
    "model": lambda place: ml.save_model(other(2), place / "base"),
    "adapter": lambda place: ml.save_adapter(ml.attach(model(), "lora", rank=4), place / "adapter"),
    "train": _train_here,
    "records": _write_records,
    "page": _write_page,
}


def read_only(rng, top) -> None:
    """A folder that this user may not write to."""
    folder = top / "shut"
    prepare(folder)
    ml.save_adapter(ml.attach(model(), "lora", rank=2), folder / "adapter")
    for path in [top, folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert ended(child(_refused, folder, rng.randrange(4))) == 0
        ml.load_adapter(model(), folder / "adapter")
    finally:
        for path in [top, folder, *folder.rglob("*")]:
            path.chmod(0o755)


def _refused(folder, what) -> int:
    if os.getuid() == 0:
        os.setuid(65534)  # nobody
    tuned = ml.attach(model(), "lora", rank=2)
    try:
        if what == 0:
            ml.save_model(model(), folder / "base")
        elif what == 1:
            ml.save_adapter(tuned, folder / "adapter")
        elif what == 2:
            ids = np.array([[1, 2, 3]])
            ml.train(tuned, [(ids, ids)], steps=1, lr=0.01, checkpoint=folder / "run.safetensors")
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            return command(train_line(folder)) != 2
    except OSError as error:
        assert str(folder) in str(error), f"does not name the folder: {error}"
        return 0
    return 1


def removed(rng, top) -> None:
    """The folder is removed while a training writes into it: one error line names it."""
    _, took = undisturbed_training()
    folder = top / "gone"
    prepare(folder)
    process = child(_said, train_line(folder), top / "said")
    broken(process, 0, rng.uniform(0.1, 0.9) * took)  # a signal of 0 does nothing
    shutil.rmtree(folder, ignore_errors=True)
    code = ended(process)
    said = (top / "said").read_text()
    assert code in (0, 2) and "should not happen" not in said, f"{code}: {said}"
    assert code == 0 or str(folder) in said, said


def _said(line, path) -> int:
    """Run a command, and write its errors into a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        return command(line)
    finally:
        sys.stderr.flush()


def two_writers(rng, top) -> None:
    """Two sweeps into one record lose nothing; two runs into one folder: one is refused."""
    from minilora.lab import cells

    path, pids = top / "both.jsonl", []
    for part in (0, 1):
        pids.append(child(_many_records, path, part))
    assert [ended(pid) for pid in pids] == [0, 0]
    found = sorted(record["cell"]["n"] for record in cells.read(path))
    assert found == list(range(40)), f"{len(found)} of 40 records"
    prepare(top)
    lines = [child(_said, train_line(top), top / f"said{n}") for n in (0, 1)]
    codes = sorted(ended(pid) for pid in lines)
    assert codes in ([0, 2], [0, 0]), codes  # 0, 0: the second started after the first ended
    whole, _ = undisturbed_training()
    assert numbers(top) == whole
    tidy(top, False)


def _many_records(path, part) -> None:
    from minilora.lab import cells

    with mock.patch.object(cells, "each", _here):
        for _ in range(4):  # a run, then continued three times
            mine = [{"n": n} for n in range(40) if n % 2 == part]
            cells.run(dict, mine, path, progress=False)


def _here(function, calls, *_):
    """In place of the workers."""
    for place, call in enumerate(calls):
        time.sleep(0.001)
        yield place, function(*call)


OTHERS = {"full": full, "read_only": read_only, "removed": removed, "two_writers": two_writers}


# ---------------------------------------- all of it


def main() -> int:
    about = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about.add_argument("--kills", type=int, default=300)
    about.add_argument("--faults", type=int, default=40, help="rounds of each of the other faults")
    about.add_argument("--seconds", type=float, default=1e9, help="start no round after this")
    about.add_argument("--kinds", default=",".join([*KILLS, *OTHERS]))
    about.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    about.add_argument("--record", type=Path, help="a JSON file for the counts")
    about.add_argument("--more", action="store_true", help="add to the counts that it has")
    asked = about.parse_args()
    kinds, rng = asked.kinds.split(","), random.Random(asked.seed)
    print(f"faults: seed {asked.seed}; a full disk is", end=" ")
    print("a tmpfs" if may_mount() else "a limit on the size of files", flush=True)
    share = sum(KILLS[kind][1] for kind in kinds if kind in KILLS)
    end = time.monotonic() + asked.seconds
    counts, lost = collections.Counter(), []
    for kind in kinds:
        times = asked.faults
        if kind in KILLS:
            times = max(1, round(asked.kills * KILLS[kind][1] / share)) if asked.kills else 0
        for n in range(times):
            if time.monotonic() > end:
                break
            with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as top:
                os.chmod(top, 0o755)
                how = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                name = f"{kind} {how.name}" if kind in KILLS else kind
                try:
                    if kind in KILLS:
                        KILLS[kind][0](rng, how, Path(top))
                    else:
                        OTHERS[kind](rng, Path(top))
                except (AssertionError, ValueError, OSError) as error:
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    lost.append(f"{name}, round {n}: line {at.lineno}, {at.line}: {error}")
                    print(lost[-1], flush=True)
                counts[name] += 1
    for name, times in sorted(counts.items()):
        print(f"{name:24}{times:6}")
    print(f"faults: seed {asked.seed}, {sum(counts.values())} rounds, {len(lost)} losses")
    if asked.record:
        fields = {"seed": asked.seed, "rounds": dict(counts), "losses": lost}
        records.write(asked.record, records.added(asked.record, fields) if asked.more else fields)
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
