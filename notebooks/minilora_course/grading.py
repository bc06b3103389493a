"""Points for an answer, one for each right output, in another process than the student's.

A Grader holds the arguments and what is right. The process that runs the notebook connects to it
(worker.py), gets the arguments of one call at a time, and sends back what the function returned.
"""

import contextlib
import ctypes
import hmac
import os
import secrets
import socketserver
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from minilora.check.verdict import Verdict
from minilora.support.files import find

from .answer import arguments, compared, judged_number
from .calls import Fault
from .judge import Judgement, sort_out
from .lessons import EXERCISES
from .lessons.exercise import Exercise
from .slips import is_right
from .wire import SECONDS, Line
from .worker import GRADER

DRAWS = 3  # so many times the arguments are drawn
DUMPABLE = 4  # PR_SET_DUMPABLE of <sys/prctl.h>
SEEDS = 10**12  # too many to try until one gives the arguments that a function has got


class Grade(NamedTuple):
    """Points from 0 to `points(name)`, and what is said of the answer."""

    points: float
    verdict: Verdict


def points(name: str) -> int:
    """The most points of an exercise: one for each output of a function to write, else one.

    Raises ValueError on an unknown exercise.
    """
    exercise: Exercise = find("exercise", name, EXERCISES)
    if exercise.kind != "blank":
        return 1
    return sum(output is not None for output in exercise.drawn(0)[0].true.values())


def grade(name: str, student: Line, seed: int) -> Grade:
    """Ask a student's process for its answer to an exercise, and judge what comes back.

    An output counts where it is right with all arguments. seed: draws them.
    """
    exercise = EXERCISES[name]
    if exercise.kind == "predict":
        judgement = judged_number(exercise, _number(student))
        return Grade(float(judgement.status == "passed"), _verdict(name, judgement))
    seeds = range(DRAWS * seed, DRAWS * (seed + 1))
    returned = {each: _returned(student, arguments(name, each)) for each in seeds}
    judgements = {each: compared(name, returned[each], each) for each in seeds}
    wrong = next((each for each in seeds if judgements[each].status != "passed"), None)
    if wrong is None:
        return Grade(float(points(name)), _verdict(name, judgements[seeds[0]]))
    verdict = _verdict(name, judgements[wrong], wrong)
    if verdict.status == "open" or exercise.kind != "blank":
        return Grade(0.0, verdict)
    right = set.intersection(*(_right(exercise, returned[each], each) for each in seeds))
    return Grade(float(min(len(right), points(name) - 1)), verdict)


def _verdict(name, judgement: Judgement, seed: int | None = None) -> Verdict:
    seed = seed if judgement.status == "failed" else None
    return Verdict(name, *judgement, hints_in_all=0, seed=seed)


def _right(exercise: Exercise, returned: Sequence[Any], seed: int) -> set[str]:
    """The outputs that are right in all cases of a seed; none where the function stops in one."""
    runs, faults = sort_out(exercise.drawn(seed), returned)
    if faults:
        return set()
    names = [name for name, true in runs[0][0].true.items() if true is not None]
    return {n for n in names if all(is_right(case, outputs, n) for case, outputs in runs)}


def _number(student: Line) -> Any:
    kind, value = student.receive()
    if kind != "number":
        raise ValueError(f"the process sent {str(kind)[:20]}, wanted a number")
    return value


def _returned(student: Line, sets: Sequence[dict[str, Any]]) -> list[Any]:
    """What a function returned for each set of arguments, or the Fault that stopped it."""
    returned: list[Any] = []
    for place, args in enumerate(sets):
        try:
            student.send(place, {name: a for name, a in args.items() if not callable(a)})
            kind, value = student.receive()
            returned.append(_fault(*value) if kind == "fault" else value)
        except TimeoutError:
            returned.append(Fault("failed", f"it took more than {SECONDS:g} seconds"))
        except (OSError, EOFError):
            returned.append(Fault("failed", "it ended the process in which it ran"))
        except (ValueError, TypeError) as error:
            returned.append(Fault("failed", f"its process sent no answer: {error}"))
    return returned


def _fault(status, says, notes) -> Fault:
    """A Fault out of a student's process: it cannot say that an answer has passed."""
    words = tuple((str(label), str(text)) for label, text in notes)
    return Fault("open" if status == "open" else "failed", str(says), words)


def _let_others_read(allowed: bool) -> None:
    """Say whether other processes of this account may read this one's memory: on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DUMPABLE, int(allowed), 0, 0, 0)


class Grader(socketserver.ThreadingTCPServer):
    """Grades the answers of one notebook, which runs inside of `with Grader() as grader`.

    grades: exercise -> Grade, for those that have been answered. The seed is another one for each
    Grader, and stands in its memory alone.
    """

    daemon_threads = True
    block_on_close = False  # a student's process that stays silent holds nobody up

    def __init__(self):
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.grades: dict[str, Grade] = {}
        self._seed = secrets.randbelow(SEEDS)
        self._word = secrets.token_hex(16)
        self._first = threading.Lock()

    def __enter__(self):
        _let_others_read(False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        os.environ[GRADER] = f"{self.server_address[1]} {self._word}"
        return self

    def __exit__(self, *error):
        del os.environ[GRADER]
        self.shutdown()
        self.grades = dict(self.grades)  # what a process still sends changes nothing
        super().__exit__(*error)
        _let_others_read(True)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Grade the exercise that a student's process names: each of them once."""
        student, grades = Line(request, SECONDS), self.grades
        with contextlib.suppress(OSError, EOFError, ValueError):
            word, name = student.receive()
            if not hmac.compare_digest(str(word).encode(), self._word.encode()):
                return
            if str(name) not in EXERCISES:
                return
            with self._first:
                if name in grades:
                    return
                says = "its process sent no answer"
                grades[name] = Grade(0.0, _verdict(name, Judgement("failed", says)))
            grades[name] = grade(name, student, self._seed)
