# %% [markdown]
r"""
# 08 · LoRA+: two learning rates

When you are done you can

- say why one learning rate for $A$ and $B$ cannot suit both in a wide model,
- give $B$ its own, and name the slip that is made with it,
- read a heat map of losses over rate and ratio without fooling yourself.

*Needs*: notebook 04. *Time*: 20 minutes to read, 15 to do.
*Paper*: Hayou et al. 2024, [arXiv:2402.12354](https://arxiv.org/abs/2402.12354), section 4.
*The one idea*: $B$ starts at zero and has the farther to go, so it learns faster.
"""

# %%
import numpy as np

import minilora as ml
from minilora.check import check, course
from minilora.methods import lora, lora_plus

# %% [markdown]
r"""
## One more number

Model, forward, backward, merge: all LoRA's. Only the optimizer is told

$$\eta_A = \eta,\qquad \eta_B = \text{ratio}\cdot\eta .$$

**Predict.** The learning rate is 0.002 and the ratio 16: at what rate does $B$ learn?
"""

# %% exercise lora_plus_rate
rate_of_B = None  # your number
### BEGIN SOLUTION
rate_of_B = 16 * 0.002
### END SOLUTION

# %% check lora_plus_rate
check("lora_plus_rate", rate_of_B)

# %% [markdown]
r"""
**Fill the blank.** $A$ (r, I) is the down-projection, which touches $x$; $B$ (O, r) the up-projection.
The two are easily confused, and with them the ratio.
"""

# %% exercise lora_plus_step
def lora_plus_step(A, B, dA, dB, lr, ratio):
    """One step of plain gradient descent -> A', B'."""
    ### BEGIN SOLUTION
    return A - lr * dA, B - ratio * lr * dB
    ### END SOLUTION

# %% check lora_plus_step
check("lora_plus_step", lora_plus_step)

# %% [markdown]
r"""
**Break it**: the same with the ratio on $A$.
"""

# %% exercise lora_plus_break
def broken(A, B, dA, dB, lr, ratio):
    """The ratio on the wrong factor."""
    ### BEGIN SOLUTION
    return A - ratio * lr * dA, B - lr * dB
    ### END SOLUTION

# %% check lora_plus_break
check("lora_plus_break", broken)

# %% [markdown]
r"""
In the package that is one line, and everything else is LoRA's record:
"""

# %%
record = ml.METHODS["lora_plus"]
assert record.op is lora.lora and record.init is lora.init and record.delta is lora.delta
print(lora_plus.lr_scale({"ratio": 16.0}))

# %% [markdown]
r"""
## Why: the smallest case

One output, one sample: $f = b\,(a\cdot x)$ with $\|x\|^2 = n$, $b = 0$ at the start and $p = a\cdot x$ of
order one. With error $U = f - y$ a step of gradient descent changes $f$ by

$$-\eta_B\,U p^2\;-\;\eta_A\,U b^2 n\;+\;\eta_A\eta_B\,U^2 b\,p\,n .$$

The first term is $B$ learning, the second $A$ learning. Both are of order one when $\eta_B$ is of order
one and $\eta_A$ of order $1/n$. Whoever gives both the same rate must choose it for the larger term, about
$1/\sqrt{n}$. The change, checked on numbers:
"""

# %%
rng = np.random.default_rng(0)
n, y, rate_A, rate_B = 64, 1.0, 0.002, 0.1
x, a, b = np.ones(n), rng.normal(size=n) / np.sqrt(n), 0.3
p, U = a @ x, 0.3 * (a @ x) - y
stepped = (b - rate_B * U * p) * ((a - rate_A * U * b * x) @ x)
change = -rate_B * U * p**2 - rate_A * U * b**2 * n + rate_A * rate_B * U**2 * b * p * n
assert np.isclose(stepped - b * p, change)

# %% [markdown]
r"""
Now the number of steps until $|U| < 0.01$, at several widths: once with the best single rate out of a
grid, once with $\eta_A = 0.316/n$ and $\eta_B = 1$ at every width.
"""

# %%
def steps_needed(n, rate_A, rate_B, p, y=1.0, most=200):
    """Steps of gradient descent on b and p = a·x until |f - y| < 0.01, for many p at once."""
    b, count = np.zeros_like(p), np.zeros_like(p)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(most):
            U = b * p - y
            count += ~(np.abs(U) < 0.01)
            b, p = b - rate_B * U * p, p - rate_A * U * b * n
    return np.median(count)

starts = np.abs(np.random.default_rng(0).normal(size=31))
widths, grid = [16, 256, 4096, 65536], 10.0 ** np.arange(-5, 1, 0.125)
single = [min((steps_needed(n, g, g, starts), g) for g in grid) for n in widths]
double = [steps_needed(n, 0.316 / n, 1.0, starts) for n in widths]
for n, (steps, rate), two in zip(widths, single, double):
    print(f"width {n:6}: one rate {steps:3.0f} steps at {rate:.4f}, two rates {two:3.0f} steps")

# %%
caption = (
    "The best single rate falls with the width, about as n to the power -1/2 (left), and needs more "
    "and more steps; two rates need the same number at every width (right)."
)
with course.figure(caption, width=10, height=4.2, columns=2) as (left, right):
    one, two = course.look("lora"), course.look("lora_plus")
    rates = [rate for _, rate in single]
    left.plot(widths, rates, **one)
    left.plot(widths, rates[0] * np.sqrt(16 / np.array(widths)), ":", color="#7F7F7F")
    left.set(xscale="log", yscale="log", xlabel="width n", ylabel="best single learning rate")
    right.plot(widths, [s for s, _ in single], **one | {"label": "one rate, the best"})
    right.plot(widths, double, **two | {"label": "0.316/n and 1"})
    right.set(xscale="log", xlabel="width n", ylabel="steps needed", ylim=(0, None))
    right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=12)

# %% [markdown]
r"""
## On the word lab

First a test that any implementation should pass: with ratio 1, LoRA+ is LoRA, bit for bit.
"""

# %%
model, words = ml.load_model("base"), ml.load_task("past")
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=4)
settings = {"steps": 30, "schedule": "linear", "warmup": 3}
one = ml.attach(model, "lora", rank=4)
two = ml.attach(model, "lora_plus", rank=4, ratio=1.0)
curves = [ml.train(tuned, batches, lr=1e-2, **settings).losses for tuned in (one, two)]
assert curves[0] == curves[1]
assert all(np.array_equal(one.trainable[k], two.trainable[k]) for k in one.trainable)
print(f"ratio 1: the same losses, the same arrays; the width is {model.config.hidden_size}")

# %% [markdown]
r"""
Then a grid: the mean loss over the last five of 30 steps for each pair of rate and ratio.
"""

# %%
rates, ratios = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2], [1, 4, 16, 64]
loss = np.empty((len(ratios), len(rates)))
for i, ratio in enumerate(ratios):
    for j, lr in enumerate(rates):
        tuned = ml.attach(model, "lora_plus", rank=4, ratio=ratio)
        loss[i, j] = np.mean(ml.train(tuned, batches, lr=lr, **settings).losses[-5:])
best = [f"{rates[j]:g}" for j in loss.argmin(axis=1)]
print("best rate of each ratio:", dict(zip(ratios, best)))

# %% figure
def draw(ratio=1):
    """The heat map, with one ratio's row framed, and in the title its best cell."""
    row = ratios.index(ratio)
    with course.figure(caption, width=9, height=4.7) as axes:
        axes.imshow(np.log(loss), cmap="cividis", aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(loss):
            light = np.log(value) < np.log(loss).mean()
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if light else "k")
        axes.axhspan(row - 0.5, row + 0.5, fill=False, ec="#D55E00", lw=4)
        axes.set_xticks(range(len(rates)), [f"{lr:g}" for lr in rates])
        axes.set_yticks(range(len(ratios)), ratios)
        axes.set(xlabel="learning rate of A", ylabel="ratio, B's rate over A's")
        axes.set_title(f"ratio {ratio}: best at {rates[loss[row].argmin()]:g}, loss {loss[row].min():.2f}")
        axes.grid(visible=False)

caption = (
    "Loss after 30 steps over A's learning rate and the ratio; darker is lower. The framed row is "
    "ratio 1: plain LoRA. Higher up the dark cells lie further left: a larger ratio wants a smaller rate."
)
draw()

# %%
course.explore(draw, ratio=[1, 4, 16, 64])

# %%
row = loss.min(axis=1)
print("the lowest loss of each ratio:", dict(zip(ratios, row.round(2).tolist())))
print(f"the best cell has ratio {ratios[row.argmin()]}")
assert row.min() > 0.3 * row[0]  # no ratio is another world than ratio 1, once the rate is tuned

# %% [markdown]
r"""
## How to read it

Along one column, at a fixed small rate, a larger ratio looks like a great gain: it is mostly a larger rate
for $B$. The fair question is each ratio at *its own* best rate, the second table above. At a width of 128
with AdamW the ratio matters little, and the theory speaks of the limit of large width, so that is no
contradiction, and no confirmation either. Weight decay acts through the rate, so $B$ decays faster, too.

## What changed, and what did not

- One number in the optimizer; parameters, bytes and time are LoRA's.
- The rate has to be searched together with the ratio.
- Thirty steps, one seed, one small task: a figure to practise reading on, no verdict.
"""
