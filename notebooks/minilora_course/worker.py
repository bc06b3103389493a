"""Run a student's function for a grader in another process, which alone knows what is right.

Where nbgrader grades a notebook, `answer` stands in the place of `check`. The grader sends the
arguments of one call at a time, and gets what the function returned.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
from typing import Any

from .answer import arguments, no_call
from .calls import Fault, call, unseen
from .lessons import EXERCISES
from .wire import SECONDS, Line

GRADER = "MINILORA_GRADER"  # the grader's port on this machine, and the word that it wants first
MEMORY = 2**31  # bytes that a student's function may allocate


def answer(name: str, *answers: Any) -> None:
    """Give the answer to an exercise to the grader: the first one for each exercise counts.

    answers: as for `check`. On Linux it runs in a process of its own, with limits of time and of
    memory; elsewhere in this one. Raises ValueError where no grader has started this process.
    """
    if GRADER not in os.environ:
        raise ValueError(f"answer: {GRADER} is not set: wanted a notebook that nbgrader runs")
    given = answers if len(answers) > 1 else next(iter(answers), None)
    if sys.platform != "linux":
        return _connect(name, given)
    process = multiprocessing.get_context("fork").Process(target=_limited, args=(name, given))
    process.start()
    process.join(1.5 * SECONDS)  # after SECONDS the grader has stopped to ask
    process.kill()


def _limited(name, given):
    """In a process of its own: a function that hangs or dies takes nothing else with it."""
    import resource  # not on Windows

    with open("/proc/self/statm", encoding="ascii") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
    with contextlib.suppress(ValueError, OSError):  # a lower limit stays
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    _connect(name, given)


def _connect(name, given):
    port, word = os.environ[GRADER].split()
    with socket.create_connection(("127.0.0.1", int(port))) as connection, unseen():
        line = Line(connection)
        line.send(word, name)
        serve(line, name, given)


def serve(line: Line, name: str, given: Any) -> None:
    """Answer what a grader asks of an exercise, until it has gone."""
    if EXERCISES[name].kind == "predict":
        return line.send("number", given)
    fault = no_call(EXERCISES[name], given)
    function = EXERCISES[name].run(given) if fault is None else given
    shown = arguments(name, 0)
    with contextlib.suppress(EOFError, OSError):  # the grader has gone
        while True:
            args = _received(line, shown)
            returned = fault or call(function, args)
            kind = "fault" if isinstance(returned, Fault) else "returned"
            try:
                line.send(kind, returned)
            except ValueError as error:
                line.send("fault", Fault("failed", f"what it returned cannot be sent: {error}"))


def _received(line, shown) -> dict[str, Any]:
    """The arguments of the next call.

    shown: those of another seed. Functions among them are taken from there: they are the same for
    all seeds, and the grader sends only the others.
    """
    place, given = line.receive()
    return {name: a if callable(a) else given[name] for name, a in shown[place].items()}
