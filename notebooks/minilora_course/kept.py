"""What a student has written is kept in a file of their own, which later notebooks import.

keep("lora_forward", lora_forward)      # writes it into my_minilora.py, if it passes its check
mine("lora_forward")                    # the student's function; if there is none, the package's
technique("lora")                       # LoRA's record, with the student's pair as its op
"""

import ast
import dataclasses
import inspect
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora.engine import Op
from minilora.methods import METHODS
from minilora.methods.base import Method
from minilora.support.files import find, write_atomically
from minilora.support.terminal import encodable

from .answer import judged
from .lessons import EXERCISES
from .lessons.exercise import Exercise

FILE = "MINILORA_MINE"  # names another file than my_minilora.py in the folder of the notebook
SEED = 1  # of the arguments that an answer is called with
HEADER = '''"""What I have written in the course. The notebooks add to this file and import it."""

import math

import numpy as np

import minilora as ml
from minilora import engine, ops
'''


def file() -> Path:
    """The student's file."""
    return Path(os.environ.get(FILE) or "my_minilora.py")


def keep(name: str, *functions: Callable) -> None:
    """Write the answer to an exercise into the student's file, if it passes its check; say so.

    functions: one, or forward and backward of a pair. A version that is there already is replaced.
    The functions of the same notebook that these call are written with them.
    """
    exercise = find("exercise", name, EXERCISES)
    judgement = judged(name, functions if exercise.functions > 1 else functions[0], SEED)
    if judgement.status != "passed":
        state = "is not written yet" if judgement.status == "open" else "does not pass its check"
        return _say(f"{name} {state}: it is not kept")
    path = file()
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else HEADER
        text = _with(text, _sources(functions), name, [f.__name__ for f in functions])
        alone = judged(name, _run(text)[name], SEED)
    except OSError as error:  # no source; or a file that cannot be read
        return _say(f"{name} is not kept: {error}")
    except SyntaxError as error:
        return _say(f"{name} is not kept: line {error.lineno} of {path} has a syntax error")
    except Exception as error:  # the file of a student may raise anything
        return _say(f"{name} is not kept: {path} raises {type(error).__name__}: {error}")
    if alone.status != "passed":
        return _say(f"{name} is not kept: run by itself, without this notebook, {alone.says}")
    write_atomically(path, text.encode())
    return _say(f"{name} is kept in {path.name}")


def mine(*names: str) -> Any:
    """The student's answers to exercises; the package's where none is kept. A line says which.

    A pair is the tuple (forward, backward); for several names, a list of answers.
    """
    answers, said = [], dict[str, list[str]]()
    for name in names:
        answer, whose = _one(find("exercise", name, EXERCISES), file())
        answers.append(answer)
        said.setdefault(whose, []).append(name)
    for whose, which in said.items():
        _say(f"{', '.join(which)}: {whose}")
    return answers[0] if len(names) == 1 else answers


def _one(exercise, path) -> tuple[Any, str]:
    """The answer to one exercise, and whose it is."""
    why = "you have kept none yet"
    if path.is_file():
        try:
            kept = _run(path.read_text(encoding="utf-8"))
        except Exception as error:  # the file of a student may raise anything
            kept, why = {}, f"{path.name} raises {type(error).__name__}: {error}"
        if exercise.name in kept:
            if judged(exercise.name, kept[exercise.name], SEED).status == "passed":
                return kept[exercise.name], f"yours, from {path.name}"
            why = f"what is in {path.name} does not pass its check"
    return exercise.package or _right(exercise), f"the package's, since {why}"


def technique(method: str, pair: str | tuple[Callable, Callable] = "") -> Method:
    """A technique's record with the student's pair as its op: for `ml.attach`.

    pair: (forward, backward), or the name of an exercise; by default the technique's own,
    "lora_pair". The student's pair has no dropout, so the record has none.
    """
    record: Method = find("method", method, METHODS)
    forward, backward = pair if isinstance(pair, tuple) else mine(pair or f"{method}_pair")
    if forward is record.op.forward:
        return record
    names = [n for n in inspect.signature(record.op.forward).parameters if n != "xd"]

    def named(*args):
        return forward(*args)

    # attach passes arguments by the names in the record, whatever the student calls them
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    named.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    options = {name: value for name, value in record.options.items() if name != "dropout"}
    check = None if record.has_dropout else record.check
    return dataclasses.replace(record, op=Op("mine", named, backward), options=options, check=check)


def _say(line: str) -> None:
    print(encodable(line))


def _right(exercise: Exercise) -> Callable:
    """The exercise's own reference as the function that it asks for."""
    reference = exercise.drawn(SEED)[0].reference

    def right(*args):
        outputs = tuple(reference(*args).values())
        return outputs if len(outputs) > 1 else outputs[0]

    return right


def _run(text: str) -> dict[str, Any]:
    """The names that a student's file defines. Raises what it raises."""
    namespace: dict[str, Any] = {"__name__": "my_minilora"}
    exec(compile(text, "my_minilora.py", "exec"), namespace)
    return namespace


def _sources(functions) -> dict[str, str]:
    """Name -> source of the functions and of those of the same notebook that they call."""
    found: dict[str, str] = {}

    def add(function):
        if function.__name__ not in found:
            if function.__name__ == "<lambda>":
                raise OSError("a lambda has no source of its own: write it with def")
            found[function.__name__] = textwrap.dedent(inspect.getsource(function))
            for name in _names(function.__code__):
                used = function.__globals__.get(name)
                if inspect.isfunction(used) and used.__globals__ is function.__globals__:
                    add(used)

    for function in functions:
        add(function)
    return dict(reversed(found.items()))  # what is called stands before what calls it


def _names(code) -> set[str]:
    """The names that a function's code, and code inside it, may read from outside."""
    inner = (c for c in code.co_consts if inspect.iscode(c))
    return set(code.co_names).union(*map(_names, inner))


def _with(text: str, sources: dict[str, str], name: str, written: list[str]) -> str:
    """A student's file with these functions; each replaces its older version."""
    new, lines = dict(sources), text.splitlines(keepends=True)
    for node in reversed(ast.parse(text).body):  # from the end: the places before stay right
        if isinstance(node, ast.FunctionDef) and node.name in new:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            lines[first - 1 : node.end_lineno] = [new.pop(node.name)]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            del lines[node.lineno - 1 : node.end_lineno]
    if written != [name]:
        new[name] = f"{name} = {', '.join(written)}"
    return "\n\n\n".join(part.rstrip("\n") for part in ["".join(lines), *new.values()]) + "\n"
