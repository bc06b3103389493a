"""Sweeps: cells that go on after an interruption, on processes and on Dask, and what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from results import make_results

from minilora.cli import main, parser
from minilora.commands.sweep import axes_of
from minilora.lab import cells, sweep, workers
from minilora.lab.runs import load_words, run
from minilora.lab.settings import Settings
from minilora.methods import DEFAULT, METHODS
from minilora.support import locks
from minilora.support.terminal import show_warning

ROOT = Path(__file__).parents[2]
FEW = {
    "task": ["past"],
    "train_size": [40],
    "steps": [3],
    "batch_size": [8],
    "seed": [0],
    "targets": [["q_proj"]],
}
LINE = "--train-size 40 --steps 3 --batch-size 8 --targets q_proj".split()


def read_all(pipe, seconds):
    """All that comes through a pipe, which must be closed in time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(pipe.read).result(timeout=seconds)


def square(x, seconds=0.0):
    """A cell of any length."""
    time.sleep(seconds)
    return x * x


def bare(path):
    """The records without the times, in the file's order."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in cells.read(path)]


# ------------------------------------------------------------------------------------- one run


def test_a_run_is_the_comparisons_run():
    settings = Settings(train_size=40, steps=3, warmup=0, batch_size=8)
    model, words = sweep.the_model("base"), load_words(settings)
    tuned, history = run(model, words, settings, "lora", 0.01, 1)
    found = sweep.word_run(
        method="lora", lr=0.01, train_size=40, steps=3, batch_size=8, seed=1, score=["test"]
    )
    assert found["losses"] == [[i, float(f"{x:.6g}")] for i, x in enumerate(history.losses, 1)]
    assert found["test"] == sweep.scores(tuned, words, "test") and "validation" not in found
    assert found["trainable"] == 7168


def test_options_and_alpha_reach_the_method():
    few = dict(lr=0.01, train_size=40, steps=3, batch_size=8, score=["validation"])
    plain = sweep.word_run(method="lora", **few)
    assert sweep.word_run(method="lora", alpha=8, **few) == plain  # 2 · rank
    assert sweep.word_run(method="lora", alpha=4, **few) != plain
    assert sweep.word_run(method="lora_plus", options={"ratio": 1.0}, **few) == plain
    still = sweep.word_run(method="delta_lora", options={"update_ratio": 0.0}, **few)
    assert still["losses"] == plain["losses"]


def test_a_run_that_diverges_is_data():
    found = sweep.word_run(method="lora", lr=1e30, train_size=40, steps=3, score=["test"])
    assert found["diverged"] == 2 and found["test"] == {"exact_match": 0.0, "loss": None}
    json.dumps(found, allow_nan=False)


def test_a_curve_is_thinned_to_means():
    assert sweep.thinned([3.0, 1.0, 5.0], points=2) == [[2, 2.0], [3, 5.0]]
    assert sweep.thinned([], points=2) == []
    for length in (1, 49, 50, 51, 150, 151, 1000):
        points = sweep.thinned([1.0] * length)
        assert len(points) <= sweep.POINTS and points[-1] == [length, 1.0]


# --------------------------------------------------------------------------------------- the grid


def test_a_method_is_run_once_for_what_it_does_not_take():
    axes = {**FEW, "method": ["full", "lora", "lora_plus"], "rank": [2, 4], "ratio": [2.0, 4.0]}
    found = sweep.sweep_cells({**axes, "lr": [0.1]})
    shapes = [(c["method"], c.get("rank"), c["options"].get("ratio")) for c in found]
    plus = [("lora_plus", rank, ratio) for rank in (2, 4) for ratio in (2.0, 4.0)]
    assert shapes == [("full", None, None), ("lora", 2, None), ("lora", 4, None), *plus]
    assert len({json.dumps(c, sort_keys=True) for c in found}) == len(found)


def test_the_rate_on_record_stands_in_for_none():
    found = sweep.sweep_cells({**FEW, "method": list(DEFAULT)})
    assert {c["method"]: c["lr"] for c in found}["lora"] == 0.02
    assert len(found) == len(DEFAULT)


@pytest.mark.parametrize(
    "line, says",
    [
        ("--method lorra", "lora"),
        ("--task pats", "past"),
        ("--method dora", "no learning rate is on record for dora"),
        ("--rank 0", "rank is 0"),
        ("--lr 1e-2,x", "--lr: got 'x'"),
        ("--targets q_porj", "q_proj"),
        ("--ratio 4 --method lora,vera", "none of lora, vera has an option ratio"),
        ("--ratio -4", "ratio is -4"),
        ("--train-size 99999", "train_size 99999"),
        ("--jobs 0", "jobs is 0"),
        ("--dask nowhere", "--dask"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(line, says, tmp_path, capsys):
    out = tmp_path / "sweep.jsonl"
    assert main(["sweep", *line.split(), "--out", str(out)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert says in error and not out.exists()


def test_every_option_of_a_technique_is_an_axis(monkeypatch):
    """A further technique's too: it is read as what its default is."""
    further = dataclasses.replace(
        METHODS["dora"],
        name="further",
        options={"speed": 1.0, "after": 0, "early": False, "start": "svd"},
        about={"speed": "50 % of it"},
    )
    monkeypatch.setitem(METHODS, "further", further)
    line = "--speed 1,2.5 --after 3 --early true,False --start svd,pca --corrected true"
    parsed = parser().parse_args(["sweep", *line.split()])
    found = axes_of(parsed)
    assert (found["speed"], found["after"]) == ([1.0, 2.5], [3])
    assert (found["early"], found["start"]) == ([True, False], ["svd", "pca"])
    for record in METHODS.values():
        assert record.options.keys() <= vars(parsed).keys()
    with pytest.raises(ValueError, match="--early: got 'yes', wanted true or false"):
        axes_of(parser().parse_args(["sweep", "--early", "yes"]))


@pytest.mark.parametrize("text", ["hello", "hello\n", '{"cell": {}}\n', "\xff\n"])
def test_another_file_in_the_way_stays_as_it_is(text, tmp_path, capsys):
    out = tmp_path / "sweep.jsonl"
    out.write_bytes(text.encode("latin-1"))
    assert main(["sweep", *LINE, "--method", "lora", "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
    assert out.read_bytes() == text.encode("latin-1")
    assert main(["sweep", *LINE, "--method", "lora", "--out", str(tmp_path)]) == 2  # a folder


# -------------------------------------------------------------------------- running and going on


def test_cells_are_run_once_and_come_in_their_order(tmp_path):
    path, work = tmp_path / "a.jsonl", cells.grid(x=[3, 1, 2, 3])
    records = cells.run(square, work, path, jobs=2)
    assert [r["result"] for r in records] == [9, 1, 4, 9]
    done = path.read_bytes()
    seen = []
    again = cells.run(square, work, path, jobs=2, report=seen.append)
    assert again == records and not seen and path.read_bytes() == done
    cells.run(square, cells.grid(x=[2, 5]), path, report=seen.append)
    assert [r["cell"]["x"] for r in seen] == [5]
    assert sorted(r["cell"]["x"] for r in cells.read(path)) == [1, 2, 3, 5]


def threads(x):
    """The threads of NumPy's BLAS here: its own, as the environment has them."""
    return {name: os.environ.get(name) for name in workers.ONE_THREAD}


def test_one_cell_meets_one_thread_too():
    alone, both = (cells.run(threads, cells.grid(x=[1, 2]), jobs=jobs) for jobs in (1, 2))
    assert [r["result"] for r in alone] == [r["result"] for r in both]
    assert set(alone[0]["result"].values()) == {"1"}


def warning(x):
    warnings.warn(f"no folder {x}", stacklevel=1)
    return x


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("command", [True, False])
def test_a_warning_of_a_worker_of_a_command_is_one_line(command, capfd, jobs, monkeypatch):
    """Without a path of the code and the line that warns; a program of a user's has both."""
    if command:
        monkeypatch.setattr(warnings, "showwarning", show_warning)
    cells.run(warning, cells.grid(x=[1, 2]), jobs=jobs)
    lines = [line for line in capfd.readouterr().err.splitlines() if "no folder" in line]
    short = [f"minilora: warning: no folder {x}" for x in (1, 2)]
    assert sorted(lines) == short or not command
    assert sum(f"{Path(__file__).name}:" in line for line in lines) == (0 if command else 2)


def test_a_broken_last_line_is_run_again(tmp_path):
    path, work = tmp_path / "a.jsonl", cells.grid(x=[1, 2, 3])
    cells.run(square, work, path, jobs=1)
    whole, seen = bare(path), []
    text = path.read_bytes()
    for cut in (1, 2, 30, len(text.splitlines()[-1])):
        path.write_bytes(text[:-cut])
        seen.clear()
        cells.run(square, work, path, jobs=1, report=seen.append)
        assert [r["cell"]["x"] for r in seen] == [3] and bare(path) == whole


@pytest.mark.parametrize(
    "result, says",
    [
        ({}, "no result.validation in it"),
        ({"validation": {"exact_match": 2, "loss": 1.0}}, "result.validation.exact_match is 2"),
        (None, "result is None, wanted an object"),
    ],
)
def test_a_result_that_is_none_of_a_sweep_is_named(tmp_path, capsys, result, says):
    path = tmp_path / "a.jsonl"
    record = {"cell": {"method": "lora"}, "result": result, "seconds": 1.0, "made_by": {}}
    path.write_text(json.dumps(record) + "\n")
    before = path.read_bytes()
    assert main(["sweep", *LINE, "--method", "lora", "--seed", "0", "--out", str(path)]) == 2
    assert f"minilora: {path} line 1: {says}" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_two_runs_into_one_file_keep_each_other_s_records(tmp_path):
    """The second one starts and ends while the first one runs."""
    path, first, second = tmp_path / "a.jsonl", cells.grid(x=[3, 1, 2]), cells.grid(x=[5, 1, 4])
    started = []

    def meanwhile(record):
        if not started:
            started.append(record)
            assert [r["result"] for r in cells.run(square, second, path, jobs=1)] == [25, 1, 16]

    assert [r["result"] for r in cells.run(square, first, path, jobs=1, report=meanwhile)] == [
        9,
        1,
        4,
    ]
    assert [r["cell"]["x"] for r in cells.read(path)] == [5, 4, 3, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    """Eight add records while a ninth puts the file in order, again and again."""
    path = tmp_path / "a.jsonl"
    made = [
        {"cell": {"x": x}, "result": "x" * 5000, "seconds": 0.0, "made_by": {}} for x in range(200)
    ]
    with ThreadPoolExecutor(9) as pool:
        ordering = pool.submit(lambda: [cells._put_in_order(path, {}) for _ in range(50)])
        list(pool.map(lambda record: cells._append(path, record), made))
        ordering.result()
    assert sorted(r["cell"]["x"] for r in cells.read(path)) == list(range(200))


def test_a_part_of_a_line_is_cut_off_before_the_next_one(tmp_path):
    path, work = tmp_path / "a.jsonl", cells.grid(x=[1, 2])
    cells.run(square, work, path, jobs=1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"cell": {"x": 3')
    cells._append(path, {"cell": {"x": 4}, "result": 16, "seconds": 0.0, "made_by": {}})
    assert path.read_bytes().startswith(whole) and len(cells.read(path)) == 3


@pytest.mark.parametrize("what", ["compare", "train", "pretrain", "report", "checkpoint"])
def test_a_folder_in_use_is_refused(tmp_path, capsys, what):
    """Another process is writing there: nothing is run, nothing is changed."""
    lines = {
        "compare": "compare --steps 1 --seeds 1 --methods lora --out",
        "train": "train --task past --steps 1 --out",
        "pretrain": "pretrain --steps 1 --out",
        "report": "report",
        "checkpoint": f"train --task past --steps 1 --out {tmp_path / 'b'} --checkpoint",
    }
    place = tmp_path / "a"
    if what == "report":
        place.mkdir()
        (place / "results.json").write_text(json.dumps(make_results(only=["lora"])))
    here = (tmp_path / "c", place) if what == "checkpoint" else (place,)
    with locks.using(*here):
        before = sorted(tmp_path.rglob("*"))
        assert main([*lines[what].split(), str(place)]) == 2
        assert sorted({*tmp_path.rglob("*")} - {tmp_path / "b"}) == before
    error = capsys.readouterr().err
    assert error.startswith(f"minilora: {place}: another process is writing there")
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_a_lock_ends_with_its_process(tmp_path):
    """What a killed process leaves behind stops nobody."""
    script = "from minilora.support.locks import using\nimport time\n"
    script += f"with using({str(tmp_path)!r}):\n    print(1, flush=True)\n    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(ValueError, match="another process is writing there"):
        locks.using(tmp_path).__enter__()
    process.kill()
    process.wait()
    with locks.using(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


GRID = [*LINE, "--method", "lora,vera", "--rank", "2", "--lr", "1e-3,1e-2,1e-1", "--seed", "0,1"]
SWEEP = [sys.executable, "-m", "minilora", "sweep", *GRID, "--jobs"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The records of a sweep that nobody stopped."""
    path = tmp_path_factory.mktemp("sweep") / "one.jsonl"
    subprocess.run([*SWEEP, "2", "--out", str(path)], cwd=ROOT, check=True, capture_output=True)
    return bare(path)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
@pytest.mark.parametrize(
    "how, jobs, code", [("SIGKILL", "2", -9), ("SIGINT", "2", 130), ("SIGTERM", "1", 143)]
)
def test_a_killed_sweep_goes_on_to_the_same_file(how, jobs, code, undisturbed, tmp_path):
    """Only the sweep itself gets the signal: its workers end with it, and nothing is left."""
    path = tmp_path / "two.jsonl"
    command = [*SWEEP, jobs, "--out", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, getattr(signal, how))
    assert process.wait(timeout=60) == code
    # the pipe is closed once the last worker has ended
    error = read_all(process.stderr, seconds=30)
    assert how == "SIGKILL" or error == b"minilora: stopped\n"
    left = cells.read(path)
    assert 3 <= len(left) < 12 and list(tmp_path.iterdir()) == [path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert bare(path) == undisturbed


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="lists what Linux shares")
@pytest.mark.parametrize("jobs", [1, 2])
def test_shared_memory_is_used_only_after_the_start_of_the_process_that_cleans_it(jobs):
    """A run that is killed while this process starts leaves nothing in shared memory."""
    script = f"""
import os, signal
from joblib.externals.loky.backend import resource_tracker
from minilora.lab import cells
def killed(self):
    os.kill(os.getpid(), signal.SIGKILL)
resource_tracker.ResourceTracker._launch = killed
cells.run(round, [{{"number": 1.0}}, {{"number": 2.0}}], jobs={jobs})
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not list(Path("/dev/shm").glob(f"*[-_]{process.pid}[-_]*"))


WHEN = {  # a Ctrl-C, which a terminal sends to all processes
    "a semaphore is made": """
from joblib.externals.loky.backend import resource_tracker as place
def interrupted(*args, real=place.register):
    place.register = real
    os.killpg(0, signal.SIGINT)
    real(*args)
place.register = interrupted
""",
    "a worker begins": """
from joblib.externals.loky.backend import fork_exec as place
def interrupted(*args, real=place.fork_exec, **others):
    place.fork_exec = real
    worker = real(*args, **others)
    time.sleep(0.1)  # it has begun to import
    os.killpg(0, signal.SIGINT)
    return worker
place.fork_exec = interrupted
""",
}
WHEN["loky's last thread ends late"] = (
    """
import importlib, threading
backend = "joblib.externals.loky.backend."
semaphores, queues = (importlib.import_module(backend + n) for n in ("synchronize", "queues"))
def unlinked(name, real=semaphores.sem_unlink):
    real(name)
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.3)
def fed(*args, real=queues.Queue._feed):
    real(*args)
    time.sleep(0.005)
semaphores.sem_unlink, queues.Queue._feed = unlinked, staticmethod(fed)
"""
    + WHEN["a worker begins"]
)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="lists what Linux shares")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("when", WHEN)
def test_ctrl_c_while_workers_start_leaves_nothing_and_is_quiet(when, jobs):
    script = f"""
import os, signal, sys, time
from minilora.lab import cells
{WHEN[when]}
try:
    cells.run(round, [{{"number": 1.0}}, {{"number": 2.0}}], jobs={jobs})
except KeyboardInterrupt:
    sys.exit(130)
"""
    how = {"cwd": ROOT, "stderr": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", script], **how)
    assert read_all(process.stderr, seconds=120) == b""
    assert process.wait(timeout=120) == 130
    assert not list(Path("/dev/shm").glob(f"*[-_]{process.pid}[-_]*"))


def test_stopping_in_the_middle_of_a_large_result_ends():
    """Its worker is ended while it writes: nobody waits for the rest of the result."""
    script = """
from minilora.lab import workers
outcomes = workers.each(bytes, [(30_000_000,)] * 6, jobs=2)
next(outcomes)
outcomes.close()
"""
    how = {"cwd": ROOT, "stderr": subprocess.PIPE, "timeout": 60}
    ended = subprocess.run([sys.executable, "-c", script], **how)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.slow
def test_two_dask_workers_give_the_same_bits(tmp_path):
    pytest.importorskip("distributed")
    line = ["sweep", *LINE, "--method", "full,lora,vera", "--seed", "0", "--jobs", "2", "--out"]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path, how in ((one, []), (two, ["--dask", "local"])):
        assert main([*line, str(path), *how]) == 0
    assert bare(one) == bare(two) and len(bare(one)) == 3


@pytest.mark.slow
def test_a_scheduler_s_address(tmp_path):
    """More cells than workers, on a cluster that was there before."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c:
        work = cells.grid(x=range(7))
        records = cells.run(square, work, tmp_path / "a.jsonl", dask=c.scheduler_address)
    assert [r["result"] for r in records] == [x * x for x in range(7)]


def test_the_closing_table_has_the_best_of_each_method():
    def record(method, lr, seed, match, loss):
        cell = {"method": method, "task": "past", "train_size": 300, "lr": lr, "options": {}}
        scores = {"exact_match": match, "loss": loss}
        return {
            "cell": {**cell, "seed": seed},
            "result": dict.fromkeys(["validation", "test"], scores),
        }

    records = [
        record("lora", 0.1, 0, 0.5, 1.0),
        record("lora", 0.1, 1, 0.7, 1.0),
        record("lora", 0.2, 0, 0.6, 0.5),
        record("lora", 0.2, 1, 0.6, 0.5),
        record("vera", 0.2, 0, 0.0, None),
    ]
    lora, vera = sweep.best(records)
    assert lora["cell"]["lr"] == 0.2 and lora["validation"] == (0.6, 0.0, 2)
    assert vera["cell"]["method"] == "vera"
    assert "0.600 ± 0.000" in sweep.table(records)


def test_a_bar_makes_no_semaphore():
    """A kill would leave it in shared memory: the bar is of one process."""
    script = """
import multiprocessing.synchronize as place, numpy as np, minilora as ml
from minilora.lab import cells
def made(*args, **others):
    raise AssertionError("a semaphore")
place.SemLock.__init__ = made
ids = np.array([[1, 2, 3]])
ml.train(ml.attach(ml.load_model("base"), "lora"), [(ids, ids)], steps=1, lr=0.01)
cells.run(round, [{"number": 1.0}], jobs=1)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
