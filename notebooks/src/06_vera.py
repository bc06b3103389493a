# %% [markdown]
r"""
# 06 · VeRA: one random pair for every layer

When you are done you can

- write VeRA's forward and both its gradients, and say on which side of $B$ each vector is,
- count what it trains, what it stores and what it keeps for backward, which are three numbers,
- say what a rank costs here, and why it may be larger than the layer.

*Needs*: notebook 04. *Time*: 35 minutes to read, 75 to do.
*Paper*: Kopiczko et al. 2023, [arXiv:2310.11454](https://arxiv.org/abs/2310.11454), equation 2 and section 3.3.
*Symbols*: the table in notebook 03. *The one idea*: random directions need not be stored; train only the weight of
each.
"""

# %%
import numpy as np

import minilora as ml
from minilora.check import check_pair
from minilora.lab import rates
from minilora.lab.statistics import by_exact_match, chosen, estimate
from minilora.methods import lora, vera
from minilora_course import check, course

# %% [markdown]
r"""
## Two vectors

VeRA draws one pair $A$ (r, I), $B$ (O, r) for all layers and freezes both. A layer trains two vectors,
$d$ with $r$ numbers and $b$ with $O$:

$$y = xW^\top + b\odot\big((d\odot u)\,B^\top\big),\qquad u = xA^\top .$$

In the paper's notation the adapted weight is $W + \Lambda_b B \Lambda_d A$, with $\Lambda$ a diagonal matrix. The letter $d$ has two meanings: alone
it is VeRA's vector. In front of a name it means $\partial\,\text{loss}/\partial$, so $dd$ is the gradient of $d$, and
$db$ is the gradient of $b$.

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
**Fill the blank**: forward. The shapes say where each vector belongs.
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
**Break it.** A common slip: $b$ scales the $r$ numbers before $B$. This code runs only if $r = O$.
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

**Fill the blank** before you read on. The function gets $u$. It does not get $x$, and does not need it.
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

All $M$ rows use the same vector, so its gradient sums over them. **Fill the blank**: a pair of your two functions. Its cache
holds $u$, and not $x$.
"""

# %% exercise vera_pair
def my_vera_forward(x, W, A, B, b, d):
    """-> y (M, O), and what your backward reads."""
    ### BEGIN SOLUTION
    u = x @ A.T
    return x @ W.T + b * ((d * u) @ B.T), (u, W, A, B, b, d)
    ### END SOLUTION

def my_vera_backward(dy, cache):
    """-> dx, None, None, None, db, dd: a gradient or None for each argument of forward."""
    ### BEGIN SOLUTION
    dx, db, dd = vera_backward(dy, *cache)
    return dx, None, None, None, db, dd
    ### END SOLUTION

# %% check vera_pair
check("vera_pair", (my_vera_forward, my_vera_backward))

# %%
course.keep("vera_forward", vera_forward)
course.keep("vera_backward", vera_backward)
course.keep("vera_pair", my_vera_forward, my_vera_backward)
forward, backward = course.mine("vera_pair")
M, I, O, r = 6, 8, 5, 12
rng = np.random.default_rng(0)
sizes = dict(x=(M, I), W=(O, I), A=(r, I), B=(O, r), b=O, d=r, dy=(M, O))
x, W, A, B, b, d, dy = (rng.normal(size=n) for n in sizes.values())
y, cache = forward(x, W, A, B, b, d)
dx, _, _, _, db, dd, *_ = backward(dy, cache)

# %% [markdown]
r"""
### Without v: the G-form

The lines above read $v$ (M, O). The package keeps only $u$, because both gradients depend on the rows only through
$G = dy^\top u$ (O, r), $G_{ok} = \sum_m dy_{mo}\,u_{mk}$. The proof puts $v_{mo} = \sum_k d_k\,u_{mk} B_{ok}$ into $db$, and
$dz_{mk} = \sum_o dy_{mo}\,b_o B_{ok}$ into $dd$, and does the sum over $m$ first:

$$db_o = \sum_m dy_{mo} \sum_k d_k u_{mk} B_{ok} = \sum_k B_{ok}\,d_k \sum_m dy_{mo} u_{mk} = \sum_k (G\odot B)_{ok}\,d_k ,$$

$$dd_k = \sum_m u_{mk} \sum_o dy_{mo} b_o B_{ok} = \sum_o b_o B_{ok} \sum_m dy_{mo} u_{mk} = \sum_o b_o\,(G\odot B)_{ok} .$$

So $db = (G\odot B)\,d$ and $dd = b\,(G\odot B)$. The cell below checks this on numbers, and then with the package, the engine and finite differences:
"""

# %%
G = dy.T @ (x @ A.T)
assert np.allclose((G * B) @ d, db) and np.allclose(b @ (G * B), dd)
out, cache = vera.vera_forward(x, W, A, B, b, d)
grads = vera.vera_backward(dy, cache)
assert np.allclose(out, y)
assert all(np.allclose(g, w) for g, w in zip([grads[0], *grads[4:6]], [dx, db, dd]))

tx, tb, td = (ml.param(a) for a in (x, b, d))
ml.backward(tx @ W.T + ((tx @ A.T) * td) @ B.T * tb, dy)
assert all(np.allclose(t.grad, g) for t, g in zip([tx, tb, td], [dx, db, dd]))
frozen = ("W", "A", "B")
check_pair(forward, backward, x, W, A, B, b, d, frozen=frozen)

# %% [markdown]
r"""
## At the start

$b = 0$, so a fresh adapter changes nothing; $d = 0.1$ everywhere. As in LoRA one of the two gradients
is exactly zero at the first step.

**Do it.** Predict which one, then call the package's pair with $b = 0$ and $d = 0.1$. As in the cell above, entry 4 of what
`vera.vera_backward` returns is $db$, and entry 5 is $dd$.
"""

# %% open vera_start
### BEGIN SOLUTION
start = vera.vera_backward(dy, vera.vera_forward(x, W, A, B, 0 * b, np.full(r, 0.1))[1])
assert not start[5].any() and start[4].any()
print("dd is 0 and db is not: b moves first")
### END SOLUTION

# %% [markdown]
r"""
## Three numbers

The trained numbers, the stored numbers and the numbers kept for backward are easily confused.

**Do it.** Call `ml.ledger(model, 32, 25, method=…, rank=…)` for LoRA at rank 4 and VeRA at rank 256, and print its `trainable`, `shared` and
`activations`. Predict first for each of the three: which technique has more?
"""

# %% open vera_ledger
model, words = ml.load_model("base"), ml.load_task("past")
### BEGIN SOLUTION
found = {name: ml.ledger(model, 32, 25, method=name, rank=rank)
         for name, rank in (("lora", 4), ("vera", 256))}
for name, row in found.items():
    print(f"{ml.METHODS[name].title:5} trains {row.trainable:7,} bytes, stores a shared "
          f"{row.shared:7,}, keeps {row.activations:10,} for backward")
assert found["vera"].trainable < found["lora"].trainable
assert found["vera"].activations > found["lora"].activations
### END SOLUTION

# %% [markdown]
r"""
VeRA saves *parameters*. One line of its forward shows why it keeps more than LoRA, and computes more;
`minilora step --method vera` draws the whole step.
"""

# %%
verb = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
caption = (
    "What q_proj of the first layer keeps, u, and the x that LoRA would keep (xa, as no dropout is on), for the same 12 tokens. "
    "At rank 256 the rows of u are wider than those of x. On the right stands A, turned: the same in every layer."
)
course.show(ml.trace(ml.attach(model, "vera", rank=256), *verb).figure("one pair serves all layers"), caption)

# %% [markdown]
r"""
The shared pair need not be stored: a seed draws it again.

## Parameters against rank

The committed record of `studies/cost.py`: the same 300 verbs and 150 steps for each rank. Each rank has its own learning
rate, chosen by 600 validation words and five seeds; for VeRA a seed draws $A$ and $B$, too.
"""

# %%
runs = {name: course.records("cost", kind="learn", method=name, targets="q v") for name in ("lora", "vera")}
best = {name: chosen(all_rates, by_exact_match) for name, all_rates in runs.items()}
rows = []
for name, groups in best.items():
    for group in groups:
        cell, score = group[0]["cell"], estimate(run["result"]["test"]["exact_match"] for run in group)
        rows.append((name, group[0]["result"]["trainable"], score))
        print(f"{ml.METHODS[name].title:5} rank {cell['rank']:3}, rate {cell['lr']:g}: "
              f"{rows[-1][1]:7,} numbers, {score:.3f} exact ({score.n} seeds)")

# %% figure
shapes = [model.config.linears()[name] for name in ml.attach(model, "vera").layers]

def draw(top=1024):
    """Trainable numbers against rank; beside it what was learned with so many."""
    ranks = [2**k for k in range(top.bit_length())]
    with course.figure(caption, height=4, width=8, columns=2) as (left, right):
        for name, count in (("lora", lora.count), ("vera", vera.count)):
            numbers = [sum(count(I, O, r) for O, I in shapes) for r in ranks]
            left.plot(ranks, numbers, **course.look(name) | {"ms": 6})
            counts, scores = zip(*[(n, score) for method, n, score in rows if method == name])
            means, margins = [s.mean for s in scores], [s.margin for s in scores]
            right.errorbar(counts, means, margins, capsize=4, **course.look(name))
        left.set(xscale="log", yscale="log", xlabel="rank", ylabel="trainable numbers")
        right.set(xscale="log", xlabel="trainable numbers", ylim=(0.6, 0.9))
        right.set_ylabel("share answered exactly")
        right.set_xticks([1_000, 10_000, 100_000], ["1,000", "10,000", "100,000"])
        left.legend(loc="upper left")

caption = (
    "Left: LoRA's count is proportional to the rank, VeRA's is a constant plus the rank. Right: what was "
    "learned with so many numbers, each rank at its own rate; bars: 95 % interval of the mean of five seeds."
)
draw()
course.explore(draw, top=[1024, 64, 4096])

# %% [markdown]
r"""
### One rate for all ranks is unfair

At one fixed rate a larger rank can look no better, or even worse. Adam moves each $d_k$ by up to the rate $\eta$ in a step. That moves
$v_o = \sum_k B_{ok}\,d_k\,u_k$ by up to $\eta\sum_k |B_{ok} u_k|$: a sum of $r$ terms, whose $B_{ok}$ are drawn with a size of order $1/\sqrt r$.
So the sum grows as $\sqrt r$. By this argument a larger rank needs a smaller rate: 4 times smaller at 256 than at 16.
*Held equal*: the verbs, 150 steps, the schedule, the rates tried, which are a factor of 2 apart. *What would change the verdict*: more seeds whose own best
rates do not fall from rank 16 to 64 to 256; or seeds on a finer grid whose best rates do fall. The validation scores of the rates tried:
"""

# %%
tried = {}  # rank -> rate -> validation scores of the two seeds that chose
for run in runs["vera"]:
    cell, score = run["cell"], run["result"]["validation"]["exact_match"]
    if cell["seed"] < 2:
        tried.setdefault(cell["rank"], {}).setdefault(cell["lr"], []).append(score)
tried = {rank: dict(sorted(at.items())) for rank, at in sorted(tried.items())}
means = {rank: {lr: np.mean(scores) for lr, scores in at.items()} for rank, at in tried.items()}
shared = max(set.intersection(*map(set, means.values())))
own = {rank: [max(at, key=lambda lr: at[lr][seed]) for seed in (0, 1)] for rank, at in tried.items()}
for rank, at in means.items():
    print(f"rank {rank:3}: {at[shared]:.2f} at {shared:g}, which all tried; {max(at.values()):.2f} at its own rate. "
          f"Each seed alone would choose {own[rank][0]:g}, {own[rank][1]:g}")  # fmt: skip
falls = all(max(own[high]) < min(own[low]) for low, high in ((16, 64), (64, 256)))
print("the rate falls with the rank in both seeds, from 16 to 64 to 256:", falls)
assert not falls and max(own[256]) < min(own[64])  # what the text below says
caption = (
    "VeRA's validation score against the rate, for each rank: the points are the two seeds that chose; the ranks stand side by side at each rate. "
    f"At {shared:g} for all, rank 256 differs from rank 64 by {means[256][shared] - means[64][shared]:+.2f}; each at "
    f"its own rate by {max(means[256].values()) - max(means[64].values()):+.2f}."
)
with course.figure(caption, width=7, height=3.8) as axes:
    looks = zip(means, ("#56B4E9", "#009E73", "#222222"), "vDs", (0.94, 1, 1.06))
    for rank, colour, marker, aside in looks:
        points = [(lr * aside, score) for lr, scores in tried[rank].items() for score in scores]
        axes.plot(*zip(*points), marker, color=colour, mfc="none", mew=2, label=f"rank {rank}")
        axes.plot([lr * aside for lr in means[rank]], means[rank].values(), color=colour, lw=1.5)
    axes.set(xscale="log", xlabel="learning rate", ylabel="exact match, validation words", ylim=(-0.04, 1))
    rates_tried = sorted({lr for at in tried.values() for lr in at})
    axes.set_xticks(rates_tried, [f"{lr:g}" for lr in rates_tried])
    axes.legend(loc="lower left")

# %% [markdown]
r"""
So the result is: one rate for all ranks is unfair. How does the best rate change with the rank? **Cannot tell**: both seeds give rank 256 the
next lower rate than rank 64; between 16 and 64 they do not agree, and these runs neither show nor rule out a law like $1/\sqrt r$.

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
Layers of different shapes share one pair: $A$ and $B$ are as large as the largest layer needs, and each
layer uses a slice. Their bits come from a key, so a file without them still loads the same model. Your pair gets such slices, and
trains the model beside the package's. Then follow counts, memory and convergence **beside LoRA**. *Held equal*: `q_proj` and `v_proj`, the 300 verbs, the batches
of each seed, 100 steps; rank and rate of each are those that 150 steps on validation words chose. *What would change the verdict*: curves whose bands no longer
overlap at the end, or do, with rates chosen anew for these 100 steps.
"""

# %%
tuned = ml.attach(model, "vera", rank=64, projection_prng_key=3)
again = ml.attach(model, "vera", rank=64, projection_prng_key=3)
assert all(np.array_equal(tuned.shared[n], again.shared[n]) for n in "AB")
for name, arrays in list(tuned.layers.items())[:2]:
    assert np.shares_memory(arrays["A"], tuned.shared["A"])
    print(f"{name}: A {arrays['A'].shape}, B {arrays['B'].shape}, slices of one pair")

batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=4)
both = [ml.train(ml.attach(model, t, rank=64), batches, steps=20, lr=0.1).losses
        for t in (course.technique("vera"), "vera")]  # fmt: skip
assert np.allclose(*both, rtol=1e-3)
print("20 steps with your pair and with the package's: the same losses, to 1e-3")

# %%
best_rates = rates.chosen_for("past", rates.read())
of_seeds = [ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=11, seed=seed) for seed in range(3)]
compared = {}
for name, rank in (("lora", 4), ("vera", 256)):
    three = [ml.attach(model, name, rank=rank, seed=seed) for seed in range(3)]
    losses = [ml.train(t, b, steps=100, lr=best_rates[name]["lr"], schedule="linear", warmup=10).losses
              for t, b in zip(three, of_seeds)]  # fmt: skip
    compared[f"{ml.METHODS[name].title}, rank {rank}"] = three[0], losses
caption = (
    "VeRA beside LoRA: fewer numbers train, and a step on 32 texts of 25 tokens holds more bytes, for u is wide at rank 256. Right: the mean loss "
    "of each ten steps, three seeds (shaded: from the least to the most), each technique at its own rate."
)
course.beside(compared, 32, 25, caption)

# %% [markdown]
r"""
**Open.** Predict, run, explain; there is no single answer. Which of the two vectors matters more? Start $d$
at another value (`ml.attach(…, d_initial=…)`), or hold one of them fixed: `dataclasses.replace(ml.METHODS["vera"], lr_scale=lambda options: {"d": 0.0})`
is a technique whose $d$ learns at 0 times the rate, and `attach` takes it (`import dataclasses` first). Compare the losses of a few dozen steps. The
paper's table 6 has such rows. Why might your order differ from the paper's?
"""

# %% open vera_own
lost = {}  # d_initial -> mean loss of the last ten of 30 steps
### BEGIN SOLUTION
for start in (1e-7, 0.1, 1.0):
    tuned = ml.attach(model, "vera", rank=64, d_initial=start)
    history = ml.train(tuned, batches, steps=30, lr=0.2, schedule="linear", warmup=3)
    lost[start] = round(float(np.mean(history.losses[-10:])), 2)
print(lost)
### END SOLUTION

# %% [markdown]
r"""
## What changed, and what did not

- A layer costs $O + r$ numbers on disk, and as many in gradients and in each moment.
- $u$ is kept and the products with $A$ and $B$ are computed at a large rank: bytes and time go up.
- Its training loss at the end is lower than that of LoRA of rank 4, and the seeds' bands are apart. On held-out words the table by rank shows
  no such lead: a lower training loss does not mean better answers.
- Its best learning rate is far larger than LoRA's. Each rank needs its own rate. Two seeds on a
  grid of factors of 2 cannot tell whether the best rate falls with the rank.
- This was one task, one model and 150 steps: it does not show what a rank is worth elsewhere.

Next: 07, Delta-LoRA, where $W$ moves too.
"""
