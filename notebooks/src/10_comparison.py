# %% [markdown]
r"""
# 10 · The fair comparison

When you are done you can

- say what has to be equal in a comparison of techniques, and what has to be chosen for each,
- read a score with its two errors, that of the seeds and that of the words,
- see bytes, seconds and loss side by side, and doubt a table that shows one of them.

*Needs*: notebook 00. *Time*: 15 minutes to read, 10 to do.
*Papers*: those of 04 to 08; on tuning each method, [arXiv:2602.04998](https://arxiv.org/abs/2602.04998).
*The one idea*: a technique at another's learning rate is no comparison.
"""

# %%
import numpy as np

from minilora.check import check, course
from minilora.lab import rates, report, table
from minilora.support import files, plots

# %% [markdown]
r"""
## What is equal

The record of `make compare` is committed: the same 300 verbs, the same batches, the same steps, the same
schedule for each technique, three seeds.
"""

# %%
results = report.read_results(files.data_folder() / "results" / "compare")
settings = results["settings"]
for name in ("train_size", "validation_size", "test_size", "steps", "batch_size", "seeds", "schedule"):
    print(f"{name:16} {settings[name]}")

# %% [markdown]
r"""
## What is chosen for each

The learning rate, from one grid for all, by the score on **validation** words: a third set, of which
nobody is trained and nothing reported. **Fill the blank.**
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
**Break it**: choose by the test words. It is the commonest way to a good table.
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
How much depends on the rate? The sweep's record, every technique on the grid:
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
    with course.figure(caption, width=12, height=4.8) as axes:
        for name, curve in curves.items():
            look, scores = course.look(name), dict(curve)
            label = f"{look['label']}: {scores[rate]:.2f}, at its own {max(scores.values()):.2f}"
            axes.plot(*zip(*curve), **look | {"label": label})
        axes.axvline(rate, color="#7F7F7F", ls=":", zorder=0)
        axes.set(xscale="log", xlabel="learning rate", ylabel="exact match, validation words")
        where = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "alignment": "left"}
        axes.legend(**where, title=f"all at {rate:g}", fontsize=12)

caption = (
    "Validation score against the learning rate. Each technique has its own best place: any one "
    "rate for all, as at the dotted line, favours somebody."
)
draw()

# %%
course.explore(draw, rate=[0.01, *(lr for lr in common if lr != 0.01)])

# %%
best = {name: max(score for _, score in curve) for name, curve in curves.items()}
for lr in common:
    at = {name: dict(curve)[lr] for name, curve in curves.items()}
    worst = min(at, key=lambda name: at[name] - best[name])
    print(f"all at {lr:<6g} {worst:10} loses most: {at[worst]:.2f} instead of {best[worst]:.2f}")

# %% [markdown]
r"""
## Two errors

Seeds differ, and words are a sample. **Predict.** 0.8 of 400 words are right: what is the standard error of
that share?
"""

# %% exercise fair_error
error = None  # your number
### BEGIN SOLUTION
error = np.sqrt(0.8 * 0.2 / 400)
### END SOLUTION

# %% check fair_error
check("fair_error", error)

# %%
for record in results["methods"].values():
    p, n = record["exact_match"], settings["test_size"]
    words = np.sqrt(p * (1 - p) / n)
    print(f"{record['title']:17} {p:.3f}  seeds ± {record['exact_match_sd']:.3f}  words ± {words:.3f}")

# %% [markdown]
r"""
## The table, and the figure

All of it at once: what is trained, held, kept, how long a step takes, and what was learned.
"""

# %%
print(table.table(results))

# %% figure
caption = (
    "Loss on held-out words against bytes of a step and against its time. Lower and further left is "
    "better; the cheapest are not the best, and the best is not cheap."
)
with course.figure(caption, width=11, height=4.6, columns=2, sharey=True) as panels:
    for name, record in results["methods"].items():
        look = course.look(name) | {"ls": "none", "ms": 12}
        held = sum(record["bytes"][part] for part in plots.PARTS) / 2**20
        panels[0].plot(held, record["loss"], **look)
        panels[1].plot(record["ms_per_step"], record["loss"], **look)
    panels[0].set(xlabel="MiB held in a step", ylabel="loss, held-out words")
    panels[1].set(xlabel="milliseconds a step")
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %%
first = {
    "loss": min(results["methods"], key=lambda n: results["methods"][n]["loss"]),
    "bytes": min(results["methods"], key=lambda n: sum(
        results["methods"][n]["bytes"][part] for part in plots.PARTS)),
    "numbers": min(results["methods"], key=lambda n: results["methods"][n]["trainable"]),
}
print(first)
assert len(set(first.values())) > 1

# %% [markdown]
r"""
## Honest limits

- One task, one model of under a million numbers, three seeds: it shows how techniques behave.
- A grid has steps: a best rate is best of those tried.
- Times are of one machine and one implementation. Bytes and counts are exact anywhere.
"""
