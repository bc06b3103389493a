# %% [markdown]
r"""
# 03 · Low rank: why ΔW compresses

When you are done you can

- take a change of a weight apart into its directions, and say how many of them carry it,
- give the nearest matrix of a rank, and how near it is,
- say what a real fine-tuning needs, and tell that from what a random matrix would show.

*Needs*: a matrix product; notebook 00 helps. *Time*: 15 minutes to read, 10 to do.
*Papers*: Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685), section 7; Eckart and
Young 1936. *The one idea*: what fine-tuning adds is a sum of few directions.
"""

# %%
import numpy as np

import minilora as ml
from minilora.check import check, course

# %% [markdown]
r"""
## Directions

Every matrix $D$ (O, I) is a sum of directions, $D = \sum_k \sigma_k\,u_k v_k^\top$: along $v_k$ in, along
$u_k$ out, by $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$. Cut the sum after $r$ terms and you have the nearest
matrix of rank $r$: $r(I+O)$ numbers, as a product $BA$.

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
**Fill the blank.** `np.linalg.svd(D, full_matrices=False)` gives U, the values and V, `D = (U * values) @ V`.
"""

# %% exercise low_rank_truncate
def truncate(D, r):
    """D (O, I) -> the nearest matrix of rank r (O, I)."""
    ### BEGIN SOLUTION
    U, values, V = np.linalg.svd(D, full_matrices=False)
    return (U[:, :r] * values[:r]) @ V[:r]
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
    U, values, V = np.linalg.svd(D, full_matrices=False)
    return (U[:, -r:] * values[-r:]) @ V[-r:]
    ### END SOLUTION

# %% check low_rank_break
check("low_rank_break", broken)

# %% [markdown]
r"""
## A real ΔW

Full fine-tuning, all weights free: nobody has told it to be of low rank.
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
layer = "model.layers.1.self_attn.v_proj"
D, W = changes[layer], model.params[f"{layer}.weight"].astype(float)
noise = np.random.default_rng(0).normal(size=D.shape)
spectra = {
    "ΔW of full fine-tuning": np.linalg.svd(D, compute_uv=False),
    "W itself": np.linalg.svd(W, compute_uv=False),
    "random numbers": np.linalg.svd(noise, compute_uv=False),
}
share = {name: (s[:4] ** 2).sum() / (s**2).sum() for name, s in spectra.items()}
print({name: f"{n:.0%} of σ² in the first 4" for name, n in share.items()})
assert share["ΔW of full fine-tuning"] > 2 * share["random numbers"]

# %% figure
def draw(rank=4):
    """Singular values, largest first, over the largest, and the cut at a rank."""
    with course.figure(caption, height=4.6) as axes:
        colours = [course.look("full")["color"], "#56B4E9", "#E69F00"]
        for (name, s), colour, style in zip(spectra.items(), colours, ("-", "--", ":")):
            axes.plot(range(1, len(s) + 1), s / s[0], style, color=colour, label=name)
        axes.axvline(rank + 0.5, color="#D55E00", lw=2)
        axes.annotate(f"rank {rank}", (rank + 1, 1.02), color="#D55E00", va="bottom")
        axes.set(xlabel="k, in order of size", ylabel="singular value,\nover the largest", ylim=(0, 1.12))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, fontsize=12)

caption = (
    "Singular values in layer 1's v_proj. ΔW falls far faster than random numbers of its shape, and "
    "than W itself: most of it lies in a few directions. The line is the cut at rank 4."
)
draw()

# %%
course.explore(draw, rank=[4, 1, 2, 8, 16, 32])

# %% [markdown]
r"""
## Does the cut matter?

Put each linear's $\Delta W$ back at rank $r$ only, all else as full fine-tuning left it, and ask for
the held-out verbs.
"""

# %%
def cut(D, r):
    """The nearest matrix of rank r."""
    U, values, V = np.linalg.svd(D, full_matrices=False)
    return (U[:, :r] * values[:r]) @ V[:r]

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
caption = (
    "Held-out verbs answered exactly when each linear keeps r directions of its change. All of what "
    "was learned is there long before the full rank."
)
with course.figure(caption, height=4) as axes:
    axes.plot(range(len(ranks)), scores, color=course.look("full")["color"], marker="s")
    axes.set_xticks(range(len(ranks)), ranks)
    axes.set(xlabel="rank r of every ΔW", ylabel="share answered exactly", ylim=(-0.03, 1))

# %%
enough = next(r for r, score in zip(ranks, scores) if score >= 0.95 * scores[-1])
kept = sum(enough * sum(D.shape) for D in changes.values()) / sum(D.size for D in changes.values())
print(f"rank {enough} has 95% of the score, with {kept:.0%} of the linears' numbers")

# %% [markdown]
r"""
## Honest limits

- The directions were found *after* training all numbers. LoRA has to find them while it trains.
- Embeddings and norms moved too, and were left alone here: rank 0 shows what they do by themselves.
- One task, which a few rules describe. A task that needs more directions has a longer tail.

Next: 04, LoRA, which trains the thin product from the start.
"""
