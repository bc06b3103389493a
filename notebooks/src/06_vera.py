# %% [markdown]
r"""
# 06 · VeRA: one random pair for every layer

When you are done you can

- write VeRA's forward and both its gradients, and say on which side of $B$ each vector stands,
- count what it trains, what it stores and what it keeps for backward, which are three numbers,
- say what a rank costs here, and why it may be larger than the layer.

*Needs*: notebook 04. *Time*: 20 minutes to read, 25 to do.
*Paper*: Kopiczko et al. 2023, [arXiv:2310.11454](https://arxiv.org/abs/2310.11454), equation 2 and
section 3.3. *The one idea*: random directions are free; train only how much of each is wanted.
"""

# %%
import numpy as np

import minilora as ml
from minilora.check import check, check_pair, course
from minilora.methods import lora, vera

# %% [markdown]
r"""
## Two vectors

VeRA draws one pair $A$ (r, I), $B$ (O, r) for all layers and freezes both. A layer trains two vectors,
$d$ with $r$ numbers and $b$ with $O$:

$$y = xW^\top + b\odot\big((d\odot u)\,B^\top\big),\qquad u = xA^\top .$$

In the paper's column form that is $W + \Lambda_b B \Lambda_d A$, with $\Lambda$ a diagonal matrix.

**Predict.** How many numbers does rank 256 train on a linear of 64 inputs and 128 outputs?
"""

# %% exercise vera_count
trainable = None  # your number
### BEGIN SOLUTION
trainable = 128 + 256
### END SOLUTION

# %% check vera_count
check("vera_count", trainable)

# %% [markdown]
r"""
**Fill the blank**: forward. The shapes say where each vector stands.
"""

# %% exercise vera_forward
def vera_forward(x, W, A, B, b, d):
    """x (M, I), W (O, I), A (r, I), B (O, r), b (O,), d (r,) -> y (M, O)."""
    ### BEGIN SOLUTION
    return x @ W.T + b * ((d * (x @ A.T)) @ B.T)
    ### END SOLUTION

# %% check vera_forward
check("vera_forward", vera_forward)

# %% [markdown]
r"""
**Break it.** The known slip: $b$ scales the $r$ numbers before $B$. It runs only where $r = O$.
"""

# %% exercise vera_break
def broken(x, W, A, B, b, d):
    """The same arguments, b on the wrong side."""
    ### BEGIN SOLUTION
    return x @ W.T + (b * d * (x @ A.T)) @ B.T
    ### END SOLUTION

# %% check vera_break
check("vera_break", broken)

# %% [markdown]
r"""
## Backward

**Fill the blank** before you read on. $u$ is handed to you; $x$ is not, and is not needed.
"""

# %% exercise vera_backward
def vera_backward(dy, u, W, A, B, b, d):
    """dy (M, O), u (M, r) -> dx (M, I), db (O,), dd (r,)."""
    ### BEGIN SOLUTION
    dz = (dy * b) @ B
    return dy @ W + (dz * d) @ A, (dy * ((d * u) @ B.T)).sum(0), (dz * u).sum(0)
    ### END SOLUTION

# %% check vera_backward
check("vera_backward", vera_backward)

# %% [markdown]
r"""
### The derivation

Name every step: $z = d\odot u$, $v = zB^\top$, $y = xW^\top + b\odot v$. Back from the end:

$$db = \textstyle\sum_m dy\odot v,\qquad dv = dy\odot b,\qquad dz = dv\,B,\qquad
dd = \sum_m dz\odot u,\qquad dx = dy\,W + (dz\odot d)\,A .$$

One vector serves all $M$ rows, so its gradient sums over them.
"""

# %%
M, I, O, r = 6, 8, 5, 12
rng = np.random.default_rng(0)
sizes = dict(x=(M, I), W=(O, I), A=(r, I), B=(O, r), b=O, d=r, dy=(M, O))
x, W, A, B, b, d, dy = (rng.normal(size=n) for n in sizes.values())

u = x @ A.T
z, v = d * u, (d * u) @ B.T
db = (dy * v).sum(0)  # y has b v
dz = (dy * b) @ B  # v = z Bᵀ
dd, dx = (dz * u).sum(0), dy @ W + (dz * d) @ A  # z = d u, u = x Aᵀ

# %% [markdown]
r"""
The package keeps $u$ alone, neither $x$ nor $v$: with $G = dy^\top u$ (O, r), $db = (G\odot B)\,d$ and
$dd = b\,(G\odot B)$. The engine and finite differences agree as well.
"""

# %%
out, cache = vera.vera_forward(x, W, A, B, b, d)
grads = vera.vera_backward(dy, cache)
assert np.allclose(out, x @ W.T + b * v)
assert all(np.allclose(g, w) for g, w in zip([grads[0], *grads[4:6]], [dx, db, dd]))

tx, tb, td = (ml.param(a) for a in (x, b, d))
ml.backward(tx @ W.T + ((tx @ A.T) * td) @ B.T * tb, dy)
assert all(np.allclose(t.grad, g) for t, g in zip([tx, tb, td], [dx, db, dd]))
frozen = ("W", "A", "B")
check_pair(vera.vera_forward, vera.vera_backward, x, W, A, B, b, d, frozen=frozen)

# %% [markdown]
r"""
## At the start

$b = 0$, so a fresh adapter changes nothing; $d = 0.1$ everywhere. As in LoRA one of the two gradients
is exactly zero at the first step.
"""

# %%
start = vera.vera_backward(dy, vera.vera_forward(x, W, A, B, 0 * b, np.full(r, 0.1))[1])
assert not start[5].any() and start[4].any()
print("dd is 0 and db is not: b moves first")

# %% [markdown]
r"""
## Three numbers

Trained, stored, kept for backward: they are easily confused.
"""

# %%
model, words = ml.load_model("base"), ml.load_task("past")
found = {name: ml.ledger(model, 32, 25, method=name, rank=rank)
         for name, rank in (("lora", 4), ("vera", 256))}
for name, row in found.items():
    print(f"{ml.METHODS[name].title:5} trains {row.trainable:7,} bytes, stores a shared "
          f"{row.shared:7,}, keeps {row.activations:10,} for backward")
assert found["vera"].trainable < found["lora"].trainable
assert found["vera"].activations > found["lora"].activations

# %% [markdown]
r"""
VeRA saves *parameters*. At rank 256 the rows of $u$ are wider than the layer itself, so it keeps more
than LoRA does, and computes more. The shared pair need not be stored: a seed draws it again.

## Parameters against rank

The same task for LoRA and VeRA at several ranks: 60 steps each, the learning rates those chosen on
validation words at rank 4 and rank 256.
"""

# %%
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=7)
settings = {"lora": ([1, 4, 16], 0.02), "vera": ([16, 64, 256], 0.2)}
rows = []
for name, (ranks, lr) in settings.items():
    for rank in ranks:
        tuned = ml.attach(model, name, rank=rank)
        ml.train(tuned, batches, steps=60, lr=lr, schedule="linear", warmup=6)
        count = sum(a.size for a in tuned.trainable.values())
        rows.append((name, rank, count, ml.exact_match(tuned, words.test[:200])))
        print(f"{ml.METHODS[name].title:5} rank {rank:3}: {count:6,} numbers, {rows[-1][3]:.2f} exact")

# %% figure
shapes = [model.config.linears()[name] for name in ml.attach(model, "vera").layers]

def draw(top=1024):
    """Trainable numbers against rank; beside it what was learned with so many."""
    ranks = [2**k for k in range(top.bit_length())]
    with course.figure(caption, height=4.4, width=10, columns=2) as (left, right):
        for name, count in (("lora", lora.count), ("vera", vera.count)):
            numbers = [sum(count(I, O, r) for O, I in shapes) for r in ranks]
            left.plot(ranks, numbers, **course.look(name))
            done = [(n, score) for method, _, n, score in rows if method == name]
            right.plot(*zip(*done), **course.look(name))
        left.set(xscale="log", yscale="log", xlabel="rank", ylabel="trainable numbers")
        right.set(xscale="log", xlabel="trainable numbers", ylim=(0, 1))
        right.set_ylabel("share answered exactly")
        left.legend(loc="upper left")

caption = (
    "Left: LoRA's count is proportional to the rank, VeRA's a constant and the rank. Right: what "
    "was learned with so many numbers, in 60 steps, on 200 held-out verbs."
)
draw()

# %%
course.explore(draw, top=[1024, 64, 4096])

# %% [markdown]
r"""
## Merge

**Fill the blank.** $\Lambda_b$ scales rows of $B$, $\Lambda_d$ its columns.
"""

# %% exercise vera_merge
def vera_merge(W, A, B, b, d):
    """-> W' (O, I)."""
    ### BEGIN SOLUTION
    return W + (b[:, None] * B * d) @ A
    ### END SOLUTION

# %% check vera_merge
check("vera_merge", vera_merge)

# %% [markdown]
r"""
Layers of different shapes share one pair: $A$ and $B$ are as large as the largest layer wants, and each
layer takes a slice. Their bits come from a key, so a file without them loads as it was saved.
"""

# %%
tuned = ml.attach(model, "vera", rank=64, projection_prng_key=3)
again = ml.attach(model, "vera", rank=64, projection_prng_key=3)
assert all(np.array_equal(tuned.shared[n], again.shared[n]) for n in "AB")
for name, arrays in list(tuned.layers.items())[:2]:
    assert np.shares_memory(arrays["A"], tuned.shared["A"])
    print(f"{name}: A {arrays['A'].shape}, B {arrays['B'].shape}, slices of one pair")

# %% [markdown]
r"""
## What changed, and what did not

- A layer costs $O + r$ numbers on disk and in the optimizer.
- $u$ is kept and the products with $A$ and $B$ are computed at a large rank: bytes and time go up.
- The learning rate that suits it is far larger than LoRA's: here ten times.

Next: 07, Delta-LoRA, where $W$ moves after all.
"""
