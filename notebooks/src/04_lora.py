# %% [markdown]
r"""
# 04 · LoRA: forward, backward, merge

When you are done you can

- write LoRA's forward pass and every one of its gradients, and train a model with them,
- say what it trains, what it keeps for backward, and why B may start at zero,
- merge an adapter into a weight, and say how exact that is.

*Symbols*: the table in notebook 03. *Needs*: a matrix product and the chain rule. *Time*: 30 minutes to read, 90 to do.
*Paper*: Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685), equation 3 and
section 4.1. *The one idea*: the change of a weight, as a product of two thin matrices.
"""

# %%
import numpy as np

import minilora as ml
from minilora import ops
from minilora.check import check_pair
from minilora.memory import CATEGORIES
from minilora.methods import lora
from minilora.tuning.train import gradients
from minilora_course import check, course

# %% [markdown]
r"""
## A change with few numbers

A linear layer is $y = xW^\top$ with $x$ (M, I), one row for each token, and $W$ (O, I). Fine-tuning trains a model further on
new data: it replaces $W$ by $W + \Delta W$. LoRA writes the change as

$$\Delta W = s\,BA,\qquad A \in \mathbb{R}^{r\times I},\quad B \in \mathbb{R}^{O\times r},\quad
s = \alpha / r .$$

$A$ is the **down-projection**, which reads $x$; $B$ is the **up-projection**. The rank $r$ is small, $\alpha$ is a number that you choose, and
$W$ stays frozen.

**Predict.** How many numbers does rank 4 train on a linear of 64 inputs and 128 outputs?
"""

# %% exercise lora_count
trainable = None  # your number
### BEGIN SOLUTION
trainable = 4 * (64 + 128)
### END SOLUTION

# %% check lora_count
check("lora_count", trainable)

# %% [markdown]
r"""
## Forward

$$y = xW^\top + s\,(xA^\top)B^\top$$

The brackets matter: $z = xA^\top$ has $r$ columns, so the second path costs $r(I+O)$ multiplications for each row.
With $BA$ made first it would cost $O\cdot I$. **Fill the blank.**
"""

# %% exercise lora_forward
def lora_forward(x, W, s, A, B):
    """x (M, I), W (O, I), s, A (r, I), B (O, r) -> y (M, O)."""
    ### BEGIN SOLUTION
    return x @ W.T + s * (x @ A.T) @ B.T
    ### END SOLUTION

# %% check lora_forward
check("lora_forward", lora_forward)

# %% [markdown]
r"""
## Backward

Write $dy$ for $\partial\,\text{loss}/\partial y$, a number for each number of $y$. The tool is one rule:
where $y = xW^\top$, it is $dx = dy\,W$ and $dW = dy^\top x$ (notebook 01), whatever stands in the places of $x$
and $W$. The gradient of an array has the shape of this array, and a weight's gradient sums over all rows: $dy^\top x$ does that.

**Fill the blank** before you read on: three gradients. $W$ is frozen and gets none.
"""

# %% exercise lora_backward
def lora_backward(dy, x, W, s, A, B):
    """dy (M, O) -> dx (M, I), dA (r, I), dB (O, r)."""
    ### BEGIN SOLUTION
    dz = s * dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)
    ### END SOLUTION

# %% check lora_backward
check("lora_backward", lora_backward)

# %% [markdown]
r"""
### The derivation

With $z = xA^\top$ in the middle, $y = xW^\top + s\,zB^\top$. From the end to the start:

$$dB = s\,dy^\top z,\qquad dz = s\,dy\,B,\qquad dA = dz^\top x,\qquad dx = dy\,W + dz\,A .$$

$dx$ has two terms because $x$ reaches $y$ by two paths. $s$ stands once in $dB$ and once in $dz$; through $dz$ it
comes into $dA$ and into the second term of $dx$.

## A pair

The engine, which runs the training, asks forward for the output and a **cache**: all that backward will read. Backward gets $dy$ and the
cache, and returns one gradient for each argument of forward, None for what is frozen. **Fill the blank**: a pair made of your two
functions. What must its cache hold?
"""

# %% exercise lora_pair
def my_lora_forward(x, W, s, A, B):
    """-> y (M, O), and what your backward reads."""
    ### BEGIN SOLUTION
    return lora_forward(x, W, s, A, B), (x, W, s, A, B)
    ### END SOLUTION

def my_lora_backward(dy, cache):
    """-> dx, None, None, dA, dB: a gradient or None for each argument of forward."""
    ### BEGIN SOLUTION
    dx, dA, dB = lora_backward(dy, *cache)
    return dx, None, None, dA, dB
    ### END SOLUTION

# %% check lora_pair
check("lora_pair", (my_lora_forward, my_lora_backward))

# %% [markdown]
r"""
Three tests of your pair. It is compared with the package's, and with the engine's tape (notebook 01), which differentiates
the same forward written in elementary operations. Then `check_pair` needs no formula: it moves numbers a little and
compares the change of the loss.
"""

# %%
course.keep("lora_forward", lora_forward)
course.keep("lora_backward", lora_backward)
course.keep("lora_pair", my_lora_forward, my_lora_backward)
forward, backward = course.mine("lora_pair")
M, I, O, r, s = 6, 16, 10, 4, 2.0
rng = np.random.default_rng(0)
x, W, dy = (rng.normal(size=n) for n in [(M, I), (O, I), (M, O)])
A, B = rng.normal(size=(r, I)), rng.normal(size=(O, r))

out, cache = forward(x, W, s, A, B)
assert np.allclose(out, x @ (W + s * B @ A).T)  # with B A made first
dx, _, _, dA, dB, *_ = backward(dy, cache)
theirs = lora.lora_backward(dy, lora.lora_forward(x, W, s, A, B)[1])
assert all(np.allclose(a, b) for a, b in zip([dx, dA, dB], [theirs[0], theirs[3], theirs[4]]))

tx, tA, tB = (ml.param(a) for a in (x, A, B))
ty = tx @ ops.transpose(ml.param(W)) + (tx @ ops.transpose(tA)) @ ops.transpose(tB) * s
ml.backward(ty, dy)
assert all(np.allclose(t.grad, g) for t, g in zip([tx, tA, tB], [dx, dA, dB]))
check_pair(forward, backward, x, W, s, A, B, frozen="W")

# %% [markdown]
r"""
**Break it.** Copy your `lora_backward`, leave the scale out of it, and see the check name the slip.
"""

# %% exercise lora_break
def broken(dy, x, W, s, A, B):
    """The same arguments, one slip."""
    ### BEGIN SOLUTION
    dz = dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)
    ### END SOLUTION

# %% check lora_break
check("lora_break", broken)

# %% [markdown]
r"""
## "How can B be trained if it is zero?"

A fresh adapter must change nothing, so $B = 0$ and $A$ is random. **Predict** how large $\|dA\|$ is at
the very first step. The figures below have it on a model: a small Llama that knows English spelling and sounds, and
has never seen a past tense. First one line of its first step, on one verb; `minilora step --method lora` draws the whole step.
Then it gets 300 verbs, and after each of the first 20 steps we ask for the gradient on one batch.
"""

# %% exercise lora_first_step
norm_of_dA = None  # your number
### BEGIN SOLUTION
norm_of_dA = 0
### END SOLUTION

# %% check lora_first_step
check("lora_first_step", norm_of_dA)

# %%
model, words = ml.load_model("base"), ml.load_task("past")
tuned = ml.attach(model, "lora", rank=4)  # alpha is 8, so s = 2
verb = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
caption = (
    "The line of dA in the last layer's q_proj. xa is x, as there is no dropout: red is above 0, blue below. dz is all 0 (hatched), "
    "because dz = s dy B and B = 0. So dA is all 0, too."
)
course.show(ml.trace(tuned, *verb).figure("dA is 0 in the first step"), caption)

# %% figure
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=17)

def norms(tuned):
    """‖dA‖ and ‖dB‖ over all adapted linears."""
    _, grads = gradients(tuned, batches[:1])
    parts = [[g for key, g in grads.items() if f"lora_{name}" in key] for name in "AB"]
    return [float(np.sqrt(sum((g**2).sum() for g in part))) for part in parts]

first = norms(tuned)
history = ml.train(tuned, batches, steps=20, lr=2e-3, evaluate=norms, evaluate_every=1)
steps = range(21)
norm_A, norm_B = zip(first, *(value for _, value in history.evaluations))
assert norm_A[0] == 0 and norm_B[0] > 0 and min(norm_A[1:]) > 0
caption = (
    "dA is exactly 0 before the first step. dB is not: B moves, and from then on A has a gradient, too."
)
with course.figure(caption, width=7, height=4) as axes:
    axes.plot(steps, norm_B, color="#0072B2", marker="o", label="‖dB‖, up-projection")
    axes.plot(steps, norm_A, color="#E69F00", marker="s", label="‖dA‖, down-projection")
    axes.annotate("exactly 0", (0, 0), (2, 0.03), va="center", arrowprops={"arrowstyle": "->"})
    axes.set_yscale("symlog", linthresh=0.1)  # logarithmic, but for a part around 0 that has it on the axis
    axes.set_yticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    axes.set(xlabel="optimizer steps taken", ylabel="norm of the gradient", xticks=range(0, 21, 4))
    axes.legend(loc="lower right")

# %% [markdown]
r"""
That has a consequence for anyone who tests a backward. **Break it** again: change `dA` so that no check
which starts at $B = 0$ can see it.
"""

# %% exercise lora_blind
def blind(dy, x, W, s, A, B):
    """Wrong, and right at B = 0."""
    ### BEGIN SOLUTION
    dz = s * dy @ B
    return dy @ W + dz @ A, 3 * dz.T @ x, s * dy.T @ (x @ A.T)
    ### END SOLUTION

# %% check lora_blind
check("lora_blind", blind)

# %% [markdown]
r"""
## Counting, and memory

LoRA trains $r(I+O)$ numbers a linear. AdamW, the optimizer, keeps two more for each. This does not change
the **activations**: $dA = dz^\top x$ reads $x$, so $x$ must be kept for backward, as in full fine-tuning.

**Do it.** `ml.ledger(model, 32, 25, method="full")` counts the bytes of one step on 32 texts of 25 tokens. It is a dict of `CATEGORIES`, and `.trainable`
has the bytes that are trained. Print it for `"full"` and for `"lora"` with `rank=4`. Which part hardly changes? Compare `.trainable` with 4 bytes times
$r(I+O)$, summed over `q_proj` and `v_proj`.
"""

# %% open lora_ledger
### BEGIN SOLUTION
full = ml.ledger(model, 32, 25, method="full")
thin = ml.ledger(model, 32, 25, method="lora", rank=4)
for part in CATEGORIES:
    print(f"{part:12} full {full[part]:>11,} bytes    LoRA {thin[part]:>11,} bytes")
shapes = [W.shape for name, W in model.params.items() if "q_proj" in name or "v_proj" in name]
assert thin.trainable == 4 * sum(lora.count(I, O, 4) for O, I in shapes)
### END SOLUTION

# %% [markdown]
r"""
Gradients and optimizer almost vanish. Activations, the largest part here, shrink by less: this is why people
often report that "LoRA uses as much memory as full fine-tuning". Notebook 05 is about that part.

## Your pair trains the model

`course.technique("lora")` is LoRA's record with your pair as its op; a technique is a record, and `attach` takes it.
Every adapted linear of the model now runs your forward and your backward. Then the package's trains on the
same batches:
"""

# %%
mine = course.technique("lora")
settings = dict(steps=150, lr=2e-2, schedule="linear", warmup=15)
tuned = ml.attach(model, mine, rank=4)
history = ml.train(tuned, batches, **settings)
theirs = ml.train(ml.attach(model, "lora", rank=4), batches, **settings)
gap = np.abs(np.divide(history.losses[:20], theirs.losses[:20]) - 1).max()
assert gap < 1e-4  # float32: each rounds in its own order, and the steps add it up
print("your losses and the package's agree to 1e-4 over the first 20 steps")
score, before = (ml.exact_match(m, words.test) for m in (tuned, model))
print(f"loss {history.losses[0]:.2f} -> {np.mean(history.losses[-10:]):.2f}")
print(f"{score:.0%} of {len(words.test)} held-out verbs; the base {before:.0%}")
caption = "150 steps on 300 verbs, on a logarithmic scale: the loss of each batch with your pair, and the package's."
with course.figure(caption, width=8, height=3.4) as axes:
    axes.plot(range(1, 151), theirs.losses, color="#BFBFBF", lw=4, label="the package's pair")
    axes.plot(range(1, 151), history.losses, color=course.look("lora")["color"], lw=1.5, label="yours")
    axes.set(yscale="log", xlabel="optimizer steps", ylabel="cross-entropy\n(nats per token)")
    axes.legend(loc="upper right")

# %% [markdown]
r"""
## What α does

$\alpha$ enters only as $s = \alpha/r$. AdamW divides each gradient by its size, so a larger $s$ does not
lengthen the steps of $A$ and $B$: it makes each of them move $s\,BA$ further. So $\alpha$ does much of a
learning rate's work. If it did all of it, the loss would depend on the product $s\,\eta$ alone. **Predict** what happens to
the loss at rate 0.01 for $\alpha = 1$ and for $\alpha = 64$. Twelve short trainings: half a minute or so.
"""

# %%
alphas, lrs = [1, 4, 16, 64], [0.0025, 0.01, 0.04]
ends = np.empty((3, 4))
for i, lr in enumerate(lrs):
    for j, alpha in enumerate(alphas):
        scaled = ml.attach(model, "lora", rank=4, alpha=alpha)
        run = ml.train(scaled, batches, steps=60, lr=lr, schedule="linear", warmup=6)
        ends[i, j] = np.mean(run.losses[-10:])
print("best α of each rate:", dict(zip(lrs, np.take(alphas, ends.argmin(axis=1)).tolist())))
caption = (
    "Mean loss of the last 10 of 60 steps, one seed. Left: at the largest rate the best α is smaller. Right: the same "
    "points over s times the rate lie nearer to one curve, but not on it: α does much of a rate's work, not all."
)
with course.figure(caption, width=8, height=4.3, columns=2, sharey=True) as panels:
    for losses, lr, colour, marker in zip(ends, lrs, ("#56B4E9", "#0072B2", "#222222"), "voD"):
        for axes, x in zip(panels, (alphas, np.divide(alphas, 4) * lr)):
            axes.plot(x, losses, color=colour, marker=marker, label=f"rate {lr:g}")
    panels[0].set(xscale="log", yscale="log", xlabel="α", ylabel="cross-entropy (nats per token)")
    panels[0].set_xticks(alphas, alphas)
    panels[1].set(xscale="log", xlabel="s times the rate")
    panels[1].figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)

# %% [markdown]
r"""
If you compare two techniques at one rate and with two values of $\alpha$, you compare two step sizes of $\Delta W$.

## Merge

After training the two paths are one: $W' = W + s\,BA$, and nothing is slower than before. **Fill the blank.** Below
it: how exact is it? Merging rounds once to float32. So merged and attached agree to rounding, and not bit for bit;
subtracting again returns the base, up to a rounding. **Do it**: compare `ml.merge(tuned).logits(ids)` with `tuned.logits(ids)`, and
the arrays of `ml.unmerge(merged, tuned)` with the model's. How large is the worst error, relative to the largest logit?
"""

# %% exercise lora_merge
def lora_merge(W, s, A, B):
    """W (O, I), s, A (r, I), B (O, r) -> W' (O, I)."""
    ### BEGIN SOLUTION
    return W + s * B @ A
    ### END SOLUTION

# %% check lora_merge
check("lora_merge", lora_merge)

# %% open lora_exact
ids = batches[0][0]
### BEGIN SOLUTION
merged = ml.merge(tuned)
error = np.abs(merged.logits(ids) - tuned.logits(ids)).max() / np.abs(tuned.logits(ids)).max()
back = ml.unmerge(merged, tuned)
off = max(np.abs(back.params[name] - W).max() for name, W in model.params.items())
assert error < 1e-5 and off < 1e-6
print("merged and attached agree to 1e-5 of the largest logit; unmerged and base to 1e-6")
### END SOLUTION

# %% [markdown]
r"""
**Open.** Your pair keeps $x$ for $dA$ and makes $z = xA^\top$ again. Write one that keeps $z$ instead of making it
again, and predict before you run: how do the bytes kept for backward change, how the losses? Then explain what
`ml.measure` and `ml.train` say. (`dataclasses.replace(mine, op=ml.Op("kept", forward, backward))` is a record with it.)
"""

# %% open lora_keep_z
### BEGIN SOLUTION
import dataclasses


def keeping_forward(x, W, s, A, B):
    z = x @ A.T
    return x @ W.T + s * z @ B.T, (x, z, W, s, A, B)

def keeping_backward(dy, cache):
    x, z, W, s, A, B = cache
    dz = s * dy @ B
    return dy @ W + dz @ A, None, None, dz.T @ x, s * dy.T @ z

op = ml.Op("kept", keeping_forward, keeping_backward, saves=("x", "z", "W", "s", "A", "B"))
kept = ml.attach(model, dataclasses.replace(mine, op=op), rank=4)
more = ml.measure(kept, 32, 25)["activations"] - ml.measure(tuned, 32, 25)["activations"]
losses = ml.train(kept, batches, steps=5, lr=2e-2).losses
print(f"z costs {more:,} bytes more, 4 numbers a row and linear: {len(kept.layers) * 32 * 25 * 4 * 4:,}")
print("and the losses stay:", np.round(losses, 3))
### END SOLUTION

# %% [markdown]
r"""
## What changed, and what did not

- The optimizer holds two numbers for $r(I+O)$ parameters instead of $O\cdot I$.
- The activations stay: $x$ is kept for $dA$.
- One task, one model of under a million parameters: it shows how LoRA behaves, not how it will do on
  yours. `README.md` has the comparison with each technique's learning rate tuned.

Next: 05, LoRA-FA, which gets rid of $x$.
"""
