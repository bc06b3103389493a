"""Reverse-mode automatic differentiation in one file. It knows no mathematics: that stands in the
ops.

An op is a pair of plain functions, `forward(*arrays) -> (out, cache)` and `backward(dout, cache) ->
gradients`. `Op` binds the pair to the tape. The tape is a graph of nodes, never of tensors: a node
keeps its pair's cache and its parents, so the memory that training holds is exactly what the caches
say.

    w = param(np.ones(3))
    loss = ops.sum(ops.mul(w, w))
    backward(loss)
    w.grad                                  # array([2., 2., 2.])
"""

import functools
import importlib
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

# numbers nodes in the order of their making: every parent comes before its child
_ticket = itertools.count()
# the name that new nodes carry: each thread has its own
_scope: ContextVar[str] = ContextVar("minilora_scope", default="")


class Pair:
    """The functions that do an op's work. What is no op has its one function in `value`.

    A backward with a parameter `need` is told, per argument, whether its gradient is wanted. One
    with `add_to` gets the gradient that the first argument has so far, and returns the sum as a new
    array.
    fast: the functions that run in place of these, None until they are first needed.
    """

    def __init__(self, forward: Any = None, backward: Any = None, value: Any = None):
        self.forward, self.backward, self.value = forward, backward, value
        named = inspect.signature(backward).parameters if backward else {}
        self.takes_need, self.adds = "need" in named, "add_to" in named
        self.fast: Pair | None = None

    def look_up(self) -> "Pair":
        """Fill `fast`. Only here is the engine room named: a page imports nothing of it, and
        `import minilora` is quick.
        """
        self.fast = importlib.import_module(".fast.twins", __package__).faster(self)
        return self.fast

    def __getstate__(self):
        """For a copy or another process, which looks up its own."""
        return {**vars(self), "fast": None}


class Function(Pair):
    """A page's function that is no op, such as AdamW: called like the function itself."""

    def __init__(self, function: Callable):
        super().__init__(value=function)
        functools.update_wrapper(self, function)

    def __call__(self, *args, **named):
        return (self.fast or self.look_up()).value(*args, **named)

    def __reduce__(self):
        """For another process: the name, as of a plain function."""
        return self.value.__name__


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, of one shape: two gradients of one array."""
    return a + b


add = Function(add)


class Node:
    """One op's place on the tape: what backward needs, and who its gradients go to.

    A leaf has no op.
    """

    __slots__ = ("__weakref__", "cache", "grad", "name", "op", "order", "owned", "parents")

    def __init__(self, op: "Op | None", cache: Any, parents: tuple["Node | None", ...], name: str):
        self.op, self.cache, self.parents, self.name = op, cache, parents, name
        self.order = next(_ticket)
        self.grad: np.ndarray | None = None
        self.owned = False  # did the tape allocate `grad`? Then it may add into it

    def receive(self, grad: np.ndarray) -> None:
        """Add a gradient, never into an array that an op returned: it may stand elsewhere too."""
        if self.grad is None:
            self.grad = grad
        elif self.owned:
            self.grad += grad
        else:
            self.grad, self.owned = add(self.grad, grad), True

    def __repr__(self):
        return f"Node({self.op.name if self.op else 'leaf'}{', ' + self.name if self.name else ''})"


class Tensor:
    """An array, and its node where something upstream trains."""

    __slots__ = ("data", "node")
    __array_priority__ = 1000  # array + tensor asks the tensor

    def __init__(self, data: np.ndarray, node: Node | None = None):
        self.data, self.node = data, node

    @property
    def grad(self) -> np.ndarray | None:
        """∂loss/∂self after backward: kept for leaves only."""
        return None if self.node is None else self.node.grad

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def __repr__(self):
        return f"Tensor(shape={self.shape}, dtype={self.dtype}, node={self.node})"


class Op(Pair):
    """A pair bound to the tape: called on tensors and plain values, it returns a Tensor.

    forward(*args) -> (out, cache); backward(dout, cache) -> one gradient or None per argument of
    forward. `value(*args) -> out` serves in forward's place where nothing upstream trains and
    forward would do work that only backward uses. saves: the names of the cache's parts, in order;
    constants: those of them that no activation is in (angles, places), for the ledger.
    """

    def __init__(
        self,
        name: str,
        forward: Callable,
        backward: Callable,
        value: Callable | None = None,
        *,
        saves: tuple[str, ...] = (),
        constants: tuple[str, ...] = (),
    ):
        super().__init__(forward, backward, value)
        self.name, self.saves, self.constants = name, saves, constants

    def __call__(self, *args) -> Tensor:
        values = [a.data if type(a) is Tensor else a for a in args]
        parents = tuple([a.node if type(a) is Tensor else None for a in args])
        traced, pair = any(parents), self.fast or self.look_up()
        if not traced and pair.value:
            return Tensor(pair.value(*values))
        out, cache = pair.forward(*values)
        return Tensor(out, Node(self, cache, parents, _scope.get()) if traced else None)

    def gradients(self, dout: np.ndarray, cache: Any, parents: tuple[Node | None, ...]) -> tuple:
        """backward's answer: one gradient per argument, then None for those that had defaults."""
        more: dict[str, Any] = {}
        pair, first = self.fast or self.look_up(), parents[0]
        if pair.takes_need:
            more["need"] = tuple([p is not None for p in parents])
        if pair.adds and first is not None and first.grad is not None:
            more["add_to"], first.grad, first.owned = first.grad, None, False  # it is in the answer
        grads = pair.backward(dout, cache, **more)
        if len(grads) < len(parents):
            raise ValueError(
                f"{self.name}: backward gave {len(grads)} gradients, wanted {len(parents)}"
            )
        return grads

    def __repr__(self):
        return f"Op({self.name})"


def param(data: np.ndarray, name: str = "") -> Tensor:
    """A leaf whose gradient is wanted."""
    return Tensor(data, Node(None, None, (), name))


class scope:
    """Nodes made inside carry this name, joined to the outer scope's by a dot: their place.

    with scope("q_proj"): …    A class, since a generator takes twice as long to enter and leave.
    """

    __slots__ = ("name", "token")

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        outer = _scope.get()
        self.token = _scope.set(f"{outer}.{self.name}" if outer else self.name)

    def __exit__(self, *_: object) -> None:
        _scope.reset(self.token)


def place() -> str:
    """The scopes that are open, joined by dots: the name of a node made now."""
    return _scope.get()


def tape(*outputs: Tensor) -> list[Node]:
    """All nodes that the outputs depend on, parents before children."""
    seen: dict[int, Node] = {}
    waiting = [t.node for t in outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node.order not in seen:
            seen[node.order] = node
            waiting.extend(node.parents)
    return [seen[order] for order in sorted(seen)]


def backward(
    output: Tensor,
    dout: np.ndarray | None = None,
    ready: Callable[[Node], None] | None = None,
) -> None:
    """Fill .grad of every leaf that output depends on, freeing each cache as it is passed.

    dout: ∂loss/∂output, ones where None. ready: called with each leaf as soon as its gradient is
    whole; it may take the gradient away. The tape can be walked once. A leaf's grad adds up over
    calls; an inner node's is dropped. Raises ValueError where nothing upstream trains or the tape
    was walked before.
    """
    if output.node is None:
        raise ValueError(
            "backward: nothing upstream of the output trains; wrap an array in param()"
        )
    if dout is not None and dout.shape != output.shape:
        raise ValueError(f"backward: dout has shape {dout.shape}, wanted {output.shape}")
    nodes = tape(output)
    if walked := [node for node in nodes if node.cache is FREED]:
        raise ValueError(f"backward: {walked[0]} was walked before; run the forward pass again")
    uses: Counter[Node] = Counter()  # of each leaf, by nodes that are still to come
    if ready:
        uses.update(p for node in nodes for p in node.parents if p is not None and p.op is None)
    output.node.receive(np.ones_like(output.data) if dout is None else dout)
    while nodes:
        node = nodes.pop()
        if node.op is None:
            continue
        parents = node.parents
        _pass_on(node)
        if ready:
            for leaf in _no_longer_used(parents, uses):
                ready(leaf)


def _no_longer_used(parents: tuple[Node | None, ...], uses: Counter[Node]) -> Iterator[Node]:
    """The leaves among a walked node's parents that no node to come uses: their gradients are
    whole.
    """
    for parent in parents:
        if parent is not None and parent.op is None:
            uses[parent] -= 1
            if not uses[parent]:
                yield parent


def _pass_on(node: Node) -> None:
    """Give a node's gradient to its parents, and free what it kept."""
    grad, node.grad = node.grad, None
    if grad is not None and node.op:  # else no path from the output led here with a gradient
        for parent, g in zip(node.parents, node.op.gradients(grad, node.cache, node.parents)):
            if parent is not None and g is not None:
                parent.receive(g)
    node.cache, node.parents = FREED, ()


FREED = object()  # in a node's cache once backward has passed it
