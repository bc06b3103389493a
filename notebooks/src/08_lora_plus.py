# %% [markdown]
r"""
# 08 · LoRA+: two learning rates

When you are done you can

- say why one learning rate cannot suit both $A$ and $B$ if a model is wide, and what it costs,
- give $B$ its own rate, and name the common slip,
- read a heat map of losses over rate and ratio, and say what a theory of large widths does not say.

*Needs*: notebook 04. *Time*: 45 minutes to read, 60 to do.
*Paper*: Hayou et al. 2024, [arXiv:2402.12354](https://arxiv.org/abs/2402.12354), sections 3 and 4.
*Symbols*: the table in notebook 03. *The one idea*: at equal rates the steps of $A$ and of $B$ change the output by
different orders in the width.
"""

# %%
import dataclasses

import numpy as np

import minilora as ml
from minilora.lab import rates as lab_rates
from minilora.lab.statistics import estimate
from minilora.methods import lora, lora_plus
from minilora_course import check, course

# %% [markdown]
r"""
## One more number

Model, forward, backward and merge are LoRA's. Only the optimizer changes:

$$\eta_A = \eta,\qquad \eta_B = \text{ratio}\cdot\eta .$$

**Fill the blank.** $A$ (r, I) is the down-projection, which multiplies $x$; $B$ (O, r) is the up-projection.
The two are easily confused, and then the ratio goes to the wrong one.
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
In the package it is one line, too: a factor of the learning rate for $B$. Everything else is LoRA's record. The figure shows the first step of $B$
at the rate 0.002 and the ratio 16, so at 0.032; `minilora step --method lora_plus` draws the whole step.
"""

# %%
course.keep("lora_plus_step", lora_plus_step)
record = ml.METHODS["lora_plus"]
assert record.op is lora.lora and record.init is lora.init and record.delta is lora.delta
assert lora_plus.lr_scale({"ratio": 16.0}) == {"B": 16.0}

model, words = ml.load_model("base"), ml.load_task("past")
verb = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
trace = ml.trace(ml.attach(model, "lora_plus", rank=4, ratio=16.0), *verb, lr=0.002)
caption = (
    "AdamW's line for B of one layer, at the rate 0.002 and the ratio 16: p is B after the step, m the mean of its gradients, "
    "v that of their squares. m is large in a few rows alone, and Δp is dark in all: Adam moves every number by about its rate, "
    "0.032, however small its gradient is."
)
course.show(trace.figure("LoRA+ moves B farther"), caption)

# %% [markdown]
r"""
## Why: two contributions to one output

The smallest LoRA has one output and rank 1: $f = b\,z$ with $z = a\cdot x$. The row $a$ is $A$ and the number $b$ is
$B$. The width $n$ is the length of $x$, whose numbers are of order one, so $\|x\|^2$ is about $n$. At the start $b = 0$,
and $z$ is of order one: it neither grows nor shrinks with $n$. With the error $e = f - y$ the gradients are $db = e\,z$ and $da = e\,b\,x$. (The paper writes $a^\top x$ for $z$, and $U$ for
$e$.) A step changes $f$ by

$$\Delta f = b\,\Delta z + \Delta b\,z + \Delta b\,\Delta z .$$

The first term is the contribution of $A$, the second that of $B$. **With Adam** every number moves by about its rate,
however small its gradient is. So $|\Delta b|$ is about $\eta_B$. But $\Delta z = \Delta a\cdot x$ sums $n$ products
$\Delta a_i\,x_i$. They all have the same sign, because $\Delta a_i$ has the sign of $-e\,b\,x_i$. So $|\Delta z|$ is about
$\eta_A\sum_i|x_i|$, of order $\eta_A n$. With $b$ and $z$ of order one:

| contribution | in general | equal rates $\eta$ | $\eta_A$ of order $1/n$, $\eta_B$ of order 1 |
|---|---|---|---|
| of $A$: $b\,\Delta z$ | $b\,\eta_A n$ | $\eta n$ | 1 |
| of $B$: $\Delta b\,z$ | $\eta_B\,z$ | $\eta$ | 1 |

At equal rates $A$ contributes $n$ times as much as $B$. If $A$'s part is of order one, $B$'s part vanishes as the width
grows. If both are of order one, the paper calls it **efficient feature learning**. That needs a ratio of order $n$.
(With a single rate of order $1/\sqrt n$ both parts are of order one again, but only because $z$ itself grows to order $\sqrt n$ and $b$
stays at $1/\sqrt n$: put them into the table. So $f$ learns, but $z$, the input of $B$, does not stay of order one.)

**Do it.** At the widths 64, 1024 and 16384 draw $x$ from a normal distribution, and $a$ from one divided by $\sqrt n$, so that $z$ is of
order one. Take $b = 1$, $y = 1$ and one rate. Adam's first step is minus the rate times the sign of the gradient. Print
$A$'s part divided by $B$'s part. Does it grow as $n$? One draw of $1/|z|$ is random: divide the number by $n/|z|$, or take the median of 31 draws.
"""

# %% open lora_plus_parts
rng = np.random.default_rng(0)
### BEGIN SOLUTION
for n in (64, 1024, 16384):
    x, a, b, rate = rng.normal(size=n), rng.normal(size=n) / np.sqrt(n), 1.0, 1e-3
    z = a @ x
    e = b * z - 1.0  # the error, for y = 1: db = e z, da = e b x
    from_A = b * (-rate * np.sign(e * b * x)) @ x  # Adam's first step: the rate times a sign
    from_B = -rate * np.sign(e * z) * z
    print(f"width {n:6}: A contributes {abs(from_A / from_B):9.1f} times B's part, {abs(from_A / from_B * z) / n:.2f} n / |z|")
### END SOLUTION

# %% [markdown]
r"""
## Gradient descent: where the best single rate lies

Without Adam $\Delta b = -\eta_B\,e z$ and $\Delta z = -\eta_A\,e b\,n$, so that

$$\Delta f = -\eta_B\,e z^2\;-\;\eta_A\,e b^2 n\;+\;\eta_A\eta_B\,e^2 b\,z\,n .$$

*Two rates.* With $\eta_B$ of order one and $\eta_A$ of order $1/n$ all three terms are of order one, at every width, as long as $b$
and $z$ are of order one.

*One rate.* If $z$ stayed of order one, $b$ would have to become of order one to reach $y$, and the second term would
allow no more than $\eta \sim 1/n$. But $z$ does not stay. For small steps $\Delta z/\Delta b = n b/z$, so
$z\,\Delta z = n\,b\,\Delta b$, and **$z^2 - n b^2$ keeps its initial value, $z_0^2$**. At the end $b\,z = y$. These are two
equations for $z^2$ and $nb^2$: their difference is $z_0^2$ and their product is $n y^2$. So their sum is

$$z^2 + n b^2 = \sqrt{z_0^4 + 4 n y^2}\;\approx\;2\sqrt n\,|y| ,\qquad
z \approx n^{1/4}\sqrt{|y|},\qquad |b| \approx n^{-1/4}\sqrt{|y|} .$$

**$z$ grows as $n^{1/4}$ while $b$ falls as $n^{-1/4}$.** Near the end each step multiplies $e$ by
$1 - \eta\,(z^2 + n b^2)$: descent diverges for $\eta > 2/(z^2 + nb^2)$ and is fastest at half of that, so the best $\eta$ is of
order $1/\sqrt n$. On the way $z$ has to grow from order one to $n^{1/4}$, by a factor $1 + \eta\sqrt n\,|y|$ per step, which
at this rate does not depend on $n$. So the number of steps grows as $\log n$.

**Predict.** Suppose that at width 64 the best single rate is 0.1. What is the best rate at width 1024?
"""

# %% exercise lora_plus_width
best_at_1024 = None  # your number
### BEGIN SOLUTION
best_at_1024 = 0.1 / np.sqrt(1024 / 64)
### END SOLUTION

# %% check lora_plus_width
check("lora_plus_width", best_at_1024)

# %% [markdown]
r"""
**Do it.** $f$ before and after one step, and the three terms of the formula: are they the same?
"""

# %% open lora_plus_change
n, y, rate_A, rate_B = 64, 1.0, 0.002, 0.1
x, a, b = np.ones(n), rng.normal(size=n) / np.sqrt(n), 0.3
### BEGIN SOLUTION
z, e = a @ x, 0.3 * (a @ x) - y
stepped = (b - rate_B * e * z) * ((a - rate_A * e * b * x) @ x)
change = -rate_B * e * z**2 - rate_A * e * b**2 * n + rate_A * rate_B * e**2 * b * z * n
assert np.isclose(stepped - b * z, change)
### END SOLUTION

# %% [markdown]
r"""
Now run descent until $|e| < 0.01$ at several widths, from 31 draws of $z_0$: with the best single rate of a grid, and with
$\eta_A = 0.316/n$, $\eta_B = 1$ at every width. What are $z$ and $b$ at the end? **Fill the blank**: the descent, for all
starts at once. In a step $b$ and $z$ both use the $e$, $b$ and $z$ from before the step. A start that has converged, with $|e| < 0.01$,
does not move any more. One that never converges counts 200 steps: some rates are too small, and some diverge, to infinity and NaN.
"""

# %% exercise lora_plus_descend
def lora_plus_descend(n, rate_A, rate_B, z):
    """200 steps, or more, from b = 0 and z (starts,), for y = 1 -> steps until |e| < 0.01, b, z there."""
    ### BEGIN SOLUTION
    b, count = np.zeros_like(z), np.zeros_like(z)
    for _ in range(200):
        e = np.where(np.abs(b * z - 1) < 0.01, 0, b * z - 1)  # a converged start stays
        count += e != 0
        b, z = b - rate_B * e * z, z - rate_A * e * b * n  # db = e z, dz = e b n
    return count, b, z
    ### END SOLUTION

# %% check lora_plus_descend
check("lora_plus_descend", lora_plus_descend)

# %%
course.keep("lora_plus_descend", lora_plus_descend)
yours = course.mine("lora_plus_descend")

def descend(n, rate_A, rate_B, z):
    """Medians over the starts of the steps, of |b| and of z."""
    with np.errstate(over="ignore", invalid="ignore"):  # a rate that is too large diverges
        count, b, z = yours(n, rate_A, rate_B, z)
    return np.median(count), np.median(np.abs(b)), np.median(z)

starts = np.abs(np.random.default_rng(0).normal(size=31))
widths, grid = 4 ** np.arange(2, 11), 10.0 ** np.arange(-4, 0, 0.125)
best = [min((descend(n, g, g, starts)[0], g) for g in grid)[1] for n in widths]
single = np.array([(rate, *descend(n, rate, rate, starts)) for n, rate in zip(widths, best)])
double = [descend(n, 0.316 / n, 1.0, starts)[0] for n in widths]
slopes = dict(zip(["rate", "|b|", "z"], np.polyfit(np.log(widths), np.log(single[:, [0, 2, 3]]), 1)[0]))
print("as n to the power", {name: round(float(slope), 3) for name, slope in slopes.items()})
wanted = dict(zip(slopes, [-1 / 2, -1 / 4, 1 / 4]))
assert all(abs(slopes[name] - wanted[name]) < 0.03 for name in wanted), f"got {slopes}, wanted about {wanted}"
print("steps:", dict(zip(widths.tolist(), zip(single[:, 1].astype(int).tolist(), map(int, double)))))

# %%
caption = (
    "One number, one sample, gradient descent at the best single rate. Left: the rate falls as n^-1/2, z at "
    "the end grows as n^1/4, and b falls as n^-1/4 (dotted: exactly so). Right: its steps grow with the "
    "logarithm of the width; with two rates they do not grow."
)
with course.figure(caption, width=8, height=4.2, columns=2) as (left, right):
    kinds = [(3, "z at the end", "#009E73", "D", 1 / 4), (2, "b at the end", "#CC79A7", "^", -1 / 4),
             (0, "best single rate", course.look("lora")["color"], "o", -1 / 2)]  # fmt: skip
    for column, label, colour, marker, power in kinds:
        line = single[:, column]
        left.plot(widths, line[0] * (widths / widths[0]) ** power, ":", color="#7F7F7F")
        left.plot(widths, line, marker, color=colour, label=label)
    left.set(xscale="log", yscale="log", xlabel="width n")
    left.legend(loc="lower left", fontsize=11)
    right.plot(widths, single[:, 1], **course.look("lora") | {"label": "the best single rate"})
    right.plot(widths, double, **course.look("lora_plus") | {"label": "0.316/n and 1"})
    right.set(xscale="log", xlabel="width n", ylabel="steps until |f − y| < 0.01", ylim=(0, 14))
    right.legend(loc="lower right", fontsize=11)
    for axes in (left, right):
        axes.set_xticks([100, 10_000, 1_000_000], ["100", "10,000", "1,000,000"])

# %% [markdown]
r"""
## A layer under AdamW: what five seeds can tell

The paper's statement is about $n \to \infty$, and about orders. Which ratio is best for a layer of a real width? The study
`studies/lora_plus.py` trains one layer $\text{relu}(Wx)$ with LoRA of rank 4 under AdamW, at every pair of 13 × 13 rates.
The record has the steps to a tenth of the loss. Among the pairs within 5 % of the fewest steps, what is the mean of
$\log_{10}(\eta_B/\eta_A)$? The theory says: it grows by 1 for each factor 10 in the width, whatever the constant.

*Held equal*: the rank, the rows, the grid of rates, the limit of 120 steps; a seed draws the layer and its task. *What would change
the verdict*: of the sign at a width, an interval that has 0 in it; of the growth, an interval of the slope with 1 in it and not 0, or
the other way round.
"""

# %%
def preferred(run):
    """Mean log₁₀ η_B / η_A of the pairs of rates that are within 5 % of the fewest steps."""
    steps = np.array(run["result"]["steps"], float)  # a row each η_A; None, too many, is nan
    a, b = np.where(steps <= 1.05 * np.nanmin(steps))
    logs = np.log10(run["cell"]["rates"])
    return float((logs[b] - logs[a]).mean())

layers = course.records("lora_plus", kind="layer")
sizes = sorted({run["cell"]["width"] for run in layers})
ratios = {n: estimate(preferred(run) for run in layers if run["cell"]["width"] == n) for n in sizes}
for n, ratio in ratios.items():
    side = {1: "the larger rate on B", -1: "the larger rate on A", 0: "cannot be told from equal"}[ratio.sign]
    print(f"width {n:4}: log₁₀ η_B/η_A = {ratio:+.2f|.2f} over {ratio.n} seeds: {side}")
seeds = sorted({run["cell"]["seed"] for run in layers})
of_seed = [[preferred(run) for n in sizes for run in layers if (run["cell"]["width"], run["cell"]["seed"]) == (n, seed)]
           for seed in seeds]  # fmt: skip
slope = estimate(np.polyfit(np.log10(sizes), logs, 1)[0] for logs in of_seed)
low, high = slope.mean - slope.margin, slope.mean + slope.margin
print(f"it changes by {slope.mean:+.2f} ± {slope.margin:.2f} for each factor 10 in the width (95 % interval)")
told = {(True, True): "cannot tell: neither 0 nor 1 is ruled out", (True, False): "it does not grow as the theory's",
        (False, True): "it grows, and 1 is possible", (False, False): "neither 0 nor 1"}  # fmt: skip
print("the growth:", told[low <= 0 <= high, low <= 1 <= high])
assert [ratios[n].sign for n in (64, 128, 256)] == [-1] * 3 and low < 0 < 1 < high  # what the text below says

# %%
caption = (
    "One layer under AdamW: the ratio of the fastest pairs of rates, mean and 95 % interval over the seeds, "
    "by width. Above the line B has the larger rate, below it A. Dotted: how the theory's ratio grows."
)
with course.figure(caption, width=7, height=3.8) as axes:
    means = [ratio.mean for ratio in ratios.values()]
    margins = [ratio.margin for ratio in ratios.values()]
    axes.errorbar(sizes, means, margins, capsize=5, **course.look("lora_plus") | {"label": "measured"})
    axes.plot(sizes, means[0] + np.log10(np.divide(sizes, sizes[0])), ":", color="#7F7F7F", label="grows as n")
    axes.axhline(0, color="#222222", lw=1)
    axes.set(xlabel="width n", ylabel=r"$\log_{10}(\eta_B\,/\,\eta_A)$", xscale="log")
    axes.set_xticks(sizes, sizes)
    axes.legend(loc="upper left")

# %% [markdown]
r"""
So the answer about the growth is **cannot tell**: five seeds and a factor of 8 in the width rule out neither the theory's slope nor a slope of 0.
Only the sign is clear: at the widths 64 to 256 the larger rate is $A$'s, on this task. A statement
about orders leaves two things open. First the constant: at a given width the best ratio may be 1, or less. Second, from which width on the growth can be seen. One possible reason for the sign, which we do not test: the table above has one sample, and its $n$
products $\Delta a_i\,x_i$ all have the same sign. With new rows $x$ in every step they do not, and $A$'s part grows more slowly with $n$.

## On the word lab

First, a test that every implementation should pass: with ratio 1, LoRA+ is LoRA, bit for bit.
"""

# %%
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=4)
settings = {"steps": 30, "schedule": "linear", "warmup": 3}
one = ml.attach(model, "lora", rank=4)
two = ml.attach(model, "lora_plus", rank=4, ratio=1.0)
curves = [ml.train(tuned, batches, lr=1e-2, **settings).losses for tuned in (one, two)]
assert curves[0] == curves[1]
assert all(np.array_equal(one.trainable[k], two.trainable[k]) for k in one.trainable)
print(f"ratio 1: the same losses, the same arrays; the width is {model.config.hidden_size}")

step = course.mine("lora_plus_step")

def factors(options):
    """Of A's and B's rate, read off your step: how far it moves a 0 whose gradient is -1, at the rate 1."""
    moved = step(*np.zeros((2, 1)), *-np.ones((2, 1)), 1.0, options["ratio"])
    return {name: a.item() for name, a in zip("AB", moved)}

mine = dataclasses.replace(course.technique("lora_plus", "lora_pair"), lr_scale=factors)
both = [ml.train(ml.attach(model, t, rank=4, ratio=16.0), batches, lr=2e-3, **settings).losses
        for t in (mine, "lora_plus")]  # fmt: skip
assert np.allclose(*both, rtol=1e-3)
print("ratio 16, with your pair of notebook 04 and your two rates: LoRA+'s losses, to 1e-3")

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
    with course.figure(caption, width=7, height=4) as axes:
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
print(f"the best cell has ratio {ratios[row.argmin()]}, in one run of one seed each")

# %% [markdown]
r"""
## How to read it

Along one column, at a fixed small rate, a larger ratio looks like a great gain. But it is mostly a larger rate
for $B$. A fair comparison takes each ratio at *its own* best rate, the second table above, with more than one seed:
`docs/claims.md` has that. AdamW multiplies weight decay by the rate, so $B$ decays faster, too.

**Open.** Predict, run, explain; there is no single answer. The paper's ratio acts on the *product* of two things: how
fast $B$ moves, and how fast $A$ does. Hold $\eta_A\eta_B$ fixed and change the ratio from 1/16 to 64. Where do you expect
the lowest loss, and which result would convince you that $B$ needs the larger rate?
"""

# %% open lora_plus_own
product, tried = 1e-4, {}  # η_A η_B; ratio -> loss
### BEGIN SOLUTION
for ratio in (1 / 16, 1 / 4, 1, 4, 16, 64):
    tuned = ml.attach(model, "lora_plus", rank=4, ratio=ratio)
    history = ml.train(tuned, batches, lr=np.sqrt(product / ratio), **settings)
    tried[ratio] = round(float(np.mean(history.losses[-5:])), 2)
print(tried)
### END SOLUTION

# %% [markdown]
r"""
## Beside LoRA: counts, memory, convergence

*Held equal*: rank 4 on `q_proj` and `v_proj`, the 300 verbs, the batches of each seed, 100 steps; each technique has its own rate, which 150 steps on validation
words chose. *What would change the verdict*: curves whose bands no longer overlap at the end, with rates chosen anew for these 100 steps.
"""

# %%
best_rates = lab_rates.chosen_for("past", lab_rates.read())
of_seeds = [ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=11, seed=seed) for seed in range(3)]
runs = {}
for name in ("lora", "lora_plus"):
    tuned = [ml.attach(model, name, rank=4, seed=seed) for seed in range(3)]
    losses = [ml.train(t, b, steps=100, lr=best_rates[name]["lr"], schedule="linear", warmup=10).losses
              for t, b in zip(tuned, of_seeds)]  # fmt: skip
    runs[ml.METHODS[name].title] = tuned[0], losses
caption = (
    "LoRA+ beside LoRA: the same numbers train, and a step on 32 texts of 25 tokens holds the same bytes. Right: the mean loss "
    "of each ten steps, three seeds (shaded: from the least to the most), each technique at its own rate."
)
course.beside(runs, 32, 25, caption)

# %% [markdown]
r"""
## What changed, and what did not

- LoRA+ changes one number in the optimizer; parameters, bytes and time are LoRA's. After 100 steps, each at its own rate, the seeds' bands of the two losses overlap:
  these three seeds show no difference.
- Tune the rate and the ratio together.
- We derived the theory and saw it in its own setting: one output, growing width. Five seeds at widths 64 to 512 do not show
  whether a layer's best ratio grows; up to 256 it is below 1.
- The heat map has thirty steps, one seed and one small task: use it to practise reading, not as a verdict.

Next: 09, the kernels that make a step fast.
"""
