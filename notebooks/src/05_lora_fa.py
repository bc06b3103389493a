# %% [markdown]
r"""
# 05 · LoRA-FA: pay for activations, not parameters

When you are done you can

- write a backward pass that does not need its input $x$,
- say which bytes LoRA-FA saves, which it does not, and when the saving is lost,
- name the disadvantage: the directions that a frozen $A$ cannot reach.

*Needs*: notebook 04, and from 03 what a rank is. *Time*: 25 minutes to read, 80 to do.
*Paper*: Zhang et al. 2023, [arXiv:2308.03303](https://arxiv.org/abs/2308.03303), section 3. *Symbols*: the table in
notebook 03. *The one idea*: a frozen array needs no gradient, so what this gradient would read need not be kept.
"""

# %%
import numpy as np

import minilora as ml
from minilora import ops
from minilora.check import check_pair
from minilora.lab import rates
from minilora.lab.statistics import by_exact_match, chosen, estimate
from minilora.methods import lora_fa
from minilora_course import check, course

# %% [markdown]
r"""
## Which gradient reads x?

LoRA's backward has four lines. With $z = xA^\top$:

$$dB = s\,dy^\top z,\qquad dz = s\,dy\,B,\qquad dA = dz^\top x,\qquad dx = dy\,W + dz\,A .$$

One of them reads $x$: the line of $dA$. If $A$ is frozen as it was drawn, this line is not needed. Then $x$, with its $M$ rows of $I$ numbers, need
not be kept for backward, only $z$, with $r$ numbers per row. The forward pass is LoRA's.

**Predict.** A batch of 32 texts of 25 tokens, one row of $x$ for each token; 128 inputs, rank 4. How many numbers does one
linear keep for backward, without $W$, $A$ and $B$?
"""

# %% exercise lora_fa_kept
kept = None  # your number
### BEGIN SOLUTION
kept = 32 * 25 * 4
### END SOLUTION

# %% check lora_fa_kept
check("lora_fa_kept", kept)

# %% [markdown]
r"""
**Fill the blank.** The function gets `z`, but not `x`. Where LoRA returns `dA`, return `None`.
"""

# %% exercise lora_fa_backward
def lora_fa_backward(dy, z, W, s, A, B):
    """dy (M, O), z (M, r) -> dx (M, I), None, dB (O, r)."""
    ### BEGIN SOLUTION
    return dy @ W + s * (dy @ B) @ A, None, s * dy.T @ z
    ### END SOLUTION

# %% check lora_fa_backward
check("lora_fa_backward", lora_fa_backward)

# %% [markdown]
r"""
## A pair

Forward computes $z$ for $y$ anyway. **Fill the blank**: a pair whose cache holds what backward reads, and not $x$. The check
looks into the cache. The gradient of the frozen $A$ is None, but gradient still flows through $A$ to $x$.
"""

# %% exercise lora_fa_pair
def my_fa_forward(x, W, s, A, B):
    """-> y (M, O), and what your backward reads."""
    ### BEGIN SOLUTION
    z = x @ A.T
    return x @ W.T + s * z @ B.T, (z, W, s, A, B)
    ### END SOLUTION

def my_fa_backward(dy, cache):
    """-> dx, None, None, None, dB: a gradient or None for each argument of forward."""
    ### BEGIN SOLUTION
    dx, _, dB = lora_fa_backward(dy, *cache)
    return dx, None, None, None, dB
    ### END SOLUTION

# %% check lora_fa_pair
check("lora_fa_pair", (my_fa_forward, my_fa_backward))

# %% [markdown]
r"""
Your pair, the package's, the engine in elementary operations, and finite differences agree. The figure shows the last line of the package's
forward, on a model; `minilora step --method lora_fa` draws the whole step.
"""

# %%
course.keep("lora_fa_backward", lora_fa_backward)
course.keep("lora_fa_pair", my_fa_forward, my_fa_backward)
forward, backward = course.mine("lora_fa_pair")
M, I, O, r, s = 6, 16, 10, 4, 2.0
rng = np.random.default_rng(0)
x, W, dy = (rng.normal(size=n) for n in [(M, I), (O, I), (M, O)])
A, B = rng.normal(size=(r, I)), rng.normal(size=(O, r))
dx, _, _, dA, dB, *_ = backward(dy, forward(x, W, s, A, B)[1])
theirs = lora_fa.lora_fa_backward(dy, lora_fa.lora_fa_forward(x, W, s, A, B)[1])
assert np.allclose(theirs[0], dx) and np.allclose(theirs[4], dB) and dA is None
tx, tB = ml.param(x), ml.param(B)
ml.backward(tx @ W.T + (tx @ A.T) @ ops.transpose(tB) * s, dy)
assert np.allclose(tx.grad, dx) and np.allclose(tB.grad, dB)
print(check_pair(forward, backward, x, W, s, A, B, frozen=("W", "A")))

model, words = ml.load_model("base"), ml.load_task("past")
verb = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
caption = (
    "What q_proj of the first layer returns: y, and in the brackets its cache. W, A and B are there anyway. All that is kept of "
    "the 12 rows of x, with their 128 columns, is z, with 4. B is 0 at the start (hatched); xd is for dropout."
)
course.show(ml.trace(ml.attach(model, "lora_fa", rank=4), *verb).figure("LoRA-FA keeps z, not x"), caption)

# %% [markdown]
r"""
**Break it.** A common slip: because $A$ is frozen, its path is forgotten in $dx$. Write this slip.
"""

# %% exercise lora_fa_break
def broken(dy, z, W, s, A, B):
    """The same arguments, one slip in dx."""
    ### BEGIN SOLUTION
    return dy @ W, None, s * dy.T @ z
    ### END SOLUTION

# %% check lora_fa_break
check("lora_fa_break", broken)

# %% [markdown]
r"""
## Frozen means frozen

The optimizer must leave $A$ alone: no gradient, no **moments** (the two numbers that AdamW keeps for each trained
number), and no weight decay. **Fill the blank**: a step of plain gradient descent. It gets a `dA` that it must not use.
"""

# %% exercise lora_fa_step
def lora_fa_step(A, B, dA, dB, lr):
    """-> A, B after the step."""
    ### BEGIN SOLUTION
    return A, B - lr * dB
    ### END SOLUTION

# %% check lora_fa_step
check("lora_fa_step", lora_fa_step)

# %% [markdown]
r"""
## Memory against length

Is $x$ *really* not kept? "Other operations may still keep it" is a fair objection. The ledger walks along the
tape and counts every array in memory once, even if several ops hold it. Adapters are on all linears of the embedded model.

**Fill the blank** first: a ledger of your own. In a layer $q$, $k$ and $v$ read one $x$, gate and up another, down a third
(attention keeps what `o_proj` reads). Each different $x$ is kept once, and each linear keeps its own $z$.
"""

# %% exercise lora_fa_ledger
def lora_fa_ledger(inputs, linears, M, r):
    """inputs: a list of widths, one for each x that is kept; equal widths are different x;
    linears: how many are adapted; M rows; r rank
    -> bytes of x (which LoRA keeps), bytes of z, in float32."""
    ### BEGIN SOLUTION
    bytes_of_x = sum(4 * M * width for width in inputs)
    bytes_of_z = linears * 4 * M * r
    return bytes_of_x, bytes_of_z
    ### END SOLUTION

# %% check lora_fa_ledger
check("lora_fa_ledger", lora_fa_ledger)

# %%
lengths, targets = [1, 8, 16, 24, 32], "all-linear"

def kept_bytes(method, length, rank=4, batch=32):
    """MiB kept for backward: (x of the adapters, z of the adapters, all else)."""
    found = ml.ledger(model, batch, length, method=method, rank=rank, targets=targets).saved
    sizes = {"x": 0, "z": 0}
    for array in found:
        if array.op == method:
            sizes[array.what] += array.nbytes
    return [n / 2**20 for n in (sizes["x"], sizes["z"], sum(a.nbytes for a in found))]

# %% figure
def draw(rank=4, batch=32):
    """The figure: what LoRA keeps against what LoRA-FA keeps."""
    with course.figure(caption, width=8, height=4.6, columns=2, sharey=True) as panels:
        for axes, method in zip(panels, ("lora", "lora_fa")):
            x, z, whole = np.transpose([kept_bytes(method, n, rank, batch) for n in lengths])
            parts, colours = [whole - x - z, z, x], ["#C9CED6", "#D55E00", "#5B8DB8"]
            labels = ["all else", "z = x Aᵀ of the adapters", "x of the adapters"]
            axes.stackplot(lengths, parts, colors=colours, labels=labels)
            axes.set(title=ml.METHODS[method].title, xlabel="tokens of a row", ylim=(0, None))
        panels[0].set_ylabel("MiB kept for backward")
        legend = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(*legend, loc="outside lower center", ncols=3, fontsize=12)

caption = "LoRA keeps x for dA (blue). LoRA-FA keeps z alone (the thin orange band); the rest stays."
draw()

# %%
course.explore(draw, rank=[4, 1, 16, 64], batch=[32, 8])

# %%
(x_lora, z_lora, lora), (x_fa, z_fa, fa) = (kept_bytes(m, 32) for m in ("lora", "lora_fa"))
assert x_fa == 0 and z_fa == z_lora and np.isclose(lora - fa, x_lora)
course.keep("lora_fa_ledger", lora_fa_ledger)
c = model.config
inputs = [c.hidden_size, c.hidden_size, c.intermediate_size] * c.num_hidden_layers
yours = course.mine("lora_fa_ledger")(inputs, len(c.linears()), 32 * 32, 4)
assert np.allclose(np.divide(yours, 2**20), (x_lora, z_lora))
print(f"x {yours[0]:,} bytes, z {yours[1]:,}: your ledger and the package's agree to the byte")
print(f"LoRA {lora:.2f} MiB, LoRA-FA {fa:.2f} MiB: {1 - fa / lora:.0%} less, and all of it is x")
tuned = ml.attach(model, "lora_fa", rank=4, targets=targets)
assert ml.measure(tuned, 32, 32)["activations"] == ml.ledger(tuned, 32, 32)["activations"]
print("measured in this process: the same bytes")

# %% [markdown]
r"""
The grey part is what the Llama keeps without any adapter: attention, norms and the product of the
feed-forward. LoRA-FA has two limits.
"""

# %%
for targets in ("all-linear", ("q_proj", "v_proj")):
    _, _, lora = kept_bytes("lora", 32)
    _, _, fa = kept_bytes("lora_fa", 32)
    print(f"adapters on {targets}: LoRA-FA keeps {1 - fa / lora:.0%} less")
saved = ml.ledger(model, 32, 32, method="lora", rank=4, targets="all-linear").saved
(keeper,) = {array.op for array in saved if "o_proj (lora)" in str(array.shared_with)}
print("LoRA's x of o_proj is kept by another op as well:", keeper)
assert keeper == "attention"

# %% [markdown]
r"""
With adapters on two linears per layer, $x$ is a small part of what is kept, so little is saved. On `o_proj`
nothing is saved: attention keeps that array for its own backward. And if
another op keeps $x$, or a dropout mask of its size, the saving is lost:
`python -m studies.memory what-if`, in the repository, counts these cases.

## What is lost

$\Delta W = s\,BA$ with $A$ fixed: every row of $\Delta W$ is always a linear combination of the same $r$ rows of $A$.
"""

# %%
of_seeds = [ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=11, seed=seed) for seed in range(3)]
best_rates = rates.chosen_for("past", rates.read())  # on validation words, for 150 steps
runs = {}
for name in ("lora", "lora_fa"):
    three, lr = [ml.attach(model, name, rank=4, seed=seed) for seed in range(3)], best_rates[name]["lr"]
    losses = [ml.train(t, b, steps=100, lr=lr, schedule="linear", warmup=10).losses for t, b in zip(three, of_seeds)]
    runs[name] = three[0], losses
    scores = estimate(ml.exact_match(t, words.test) for t in three)
    print(f"{ml.METHODS[name].title:8} at {lr:g}: {scores:.3f} of {len(words.test)} held-out verbs, {scores.n} seeds")
batches = of_seeds[0]
both = [ml.train(ml.attach(model, t, rank=4), batches, steps=20, lr=0.05).losses
        for t in (course.technique("lora_fa"), "lora_fa")]  # fmt: skip
assert np.allclose(*both, rtol=1e-3)
print("20 steps with your pair and with the package's: the same losses, to 1e-3")

# %% [markdown]
r"""
**Do it.** With $A^+$ = `np.linalg.pinv(A)`, the product $\Delta W A^+A$ is the part of $\Delta W$ in the row space of $A$. What share
of $\|\Delta W\|$ is left in $\Delta W - \Delta W A^+A$ for the *first* $A$, with LoRA and with LoRA-FA? Predict both. `runs[name][0]` is
a trained model: its `delta(layer)` is $\Delta W$, its `layers` is a dict of the layers' arrays, and `layer` here is any key of `layers`. `ml.attach(model, name, rank=4).layers[layer]["A"]`
is the first $A$ again, because the seed is the same.
"""

# %% open lora_fa_rows
### BEGIN SOLUTION
for name, (tuned, _) in runs.items():
    layer = next(iter(tuned.layers))
    start = ml.attach(model, name, rank=4).layers[layer]["A"].astype(float)
    change = tuned.delta(layer)
    outside = change - change @ np.linalg.pinv(start) @ start  # not in the row space of A₀
    share = np.linalg.norm(outside) / np.linalg.norm(change)
    print(f"{ml.METHODS[name].title:8} {share:.3f} of ΔW lies outside the rows of the first A")
    assert (share < 1e-5) == (name == "lora_fa")
### END SOLUTION

# %%
caption = (
    "LoRA-FA beside LoRA: fewer numbers train, and a step on 32 texts of 25 tokens keeps less, as x of two linears a layer goes. Right: the mean loss of each ten steps, "
    "three seeds (shaded: from the least to the most), each technique at its own rate: LoRA-FA learns, with fewer directions to do it in."
)
course.beside({ml.METHODS[name].title: run for name, run in runs.items()}, 32, 25, caption)

# %% [markdown]
r"""
*Held equal* in the figure: rank 4 on `q_proj` and `v_proj`, the 300 verbs, the batches of each seed, 100 steps. *What would change the verdict*: curves whose bands overlap
at the end, with rates chosen anew for these 100 steps, or a larger rank. *Verdict*: the bands are apart, LoRA-FA of rank 4 is behind.

The loss in accuracy depends on the rank: a larger $A$ reaches more directions. The record of `studies/cost.py` has
both techniques at several ranks on the same two linears per layer, each rank at its own rate, five seeds:
"""

# %%
kept = {(r["cell"]["method"], r["cell"]["rank"]): r["result"]["activations"]
        for r in course.records("cost", kind="bytes", targets="q v")}  # fmt: skip
for name in runs:
    for group in chosen(course.records("cost", kind="learn", method=name, targets="q v"), by_exact_match):
        rank, score = group[0]["cell"]["rank"], estimate(r["result"]["test"]["exact_match"] for r in group)
        print(f"{ml.METHODS[name].title:8} rank {rank:2}: {score:.3f} exact, keeps {kept[name, rank] / 2**20:.1f} MiB")

# %% [markdown]
r"""
The paper's 2026 version corrects $dB$ so that the step of $s\,BA$ comes nearest to the gradient $dW$ that full fine-tuning
would follow: $dB \leftarrow dB\,(AA^\top)^{-1}/s^2$. To prove it, write the wanted step as $C$ and minimise
$\|s\,CA - dW\|^2$: its gradient with respect to $C$ is $2s\,(s\,CA - dW)\,A^\top$, which is 0 for $C = dW A^\top (AA^\top)^{-1}/s$. And
backward gives $dB = s\,dW A^\top$.

**Do it.** On the arrays above: `lora_fa.corrected_gradient(arrays, grads, {"corrected": True})` changes `grads["B"]` in place, where
`arrays` is a dict of `A` and `s`, and `grads` one of `B`, which is $dB$. Compare it with the $C$ that `np.linalg.lstsq` finds for
$s\,CA = dW$; here $dW = dy^\top x$. (`lstsq(a, b)` solves $a\,X = b$, so transpose.)
"""

# %% open lora_fa_corrected
### BEGIN SOLUTION
dW = dy.T @ x  # ∂loss/∂W, which LoRA-FA never forms
arrays, corrected = {"A": A, "s": s}, {"B": s * dW @ A.T}  # dB, as backward gives it
assert np.allclose(corrected["B"], dB)
lora_fa.corrected_gradient(arrays, corrected, {"corrected": True})
best = np.linalg.lstsq((s * A).T, dW.T, rcond=None)[0].T
assert np.allclose(corrected["B"], best)
print("the corrected dB is the least-squares one")
### END SOLUTION

# %% [markdown]
r"""
**Open.** Predict, run, explain; there is no single answer. Does the correction help? The steps of AdamW do not depend on the
size of a gradient. So what can the correction change, and at which ranks do you expect to see it? How many seeds do you need?
(`ml.attach(…, corrected=True)` trains with it.)
"""

# %% open lora_fa_own
lost = {}  # (rank, corrected) -> mean loss of the last ten of 40 steps
### BEGIN SOLUTION
for rank in (4, 64):  # the rows of A are nearly orthogonal at rank 4, and far from it at 64
    for how in (False, True):
        tuned = ml.attach(model, "lora_fa", rank=rank, alpha=8, corrected=how)
        history = ml.train(tuned, batches, steps=40, lr=0.05, schedule="linear", warmup=4)
        lost[rank, how] = round(float(np.mean(history.losses[-10:])), 2)
print(lost)
### END SOLUTION

# %% [markdown]
r"""
## What changed, and what did not

- $x$ is not kept: this is the blue area. $A$ has no gradient and no moments: $rO$ numbers train instead of $r(I+O)$.
- The rows of $\Delta W$ stay in $A$'s row space. The table by rank above shows what that costs here.
- The saving is only a part of what is kept, and the peak of memory may have another cause: logits or attention.

Next: 06, VeRA, which freezes $B$ too.
"""
