# %% [markdown]
r"""
# 10 · The fair comparison

When you are done you can

- say what has to be equal in a comparison of techniques, and what has to be chosen for each,
- read a score with its two errors, the error over seeds and the error over words,
- compare numbers, bytes by part, convergence, seconds and scores of all techniques.

*Needs*: notebook 00; a mean and a standard deviation. *Time*: 25 minutes to read, 60 to do.
*Papers*: those of 04 to 08; on tuning each method, [arXiv:2602.04998](https://arxiv.org/abs/2602.04998).
*The one idea*: a comparison is not fair if one technique runs at another's learning rate.
"""

# %%
import numpy as np

from minilora.lab import rates, report, table
from minilora.lab.statistics import t_quantile
from minilora.llama.shapes import SHAPES
from minilora.memory.count import count
from minilora.support import files, plots
from minilora_course import check, course

# %% [markdown]
r"""
## What is equal

The repository contains the record of `make compare`. All of these settings are the same for each technique, and with the same seed all of them
get the same batches:
"""

# %%
results = report.read_results(files.data_folder() / "results" / "compare")
settings = results["settings"]
for name in ("train_size", "validation_size", "test_size", "steps", "batch_size", "seeds", "schedule"):
    print(f"{name:16} {settings[name]}")

# %% [markdown]
r"""
## What is chosen for each

The learning rate is chosen by the score on **validation** words, a third set. No technique is trained on it, and no score on
it is reported. **Fill the blank.**
"""

# %% exercise fair_choice
def choose(rates, validation, test):
    """Scores of each rate on two sets of words -> the rate to use."""
    ### BEGIN SOLUTION
    return rates[np.argmax(validation)]
    ### END SOLUTION

# %% check fair_choice
check("fair_choice", choose)

# %% [markdown]
r"""
**Break it**: choose by the test words. This is the most common way to make results look good.
"""

# %% exercise fair_break
def broken(rates, validation, test):
    """The rate that looks best where it is reported."""
    ### BEGIN SOLUTION
    return rates[np.argmax(test)]
    ### END SOLUTION

# %% check fair_break
check("fair_break", broken)

# %% [markdown]
r"""
How much depends on the rate? The record of the sweep has every technique at each rate of a grid:
"""

# %%
cells = rates.read()["sweeps"]["past"]["cells"]
ranks = {name: record["rank"] for name, record in results["methods"].items()}
curves = {}
for name, rank in ranks.items():
    mine = [c for c in cells if c["method"] == name and c["rank"] == rank]
    curves[name] = sorted((c["lr"], c["validation_exact_match"]) for c in mine)
common = sorted(set.intersection(*({lr for lr, _ in c} for c in curves.values())))
print("rates that every technique was tried at:", common)

# %%
def draw(rate=0.01):
    """The sweep's curves; in the legend each technique at one rate for all, and at its own."""
    with course.figure(caption, width=7.5, height=5.6) as axes:
        for name, curve in curves.items():
            look, scores = course.look(name), dict(curve)
            label = f"{look['label']}: {scores[rate]:.2f}, at its own {max(scores.values()):.2f}"
            axes.plot(*zip(*curve), **look | {"label": label})
        axes.axvline(rate, color="#7F7F7F", ls=":", zorder=0)
        axes.set(xscale="log", xlabel="learning rate", ylabel="exact match,\nvalidation words")
        axes.figure.legend(loc="outside lower center", ncols=2, title=f"all at {rate:g}", fontsize=11)

caption = (
    "Validation score against the learning rate, mean over the seeds of the sweep. Each technique has its own "
    "best place. The dotted line is one rate for all; the legend says what each loses there."
)
draw()

# %%
course.explore(draw, rate=[0.01, *(lr for lr in common if lr != 0.01)])

# %% [markdown]
r"""
**Do it.** `curves[name]` has the pairs (rate, score) of a technique. For each rate in `common`: if all techniques use it, which one loses most
compared with its own best rate, and how much? Is there one good rate for all?
"""

# %% open fair_one_rate
### BEGIN SOLUTION
best = {name: max(score for _, score in curve) for name, curve in curves.items()}
for lr in common:
    at = {name: dict(curve)[lr] for name, curve in curves.items()}
    worst = min(at, key=lambda name: at[name] - best[name])
    print(f"all at {lr:<6g} {worst:10} loses most: {at[worst]:.2f} instead of {best[worst]:.2f}")
### END SOLUTION

# %% [markdown]
r"""
## Two errors

The score depends on the seed: on the initial $A$ and on the order of the batches. And the test words are a sample of all
words. The **standard error** of a mean of $n$ numbers is their standard deviation divided by $\sqrt n$. A share $p$ is the mean of
numbers that are 1 or 0; their standard deviation is $\sqrt{p(1-p)}$.
**Predict.** 0.8 of 400 words are right: what is the standard error of that share?
"""

# %% exercise fair_error
error = None  # your number
### BEGIN SOLUTION
error = np.sqrt(0.8 * 0.2 / 400)
### END SOLUTION

# %% check fair_error
check("fair_error", error)

# %%
methods, words_error = results["methods"], {}
for name, record in methods.items():
    p, n = record["exact_match"], settings["test_size"]
    words_error[name] = np.sqrt(p * (1 - p) / n)
    print(f"{record['title']:17} {p:.3f}  seeds ± {record['exact_match_sd']:.3f}  words ± {words_error[name]:.3f}")

# %% [markdown]
r"""
The two errors answer two questions. Would another seed give the same order? The first error answers this. Would other words give the same order? The
second error answers this. All techniques answer the *same* words, so their difference is more certain than the second error suggests.

A seed gives all techniques the same batches, too. So compare two techniques within each seed: $d_i = a_i - b_i$. **Fill the
blank**: the mean of the differences, and its standard error. For the variance of a sample of $n$ numbers, divide by $n - 1$.
"""

# %% exercise fair_difference
def difference(a, b):
    """a, b (n,): scores of two techniques on the same n seeds -> mean of a - b, its standard error."""
    ### BEGIN SOLUTION
    d = np.array(a) - np.array(b)
    return d.mean(), d.std(ddof=1) / np.sqrt(len(d))
    ### END SOLUTION

# %% check fair_difference
check("fair_difference", difference)

# %%
course.keep("fair_difference", difference)
between = course.mine("fair_difference")
factor = t_quantile(0.975, settings["seeds"] - 1)
print(f"where there is no difference, 95 of 100 samples stay within {factor:.1f} standard errors")
scores = {name: np.array(record["seeds"]) for name, record in methods.items()}
for name in (n for n in methods if n != "lora"):
    d, error_of_d = between(scores["lora"], scores[name])
    says = "not chance alone" if abs(d) > factor * error_of_d else "cannot tell"
    print(f"LoRA - {methods[name]['title']:17} {d:+.3f} ± {error_of_d:.3f}   {says}")

# %% [markdown]
r"""
With many seeds, an interval of two standard errors is enough. Three seeds estimate their own spread badly, so the factor is larger: it is
Student's $t$, here with 2 degrees of freedom. The batches, the words and the number of steps are equal in each difference; each technique has
its own rate. With more seeds "cannot tell" may become a difference: the factor falls towards 2, and the error falls as $1/\sqrt n$. These are five questions
at once. Where there is no difference, each of them still finds one in about one sample of 20.

## What is trained

This course compares techniques in three figures: numbers, memory, convergence. The first figure shows how many numbers train.
"""

# %%
qv = {"targets": settings["targets"]}
large = {name: count(SHAPES["llama-7b"], name, **({"rank": r["rank"], **qv} if r["rank"] else {}))["trainable"]
         for name, r in methods.items()}  # fmt: skip
caption = (
    f"How many numbers each technique trains: left this model of {results['base']['parameters']:,} numbers, right "
    f"the linears of Llama 7B. Adapters are on {' and '.join(settings['targets'])}. The axes are logarithmic."
)
with course.figure(caption, width=8, height=4.1, columns=2, sharey=True) as panels:
    for axes, numbers, limits in zip(panels, ({n: r["trainable"] for n, r in methods.items()}, large), ((5e2, 3e8), (5e4, 3e13))):
        for row, (name, n) in enumerate(numbers.items()):
            look = course.look(name)
            axes.plot(n, row, look["marker"], color=look["color"], ms=9)
            axes.annotate(f"{n:,}", (n, row), (10, 0), textcoords="offset points", va="center", fontsize=11)
        axes.set(xscale="log", xlim=limits, xlabel="numbers that train")
    panels[0].set(title="this model", ylim=(len(methods) - 0.5, -0.5))
    panels[1].set(title="Llama 7B")
    panels[0].set_xticks([1e3, 1e5, 1e7], ["1,000", "100,000", "10 M"])
    panels[1].set_xticks([1e6, 1e9], ["1 M", "1,000 M"])
    ranks_in_words = [r["title"] + (f", rank {r['rank']}" if r["rank"] else "") for r in methods.values()]
    panels[0].set_yticks(range(len(methods)), ranks_in_words)

# %% [markdown]
r"""
## Where the memory goes

The figure shows the bytes of one step on the largest batch, by part. *Activations* are the arrays kept for backward. The left panel shows
the sum; there the gradients and moments of an adapter are too small to see, so the right panel shows each part separately.
"""

# %%
caption = (
    "Memory of one training step by part. Left: stacked. Right: each part by itself, on a logarithmic scale. "
    "The techniques differ in gradients and optimizer by large factors, and in activations by small ones."
)
adapted = {what: value for what, value in results.items() if what != "scratch"}
course.show(plots.memory(adapted), caption)

# %% [markdown]
r"""
**Do it.** In which parts do the techniques differ, and in which hardly? Print the ratio of the largest to the smallest for each part in `plots.PARTS`.
"""

# %% open fair_parts
### BEGIN SOLUTION
parts = {part: [record["bytes"][part] for record in methods.values()] for part in plots.PARTS}
for part, sizes in parts.items():
    print(f"{part:12} the most is {max(sizes) / min(sizes):8.1f} times the least")
assert max(parts["activations"]) / min(parts["activations"]) < 2 < max(parts["gradients"]) / min(parts["gradients"])
### END SOLUTION

# %% [markdown]
r"""
## How fast each learns
"""

# %%
caption = (
    "Convergence: loss during training, mean over the seeds, each technique at its own rate, which falls to 0 at the last step. "
    "Left on validation words, right on the batches. Curves that cross say nothing of who is better at the end."
)
course.show(plots.convergence(adapted), caption)

# %% [markdown]
r"""
## The table, and the figure

The table has everything at once: the trained numbers, the bytes held and kept, the time of a step, and the score.
"""

# %%
print(table.table(results))

# %% figure
caption = (
    "Exact match on held-out words against bytes of a step and against its time; higher and further left is "
    "better. Thin bars with caps: standard deviation over the seeds, and quartiles of the time. Thick bars: the "
    "standard error of a share of so many words."
)
with course.figure(caption, width=8, height=5, columns=2, sharey=True) as panels:
    for name, record in methods.items():
        look, score = course.look(name) | {"ls": "none", "ms": 9}, record["exact_match"]
        held = sum(record["bytes"][part] for part in plots.PARTS) / 2**20
        times = np.abs(np.subtract(record["ms_per_step_quartiles"], record["ms_per_step"]))[:, None]
        for axes, place, spread in zip(panels, (held, record["ms_per_step"]), (None, times)):
            axes.errorbar(place, score, words_error[name], elinewidth=4, alpha=0.45, color=look["color"])
            axes.errorbar(place, score, record["exact_match_sd"], spread, capsize=4, elinewidth=1.5, **look)
    panels[0].set(xlabel="MiB held in a step", ylabel="exact match, held-out words")
    panels[1].set(xlabel="milliseconds a step")
    panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=11)

# %% [markdown]
r"""
**Do it.** `methods[name]` has `exact_match`, `bytes` (by part), `trainable` and `ms_per_step`. Which technique is the best in each? Is one technique
the best in all? (The bytes of a step are the sum over the parts in `plots.PARTS`.) And which scores are within two standard errors
of the best? If each technique had its own words, the error of a difference would be $\sqrt{e_1^2 + e_2^2}$, with the `words_error` of each; on
the same words it is usually smaller.
"""

# %% open fair_first
### BEGIN SOLUTION
def held(name):
    """Bytes of a step, all parts together."""
    return sum(methods[name]["bytes"][part] for part in plots.PARTS)

first = {
    "exact match": max(methods, key=lambda n: methods[n]["exact_match"]),
    "bytes": min(methods, key=held),
    "numbers": min(methods, key=lambda n: methods[n]["trainable"]),
    "time": min(methods, key=lambda n: methods[n]["ms_per_step"]),
}
print("first by", {what: methods[name]["title"] for what, name in first.items()})
assert len(set(first.values())) > 1  # no technique is first in all of them
top = first["exact match"]
near = [r["title"] for name, r in methods.items() if name != top and methods[top]["exact_match"] - r["exact_match"]
        < 2 * np.hypot(words_error[top], words_error[name])]  # fmt: skip
print("within two standard errors of its score:", ", ".join(near) or "none")
### END SOLUTION

# %% [markdown]
r"""
## Honest limits

- This is one task, one model of less than a million numbers and few seeds: it shows how the techniques behave here.
- Full fine-tuning and the adapters train different linears; `studies/cost.py` gives every technique several choices.
- A grid has steps: the best rate is only the best of those tried.
- Times are of one machine and one implementation. Bytes and counts are the same on every machine.
"""
