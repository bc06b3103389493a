"""Workers that take turns, so that other work on the machine slows all of them alike."""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..methods import DEFAULT

OURS = "minilora"
SIDES = (OURS, "torch sdpa", "torch eager", "torch oneDNN")  # of a comparison of steps
PADDED, PACKED = "torch padded", "torch packed"  # of a comparison on batches with padding
UNIT = "minilora amx"  # in old records: ours on a matrix unit, which minilora uses no longer
REST = 0.3  # seconds: the idle threads of a pool keep a core busy for up to 0.2
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# (n steps, first=0: the number of their first batch) -> their losses, their wall seconds
Train = Callable[..., tuple[list[float], list[float]]]
# seconds of a step or a call: median, least, cpu; total: of all of them; steps: how many
Times = dict[str, float]
Rounds = dict[str, list[Times]]  # side -> its times in each round


@dataclass(frozen=True)
class Settings:
    """What is timed, for how long, beside whom."""

    sizes: tuple[str, ...] = ("tiny", "small", "smollm2")
    cases: tuple[str, ...] = (*DEFAULT, "lora-all")
    rounds: int = 5
    seconds: float = 2.0  # of a turn
    threads: int = 0  # of each side; 0: as many as cores
    python: str = ""  # a Python that has torch; "": this one
    sides: tuple[str, ...] = SIDES
    instructed: tuple[str, ...] = ("lora",)  # the cases of the part "instructions"
    quick: bool = False  # small models, few steps

    def number_of_threads(self) -> int:
        """Threads of each side."""
        return self.threads or os.cpu_count() or 1

    def peers(self) -> tuple[str, ...]:
        """The sides of torch; none where it is not installed."""
        here = importlib.util.find_spec("torch") and importlib.util.find_spec("peft")
        return self.sides[1:] if self.python or here else ()


class Side:
    """A worker in a process of its own.

    hide: environment variables with this beginning are not passed on; more: variables to add.
    """

    def __init__(self, name: str, threads: int, python: str = "", hide: str = "-", **more: str):
        self.name = name
        environment = {k: v for k, v in os.environ.items() if not k.startswith(hide)}
        package = str(Path(__file__).parents[2])  # python may be one that has no minilora
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), **more}
        environment |= dict.fromkeys(THREADS, str(threads))
        self.process = subprocess.Popen(
            [python or sys.executable, "-m", "minilora.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def ask(self, call: str, **arguments: Any) -> Any:
        """What "module.function" of the bench returns there; raises ValueError where it failed."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([*call.split("."), arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": "the process ended"}
        if "error" in reply:
            raise ValueError(f"{self.name}: {call}: {reply['error']}")
        return reply["answer"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()


def ours(threads: int, name: str = OURS) -> Side:
    """Our own side."""
    return Side(name, threads)


@contextlib.contextmanager
def together(sides: Sequence[Side]) -> Iterator[Sequence[Side]]:
    """The sides; all are closed at the end."""
    try:
        yield sides
    finally:
        for side in sides:
            side.close()


def in_turn(sides: Sequence[Side], rounds: int, ask: Callable[[Side], Times]) -> Rounds:
    """The times that each side answers in each round, in seconds.

    Every other round is in the reverse order. Raises ValueError if a side fails.
    """
    times: Rounds = {side.name: [] for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            times[side.name].append(ask(side))
    return times


def times_of(wall: Sequence[float], cpu: float) -> Times:
    """The times of one turn; cpu: processor seconds of one step."""
    return {
        "median": statistics.median(wall),
        "least": min(wall),
        "total": sum(wall),
        "cpu": cpu,
        "steps": len(wall),
    }


def summary(times: Sequence[Times]) -> Times:
    """Over the rounds: the median of the medians, the least time, the least processor time."""
    return {
        "median": statistics.median(t["median"] for t in times),
        "least": min(t["least"] for t in times),
        "cpu": min(t["cpu"] for t in times),
    }


def ratio(theirs: Sequence[Times], ours: Sequence[Times]) -> dict[str, float]:
    """Their time divided by ours: of the summaries; "low", "high": of single rounds.

    With five or more rounds, low and high enclose the true median in at least 94 of 100
    experiments.
    """
    pairs = [t["median"] / o["median"] for t, o in zip(theirs, ours, strict=True)]
    above, below = summary(theirs), summary(ours)
    whole = {name: above[name] / below[name] for name in above}
    return {**whole, "low": min(pairs), "high": max(pairs)}
