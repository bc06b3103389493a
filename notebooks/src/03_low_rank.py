# %% [markdown]
r"""
# 03 · Low rank: why ΔW compresses

When you are done you can

- say what a singular value decomposition is, and decompose the change of a weight into directions,
- compute the nearest matrix of a given rank, and its distance,
- say which rank a real fine-tuning needs, and how this differs from a random matrix.

*Needs*: a matrix product and an orthogonal basis; the SVD is explained here. *Time*: 20 minutes to read, 25 to do.
*Papers*: Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685), section 7; Eckart and
Young 1936. *The one idea*: here, the change by fine-tuning is mostly a sum of a few directions.
"""

# %%
import numpy as np

import minilora as ml
from minilora_course import check, course

# %% [markdown]
r"""
## The singular value decomposition, in ten lines

1. A matrix $D$ (O, I) maps a vector of $I$ numbers to one of $O$ numbers.
2. There are directions $v_1, v_2, \dots$ of the input, of length 1 and orthogonal to each other, whose images
   $Dv_k$ are orthogonal to each other, too. This is the theorem; everything else follows from it.
3. The length of $Dv_k$ is the **singular value** $\sigma_k \ge 0$. They are sorted: $\sigma_1 \ge \sigma_2 \ge \dots$
4. The direction of $Dv_k$ is $u_k$, so that $Dv_k = \sigma_k u_k$.
5. Any input is a sum of its parts along the $v_k$, so $D = \sum_k \sigma_k\,u_k v_k^\top = U\,\text{diag}(\sigma)\,V^\top$.
   The $u_k$ are the columns of $U$, and the $v_k$ the columns of $V$: the *rows* of $V^\top$.
6. Each term $\sigma_k u_k v_k^\top$ is a matrix of **rank** 1: it reads one direction and writes one direction.
7. The rank of $D$ is the number of $\sigma_k$ that are not 0.
8. $\|D\|^2$, the sum of the squares of all entries (Frobenius norm), is $\sum_k \sigma_k^2$, because the directions are orthogonal.
9. The sum of the first $r$ terms is the nearest matrix of rank $r$ (Eckart and Young). Its distance from $D$ is
   $\sqrt{\sigma_{r+1}^2 + \sigma_{r+2}^2 + \dots}$
10. These terms need $r(I+O)$ numbers: as a product $BA$, with $B = U_r\,\text{diag}(\sigma)$ (O, r), $A = V_r^\top$ (r, I).

**Predict.** Singular values 12, 4 and 3: how far, in the Frobenius norm, is the nearest matrix of rank 1?
"""

# %% exercise low_rank_error
distance = None  # your number
### BEGIN SOLUTION
distance = np.hypot(4, 3)
### END SOLUTION

# %% check low_rank_error
check("low_rank_error", distance)

# %% [markdown]
r"""
**Fill the blank.** `U, values, Vt = np.linalg.svd(D, full_matrices=False)` gives $U$, the $\sigma_k$ and $V^\top$, and
`D = (U * values) @ Vt`.
"""

# %% exercise low_rank_truncate
def truncate(D, r):
    """D (O, I) -> the nearest matrix of rank r (O, I)."""
    ### BEGIN SOLUTION
    U, values, Vt = np.linalg.svd(D, full_matrices=False)
    return (U[:, :r] * values[:r]) @ Vt[:r]
    ### END SOLUTION

# %% check low_rank_truncate
check("low_rank_truncate", truncate)

# %% [markdown]
r"""
**Break it**: keep the $r$ *smallest* values.
"""

# %% exercise low_rank_break
def broken(D, r):
    """The r smallest singular values."""
    ### BEGIN SOLUTION
    U, values, Vt = np.linalg.svd(D, full_matrices=False)
    return (U[:, -r:] * values[-r:]) @ Vt[-r:]
    ### END SOLUTION

# %% check low_rank_break
check("low_rank_break", broken)

# %% [markdown]
r"""
## A real ΔW

In full fine-tuning all weights train, and nothing forces a low rank.
"""

# %%
model, words = ml.load_model("base"), ml.load_task("past")
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=7)
tuned = ml.attach(model, "full")
history = ml.train(tuned, batches, steps=60, lr=1e-3, schedule="linear", warmup=6)
print(f"loss {history.losses[0]:.2f} -> {history.losses[-1]:.2f}")
changes = {name: tuned.delta(name) for name in model.config.linears()}
print(f"{len(changes)} linears changed; the first has shape {next(iter(changes.values())).shape}")

# %%
def spectrum(D):
    """(at most 64,): the singular values of a matrix, over the largest."""
    return (s := np.linalg.svd(D, compute_uv=False))[:64] / s[0]

rng = np.random.default_rng(0)
spectra = {  # name -> (28, 64): a row a linear
    "ΔW of full fine-tuning": [spectrum(D) for D in changes.values()],
    "W itself": [spectrum(model.params[f"{name}.weight"]) for name in changes],
    "random numbers": [spectrum(rng.normal(size=D.shape)) for D in changes.values()],
}
assert {len(s) for rows in spectra.values() for s in rows} == {64}

# %%
share = {name: (np.square(rows)[:, :4].sum(1) / np.square(rows).sum(1)) for name, rows in spectra.items()}
for name, n in share.items():
    print(f"{name:22} the first 4 have {np.median(n):.0%} of σ² (median), {n.min():.0%} to {n.max():.0%}")
assert all(share["ΔW of full fine-tuning"] > share["random numbers"])  # in each of the 28

# %% figure
def draw(rank=4):
    """Singular values, largest first, over the largest, and the cut at a rank."""
    with course.figure(caption, width=7, height=4.4) as axes:
        colours = [course.look("full")["color"], "#0072B2", "#E69F00"]
        for (name, rows), colour, style in zip(spectra.items(), colours, ("-", "--", ":")):
            k = range(1, 65)
            axes.plot(k, np.median(rows, axis=0), style, color=colour, label=name)
            axes.fill_between(k, np.min(rows, axis=0), np.max(rows, axis=0), color=colour, alpha=0.15, lw=0)
        axes.axvline(rank + 0.5, color="#D55E00", lw=2)
        axes.annotate(f"rank {rank}", (rank + 1, 0.97), color="#D55E00", va="bottom")
        axes.set(xlabel="k, in order of size", ylabel="σ of k over the largest", ylim=(0, 1.05))
        axes.legend(loc="upper right")

caption = (
    "Singular values of all 28 linears, each over its largest: the median, and in a lighter shade all from "
    "the least to the most. ΔW falls faster than random numbers of its shapes. The line is the cut at rank 4."
)
draw()

# %%
course.explore(draw, rank=[4, 1, 2, 8, 16, 32])

# %% [markdown]
r"""
## Does the cut matter?

Replace each linear's $\Delta W$ by its nearest matrix of rank $r$, leave everything else as full fine-tuning left it, and score
the held-out verbs. Your `truncate` computes that matrix.
"""

# %%
course.keep("low_rank_truncate", truncate)
cut = course.mine("low_rank_truncate")

def with_rank(r):
    """The model with every linear's change cut to rank r."""
    params = dict(tuned.weights)
    for name, D in changes.items():
        W = model.params[f"{name}.weight"]
        params[f"{name}.weight"] = (W + cut(D, r)).astype(np.float32)
    return ml.Llama(model.config, params, model.tokenizer)

ranks = [0, 1, 2, 4, 8, 16, 32, 64]
scores = [ml.exact_match(with_rank(r), words.test[:200]) for r in ranks]
print({r: f"{score:.2f}" for r, score in zip(ranks, scores)})

# %%
errors = np.sqrt(np.multiply(scores, np.subtract(1, scores)) / 200)
enough = next(r for r, score in zip(ranks, scores) if score >= scores[-1] - 2 * errors[-1])
kept = sum(enough * sum(D.shape) for D in changes.values()) / sum(D.size for D in changes.values())
print(f"from rank {enough} on: within two standard errors of rank 64, with {kept:.0%} of the linears' numbers")
caption = (
    "Held-out verbs answered exactly when each linear keeps r directions of its change; bars: the standard "
    f"error of a share of 200 verbs. From rank {enough} on the score lies within two of that of rank 64."
)
with course.figure(caption, width=7, height=3.8) as axes:
    axes.errorbar(range(len(ranks)), scores, errors, color=course.look("full")["color"], marker="s", capsize=4)
    axes.set_xticks(range(len(ranks)), ranks)
    axes.set(xlabel="rank r of every ΔW", ylabel="share answered exactly", ylim=(-0.03, 1))

# %% [markdown]
r"""
**Open.** Predict, run, explain; there is no single answer. Cut the weights themselves to rank $r$: $W + \Delta W$ instead of $\Delta W$. Which rank do
they need? What does that say about the claim that *networks* have low rank?
"""

# %% open low_rank_own
### BEGIN SOLUTION
for r in (8, 16, 32, 64):
    params = dict(tuned.weights)
    for name in changes:
        params[f"{name}.weight"] = cut(params[f"{name}.weight"], r).astype(np.float32)
    cut_whole = ml.Llama(model.config, params, model.tokenizer)
    print(f"rank {r:2}: ΔW cut {dict(zip(ranks, scores))[r]:.2f}, W cut {ml.exact_match(cut_whole, words.test[:200]):.2f}")
### END SOLUTION

# %% [markdown]
r"""
## The symbols of this course

One table for all notebooks. If a letter has two meanings, the last column says which notebook uses which.

| symbol | shape | what it is | notebook |
|---|---|---|---|
| $x,\ y$ | (M, I), (M, O) | input and output of a linear; $M$ rows, one per token | all |
| $W,\ W_0$ | (O, I) | its weight; the initial weight, if it moves | all |
| $I,\ O,\ r$ | | inputs, outputs, rank | all |
| $d$ before a name | as that name | a gradient: $dX = \partial\,\text{loss}/\partial X$ | all |
| $\Delta$ before a name | as that name | a change: $\Delta W$ by training, $\Delta A$ by one step. It is not a gradient | all |
| $A,\ B$ | (r, I), (O, r) | down-projection, which reads $x$; up-projection | 04 on |
| $s,\ \alpha$ | | the scale of $BA$, $s = \alpha/r$ | 04 on |
| $z$ | (M, r) | the input of $B$: $xA^\top$ in LoRA, $d\odot u$ in VeRA | 04 on |
| $b,\ d$ | (O,), (r,) | VeRA's two vectors. So $db$, $dd$ are their gradients | 06 |
| $u,\ v$ | (M, r), (M, O) | VeRA: $u = xA^\top$ before $d$ scales it, $v = zB^\top$ before $b$ scales it | 06 |
| $G$ | (O, r) | VeRA: $dy^\top u$ | 06 |
| $\lambda,\ K$ | | Delta-LoRA's update ratio; the steps before $W$ moves | 07 |
| $\eta$, ratio | | learning rate; LoRA+: $\eta_B/\eta_A$ | 08 |
| $a,\ b,\ f,\ e$ | (n,), numbers | the smallest LoRA: $A$ and $B$ of one output, the output, its error | 08 |
| $q,\ k,\ v$ | (T, D) | attention's queries, keys, values; $D$ is the size of a head | 02 |
| $g$ | (C,) | the gain of a norm; $C$ is the width | 02 |
| $T,\ V,\ F$ | | places (positions) of a text, tokens of the vocabulary, width of the feed-forward | 02, 02b |
| $\rho,\ \varepsilon$ | (M, 1), a number | RMSNorm: $1/\sqrt{\text{mean}(x^2) + \varepsilon}$ of each row | 02, 02b |
| $D = U\,\text{diag}(\sigma)\,V^\top$ | (O, I) | any matrix and its SVD; $u_k$, $v_k$ are columns of $U$ and of $V$ | 03 |

`np.linalg.svd` returns $V^\top$, not $V$: in code it is `Vt`, and its rows are the $v_k$.

## Honest limits

- The directions were found *after* training all numbers. LoRA has to find them while it trains.
- Embeddings and norms changed too, and their changes were not cut: rank 0 shows the effect of these alone.
- This is one task, which a few rules describe, one seed and one small model. Another task may need more directions.

Next: 04, LoRA, which trains the low-rank product from the start.
"""
