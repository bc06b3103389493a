"""Kills, full disks, folders that cannot be written to, two writers: is anything lost?

    python tests/tools/faults.py --kills 300                   # a new seed, which is printed
    python tests/tools/faults.py --kills 20 --kinds train,sweep --seed 3

Each round begins from a good state, breaks a run at a random moment, and then asks: does the last
good state load; does the run go on to the same bits as one that nobody broke; is there no process,
no lock and no temporary file left? SIGKILL may leave a temporary file: the next write removes it
when it is a day old. Linux: a full disk is a tmpfs of a random size where the user may mount
one, else a limit on the size of each file.
"""

import argparse
import collections
import contextlib
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

os.environ.setdefault("MINILORA_KERNELS", "numpy")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import numpy as np
import records
from conftest import make_llama

import minilora as ml
from minilora.cli import main as command
from minilora.formats.safetensors import read_arrays
from minilora.support import files
from minilora.text.tokenizer import CharTokenizer

WORDS = "walk talk look jump call need want turn play stay".split()


# ---------------------------------------- what is run


@functools.cache
def model() -> ml.Llama:
    tokenizer = CharTokenizer.from_characters("abcdefghijklmnopqrstuvwxyz ")
    return make_llama(dtype=np.float32, num_hidden_layers=1, tokenizer=tokenizer)


def train_line(folder: Path) -> list[str]:
    """A run of 30 steps that keeps its state after each."""
    line = f"train --base {folder}/base --data {folder}/words.jsonl --steps 30 --lr 0.01 --seed 1"
    keep = f"--checkpoint {folder}/run.safetensors --checkpoint-every 1 --out {folder}/adapter"
    return f"{line} --batch-size 4 --method delta_lora {keep}".split()


def sweep_line(folder: Path) -> list[str]:
    few = "--train-size 40 --steps 3 --batch-size 8 --targets q_proj --seed 0,1"
    return f"sweep --method lora,vera --lr 0.01 {few} --jobs 2 --out {folder}/s.jsonl".split()


def compare_line(folder: Path) -> list[str]:
    few = "--train-size 40 --steps 3 --seeds 1 --methods lora --lr lora=0.01 --jobs 1"
    return f"compare {few} --out {folder}/compare".split()


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
    """Start function(*args) in a forked process, in a session of its own -> its id. The process
    ends with what the function returns, 99 where it raises.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        code = function(*args) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, seconds: float = 300.0) -> int:
    """Wait for a process -> its exit code; raises where it takes longer than that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    raise AssertionError(f"still there after {seconds:g} s")


def alone(session: int) -> None:
    """Raises unless every process of a session ends within 10 s."""
    end = time.monotonic() + 10
    while left := _members(session):
        assert time.monotonic() < end, f"processes are left: {left}"
        time.sleep(0.1)


def _members(session: int) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, fields = place.read_text().rpartition(")")
            state, _, _, of = fields.split()[:4]
            if int(of) == session and state != "Z":
                found.append(name)
    return found


def tidy(folder: Path, killed: bool) -> None:
    """No temporary file, lock or unfinished folder is left; after SIGKILL, what a day later is left
    by the next write.
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


def kill_train(rng, how, top) -> None:
    whole, took = undisturbed_training()
    folder = top / "train"
    prepare(folder)
    pid = child(command, train_line(folder))
    time.sleep(rng.uniform(0, 1.1 * took))
    _send(pid, how)
    code = ended(pid)
    assert code in (0, -how, 143), f"ended with {code}"
    alone(pid)
    tidy(folder, how == signal.SIGKILL)
    state = folder / "run.safetensors"
    if state.exists():
        ml.load_adapter(model(), state)
    resume = ["--resume"] if state.exists() else []
    assert ended(child(command, [*train_line(folder), *resume])) == 0
    assert numbers(folder) == whole, "it went on to other bits"
    tidy(folder, False)


@functools.cache
def undisturbed_training() -> tuple[dict[str, bytes], float]:
    """The numbers that the whole run gives, and how long it takes by the clock."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        start = time.monotonic()
        assert ended(child(command, train_line(folder))) == 0
        took = time.monotonic() - start
        return numbers(folder), took


def numbers(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of the arrays of the adapter and of the last state of the training there."""
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
    assert len(values) == 1 or 0.0 in values, f"a mixture of {values}"  # zeros: of the start


def _kill_saver(saver, rng, how, top) -> None:
    pid = child(saver, top)
    time.sleep(rng.uniform(0, 0.1))
    _send(pid, how)
    assert ended(pid) == -how
    tidy(top, True)  # a function of the library: SIGTERM ends it as SIGKILL does


def kill_sweep(rng, how, top) -> None:
    _kill_command(sweep_line(top), rng, how)
    path = top / "s.jsonl"
    assert ended(child(command, sweep_line(top))) == 0
    assert _bare(path) == undisturbed_sweep()
    tidy(top, how == signal.SIGKILL)


@functools.cache
def undisturbed_sweep():
    with tempfile.TemporaryDirectory() as name:
        assert ended(child(command, sweep_line(Path(name)))) == 0
        return _bare(Path(name) / "s.jsonl")


def _bare(path):
    """Records without times."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k in ("cell", "result")} for line in lines]


def kill_compare(rng, how, top) -> None:
    out = top / "compare"
    out.mkdir()
    (out / "results.json").write_text("old")
    _kill_command(compare_line(top), rng, how)
    text = (out / "results.json").read_text()
    if text != "old":
        from minilora.lab import report

        assert report.read_results(out)["methods"].keys() == {"lora"}
        ml.load_adapter(ml.load_model("base"), out / "adapters" / "lora")
    shutil.rmtree(out / ".unfinished", ignore_errors=how == signal.SIGKILL)
    tidy(top, how == signal.SIGKILL)


def _kill_command(line, rng, how) -> None:
    """Start a command of its own, end it within its first seconds; its processes end with it."""
    start = [sys.executable, "-m", "minilora", *line]
    process = subprocess.Popen(
        start,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(rng.uniform(0.1, 1.2) * _seconds(line[0]))
    _send(process.pid, how)
    code = process.wait(timeout=60)
    assert code in (0, -how, 143, 130), f"ended with {code}"
    alone(process.pid)


@functools.cache
def _seconds(name: str) -> float:
    """How long a command takes undisturbed."""
    with tempfile.TemporaryDirectory() as folder:
        line = {"sweep": sweep_line, "compare": compare_line}[name](Path(folder))
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "minilora", *line], cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return time.monotonic() - start


def _send(pid, how) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


KILLS = {  # kind -> how it is done, and its share of the kills
    "train": (kill_train, 0.5),
    "save_model": (kill_save_model, 0.2),
    "save_adapter": (kill_save_adapter, 0.2),
    "sweep": (kill_sweep, 0.07),
    "compare": (kill_compare, 0.03),
}


# ---------------------------------------- other faults


@contextlib.contextmanager
def full_disk(top: Path, room: int) -> Iterator[Path]:
    """A folder with about so many bytes left; `room` more once a file is written there."""
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
    """A disk that is full after a random number of bytes: the error names the place, and the state
    from before is whole.
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
        code = ended(child(_write_until_full, place, left, rng.randrange(3)))
        assert code in (0, 1), f"ended with {code}"
        filler.unlink(missing_ok=True)
        tidy(place, False)
        ml.load_model(place / "base")
        ml.load_adapter(model(), place / "adapter")
        if (place / "run.safetensors").exists():
            ml.load_adapter(model(), place / "run.safetensors")
        if code:  # what could not be replaced is as it was
            for path, data in before.items():
                assert path.exists() and (code == 0 or path.read_bytes() == data), path


def _write_until_full(place, left, what) -> int:
    """0: there was room; 1: an OSError that names the place."""
    if not may_mount():
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    tuned = ml.attach(model(), "lora", rank=4)
    try:
        if what == 0:
            ml.save_model(other(2), place / "base")
        elif what == 1:
            ml.save_adapter(tuned, place / "adapter")
        else:
            ids = np.array([[1, 2, 3]])
            keep = {"checkpoint": place / "run.safetensors", "checkpoint_every": 1}
            ml.train(tuned, [(ids, ids)], steps=3, lr=0.01, **keep)
    except OSError as error:
        assert str(place) in str(error), f"does not name the place: {error}"
        return 1
    return 0


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
    """The folder is removed while a training writes into it: a line that names it, and no more."""
    _, took = undisturbed_training()
    folder = top / "gone"
    prepare(folder)
    process = child(_said, train_line(folder), top / "said")
    time.sleep(rng.uniform(0.1, 0.9) * took)
    shutil.rmtree(folder, ignore_errors=True)
    code = ended(process)
    said = (top / "said").read_text()
    assert code in (0, 2) and "should not happen" not in said, f"{code}: {said}"
    assert code == 0 or str(folder) in said, said


def _said(line, path) -> int:
    """A command, its errors into a file."""
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
    assert codes in ([0, 2], [0, 0]), codes  # 0, 0: the second began after the first had ended
    whole, _ = undisturbed_training()
    assert numbers(top) == whole
    tidy(top, False)


def _many_records(path, part) -> None:
    from unittest import mock

    from minilora.lab import cells

    def here(function, calls, *_):
        for place, call in enumerate(calls):
            time.sleep(0.001)
            yield place, function(*call)

    with mock.patch.object(cells, "each", here):
        for _ in range(4):  # a run, then it goes on
            mine = [{"n": n} for n in range(40) if n % 2 == part]
            cells.run(dict, mine, path, progress=False)


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
                how = rng.choice((signal.SIGKILL, signal.SIGTERM))
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
        records.write(asked.record, {"seed": asked.seed, "rounds": dict(counts), "losses": lost})
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
