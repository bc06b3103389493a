# %% [markdown]
r"""
# 15 · A base in four bits: QLoRA

When you are done you can

- predict the bytes of a frozen weight in four bits, and write the functions that quantise and dequantise it,
- say what blocks, quantiles, a zero level and a second quantisation are good for, by measuring without each of them,
- write LoRA's pair on such a weight, and say what four bits save in a training step and what they do not save.

*Needs*: notebook 04, and 03 for the symbols. *Time*: 40 minutes to read, 95 to do.
*Paper*: Dettmers et al. 2023, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314), sections 2 and 3.
*Symbols*: the table there; $\hat W$ is the dequantised $W$. *The one idea*: a weight that never trains can be
stored with low precision, if it is dequantised for each product.
"""

# %%
from statistics import NormalDist

import numpy as np

import minilora as ml
from minilora.check import check_pair
from minilora.lab.statistics import estimate
from minilora.llama.shapes import SHAPES
from minilora.methods import lora
from minilora.ops import nf4
from minilora_course import check, course

LEVELS = np.array(nf4.LEVELS)
model, words = ml.load_model("base"), ml.load_task("past")
linears = [f"{name}.weight" for name in model.config.linears()]

# %% [markdown]
r"""
## Codes and scales

LoRA needs $W$ for two products, $xW^\top$ and $dy\,W$, and never changes it. So $W$ may be stored in fewer bits. Cut it into
**blocks** of 64 weights, row by row. A block keeps one number in float32, its largest absolute value **absmax** $= \max|w|$, and a **code** of 4 bits
for each weight: the index of one of 16 **levels** between -1 and 1. The dequantised weight is

$$\hat w = \text{level}[\text{code}]\cdot\text{absmax}.$$

**Predict.** SmolLM2 has a q_proj of 576 × 576. How many bytes does it need?
"""

# %% exercise four_bytes
q_proj_bytes = None  # your number
### BEGIN SOLUTION
q_proj_bytes = 576 * 576 // 2 + 4 * (576 * 576 // 64)
### END SOLUTION

# %% check four_bytes
check("four_bytes", q_proj_bytes)

# %% [markdown]
r"""
**Fill the blanks**: quantise and dequantise. Each row of `w` is a block. The code of a weight belongs to the level *nearest* to $w/\text{absmax}$.
The cell below them compares yours with the package's (`minilora/ops/nf4.py`) on a real $W$: the first q_proj of the word lab's base.
"""

# %% exercise four_quantise
def four_quantise(w, levels):
    """w (n, b), levels (L,) rising from -1 to 1 -> codes (n, b) whole numbers, absmax (n, 1)."""
    ### BEGIN SOLUTION
    absmax = np.abs(w).max(axis=1, keepdims=True)
    codes = np.abs((w / absmax)[..., None] - levels).argmin(axis=-1)
    return codes, absmax
    ### END SOLUTION

# %% check four_quantise
check("four_quantise", four_quantise)

# %% exercise four_dequantise
def four_dequantise(codes, absmax, levels):
    """codes (n, b), absmax (n, 1), levels (L,) -> w (n, b)."""
    ### BEGIN SOLUTION
    return levels[codes] * absmax
    ### END SOLUTION

# %% check four_dequantise
check("four_dequantise", four_dequantise)

# %%
course.keep("four_quantise", four_quantise)
course.keep("four_dequantise", four_dequantise)
quantise, dequantise = course.mine("four_quantise", "four_dequantise")

def coded(W, levels=LEVELS, block=64):
    """Codes and scales of W; block: weights that share a scale."""
    codes, absmax = quantise(np.float64(W).reshape(-1, block), levels)
    return np.array(codes, int), np.array(absmax)

def read_back(W, levels=LEVELS, block=64):
    """W in codes and scales, and back."""
    return np.reshape(dequantise(*coded(W, levels, block), levels), W.shape)

def error(W_hat, W):
    """Root mean square of the difference, as a share of W's."""
    return np.linalg.norm(np.float64(W_hat) - W) / np.linalg.norm(np.float64(W))

W = model.params[linears[0]]
codes, absmax = nf4.block_codes(W.reshape(-1), 64, np.float32(LEVELS))
assert np.allclose(read_back(W), (LEVELS[codes].reshape(-1, 64) * absmax[:, None]).reshape(W.shape), atol=1e-6)
print(f"{linears[0]}: W moves by {error(read_back(W), W):.1%} of its size, with yours and with the package's")

# %% [markdown]
r"""
## Where the levels are

Most weights are near 0, as if drawn from a normal distribution. With equally spaced levels, the few around 0 would get most weights, and those
at the ends nearly none. NF4, for *normal float*, puts the levels at **quantiles**: equal steps of probability, so each level gets an equal share of
normally distributed weights. There are two details. One level must be exactly 0; so the two halves are computed separately, 7 levels below it and 8
above. And the quantile of the probability 1 is infinite: each half ends at `edge` $= 0.9677$, and all levels are divided by the quantile of `edge`.

**Fill the blank.** The upper half takes equal steps of probability from 1/2, whose quantile is 0, to `edge`; the lower half is its mirror image, with one level fewer.

Then **break it**. Leave out the zero level: 16 quantiles in equal steps of probability from 1 - `edge` to `edge`, both halves at once.
"""

# %% exercise four_levels
def four_levels(quantile, below, above, edge):
    """quantile(p), p a number or an array -> levels (below + 1 + above,), rising from -1 to 1."""
    ### BEGIN SOLUTION
    up = quantile(np.linspace(0.5, edge, above + 1))  # its first is 0
    down = -quantile(np.linspace(0.5, edge, below + 1))[:0:-1]
    return np.concatenate([down, up]) / quantile(edge)
    ### END SOLUTION

# %% check four_levels
check("four_levels", four_levels)

# %% exercise four_break
def broken(quantile, below, above, edge):
    """The same arguments; no level at 0."""
    ### BEGIN SOLUTION
    return quantile(np.linspace(1 - edge, edge, below + 1 + above)) / quantile(edge)
    ### END SOLUTION

# %% check four_break
check("four_break", broken)

# %% [markdown]
r"""
**Predict** for the 28 linears of the base: in how many of them do equally spaced levels give the larger error? Held equal: the weights, 16 levels, blocks
of 64. If it were half of the linears, the quantiles would be useless.
"""

# %% figure
course.keep("four_levels", four_levels)
normal = np.vectorize(NormalDist().inv_cdf)
edge = ((1 - 1 / 32) + (1 - 1 / 30)) / 2  # half a step from 1, in 16 and in 15 steps: the mean
mine, steps = np.array(course.mine("four_levels")(normal, 7, 8, edge)), np.linspace(-1, 1, 16)
assert np.abs(mine - LEVELS).max() < 1e-6
print("your levels are NF4's:", *np.round(mine, 3))

errors = {name: [error(read_back(model.params[n], at), model.params[n]) for n in linears]
          for name, at in (("quantiles", mine), ("equal steps", steps))}  # fmt: skip
worse = int(np.sum(np.array(errors["equal steps"]) > errors["quantiles"]))
every = np.concatenate([model.params[n].reshape(-1, 64) for n in linears])
shares = {name: np.bincount(coded(every, at)[0].ravel(), minlength=16) / every.size
          for name, at in (("quantiles", mine), ("equal steps", steps))}  # fmt: skip
caption = (
    f"Left: the weights of all 28 linears over their block's absmax, and 16 levels of each kind. Right: the error of each linear; "
    f"above the line equal steps are worse, as in {worse} of 28."
)
with course.figure(caption, width=8.4, height=4.3, columns=2) as (left, right):
    left.hist((every / np.abs(every).max(1, keepdims=True)).ravel(), 101, density=True, color="#BFBFBF")
    for y, at, name, colour in ((-0.12, mine, "quantiles", "#0072B2"), (-0.3, steps, "equal steps", "#E69F00")):
        left.plot(at, np.full(16, y), "|", ms=11, mew=2, color=colour, label=name)
    left.set(xlabel="w / absmax", ylabel="density", ylim=(-0.42, 1.6), xticks=[-1, 0, 1], yticks=[0, 0.5, 1])
    left.legend(loc="upper right", fontsize=11)
    right.plot(*(100 * np.array(e) for e in errors.values()), "o", color="#222222")
    right.plot([9, 11], [9, 11], color="#BFBFBF", zorder=1)
    right.annotate("equal", (10.4, 10.4), (10.45, 10.2), color="#595959")
    right.set(xlabel="error with quantiles (%)", ylabel="error with equal steps (%)")
    right.set(xticks=[9, 10, 11], yticks=[9, 10, 11])
for name, share in shares.items():
    print(f"{name:11}: a level is used by {share.min():.1%} to {share.max():.1%} of the weights (fair: 6.2%)")

# %% [markdown]
r"""
This is better, but not ideal: the shares are more even, but far from equal. The levels are quantiles of $w$, but the quantised number is $w/\text{absmax}$,
whose distribution depends on the size of the block.

**Predict** three numbers of the table that follows: the error with one scale per row; the error without a zero level; and the error without a zero level if half of the weights
are exactly 0, as in a pruned model. "Outliers": each row has one weight that is 20 times its largest, and the error is that of the *other* weights.
"""

# %%
no_zero = normal(np.linspace(1 - edge, edge, 16)) / normal(edge)
rng = np.random.default_rng(0)

def errors_of(levels, by_rows=False):
    """Error in percent: as it is, half of it 0, with an outlier a row. Means over the linears."""
    found = []
    for W in (model.params[n] for n in linears):
        block = W.shape[1] if by_rows else 64
        half, out = W * (rng.random(W.shape) < 0.5), W.copy()
        out[:, 0] = 20 * np.abs(W).max(axis=1)
        found.append([error(read_back(W, levels, block), W), error(read_back(half, levels, block), half),
                      error(read_back(out, levels, block)[:, 1:], W[:, 1:])])  # fmt: skip
    return 100 * np.mean(found, axis=0)

print(f"{'error in %':28}{'as it is':>9}{'half is 0':>11}{'outliers':>10}")
table = {"NF4, blocks of 64": (mine,), "NF4, one scale a row": (mine, True),
         "no zero level, blocks of 64": (no_zero,), "equal steps, blocks of 64": (steps,)}  # fmt: skip
for name, how in table.items():
    table[name] = errors_of(*how)
    print(f"{name:28}" + "".join(f"{e:{n}.2f}" for e, n in zip(table[name], (9, 11, 10))))
far = [np.abs(model.params[n]).max() / model.params[n].std() for n in linears]
print(f"as it is, the largest weight of a linear is {min(far):.0f} to {max(far):.0f} standard deviations from 0")
one, rows, free, equal = table.values()  # what is said below:
assert (one < rows).all() and free[0] < one[0] and free[1] > one[1] and (equal > np.max([one, rows, free], axis=0)).all()

# %% [markdown]
r"""
- **One scale per row** costs little on these weights: they have no outliers, and a row is only two to five blocks. But one large weight in a row makes all
  other weights of the row less precise. With blocks this happens only to the 64 weights of one block.
- **No zero level** is *not worse* on these weights, but a little better: both sides of 0 have 8 levels. It is bad if
  weights are exactly 0, since none of them stays 0. It is bad with outliers, too: the other weights of the block lie near 0, and the nearest levels are
  too large for them. NF4 has a zero level because of pruned weights and padding.
- **Equal steps** are the worst in each column.

## The gradient passes through W, not into it

LoRA's forward uses $\hat W$ instead of $W$. It is frozen, so it gets no gradient; but $x$ comes from the layers below, which need their gradient, so
$dx = dy\,\hat W + dz\,A$ needs $\hat W$ again. Keeping $\hat W$ until then would again cost 32 bits per weight.

**Fill the blank**: a pair whose cache keeps the codes and scales, and which dequantises twice. `codes` and `absmax` have blocks as rows, so $\hat W$ is
`four_dequantise(…).reshape(len(B), -1)`.
"""

# %% exercise four_pair
def my_four_forward(x, codes, absmax, levels, s, A, B):
    """x (M, I), codes (n, b), absmax (n, 1), levels (16,), A (r, I), B (O, r) -> y (M, O), cache."""
    ### BEGIN SOLUTION
    W = four_dequantise(codes, absmax, levels).reshape(len(B), -1)
    return x @ W.T + s * (x @ A.T) @ B.T, (x, codes, absmax, levels, s, A, B)
    ### END SOLUTION

def my_four_backward(dy, cache):
    """-> dx, None, None, None, None, dA, dB: a gradient or None for each argument of forward."""
    ### BEGIN SOLUTION
    x, codes, absmax, levels, s, A, B = cache
    W = four_dequantise(codes, absmax, levels).reshape(len(B), -1)
    dz = s * dy @ B
    return dy @ W + dz @ A, None, None, None, None, dz.T @ x, s * dy.T @ (x @ A.T)
    ### END SOLUTION

# %% check four_pair
check("four_pair", (my_four_forward, my_four_backward))

# %% [markdown]
r"""
We compare your pair with LoRA's on the dense $\hat W$, and with finite differences, with $B \ne 0$. Then two other questions. What is the derivative of the loss with respect to a
*weight*, through quantise? The code does not change when the weight moves a little, so nothing changes: a step function is flat nearly everywhere. And does it train? A base in NF4 has a
`Packed` instead of each $W$; `opened` turns its parts into your arguments (their second quantisation comes next).
"""

# %%
course.keep("four_pair", my_four_forward, my_four_backward)
forward, backward = course.mine("four_pair")
M, O, I, r, s = 6, 16, 24, 3, 2.0
x, W, A, B, dy = (rng.normal(size=n) for n in [(M, I), (O, I), (r, I), (O, r), (M, O)])
codes, absmax = coded(W)
y, cache = forward(x, codes, absmax, LEVELS, s, A, B)
dx, *_, dA, dB = backward(dy, cache)
theirs, cache = lora.lora_forward(x, read_back(W), s, A, B)
assert np.allclose(y, theirs)
assert all(map(np.allclose, (dx, dA, dB), [lora.lora_backward(dy, cache)[i] for i in (0, 3, 4)]))

def named(x, codes, absmax, levels, s, A, B):  # whatever you call your arguments
    return forward(x, codes, absmax, levels, s, A, B)

verdict = check_pair(named, backward, x, codes, absmax, LEVELS, s, A, B, frozen=("codes", "absmax", "levels"))
print(verdict)
assert verdict

def loss(w):
    return (dy * forward(x, *coded(w), LEVELS, s, A, B)[0]).sum()

w, h = W.reshape(-1, 64), np.zeros((6, 64))
h[0, np.abs(w[0]).argmin()] = 1e-6  # the smallest of its block moves; absmax does not
print("the loss moves by", loss(w + h) - loss(w - h), "where a weight moves by 2e-6")

def opened(W):
    """The codes and the absmax of a Packed."""
    codes, c2, c1, mean = W.parts
    absmax = nf4.dynamic_levels()[c2] * np.repeat(c1, nf4.SECOND)[: len(c2)] + mean
    return np.stack([codes >> 4, codes & 15], axis=1).reshape(-1, 64), absmax[:, None]

def packed_forward(x, W, s, A, B):
    return forward(x, *opened(W), np.float32(LEVELS), s, A, B)

def packed_backward(dy, cache):
    dx, *_, dA, dB = backward(dy, cache)
    return dx, None, None, dA, dB

coarse = ml.load_model("base", weights="nf4")
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=17)
yours, theirs = (ml.train(ml.attach(coarse, m, rank=4), batches, steps=10, lr=2e-2).losses
                 for m in (course.technique("lora", (packed_forward, packed_backward)), "lora"))  # fmt: skip
assert np.allclose(yours, theirs, rtol=1e-3)
print("10 steps on the base in NF4 with your pair and with the package's: the same losses, to 1e-3")

# %% [markdown]
r"""
## Scales of scales

A float32 for 64 weights is half a bit per weight. **Double quantisation** quantises the scales too: each becomes a code of 8 bits, and 256 of
them share one float32. (One more float32 for each matrix, the mean, is too small to count.)

**Predict.** How many bits does a weight take then? Give three digits after the point. Then **fill the blank** with your `four_quantise` and `four_dequantise`: return the dequantised
scales; $n$ is a multiple of `size`. All scales are positive, and the levels lie on both sides of 0; what should you subtract first? Double quantisation is worth it if the error of $W$ hardly grows: by less than a hundredth of itself.
"""

# %% exercise four_bits
bits = None  # your number
### BEGIN SOLUTION
bits = 4 + 8 / 64 + 32 / (64 * 256)
### END SOLUTION

# %% check four_bits
check("four_bits", bits)

# %% exercise four_second
def four_second(absmax, levels, size):
    """absmax (n,), levels (L,), size: scales in a block -> absmax as it is read back, (n,)."""
    ### BEGIN SOLUTION
    mean = absmax.mean()
    blocks = (absmax - mean).reshape(-1, size)
    return four_dequantise(*four_quantise(blocks, levels), levels).reshape(-1) + mean
    ### END SOLUTION

# %% check four_second
check("four_second", four_second)

# %%
course.keep("four_second", four_second)
second = course.mine("four_second")
W = model.params[linears[0]]  # 256 blocks: one block of scales
codes, absmax = coded(W)
again = np.array(second(absmax.ravel(), np.float64(nf4.dynamic_levels()), 256))
W_hat = np.reshape(dequantise(codes, again[:, None], LEVELS), W.shape)
assert np.allclose(W_hat, np.asarray(coarse.params[linears[0]]), atol=1e-6)
print(f"scales move by {error(again, absmax.ravel()):.2%}; W by {error(read_back(W), W):.3%} with scales in float32, "
      f"by {error(W_hat, W):.3%} with scales in 8 bits")  # fmt: skip
assert error(W_hat, W) < 1.01 * error(read_back(W), W)
size = coarse.params[linears[0]].nbytes
assert size == W.size // 2 + 256 + 4 + 4  # codes, their scales in 8 bits, a float32 for these, the mean
print(f"{W.nbytes:,} bytes in float32, {size:,} in NF4: {W.nbytes / size:.2f} times smaller")

# %% [markdown]
r"""
**Do it.** How many times smaller is SmolLM2's shape as a whole? Predict first: of its 134.5 million numbers 28.3 million are the embedding. The shape alone
is enough: `ml.ledger(shape, 1, 256, method="lora", rank=8, weights=…, embeddings=…)`, with `"float32"`, `"nf4"` for the linears, and
`"float32"`, `"int8"` for the embedding. Its `"weights"` include A and B: subtract `"gradients"`, which are as large. Why is it not 7.75 times smaller?
"""

# %% open four_shape
shape = ml.ModelConfig(**SHAPES["smollm2-135m"].config_fields())
assert sum(map(np.prod, shape.shapes().values())) == 134_515_008
assert np.prod(shape.shapes()["model.embed_tokens.weight"]) == 28_311_552
### BEGIN SOLUTION
def bytes_of(weights, embeddings):
    held = ml.ledger(shape, 1, 256, method="lora", rank=8, weights=weights, embeddings=embeddings)
    return held["weights"] - held["gradients"]

for weights, embeddings in (("nf4", "float32"), ("nf4", "int8")):
    times = bytes_of("float32", "float32") / bytes_of(weights, embeddings)
    print(f"linears in {weights}, embedding in {embeddings}: {bytes_of(weights, embeddings):,} bytes, {times:.1f} times smaller")
print("the embedding is 28.3 of 134.5 million numbers, and shrinks by 1 or by 3.8 times, not by 7.75")
### END SOLUTION

# %% [markdown]
r"""
## From the weights to the score

$W$ moved by 9 %. Does a LoRA on it learn less? **Predict**: by how much do the logits move, and the score of a LoRA that is trained on this base?

Held equal: verbs, batches, the adapter's start, 150 steps, rank 4, rate 0.02, seed by seed. The measure: the difference of the two scores on 611 held-out verbs, over five
seeds. The rule, fixed before the run: two standard errors of a score on 611 words are 3 points. *As good, up to 3 points*: the 95 % interval lies above -3. *Worse*: it lies below 0
and reaches below -3. Else we *cannot tell*. The cell below runs ten trainings, in about half a minute.
"""

# %%
ids = batches[0][0]
gap = error(coarse.logits(ids), model.logits(ids))
print(f"logits move by {gap:.0%} of their size")
assert len(words.test) == 611 and len(linears) == 28
knows = ml.load_task("phonemes").test[:300]
print("the base's own task, words to sounds: {:.1%} exact, in NF4 {:.1%}".format(*(ml.exact_match(m, knows) for m in (model, coarse))))

scores, curves, trained = [], [], []
for seed in range(5):
    batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=17, seed=seed)
    for base in (model, coarse):
        tuned = ml.attach(base, "lora", rank=4, seed=seed)
        curves.append(ml.train(tuned, batches, steps=150, lr=2e-2, schedule="linear", warmup=15).losses)
        scores.append(ml.exact_match(tuned, words.test))
        trained.append(tuned)
both = 100 * np.reshape(scores, (5, 2))
for row in both:
    print("float32 {:.1f} %   NF4 {:.1f} %".format(*row))
e = estimate(both[:, 1] - both[:, 0])
low, high = e.mean - e.margin, e.mean + e.margin
verdict = "as good, up to 3 points" if low > -3 else "worse" if high < 0 else "cannot tell"
print(f"NF4 less float32: {e.mean:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}: {verdict}")

# %% [markdown]
r"""
## Numbers, memory, convergence

The three figures of each technique, compared with LoRA on the base in float32. **Predict**: which of the three differ?
"""

# %%
caption = (
    "LoRA on the base in float32, and on NF4 (QLoRA). Left: the same numbers train. Middle: a step of 32 rows of 25 tokens; the "
    "weights shrink, and nothing else. Right: means of ten parts of the training, with the range of five seeds."
)
course.beside({"LoRA": (trained[0], curves[::2]), "QLoRA": (trained[1], curves[1::2])}, 32, 25, caption)

# %% [markdown]
r"""
In this small model with short rows nearly all bytes are activations, so the step shrinks little. If the weights are the large part, the step
shrinks much: notebook 11, and the shape of SmolLM2 above.

**Open.** Predict, run, explain; there is no single answer.

1. *Better levels.* Move each level to the mean of the weights that have its code (each weighted by its absmax²), find the nearest levels again, and repeat: is there a better set of 16 for
   this base? By how much does the error fall? Why do people use NF4's levels, and not their own?
2. *Merge.* `ml.merge(tuned)` writes $\hat W + \Delta W$ in float32; `ml.merge(tuned, weights="nf4")` quantises the sum again. How large is the change
   that NF4 makes, compared with $\Delta W$ itself? What happens to the score, and why?
"""

# %% open four_own
### BEGIN SOLUTION
import warnings

own, absmax = mine.copy(), np.abs(every).max(1, keepdims=True)
z, weight = (every / absmax).ravel(), np.repeat(absmax.ravel() ** 2, 64)
for _ in range(30):
    codes = np.searchsorted((own[1:] + own[:-1]) / 2, z)
    own = np.bincount(codes, weight * z, 16) / np.bincount(codes, weight, 16)
found = [np.mean([error(read_back(model.params[n], at), model.params[n]) for n in linears]) for at in (mine, own)]
print("error with NF4's levels {:.2%}, with levels made for this base {:.2%}".format(*found))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # merge says its error: the same number, for all linears
    merged, again = ml.merge(tuned), ml.merge(tuned, weights="nf4")
n = next(iter(tuned.layers)) + ".weight"
sum_of, before = merged.params[n], np.asarray(coarse.params[n])
moved = np.linalg.norm(np.asarray(again.params[n]) - sum_of) / np.linalg.norm(sum_of - before)
print(f"ΔW is {error(sum_of, before):.0%} of W; NF4 moves the sum by {moved:.0%} of ΔW")
print("score attached {:.1%}, merged {:.1%}, merged into NF4 {:.1%}".format(*(ml.exact_match(m, words.test) for m in (tuned, merged, again))))
### END SOLUTION

# %% [markdown]
r"""
## Honest limits

- In training, four bits save bytes, but hardly any time. $\hat W$ is computed again for each product, and the product is in float32: a step takes about as long.
  Decoding one row is different: it mostly reads weights, and reading fewer bytes takes less time.
- This is one base of 0.7 million numbers, and one task. Its weights were trained in float32 and have no outliers, and outliers make large models hard to
  quantise. The paper measured models up to 65 billion numbers; our result says nothing about these. On SmolLM2 (135 million) NF4
  costs 0.19 nats per token of a plain text: [four_bits](../docs/claims.md#four-bits).
- 150 steps on short words need little of what the base knows. A task that needs more of it may lose more.
- Only the linears are in four bits. Embedding and norms are not: with a large vocabulary the embedding becomes the large part.
- down_proj has 336 columns, which is not a multiple of 64: its blocks continue from row to row, as in bitsandbytes. No fast kernel supports such a width, so it is unpacked first.
- A gradient that changes *codes* (training of quantised weights) needs another idea, an approximate derivative. QLoRA does not need it: only A and B train.
- The paper has a third part, *paged* optimizer states, which move between GPU and CPU memory. It changes no result, and is not here.
"""
