"""What goes between a student's process and its grader: lines of JSON over a socket.

An array is the bytes of a `.npy` file, in base64. Nothing is unpickled.
"""

import base64
import io
import json
import socket
import time
from typing import Any

import numpy as np

from minilora.check.words import numbers
from minilora.support.files import parse_json

MOST = 2**16  # bytes of a line
SECONDS = 60.0  # in which a student's process must have answered all calls of an exercise
KINDS = "biufc"  # of the arrays that are sent, by NumPy's letters


class Line:
    """One end of the connection: sends values and receives them."""

    def __init__(self, connection: socket.socket, seconds: float | None = None):
        """seconds: from now on, after which nothing is sent or received; None: no limit."""
        self._until = None if seconds is None else time.monotonic() + seconds
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, *parts: Any) -> None:
        """Send values. Raises ValueError where they are too long, or have no end."""
        try:
            line = pack(parts) + b"\n"
        except RecursionError:
            raise ValueError("it contains itself, or is too deep") from None
        if len(line) > MOST:
            raise ValueError(f"it has {len(line):,} bytes, wanted at most {MOST:,}")
        self._wait_no_longer()
        self._connection.sendall(line)

    def receive(self) -> tuple[Any, ...]:
        """The values that the other end has sent.

        Raises EOFError if it has gone, TimeoutError if its time is over, ValueError on all else.
        """
        self._wait_no_longer()
        line = self._file.readline(MOST + 1)
        if not line:
            raise EOFError
        if not line.endswith(b"\n"):
            raise ValueError(f"a line of more than {MOST} bytes, or half of one")
        parts = unpack(line)
        if not isinstance(parts, tuple):
            raise ValueError("a line without values")
        return parts

    def _wait_no_longer(self):
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)


def pack(value: Any) -> bytes:
    """A value as a line of JSON. One array in two places stays one; no number: its kind alone."""
    arrays: dict[int, Any] = {}  # id -> array, in the order in which they were met
    tree = _tree(value, arrays)
    return json.dumps([tree, [_npy(array) for array in arrays.values()]]).encode()


def unpack(line: bytes) -> Any:
    """The value of a line. Raises ValueError where it is none of `pack`."""
    try:
        tree, files = parse_json("a line", line)
        arrays = [_array(base64.b64decode(file, validate=True)) for file in files]
        return _value(tree, arrays)
    except (TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"a line of another form: {error}") from None


def _tree(value, arrays) -> Any:
    """A value as what JSON can hold, with its arrays by number."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in KINDS:
        arrays.setdefault(id(value), value)
        return {"array": list(arrays).index(id(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_tree(part, arrays) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[str(name), _tree(part, arrays)] for name, part in value.items()]}
    array = numbers(value)
    return {"other": type(value).__name__} if array is None else _tree(array, arrays)


def _value(tree, arrays) -> Any:
    """The value that a tree stands for."""
    if not isinstance(tree, dict):
        return tree
    ((kind, inside),) = tree.items()
    if kind == "array":
        return arrays[inside]
    if kind in ("tuple", "list"):
        parts = [_value(part, arrays) for part in inside]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {str(name): _value(part, arrays) for name, part in inside}
    if kind == "other":
        return type(inside, (), {})()  # an object of a class of that name
    raise ValueError(f"{kind[:20]}: no kind of value")


def _npy(array) -> str:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _array(data: bytes) -> np.ndarray | np.generic:
    """The array in the bytes of a `.npy` file."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, EOFError, MemoryError, OverflowError, SyntaxError) as error:
        raise ValueError(f"no .npy file: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in KINDS:
        raise ValueError("no array of numbers")
    return array if array.ndim else array[()]
