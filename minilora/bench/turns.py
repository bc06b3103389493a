"""Workers that take turns, so that other programs on the machine slow all of them equally."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from timeit import timeit
from typing import Any, TypeVar

from ..methods import DEFAULT

OURS = "minilora"
REST = 0.3  # seconds: the idle threads of a pool keep a core busy for up to 0.2
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# (n steps, first=0: the index of their first batch) -> losses, wall seconds
Train = Callable[..., tuple[list[float], list[float]]]
# of a turn: median and least seconds of a step or a call; total seconds; steps: their number
Times = dict[str, float]
Rounds = dict[str, list[Times]]  # side -> its times in each round
Calls = Mapping[str, Callable[[], Any]]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Settings:
    """What is timed, and for how long."""

    sizes: tuple[str, ...] = ("tiny", "small")
    cases: tuple[str, ...] = (*DEFAULT, "lora-all")
    rounds: int = 3
    seconds: float = 0.4  # of a turn
    threads: int = os.cpu_count() or 1  # of each side


class Side:
    """A worker in its own process.

    python: another Python. hide: environment variables with this prefix are not passed on.
    """

    def __init__(self, name: str, threads: int, python: str = "", hide: str = "-"):
        self.name = name
        environment = {k: v for k, v in os.environ.items() if not k.startswith(hide)}
        package = str(Path(__file__).parents[2])  # minilora may be missing in another Python
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths)}
        environment |= dict.fromkeys(THREADS, str(threads))
        self.process = subprocess.Popen(
            [python or sys.executable, "-m", "minilora.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """The result of a function that the worker calls; raises ValueError if it fails."""
        assert self.process.stdin and self.process.stdout
        asked = [call.__module__, call.__name__, arguments]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": "the process ended"}
        if "error" in reply:
            raise ValueError(f"{self.name}: {call.__name__}: {reply['error']}")
        return reply["answer"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def together(*sides: Side) -> Iterator[dict[str, Side]]:
    """The sides by name; all are closed at the end."""
    try:
        yield {side.name: side for side in sides}
    finally:
        for side in sides:
            side.close()


def in_turn(
    names: Iterable[str], rounds: int, ask: Callable[[str], Answer]
) -> dict[str, list[Answer]]:
    """ask(name) for each name in each round; every second round goes in reverse order."""
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in answers if turn % 2 == 0 else reversed(answers):
            answers[name].append(ask(name))
    return answers


def race(calls: Calls, rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of each call in each round, in turn. A short call is repeated for 5 ms."""
    repeats = {}
    for name, call in calls.items():
        call()  # the first call may compile
        repeats[name] = max(1, round(5e-3 / timeit(call, number=1)))
    return in_turn(calls, rounds, lambda n: timeit(calls[n], number=repeats[n]) / repeats[n])


def steps_in_turn(trains: Mapping[str, Train], rounds: int, seconds: float) -> Rounds:
    """The times of a step of each training in this process; a turn lasts about `seconds`."""
    counts = {name: steps_for(seconds, min(train(3)[1])) for name, train in trains.items()}
    return in_turn(trains, rounds, lambda name: timed_steps(trains[name], counts[name]))


def steps_for(seconds: float, step: float) -> int:
    """How many steps, of `step` seconds each, a turn has; at least 3."""
    return max(3, round(seconds / step))


def timed_steps(train: Train, n: int, first: int = 0) -> Times:
    """The times of n steps from batch number `first` on. One more step runs before them, untimed,
    to wake up the threads.
    """
    return times_of(train(n + 1, first - 1)[1][1:])


def timed(call: Callable[[], Any], seconds: float) -> Times:
    """The times of a call that is repeated for about `seconds`."""
    wall: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(wall) < 5:
        start = time.perf_counter()
        call()
        wall.append(time.perf_counter() - start)
    return times_of(wall)


def times_of(wall: Sequence[float]) -> Times:
    """The times of one turn."""
    of_each = {"median": statistics.median(wall), "least": min(wall)}
    return {**of_each, "total": sum(wall), "steps": len(wall)}


def summary(times: Sequence[Times]) -> Times:
    """The median of the rounds' medians, and the least time of all."""
    median = statistics.median(t["median"] for t in times)
    return {"median": median, "least": min(t["least"] for t in times)}


def ratio(theirs: Sequence[Times], ours: Sequence[Times]) -> Times:
    """Their time divided by ours, from the summaries; "low" and "high" are of single rounds.

    With five or more rounds, low and high enclose the true median in at least 94 of 100
    experiments.
    """
    pairs = [t["median"] / o["median"] for t, o in zip(theirs, ours, strict=True)]
    above, below = summary(theirs), summary(ours)
    whole = {name: above[name] / below[name] for name in above}
    return {**whole, "low": min(pairs), "high": max(pairs)}
