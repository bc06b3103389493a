# %% [markdown]
r"""
# 01 · A tape you can read: autograd in NumPy

When you are done you can

- write an operation as a pair of plain functions, forward and backward,
- say what a cache must hold, and count its bytes,
- write the walk along a tape that computes every gradient of a network.

*Needs*: NumPy and the chain rule. *Time*: 20 minutes to read, 105 to do.
*Papers*: none; the idea is Linnainmaa's, 1970. *The one idea*: forward saves exactly what
backward will read, and this is what takes the memory in training.
"""

# %%
import numpy as np

import minilora as ml
from minilora import engine, ops
from minilora.check import check_pair
from minilora.memory import arrays_in, saved_arrays
from minilora_course import check, course

# %% [markdown]
r"""
## A pair

An operation is two functions. Forward gives the output and a **cache**, which holds what backward will read.
Backward takes the cache and $dy = \partial\,\text{loss}/\partial y$, the gradient with respect to the output. It returns
one gradient for each argument. For $y = a\cdot b$, element by element:

$$da = dy\cdot b,\qquad db = dy\cdot a .$$

**Predict.** Two arrays of 100 × 100 in float64: how many bytes does the cache of $a\cdot b$ hold?
"""

# %% exercise tape_bytes
held = None  # your number
### BEGIN SOLUTION
held = 2 * 100 * 100 * 8
### END SOLUTION

# %% check tape_bytes
check("tape_bytes", held)

# %% [markdown]
r"""
**Fill the blank.**
"""

# %% exercise mul_backward
def mul_backward(dy, a, b):
    """dy, a, b of one shape -> da, db."""
    ### BEGIN SOLUTION
    return dy * b, dy * a
    ### END SOLUTION

# %% check mul_backward
check("mul_backward", mul_backward)

# %% [markdown]
r"""
## A linear

$y = xW^\top$ with $x$ (M, I), one row for each example, and $W$ (O, I). In components, $y_{mo} = \sum_i x_{mi} W_{oi}$,
so

$$dx_{mi} = \sum_o dy_{mo}\,W_{oi},\qquad dW_{oi} = \sum_m dy_{mo}\,x_{mi} .$$

The second formula sums over the rows, because every row used the same $W$. **Fill the blank.**
"""

# %% exercise linear_backward
def linear_backward(dy, x, W):
    """dy (M, O), x (M, I), W (O, I) -> dx (M, I), dW (O, I)."""
    ### BEGIN SOLUTION
    return dy @ W, dy.T @ x
    ### END SOLUTION

# %% check linear_backward
check("linear_backward", linear_backward)

# %% [markdown]
r"""
**Break it.** Leave out the sum over rows in $dW$: return the result of one row, or the mean of all rows. See how the check names this mistake.
"""

# %% exercise linear_break
def broken(dy, x, W):
    """The same, without the sum in dW."""
    ### BEGIN SOLUTION
    return dy @ W, dy.T @ x / len(x)
    ### END SOLUTION

# %% check linear_break
check("linear_break", broken)

# %% [markdown]
r"""
**Do it.** Compare the package's pair, `ops.linear.forward` and `ops.linear.backward`, with the sums over components (`np.einsum`). Then check it without any
formula: `check_pair(forward, backward, x, W)` moves numbers of $x$ and $W$ a little and compares the change of the loss.
"""

# %% open tape_pair
rng = np.random.default_rng(0)
x, W, dy = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), rng.normal(size=(6, 3))
### BEGIN SOLUTION
y, cache = ops.linear.forward(x, W)
dx, dW = ops.linear.backward(dy, cache)
assert np.allclose(dx, np.einsum("mo,oi->mi", dy, W))
assert np.allclose(dW, np.einsum("mo,mi->oi", dy, x))
check_pair(ops.linear.forward, ops.linear.backward, x, W)
### END SOLUTION

# %% [markdown]
r"""
## The tape

A **tensor** is an array and the node that made it. `Op` binds a pair to the tape: called on tensors, it runs forward
and creates a **node**, which holds the cache and its parents, the nodes that its gradients go to. The **tape** is the
list of these nodes in the order in which they ran. `param` makes a leaf: an array whose gradient we want. A small network,
$\text{loss} = \text{mean}\,(\tanh(xW_1^\top)\,W_2^\top - t)^2$:
"""

# %%
x, t = rng.normal(size=(50, 8)), rng.normal(size=(50, 2))
W1 = ml.param(rng.normal(size=(16, 8)) / 3, "W₁")
W2 = ml.param(rng.normal(size=(2, 16)) / 4, "W₂")

def network():
    """The loss, a Tensor."""
    hidden = ops.tanh(ops.linear(x, W1))
    error = ops.linear(hidden, W2) - t
    return ops.mean(error * error)

loss = network()
print(f"loss {float(loss.data):.3f}, {len(engine.tape(loss))} nodes")

# %% [markdown]
r"""
How many bytes does this tape keep? Two ops may keep the same array: `tanh` keeps its output, and the next `linear` keeps the same array as its
input. It is in memory only once. And `error * error` has one array for both of its arguments.

**Fill the blank.** `a is b` says whether two names refer to the same array, and `id(a)` is a number that only this array has.
"""

# %% exercise tape_kept
def tape_kept(caches):
    """caches: for each op, in order, a list of the arrays that it keeps -> for each op, the bytes
    of the arrays that it is the first to keep: each array counts once."""
    ### BEGIN SOLUTION
    seen, found = set(), []
    for arrays in caches:
        new = {id(a): a.nbytes for a in arrays if id(a) not in seen}
        seen.update(new)
        found.append(sum(new.values()))
    return found
    ### END SOLUTION

# %% check tape_kept
check("tape_kept", tape_kept)

# %%
course.keep("tape_kept", tape_kept)
nodes = engine.tape(loss)
caches = [arrays_in(node.cache) for node in nodes]
kept = dict(zip(nodes, course.mine("tape_kept")(caches)))  # bytes that a node is the first to keep
held = {node: sum({id(a): a.nbytes for a in arrays}.values()) for node, arrays in zip(nodes, caches)}

def title(node):
    return node.op.name if node.op else node.name

for node in (n for n in nodes if n.op):  # minus t is an add of -t; a mean is a sum, times 1/n
    parents = [title(p) for p in node.parents if p is not None]
    shared = held[node] - kept[node]
    print(f"{title(node):6} keeps {kept[node]:5,} bytes and {shared:5,} kept already, passes gradients to {parents}")
assert sum(kept.values()) == sum(row.nbytes for row in saved_arrays(nodes))
print(f"each array once: {sum(kept.values()):,} bytes, {W1.data.nbytes + W2.data.nbytes:,} of them the weights, which exist anyway")

# %% figure
caption = (
    "The tape: an arrow from each op to where its gradients go, the loss at the right; error · error has two. A disc's area is "
    "what the op is the first to keep, in bytes. The dashed ring is what it shares with an op before it: tanh's output, which is in "
    "memory once. The squares are the leaves, W₁ and W₂."
)
depth = {}
for node in nodes:  # parents come before their children
    depth[node] = 1 + max((depth[p] for p in node.parents if p), default=-1)
for leaf in (W1, W2):  # a leaf stands just before the op that uses it
    depth[leaf.node] = min(depth[n] for n in nodes if leaf.node in n.parents) - 1
place = {node: (depth[node], 0.0 if node.op else 1.0) for node in nodes}
with course.figure(caption, width=11, height=4) as axes:
    area = {node: 120 + kept[node] / 4 for node in nodes}  # points²
    ring = {node: 120 + held[node] / 4 for node in nodes}
    for node in nodes:
        parents = [p for p in node.parents if p]
        for bend, parent in zip((0.35, -0.35) if len(parents) > len(set(parents)) else (0, 0), parents):
            ends = {f"shrink{end}": np.sqrt(ring[n] / np.pi) + 3 for end, n in zip("AB", (node, parent))}
            arrow = dict(arrowstyle="->", color="#7F7F7F", lw=1.8, connectionstyle=f"arc3,rad={bend}")
            axes.annotate("", xy=place[parent], xytext=place[node], arrowprops=arrow | ends)
        here, look = place[node], ("#5B8DB8", "o") if node.op else ("#E69F00", "s")
        axes.scatter(*here, s=area[node], color=look[0], marker=look[1], zorder=3)
        if ring[node] > area[node]:
            axes.scatter(*here, s=ring[node], facecolors="none", edgecolors="#5B8DB8", linestyles="--", zorder=3)
        words = f"{title(node)}\n{kept[node]:,} B" if node.op else title(node)
        axes.annotate(words, (here[0], here[1] - 0.68 if node.op else here[1] + 0.2), ha="center")
    axes.set(xlim=(-0.6, max(depth.values()) + 0.6), ylim=(-0.8, 1.5))
    axes.axis("off")

# %% [markdown]
r"""
## Backward

First by hand. Name the steps: $z = xW_1^\top$, $\text{hidden} = \tanh z$, $\text{error} = \text{hidden}\,W_2^\top - t$,
$\text{loss} = \text{mean}(\text{error}^2)$, with $\tanh' = 1 - \tanh^2$. **Fill the blank**: start at the loss, and
go back one step per line.
"""

# %% exercise tape_network
def tape_network(x, t, W1, W2):
    """x (M, I), t (M, O), W1 (H, I), W2 (O, H) -> dW1 (H, I), dW2 (O, H)."""
    ### BEGIN SOLUTION
    hidden = np.tanh(x @ W1.T)
    error = hidden @ W2.T - t
    derror = 2 * error / error.size  # mean of error²
    dW2 = derror.T @ hidden  # error = hidden W₂ᵀ - t
    dhidden = derror @ W2  # error = hidden W₂ᵀ - t
    dz = dhidden * (1 - hidden**2)  # hidden = tanh z
    return dz.T @ x, dW2  # z = x W₁ᵀ
    ### END SOLUTION

# %% check tape_network
check("tape_network", tape_network)

# %% [markdown]
r"""
The tape can do this for any network. Walk along it from its end: give each op the gradient of its output and its cache,
and pass the gradients that its backward returns to its parents. If two paths meet in a node, as the two of `error * error` do in the figure, add their gradients.

**Fill the blank.** A node has `op` (None for a leaf), `cache` and `parents`; `node.op.backward(dy, node.cache)` gives
one gradient for each parent. A parent is None if nothing behind it trains.
"""

# %% exercise tape_walk
def tape_walk(nodes, dy):
    """nodes of a tape, parents before children; dy of the last one -> {node: its gradient}."""
    ### BEGIN SOLUTION
    grads = {nodes[-1]: dy}
    for node in reversed(nodes):
        if node.op:
            given = node.op.backward(grads[node], node.cache)
            for parent, grad in zip(node.parents, given):
                if parent is not None and grad is not None:
                    grads[parent] = grads[parent] + grad if parent in grads else grad
    return grads
    ### END SOLUTION

# %% check tape_walk
check("tape_walk", tape_walk)

# %% [markdown]
r"""
A function that passes its check is saved in a file of your own, `my_minilora.py`, beside the notebooks. Later notebooks import
your function from there; if there is none, they use the package's and say so.
"""

# %%
course.keep("mul_backward", mul_backward)
course.keep("linear_backward", linear_backward)
course.keep("tape_network", tape_network)
course.keep("tape_walk", tape_walk)
by_hand, walk = course.mine("tape_network", "tape_walk")

# %% [markdown]
r"""
Compare three ways: by hand, by your walk, and by the package's `backward`, which also frees every cache after its use.
"""

# %%
dW1, dW2 = by_hand(x, t, W1.data, W2.data)
grads = walk(nodes, np.ones(()))
ml.backward(loss)
for leaf, right in ((W1, dW1), (W2, dW2)):
    assert np.allclose(grads[leaf.node], right) and np.allclose(leaf.grad, right)
assert all(node.cache is engine.FREED for node in nodes if node.op)
print("three ways, the same gradients")

# %% [markdown]
r"""
## What is frozen keeps no activation

Whether $x$ must be kept depends on what trains. The gradient $dW$ reads $x$; a frozen linear has no $dW$.
The only array in its cache is $W$, which $dx$ reads. This is not a copy but the weight itself, which exists anyway.

**Do it.** Call `ops.frozen_linear(h, W2.data)` and `ops.linear(h, W2)`, and print the shapes of `arrays_in(tensor.node.cache)` of both.
"""

# %% open tape_frozen
h = ml.param(rng.normal(size=(50, 16)))  # an input that trains
### BEGIN SOLUTION
frozen, trained = ops.frozen_linear(h, W2.data), ops.linear(h, W2)
for name, tensor in (("frozen", frozen), ("trained", trained)):
    names = [a.shape for a in arrays_in(tensor.node.cache)]
    print(f"{name:8} keeps {names}")
assert h.shape not in [a.shape for a in arrays_in(frozen.node.cache)]
### END SOLUTION

# %% [markdown]
r"""
If nothing before an op trains, the op makes no node: a completely frozen model makes no tape.
"""

# %%
assert ops.frozen_linear(h.data, W2.data).node is None

# %% [markdown]
r"""
## It learns

Now a hundred steps of gradient descent on the network above, with the gradients of your walk.

**Do it.** In each step make new leaves of $W_1$ and $W_2$ (`ml.param`), compute the loss with `network()`, run your walk (`engine.tape(loss)` has
the nodes, `W1.node` is the node of a leaf), and subtract 0.2 times the gradient. Keep the losses. They should fall by more than a fifth.
"""

# %% open tape_train
losses = []
### BEGIN SOLUTION
for _ in range(100):
    W1, W2 = ml.param(W1.data, "W₁"), ml.param(W2.data, "W₂")
    loss = network()
    grads = walk(engine.tape(loss), np.ones(()))
    losses.append(float(loss.data))
    W1, W2 = (ml.param(w.data - 0.2 * grads[w.node]) for w in (W1, W2))
print(f"{losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.8 * losses[0]
### END SOLUTION

# %% [markdown]
r"""
**Open.** Add an op that the tape does not have: a pair of your own, such as the sine, bound by
`ml.Op("sine", forward, backward)`. Backward returns a tuple, even for a single gradient: `(dx,)`. Check the pair with `check_pair`. Then replace `tanh` by it and train. Predict
first: what does its cache have to hold, and does the loss fall further?
"""

# %% open tape_sine
### BEGIN SOLUTION
def sine_forward(x):
    return np.sin(x), x

def sine_backward(dy, x):
    return (dy * np.cos(x),)

sine = ml.Op("sine", sine_forward, sine_backward, saves=("x",))
for _ in range(100):
    W1, W2 = ml.param(W1.data), ml.param(W2.data)
    error = ops.linear(sine(ops.linear(x, W1)), W2) - t
    loss = ops.mean(error * error)
    grads = walk(engine.tape(loss), np.ones(()))
    W1, W2 = (ml.param(w.data - 0.2 * grads[w.node]) for w in (W1, W2))
print(f"with sines {float(loss.data):.3f}")
check_pair(sine_forward, sine_backward, x)
### END SOLUTION

# %% [markdown]
r"""
## What changed

- An op is a pair of functions on arrays; it can be read, called and checked alone.
- The tape keeps nodes, never tensors, so the caches determine the memory of training.
- What trains determines what is kept. Everything about memory in this course follows from this sentence.

Next: 01b, how to check a gradient; then 02, a Llama made of such pairs.
"""
