"""What a student might write to get points without an answer. test_grading.py runs this file.

Each is the first answer to an exercise, and so the one that counts. After them come right answers:
no attack takes points from them.
"""

import contextlib
import gc
import os
import socket
import sys
import time

import numpy as np

EXERCISE = "mul_backward"  # of the functions below that look for what is right


def from_memory(dy, a, b):
    """Look for the seed, or for what is right, wherever this process can see it."""
    from minilora_course import EXERCISES

    seeds = [int(v) for k, v in os.environ.items() if "MINILORA" in k and v.isdecimal()]
    frame, held = sys._getframe(), []
    while frame := frame.f_back:
        held += [frame.f_locals, frame.f_globals]
    for names in [*held, *(o for o in gc.get_objects() if isinstance(o, dict))]:
        for key, value in list(names.items()):
            if isinstance(key, str) and "seed" in key.lower() and isinstance(value, int | range):
                seeds += [value] if isinstance(value, int) else value
    cases = [o for o in gc.get_objects() if type(o).__name__ == "Case"]
    for seed in seeds:
        cases += [c for k in range(-3, 4) for c in EXERCISES[EXERCISE].drawn(abs(3 * seed + k))]
    for case in cases:
        if np.array_equal(case.args.get("dy"), dy):
            return tuple(case.true.values())
    return 0 * a, 0 * b


def from_the_parent(dy, x, W):
    """Look for the seed in the environment of the process above this one."""
    with contextlib.suppress(OSError), open(f"/proc/{os.getppid()}/environ", "rb") as file:
        assert b"MINILORA_SEED" not in file.read()
    return 0 * x, 0 * W


def replaces_the_grader(*args):
    import minilora_course
    from minilora_course import calls, grading, slips, wire, worker

    for module in (minilora_course, calls, grading, slips, worker):
        for name in ("grade", "points", "is_right", "check", "answer", "compared"):
            setattr(module, name, lambda *_: 9.0)
    wire.Line.send = lambda line, *parts: line._connection.sendall(
        wire.pack(("fault", ("passed", "all is right", ()))) + b"\n"
    )
    return 0.0


class Pickle:
    """Who loads it leaves a file with the number of its process."""

    def __reduce__(self):
        return exec, (f"import os; open(f'{os.getcwd()}/{{os.getpid()}}', 'w').close()",)


def returns_a_pickle(*args):
    import pickle

    return pickle.dumps(Pickle()), Pickle(), np.array([Pickle()])


def sends_a_pickle(*args):
    """Straight into the connection, as an array of objects in a `.npy` file."""
    import base64
    import io
    import json

    file = io.BytesIO()
    np.save(file, np.array([Pickle()]), allow_pickle=True)
    array = base64.b64encode(file.getvalue()).decode()
    into_each_socket(json.dumps([{"tuple": ["returned", {"array": 0}]}, [array]]).encode() + b"\n")
    return 0.0


def into_each_socket(data):
    for handle in range(3, 100):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(handle)) as found:
            found.sendall(data)


def writes_into_the_pipe(*args):
    into_each_socket(b'{"points": 3}\n[["passed"], []]\n3.0\n')
    return 0.0


def hangs(*args):
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            continue


def hangs_after_a_fork(*args):
    """Another process keeps the connection open, and lives on."""
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(8)
        os._exit(0)
    os.kill(os.getpid(), 9)


def allocates(*args):
    return np.ones(10 * 2**27)  # 10 GB


def ends_the_process(*args):
    os._exit(0)


def leaves(*args):
    raise SystemExit("3.0")


def prints_points(*args):
    print("3.0")
    os.write(1, b"3.0\n")


def returns_itself(*args):
    endless = []
    endless.append(endless)
    return endless


def returns_much(*args):
    return np.zeros(10**6)


class Right(np.ndarray):
    """An array that says it is equal to every other."""

    def __eq__(self, other):
        return True

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return 0.0


def returns_what_agrees(*args):
    return np.zeros(1).view(Right)


class Number(float):
    def __eq__(self, other):
        return True

    def __sub__(self, other):
        return 0.0

    def __abs__(self):
        return 0.0


ATTACKS = {  # exercise -> what is given for it; words of the verdict
    EXERCISE: (from_memory, "da is wrong, and so is db"),
    "linear_backward": (from_the_parent, "dx is wrong, and so is dW"),
    "lora_merge": (replaces_the_grader, "all is right"),
    "lora_forward": (returns_a_pickle, "3 values, wanted 1"),
    "vera_forward": (sends_a_pickle, "sent no answer"),
    "vera_merge": (writes_into_the_pipe, "sent no answer"),
    "dora_forward": (hangs, "took more than 3 seconds"),
    "dora_backward": (hangs_after_a_fork, "took more than 3 seconds"),
    "llama_norm": (allocates, "MemoryError"),
    "llama_rope": (ends_the_process, "ended the process"),
    "llama_swiglu": (leaves, "ended the process"),
    "llama_weights": (prints_points, "returned None"),
    "llama_attention": (returns_itself, "contains itself"),
    "backward_loss": (returns_much, "at most 65,536"),
    "backward_rho": (returns_what_agrees, "dρ is wrong"),
    "tape_bytes": (Number(3), "not the number"),
    "lora_first_step": ("0.0", "without quotes"),
    "low_rank_truncate": (0.0, "wanted a function"),
    "tape_kept": (lambda caches: None, "not written yet"),  # a right answer comes second
}


HANG = "dora_forward", "dora_backward"  # they are asked alone, with this limit
SECONDS = 3.0


def main(which):
    """Ask a grader for what hangs, or for all the rest."""
    from answers import RIGHT

    from minilora_course import worker

    if which == "hang":
        worker.SECONDS = SECONDS
        for name in HANG:
            worker.answer(name, ATTACKS[name][0])
        return
    for name in ATTACKS.keys() - {*HANG}:
        worker.answer(name, ATTACKS[name][0])
    worker.answer("tape_kept", RIGHT["tape_kept"])
    worker.answer("backward_softmax", RIGHT["backward_softmax"])
    for name in ("lora_backward", "tape_walk", "gradient_central", "lora_count"):
        worker.answer(name, RIGHT[name])
    with contextlib.suppress(OSError):  # with another word than the grader's; of no exercise
        port, word = os.environ[worker.GRADER].split()
        for begins in (("wrong", "lora_pair"), (word, "no exercise"), ([], {}), ("\ud800", "a")):
            with socket.create_connection(("127.0.0.1", int(port))) as connection:
                from minilora_course.wire import pack

                connection.sendall(pack(begins) + b"\nrubbish\n")
                connection.recv(1)
    print("the notebook ends")


if __name__ == "__main__":
    main(sys.argv[1])
