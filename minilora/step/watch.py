"""Record one training step: each op, the lines of its page, and the bytes held.

`sys.settrace` calls the recorder for each Python function that starts in this thread. It knows only
the engine's Op and Node, AdamW's page, and the functions of a technique's record.
"""

import ast
import hashlib
import inspect
import re
import sys
import textwrap
import weakref
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from ..engine import Node, Op, Tensor, place
from ..memory.saved import named_arrays, root, storage, storages
from ..methods.base import RULES
from ..ops.adamw import adamw
from ..support.meta import is_array
from ..tuning.adapters import Tuned

ADAMW: Any = adamw  # a Function
PACKAGE = Path(__file__).parents[1]
Names = dict[str, np.ndarray]  # name in a page -> its value at that time, as an array


@dataclass
class Event:
    """One op, forward or backward, or one rule: its input, the lines that ran, its output.

    Arrays are read-only copies, equal ones once; the base's weights are not copied. Layers that are
    not recorded line by line have no arrays.
    """

    phase: str  # forward, backward, step
    op: str  # the name of its page
    place: str  # model.layers.2.self_attn.q_proj; of AdamW the trained array's key
    given: Names = field(default_factory=dict)  # arguments by name; of backward the gradient
    lines: list[tuple[int, Names]] = field(default_factory=list)  # line from 0, what it changed
    out: np.ndarray | None = None
    taped: bool = False  # forward: is it on the tape?
    leaves: dict[str, str] = field(default_factory=dict)  # arguments that train -> their keys
    source: dict[str, int] = field(default_factory=dict)  # argument -> the event that made it
    keeps: list[dict[str, Any]] = field(default_factory=list)  # name, kind, bytes, array, holder
    forward: int | None = None  # backward: the event that it undoes
    gradients: list[dict[str, Any]] = field(default_factory=list)  # of, array, leaf
    frees: dict[str, int] = field(default_factory=dict)  # name -> bytes; 0: kept elsewhere too
    bytes: tuple[int, int, int] = (0, 0, 0)  # after it: kept, gradients, in flight


@dataclass(frozen=True)
class Function:
    """The source of one function of a page."""

    name: str
    file: str
    line: int  # where it begins in the file
    doc: str
    source: list[str]  # without its indentation; empty if there is no file
    starts: list[int]  # of each line: where its statement begins; -1 in the docstring
    code: dict[int, str]  # line where a statement begins -> all of it, without comments
    symbols: dict[str, str]  # name -> shape, as the docstring says it
    function: FunctionType


class AtReturn:
    """Follows a frame, and passes its return value to a function: None if an error ends it."""

    def __init__(self, frame, then: Callable):
        frame.f_trace_lines, self.then = False, then

    def __call__(self, frame, what, arg):
        if what == "return":
            self.then(arg)
        return self


class Lines:
    """Follows a page's function: writes each statement and what it changed into the event.

    Only the first two iterations of a loop are recorded, also in nested loops.
    """

    def __init__(self, watch: "Watch", frame, event: Event, of: Function, then: Callable = int):
        self.watch, self.event, self.of, self.then = watch, event, of, then
        self.first = frame.f_code.co_firstlineno
        self.turns: dict[int, list[int]] = {}  # indentation -> how often each line there has run
        self.last: dict[str, tuple] = {}
        self.at, self.running = -1, Names()
        watch.changed(frame, self.last, event.given)

    def __call__(self, frame, what, arg):
        self.watch.changed(frame, self.last, self.running)
        line = frame.f_lineno - self.first
        line = self.of.starts[line] if self.of.source else line
        if what == "line" and line != self.at:  # not another line of the same statement
            self.at, self.running = line, {}
            if self._recorded(line):
                self.event.lines.append((line, self.running))
        if what == "return":
            self.then()
        return self

    def _recorded(self, line) -> bool:
        """Is it in the first two iterations of its loops? A loop's head is further left."""
        text = self.of.source[line] if self.of.source else ""
        left = len(text) - len(text.lstrip())
        for further in [n for n in self.turns if n > left]:
            del self.turns[further]  # an inner loop starts again
        self.turns.setdefault(left, []).append(line)
        return all(lines.count(lines[-1]) <= 2 for lines in self.turns.values())


class Watch:
    """Records what runs in this thread inside `with`: see the module's docstring."""

    def __init__(
        self, tuned: Tuned, weights: list, batch: list, layers: Collection[int] | None
    ) -> None:
        self.tuned, self.layers, record = tuned, layers, tuned.record
        self.events: list[Event] = []
        self.pages: dict[str, tuple[Function, ...]] = {}
        self.turn = self.back = self.activations = self.gradients = 0
        self.weights, self.aside = storages(weights), {*storages(batch)}
        self.keys = {id(a): key for key, a in tuned.trainable.items()}
        self.places = {id(arrays): layer for layer, arrays in tuned.layers.items()}
        rules = {f"{record.name}.{n}": inner(f) for n in RULES if (f := getattr(record, n))}
        rules["adamw"] = ADAMW.value
        self.rules = {f.__code__: (name, f) for name, f in rules.items()}
        self.handlers = {
            Op.__call__.__code__: self._op,
            Op.gradients.__code__: self._gradients,
            Node.__init__.__code__: self._node,
            **dict.fromkeys(self.rules, self._rule),
        }
        # events that run now; the code of their pages -> what it is
        self.open: list[tuple[int, dict[CodeType, Function]]] = []
        self.detail = True  # is the current layer recorded line by line?
        self.contents: dict[tuple, np.ndarray] = {}
        self.frozen = {id(a): name for name, a in tuned.base.params.items()}
        self.alive: dict[int, tuple[int, Any]] = {}  # place -> bytes of an array seen, its weakref
        self.made: dict[Any, dict[tuple, int]] = {}  # place -> shape -> the event that made it
        self.kept: Counter[int] = Counter()  # place -> how many caches hold it
        self.holder: dict[int, int] = {}  # place -> the event that kept it first
        self.nodes: dict[int, tuple] = {}  # id of a node's parents -> its event, what it keeps
        self.leaves: list[Node] = []
        self.leaf_grads: dict[str, tuple[int, int]] = {}  # key -> place and bytes

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._start)

    def __exit__(self, *_):
        sys.settrace(self.before)
        self._sample()
        self.gradients = sum(nbytes for _, nbytes in self.leaf_grads.values())
        self.back = self.back or len(self.events)

    # what runs

    def _start(self, frame, what, arg):
        """sys.settrace's function: called when a function starts; returns what traces its lines."""
        code = frame.f_code
        if self.open and code in self.open[-1][1]:
            number, codes = self.open[-1]
            return Lines(self, frame, self.events[number], codes[code])
        handler = self.handlers.get(code)
        return handler(frame) if handler else None

    def _begin(self, event: Event, *functions: Any) -> int:
        """A new event; the lines of these functions are recorded until it ends."""
        self._sample()
        self.events.append(event)
        page = tuple(read(inner(f)) for f in functions if f)
        if self.pages.setdefault(event.op, page) != page:
            raise ValueError(f"trace: two ops are named {event.op!r}, wanted a name for each")
        layer = layer_of(event.place)
        self.detail = self.layers is None or layer < 0 or layer in self.layers
        codes = {of.function.__code__: of for of in page} if self.detail else {}
        self.open.append((len(self.events) - 1, codes))
        return len(self.events) - 1

    def _op(self, frame):
        """Op.__call__: an op's forward."""
        op, args = frame.f_locals["self"], frame.f_locals["args"]
        of = [name for a in args if (name := self.frozen.get(id(a)))]
        # a frozen linear off the tape has no scope, but its weight has a name
        alone = len(of) == 1 and of[0].startswith(place())
        event = Event("forward", op.name, of[0].removesuffix(".weight") if alone else place())
        number = self._begin(event, op.forward, op.backward)
        for name, a in zip(inspect.signature(op.forward).parameters, args):
            data = a.data if isinstance(a, Tensor) else a
            if isinstance(a, Tensor) and a.node is not None and a.node.op is None:
                event.leaves[name] = a.node.name
            if name in op.constants and is_array(data):
                self.aside.add(storage(data)[0])
            made = self.made.get(self._see(data), {})
            if isinstance(data, np.ndarray) and data.shape in made:
                event.source[name] = made[data.shape]
        return AtReturn(frame, partial(self._op_done, number))

    def _op_done(self, number, out):
        self.open.pop()
        if isinstance(out, Tensor):  # not if an error ended the call
            event = self.events[number]
            event.taped, event.out = out.node is not None, self._copy(out.data)
            self.made.setdefault(self._see(out.data), {})[np.shape(out.data)] = number

    def _node(self, frame):
        """Node.__init__: what the tape keeps. A node made outside an op's call is an event, too."""
        op, name = frame.f_locals["op"], frame.f_locals["name"]
        if op is None:
            self.leaves += [frame.f_locals["self"]] if name in self.keys.values() else []
            return None
        alone = not self.open or self.events[self.open[-1][0]].op != op.name
        if alone:
            self._begin(Event("forward", op.name, name, taped=True), op.forward, op.backward)
        number = self.open.pop()[0] if alone else self.open[-1][0]
        # after __init__, which returns None: the node has its parents then
        return AtReturn(frame, lambda _, node=frame.f_locals["self"]: self._keep(node, number))

    def _keep(self, node, number):
        """Count the arrays of a node's cache until it is freed or the node is gone."""
        keeps, held = self.events[number].keeps, []
        for _, name, a in named_arrays(node):
            at, nbytes = storage(a)
            kind = "weight" if at in self.weights else "shared" if self.kept[at] else "new"
            row = {"name": name, "kind": kind, "bytes": nbytes, "array": self._copy(a)}
            keeps.append(row | {"holder": self.holder.get(at)})
            if kind != "weight":
                self._see(a)
                self.kept[at] += 1
                self.holder.setdefault(at, number)
                held.append((name, at, nbytes))
        key = id(node.parents)
        self.nodes[key] = number, held, weakref.ref(node, lambda _: self._free(key))

    def _free(self, key) -> dict[str, int]:
        """A node's cache has been freed: name -> bytes that nothing else keeps."""
        freed = {}
        for name, at, nbytes in self.nodes.pop(key, (0, ()))[1]:
            self.kept[at] -= 1
            freed[name] = 0 if self.kept[at] else nbytes
            if not self.kept[at]:
                self.holder.pop(at, None)
        return freed

    def _gradients(self, frame):
        """Op.gradients: an op's backward."""
        op, parents = frame.f_locals["self"], frame.f_locals["parents"]
        number = self.nodes[id(parents)][0]
        forward = self.events[number]
        event = Event("backward", op.name, forward.place, forward=number)
        self._begin(event, op.forward, op.backward)
        if not self.turn:
            self.turn, self.activations = len(self.events) - 1, self.events[-2].bytes[0]
        self._see(frame.f_locals["dout"])
        return AtReturn(frame, partial(self._gradients_done, event, op, parents))

    def _gradients_done(self, event, op, parents, grads):
        self.open.pop()
        for name, p, g in zip(inspect.signature(op.forward).parameters, parents, grads or ()):
            if p is not None and g is not None:
                self._see(g)
                leaf = p.name if p in self.leaves else ""
                event.gradients.append({"of": name, "array": self._copy(g), "leaf": leaf})
                if leaf:
                    self.leaf_grads.setdefault(p.name, (storage(g)[0], g.nbytes))
        event.frees = self._free(id(parents))

    def _rule(self, frame):
        """A rule of the record, or AdamW on one array."""
        given = frame.f_locals
        name, function = self.rules[frame.f_code]
        at = self.places.get(id(given.get("arrays"))) or self.keys.get(id(given.get("p")))
        event = Event("forward" if name.endswith(".derived") else "step", name, at or place())
        self._begin(event, function)
        if event.phase == "step" and not self.back:
            self.back = len(self.events) - 1
        if self.open[-1][1]:
            return Lines(self, frame, event, self.open[-1][1][frame.f_code], self.open.pop)
        return AtReturn(frame, lambda _: self.open.pop())

    # arrays and bytes

    def changed(self, frame, last, into):
        """Write the names with a new value into a dict; with Δ if it changed in place.

        last: name -> its last array, and the copy of it.
        """
        for name, a in _flat(frame.f_locals).items():
            now = self._copy(a)
            was, then = last.get(name, (None, None))
            if now is None or now is then:
                continue
            into[name] = now
            if was is a and isinstance(a, np.ndarray) and a.dtype.kind == "f":
                into["Δ" + name] = self._copy(now - then)
            last[name] = a, now

    def _copy(self, a) -> np.ndarray | None:
        """A read-only copy, one for equal arrays; a number as an array (); None for all else."""
        if isinstance(a, bool | int | float | np.generic):
            a = np.array(a)
        if not self.detail or not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
            return None
        if id(a) in self.frozen:
            return a
        key = content(a)
        if key not in self.contents:
            self.contents[key] = a.copy()
            self.contents[key].flags.writeable = False
        return self.contents[key]

    def _see(self, a) -> int | None:
        """Track an array until it is freed; returns its place in memory, None if not an array."""
        if not isinstance(a, np.ndarray):
            return None
        at, nbytes = storage(a)
        if at not in self.alive:
            self.alive[at] = nbytes, weakref.ref(root(a), lambda _: self._gone(at))
        return at

    def _gone(self, at):
        self.alive.pop(at, None)
        self.made.pop(at, None)

    def _sample(self):
        """Write the bytes that are held now into the event that ran last."""
        for leaf in self.leaves:
            if leaf.grad is not None:
                self.leaf_grads[leaf.name] = storage(leaf.grad)[0], leaf.grad.nbytes
        if self.events:
            grads = dict(self.leaf_grads.values())
            kept = {at for at, n in self.kept.copy().items() if n}
            known = self.weights.keys() | self.aside | kept | grads.keys()
            flight = sum(nbytes for at, (nbytes, _) in self.alive.copy().items() if at not in known)
            saved = sum(self.alive[at][0] for at in kept)
            self.events[-1].bytes = saved, sum(grads.values()), flight


LAYER = re.compile(r"layers\.(\d+)")


def layer_of(place: str) -> int:
    """The layer of a place, -1 outside the layers."""
    found = LAYER.search(place)
    return int(found[1]) if found else -1


def content(a: np.ndarray) -> tuple:
    """Equal for arrays of the same shape, type and bits."""
    digest = hashlib.blake2b(np.ascontiguousarray(a).data, digest_size=16).digest()
    return a.shape, a.dtype.str, digest


def _flat(names) -> dict[str, Any]:
    """The names of a frame to record; a rule's dict of arrays gives one name each: arrays["A"]."""
    flat: dict[str, Any] = {}
    for name, a in names.items():
        if isinstance(a, dict):
            flat |= {f'{name}["{key}"]': value for key, value in a.items()}
        elif name != "need":
            flat[name] = a
    return {name: a for name, a in flat.items() if not name.startswith(("_", "."))}


SYMBOLS = re.compile(r"(\w+(?:, \w+)*) \(([A-Zr0-9·/, ]*)\)")  # x, xd (M, I)


def inner(function: Any) -> Any:
    """The plain function inside a partial, a decorated function or a callable object."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if isinstance(function, FunctionType) else type(function).__call__


@cache
def read(function: FunctionType) -> Function:
    """The source of a page's function; empty if there is no file, as in a shell."""
    try:
        lines, first = inspect.getsourcelines(function)
        path = Path(inspect.getsourcefile(function) or "")
    except (OSError, TypeError):
        lines, first, path = [], 0, Path()
    ours = path.is_relative_to(PACKAGE)
    doc = inspect.cleandoc(function.__doc__ or "")
    found = [(n, dims) for names, dims in SYMBOLS.findall(doc) for n in names.split(", ")]
    source = textwrap.dedent("".join(lines)).splitlines()
    return Function(
        function.__name__,
        str(path.relative_to(PACKAGE.parent) if ours else path.name),
        first,
        doc,
        source,
        *statements(source),
        dict(reversed(found)),  # the first one counts
        function,
    )


def statements(source: list[str]) -> tuple[list[int], dict[int, str]]:
    """For each line, where its statement begins (-1: the docstring); line -> its statement."""
    bare = [re.sub(r"\s*#.*", "", line).strip() for line in source]
    starts, code = [*range(len(source))], dict(enumerate(bare))
    try:
        tree = ast.parse("\n".join(source))
    except SyntaxError:  # a lambda among arguments
        return starts, code
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)  # what an if or a loop holds are further statements
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            end = body[0].lineno - 1 if body else last
            starts[first:end] = [first] * (end - first)
            code[first] = " ".join(bare[first:end]) or bare[first]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            first, end = node.body[0].lineno - 1, node.body[0].end_lineno or 0
            starts[first:end] = [-1] * (end - first)
    return starts, code
