"""One side in a process of its own: it obeys lines of JSON and answers each with one.

{"do": "make", "side": "minilora", "size": "tiny", "case": "lora", "lr": 1e-3}
{"do": "steps", "n": 3}       -> the losses
{"do": "seconds", "n": 10}    -> wall seconds of each, processor seconds of all
{"do": "memory"}              -> resident bytes: after a toy's first step, now, at most
{"do": "peak"}                -> FLOP/s of the register tile, over all threads
{"do": "facts"}               -> the machine, as this process sees it
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ..support.files import find
from . import cases, machine
from .turns import SIDES


def main() -> None:
    """Answer until the input ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    state: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": DO[asked.pop("do")](state, **asked)}
        except Exception as error:  # the process that asks shall know, whatever it was
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _make(state, side, size, case, lr, threads):
    size = find("size", size, cases.SIZES)
    case = find("case", case, cases.CASES)
    make = _ours if side == SIDES[0] else _theirs(side, threads)
    make(cases.SIZES["toy"], case, lr).steps(1)  # what is loaded when it is first used is no step's
    state["baseline"] = machine.resident().get("now")
    state["side"] = make(size, case, lr)
    machine.forget_peak()


def _ours(size, case, lr):
    from .ours import Ours

    return Ours(size, case, lr)


def _theirs(name, threads):
    import torch
    import transformers

    from .theirs import Theirs, through_onednn

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)

    def make(size, case, lr):
        side = Theirs(size, case, lr, "eager" if name == SIDES[2] else "sdpa")
        if name == SIDES[3]:
            through_onednn(side.model)
        return side

    return make


def _steps(state, n):
    return state["side"].steps(n)


def _seconds(state, n):
    start = time.process_time()
    wall = state["side"].seconds(n)
    return {"wall": wall, "cpu": time.process_time() - start}


def _memory(state):
    return {"baseline": state.get("baseline"), **machine.resident()}


def _work(state, side, name, sizes, seconds):
    from . import work

    return work.timed(side, name, tuple(sizes), seconds)


def _ladder(state, sizes, seconds):
    from . import work

    return work.ladder(tuple(sizes), seconds)


def _rungs(state, sizes, rounds):
    from . import ladder

    return ladder.rungs(tuple(sizes), rounds)


def _fused(state, rows, rounds):
    from . import ladder

    return ladder.fused(rows, rounds)


def _pages(state, **how):
    from . import ladder

    return ladder.pages(**how)


def _growth(state, **asked):
    from . import growth

    return growth.measured(**asked)


def _peak(state, threads=None):
    from .decoding import read_bandwidth
    from .peak import peak

    return {"flops": peak(), "bandwidth": read_bandwidth(threads)}


DO: dict[str, Callable[..., Any]] = {
    "make": _make,
    "steps": _steps,
    "seconds": _seconds,
    "memory": _memory,
    "work": _work,
    "ladder": _ladder,
    "rungs": _rungs,
    "fused": _fused,
    "pages": _pages,
    "growth": _growth,
    "peak": _peak,
    "facts": lambda state: machine.facts(),
}

if __name__ == "__main__":
    main()
