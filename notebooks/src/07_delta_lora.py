# %% [markdown]
r"""
# 07 · Delta-LoRA: let the frozen weight move

When you are done you can

- write Delta-LoRA's step, in which $W$ moves without a gradient of its own,
- prove how large a rank $W$'s change can reach, and see it reached,
- say what Delta-LoRA is when $W$ moves from the very first step.

*Needs*: notebook 04. *Time*: 25 minutes to read, 20 to do.
*Paper*: Zi et al. 2023, [arXiv:2309.02411](https://arxiv.org/abs/2309.02411), algorithm 1.
*The one idea*: $W$ follows the product $BA$ from step to step; and what that adds up to telescopes.
"""

# %%
import numpy as np

import minilora as ml
from minilora.check import check, check_pair, course
from minilora.methods import delta_lora

# %% [markdown]
r"""
## A weight that follows

$W$ is too large for moments of its own. Delta-LoRA moves it by what it has anyway: after every step of
AdamW on $A$ and $B$, the change of their product,

$$W \leftarrow W + \lambda\,s\,(B'A' - BA),$$

with $\lambda$ the *update ratio* (2 in the paper). Forward and backward are LoRA's, without dropout: then
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
**Fill the blank**: one step, with plain gradient descent in AdamW's place.
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
**Break it.** A first implementation in the wild used $(B'-B)(A'-A)$. Write that one.
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

the slip keeps the one term that is second order in the step, and drops the two that matter. The package
keeps copies of the old factors and moves $W$ by one product of rank $2r$, in place:
"""

# %%
lr, ratio = 0.01, 2.0
_, _, _, dA, dB, *_ = record.op.backward(dy, record.op.forward(x, W, s, A, B)[1])
arrays = {"W": W.copy(), "s": s, "A": A - lr * dA, "B": B - lr * dB}
delta_lora.after_step(arrays, (A, B), 1, {"update_ratio": ratio, "start_step": 0})
right = ratio * s * (arrays["B"] @ arrays["A"] - B @ A)
slip = ratio * s * (arrays["B"] - B) @ (arrays["A"] - A)
assert np.allclose(arrays["W"] - W, right)
print(f"the slip moves W {np.linalg.norm(slip) / np.linalg.norm(right):.3f} times as far")

# %% [markdown]
r"""
## What does it add up to?

$W$ begins to move after step $K$, with the factors $A_K, B_K$ of that moment. **Predict.** Rank 3, $W$
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

The moves are differences of successive products, and all but the ends cancel:

$$W_T - W_0 = \lambda s\,(B_T A_T - B_K A_K).$$

Two products of rank $r$: at most $2r$, after however many steps. Trained in float64, so that rank can be
read off; two runs that differ in $K$:
"""

# %%
model, words = ml.load_model("base"), ml.load_task("past")
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=8, epochs=2)
wide, layer = model.astype(np.float64), "model.layers.0.self_attn.q_proj"
W0 = wide.params[f"{layer}.weight"]

def rank_of_move(tuned):
    """The rank of W - W₀ in one layer: singular values that are no rounding."""
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
    "Rank of W - W₀ at r = 4. If the moves did not cancel, each could add 2r (dotted). They do: W "
    "passes r only where it starts late, and stops at 2r."
)
with course.figure(caption, height=4.6) as axes:
    moves = [min(2 * 4 * n, 64) for n in range(8)]
    axes.plot(range(5, 13), moves, ls=":", color="#7F7F7F", label="if moves did not cancel")
    colour, marker = course.look("delta_lora")["color"], course.look("delta_lora")["marker"]
    axes.plot(ranks[5], color=colour, marker=marker, label="W moves from step 6")
    axes.plot(ranks[0], color=colour, ls="--", label="W moves from step 1")
    axes.set(xlabel="optimizer steps taken", ylabel="rank of W - W₀", ylim=(-1, 34))
    axes.set(xticks=range(0, 21, 4), yticks=[0, 4, 8, 16, 24, 32])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=12)

# %%
arrays = tuned[5].layers[layer]
product = arrays["B"] @ arrays["A"] - arrays["B_start"] @ arrays["A_start"]
error = np.abs(arrays["W"] - W0 - 2.0 * arrays["s"] * product).max()
assert error < 1e-12
print("W - W₀ = λ s (B A - B_K A_K), to 1e-12")

# %% [markdown]
r"""
So the whole of what was learned is a product of rank $2r$, and is saved as an ordinary LoRA of twice the
rank: $s\,[(1+\lambda)B,\ -\lambda B_K]\,[A;\ A_K]$, on the untouched base.
"""

# %%
left, right = tuned[5].factors(layer)
print("factors", left.shape, right.shape)
assert np.allclose(arrays["s"] * left @ right, tuned[5].delta(layer), atol=1e-12)

# %% [markdown]
r"""
## From the first step: a LoRA with a larger scale

With $K = 0$, $B_K = 0$: all that was learned is $(1+\lambda)\,s\,BA$. The forward pass never sees anything
else, and gradients differ by the factor $1+\lambda$, which AdamW divides out. So Delta-LoRA with scale
$s$ should train as LoRA does with scale $(1+\lambda)s$:
"""

# %%
settings = {"steps": 40, "lr": 5e-3, "schedule": "linear", "warmup": 4}
delta = ml.attach(wide, "delta_lora", rank=4, alpha=8, update_ratio=2.0, start_step=0)
scaled = ml.attach(wide, "lora", rank=4, alpha=24)  # s = 6 = (1 + 2) · 2
one, two = (ml.train(t, batches, **settings).losses for t in (delta, scaled))
gap = np.abs(np.subtract(one, two)).max()
assert gap < 1e-4
print("the two loss curves agree to 1e-4 over all 40 steps")

# %%
caption = "Delta-LoRA (s = 2, λ = 2, W moves from step 1) and LoRA with s = 6: one curve, not two."
with course.figure(caption, height=3.8) as axes:
    steps = range(1, 41)
    axes.plot(steps, two, color=course.look("lora")["color"], lw=6, alpha=0.4, label="LoRA, s = 6")
    axes.plot(steps, one, color=colour, lw=1.8, label="Delta-LoRA, s = 2, λ = 2")
    axes.set(yscale="log", xlabel="optimizer steps", ylabel="cross-entropy\n(nats per token)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

# %% [markdown]
r"""
### λ, and a late start

With $K = 10$ the first ten steps are LoRA's at scale $s$, and those after it as if the scale had grown
to $(1+\lambda)s$. **Predict** what $\lambda = 0$ gives, then turn $\lambda$ up.
"""

# %%
late = {}
for ratio in (2, 0, 0.5, 1, 4, 8):
    delta = ml.attach(model, "delta_lora", rank=4, alpha=8, update_ratio=ratio, start_step=10)
    scaled = ml.attach(model, "lora", rank=4, alpha=8 * (1 + ratio))
    late[ratio] = [ml.train(t, batches, **settings).losses for t in (delta, scaled)]
assert late[0][0] == late[0][1]  # λ = 0 is LoRA, to the bit
assert all(run[0][:10] == late[0][0][:10] for run in late.values())  # W has not moved yet

def draw(ratio):
    caption = (
        f"Delta-LoRA with λ = {ratio:g} whose W moves from step 11 (line), and LoRA with "
        f"s = {2 * (1 + ratio):g} from the start; in grey Delta-LoRA at other λ."
    )
    with course.figure(caption, height=3.8) as axes:
        for one, _ in late.values():
            axes.plot(steps, one, color="#BFBFBF", lw=1)
        one, two = late[ratio]
        axes.plot(steps, two, color=course.look("lora")["color"], lw=6, alpha=0.4, label="LoRA")
        axes.plot(steps, one, color=colour, lw=2, label="Delta-LoRA")
        axes.axvline(10, ls=":", color="#7F7F7F")
        axes.set(yscale="log", xlabel="optimizer steps", ylabel="cross-entropy\n(nats per token)")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

draw(2)
course.explore(draw, ratio=list(late))

# %% [markdown]
r"""
What breaks the identity: a late start, a ratio or scale that changes, rounding (a 16-bit $W$ loses small
moves), AdamW's ε, which is a part in $1+\lambda$ smaller against these gradients.

## What it costs
"""

# %%
for name in ("lora", "delta_lora"):
    row = ml.ledger(model, 32, 25, method=name, rank=4)
    print(f"{ml.METHODS[name].title:10} trains {row.trainable:,} bytes, moves {row.moved:,} more, "
          f"keeps {row.activations:,} for backward")
assert row.moved == row.base_kept > 0  # W moves in a copy, for detach to give the base back

# %% [markdown]
r"""
## What changed, and what did not

- Every $W$ that moves is a copy: the base can no longer be shared while training.
- Gradients, moments and activations are LoRA's.
- The change is of rank $2r$ at most. What is gained over LoRA is, in the end, a larger scale and a late
  switch to it: compare only with LoRA's own rate and scale tuned as well.

Next: 08, LoRA+, which changes one number of the optimizer.
"""
