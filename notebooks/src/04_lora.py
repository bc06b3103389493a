# %% [markdown]
r"""
# 04 · LoRA: forward, backward, merge

When you are done you can

- write LoRA's forward pass and every one of its gradients, and train a model with them,
- say what it trains, what it keeps for backward, and why B may start at zero,
- merge an adapter into a weight, and say how exact that is.

*Symbols*: the table in notebook 03. *Needs*: a matrix product and the chain rule. *Time*: 35 minutes to read, 105 to do.
*Paper*: Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685), equation 3 and
section 4.1. *The one idea*: write the change of a weight as a product of two thin matrices.
"""

# %%
import numpy as np

import minilora as ml
from minilora import ops
from minilora.check import check_pair
from minilora.lab import rates
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
If you compute $BA$ first, it costs $O\cdot I$. **Fill the blank.**
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

Write $dy$ for $\partial\,\text{loss}/\partial y$, one number for each number of $y$. One rule is enough:
$y = xW^\top$ gives $dx = dy\,W$ and $dW = dy^\top x$ (notebook 01). It holds for any two matrices in the roles of $x$
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

$dx$ has two terms because $x$ reaches $y$ by two paths. $s$ appears once in $dB$ and once in $dz$; through $dz$ it
is also a factor of $dA$ and of the second term of $dx$.

## A pair

In training, the engine calls forward, which returns the output and a **cache**: everything that backward will read. Backward gets $dy$ and the
cache, and returns one gradient for each argument of forward, or None for a frozen one. **Fill the blank**: a pair made of your two
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
Your pair gets three tests. We compare it with the package's pair, and with the engine's tape (notebook 01), which differentiates
the same forward written in elementary operations. The third test, `check_pair`, needs no formula: it moves numbers a little and
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
**Break it.** Copy your `lora_backward`, leave the scale out of it, and see how the check names the slip.
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

A fresh adapter must not change the output, so $B = 0$ and $A$ is random. **Predict** how large $\|dA\|$ is at
the very first step. The figures below show it on a model: a small Llama that knows English spelling and sounds, and
has never seen a past tense. The first figure is one line of its first step, on one verb; `minilora step --method lora` draws the whole step.
Then the model trains on 300 verbs, and after each of the first 20 steps we compute the gradient on one batch.
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
This matters for everybody who tests a backward. **Break it** again: change `dA` so that a check
at $B = 0$ cannot see it.
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
## Your pair trains the model

A technique is a record, and `course.technique("lora")` is LoRA's record with your pair as its op. We pass it to `attach`.
Every adapted linear of the model now runs your forward and your backward. A second model with the package's pair trains on the same batches.

### Counting, and memory

Then we compare LoRA with full fine-tuning. LoRA trains $r(I+O)$ numbers per linear. AdamW, the optimizer, keeps two more for each. This does not change
the **activations**: $dA = dz^\top x$ reads $x$, so $x$ must be kept for backward, as in full fine-tuning. Compare the count in the figure with $r(I+O)$, summed over
all `q_proj` and `v_proj`, and predict before you run: which part of the bytes hardly changes?

*Held equal*: the 300 verbs, the batches of each seed, 100 steps; each technique has its own rate, which 150 steps on validation words chose. *What would change the
verdict*: curves whose bands no longer overlap at the end, with rates chosen anew for these 100 steps.
"""

# %%
mine = course.technique("lora")
tuned = ml.attach(model, mine, rank=4)
settings = dict(steps=150, lr=2e-2, schedule="linear", warmup=15)
history = ml.train(tuned, batches, **settings)
theirs = ml.train(ml.attach(model, "lora", rank=4), batches, **settings)
assert np.allclose(history.losses[:20], theirs.losses[:20], rtol=1e-4)  # float32 rounds, and steps add it up
score, before = (ml.exact_match(m, words.test) for m in (tuned, model))
print(f"your pair: loss {history.losses[0]:.2f} -> {np.mean(history.losses[-10:]):.2f}")
print(f"{score:.0%} of {len(words.test)} held-out verbs; the base {before:.0%}")

best_rates = rates.chosen_for("past", rates.read())
of_seeds = [ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=11, seed=seed) for seed in range(3)]
compared = {}
for name, how in (("lora", {"rank": 4}), ("full", {})):
    three = [ml.attach(model, name, seed=seed, **how) for seed in range(3)]
    losses = [ml.train(t, b, steps=100, lr=best_rates[name]["lr"], schedule="linear", warmup=10).losses
              for t, b in zip(three, of_seeds)]  # fmt: skip
    compared[ml.METHODS[name].title] = three[0], losses
caption = (
    "LoRA of rank 4 beside full fine-tuning. Left: a hundredth of the numbers. Middle: gradients and optimizer almost vanish; the activations, the largest "
    "part of a step on 32 texts of 25 tokens, shrink by less. Right: the mean loss of each ten steps, three seeds (shaded: from the least to the most)."
)
course.beside(compared, 32, 25, caption)
shapes = [W.shape for name, W in model.params.items() if "q_proj" in name or "v_proj" in name]
assert sum(a.size for a in compared["LoRA"][0].trainable.values()) == sum(lora.count(I, O, 4) for O, I in shapes)

# %% [markdown]
r"""
*Verdict*: with a hundredth of the numbers, LoRA's training loss at the end is higher than full fine-tuning's: the seeds' bands are apart.
The activations are why people often report that "LoRA uses as much memory as full fine-tuning". Notebook 05 is about that part.

## What α does

$\alpha$ enters only as $s = \alpha/r$. AdamW divides each gradient by its size, so a larger $s$ does not
make the steps of $A$ and $B$ longer, but each step moves $s\,BA$ further. So $\alpha$ acts much like a
learning rate. If it were exactly a learning rate, the loss would depend only on the product $s\,\eta$. **Predict** what happens to
the loss at rate 0.01 for $\alpha = 1$ and for $\alpha = 64$. The cell below runs twelve short trainings, in about half a minute.
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

After training the two paths can become one: $W' = W + s\,BA$. Then the model is as fast as the base. **Fill the blank.** Then
ask: how exact is it? Merging rounds once to float32. So the merged and the attached model agree up to rounding, and not bit for bit.
Subtracting the change again returns the base, up to rounding. **Do it**: compare `ml.merge(tuned).logits(ids)` with `tuned.logits(ids)`, and
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
## Two adapters on one base

**Do it.** Two adapters taught one base verbs and nouns (the prompts begin with D and with N). Add both with your `lora_merge`: $W + s_1B_1A_1 + s_2B_2A_2$. How do they
disturb each other? Predict first: the score of each task with its own adapter, with both, and with its own and a fraction $t$ of the other's change. How similar are the two $\Delta W$, as vectors
(their cosine)? *Held equal*: rank, rate, steps, 300 words each. *What would change the verdict*: scores of the sum within two standard errors, about 0.08, of those alone.
`ml.Llama(model.config, params, model.tokenizer)` is a model with other weights.
"""

# %% open lora_two
nouns = ml.load_task("plural")
second = ml.attach(model, "lora", rank=4, seed=1)
ml.train(second, ml.batches(nouns.train[:300], model.tokenizer, batch_size=32, epochs=17), **settings)
### BEGIN SOLUTION
def merged_with(shares):
    """The base plus a share of each adapter's change."""
    params = dict(model.params)
    for share, adapter in zip(shares, (tuned, second)):
        for layer, a in adapter.layers.items():
            params[f"{layer}.weight"] = lora_merge(params[f"{layer}.weight"], share * a["s"], a["A"], a["B"])
    return ml.Llama(model.config, params, model.tokenizer)

for t in (0, 0.25, 0.5, 1):
    verbs, plurals = ml.exact_match(merged_with((1, t)), words.test[:200]), ml.exact_match(merged_with((t, 1)), nouns.test[:200])
    print(f"own adapter and {t:4} of the other's change: verbs {verbs:.2f}, nouns {plurals:.2f}")
pairs = [[adapter.delta(layer).ravel() for adapter in (tuned, second)] for layer in tuned.layers]
alike = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
print(f"cosine of the two ΔW of a linear: {min(alike):.2f} to {max(alike):.2f}: nearly orthogonal, and yet they disturb")
### END SOLUTION

# %% [markdown]
r"""
**Open.** "My losses are as good as the package's, so my backward is right." Is it? Train broken pairs: $dA$ without its $s$, $dB$ without its $s$, $dx$ without the adapter's path, $dA$ with the other sign. Predict for each: does
the curve show the error by itself, or only beside the right curve, or not at all? Then run, and explain: what does AdamW do if a gradient is multiplied by a constant? What would an optimizer without that division do? Which test finds
each slip? *Held equal*: start, batches, rate. *What would change the verdict*: a gap in the losses larger than rounding gives, which is 1e-4 in the first 20 steps here.
(`dataclasses.replace(mine, op=ml.Op("broken", forward, backward))` is a record with a pair of yours.)
"""

# %% open lora_curve
### BEGIN SOLUTION
import dataclasses


def broken_pair(of_dA=1.0, of_dB=1.0, path=1.0):
    """A pair whose dA, dB and adapter's path in dx are multiplied by these."""
    def backward(dy, cache):
        x, W, s, A, B = cache
        dz = s * dy @ B
        return dy @ W + path * dz @ A, None, None, of_dA * dz.T @ x, of_dB * s * dy.T @ (x @ A.T)
    return my_lora_forward, backward

slips = {"right": {}, "dA without s": {"of_dA": 1 / 2}, "dB without s": {"of_dB": 1 / 2}, "dx by W alone": {"path": 0}, "-dA": {"of_dA": -1}}  # s is 2
curves = {}
for name, slip in slips.items():
    record = dataclasses.replace(mine, op=ml.Op("broken", *broken_pair(**slip)))
    curves[name] = ml.train(ml.attach(model, record, rank=4), batches, **settings | {"steps": 40}).losses
    gap = np.abs(np.divide(curves[name][:20], curves["right"][:20]) - 1).max()
    print(f"{name:13} loss of the last 10 of 40 steps {np.mean(curves[name][-10:]):.2f}; gap in the first 20 {gap:.0e}, "
          f"{'beyond rounding' if gap > 1e-4 else 'no more than rounding'}")  # fmt: skip
### END SOLUTION

# %% [markdown]
r"""
## What changed, and what did not

- The optimizer holds two numbers for $r(I+O)$ parameters instead of $O\cdot I$.
- The activations stay: $x$ is kept for $dA$.
- A falling loss does not show that the gradient is right. `check_pair` does.
- This is one task and one model of less than a million parameters: it shows how LoRA behaves, not how good it is on
  your task. `README.md` has the comparison with each technique's learning rate tuned.

Next: 05, LoRA-FA, which does not keep $x$.
"""
