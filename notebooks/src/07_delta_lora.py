# %% [markdown]
r"""
# 07 · Delta-LoRA: let the frozen weight move

When you are done you can

- write Delta-LoRA's step, in which $W$ moves without a gradient of its own,
- prove that its moves telescope, say which rank they can reach, and see that they reach it,
- say to which LoRA Delta-LoRA is equal if $W$ moves from the very first step.

*Needs*: notebooks 03 (singular values) and 04. *Time*: 35 minutes to read, 45 to do.
*Paper*: Zi et al. 2023, [arXiv:2309.02411](https://arxiv.org/abs/2309.02411), algorithm 1. *Symbols*: the table in
notebook 03. *The one idea*: $W$ follows the product $BA$ from step to step, and the sum of these moves telescopes.
"""

# %%
import dataclasses

import numpy as np

import minilora as ml
from minilora.check import check_pair
from minilora.lab import rates
from minilora.methods import delta_lora
from minilora_course import check, course

# %% [markdown]
r"""
## A weight that follows

A gradient and two moments for $W$ would need three arrays of its size. Delta-LoRA needs none of them. After
every step of AdamW on $A$ and $B$ it adds the change of their product to $W$,

$$W \leftarrow W + \lambda\,s\,(B'A' - BA),$$

with $\lambda$ the *update ratio* (2 in the paper; `ratio` in the blanks below, `update_ratio` in the package; it has
nothing to do with LoRA+'s ratio of two rates). Forward and backward are LoRA's, without dropout: then
$\partial\,\text{loss}/\partial W$ and $\partial\,\text{loss}/\partial (BA)$ are the same up to $s$.
"""

# %%
M, I, O, r, s = 6, 16, 10, 4, 2.0
rng = np.random.default_rng(0)
x, W, dy = (rng.normal(size=n) for n in [(M, I), (O, I), (M, O)])
A, B = rng.normal(size=(r, I)), rng.normal(size=(O, r))
record = ml.METHODS["delta_lora"]
dW = dy.T @ x  # the gradient that W would have had
dBA = s * dy.T @ x  # y = x Wᵀ + s x (BA)ᵀ
assert np.allclose(dBA, s * dW) and record.op is ml.METHODS["lora"].op
check_pair(record.op.forward, record.op.backward, x, W, s, A, B, frozen="W")

# %% [markdown]
r"""
**Fill the blank**: one step, with plain gradient descent instead of AdamW.
"""

# %% exercise delta_lora_step
def delta_lora_step(W, s, ratio, lr, A, B, dA, dB):
    """-> W', A', B'."""
    ### BEGIN SOLUTION
    A_new, B_new = A - lr * dA, B - lr * dB
    return W + ratio * s * (B_new @ A_new - B @ A), A_new, B_new
    ### END SOLUTION

# %% check delta_lora_step
check("delta_lora_step", delta_lora_step)

# %% [markdown]
r"""
**Break it.** An early public implementation used $(B'-B)(A'-A)$. Write this slip.
"""

# %% exercise delta_lora_break
def broken(W, s, ratio, lr, A, B, dA, dB):
    """The same arguments, W moved by the product of the differences."""
    ### BEGIN SOLUTION
    A_new, B_new = A - lr * dA, B - lr * dB
    return W + ratio * s * (B_new - B) @ (A_new - A), A_new, B_new
    ### END SOLUTION

# %% check delta_lora_break
check("delta_lora_break", broken)

# %% [markdown]
r"""
How far apart are the two? Write $\Delta A = A' - A$ and $\Delta B = B' - B$. Then

$$B'A' - BA = B\,\Delta A + \Delta B\,A + \Delta B\,\Delta A :$$

the slip keeps the term of second order in the step, and drops the two terms of first order. The package
keeps copies of the old factors and adds one product of rank $2r$ to $W$, in place. The figure shows this on a model after five steps
(`minilora step --method delta_lora` draws a whole step):
"""

# %%
model, words = ml.load_model("base"), ml.load_task("past")
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=8, epochs=2)
moving = ml.attach(model, "delta_lora", rank=4, start_step=0)
ml.train(moving, batches, steps=5, lr=5e-3)
caption = (
    "W of q_proj in the first layer, and the two thin matrices whose product is added to it: left is [B', -B] times the ratio and s, "
    "right is A' above A. ΔW looks woven, since it has rank 8 at most. It is a small part of W, as the numbers below say."
)
course.show(ml.trace(moving, *batches[5], lr=5e-3).figure("Delta-LoRA moves W by a thin product"), caption)

# %% [markdown]
r"""
**Do it.** Take one step of gradient descent with rate 0.01 on the arrays above, let `delta_lora.after_step(arrays, (A, B), 1, options)`
move $W$, and compare: how much shorter is the move of the slip? `arrays` is a dict of `W` (a copy), `s` and the *new* `A` and `B`;
`(A, B)` are the old ones, 1 is the number of the step, and `options` is `{"update_ratio": ratio, "start_step": 0}`.
"""

# %% open delta_lora_slip
lr, ratio = 0.01, 2.0
_, _, _, dA, dB, *_ = record.op.backward(dy, record.op.forward(x, W, s, A, B)[1])
### BEGIN SOLUTION
arrays = {"W": W.copy(), "s": s, "A": A - lr * dA, "B": B - lr * dB}
delta_lora.after_step(arrays, (A, B), 1, {"update_ratio": ratio, "start_step": 0})
right = ratio * s * (arrays["B"] @ arrays["A"] - B @ A)
slip = ratio * s * (arrays["B"] - B) @ (arrays["A"] - A)
assert np.allclose(arrays["W"] - W, right)
print(f"the slip moves W {np.linalg.norm(slip) / np.linalg.norm(right):.3f} times as far")
### END SOLUTION

# %% [markdown]
r"""
## What does it add up to?

$W$ begins to move after step $K$. Call the factors at that moment $A_K, B_K$. **Predict.** At rank 3, $W$
begins to move after step 3: what is the rank of $W - W_0$ after 10 steps?
"""

# %% exercise delta_lora_rank
rank = None  # your number
### BEGIN SOLUTION
rank = 2 * 3
### END SOLUTION

# %% check delta_lora_rank
check("delta_lora_rank", rank)

# %% [markdown]
r"""
### The telescope

**Claim.** If $\lambda$ and $s$ do not change, and $W$ moves in every step after step $K$, then after step $T \ge K$

$$W_T - W_0 = \lambda s\,(B_T A_T - B_K A_K).$$

*Proof*, by induction on $T$. For $T = K$ both sides are 0. Step $T+1$ adds $\lambda s\,(B_{T+1}A_{T+1} - B_T A_T)$ by its
definition. Added to the right side, the two $B_T A_T$ cancel, and $\lambda s\,(B_{T+1}A_{T+1} - B_K A_K)$ is left. ∎

The proof does not use *how* $A$ and $B$ move: it holds with any gradients, moments, clipping and weight decay.

**Rank.** A product of (O, r) and (r, I) has at most rank $r$, and the rank of a sum is at most the sum of the ranks. So
$W_T - W_0$ has at most rank $2r$, after any number of steps. If $B_K = 0$, that is $K = 0$, it has at most rank $r$.

Two runs with different $K$ show this. They train in float64, so that rounding errors do not look like singular values:
"""

# %%
wide, layer = model.astype(np.float64), "model.layers.0.self_attn.q_proj"
W0 = wide.params[f"{layer}.weight"]

def rank_of_move(tuned):
    """The rank of W - W₀ in one layer: the number of singular values above rounding."""
    values = np.linalg.svd(tuned.layers[layer]["W"] - W0, compute_uv=False)
    return int((values > 1e-9).sum())

# %%
ranks, tuned = {}, {}
for start in (0, 5):
    tuned[start] = ml.attach(wide, "delta_lora", rank=4, start_step=start)
    history = ml.train(tuned[start], batches, steps=20, lr=5e-3,
                       evaluate=rank_of_move, evaluate_every=1)
    ranks[start] = [0, *(rank for _, rank in history.evaluations)]
assert ranks[0][1:] == [4] * 20 and ranks[5] == [0] * 6 + [8] * 15
print("W moves from the first step: rank", ranks[0][-1], " from the sixth:", ranks[5][-1])

# %% figure
caption = (
    "Rank of W - W₀ in one layer at r = 4. If the moves did not cancel, each could add 2r (dotted). They do: "
    "W passes r only where it starts late, and stops at 2r."
)
with course.figure(caption, width=7, height=4.4) as axes:
    moves = [min(2 * 4 * n, 64) for n in range(8)]
    axes.plot(range(5, 13), moves, ls=":", color="#7F7F7F", label="if moves did not cancel")
    colour, marker = course.look("delta_lora")["color"], course.look("delta_lora")["marker"]
    axes.plot(ranks[5], color=colour, marker=marker, label="W moves from step 6")
    axes.plot(ranks[0], color=colour, ls="--", label="W moves from step 1")
    axes.set(xlabel="optimizer steps taken", ylabel="rank of W - W₀", ylim=(-1, 34))
    axes.set(xticks=range(0, 21, 4), yticks=[0, 4, 8, 16, 24, 32])
    axes.legend(loc="upper right", fontsize=11)

# %% [markdown]
r"""
**Do it.** Check the telescope on `tuned[5].layers[layer]`: it holds `W`, `s`, `A`, `B`, and $A_K$, $B_K$ as `A_start`, `B_start`.
"""

# %% open delta_lora_telescope
arrays = tuned[5].layers[layer]
### BEGIN SOLUTION
product = arrays["B"] @ arrays["A"] - arrays["B_start"] @ arrays["A_start"]
error = np.abs(arrays["W"] - W0 - 2.0 * arrays["s"] * product).max()
assert error < 1e-12
print("W - W₀ = λ s (B A - B_K A_K), to 1e-12")
### END SOLUTION

# %% [markdown]
r"""
So the whole change, $BA$ included, is a product of rank $2r$, and is saved as an ordinary LoRA of twice the
rank: $s\,[(1+\lambda)B,\ -\lambda B_K]\,[A;\ A_K]$, on the original base. The first bracket puts two matrices side by side, the second
puts one above the other.
"""

# %%
left, right = tuned[5].factors(layer)
print("factors", left.shape, right.shape)
assert np.allclose(arrays["s"] * left @ right, tuned[5].delta(layer), atol=1e-12)

# %% [markdown]
r"""
## From the first step: a LoRA with a larger scale

**Claim.** With $K = 0$, Delta-LoRA of scale $s$ goes through the same $A_t, B_t$ as LoRA of scale $(1+\lambda)s$ under AdamW
without clipping, in the limit $\varepsilon \to 0$.

*Proof*, by induction. Both start from the same $A$ and $B = 0$. If they have been the same up to step $t$, the forward
pass of Delta-LoRA uses $W_t + s\,BA = W_0 + (1+\lambda)s\,BA$ by the telescope, as $B_K = 0$. This is LoRA's adapted weight. So
$\partial\,\text{loss}/\partial y$ is the same. $dA$ and $dB$ contain the factor $s$ once, and LoRA's contain $(1+\lambda)s$: they differ by
the same factor $1+\lambda$ in every step. AdamW divides the mean of the gradients by the root of the mean of
their squares, and the factor cancels. If all gradients so far are 0, as $dA$ is at step 1, nothing moves in either:
$0/(0+\varepsilon)$ is 0 for every $\varepsilon > 0$. (With $\varepsilon = 0$ it would be $0/0$: that is why the claim is about the limit, and why
`ml.train` refuses $\varepsilon = 0$.) So the next $A$ and $B$ are the same, too. ∎
"""

# %%
settings = {"steps": 40, "lr": 5e-3, "schedule": "linear", "warmup": 4}

def two_runs(eps):
    """The losses of Delta-LoRA, λ = 2, s = 2, and of LoRA with s = 6 = (1 + 2) · 2; and the first ‖ΔA‖ of each."""
    made = [ml.attach(wide, "delta_lora", rank=4, alpha=8, update_ratio=2.0, start_step=0), ml.attach(wide, "lora", rank=4, alpha=24)]
    start = [t.layers[layer]["A"].copy() for t in made]
    runs = [ml.train(t, batches, **settings, eps=eps, evaluate_every=1, evaluate=lambda t: t.layers[layer]["A"].copy()) for t in made]
    return [run.losses for run in runs], [np.abs(run.evaluations[0][1] - A).max() for run, A in zip(runs, start)]

for eps, largest in ((1e-8, 1e-4), (1e-16, 1e-9)):
    (one, two), moved = two_runs(eps)
    gap = np.abs(np.subtract(one, two)).max()
    assert gap < largest and moved == [0, 0]  # dA is 0 in step 1, and A stays where it is
    print(f"ε = {eps:g}: the two loss curves agree to {largest:g} over all 40 steps, and A does not move in step 1")

# %%
course.keep("delta_lora_step", delta_lora_step)
step = course.mine("delta_lora_step")

def after_step(arrays, kept, number, options):
    """Your step, after AdamW's: what AdamW moved A and B by is its gradient, at the rate 1."""
    A, B = kept  # before AdamW's step
    moves = A - arrays["A"], B - arrays["B"]
    arrays["W"][...] = step(arrays["W"], arrays["s"], options["update_ratio"], 1.0, A, B, *moves)[0]

mine = dataclasses.replace(course.technique("delta_lora", "lora_pair"), after_step=after_step)
yours = ml.train(ml.attach(wide, mine, rank=4, alpha=8), batches, **settings, eps=1e-16).losses
assert np.allclose(yours, one, rtol=1e-6)
print("your pair of notebook 04 and your step: Delta-LoRA's losses, to 1e-6")

# %%
caption = "Delta-LoRA (s = 2, λ = 2, W moves from step 1) and LoRA with s = 6: one curve, not two."
with course.figure(caption, width=7, height=3.6) as axes:
    steps = range(1, 41)
    axes.plot(steps, two, color=course.look("lora")["color"], lw=6, alpha=0.4, label="LoRA, s = 6")
    axes.plot(steps, one, color=colour, lw=1.8, label="Delta-LoRA, s = 2, λ = 2")
    axes.set(yscale="log", xlabel="optimizer steps", ylabel="cross-entropy\n(nats per token)")
    axes.legend(loc="lower left")

# %% [markdown]
r"""
### λ, and a late start

With $K = 10$ the first ten steps are LoRA's at scale $s$. From then on the whole change is
$\Delta W = s\,BA + \lambda s\,(BA - B_K A_K)$: each further step of $BA$ counts $1+\lambda$ times. **Predict** what $\lambda = 0$
gives. $\lambda$ changes the size of $\Delta W$; whether that helps the loss is another question. Three seeds:
"""

# %%
def late(ratio, seed, method="delta_lora"):
    """40 steps -> the losses, and ‖ΔW‖ of one layer after each step."""
    scale = {"update_ratio": ratio, "start_step": 10} if method == "delta_lora" else {}
    tuned = ml.attach(model, method, rank=4, alpha=8 if scale else 8 * (1 + ratio), seed=seed, **scale)
    history = ml.train(tuned, batches, **settings, evaluate_every=1,
                       evaluate=lambda t: float(np.linalg.norm(t.delta(layer))))  # fmt: skip
    return history.losses, [0.0, *(size for _, size in history.evaluations)]

tried = (0, 1, 2, 4)
both = {m: {ratio: [late(ratio, seed, m) for seed in range(3)] for ratio in tried} for m in ("delta_lora", "lora")}
plain = both["lora"][0][0]
assert both["delta_lora"][0][0] == plain  # λ = 0 is LoRA, to the bit
assert all(runs[0][0][:10] == plain[0][:10] for runs in both["delta_lora"].values())  # W has not moved yet

# %%
def draw(ratio=2):
    caption = (
        f"Left: size of one layer's ΔW. Delta-LoRA with λ = {ratio:g} is LoRA (s = 2) up to step 10, and then "
        f"grows faster. Right: the loss at the end over λ, against LoRA with (1 + λ) s from the start; "
        "mean and standard deviation of three seeds, all at one learning rate."
    )
    with course.figure(caption, width=8, height=4, columns=2) as (left, right):
        curves = [(plain, "lora", ":", "LoRA, s = 2"), (both["delta_lora"][ratio][0], "delta_lora", "-", "Delta-LoRA"),
                  (both["lora"][ratio][0], "lora", "--", f"LoRA, s = {2 * (1 + ratio):g}")]  # fmt: skip
        for (_, sizes), name, style, label in curves:
            left.plot(sizes, style, color=course.look(name)["color"], label=label)
        left.axvline(10, color="#7F7F7F", lw=1)
        left.set(xlabel="optimizer steps taken", ylabel="‖ΔW‖ of one layer", ylim=(0, 1.45 * left.get_ylim()[1]))
        left.legend(loc="upper left", fontsize=11)
        for name, runs in both.items():
            ends = np.array([[np.mean(losses[-10:]) for losses, _ in runs[ratio]] for ratio in tried])
            right.errorbar(range(len(tried)), ends.mean(1), ends.std(1, ddof=1), capsize=4, **course.look(name))
        right.set_xticks(range(len(tried)), tried)
        right.set(xlabel="λ", ylabel="loss, last 10 of 40 steps", ylim=(0, None))
        right.legend(loc="lower left", fontsize=11)

draw()
course.explore(draw, ratio=[2, *(n for n in tried if n != 2)])

# %% [markdown]
r"""
At one learning rate the two need not have the same loss: a later change of the scale is not a larger scale from the start.
And one rate cannot suit every $\lambda$. The identity with a LoRA fails with a late start, with a ratio or scale that changes, with rounding (a 16-bit $W$ loses small
moves), and with AdamW's $\varepsilon$: Delta-LoRA's gradients are $1+\lambda$ times smaller, so the effect of $\varepsilon$ is $1+\lambda$ times as large.

## Beside LoRA: counts, memory, convergence

*Held equal*: rank 4 on `q_proj` and `v_proj`, the 300 verbs, the batches of each seed, 100 steps; each technique has its own rate, which 150 steps on
validation words chose. *What would change the verdict*: curves whose bands no longer overlap at the end, or do, with rates chosen anew for these 100 steps.
"""

# %%
best_rates = rates.chosen_for("past", rates.read())
of_seeds = [ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=11, seed=seed) for seed in range(3)]
compared = {}
for name in ("lora", "delta_lora"):
    three = [ml.attach(model, name, rank=4, seed=seed) for seed in range(3)]
    losses = [ml.train(t, b, steps=100, lr=best_rates[name]["lr"], schedule="linear", warmup=10).losses
              for t, b in zip(three, of_seeds)]  # fmt: skip
    compared[ml.METHODS[name].title] = three[0], losses
row = ml.ledger(model, 32, 25, method="delta_lora", rank=4)
assert row.moved == row.base_kept > 0  # W moves in a copy, so the base stays as it was
print(f"Delta-LoRA moves {row.moved:,} bytes of W; while it trains, the base keeps as many beside them")
caption = (
    "Delta-LoRA beside LoRA: the same numbers train, and W moves in a copy, which takes the place of the base's in a step. Right: the mean loss "
    "of each ten steps, three seeds (shaded: from the least to the most), each technique at its own rate."
)
course.beside(compared, 32, 25, caption)

# %% [markdown]
r"""
**Open.** Predict, run, explain; there is no single answer. In the paper $W$ begins to move after $K = 500$ steps. What is the
purpose of this delay? Choose values of `start_step` and a measure of your own (loss, $\|\Delta W\|$, rank, the singular values
beyond the $r$-th), and say what you would need to see to call a late start better than a LoRA of a larger scale.
"""

# %% open delta_lora_own
found = {}  # start_step -> share of ‖ΔW‖² in the singular values beyond the r-th
### BEGIN SOLUTION
for start in (0, 2, 5, 10, 20):
    delta = ml.attach(model, "delta_lora", rank=4, start_step=start)
    ml.train(delta, batches, **settings)
    values = np.linalg.svd(delta.delta(layer), compute_uv=False)
    found[start] = round(float((values[4:] ** 2).sum() / (values**2).sum()), 4)
print(found)
### END SOLUTION

# %% [markdown]
r"""
## What changed, and what did not

- Every $W$ that moves is a copy: during training, several adapters can no longer share one base.
- Gradients, moments and activations are LoRA's. After 100 steps at its own rate its training loss is higher than LoRA's here, and the seeds'
  bands are apart.
- The change has at most rank $2r$. If $W$ moves from step 1, Delta-LoRA is LoRA with a larger scale; if it moves later, the scale changes
  during training. So compare it only with a LoRA whose own rate and scale are tuned as well.

Next: 08, LoRA+, which changes one number of the optimizer.
"""
