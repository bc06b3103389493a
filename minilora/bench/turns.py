"""Processes that take turns, so that whatever else the machine does meets all of them alike."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SIDES = ("minilora", "torch sdpa", "torch eager", "torch oneDNN")  # of a comparison of steps
UNIT = "minilora amx"  # ours once more, with the large products on the matrix unit
REST = 0.3  # seconds: idle threads of a pool wait busily for up to 0.2


class Side:
    """A worker in a process of its own, which sees no variable that begins with `without`.

    kind: what it is asked to be, one of SIDES or of the kernels' libraries; its name where none is
    given.
    """

    def __init__(
        self,
        name: str,
        python: str = "",
        threads: int = 0,
        without: str = "-",
        also: Mapping[str, str] | None = None,
        kind: str = "",
    ):
        self.name, self.kind = name, kind or name
        package = str(Path(__file__).parents[2])  # the other Python may not have it
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(without)}
        environment = {**kept, "PYTHONPATH": os.pathsep.join(paths), **(also or {})}
        if threads:
            for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                environment[variable] = str(threads)
        self.process = subprocess.Popen(
            [python or sys.executable, "-m", "minilora.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """The worker's answer; raises ValueError with its words where it failed."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise ValueError(f"{self.name}: {do}: {answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def together(sides: Sequence[Side]) -> Iterator[Sequence[Side]]:
    """The sides, all closed at the end."""
    try:
        yield sides
    finally:
        for side in sides:
            side.close()


def ours(threads: int, title: str = SIDES[0]) -> Side:
    """Our own side, on the vector registers."""
    from ..fast import backend

    also = {"MINILORA_KERNELS": "numba"} if backend() == "amx" else {}
    return Side(title, "", threads, also=also, kind=SIDES[0])


def ours_on_unit(threads: int) -> list[Side]:
    """Our own side on the matrix unit, where there is one."""
    from ..fast import has_unit

    if not has_unit():
        return []
    return [Side(UNIT, "", threads, also={"MINILORA_KERNELS": "amx"}, kind=SIDES[0])]


def order(sides: Sequence[Side], rounds: int, rest: float = REST) -> Iterator[Side]:
    """Whose turn it is, after a rest: every other round in the reverse order."""
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            time.sleep(rest)
            yield side


def in_turn(sides: Sequence[Side], rounds: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Side -> for each round its median, its least wall time and its processor time of a step.

    A round lasts about `seconds` a side.
    """
    counts = {}
    for side in sides:
        first = side.ask("seconds", n=2)["wall"]
        counts[side.name] = max(3, round(seconds / min(first)))
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for side in order(sides, rounds):
        n = counts[side.name]
        taken = side.ask("seconds", n=n + 1)
        counted = taken["wall"][1:]  # the first wakes the pool up
        found[side.name].append(
            {
                "median": statistics.median(counted),
                "least": min(counted),
                "cpu": taken["cpu"] / (n + 1),
                "steps": n,
            }
        )
    return found


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over the rounds: the median of medians, the least time, the least processor time."""
    return {
        "median": statistics.median(r["median"] for r in rounds),
        "least": min(r["least"] for r in rounds),
        "cpu": min(r["cpu"] for r in rounds),
    }


def ratio(theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times as long they take: of the medians, with the least and largest of the pairs.

    Of five or more pairs, these two enclose the true median in at least 94 of 100 experiments.
    """
    pairs = [t["median"] / o["median"] for t, o in zip(theirs, ours, strict=True)]
    whole = statistics.median(t["median"] for t in theirs) / statistics.median(
        o["median"] for o in ours
    )
    least = min(t["least"] for t in theirs) / min(o["least"] for o in ours)
    cpu = min(t["cpu"] for t in theirs) / min(o["cpu"] for o in ours)
    return {"median": whole, "low": min(pairs), "high": max(pairs), "least": least, "cpu": cpu}
