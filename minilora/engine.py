"""Reverse-mode automatic differentiation in one file. The mathematics is in the ops, not here.

An op is a pair of plain functions, `forward(*arrays) -> (out, cache)` and `backward(dout, cache) ->
gradients`. `Op` binds the pair to the tape. The tape is a graph of nodes, not of tensors. A node
keeps only its pair's cache and its parents, so the caches determine which activations stay in
memory.

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

# numbers the nodes in the order in which they are made: a parent has a lower number than its child
_ticket = itertools.count()
# the name that new nodes get; each thread has its own
_scope: ContextVar[str] = ContextVar("minilora_scope", default="")


class Pair:
    """The functions of an op. A function that is not an op is stored in `value`.

    A backward with a parameter `need` is told for each argument whether its gradient is wanted.
    With `add_to`, backward adds the first argument's accumulated gradient and returns the sum, a
    new array.
    fast: the functions that run in place of these; None until they are first needed.
    """

    def __init__(self, forward: Any = None, backward: Any = None, value: Any = None):
        self.forward, self.backward, self.value = forward, backward, value
        named = inspect.signature(backward).parameters if backward else {}
        self.takes_need, self.adds = "need" in named, "add_to" in named
        self.fast: Pair | None = None

    def look_up(self) -> "Pair":
        """Fill `fast`. minilora.fast is imported at the first call. So no page depends on it, and
        `import minilora` is quick.
        """
        self.fast = importlib.import_module(".fast.twins", __package__).faster(self)
        return self.fast

    def __getstate__(self):
        """For a copy or another process, which fills its own `fast`."""
        return {**vars(self), "fast": None}


class Function(Pair):
    """A page's function that is not an op, such as AdamW. It is called like the function itself."""

    def __init__(self, function: Callable):
        super().__init__(value=function)
        functools.update_wrapper(self, function)

    def __call__(self, *args, **named):
        return (self.fast or self.look_up()).value(*args, **named)

    def __reduce__(self):
        """For another process: the name, as for a plain function."""
        return self.value.__name__


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, of the same shape: the sum of two gradients of one array."""
    return a + b


add = Function(add)


class Node:
    """One call of an op on the tape: what backward needs, and which nodes get the gradients.

    A leaf has no op.
    """

    __slots__ = ("__weakref__", "cache", "grad", "name", "op", "order", "owned", "parents")

    def __init__(self, op: "Op | None", cache: Any, parents: tuple["Node | None", ...], name: str):
        self.op, self.cache, self.parents, self.name = op, cache, parents, name
        self.order = next(_ticket)
        self.grad: np.ndarray | None = None
        self.owned = False  # did the tape allocate `grad`? Then it may add to it in place

    def receive(self, grad: np.ndarray) -> None:
        """Add a gradient, but never into an array that an op returned: others may hold it too."""
        if self.grad is None:
            self.grad = grad
        elif self.owned:
            self.grad += grad
        else:
            self.grad, self.owned = add(self.grad, grad), True

    def __repr__(self):
        return f"Node({self.op.name if self.op else 'leaf'}{', ' + self.name if self.name else ''})"


class Tensor:
    """An array, with a node if something upstream trains."""

    __slots__ = ("data", "node")
    __array_priority__ = 1000  # array + tensor calls Tensor.__radd__

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
    """A pair bound to the tape. Called on tensors and plain values, it returns a Tensor.

    forward(*args) -> (out, cache); backward(dout, cache) -> one gradient or None per argument of
    forward. `value(*args) -> out` runs instead of forward if nothing upstream trains; it leaves out
    what only backward needs. saves: the names of the cache's parts, in order. constants: the parts
    without activations (angles, positions), which the ledger does not count.
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
        """Run backward: one gradient per given argument, then None for each one left at default."""
        more: dict[str, Any] = {}
        pair, first = self.fast or self.look_up(), parents[0]
        if pair.takes_need:
            more["need"] = tuple([p is not None for p in parents])
        if pair.adds and first is not None and first.grad is not None:
            more["add_to"], first.grad, first.owned = first.grad, None, False  # backward adds it
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
    """Nodes made inside get this name, after the outer scope's name and a dot.

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
    """The names of the open scopes, joined by dots: the name that a new node gets."""
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
    """Fill .grad of every leaf that output depends on; free each cache once it has been used.

    dout: ∂loss/∂output; None: ones. ready: called with each leaf as soon as its gradient is
    complete; it may take the gradient away. A tape can be walked only once. A leaf's grad
    accumulates over calls; an inner node's is dropped. Raises ValueError if nothing upstream trains
    or the tape was walked before.
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
    uses: Counter[Node] = Counter()  # leaf -> how many nodes still to be walked use it
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
    """The leaves among a walked node's parents that no remaining node uses: their gradients are
    complete.
    """
    for parent in parents:
        if parent is not None and parent.op is None:
            uses[parent] -= 1
            if not uses[parent]:
                yield parent


def _pass_on(node: Node) -> None:
    """Pass a node's gradient on to its parents, and free its cache."""
    grad, node.grad = node.grad, None
    if grad is not None and node.op:  # else no gradient has reached this node
        for parent, g in zip(node.parents, node.op.gradients(grad, node.cache, node.parents)):
            if parent is not None and g is not None:
                parent.receive(g)
    node.cache, node.parents = FREED, ()


FREED = object()  # a node's cache after backward has used it
